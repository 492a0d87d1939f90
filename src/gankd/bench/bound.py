"""The error bound of a student that learns from real and generated images: its terms, their estimates, its optima.

Own derivation after the abstract of Ding et al. (Expert Systems with Applications 213, 2023), whose theorem was not at
hand; `docs/bound.md` states it, and what is assumed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gankd.config import require
from gankd.errors import DataError
from gankd.seeds import rng
from gankd.tasks import Task

DRAWS = 200
"""Resamples of an interval."""
FEWEST = 8
"""Least held-out scores on either side for the estimate of a distance."""
SMOOTHING = 1.0
"""Added to the count of every label group, so that an absent one has a finite log-ratio."""


@dataclass(frozen=True)
class Estimate:
    """A value in [0, 1] with its 95 % interval over held-out samples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The bound on the excess error of a student as a function of the number M of generated pairs.

        floor + 2 s TV + rate sqrt((1 - s)^2 / N + s^2 / M),   s = M / (N + M) unless `share` is given

    With s = M / (N + M), real and generated pairs in one pool, the root is 1 / sqrt(N + M).
    """

    num_real: int
    """N^r, written N here."""
    tv: float
    """TV(p_r, p_g) of real and processed generated pairs."""
    rate: float
    """Terms that fall with the number of pairs, times its root: 4 c of Rad = c / sqrt(n), and `deviation_rate`."""
    share: float | None = None
    """Share of generated pairs in each batch, equal for every M > 0; default: as many as there are in the pool."""
    floor: float = 0.0

    def share_of(self, count: float) -> float:
        """s for M = `count`."""
        if count <= 0:
            return 0.0
        return count / (self.num_real + count) if self.share is None else self.share

    def distance(self, count: float) -> float:
        """2 s TV: largest cost of pairs that are not real."""
        return self.slope * self.share_of(count)

    def estimation(self, count: float) -> float:
        """Complexity and deviation of the weighted sample."""
        share = self.share_of(count)
        squares = (1 - share) ** 2 / self.num_real + (share**2 / count if count > 0 else 0.0)
        return self.rate * math.sqrt(squares)

    def at(self, count: float) -> float:
        """The whole bound for M = `count`, without the approximation error of the student's class."""
        return self.floor + self.distance(count) + self.estimation(count)

    @property
    def slope(self) -> float:
        """2 TV: limit of the bound, above its floor, with generated images only."""
        return 2 * self.tv

    @property
    def pays_below(self) -> float:
        """N^r below which some M lowers the bound: (rate / slope)^2; inf where generated images cost nothing.

        As s grows from 0 the bound falls by (rate / sqrt(N) - slope) s, whatever M; and slope < rate / sqrt(N) is also
        the condition for the pooled bound at M -> inf, which is `slope`, to be less than at M = 0.
        """
        return math.inf if self.slope <= 0 else (self.rate / self.slope) ** 2

    @property
    def worst_count(self) -> float:
        """M at which the pooled bound is largest: max(0, (2 slope N / rate)^2 - N).

        With n = N + M its derivative is (slope N - rate sqrt(n) / 2) / n^2, positive before that n and negative after:
        the stationary point is a maximum. The pooled bound at a fixed distance is thus never U-shaped, and its
        optimum is at one of the ends.
        """
        if self.rate <= 0:
            return math.inf if self.slope > 0 else 0.0
        return max(0.0, (2 * self.slope * self.num_real / self.rate) ** 2 - self.num_real)

    @property
    def break_even(self) -> float:
        """M above which the pooled bound is below that without generated images; inf if it never is.

        sqrt(n) = slope N / (rate - slope sqrt(N)).
        """
        room = self.rate - self.slope * math.sqrt(self.num_real)
        return max(0.0, (self.slope * self.num_real / room) ** 2 - self.num_real) if room > 0 else math.inf

    def best_count(self, most: int) -> int:
        """The M in 0 .. `most` of the least bound: all or none, see `worst_count`; with a given share it only falls."""
        return most if self.at(most) < self.at(0) else 0

    def best_share(self, count: float) -> float:
        """The share in each batch that minimises the bound for M = `count` > 0; 0 unless N^r is below `pays_below`.

        s* = max(0, theta - slope sqrt(m / (k (rate^2 k - slope^2)))),  theta = M / (N + M),  m = 1 / (N + M),
        k = 1 / N + 1 / M,  from  (1 - s)^2 / N + s^2 / M = m + k (s - theta)^2
        """
        if self.num_real >= self.pays_below:
            return 0.0
        total, curvature = self.num_real + count, 1 / self.num_real + 1 / count
        room = curvature * (self.rate**2 * curvature - self.slope**2)
        return max(0.0, count / total - self.slope * math.sqrt(1 / total / room))


