"""Pairs of image and label from Python objects, whatever type they have."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gankd.data.dataset import splits_from_dataset
from gankd.data.images import Splits
from gankd.errors import DataError
from gankd.tasks import Classification, Regression

COUNT = 40
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(COUNT) % 4


def whole(data: Splits) -> tuple[torch.Tensor, list[Any]]:
    images = torch.cat([part.images for part in (data.train, data.val, data.test)])
    labels = torch.cat([part.labels for part in (data.train, data.val, data.test)])
    place = {row[0, 0].tobytes() + row[0, 1].tobytes(): number for number, row in enumerate(PIXELS)}
    order = torch.tensor(
        [place[image[:, 0, 0].numpy().tobytes() + image[:, 0, 1].numpy().tobytes()] for image in images]
    ).argsort()
    return images[order], labels[order].tolist()


def refused(pairs: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        splits_from_dataset(pairs, **options)
    line = str(caught.value)
    assert line.isprintable()
    return line


FORMS = {
    "PIL": Image.fromarray,
    "array": lambda image: image,
    "array, channels first": lambda image: image.transpose(2, 0, 1),
    "tensor": lambda image: torch.from_numpy(image.transpose(2, 0, 1).copy()),
    "tensor, channels last": torch.from_numpy,
    "floats": lambda image: torch.from_numpy(image.transpose(2, 0, 1) / 255).float(),
    "halves": lambda image: (image / 255).astype(np.float16),
}


@pytest.mark.parametrize("form", FORMS)
def test_pixels_come_back_exactly(form: str) -> None:
    data = splits_from_dataset([(FORMS[form](image), label) for image, label in zip(PIXELS, LABELS, strict=True)])
    images, labels = whole(data)
    assert torch.equal(images, torch.from_numpy(PIXELS.transpose(0, 3, 1, 2)))
    assert labels == LABELS.tolist()
    assert isinstance(data.task, Classification)


@pytest.mark.parametrize("label", [int, np.uint8, torch.tensor, lambda one: np.array([one]), lambda one: f"kind {one}"])
def test_labels_of_classes(label: Any) -> None:
    data = splits_from_dataset([(image, label(one)) for image, one in zip(PIXELS, LABELS.tolist(), strict=True)])
    assert whole(data)[1] == LABELS.tolist()


@pytest.mark.parametrize("label", [float, np.float32, torch.tensor])
def test_labels_that_are_values(label: Any) -> None:
    pairs = [(image, label(row / 7)) for row, image in enumerate(PIXELS)]
    data = splits_from_dataset(pairs, high=10)
    assert data.task == Regression(low=0, high=10)
    assert whole(data)[1] == pytest.approx([row / 7 for row in range(COUNT)])


class Endless(torch.utils.data.Dataset[Any]):
    """Does not raise IndexError, as few of the world's data sets do."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return PIXELS[row % COUNT], int(LABELS[row % COUNT])


def test_a_dataset_and_a_generator() -> None:
    def generate() -> Iterator[tuple[Any, int]]:
        for row in range(COUNT):
            yield Endless()[row]

    once = splits_from_dataset(generate(), class_names=tuple("abcd"), name="pets")
    again = splits_from_dataset(Endless(), class_names=tuple("abcd"))
    assert once.fingerprint() == again.fingerprint()
    assert once.task == Classification(num_classes=4, class_names=tuple("abcd"))
    assert (once.name, once.card["origin"]) == ("pets", "data set pets: 40 images, 8x8 pixels, used as RGB 8x8")


def test_given_splits_stay() -> None:
    pairs = list(zip(PIXELS, LABELS.tolist(), strict=True))
    data = splits_from_dataset(pairs[:28], test=pairs[28:])
    assert torch.equal(data.test.images, torch.from_numpy(PIXELS[28:].transpose(0, 3, 1, 2)))
    assert len(data.train) + len(data.val) == 28
    data = splits_from_dataset(pairs[:28], pairs[28:32], pairs[32:])
    assert list(map(len, (data.train, data.val, data.test))) == [28, 4, 8]


def test_size_and_colour() -> None:
    mixed = [
        (Image.new("RGB", (20, 12), (row, 0, 0)) if row % 2 else np.full((16, 16), row, np.uint8), LABELS[row])
        for row in range(COUNT)
    ]
    data = splits_from_dataset(mixed, size=8, channels="rgb")
    assert data.train.shape == (3, 8, 8)
    grey = splits_from_dataset([(image[..., 0], label) for image, label in zip(PIXELS, LABELS, strict=True)])
    assert grey.train.shape == (1, 8, 8)
    assert "expected images of one size and colour, got 16x16 grey and 20x12 RGB" in refused(mixed)


def test_where_both_ends_may_be_channels() -> None:
    first, last = np.zeros((3, 16, 3), np.uint8), np.zeros((3, 16, 3), np.uint8)
    first[0], last[..., 0] = 255, 255
    pairs = [(torch.from_numpy(first) if row % 2 else last, LABELS[row]) for row in range(COUNT)]
    images = splits_from_dataset(pairs, size=8).train.images
    assert images[:, 0].min() == 255
    assert images[:, 1:].max() == 0


def test_what_is_refused() -> None:
    good = list(zip(PIXELS, LABELS.tolist(), strict=True))

    def third(image: Any, label: Any = 0) -> str:
        return refused([*good[:2], (image, label), *good[3:]])

    assert third(PIXELS[0] / 255 * 2 - 1).startswith(
        "dataset: train[2]: expected uint8, or floats in [0, 1], got float64 -"
    )
    assert "got int64 0 to 0; leave out" in third(np.zeros((8, 8), np.int64))
    assert "got float32 nan to nan" in third(torch.full((3, 8, 8), torch.nan))
    assert "give the data set, not a DataLoader" in third(torch.zeros(4, 3, 8, 8))
    assert "got (5, 8, 8); reshape it" in third(torch.zeros(5, 8, 8))
    assert "expected a PIL image, a tensor or an array (H, W, C), got str" in third("a.png")
    assert "train[2]: expected a label of 1 value as before, got 4" in third(PIXELS[0], torch.eye(4)[0])
    assert "finite number or text as label, got nan" in third(PIXELS[0], float("nan"))
    assert "finite number or text as label, got None" in third(PIXELS[0], None)
    assert "expected numbers or text as labels, got both" in third(PIXELS[0], "cat")
    assert "expected a pair (image, label), got dict" in refused([{"image": PIXELS[0], "label": 0}])
    assert "train: expected images, got none" in refused(iter([]))
    assert "test: expected images, got none" in refused(good, test=[])
    assert "expected an integer from 0 to 2, as class_names has 3 names" in refused(good, class_names=tuple("abc"))
