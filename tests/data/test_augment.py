"""Augmentation: exact cases, bounds of each change, and one draw per image."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.config import override
from gankd.data.augment import DRAWS, Augmentation, Views, apply_views, augment, draw_views, known_as
from gankd.data.trivial_augment import CHANGES, change_one_thing
from gankd.data.windows import padding
from gankd.errors import ConfigError
from gankd.seeds import rng
from gankd.training.supervised import SupervisedConfig
from gankd.training.teacher_outputs import _hash

IMAGES = torch.rand((64, 3, 16, 16), generator=rng(0, "images"))
ALL: tuple[Augmentation, ...] = ("shift", "rotate", "scale", "flip", "colour")
NEW: tuple[Augmentation, ...] = ("crop", "trivial", "erase")
EVERY = (*ALL, *NEW)


def test_a_turn_of_wide_images_is_a_turn() -> None:
    """A bar across stays as long and as thick when it is turned, which it would not in the grid's own units."""
    images = torch.zeros(2, 1, 48, 96)
    images[:, :, 22:26, 34:62] = 1  # 4 x 28 pixels in the middle
    numbers = {"angle": torch.tensor([math.pi / 12, -math.pi / 12]), "scale": torch.ones(2), "mirror": torch.ones(2)}
    turned = apply_views(images, Views(numbers))
    y, x = torch.meshgrid(torch.arange(48.0) - 23.5, torch.arange(96.0) - 47.5, indexing="ij")
    for image, sign in zip(turned[:, 0], (1, -1), strict=True):
        mass = image / image.sum()
        moments = torch.tensor(
            [[(mass * x * x).sum(), (mass * x * y).sum()], [(mass * x * y).sum(), (mass * y * y).sum()]]
        )
        widths, axes = torch.linalg.eigh(moments)
        assert widths.sqrt().tolist() == pytest.approx([4 / 12**0.5, 28 / 12**0.5], rel=0.05)
        slope = axes[1, 1] / axes[0, 1]
        assert math.atan(slope) == pytest.approx(-sign * math.pi / 12, abs=0.02)
    assert image.sum() == pytest.approx(4 * 28, rel=0.02)


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


@pytest.mark.parametrize("kinds", [EVERY, *((kind,) for kind in EVERY)])
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


# --- crop


def test_a_crop_of_a_known_image() -> None:
    image = torch.arange(1.0, 17.0).reshape(1, 1, 4, 4)  # padding is one pixel
    views = Views({"crop_x": torch.tensor([0.0, 0.5, 0.99]), "crop_y": torch.tensor([0.5, 0.99, 0.0])})
    found = apply_views(image.expand(3, -1, -1, -1), views)[:, 0]
    left = [[0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11], [0, 13, 14, 15]]
    below = [[5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16], [0, 0, 0, 0]]
    above_right = [[0, 0, 0, 0], [2, 3, 4, 0], [6, 7, 8, 0], [10, 11, 12, 0]]
    assert found.tolist() == [left, below, above_right]


def test_crops_are_those_of_the_published_random_crop() -> None:
    # padding 4 at 32 pixels: 81 equally likely windows of the padded image, whole pixels as they are
    image = torch.rand((1, 3, 32, 32), generator=rng(0, "one")) + 0.1
    windows = F.pad(image, (4, 4, 4, 4)).unfold(2, 32, 1).unfold(3, 32, 1)[0]  # (3, 9, 9, 32, 32)
    windows = windows.permute(1, 2, 0, 3, 4).flatten(0, 1)  # (81, 3, 32, 32)
    changed = augment(image.expand(2000, -1, -1, -1), ("crop",), rng(0, "a"))
    which = [int((windows == one).flatten(1).all(1).nonzero()) for one in changed]  # exactly one window each
    counts = torch.tensor(which).bincount(minlength=81)
    assert counts.min() >= 8  # 25 on average
    assert counts.max() <= 48
    assert [padding(side) for side in (8, 28, 32, 64, 224, 2)] == [1, 4, 4, 8, 28, 1]


# --- erase


