"""What each change of DiffAugment preserves, what it may draw, and how gradients pass through it."""

import pytest
import torch
from torch import Tensor

from gankd.config import override
from gankd.errors import ConfigError
from gankd.generators.diff_augment import DiffAugmentation, diff_augment
from gankd.seeds import rng
from gankd.training.gan import GanConfig

ALL: tuple[DiffAugmentation, ...] = ("color", "translation", "cutout")


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=rng(0, "images")) * 2 - 1


def spread(images: Tensor) -> Tensor:
    return images.flatten(1).std(1)


def assert_uniform(values: Tensor, low: float, high: float) -> None:
    """Moments and range of U(low, high), for 4,000 values."""
    assert low - 1e-4 <= values.min() < low + 0.02 * (high - low)
    assert high + 1e-4 >= values.max() > high - 0.02 * (high - low)
    assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))


def test_an_empty_policy_changes_nothing() -> None:
    images = noise(3, 3, 8, 8)
    assert torch.equal(diff_augment(images, (), rng(0, "augment")), images)


def test_color_of_grey_images_is_brightness_and_contrast() -> None:
    images = noise(4000, 1, 6, 6)
    changed = diff_augment(images, ("color",), rng(1, "augment"))
    assert_uniform(changed.mean((1, 2, 3)) - images.mean((1, 2, 3)), -0.5, 0.5)
    contrast = spread(changed) / spread(images)
    assert_uniform(contrast, 0.5, 1.5)
    centred = images - images.mean((1, 2, 3), keepdim=True)
    expected = changed.mean((1, 2, 3), keepdim=True) + contrast.view(-1, 1, 1, 1) * centred
    torch.testing.assert_close(changed, expected, rtol=0, atol=1e-5)


def test_color_keeps_grey_pixels_grey_and_scales_colour_by_its_own_factor() -> None:
    grey = noise(5, 1, 6, 6).expand(-1, 3, -1, -1)
    changed = diff_augment(grey, ("color",), rng(2, "augment"))
    torch.testing.assert_close(changed, changed[:, :1].expand(-1, 3, -1, -1))

    images = noise(4000, 3, 6, 6)
    changed = diff_augment(images, ("color",), rng(3, "augment"))
    pixel, pixel_changed = images.mean(1, keepdim=True), changed.mean(1, keepdim=True)
    brightness = (pixel_changed - pixel).mean((1, 2, 3))
    assert_uniform(brightness, -0.5, 0.5)
    contrast = spread(pixel_changed) / spread(pixel)  # saturation leaves the channel mean of a pixel
    assert_uniform(contrast, 0.5, 1.5)
    saturation = spread(changed - pixel_changed) / spread(images - pixel) / contrast
    assert_uniform(saturation, 0.0, 2.0)
    between = torch.stack([brightness, contrast, saturation]).corrcoef()
    torch.testing.assert_close(between, torch.eye(3), rtol=0, atol=0.07)  # three independent draws


def shift_of(image: Tensor, start: tuple[int, int]) -> tuple[int, int]:
    row, column = divmod(int(image.argmax()), image.shape[-1])
    return row - start[0], column - start[1]


def test_translation_moves_a_dot_by_whole_pixels_up_to_an_eighth() -> None:
    images = torch.zeros(3000, 2, 16, 24)
    images[:, :, 7, 11] = 1
    moved = diff_augment(images, ("translation",), rng(4, "augment"))
    assert torch.equal(moved.flatten(1).sum(1), torch.full((3000,), 2.0))
    assert torch.equal(moved[:, 0], moved[:, 1])  # channels move together
    rows, columns = torch.tensor([shift_of(image[0], (7, 11)) for image in moved]).unbind(1)
    assert rows.unique().tolist() == list(range(-2, 3))
    assert columns.unique().tolist() == list(range(-3, 4))
    share = (rows + 2).bincount() / 3000
    assert share.min() > 0.17  # 1/5 each, standard error 0.007
    share = (columns + 3).bincount() / 3000
    assert share.min() > 0.12  # 1/7 each


def plain_shift(image: Tensor, down: int, right: int) -> Tensor:
    """(C, H, W) moved pixel by pixel; zero where nothing came from."""
    moved = torch.zeros_like(image)
    _, height, width = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                moved[:, row, column] = image[:, row - down, column - right]
    return moved


