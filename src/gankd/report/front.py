"""Networks of several sizes side by side: metric against time and size, as a table and as a page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gankd.report.page import write_page
from gankd.report.tables import METRIC_WORDS
from gankd.tasks import Task
from gankd.text import Table, compact, fixed, number, plus_minus, storage_size
from gankd.version import __version__


@dataclass(frozen=True)
class Point:
    """One network."""

    name: str
    value: float
    """Mean of the task's metric over its seeds, on test images."""
    error: float
    """Standard error of the mean; nan for one network."""
    milliseconds: float
    """Median time for one image on one thread."""
    kib: float
    """Parameters and buffers."""
    parameters: int
    busy: bool = False
    """True if other programs were in the way of the clock."""
    teacher: bool = False


@dataclass(frozen=True)
class Front:
    """Result of `gankd pareto`."""

    page: Path
    recipe: str
    task: Task
    arm: str
    """Title of the arm by which all students are trained."""
    seeds: int
    points: Sequence[Point]

    def best_for(self, cost: Callable[[Point], float]) -> list[Point]:
        """Networks that no other one beats: none is as cheap and better, or as good and cheaper; cheapest first."""
        sign = 1 if self.task.higher_is_better else -1
        found: list[Point] = []
        for point in sorted(self.points, key=lambda each: (cost(each), -sign * each.value)):
            if not found or sign * point.value > sign * found[-1].value:
                found.append(point)
        return found

    @property
    def rows(self) -> list[list[str]]:
        """A row for each network, cheapest first."""
        fast, small = self.best_for(lambda point: point.milliseconds), self.best_for(lambda point: point.kib)
        rows = []
        for point in sorted(self.points, key=lambda each: each.milliseconds):
            best = [name for name, front in (("time", fast), ("size", small)) if point in front]
            value = fixed(point.value) if point.teacher else plus_minus(point.value, point.error)
            cost = [number(point.milliseconds), storage_size(point.kib), compact(point.parameters)]
            rows.append([point.name, value, *cost, " and ".join(best)])
        return rows

    @property
    def head(self) -> list[str]:
        """Head of the table."""
        unit = f"{self.task.metric} {self.task.metric_unit}".strip()
        return ["network", unit, "ms for one image", "size", "parameters", "best for its"]

    @property
    def notes(self) -> list[str]:
        """Explanations below the table."""
        words, seeds = (
            METRIC_WORDS.get(self.task.metric, self.task.metric),
            f"{self.seeds} seed{'s' * (self.seeds > 1)}",
        )
        found = [
            f"{words} on test images, mean ± standard error over {seeds}; students trained as {self.arm}, all alike",
            "best for its time or size: no other network here is as cheap and better (a choice by these test images "
            "flatters a little)",
        ]
        if any(point.busy for point in self.points):
            found.append("busy machine: times are too large; run it again when nothing else is running")
        return found

    @property
    def text(self) -> str:
        """Table for a terminal, and where the page is."""
        return f"{Table(self.head, self.rows, 'lrrrrl', notes=self.notes).plain()}\n\npage: {self.page}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        points = [
            {**vars(point), "error": point.error if point.error == point.error else None} for point in self.points
        ]
        return {"page": str(self.page), "arm": self.arm, "metric": self.task.metric, "points": points}


def write_front(front: Front) -> None:
    """Write the page.

    Raises:
        RunError: it cannot be written.
    """
    from gankd.report import plots  # matplotlib takes a second to import
    from gankd.report.view import template

    unit = f", {front.task.metric_unit}" if front.task.metric_unit else ""
    charts = []
    for name, label, cost in (
        ("time", "ms for one image, one thread", lambda point: point.milliseconds),
        ("size", "KiB of weights", lambda point: point.kib),
    ):
        dots = [(point.name, cost(point), point.value, point.teacher) for point in front.points]
        line = [(cost(point), point.value) for point in front.best_for(cost)]
        charts.append(plots.scatter(name, dots, line, label, f"{front.task.metric}{unit}"))
    page = template("front.html").render(
        title=f"{front.recipe}: students of several sizes",
        front=front,
        charts=charts,
        light=plots.LIGHT,
        dark=plots.DARK,
        version=__version__,
    )
    write_page(front.page, page)