def deviation_rate(delta: float) -> float:
    """2 sqrt(ln(2 / delta) / 2): the deviation term for losses in [0, 1] is this times 1 / sqrt(n).

    Raises:
        ConfigError: `delta` outside (0, 1).
    """
    require(0 < delta < 1, f"delta must lie in (0, 1), got {delta}")
    return 2 * math.sqrt(math.log(2 / delta) / 2)


def tv_from_ratio(log_ratio_fake: Tensor) -> float:
    """Plug-in TV = E_fake[max(0, 1 - r)], which is exact for the true ratio r = p_real / p_fake.

    Args:
        log_ratio_fake: (N,) log r of samples of p_fake; -inf where p_real is 0.
    """
    return (1 - log_ratio_fake.double().exp()).clamp_min(0).mean().item()


def tv_from_threshold(real: Tensor, fake: Tensor, seed: int, draws: int = DRAWS) -> Estimate:
    """Lower bound of TV from scores that tend to be higher for real samples: 2 balanced accuracy - 1.

    P_real(score > t) - P_fake(score > t) is at most TV for any t. The best t is found on one half and its difference
    measured on the other, both ways: on one set of samples it would be too large. The interval is the bootstrap's,
    within halves, and holds for these scores, however they were learnt. Values below 0 become 0.

    Args:
        real: (N,) held-out scores.
        fake: (M,) held-out scores.
        seed: seed of halves and resamples.
        draws: number of resamples.

    Raises:
        DataError: fewer than 8 scores on a side, or one is NaN.
    """
    if min(len(real), len(fake)) < FEWEST or bool(real.isnan().any() | fake.isnan().any()):
        raise DataError(
            f"a distance needs at least {FEWEST} real and {FEWEST} generated held-out scores, none of them NaN; "
            f"got {len(real)} and {len(fake)}"
        )
    generator = rng(seed, "bound threshold")
    scores = torch.cat([real, fake]).double().cpu()
    is_fake = torch.arange(len(scores)) >= len(real)
    half = torch.cat([torch.randperm(len(side), generator=generator) % 2 for side in (real, fake)])
    values, place = scores.unique(return_inverse=True)  # ties fall on one side of every threshold
    gaps = []
    for which in (0, 1):
        below = []
        for side in (is_fake, ~is_fake):
            mine = place[side & (half == which)]
            chosen = mine[torch.randint(len(mine), (draws, len(mine)), generator=generator)]
            chosen = torch.cat([mine[None], chosen])  # the sample itself, then its resamples
            counts = torch.zeros(draws + 1, len(values)).scatter_add_(1, chosen, torch.ones(chosen.shape))
            below.append(counts.cumsum(1) / len(mine))
        gaps.append(below[0] - below[1])  # P_fake(score <= t) - P_real(score <= t) at every t
    found = [other.gather(1, _highest(own, values)) for own, other in (gaps, gaps[::-1])]
    measured = torch.cat(found, 1).mean(1).clamp(0, 1)
    low, high = measured[1:].quantile(torch.tensor([0.025, 0.975])).tolist()
    return Estimate(measured[0].item(), low, high)