def test_erased_share() -> None:
    images = torch.rand((2000, 3, 32, 32), generator=rng(0, "many"))
    views = draw_views(2000, ("erase",), rng(0, "a"))
    changed = apply_views(images, views)
    lost = (changed != images).any(1)  # (N, H, W)
    area, erased = lost.float().mean((1, 2)), views.numbers["erased"] > 0
    assert 0.45 < erased.float().mean() < 0.55
    assert not area[~erased].any()
    aspect, wanted = views.numbers["erase_aspect"], views.numbers["erase_area"]
    fits = erased & ((wanted * aspect).sqrt() <= 1) & ((wanted / aspect).sqrt() <= 1)
    assert fits.sum() > 850
    torch.testing.assert_close(area[fits], wanted[fits], atol=0.035, rtol=0)  # whole pixels
    assert wanted[erased].min() < 0.03
    assert wanted[erased].max() > 0.39
    # a full box, filled by the mean colour of the image
    for image, mask, original in zip(changed[:20], lost[:20], images[:20], strict=True):
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum()
        if mask.any():
            mean = original.mean((1, 2))[:, None].expand(-1, int(mask.sum()))
            torch.testing.assert_close(image[:, mask], mean)


# --- trivial


def trivial(images: Tensor, name: str, strength: float) -> Tensor:
    count = len(images)
    place = (CHANGES.index(name) + 0.5) / len(CHANGES)
    return change_one_thing(images, torch.full((count,), place), torch.full((count,), strength))


@pytest.mark.parametrize("name", CHANGES)
def test_no_strength_is_no_change(name: str) -> None:
    full = IMAGES.clone()
    full[:, :, 0, 0], full[:, :, 0, 1] = 0.0, 1.0  # all levels: nothing to stretch
    full = (full * 255).round() / 255
    torch.testing.assert_close(trivial(full, name, 0.0), full, atol=2e-6, rtol=0)


def test_each_trivial_change_by_hand() -> None:
    image = torch.tensor([[0.2, 0.4], [0.6, 0.8]]).expand(1, 3, 2, 2).clone()
    image[:, 0] += 0.1
    grey = image.mean(1, keepdim=True)
    half = {"brightness": torch.zeros_like(image), "contrast": grey.mean(), "saturation": grey}
    for name, plain in half.items():  # strength -1/1.8: half way to the image without the property
        torch.testing.assert_close(trivial(image, name, -1 / 1.8), (image + plain) / 2)
    torch.testing.assert_close(trivial(image, "solarise", 0.5), torch.where(image > 0.5, 1 - image, image))
    levels = trivial(torch.linspace(0, 1, 256).expand(1, 1, 2, -1), "posterise", 1.0).mul(255).round().unique()
    assert levels.tolist() == list(range(0, 256, 16))
    stretched = trivial(image, "stretch", 0.3)
    torch.testing.assert_close(stretched, (image - image.amin((2, 3), True)) / 0.6)
    flat = torch.full((1, 1, 4, 4), 0.5)
    assert torch.equal(trivial(flat, "stretch", 1.0), flat)
    spike = torch.zeros((1, 1, 5, 5))
    spike[..., 2, 2] = 1.0
    blurred = trivial(spike, "sharpness", -1.0)  # a tenth of the image and nine of its smooth version
    assert blurred[0, 0, 2, 2].item() == pytest.approx(0.1 + 0.9 * 5 / 13)
    assert blurred[0, 0, 1, 1].item() == pytest.approx(0.9 / 13)


def test_trivial_moves_turns_and_shears() -> None:
    x, y = centre(trivial(spot(), "move_x", -0.5))
    assert x.mean().item() == pytest.approx(5, abs=0.1)  # half of 10 pixels
    assert y.abs().max() < 0.05
    assert centre(trivial(spot(), "move_y", 0.5))[1].mean().item() == pytest.approx(-5, abs=0.1)
    right = spot().roll(8, 3)  # 8 pixels right of the middle
    x, y = centre(trivial(right, "rotate", 1.0))
    assert torch.hypot(x, y).mean().item() == pytest.approx(8, abs=0.1)
    assert torch.atan2(y, x).abs().mean().rad2deg().item() == pytest.approx(30, abs=0.5)
    x, y = centre(trivial(right, "shear_y", 1.0))
    assert x.mean().item() == pytest.approx(8, abs=0.1)
    assert y.mean().item() == pytest.approx(-2.4, abs=0.1)


def test_trivial_draws_every_change_equally_often() -> None:
    drawn = draw_views(6000, ("trivial",), rng(0, "a")).numbers
    counts = (drawn["change"] * len(CHANGES)).long().bincount(minlength=len(CHANGES))
    assert counts.min() > 380  # 461 on average
    assert counts.max() < 550
    assert drawn["strength"].min() < -0.99
    assert drawn["strength"].max() > 0.99


# --- named numbers


