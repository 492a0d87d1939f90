"""The digits: all of them, the right way up, split without overlap and alike in every class."""

import torch

from gankd.data.digits import load_digits, read_digits, split_digits


def test_all_digits_with_their_grey_levels() -> None:
    images, labels = read_digits()
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    levels = {round(level * 255 / 16) for level in range(17)}
    assert set(images.unique().tolist()) == levels
    assert labels[:10].tolist() == list(range(10))
    # the first digit is a 0: dark in the middle, bright around it
    assert images[0, 0, 3:5, 3:5].float().mean() < 40
    assert images[0, 0, 3:5, 2].float().mean() > 100


def test_the_split_takes_each_digit_once_and_every_class_alike() -> None:
    _, labels = read_digits()
    parts = split_digits(labels)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(1797))
    total = labels.bincount(minlength=10)
    for part, share in zip(parts, (0.5, 0.2, 0.3), strict=True):
        assert (labels[part].bincount(minlength=10) - share * total).abs().max() <= 1
    assert not torch.equal(parts[0], torch.arange(len(parts[0])))
    assert all(torch.equal(a, b) for a, b in zip(parts, split_digits(labels), strict=True))


def test_the_split_stays_as_it_was_in_earlier_versions() -> None:
    # published numbers rest on it
    _, labels = read_digits()
    first = [part[:8].tolist() for part in split_digits(labels)]
    assert first == [
        [0, 1, 2, 6, 7, 13, 14, 16],
        [4, 9, 10, 15, 18, 20, 25, 31],
        [3, 5, 8, 11, 12, 21, 23, 30],
    ]


def test_load_digits_holds_images_and_classes_together() -> None:
    splits = load_digits()
    images, labels = read_digits()
    index = torch.cat(split_digits(labels))
    parts = (splits.train, splits.val, splits.test)
    assert splits.name == "digits"
    assert splits.task.num_groups == 10
    assert [len(part) for part in parts] == [898, 360, 539]
    assert torch.equal(torch.cat([part.images for part in parts]), images[index])
    assert torch.equal(torch.cat([part.labels for part in parts]), labels[index])
