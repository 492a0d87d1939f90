"""Gains over controls as bars on one shared axis, for `forest.html`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gankd.bench.stats import Interval
from gankd.text import signed


@dataclass(frozen=True)
class Gain:
    """One bar."""

    control: str
    """Key of the control, which gives the bar its colour."""
    interval: Interval
    points: Sequence[float]
    """Paired difference of each seed."""


@dataclass(frozen=True)
class GainRow:
    """The bars of one arm."""

    title: str
    role: str
    """Class of the row in the page."""
    bars: Sequence[Gain]


def forest(rows: Sequence[GainRow], places: int) -> dict[str, Any] | None:
    """Positions in per cent on one shared axis; None where there is nothing to see.

    Args:
        rows: arms in the order of the page.
        places: decimals of the numbers.
    """
    from matplotlib.ticker import MaxNLocator  # matplotlib takes a second to import

    bars = [bar for row in rows for bar in row.bars]
    numbers = [0.0]
    for bar in bars:
        numbers += [*bar.points, bar.interval.diff, bar.interval.low, bar.interval.high]
    numbers = [number for number in numbers if math.isfinite(number)]
    if not rows or max(numbers) == min(numbers):
        return None
    # One wild interval (two seeds) must not flatten the others: the axis ends at 3 times the points' reach.
    reach = 3 * max(abs(point) for bar in bars for point in [*bar.points, bar.interval.diff])
    low, high = max(min(numbers), -reach), min(max(numbers), reach)
    margin = 0.04 * (high - low)
    low, high = low - margin, high + margin
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    ticks = [float(tick) for tick in ticks if low <= tick <= high]
    return {
        "zero": percent(0.0, low, high),
        "ticks": [(percent(tick, low, high), signed(tick, _tick_places(ticks))) for tick in ticks],
        "rows": [
            {"title": row.title, "role": row.role, "bars": [_bar(bar, low, high, places) for bar in row.bars]}
            for row in rows
        ],
    }


def _bar(bar: Gain, low: float, high: float, places: int) -> dict[str, Any]:
    interval = bar.interval
    bounded = interval.verdict != "no interval"
    return {
        "control": bar.control,
        "verdict": interval.verdict,
        "text": interval.text(places),
        "at": percent(interval.diff, low, high),
        "from": percent(interval.low, low, high) if bounded else None,
        "to": percent(interval.high, low, high) if bounded else None,
        "points": [percent(point, low, high) for point in bar.points if math.isfinite(point)],
    }


def percent(value: float, low: float, high: float) -> float:
    """Position of a value between two others, from 0 to 100."""
    share = (value - low) / (high - low) if high > low else 0.5
    return round(100 * min(max(share, 0.0), 1.0), 2)


def _tick_places(ticks: Sequence[float]) -> int:
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    return max(0, -math.floor(math.log10(step) + 1e-9))
