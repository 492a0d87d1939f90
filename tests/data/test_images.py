"""Labelled images: what is refused, what a fingerprint depends on, and that images keep their labels."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gankd.data.images import LabelledImages, Splits, concat, join
from gankd.errors import DataError
from gankd.seeds import rng
from gankd.tasks import Classification, Regression, Task

CLASSES = Classification(num_classes=4)
AGES = Regression(low=0.0, high=100.0, unit="years")


def numbered(labels: Tensor, task: Task = CLASSES) -> LabelledImages:
    """Image i is filled with its own label."""
    images = labels.to(torch.uint8)[:, None, None, None].expand(-1, 3, 4, 5).contiguous()
    return LabelledImages(images, labels, task)


def test_images_keep_their_labels() -> None:
    data = numbered(torch.tensor([3, 0, 2, 1, 3]))
    assert len(data) == 5
    assert data.shape == (3, 4, 5)
    parts = [
        data.subset(torch.tensor([4, 0, 2])),
        data.subset(torch.tensor([True, False, False, True, True])),
        concat(data, data.subset(torch.tensor([1]))),
        data.to("cpu"),
    ]
    for part in parts:
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels)
    assert parts[0].labels.tolist() == [3, 3, 2]
    assert parts[2].labels.tolist() == [3, 0, 2, 1, 3, 0]


def test_pixel_statistics_are_those_of_the_pixels() -> None:
    pixels = torch.randint(0, 256, (300, 2, 4, 5), generator=rng(0, "pixels")).to(torch.uint8)
    pixels[:, 1] //= 3  # channels differ
    data = LabelledImages(pixels, torch.zeros(300, dtype=torch.int64), CLASSES)
    expected = pixels.double() / 255
    for found, value in zip(
        data.pixel_statistics, (expected.mean((0, 2, 3)), expected.std((0, 2, 3), correction=0)), strict=True
    ):
        torch.testing.assert_close(found, value, rtol=1e-7, atol=0)
    half = data.subset(torch.arange(150))
    assert not torch.equal(half.pixel_statistics[0], data.pixel_statistics[0])  # a part has its own


IMAGES, LABELS = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("images", "labels", "task", "message"),
    [
        (IMAGES.float(), LABELS, CLASSES, r"images must be uint8 \(N, C, H, W\), got torch.float32 \(3, 1, 4, 4\)"),
        (IMAGES[0], LABELS, CLASSES, r"images must be uint8 .* \(1, 4, 4\)"),
        (IMAGES[:0], LABELS[:0], CLASSES, "at least one image"),
        (IMAGES, LABELS[:2], CLASSES, r"labels must be torch.int64 \(3,\), got torch.int64 \(2,\)"),
        (IMAGES, LABELS.float(), CLASSES, r"labels must be torch.int64 \(3,\), got torch.float32"),
        (IMAGES, LABELS, AGES, r"labels must be torch.float32 \(3,\), got torch.int64"),
        (IMAGES, LABELS[:, None], CLASSES, r"labels must be torch.int64 \(3,\), got torch.int64 \(3, 1\)"),
        (IMAGES, LABELS + 2, CLASSES, "class label 4 is outside"),
        (IMAGES, LABELS.float() - 5, AGES, "label -5 is outside"),
    ],
)
def test_what_cannot_be_used_is_refused(images: Tensor, labels: Tensor, task: Task, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        LabelledImages(images, labels, task)
    assert "\n" not in str(error.value)


def test_the_fingerprint_is_that_of_pixels_labels_and_task() -> None:
    images = torch.randint(0, 256, (6, 3, 4, 4), generator=rng(0, "x")).to(torch.uint8)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    data = LabelledImages(images, labels, CLASSES)
    same = [
        LabelledImages(images.clone(), labels.clone(), Classification(num_classes=4)),
        LabelledImages(images.contiguous(memory_format=torch.channels_last), labels, CLASSES),
        concat(data.subset(torch.tensor([0, 1])), data.subset(torch.tensor([2, 3, 4, 5]))),
    ]
    assert {item.fingerprint() for item in same} == {data.fingerprint()}

    pixel, label = images.clone(), labels.clone()
    pixel[5, 2, 3, 3] ^= 1
    label[5] = 2
    other = [
        replace(data, images=pixel),
        replace(data, labels=label),
        replace(data, task=Classification(num_classes=5)),
        replace(data, images=images.view(6, 3, 2, 8)),
        data.subset(torch.tensor([1, 0, 2, 3, 4, 5])),
        data.subset(torch.arange(5)),
    ]
    assert len({item.fingerprint() for item in [data, *other]}) == len(other) + 1


def test_splits() -> None:
    train, val, test = (numbered(torch.tensor(labels)) for labels in ([0, 1], [2], [3]))
    splits = Splits(train, val, test, "toy")
    assert splits.task is train.task
    assert splits.to("cpu").fingerprint() == splits.fingerprint()
    assert replace(splits, name="other", card={"origin": "x"}).fingerprint() == splits.fingerprint()
    swapped = Splits(train, test, val, "toy")
    assert swapped.fingerprint() != splits.fingerprint()


def test_neighbours_in_one_block_are_joined_without_a_copy() -> None:
    whole = numbered(torch.arange(12) % 4)
    first, second, third = (
        LabelledImages(images, labels, CLASSES)
        for images, labels in zip(whole.images.split(4), whole.labels.split(4), strict=True)
    )
    both = join(first, second)
    assert torch.equal(both.images, whole.images[:8])
    assert both.images.data_ptr() == whole.images.data_ptr()
    for left, right in ((first, third), (second, first), (first, numbered(second.labels))):  # others are copied
        both = join(left, right)
        assert torch.equal(both.images, torch.cat([left.images, right.images]))
        assert torch.equal(both.labels, torch.cat([left.labels, right.labels]))