def test_translation_fills_with_zero_and_its_gradient_is_the_inverse_shift() -> None:
    images = noise(30, 3, 8, 10) + 3  # nowhere zero
    images[:, :, 4, 5] = 9  # so that the shift can be read off
    images.requires_grad_()
    moved = diff_augment(images, ("translation",), rng(5, "augment"))
    pull = noise(30, 3, 8, 10)
    (gradient,) = torch.autograd.grad(moved, images, pull)
    seen = set()
    for i in range(30):
        down, right = shift_of(moved[i, 0], (4, 5))
        seen.add((down, right))
        assert torch.equal(moved[i].detach(), plain_shift(images[i].detach(), down, right))
        assert torch.equal(gradient[i], plain_shift(pull[i], -down, -right))
    assert len(seen) == 9


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 12)])
def test_cutout_zeroes_a_box_of_half_the_sides_cut_at_the_border(height: int, width: int) -> None:
    images = torch.ones(6000, 2, height, width, requires_grad=True)
    cut = diff_augment(images, ("cutout",), rng(6, "augment"))
    (gradient,) = torch.autograd.grad(cut.sum(), images)
    assert torch.equal(gradient, cut.detach())  # no gradient into the box, all of it outside
    assert torch.equal(cut[:, 0], cut[:, 1])
    hole = cut[:, 0] == 0
    rows, columns = hole.any(2), hole.any(1)
    assert torch.equal(hole, rows.unsqueeze(2) & columns.unsqueeze(1))  # a box
    for sides, size in ((rows, height), (columns, width)):
        length = (size + 1) // 2
        centres = range(size + 1 - length % 2)
        expected = [min(c - length // 2 + length, size) - max(c - length // 2, 0) for c in centres]
        found = sides.sum(1)
        assert sorted(found.unique().tolist()) == sorted(set(expected))
        assert found.float().mean().item() == pytest.approx(sum(expected) / len(expected), abs=0.06)
        assert (sides.int().diff(dim=1) == 1).sum(1).max() <= 1  # in one piece
        covered = sides.float().mean(0)
        torch.testing.assert_close(covered, covered.flip(0), rtol=0, atol=0.04)  # no side is preferred


@pytest.mark.parametrize("name", ALL)
def test_each_image_has_its_own_draw_and_the_generator_decides_it(name: DiffAugmentation) -> None:
    images = noise(1, 3, 16, 16).expand(8, -1, -1, -1)
    changed = diff_augment(images, (name,), rng(7, "augment"))
    assert len(changed.flatten(1).unique(dim=0)) > 4
    assert torch.equal(changed, diff_augment(images, (name,), rng(7, "augment")))
    assert not torch.equal(changed, diff_augment(images, (name,), rng(8, "augment")))


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.bfloat16, 0.03)])
def test_memory_format_and_type_are_kept_and_do_not_matter(dtype: torch.dtype, rounding: float) -> None:
    images = noise(6, 3, 16, 16)
    expected = diff_augment(images, ALL, rng(9, "augment"))
    assert expected.is_contiguous()
    stored = images.to(dtype).contiguous(memory_format=torch.channels_last)
    changed = diff_augment(stored, ALL, rng(9, "augment"))
    assert changed.dtype == dtype
    assert changed.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(changed.float(), expected, rtol=0, atol=rounding)


def test_gradients_of_the_whole_policy_match_finite_differences() -> None:
    images = noise(2, 3, 8, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: diff_augment(x, ALL, rng(10, "augment")), images)
    small = images.detach()[:, :, :4, :4].requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: diff_augment(x, ALL, rng(10, "augment")).square(), small)


def test_synonyms_mean_the_same_and_settings_store_one_name() -> None:
    images = noise(4, 3, 8, 8)
    expected = diff_augment(images, ("translation", "color"), rng(0, "a"))
    assert torch.equal(diff_augment(images, ("shift", "colour"), rng(0, "a")), expected)
    assert GanConfig(diff_augment=("shift", "colour", "cutout")).diff_augment == ("translation", "color", "cutout")
    assert override(GanConfig(), ["diff_augment=colour"]) == GanConfig(diff_augment=("color",))
    with pytest.raises(ConfigError, match="diff_augment"):
        override(GanConfig(), ["diff_augment=rotate"])


def test_random_numbers_are_those_of_earlier_versions() -> None:
    # from commit 26bf785
    images = torch.arange(3 * 3 * 8 * 8).view(3, 3, 8, 8).remainder(256) / 127.5 - 1
    changed = diff_augment(images, ("color", "translation", "cutout"), rng(2, "d"))
    assert changed.sum((1, 2, 3)).tolist() == pytest.approx([-58.446510, 12.280045, 56.836185], abs=1e-4)
