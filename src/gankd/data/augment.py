"""Label-keeping changes of real images, one draw per image, in one batched call on the device."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Augmentation = Literal["shift", "rotate", "scale", "flip", "colour"]


def draw_views(
    count: int, kinds: tuple[Augmentation, ...], generator: torch.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """Draw how `count` images are to be changed: (count, 7) angle, scale, mirror, shifts, contrast, brightness.

    shift: up to an eighth of the side each way; rotate: up to 15 degrees; scale: 0.87 to 1.15;
    flip: left-right, every second image; colour: brightness +-0.15 and contrast 0.75 to 1.25.
    """

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, device=device, generator=generator) * (high - low) + low

    zero, one = torch.zeros(count, device=device), torch.ones(count, device=device)
    angle = uniform(-math.pi / 12, math.pi / 12) if "rotate" in kinds else zero
    scale = torch.exp(uniform(-0.14, 0.14)) if "scale" in kinds else one
    mirror = torch.where(uniform(0, 1) < 0.5, -one, one) if "flip" in kinds else one
    # A quarter of the grid's range [-1, 1] is an eighth of the side.
    shift_x, shift_y = (uniform(-0.25, 0.25), uniform(-0.25, 0.25)) if "shift" in kinds else (zero, zero)
    contrast, brightness = (uniform(0.75, 1.25), uniform(-0.15, 0.15)) if "colour" in kinds else (one, zero)
    return torch.stack([angle, scale, mirror, shift_x, shift_y, contrast, brightness], 1)


def apply_views(images: Tensor, kinds: tuple[Augmentation, ...], views: Tensor) -> Tensor:
    """Change images (N, C, H, W) in [0, 1] (or uint8) as drawn (N, 7); returns float32 in [0, 1]."""
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    angle, scale, mirror, shift_x, shift_y, contrast, brightness = views.unbind(1)
    if set(kinds) & {"shift", "rotate", "scale", "flip"}:
        cos, sin = scale * angle.cos(), scale * angle.sin()
        rows = [torch.stack([mirror * cos, -sin, shift_x], 1), torch.stack([mirror * sin, cos, shift_y], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if "colour" in kinds:
        mean = images.mean((1, 2, 3))
        factor, offset = contrast[:, None, None, None], (mean * (1 - contrast) + brightness)[:, None, None, None]
        images = (images * factor + offset).clamp(0, 1)
    return images


def augment(images: Tensor, kinds: tuple[Augmentation, ...], generator: torch.Generator) -> Tensor:
    """Augment images (N, C, H, W) in [0, 1] (or uint8) by fresh draws; returns float32 in [0, 1]."""
    return apply_views(images, kinds, draw_views(len(images), kinds, generator, images.device))
