"""One random change per image at a random strength, in the manner of TrivialAugment, batched on the device."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

GEOMETRY = ("shear_x", "shear_y", "move_x", "move_y", "rotate")
COLOUR = ("brightness", "contrast", "saturation", "sharpness")
CHANGES = ("nothing", *GEOMETRY, *COLOUR, "posterise", "solarise", "stretch")
"""Changes, each equally likely. At full strength: shear by 0.3, move by 10/32 of the side, rotate by 30 degrees,
brightness, contrast, saturation and sharpness times 0.1 or 1.9, 4 bits per colour, all pixels inverted. stretch, to
the full range of grey levels, has no strength."""


def change_one_thing(images: Tensor, change: Tensor, strength: Tensor) -> Tensor:
    """Change each image in one way.

    Source: Mueller, Hutter. TrivialAugment. ICCV 2021, with the narrower of its two ranges of strengths, and without
    equalise.

    Args:
        images: (N, C, H, W) float in [0, 1].
        change: (N,) in [0, 1), which of `CHANGES`.
        strength: (N,) in [-1, 1].

    Returns:
        (N, C, H, W) in [0, 1].
    """
    kind = (change * len(CHANGES)).long().clamp_max(len(CHANGES) - 1)  # (N,)

    def of(*names: str) -> Tensor:
        """(N, 1, 1, 1): images that are changed in one of these ways."""
        return torch.stack([kind == CHANGES.index(name) for name in names]).any(0)[:, None, None, None]

    changed = torch.where(of(*GEOMETRY), _moved(images, kind, strength), images)
    amount = strength[:, None, None, None]
    # --- away from, or towards, an image without the property
    grey = images.mean(1, keepdim=True)  # (N, 1, H, W)
    plain = torch.zeros_like(images)  # of brightness
    plain = torch.where(of("contrast"), grey.mean((2, 3), keepdim=True), plain)
    plain = torch.where(of("saturation"), grey, plain)
    plain = torch.where(of("sharpness"), _blurred(images), plain)
    factor = 1 + 0.9 * amount
    changed = torch.where(of(*COLOUR), (plain + factor * (images - plain)).clamp(0, 1), changed)
    # --- levels
    size = amount.abs()
    levels = 2 ** (8 - (4 * size).round())  # 256 to 16
    stored = (images * 255).round()
    changed = torch.where(of("posterise"), (stored * levels / 256).floor() * 256 / levels / 255, changed)
    changed = torch.where(of("solarise") & (images > 1 - size), 1 - images, changed)
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    full = (images - low) / torch.where(high > low, high - low, torch.ones_like(high))
    return torch.where(of("stretch") & (high > low), full, changed)


def _moved(images: Tensor, kind: Tensor, strength: Tensor) -> Tensor:
    """Images through the affine map of their change, in one resampling."""
    by = dict(zip(GEOMETRY, (0.3, 0.3, 2 * 10 / 32, 2 * 10 / 32, math.pi / 6), strict=True))  # the grid is 2 wide
    part = {name: torch.where(kind == CHANGES.index(name), strength * most, 0.0) for name, most in by.items()}
    cos, sin = part["rotate"].cos(), part["rotate"].sin()
    wide = images.shape[3] / images.shape[2]  # the grid is 2 x 2: in it a turn of pixels is not a turn
    to_x = torch.stack([cos, (part["shear_x"] - sin) / wide, part["move_x"]], 1)
    to_y = torch.stack([(part["shear_y"] + sin) * wide, cos, part["move_y"]], 1)
    grid = F.affine_grid(torch.stack([to_x, to_y], 1), list(images.shape), align_corners=False)  # (N, H, W, 2)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _blurred(images: Tensor) -> Tensor:
    """Images smoothed by the 3 x 3 kernel of PIL's sharpness, 5 in the middle and 1 around it."""
    channels = images.shape[1]
    kernel = torch.ones((channels, 1, 3, 3), device=images.device, dtype=images.dtype)
    kernel[:, :, 1, 1] = 5
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel / 13, groups=channels)
