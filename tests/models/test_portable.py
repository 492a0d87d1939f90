"""A network as one graph: pixels of any size in, what people read out."""

import numpy as np
import pytest
import torch
from PIL import Image

from gankd.data.files import pixels_of
from gankd.models import build_net
from gankd.models.contract import ImageModel
from gankd.models.portable import Portable, resampling_weights
from gankd.sizes import sides
from gankd.tasks import Classification, Regression, Task

CLASSES = Classification(num_classes=5)


def portable(side: int | str = 32, channels: int = 3, task: Task = CLASSES) -> Portable:
    net = build_net("cnn4", in_channels=channels, image_size=side, num_outputs=task.head_size, seed=0)
    model = ImageModel(net, size=side, mean=torch.full((channels,), 0.4), std=torch.full((channels,), 0.3))
    return Portable(model.eval(), task).eval()


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) with edges, slopes and noise, so that levels cover and touch the whole range."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)).astype(int)
    return (smooth + random.integers(-40, 40, smooth.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width"), [(32, 32), (101, 77), (20, 45), (33, 64), (7, 9), (64, 32), (1, 1), (640, 483), (31, 2000)]
)
@pytest.mark.parametrize("side", [8, 32])
def test_the_graph_resamples_like_the_reader(height: int, width: int, side: int) -> None:
    pixels = photograph(height, width)
    expected = pixels_of(Image.fromarray(pixels), side, grey=False)
    found = portable(side).resampled(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])[0].numpy()
    difference = np.abs(found - expected)
    assert difference.max() <= 1  # sums in another order may round a level the other way
    assert (difference > 0).mean() <= 0.002


@pytest.mark.parametrize(("height", "width"), [(48, 64), (101, 77), (20, 45), (7, 9), (1, 1), (31, 500)])
@pytest.mark.parametrize("size", ["24x32", "40x16"])
def test_images_that_are_not_square(height: int, width: int, size: str) -> None:
    pixels = photograph(height, width)
    expected = pixels_of(Image.fromarray(pixels), size, grey=False)
    found = portable(size).resampled(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])[0].numpy()
    assert found.shape == (3, *sides(size))
    assert np.abs(found - expected).max() <= 1


def test_weights_by_hand() -> None:
    one, four = torch.zeros(1), torch.full((1,), 4.0)
    torch.testing.assert_close(resampling_weights(4, one, four, 4), torch.eye(4))
    halves = resampling_weights(6, one + 1, four, 2)  # pixels 1 to 4 to two
    torch.testing.assert_close(halves.sum(1), torch.ones(2))
    assert (halves[:, [0, 5]] == 0).all()
    # Distances of the pixels from the first new one's centre, halved: 1/4, 1/4, 3/4, 5/4 -> the cubic kernel.
    kernel = torch.tensor([0.8671875, 0.8671875, 0.2265625, -0.0703125])
    torch.testing.assert_close(halves[0, 1:5], kernel / kernel.sum())
    torch.testing.assert_close(halves, halves.flip(0, 1))


def test_outputs_are_what_people_read() -> None:
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    graph = portable()
    torch.testing.assert_close(graph(images), graph.model(images).softmax(1))
    torch.testing.assert_close(graph(images).sum(1), torch.ones(3))
    values = portable(task=Regression(low=0, high=9))
    values.model.offset, values.model.factor = -5.0, 10.0
    torch.testing.assert_close(values(images), values.model(images))
    assert values(images).shape == (3,)
