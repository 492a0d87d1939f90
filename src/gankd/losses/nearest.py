"""Vicinal sampling for GANs with labels of several values: the nearest training labels around a target.

A label of n values has no neighbours on a line, and a window in every direction is empty almost everywhere. Here the
vicinity of a target t are its k nearest distinct training labels y_1 .. y_k, by Euclidean distance on the [0, 1] scale,
so that it is wide where labels are scarce, as the adaptive vicinity of CcGAN-AVAR is for one value:

    hard   weight 1
    soft   weight exp(-|y - t|^2 / kappa(t)^2), kappa(t) = |y_k - t|

The label of the fake is one of these, too: it is a combination of values that occurs, which a point between the ends of
the vicinity need not be. For one value the k nearest labels are those in the window of half-width kappa(t), with the
weights of `vicinal.Vicinity`.

Source of both weights: Ding, Wang, Xu, Welch, Wang. CcGAN: continuous conditional generative adversarial networks. ICLR
2021, eq. 9, 10; of the adaptive width: Ding et al. CcGAN-AVAR, arXiv 2508.01725.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gankd.config import require
from gankd.errors import DataError
from gankd.losses.vicinal import VicinalDraw, VicinityKind
from gankd.tasks.kernel import kernel_root

PER_GAP = 8
"""Nearest labels of a vicinity for each unit of `m`, which for one value is the largest gap between labels."""


@dataclass(frozen=True, eq=False)
class NearestVicinity:
    """Distinct training labels in a tree for fast search. Made by `NearestVicinity.fit`."""

    distinct: Tensor
    """(D, n) float64 distinct labels."""
    order: Tensor
    """(N,) int64 training images, sorted by distinct label."""
    first: Tensor
    """(D,) int64 place in `order` of the first image of each distinct label."""
    counts: Tensor
    """(D,) int64 number of images of each distinct label."""
    tree: Any
    kind: VicinityKind
    root: Tensor
    """(n, n) float64, makes the noise on targets; see `kernel_root`."""
    neighbours: int
    """k, at most D."""

    @classmethod
    def fit(cls, labels01: Tensor, kind: VicinityKind, sigma: float | None = None, m: float = 2.0) -> "NearestVicinity":
        """Index the labels.

        Args:
            labels01: (N, n) labels in [0, 1].
            kind: of the weights.
            sigma: standard deviation of independent noise on every value; default: see `kernel_root`.
            m: k is 8 m.

        Raises:
            ConfigError: a setting is out of range. DataError: all labels are equal.
        """
        from scipy.spatial import cKDTree

        require(kind in ("hard", "soft"), f"the vicinity must be hard or soft, got {kind!r}")
        labels01 = labels01.detach().cpu().double()
        distinct, which, counts = labels01.unique(dim=0, return_inverse=True, return_counts=True)
        if len(distinct) < 2:
            raise DataError(
                f"all {len(labels01)} training labels are equal; a vicinity needs at least 2 distinct labels: "
                "check the label columns"
            )
        return cls(
            distinct=distinct,
            order=which.argsort(stable=True),
            first=counts.cumsum(0) - counts,
            counts=counts,
            tree=cKDTree(distinct.numpy()),
            kind=kind,
            root=kernel_root(labels01, sigma),
            neighbours=min(len(distinct), max(2, round(PER_GAP * m))),
        )

    def nearest(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Distances and numbers (B, k) of the nearest distinct labels of (B, n) targets, nearest first."""
        distance, number = self.tree.query(targets.numpy(), k=self.neighbours)
        return torch.from_numpy(distance), torch.from_numpy(number)

    def draw(self, count: int, generator: torch.Generator) -> VicinalDraw:
        """Draw one discriminator batch of `count` targets; `generator` is a CPU generator.

        Targets are balanced over the distinct labels, plus noise. The real image is uniform over all images in the
        vicinity, the label of the fake uniform over the distinct labels in it.
        """
        target = self._noisy(count, generator)
        distance, number = self.nearest(target)
        uniform = torch.rand((2, count), generator=generator, dtype=torch.float64)

        # The image at a place among all images of the vicinity, label by label.
        ends = self.counts[number].cumsum(1)  # (B, k)
        place = (uniform[0] * ends[:, -1]).long()
        column = torch.searchsorted(ends, place[:, None], right=True)
        real = number.gather(1, column)[:, 0]
        within = place - (ends.gather(1, column)[:, 0] - self.counts[real])

        fake_column = (uniform[1] * self.neighbours).long()[:, None]
        kappa = distance[:, -1:]
        return VicinalDraw(
            target=target.float(),
            real_index=self.order[self.first[real] + within],
            real_weight=self._weight(distance.gather(1, column), kappa),
            fake_label=self.distinct[number.gather(1, fake_column)[:, 0]].float(),
            fake_weight=self._weight(distance.gather(1, fake_column), kappa),
        )

    def draw_targets(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw (count, n) float32 labels for a generator step: distinct labels plus noise, which may leave [0, 1]."""
        return self._noisy(count, generator).float()

    def _noisy(self, count: int, generator: torch.Generator) -> Tensor:
        centre = self.distinct[torch.randint(len(self.distinct), (count,), generator=generator)]
        return centre + torch.randn(centre.shape, generator=generator, dtype=torch.float64) @ self.root

    def _weight(self, distance: Tensor, kappa: Tensor) -> Tensor:
        if self.kind == "hard":
            return torch.ones(len(distance))
        return (-(distance / kappa.clamp_min(1e-12)).square()).exp()[:, 0].float()
