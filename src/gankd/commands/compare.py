"""`gankd compare`: several losses on the same recipes, each with and without generated images, against one control."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gankd.bench.compare import compare
from gankd.bench.results import Comparison
from gankd.bench.stats import mean_stderr
from gankd.commands.stages import find_recipe, opened
from gankd.config import override, require
from gankd.console import Console
from gankd.recipes.arms import Arm
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.students import check_students
from gankd.recipes.workers import Workers
from gankd.report.gather import machine_facts
from gankd.storage import write_json, write_results_page
from gankd.tasks import Task
from gankd.text import Form, Table, duration, plus_minus
from gankd.training.losses import all_losses
from gankd.training.objective import Objective, term

LABELS = "labels only"
"""Title of the students without a teacher's loss; every loss is compared with them."""


@dataclass(frozen=True)
class LossComparison:
    """Every loss on every recipe: means and paired differences to the plain student with as many updates."""

    rows: list[dict[str, Any]]
    seeds: int
    seconds: float
    """Computing time of all stages, one after the other."""

    def _tables(self, columns: Sequence[str]) -> dict[str, Table]:
        """One table per recipe; a loss with real images only, then together with cGAN-KD."""
        tables = {}
        for recipe in dict.fromkeys(row["recipe"] for row in self.rows):
            mine = [row for row in self.rows if row["recipe"] == recipe]
            head = ["loss", f"{columns[0]}, {mine[0]['metric']}", "gain", columns[1], "gain"]
            cells = ("loss", "alone", "alone_gain", "fakes", "fakes_gain")
            tables[recipe] = Table(head, [[row[name] for name in cells] for row in mine])
        return tables

    @property
    def text(self) -> str:
        """Plain text, one block per recipe."""
        tables = self._tables(("real images only", "with cGAN-KD"))
        return "\n\n".join(f"{recipe}\n{table.plain()}" for recipe, table in tables.items())

    def table_as(self, form: Form) -> str:
        """One table of all recipes, named in the first column."""
        tables = self._tables(("real images only", "with cGAN-KD"))
        head = ["recipe", "loss", "real images only", "gain", "with cGAN-KD", "gain"]
        rows = [[recipe, *row] for recipe, table in tables.items() for row in table.rows]
        return Table(head, rows, "ll" + "r" * (len(head) - 2)).rendered(form)

    @property
    def markdown(self) -> str:
        """The page that `docs/losses.md` is."""
        machine = ", ".join(f"{name} {value}" for name, value in machine_facts().items())
        lines = [
            "# Distillation losses, side by side",
            "",
            "Written by `make losses`, except for the notes at the end. Every row adds one loss to the label loss "
            "of the same student, at its published weight; for values, losses that read something else than "
            "outputs have a hundredth of it, because the squared error next to them is that much smaller than a "
            "cross-entropy. All cells have the same number of updates (steps of the optimiser) at the same batch "
            f"size, the same teacher and the same generated images; test images, last update, {self.seeds} seeds. "
            "Gains are paired by seed, with Student's 95 % interval, against the plain student (first row, left); "
            "positive is better. The weights of CC and Histogram, and that hundredth, are this package's own, "
            "chosen on validation images; nothing else was tuned.",
            "",
            f"Machine: {machine}. Computing time of all stages, one thread each: {duration(self.seconds)}.",
        ]
        for recipe, table in self._tables(("real images only", "with cGAN-KD")).items():
            mine = [row for row in self.rows if row["recipe"] == recipe]
            worse = [row["loss"] for row in mine if row["alone_worse"] or row["fakes_worse"]]
            lines += ["", f"## {recipe}", "", table.markdown()]
            lines += ["", f"Below the plain student by more than the interval: {', '.join(worse) or 'none'}."]
        return "\n".join(lines) + "\n"

    def write(self, page: Path) -> Path:
        """Write the page, and the rows as JSON next to it; hand-written notes on the page are kept.

        Returns:
            `page`.
        """
        write_results_page(page, self.markdown)
        write_json(page.with_suffix(".json"), self.rows)
        return page


def compare_losses(
    recipes: Sequence[str],
    out: Path | str,
    *,
    losses: Sequence[str] | None = None,
    changes: Sequence[str] = (),
    seeds: int = 3,
    workers: int | Workers = 1,
    console: Console | None = None,
) -> LossComparison:
    """Train every loss, with and without generated images, on every recipe.

    Args:
        recipes: names.
        out: folder for one run folder per recipe; finished students are reused.
        losses: expressions; every loss of the package that is for the recipe's task, if not given.
        changes: settings for all recipes, as NAME=VALUE.
        seeds: students per cell.
        workers: number of students trained side by side here, or workers on other machines.
        console: where progress is shown.

    Raises:
        GankdError: with one line that says what to do.
    """
    require(seeds >= 1, f"--seeds must be at least 1, got {seeds}")
    console = console or Console("quiet")
    given = [Objective.parse(expression).complete for expression in losses or ()]
    rows = []
    seconds: dict[str, float] = {}
    for name in recipes:
        recipe = replace(override(find_recipe(name)[0], changes), seeds=seeds)
        console.say(f"== {name}")
        with opened(recipe, Path(out) / name, console) as experiment:
            task = experiment.splits.task
            objectives = [None, *(each.for_task(task) for each in given or _all_for(task))]
            arms = [arm for objective in objectives for arm in _two_arms(objective)]
            check_students(experiment, arms)
            stages = cgan_kd(experiment, arms, range(seeds), workers=workers)
            seconds |= {stage.fingerprint: stage.seconds for stage in stages if stage.done}
            found = compare(experiment, arms, range(seeds))
            rows += [_row(recipe.name, objective, found) for objective in objectives]
    return LossComparison(rows, seeds, sum(seconds.values()))


def _two_arms(objective: Objective | None) -> tuple[Arm, Arm]:
    """A loss with real images only, and with generated ones; without a loss the plain student and cGAN-KD."""
    title, loss = _title(objective), None if objective is None else str(objective)
    plain = Arm(name=title, loss=loss, role="control" if objective is None else "step")
    return plain, Arm(name=f"{title} + cGAN-KD", loss=loss, images="adjusted")


def _title(objective: Objective | None) -> str:
    """The losses other than the label loss."""
    return LABELS if objective is None else str(objective.distilling) or str(objective)


def _all_for(task: Task) -> list[Objective]:
    """Every loss of the package for this task, at its published weight, except those that repeat the label loss."""
    return [
        term(found.name).complete
        for found in all_losses().values()
        if task.kind in found.tasks
        and found.name not in ("Label", task.label_loss_name)
        and not (found.needs or found.needs_source)
    ]


def _row(recipe: str, objective: Objective | None, found: Comparison) -> dict[str, Any]:
    """Plain data of one loss: both arms, each with its gain over the plain student."""
    task = found.task
    row: dict[str, Any] = {
        "recipe": recipe,
        "loss": _title(objective),
        "metric": f"{task.metric} {task.metric_unit}".strip(),
        "updates": found.result(LABELS).updates,
    }
    for name, arm in zip(("alone", "fakes"), _two_arms(objective), strict=True):
        result = found.result(arm.name)
        gain = result.vs.get(LABELS)
        row |= {
            name: plus_minus(*mean_stderr(result.values)),
            f"{name}_values": list(result.values),
            f"{name}_gain": gain.text() if gain else "",
            f"{name}_worse": gain is not None and gain.high < 0,
            f"{name}_seconds": result.seconds,
        }
    return row