def _highest(gaps: Tensor, values: Tensor) -> Tensor:
    """(R, 1) the threshold where each row is largest: halfway between scores where neighbours do equally well."""
    first = gaps.argmax(1, keepdim=True)
    last = gaps.shape[1] - 1 - gaps.flip(1).argmax(1, keepdim=True)
    half_way = (values[first] + values[(last + 1).clamp_max(len(values) - 1)]) / 2
    middle = (torch.searchsorted(values, half_way, right=True) - 1).minimum(last)
    return torch.where(gaps.gather(1, middle) == gaps.gather(1, first), middle, first)


def group_log_ratio(real_groups: Tensor, fake_groups: Tensor, num_groups: int) -> Tensor:
    """(num_groups,) log p_real(group) / p_fake(group) from (N,) and (M,) label groups, one sample added to each."""
    real, fake = (
        groups.cpu().bincount(minlength=num_groups).double() + SMOOTHING for groups in (real_groups, fake_groups)
    )
    return (real / real.sum()).log() - (fake / fake.sum()).log()


def label_distance(labels: Tensor, reference: Tensor, task: Task) -> Tensor:
    """(N,) distances of labels in [0, 1]: total variation of class probabilities, or |difference| / label range (of
    several values the mean over them).

    For classes (N,) on both sides it is 1 where they differ; either side may hold probabilities (N, K). Values beyond
    the range of labels are clipped to it.
    """
    own, other = task.targets(labels), task.targets(reference)
    if own.ndim > 1 + len(task.label_shape):  # probabilities
        return (own - other).abs().sum(1) / 2
    return (own.clamp(0, 1) - other.clamp(0, 1)).abs().reshape(len(own), -1).mean(1)


def fit_rate(sizes: Sequence[int], errors: Sequence[float]) -> tuple[float, float]:
    """Least-squares (floor, rate), both at least 0, of error = floor + rate / sqrt(size).

    Raises:
        ConfigError: fewer than two different sizes.
    """
    require(len(set(sizes)) >= 2, f"a learning curve needs at least two sizes, got {sorted(set(sizes))}")
    x = [size**-0.5 for size in sizes]
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(errors) / len(x)
    spread = math.fsum((a - mean_x) ** 2 for a in x)
    rate = math.fsum((a - mean_x) * (y - mean_y) for a, y in zip(x, errors, strict=True)) / spread
    if rate <= 0:
        return max(0.0, mean_y), 0.0
    floor = mean_y - rate * mean_x
    if floor >= 0:
        return floor, rate
    return 0.0, math.fsum(a * y for a, y in zip(x, errors, strict=True)) / math.fsum(a * a for a in x)


def fit_tv(bound: Bound, counts: Sequence[int], errors: Sequence[float]) -> float:
    """The TV at which `bound` comes closest to errors measured at these M > 0.

    Negative where students did better than as many real pairs would have made them.

    Raises:
        ConfigError: no M > 0.
    """
    used = [
        (2 * bound.share_of(count), error - bound.floor - bound.estimation(count))
        for count, error in zip(counts, errors, strict=True)
        if count > 0
    ]
    require(bool(used), "a distance is fitted to students with M > 0, got none")
    return math.fsum(a * b for a, b in used) / math.fsum(a * a for a, _ in used)


def rank_correlation(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Spearman's rank correlation; nan where there are fewer than three points or one side is constant."""
    if len(predicted) < 3 or len(set(predicted)) == 1 or len(set(measured)) == 1:
        return math.nan
    from scipy.stats import spearmanr  # half a second to import

    return float(spearmanr(predicted, measured).statistic)


def grid(num_real: int, most: int) -> list[int]:
    """M = N / 2, N, 2 N, 4 N ... below `most`."""
    start = max(1, num_real // 2)
    return [start << power for power in range(64) if start << power < most] if most > 0 else []
