"""Outputs by label: groups of rows, their moments, and random halves of equal size."""

import math

import torch
from torch import Tensor

from gankd.errors import DataError
from gankd.seeds import rng

LEAST = 4
"""Outputs that a group needs to count: two in each half."""
MOST = 256
"""Number of outputs of a group that are compared, at most."""
NUMBERS = 20_000_000
"""Numbers compared at once, at most; with very many classes each class has fewer outputs."""
TINY = 1e-8
"""Variance too small for a student to notice."""


class Groups:
    """Rows by group: a class, or a bin of labels.

    Args:
        groups: (N,) group number of each row.
        num_groups: G.
        width: numbers per row.

    Raises:
        DataError: no group has 4 rows.
    """

    def __init__(self, groups: Tensor, num_groups: int, width: int) -> None:
        self.groups, self.num_groups = groups, num_groups
        self.count = groups.bincount(minlength=num_groups)
        self.kept = self.count >= LEAST
        """(G,) True for groups that count."""
        self.names = self.kept.nonzero()[:, 0]
        if not self.kept.any():
            raise DataError(f"no label has {LEAST} outputs, the fewest that can be compared with samples; store more")
        most = min(MOST, max(LEAST, NUMBERS // (num_groups * width)))
        self.half = (self.count[self.kept] // 2).clamp_max(most // 2)
        self.splits = min(16, max(2, 400 // num_groups))
        """Number of random splits; few groups leave more to chance and get more."""

    def mean(self, x: Tensor) -> Tensor:
        """Mean (G, ...) of x (N, ...) over the rows of each group; 0 for an empty group."""
        total = x.new_zeros(self.num_groups, *x.shape[1:]).index_add_(0, self.groups, x)
        return total / self.count.clamp_min(1).view(-1, *[1] * (x.ndim - 1))

    def average(self, x: Tensor) -> float:
        """Mean of (G,) over the groups that count."""
        return float(x[self.kept].mean())

    def ratio(self, a: Tensor, b: Tensor) -> float:
        """Ratio of spreads from variances (G,), averaged in logarithms over the groups that count."""
        return math.exp(self.average(((a + TINY) / (b + TINY)).log()) / 2)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (G, K) and total variance (G,) of x (N, K) in each group."""
        mean = self.mean(x)
        squares = x.new_zeros(self.num_groups).index_add_(0, self.groups, (x - mean[self.groups]).square().sum(1))
        return mean, squares / (self.count - 1).clamp_min(1)

    def label_share(self, x: Tensor) -> tuple[float, float]:
        """Variance between groups, and its share of the whole (omega squared: 0 in expectation if groups are alike)."""
        mean, variance = self.moments(x)
        rows, groups = len(x), int((self.count > 0).sum())
        within = float((variance * (self.count - 1).clamp_min(0)).sum()) / max(1, rows - groups)
        apart = float((self.count * (mean - x.mean(0)).square().sum(1)).sum())
        between = max(0.0, apart - (groups - 1) * within) / rows
        return between, between / max(TINY, between + within)

    def split(self, number: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (G', H) of two random halves of each group that counts, and their weights (G', H).

        Weights are 1 / size of the half, and 0 where a half is shorter than the longest.
        """
        order = torch.randperm(len(self.groups), generator=rng(seed, "gates", number))
        order = order[self.groups[order].argsort(stable=True)]  # (N,) by group, in random order within it
        start = (self.count.cumsum(0) - self.count)[self.kept][:, None]  # (G', 1)
        place = torch.arange(int(self.half.max()))
        there = place < self.half[:, None]  # (G', H)
        place = torch.where(there, place, 0)
        return order[start + place], order[start + self.half[:, None] + place], there / self.half[:, None].double()

    def split_noise(self, x: Tensor, seed: int) -> float:
        """Mean absolute difference of the average of x (N,) between halves."""
        gaps = []
        for number in range(self.splits):
            a, b, weight = self.split(number, seed)
            gaps.append(((x[a] - x[b]) * weight).sum(1).mean().abs())
        return float(torch.stack(gaps).mean())
