"""Windows and boxes of whole pixels: random crop, random erasing, and the boxes of CutMix."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def crop(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Move images by whole pixels without interpolation; `x` and `y` (N,) in [0, 1) choose among all places."""
    height, width = images.shape[2:]
    rows, columns = (_window(side, place) for side, place in ((height, y), (width, x)))  # (N, H), (N, W)
    padded = F.pad(images, [padding(width)] * 2 + [padding(height)] * 2)
    number = torch.arange(len(images), device=images.device)[:, None, None]
    # (N, H, W, C): indices around a slice put the slice last
    return padded[number, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def padding(side: int) -> int:
    """Pixels of zeros on each side before a crop: 4 at 32 pixels, and in proportion, but at least one."""
    return max(1, round(side / 8))


def _window(side: int, place: Tensor) -> Tensor:
    """(N, side) indices into a padded axis."""
    start = whole(place, 2 * padding(side) + 1)
    return start[:, None] + torch.arange(side, device=place.device)


def whole(share: Tensor, count: int | Tensor) -> Tensor:
    """Numbers in [0, 1) as whole ones from 0 to `count` - 1, each equally likely."""
    return (share * count).long().clamp_max(torch.as_tensor(count, device=share.device) - 1)


def box(size: tuple[int, int], height: Tensor, width: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Mask (N, 1, H, W), True within a box of `height` and `width` (N,) whole pixels, wholly within the image.

    `x` and `y` (N,) in [0, 1) choose among all its places.
    """
    inside = []
    for side, length, place in ((size[0], height, y), (size[1], width, x)):
        start = whole(place, side - length + 1)
        axis = torch.arange(side, device=place.device)
        inside.append((axis >= start[:, None]) & (axis < (start + length)[:, None]))  # (N, side)
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def erase(images: Tensor, numbers: Mapping[str, Tensor]) -> Tensor:
    """Fill a box of the images that are erased by the image's mean colour; a side too long for the image is cut."""
    height, width = images.shape[2:]
    erased, area, aspect, x, y = (
        numbers[name] for name in ("erased", "erase_area", "erase_aspect", "erase_x", "erase_y")
    )
    high = (height * (area * aspect).sqrt()).round().long().clamp(1, height)
    wide = (width * (area / aspect).sqrt()).round().long().clamp(1, width)
    mask = box((height, width), high, wide, x, y) & (erased > 0)[:, None, None, None]
    return torch.where(mask, images.mean((2, 3), keepdim=True), images)