def test_numbers_are_named_and_absent_kinds_have_none() -> None:
    views = draw_views(5, ("flip", "shift"), rng(0, "a"))
    assert list(views.numbers) == ["mirror", "shift_x", "shift_y"]
    assert all(values.shape == (5,) for values in views.numbers.values())
    assert draw_views(5, (), rng(0, "a")).numbers == {}


def test_random_numbers_are_those_of_earlier_versions() -> None:
    # from commit 26bf785, where a draw was a row of seven unnamed columns
    columns = {
        "angle": [-0.23435963690280914, -0.18797063827514648, 0.23337092995643616],
        "scale": [1.1021167039871216, 0.9339962005615234, 1.1206543445587158],
        "mirror": [-1.0, 1.0, 1.0],
        "shift_x": [0.05242288112640381, -0.07190018892288208, 0.07840684056282043],
        "shift_y": [0.23879089951515198, 0.15633559226989746, -0.08371400833129883],
        "contrast": [1.07158362865448, 1.001801609992981, 1.1309499740600586],
        "brightness": [0.14142251014709473, -0.008987188339233398, -0.0715089812874794],
    }
    views = draw_views(3, ALL, rng(0, "literal"))
    assert {name: values.tolist() for name, values in views.numbers.items()} == {
        name: torch.tensor(values).tolist() for name, values in columns.items()
    }


@pytest.mark.parametrize(
    ("kinds", "key"),
    [
        (ALL, "3dc2ce811732947f5a197fce3ae39fed"),
        (("flip",), "1480a30ca4ec5b9ae4d75131ecc9f243"),
        (("shift", "scale"), "f43a4f07ec3e4cb88f162c4b6045e0e5"),
        (("colour",), "7af5464155d8c870106959acc631c651"),
        (("rotate",), "1bee9263a620426c33e3ebd6c67e5978"),
    ],
)
def test_keys_of_stored_results_are_those_of_earlier_versions(kinds: tuple[Augmentation, ...], key: str) -> None:
    # from commit 26bf785: hashes of draws (2, 5, 7)
    views = Views.stack([draw_views(5, kinds, rng(0, "view", "real", number)) for number in range(2)])
    assert _hash(views.key()) == key


def test_a_new_kind_changes_neither_numbers_nor_keys_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: tuple[Augmentation, ...] = ("shift", "flip")
    before = draw_views(5, kinds, rng(0, "a"))
    monkeypatch.setitem(DRAWS, "new", {"new_x": lambda uniform: uniform(0, 1)})
    after = draw_views(5, kinds, rng(0, "a"))
    assert _hash(after.key()) == _hash(before.key())
    changed = draw_views(5, (*kinds, "new"), rng(0, "a"))  # type: ignore[arg-type]
    assert list(changed.numbers) == ["mirror", "shift_x", "shift_y", "new_x"]
    assert all(torch.equal(changed.numbers[name], values) for name, values in before.numbers.items())
    assert _hash(changed.key()) != _hash(before.key())
    assert torch.equal(apply_views(IMAGES[:5], changed), apply_views(IMAGES[:5], before))


def test_views_are_taken_joined_and_split() -> None:
    views = Views.stack([draw_views(6, ("flip", "colour"), rng(0, "v", number)) for number in range(2)])
    assert len(views) == 2
    picked = views[torch.tensor([1, 0]), torch.tensor([5, 2])]
    expected = [views.numbers["contrast"][1, 5], views.numbers["contrast"][0, 2]]
    assert picked.numbers["contrast"].tolist() == torch.stack(expected).tolist()
    again = Views.cat(views[1].split(4))
    assert all(torch.equal(again.numbers[name], views.numbers[name][1]) for name in again.numbers)


# --- names


def test_synonyms_mean_the_same_and_settings_store_one_name() -> None:
    other: tuple[Augmentation, ...] = ("translation", "color")
    assert torch.equal(augment(IMAGES, other, rng(0, "a")), augment(IMAGES, ("shift", "colour"), rng(0, "a")))
    assert SupervisedConfig(augment=other) == SupervisedConfig(augment=("shift", "colour"))
    assert override(SupervisedConfig(), ["augment=color,flip"]).augment == ("colour", "flip")
    assert known_as(("color", "cutout"), ("color", "cutout")) == ("color", "cutout")
    assert override(SupervisedConfig(), ["augment=crop,erase,trivial"]).augment == ("crop", "erase", "trivial")
    with pytest.raises(ConfigError, match="augment"):
        override(SupervisedConfig(), ["augment=cutout"])
