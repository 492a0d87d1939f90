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
from gankd.seeds import rng

PAIRS = (("test", "train"), ("val", "train"), ("test", "val"))
"""Splits that must not share images."""
SIDE = 8
"""Side of the grey thumbnails that are compared first."""
ALIKE = 0.99
"""Correlation of pixels from which two images count as nearly equal. Different digits of MNIST stay below."""
BLOCK = 1024
"""Thumbnails compared at once: memory stays the same however many there are."""
MOST_PAIRS = 100_000_000
"""Most pairs of images of two splits that are all compared: a second or less."""
TABLES, BITS, NEIGHBOURS = 8, 16, 16
"""Sorted lists, bits of a hash and thumbnails that each is compared with, where there are more."""
WINDOWS = 128
"""Thumbnails whose neighbours are gathered at once, which fit the cache."""


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

    Grey thumbnails of 8x8 cells find the nearest image; the correlation of all pixels decides. All pairs of thumbnails
    are compared if there are at most `MOST_PAIRS`, and otherwise those of like hashes.
    """
    queries, references = thumbnails(first), thumbnails(second)
    find = _nearest if len(queries) * len(references) <= MOST_PAIRS else _nearest_by_hash
    likeness, nearest = find(queries, references)
    found = [Copy(row, int(nearest[row])) for row in (likeness > ALIKE).nonzero()[:, 0].tolist()]
    return [copy for copy in found if correlation(first[copy.first], second[copy.second]) > ALIKE]


def _nearest(queries: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Likeness (N,) and position (N,) of the most like of `references` (M, 64) to each of `queries` (N, 64).

    They are sorted along the direction in which they differ most, so that each is compared only with those that may be
    near. Where none is, the likeness is below `ALIKE`.
    """
    direction = torch.linalg.eigh(references.T @ references).eigenvectors[:, -1]
    at, there = queries @ direction, references @ direction
    order, others = at.argsort(), there.argsort()
    sorted_there, reach = there[others].contiguous(), math.sqrt(2 - 2 * ALIKE) + 1e-4
    likeness, nearest = torch.full((len(queries),), -1.0), torch.zeros(len(queries), dtype=torch.int64)
    for rows in order.split(BLOCK):
        ends = torch.stack([at[rows[0]] - reach, at[rows[-1]] + reach])
        low, high = torch.searchsorted(sorted_there, ends).tolist()
        for some in others[low:high].split(BLOCK) if high > low else ():
            found, place = (queries[rows] @ references[some].T).max(1)
            nearest[rows] = torch.where(found > likeness[rows], some[place], nearest[rows])
            likeness[rows] = found.maximum(likeness[rows])
    return likeness, nearest


def _nearest_by_hash(queries: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """`_nearest` in a time that grows with N + M, not with N M; of 1,000 pairs that are just alike it misses about 5.

    A hash has one bit per random plane: the side on which a thumbnail lies. Thumbnails of correlation c are on two
    sides of a plane with chance arccos(c) / pi: 0.045 at 0.99, and 0.014 at 0.999. In each of `TABLES` sorted lists,
    a thumbnail is compared with the `NEIGHBOURS` of nearest hash; equal hashes are sorted along one more direction.
    """
    centre = references.mean(0)  # planes through the middle of the thumbnails divide them best
    likeness, nearest = torch.full((len(queries),), -1.0), torch.zeros(len(queries), dtype=torch.int64)
    for table in range(TABLES):
        planes = torch.randn(references.shape[1], BITS + 1, generator=rng(0, "near copies", table))
        keys, others = _hashes(queries - centre, planes), _hashes(references - centre, planes)
        (sorted_keys, order), by_hash = others.sort(), keys.argsort()
        start = torch.searchsorted(sorted_keys, keys) - NEIGHBOURS // 2
        start = start.clamp(0, max(len(order) - NEIGHBOURS, 0))
        windows = references[order].unfold(0, min(NEIGHBOURS, len(order)), 1)  # (M - NEIGHBOURS + 1, 64, NEIGHBOURS)
        for rows in by_hash.split(WINDOWS):  # in their order, in which neighbours are in the cache
            found, place = (queries[rows, None] @ windows[start[rows]]).squeeze(1).max(1)
            nearest[rows] = torch.where(found > likeness[rows], order[start[rows] + place], nearest[rows])
            likeness[rows] = found.maximum(likeness[rows])
    return likeness, nearest


def _hashes(points: Tensor, planes: Tensor) -> Tensor:
    """(N,) float64: the hash as a whole number, and below the point the place along the last direction."""
    sides = points @ planes
    bits = (sides[:, :BITS] > 0).double() @ 2.0 ** torch.arange(BITS, dtype=torch.float64)
    return bits + sides[:, BITS].double().sigmoid()


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
