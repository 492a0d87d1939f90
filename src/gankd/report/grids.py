"""Images side by side: one grid for a file, single thumbnails for a page."""

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gankd.config import require
from gankd.errors import DataError

THUMBNAIL = 64
"""Longest side of a thumbnail in pixels."""
LOSSLESS = 32
"""Largest side of a PNG thumbnail; for larger ones JPEG is several times smaller and looks equal."""


def image_grid(images: Tensor, columns: int, scale: int = 1, padding: int = 2) -> Image.Image:
    """Lay out images row by row on white.

    Args:
        images: uint8 (N, C, H, W), C 1 or 3.
        columns: images per row; the last row may be shorter.
        scale: each pixel becomes scale x scale.
        padding: white pixels between images and around the grid, not scaled.

    Raises:
        DataError: not such images, or none. ConfigError: columns or scale below 1, or negative padding.
    """
    _check(images)
    require(columns >= 1, f"columns must be at least 1, got {columns}")
    require(scale >= 1, f"scale must be at least 1, got {scale}")
    require(padding >= 0, f"padding must not be negative, got {padding}")
    images = images.cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    count, channels, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    step_y, step_x = height + padding, width + padding
    grid = torch.full((channels, padding + rows * step_y, padding + columns * step_x), 255, dtype=torch.uint8)
    for index, image in enumerate(images):
        top, left = padding + index // columns * step_y, padding + index % columns * step_x
        grid[:, top : top + height, left : left + width] = image
    return _to_pil(grid)


def thumbnail_uri(image: Tensor) -> str:
    """A data URI of one uint8 image (C, H, W), at most 64 px wide and high; smaller ones keep every pixel."""
    _check(image[None])
    picture = _to_pil(image.cpu())
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    lossless = max(picture.size) <= LOSSLESS
    options: dict[str, Any] = {"optimize": True} if lossless else {"quality": 88}
    buffer = io.BytesIO()
    picture.save(buffer, "PNG" if lossless else "JPEG", **options)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _check(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise DataError(
            f"a grid takes uint8 images (N, C, H, W) with 1 or 3 channels, got {images.dtype} {tuple(images.shape)}"
        )


def _to_pil(image: Tensor) -> Image.Image:
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))
