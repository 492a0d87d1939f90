"""Sizes of images: a side, or height and width, as settings, cards and the command line have them."""

import re

Size = int | str
"""Side of square images, or height and width of others as in 48x64."""


def is_size(size: int | str) -> bool:
    """True for a side, or a height and a width, of 1 to 4096 pixels."""
    if isinstance(size, str) and not re.fullmatch(r"[1-9]\d{0,3}x[1-9]\d{0,3}", size):
        return False
    return all(1 <= side <= 4096 for side in sides(size))


def sides(size: int | str) -> tuple[int, int]:
    """Height and width of a `Size`."""
    if isinstance(size, int):
        return size, size
    height, _, width = size.partition("x")
    return int(height), int(width)


def size_of(height: int, width: int) -> int | str:
    """The `Size` of images of this height and width."""
    return height if height == width else f"{height}x{width}"
