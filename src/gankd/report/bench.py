"""The page of a published table that was run again: every arm beside its printed number, gains, curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gankd.report.forest import GainRow
from gankd.report.page import write_page
from gankd.text import Table, duration
from gankd.version import __version__

MOST_CURVES = 6
"""Curves in one figure; of more arms, the first."""


@dataclass(frozen=True)
class BenchPair:
    """One pair of networks."""

    heading: str
    table: Table
    gains: Sequence[GainRow] = ()
    numbers: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)
    """Mean and printed number of each arm."""
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    """Updates and validation metric of each arm's first seed."""


@dataclass(frozen=True)
class BenchPage:
    """A whole page; texts are plain."""

    title: str
    source: str
    command: str
    protocol: str
    choices: str
    differences: Mapping[str, Sequence[str]]
    """Heading of a list to its lines."""
    notes: Sequence[str]
    machine: str
    seconds: float
    metric: str
    """Metric with its unit."""
    places: int
    """Decimals of gains."""
    controls: Sequence[str]
    """Controls in the order of their colours."""
    pairs: Sequence[BenchPair]
    failures: Sequence[str] = ()


def write_bench(page: BenchPage, path: Path) -> None:
    """Write the page as one self-contained HTML file.

    Raises:
        RunError: it cannot be written.
    """
    from gankd.report import plots  # matplotlib takes a second to import
    from gankd.report.forest import forest
    from gankd.report.view import CONTROL_COLOURS, template

    pairs = [
        {
            "heading": pair.heading,
            "table": pair.table,
            "forest": forest(pair.gains, page.places),
            "charts": _charts(f"pair{number}", pair, page.metric),
        }
        for number, pair in enumerate(page.pairs)
    ]
    write_page(
        path,
        template("bench.html").render(
            title=f"{page.title}: gankd bench",
            page=page,
            pairs=pairs,
            colours=len(CONTROL_COLOURS),
            light=plots.LIGHT,
            dark=plots.DARK,
            version=__version__,
            time=duration(page.seconds),
        ),
    )


def _charts(name: str, pair: BenchPair, metric: str) -> list[dict[str, Any]]:
    from gankd.report import plots

    charts = []
    printed = {arm: number for arm, (_, number) in pair.numbers.items() if number is not None}
    if printed:
        series = {
            "here": [pair.numbers[arm][0] for arm in printed],
            "printed": list(printed.values()),
        }
        svg = plots.group_chart(f"{name}-printed", list(printed), series, metric, from_zero=False)
        charts.append({"title": "Beside the printed numbers", "svg": svg})
    lines = [
        plots.Line(arm, steps, values, plots.SERIES[place % len(plots.SERIES)], plots.DASHES[place % len(plots.DASHES)])
        for place, (arm, (steps, values)) in enumerate(list(pair.curves.items())[:MOST_CURVES])
    ]
    if lines:
        svg = plots.line_chart(f"{name}-curves", lines, f"validation {metric}")
        charts.append({"title": "Along the training, seed 0", "svg": svg})
    return charts
