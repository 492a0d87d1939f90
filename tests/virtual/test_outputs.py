"""A teacher's outputs as the virtual teacher learns them: views, the read-out of values, label histograms."""

import torch
from torch import Tensor

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.models import build_net
from gankd.models.contract import ImageModel
from gankd.seeds import rng
from gankd.tasks import Classification, Regression
from gankd.virtual.outputs import OutputReader, label_histogram, store_outputs

CLASSES, VALUES = Classification(num_classes=3), Regression(low=-10.0, high=30.0)
PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=False)


def test_outputs_of_classes_are_logits_of_every_view() -> None:
    images = torch.randint(256, (48, 1, 8, 8), generator=rng(0, "toy"), dtype=torch.uint8)
    data = LabelledImages(images, torch.arange(48) % 3, CLASSES)
    net = build_net("cnn8", in_channels=1, image_size=8, num_outputs=3, seed=1)
    teacher = ImageModel.for_data(net, data).eval()
    reader = OutputReader(teacher, CLASSES, 10, PLAIN)
    plain = store_outputs(reader, data, (), views=3, seed=0)
    assert torch.equal(plain.labels, data.labels)  # without augmentation one view is all there is
    torch.testing.assert_close(plain.logits, teacher(data.images).detach())
    views = store_outputs(reader, data, ("shift",), views=3, seed=0)
    assert torch.equal(views.labels, data.labels.repeat(3))
    first, second, _ = views.logits.chunk(3)
    assert not torch.equal(first, second)


def test_the_distribution_of_a_regressor_is_read_off_its_values() -> None:
    """Labels with noise of one spread below the middle and another above: the read-out finds both."""
    generator = torch.Generator().manual_seed(0)
    place = torch.rand(3000, generator=generator)
    spread = torch.where(place < 0.5, 0.02, 0.1)
    labels01 = (0.2 + 0.6 * place + spread * torch.randn(3000, generator=generator)).clamp(0, 1)
    images = (place * 255)[:, None, None, None].expand(-1, 1, 8, 8).to(torch.uint8)
    data = LabelledImages(images, VALUES.denormalise(labels01), VALUES)

    class Level(torch.nn.Module):
        """Network that gives the place of an image in the range, without the noise."""

        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(1, 1, bias=False)
            torch.nn.init.ones_(self.head.weight)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(x.mean((1, 2, 3))[:, None])
            return found

    teacher = ImageModel(
        Level(), size=8, mean=torch.zeros(1), std=torch.ones(1), offset=-10 + 40 * 0.2, factor=40 * 0.6
    )
    teacher.eval()
    reader = OutputReader(teacher, VALUES, 50, PLAIN)
    reader.fit(data, data, (), 1, seed=0)
    probs = reader(data.images).softmax(1)
    centres = (torch.arange(50) + 0.5) / 50
    mean = probs @ centres
    sd = (probs @ centres.square() - mean.square()).sqrt()
    inside = (place > 0.1) & (place < 0.9)
    assert (mean - (0.2 + 0.6 * place))[inside].abs().mean() < 0.02
    narrow, wide = sd[inside & (place < 0.45)].mean(), sd[inside & (place > 0.55)].mean()
    assert 0.02 < narrow < 0.06 < 0.085 < wide < 0.13  # smoothing by a bin of 0.02 is part of both


def test_label_histograms_have_the_label_as_mean() -> None:
    labels = torch.tensor([0.3, 0.5, 0.71])
    histogram = label_histogram(labels, 50)
    torch.testing.assert_close(histogram.sum(1), torch.ones(3))
    torch.testing.assert_close(histogram @ ((torch.arange(50) + 0.5) / 50), labels, atol=1e-4, rtol=0)
