"""Images that are on two sides of a split: equal pixel for pixel, or nearly so."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.data.images import LabelledImages
from gankd.data.own import SHARES, Item, counted, shown
from gankd.errors import DataError

PAIRS = (("test", "train"), ("val", "train"), ("test", "val"))
"""Splits that must not share images."""
SIDE = 8
"""Side of the grey thumbnails that are compared first."""
ALIKE = 0.99
"""Correlation of pixels from which two images count as nearly equal. Different digits of MNIST stay below."""
BLOCK = 1024
"""Thumbnails compared at once: memory stays the same however many there are."""


class Copy(NamedTuple):
    """An image of one split that is in another."""

    first: int
    """Position in the first split."""
    second: int
    """Position in the second."""


def digests(images: Tensor) -> list[bytes]:
    """Hash of the pixels of each image of (N, C, H, W)."""
    return [hashlib.blake2b(image.data, digest_size=16).digest() for image in images.cpu().contiguous().numpy()]


def blank(images: Tensor) -> Tensor:
    """(N,) bool: an image has one colour. Such images are not copies of one another."""
    flat = images.flatten(2)
    return (flat == flat[..., :1]).flatten(1).all(1)


def exact_copies(first: Tensor, second: Tensor) -> list[Copy]:
    """Images of `first` (N, C, H, W) whose pixels are also in `second` (M, C, H, W), unless they are blank."""
    place = {key: number for number, key in reversed([*enumerate(digests(second))])}
    found = [Copy(number, place[key]) for number, key in enumerate(digests(first)) if key in place]
    return [copy for copy in found if not bool(blank(first[copy.first, None]))]


def near_copies(first: Tensor, second: Tensor) -> list[Copy]:
    """Images of `first` that are nearly equal to one of `second`, up to brightness and contrast, in their order.

    Grey thumbnails of 8x8 cells find the nearest image; the correlation of all pixels decides. Thumbnails are sorted
    along the direction in which they differ most, so that each is compared only with those that may be near.
    """
    queries, references = thumbnails(first), thumbnails(second)
    direction = torch.linalg.eigh(references.T @ references).eigenvectors[:, -1]
    at, there = queries @ direction, references @ direction
    order, others = at.argsort(), there.argsort()
    sorted_there, reach = there[others].contiguous(), math.sqrt(2 - 2 * ALIKE) + 1e-4
    found = []
    for rows in order.split(BLOCK):
        ends = torch.stack([at[rows[0]] - reach, at[rows[-1]] + reach])
        low, high = torch.searchsorted(sorted_there, ends).tolist()
        best, nearest = torch.full((len(rows),), -1.0), torch.zeros(len(rows), dtype=torch.int64)
        for some in others[low:high].split(BLOCK) if high > low else ():
            likeness, place = (queries[rows] @ references[some].T).max(1)
            nearest = torch.where(likeness > best, some[place], nearest)
            best = best.maximum(likeness)
        found += [Copy(int(rows[row]), int(nearest[row])) for row in (best > ALIKE).nonzero()[:, 0].tolist()]
    return sorted(copy for copy in found if correlation(first[copy.first], second[copy.second]) > ALIKE)


def thumbnails(images: Tensor) -> Tensor:
    """(N, 64) grey thumbnails with mean 0 and length 1; zeros for blank images."""
    parts = [F.adaptive_avg_pool2d(part.float().mean(1), SIDE).flatten(1).cpu() for part in images.split(BLOCK)]
    return F.normalize(torch.cat([part - part.mean(1, keepdim=True) for part in parts]), eps=1.0)


def correlation(one: Tensor, other: Tensor) -> float:
    """Correlation of the pixels of two images (C, H, W)."""
    return float(torch.corrcoef(torch.stack([one.flatten().float(), other.flatten().float()]))[0, 1])


def check_copies(
    root: Path,
    items: Sequence[Item],
    index: Mapping[str, Tensor],
    parts: tuple[LabelledImages, LabelledImages, LabelledImages],
    *,
    allowed: bool,
) -> list[str]:
    """Warnings about images that are on two sides of a split.

    Args:
        root: folder or file, for error messages.
        items: all images, with their names.
        index: positions of train, val and test among them.
        parts: train, val and test.
        allowed: equal images are only warned about.

    Raises:
        DataError: equal images, unless `allowed`.
    """
    warnings, images = [], dict(zip(SHARES, (part.images for part in parts), strict=True))
    for first, second in PAIRS:
        exact = exact_copies(images[first], images[second])
        equal = {copy.first for copy in exact}
        near = [copy for copy in near_copies(images[first], images[second]) if copy.first not in equal]
        for copies, how in ((exact, "equal"), (near, "nearly equal")):
            if not copies:
                continue
            pair = [items[int(index[part][row])].key for part, row in zip((first, second), copies[0], strict=True)]
            text = (
                f"{counted(len(copies), f'{first} image')} {'is' if len(copies) == 1 else 'are'} {how} to {second} "
                f"images, first {shown(pair[0])} and {shown(pair[1])}"
            )
            if copies is exact and not allowed:
                raise DataError(
                    f"{shown(root)}: {text}; remove the copies, keep them on one side (data.group), or add "
                    "--set data.duplicates=allow"
                )
            warnings.append(text)
    return warnings
