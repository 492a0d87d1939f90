"""DiffAugment: the same kind of random, differentiable change on real and generated images, so that the
discriminator of a GAN cannot memorise a small data set.

Zhao, Liu, Lin, Zhu, Han. Differentiable augmentation for data-efficient GAN training. NeurIPS 2020.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from gankd.data.augment import known_as

Stored = Literal["color", "translation", "cutout"]
DiffAugmentation = Literal[Stored, "colour", "shift"]
"""Kinds of change; the last two are other names of color and translation."""


def stored_policy(policy: tuple[DiffAugmentation, ...]) -> tuple[Stored, ...]:
    """The names under which settings are stored."""
    return known_as(policy, get_args(Stored))


def diff_augment(images: Tensor, policy: tuple[DiffAugmentation, ...], generator: torch.Generator) -> Tensor:
    """Change each image at random, in the order of `policy`; gradients flow through.

        color        brightness +U(-0.5, 0.5), then saturation xU(0, 2) around each pixel's channel mean,
                     then contrast xU(0.5, 1.5) around the image's mean; results may leave [-1, 1]
        translation  whole pixels, up to 1/8 of each side
        cutout       a box of half of each side around a uniform centre, cut at the border

    Pixels without a source become 0, mid-grey in [-1, 1], as published.

    Args:
        images: (N, C, H, W) float in [-1, 1], any memory format and float type.
        policy: which changes; () leaves the images as they are.
        generator: one draw per image and change; it may live on another device than the images.

    Returns:
        (N, C, H, W) of the same type and memory format.
    """
    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    for name in stored_policy(policy):
        match name:
            case "color":
                images = _color(images, generator)
            case "translation":
                images = _translate(images, generator)
            case "cutout":
                images = _cut_out(images, generator)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def _color(images: Tensor, generator: torch.Generator) -> Tensor:
    size = (3, len(images), 1, 1, 1)
    uniform = torch.rand(size, generator=generator, device=generator.device).to(images)
    brightness, saturation, contrast = uniform[0] - 0.5, 2 * uniform[1], uniform[2] + 0.5
    images = images + brightness
    if images.shape[1] > 1:  # a grey pixel is its own channel mean
        images = _stretch(images, images.mean(1, keepdim=True), saturation)
    return _stretch(images, images.mean((1, 2, 3), keepdim=True), contrast)


def _stretch(images: Tensor, centre: Tensor, factor: Tensor) -> Tensor:
    return centre + factor * (images - centre)


def _translate(images: Tensor, generator: torch.Generator) -> Tensor:
    count, channels, height, width = images.shape
    rows = _pixels(height, images) - _integers(-_eighth(height), _eighth(height), count, generator, images)
    columns = _pixels(width, images) - _integers(-_eighth(width), _eighth(width), count, generator, images)
    # wrapped round, each source is read once: the backward pass never adds two gradients in an unknown order
    source = (rows % height * width).unsqueeze(2) + (columns % width).unsqueeze(1)
    moved = images.flatten(2).gather(2, source.flatten(1).unsqueeze(1).expand(-1, channels, -1))
    inside = _box((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
    return moved.view(count, channels, height, width).masked_fill(~inside, 0)


def _cut_out(images: Tensor, generator: torch.Generator) -> Tensor:
    count, _, height, width = images.shape
    return images.masked_fill(_box(_half(height, count, generator, images), _half(width, count, generator, images)), 0)


def _half(size: int, count: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """(count, size) bool: an interval of half the size, its centre uniform from border to border."""
    length = (size + 1) // 2
    start = _integers(0, size - length % 2, count, generator, like) - length // 2
    pixels = _pixels(size, like)
    return (pixels >= start) & (pixels < start + length)


def _eighth(size: int) -> int:
    return (size + 4) // 8


def _pixels(size: int, like: Tensor) -> Tensor:
    return torch.arange(size, device=like.device)


def _integers(low: int, high: int, count: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """(count, 1) uniform over low .. high, both included."""
    draw = torch.randint(low, high + 1, (count, 1), generator=generator, device=generator.device)
    return draw.to(like.device)


def _box(rows: Tensor, columns: Tensor) -> Tensor:
    """(N, H) and (N, W) bool to (N, 1, H, W): where both hold."""
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)
