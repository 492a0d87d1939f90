"""Copies: images that are much nearer to one reference image than to every other."""

from dataclasses import dataclass

import torch
from torch import Tensor

COPY = 1 / 3
"""Largest ratio of the distances to the nearest and the second nearest reference image at which an image is a copy
(arXiv 2505.16959)."""
CANDIDATES = 4
"""References per image whose distances are computed exactly; a matrix product finds them, but rounds."""
IMAGES, REFERENCES = 512, 8192
"""Images and references whose distances are in memory at a time."""


@dataclass(frozen=True)
class Nearest:
    """The two references nearest to each of N images, in Euclidean distances of pixels on the [0, 1] scale."""

    first: Tensor
    """(N,) distance to the nearest."""
    second: Tensor
    """(N,) distance to the second nearest; infinite if there is one reference only."""
    index: Tensor
    """(N,) int64 position of the nearest."""

    @property
    def copies(self) -> Tensor:
        """(N,) bool: the image is a copy of its nearest reference."""
        return (self.first < COPY * self.second) | (self.first == 0)

    @property
    def percent(self) -> float:
        """Share of copies in per cent."""
        return 100.0 * self.copies.double().mean().item()


def nearest(images: Tensor, references: Tensor) -> Nearest:
    """Find the references nearest to each image.

    Args:
        images: (N, C, H, W) uint8.
        references: (R, C, H, W) uint8, R >= 1, on the same device.
    """
    parts = [_nearest(part, references) for part in images.split(IMAGES)]
    return Nearest(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _nearest(images: Tensor, references: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    wanted = min(CANDIDATES, len(references))
    own = images.flatten(1).float()  # (n, D)
    squares, places = own.new_empty((len(own), 0)), torch.empty((len(own), 0), dtype=torch.int64, device=own.device)
    for start in range(0, len(references), REFERENCES):
        other = references[start : start + REFERENCES].flatten(1).float()  # (r, D)
        found = other.square().sum(1) - 2 * own @ other.T  # (n, r): squared distances less |x|^2
        least, place = found.topk(min(wanted, len(other)), largest=False)
        squares, order = torch.cat([squares, least], 1).topk(wanted, largest=False) if start else (least, None)
        joined = torch.cat([places, place + start], 1)
        places = joined if order is None else joined.gather(1, order)
    exact = torch.stack(
        [(own - references[column].flatten(1).float()).div(255).square().sum(1).sqrt() for column in places.unbind(1)],
        1,
    )  # (n, wanted)
    distances, order = exact.sort(1)
    second = distances[:, 1] if wanted > 1 else torch.full_like(distances[:, 0], torch.inf)
    return distances[:, 0], second, places.gather(1, order)[:, 0]
