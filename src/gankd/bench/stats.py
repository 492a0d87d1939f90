"""Means, standard errors, paired intervals and tests over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gankd import text
from gankd.config import require

Verdict = Literal["better", "worse", "no difference found", "no interval"]


@dataclass(frozen=True)
class Interval:
    """A paired difference over seeds with its confidence bounds; positive is better, whatever the metric."""

    diff: float
    low: float
    """Lower bound; nan where one seed leaves the interval undefined."""
    high: float

    @property
    def verdict(self) -> Verdict:
        """The interval in words: `better` or `worse` only where it excludes zero."""
        if math.isnan(self.low) or math.isnan(self.high):
            return "no interval"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no difference found"

    def text(self, places: int = 2) -> str:
        """`+1.30 [+0.71, +1.89]`, without brackets where there is no interval."""
        return text.interval(self.diff, self.low, self.high, places)


NO_SPREAD = 1e-9
"""A standard error below this share of the mean is rounding."""


def mean_stderr(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error s / sqrt(n), s with n - 1 degrees of freedom; nan for one value.

    Raises:
        ConfigError: no values.
    """
    count = len(values)
    require(count >= 1, "a mean over seeds needs at least one value, got none")
    mean = math.fsum(values) / count
    if count == 1:
        return mean, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)


def paired_interval(
    values: Sequence[float],
    control_values: Sequence[float],
    *,
    higher_is_better: bool,
    level: float = 0.95,
) -> Interval:
    """Student's t interval of the mean paired difference; `values[i]` and `control_values[i]` share a seed.

    Pairing removes effects of the seed on both (split, initialisation, data order). Bounds are nan for one seed and for
    differences that are all equal but not 0, as two or three accuracies of few images can be by chance: they say
    nothing about their spread.

    Raises:
        ConfigError: lengths differ, no values, or a level outside (0, 1).
    """
    require(0 < level < 1, f"level must lie in (0, 1), got {level}")
    differences = _differences(values, control_values, higher_is_better=higher_is_better)
    diff, error = mean_stderr(differences)
    if _all_equal(diff, error):
        return Interval(diff, diff, diff) if diff == 0 and len(values) > 1 else Interval(diff, math.nan, math.nan)
    from scipy.stats import ttest_rel  # a second to import

    first, second = (values, control_values) if higher_is_better else (control_values, values)
    bounds = ttest_rel(first, second).confidence_interval(level)
    return Interval(diff, float(bounds.low), float(bounds.high))


def paired_p(values: Sequence[float], control_values: Sequence[float]) -> float:
    """Two-sided p-value of Student's t-test on the paired differences; nan where one seed, or differences that are all
    equal, leave it undefined.

    Raises:
        ConfigError: lengths differ, or no values.
    """
    diff, error = mean_stderr(_differences(values, control_values))
    if _all_equal(diff, error):
        return math.nan
    from scipy.stats import ttest_rel

    return float(ttest_rel(values, control_values).pvalue)


def _differences(
    values: Sequence[float], control_values: Sequence[float], *, higher_is_better: bool = True
) -> list[float]:
    require(
        len(values) == len(control_values),
        f"a paired comparison needs one control value per seed, got {len(values)} and {len(control_values)}",
    )
    sign = 1.0 if higher_is_better else -1.0
    return [sign * (value - control) for value, control in zip(values, control_values, strict=True)]


def _all_equal(diff: float, error: float) -> bool:
    """True if differences with this mean and standard error are one value up to rounding, or undefined."""
    return math.isnan(error) or error <= NO_SPREAD * abs(diff)


def interval_p(interval: Interval, count: int, level: float = 0.95) -> float:
    """The p-value of `paired_p`, from the interval of `paired_interval` over `count` seeds; nan where it has none."""
    half = interval.high - interval.diff
    if not half > 0:
        return math.nan
    from scipy.stats import t

    return 2 * float(t.sf(abs(interval.diff) / half * t.ppf(0.5 + level / 2, count - 1), count - 1))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values that control the chance of any false claim among them, in the given order.

        sorted p_(1) <= ... <= p_(m):   adjusted p_(i) = max over j <= i of min(1, (m - j + 1) p_(j))

    nan stays nan and does not count. Holm. A simple sequentially rejective multiple test procedure. Scandinavian
    Journal of Statistics 6 (1979).
    """
    order = sorted((number for number, p in enumerate(p_values) if not math.isnan(p)), key=lambda n: p_values[n])
    adjusted, highest = list(p_values), 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[number]))
        adjusted[number] = highest
    return tuple(adjusted)


def prediction_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Interval of one more value of the same kind: mean +- t s sqrt(1 + 1 / n); nan bounds for one value.

    Raises:
        ConfigError: no values.
    """
    mean, error = mean_stderr(values)
    if math.isnan(error):
        return math.nan, math.nan
    from scipy.stats import t

    half = float(t.ppf(0.5 + level / 2, len(values) - 1)) * error * math.sqrt(len(values) + 1)
    return mean - half, mean + half
