"""Students that differ in their loss alone, as rows of one table, each against the controls that the table names."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gankd.bench.compare import Cell, train_side_by_side
from gankd.bench.stats import Interval, mean_stderr, paired_interval
from gankd.config import override
from gankd.models.contract import evaluate
from gankd.recipes.arms import ARMS
from gankd.recipes.cgan_kd import CganKd
from gankd.tasks import Task

Split = Literal["val", "test"]


@dataclass(frozen=True)
class Row:
    """One way to train a student."""

    title: str
    loss: str | None = None
    """Expression of losses; none: the labels alone."""
    fakes: bool = False
    """Also on generated images, as cGAN-KD makes them."""
    settings: tuple[str, ...] = ()
    """Changes of the recipe, as NAME=VALUE."""

    @property
    def arm(self) -> str:
        """The arm that trains so."""
        return {(False, False): "real_matched", (True, False): "kd_matched", (False, True): "adjusted"}.get(
            (self.loss is not None, self.fakes), "adjusted_kd"
        )


@dataclass(frozen=True)
class RowResult:
    """What the students of a row reached."""

    row: Row
    loss: str
    """The objective in force."""
    metrics: tuple[Mapping[str, float], ...]
    """Of each seed 0, 1, ..."""
    updates: int
    seconds: float
    """Mean time of one training."""

    def values(self, metric: str) -> tuple[float, ...]:
        """One value per seed."""
        return tuple(found[metric] for found in self.metrics)


@dataclass(frozen=True)
class Rows:
    """A table of rows: the first is the control, others may be too."""

    results: tuple[RowResult, ...]
    task: Task
    controls: tuple[str, ...]
    """Titles of rows that others are compared with."""
    split: Split = "test"

    def result(self, title: str) -> RowResult:
        """The row of this title."""
        return next(found for found in self.results if found.row.title == title)

    def gain(self, title: str, control: str, metric: str | None = None) -> Interval:
        """Paired difference of two rows with its 95 % interval; positive is better."""
        metric = metric or self.task.metric
        better_high = self.task.higher_is_better and metric == self.task.metric
        own, other = self.result(title).values(metric), self.result(control).values(metric)
        return paired_interval(own, other, higher_is_better=better_high)

    @property
    def text(self) -> str:
        """Plain text."""
        cells = [self._head(), *map(self._cells, self.results)]
        widths = [max(len(line[place]) for line in cells) for place in range(len(cells[0]))]
        lines = []
        for title, *rest in cells:
            padded = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
            lines.append("  ".join([title.ljust(widths[0]), *padded]))
        rule = "-" * max(map(len, lines))
        seeds = len(self.results[0].metrics)
        caption = f"{self.split} images, last update, {seeds} seed{'s' * (seeds != 1)}, equal updates; + is better"
        notes = ["differences: paired by seed, [95 % interval]; all rows share one teacher and one choice of images"]
        if seeds < 3:
            notes.append("fewer than 3 seeds: differences say little; --seeds 5")
        if self.task.kind == "classification":
            notes.append("nll is that of the student as it is: soft targets raise it, as students become less sure")
        width = max(len(found.row.title) for found in self.results)
        losses = [f"  {found.row.title.ljust(width)}  {found.loss}" for found in self.results]
        return "\n".join([caption, rule, lines[0], rule, *lines[1:], rule, *notes, "what each minimises:", *losses])

    @property
    def markdown(self) -> str:
        """The same for a page."""
        head, *rows = [self._head(), *map(self._cells, self.results)]
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def _head(self) -> list[str]:
        unit = f"{self.task.metric} {self.task.metric_unit}".strip()
        return ["student", unit, self._second, *(f"against {control}" for control in self.controls), "seconds"]

    @property
    def _second(self) -> str:
        return next(name for name in self.results[0].metrics[0] if name != self.task.metric)

    def _cells(self, found: RowResult) -> list[str]:
        cells = [found.row.title]
        for metric in (self.task.metric, self._second):
            mean, error = mean_stderr(found.values(metric))
            cells.append(f"{mean:.2f}" if error != error else f"{mean:.2f} ± {error:.2f}")
        for control in self.controls:
            cells.append("" if found.row.title == control else interval_text(self.gain(found.row.title, control)))
        return [*cells, f"{found.seconds:.1f}"]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "split": self.split,
            "metric": self.task.metric,
            "rows": [
                {
                    "title": found.row.title,
                    "loss": found.loss,
                    "fakes": found.row.fakes,
                    "metrics": [dict(values) for values in found.metrics],
                    "updates": found.updates,
                    "seconds": found.seconds,
                    "gains": {
                        control: plain(self.gain(found.row.title, control))
                        for control in self.controls
                        if control != found.row.title
                    },
                }
                for found in self.results
            ],
        }


def plain(interval: Interval) -> dict[str, float | None]:
    """Plain data of an interval; None for bounds that one seed leaves open, which JSON has no number for."""
    return {name: None if value != value else value for name, value in vars(interval).items()}


def interval_text(interval: Interval) -> str:
    """A difference with its interval."""
    if interval.low != interval.low:
        return f"{interval.diff:+.2f}"
    return f"{interval.diff:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"


def method_of(method: CganKd, row: Row) -> CganKd:
    """The same run with the loss and settings of a row."""
    recipe = override(method.recipe, row.settings)
    if row.loss is not None:
        recipe = replace(recipe, student=replace(recipe.student, loss=row.loss))
    return method if recipe == method.recipe else CganKd(recipe, method.run, method.splits)


def train_rows(
    method: CganKd, rows: Sequence[Row], seeds: Iterable[int], workers: int
) -> list[tuple[CganKd, list[Cell]]]:
    """Train the students of all rows that are not there yet; returns where they are, row by row.

    Raises:
        GankdError: a loss does not fit, or what the first failing student raised.
    """
    seeds = list(seeds)
    plans = [(method_of(method, row), [(row.arm, seed) for seed in seeds]) for row in rows]
    for (each, _), row in zip(plans, rows, strict=True):
        each.check_students([ARMS[row.arm]])
        if row.loss is not None and each.recipe.student.objective.needs_virtual:
            for caution in each.recipe.student.objective.cautions(method.virtual_temperature):
                method.run.console.say(f"loss               {caution}")
    train_side_by_side(plans, workers)
    return plans


def run_rows(
    method: CganKd,
    rows: Sequence[Row],
    *,
    seeds: int,
    workers: int,
    split: Split = "test",
    controls: Sequence[str] = (),
) -> Rows:
    """Train and measure the students of all rows.

    Args:
        method: the run; its recipe holds for all rows but for their loss and settings.
        rows: what is compared; the first is a control.
        seeds: students per row.
        workers: trained side by side.
        split: images on which they are measured.
        controls: titles of further rows that all are compared with.

    Raises:
        GankdError: a loss does not fit, or what the first failing student raised.
    """
    plans = train_rows(method, rows, range(seeds), workers)
    data = method.splits.test if split == "test" else method.splits.val
    results = []
    for row, (each, cells) in zip(rows, plans, strict=True):
        stages = [each.student_stage(*cell) for cell in cells]
        results.append(
            RowResult(
                row,
                str(each.recipe.student.objective.for_task(data.task)) if row.loss is not None else "Label",
                tuple(evaluate(each.student(*cell), data, each.engine) for cell in cells),
                each.student_config(ARMS[row.arm]).updates,
                sum(stage.seconds for stage in stages) / len(stages),
            )
        )
    return Rows(tuple(results), data.task, (rows[0].title, *controls), split)
