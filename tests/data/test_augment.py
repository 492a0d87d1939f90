"""Augmentation: exact cases, bounds of each change, and one draw per image."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.data.augment import Augmentation, augment
from gankd.seeds import rng

IMAGES = torch.rand((64, 3, 16, 16), generator=rng(0, "images"))
ALL: tuple[Augmentation, ...] = ("shift", "rotate", "scale", "flip", "colour")


def test_nothing_is_the_identity() -> None:
    assert torch.equal(augment(IMAGES, (), rng(0, "a")), IMAGES)
    stored = (IMAGES * 255).to(torch.uint8)
    changed = augment(stored, (), rng(0, "a"))
    assert changed.dtype == torch.float32
    assert torch.equal(changed, stored.float() / 255)


def test_flip_mirrors_every_second_image() -> None:
    changed = augment(IMAGES, ("flip",), rng(0, "a"))
    gap = (changed - IMAGES).abs().amax((1, 2, 3))
    mirrored = (changed - IMAGES.flip(3)).abs().amax((1, 2, 3))
    assert torch.minimum(gap, mirrored).max() < 1e-5  # each image is itself or its mirror image
    assert 20 <= int((mirrored < 1e-5).sum()) <= 44


def spot(size: int = 32) -> Tensor:
    """A smooth dark spot in the middle of a bright frame, (200, 1, size, size)."""
    axis = torch.arange(size) - (size - 1) / 2
    return 1 - torch.exp(-(axis[:, None] ** 2 + axis**2) / (2 * (size / 16) ** 2)).expand(200, 1, -1, -1)


def centre(images: Tensor) -> tuple[Tensor, Tensor]:
    """Centre of the dark spot (N,), in pixels right of and below the middle."""
    axis = torch.arange(images.shape[-1]) - (images.shape[-1] - 1) / 2
    mass = (1 - images[:, 0]).double()
    total = mass.sum((1, 2))
    return (mass * axis).sum((1, 2)) / total, (mass * axis[:, None]).sum((1, 2)) / total


def test_shift_reaches_an_eighth_of_the_side_and_no_further() -> None:
    for moved in centre(augment(spot(), ("shift",), rng(0, "a"))):
        assert moved.abs().max() <= 4.01
        assert moved.max() > 3.5
        assert moved.min() < -3.5
        assert moved.std().item() == pytest.approx(8 / math.sqrt(12), rel=0.15)  # uniform


def test_a_shift_keeps_the_picture_and_repeats_the_border() -> None:
    ramp = torch.linspace(0, 1, 32).expand(50, 1, 32, 32)
    changed = augment(ramp, ("shift",), rng(1, "a"))
    inner = changed[..., 5:27]
    torch.testing.assert_close(inner.diff(dim=3), torch.full_like(inner.diff(dim=3), 1 / 31), atol=1e-5, rtol=0)
    assert changed.min() >= 0
    assert changed[..., -1].max() <= 1


def test_rotation_and_scale_stay_in_their_bounds() -> None:
    axis = torch.arange(33) - 16.0
    bar = torch.exp(-((axis[:, None] / 2) ** 2) - (axis / 8) ** 2).expand(200, 1, -1, -1)

    def moments(images: Tensor) -> tuple[Tensor, Tensor]:
        mass = images[:, 0].double()
        total = mass.sum((1, 2))
        xx = (mass * axis**2).sum((1, 2)) / total
        yy = (mass * axis[:, None] ** 2).sum((1, 2)) / total
        xy = (mass * axis * axis[:, None]).sum((1, 2)) / total
        return 0.5 * torch.atan2(2 * xy, xx - yy).rad2deg(), total.sqrt()  # angle, size

    _, original = moments(bar)
    angle, size = moments(augment(bar, ("rotate",), rng(0, "a")))
    assert 13 < angle.max() <= 15.5
    assert -15.5 <= angle.min() < -13
    torch.testing.assert_close(size, original, rtol=0.02, atol=0)
    angle, size = moments(augment(bar, ("scale",), rng(0, "a")))
    assert angle.abs().max() < 1e-3
    ratio = size / original
    assert 0.86 <= ratio.min() < 0.89
    assert 1.12 < ratio.max() <= 1.16


def test_colour_by_hand() -> None:
    # an image of two levels shows both draws: contrast from their distance, brightness from their mean
    images = torch.full((300, 1, 4, 4), 0.4)
    images[..., 2:] = 0.6
    changed = augment(images, ("colour",), rng(0, "a"))
    low, high = changed[..., 0, 0], changed[..., 0, 3]
    contrast, brightness = (high - low) / 0.2, (high + low) / 2 - 0.5
    assert 0.75 <= contrast.min() < 0.77
    assert 1.23 < contrast.max() <= 1.2501
    assert -0.1501 <= brightness.min() < -0.14
    assert 0.14 < brightness.max() <= 0.1501
    corner = torch.stack([contrast[:, 0], brightness[:, 0]])
    assert torch.corrcoef(corner)[0, 1].abs() < 0.2


@pytest.mark.parametrize("kinds", [ALL, *((kind,) for kind in ALL)])
def test_all_changes_keep_the_range_and_depend_on_the_generator_alone(kinds: tuple[Augmentation, ...]) -> None:
    images = (IMAGES > 0.5).float()  # all at the ends of the range
    changed = augment(images, kinds, rng(3, "a"))
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1 + 1e-6
    assert torch.equal(changed, augment(images.clone(), kinds, rng(3, "a")))
    assert not torch.equal(changed, augment(images, kinds, rng(4, "a")))
    assert torch.equal(images, (IMAGES > 0.5).float())  # not in place


@pytest.mark.parametrize("kind", ALL)
def test_each_image_has_a_draw_of_its_own(kind: Augmentation) -> None:
    changed = augment(IMAGES[:1].expand(16, -1, -1, -1), (kind,), rng(0, "a"))
    distinct = {tuple((image * 1000).round().flatten().tolist()) for image in changed}
    assert len(distinct) == (2 if kind == "flip" else 16)


def test_rotation_and_scale_act_together_as_one_map() -> None:
    # a smooth image, so that resampling twice and once agree: the circle of a spot stays a circle
    image = F.avg_pool2d(spot(64), 2)
    x, y = centre(augment(image, ("rotate", "scale", "flip"), rng(0, "a")))
    assert x.abs().max() < 0.05  # none of them moves the centre
    assert y.abs().max() < 0.05
