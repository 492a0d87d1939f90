"""`gankd compare`: several losses on the same recipes, each alone and with generated images, against one control."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gankd.bench.compare import cells, compare, train_side_by_side
from gankd.bench.results import ArmResult, paired_values
from gankd.bench.stats import Interval, mean_stderr, paired_interval
from gankd.commands.stages import find_recipe, opened
from gankd.config import override, require
from gankd.console import Console
from gankd.recipes.arms import ARMS
from gankd.recipes.cgan_kd import CganKd
from gankd.recipes.config import Recipe
from gankd.report.gather import machine_facts
from gankd.storage import write_json, write_results_page
from gankd.tasks import Task
from gankd.text import duration
from gankd.training.losses import all_losses
from gankd.training.objective import Objective, term

BASE = ("real_matched", "adjusted")
"""Arms without a teacher's loss: plain student, and cGAN-KD alone; every loss is compared with these two."""
TAUGHT = ("kd_matched", "adjusted_kd")
"""The same arms with a loss."""


@dataclass(frozen=True)
class LossComparison:
    """Every loss on every recipe: means and paired differences to the plain student with as many updates."""

    rows: list[dict[str, Any]]
    seeds: int
    seconds: float
    """Computing time of all stages, one after the other."""

    @property
    def text(self) -> str:
        """Plain text, one block per recipe."""
        blocks = []
        for recipe in dict.fromkeys(row["recipe"] for row in self.rows):
            mine = [row for row in self.rows if row["recipe"] == recipe]
            lines = [f"{recipe}: {mine[0]['metric']}", f"{'loss':<34} {'alone':>24} {'':>22} {'with cGAN-KD':>24}"]
            lines += [
                f"{row['loss'][:33]:<34} {row['alone']:>14} {row['alone_gain']:>26} {row['fakes']:>14} "
                f"{row['fakes_gain']:>26}"
                for row in mine
            ]
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks)

    @property
    def markdown(self) -> str:
        """The page that `docs/losses.md` is."""
        machine = ", ".join(f"{name} {value}" for name, value in machine_facts().items())
        lines = [
            "# Distillation losses, side by side",
            "",
            "Written by `make losses`, but for the notes at the end. Every row adds one loss to the label loss of the "
            "same student, at its published weight; for values, losses that read something else than outputs have a "
            "hundredth of it, because the squared error next to them is that much smaller than a cross-entropy. All "
            "cells have the same number of updates at the same batch size, the same teacher and the same generated "
            f"images; test images, last update, {self.seeds} seeds. Gains are paired by seed, with Student's 95 % "
            "interval, against the plain student (first row, left); positive is better. The weights of CC and "
            "Histogram, and that hundredth, are this package's own, chosen on validation images; nothing else was "
            "tuned.",
            "",
            f"Machine: {machine}. Computing time of all stages, one thread each: {duration(self.seconds)}.",
        ]
        for recipe in dict.fromkeys(row["recipe"] for row in self.rows):
            mine = [row for row in self.rows if row["recipe"] == recipe]
            lines += [
                "",
                f"## {recipe}",
                "",
                f"| loss | alone, {mine[0]['metric']} | gain | with cGAN-KD | gain |",
                "|---|---:|---:|---:|---:|",
            ]
            lines += [
                f"| {row['loss']} | {row['alone']} | {row['alone_gain']} | {row['fakes']} | {row['fakes_gain']} |"
                for row in mine
            ]
            worse = [row["loss"] for row in mine if row["alone_worse"] or row["fakes_worse"]]
            lines += ["", f"Below the plain student by more than the interval: {', '.join(worse) or 'none'}."]
        return "\n".join(lines) + "\n"

    def write(self, page: Path) -> Path:
        """Write the page and the rows as JSON beside it; what stands on the page by hand stays.

        Returns:
            `page`.
        """
        write_results_page(page, self.markdown)
        write_json(page.with_suffix(".json"), self.rows)
        return page


def compare_losses(
    recipes: Sequence[str],
    out: Path,
    *,
    losses: Sequence[str] | None = None,
    changes: Sequence[str] = (),
    seeds: int = 3,
    workers: int = 1,
    console: Console | None = None,
) -> LossComparison:
    """Train every loss, alone and with generated images, on every recipe.

    Args:
        recipes: names.
        out: folder for one run folder per recipe; finished students are reused.
        losses: expressions; every loss of the package that is for the recipe's task, if not given.
        changes: settings for all recipes, as NAME=VALUE.
        seeds: students per cell.
        workers: students trained side by side.
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
        with opened(recipe, out / name, console) as method:
            task = method.splits.task
            plans = [(method, cells(recipe, BASE))]
            for objective in [each.for_task(task) for each in given or _all_for(task)]:
                own = replace(recipe, student=replace(recipe.student, loss=str(objective)))
                plans.append((CganKd(own, method.run, method.splits), cells(own, TAUGHT)))
            for each, wanted in plans:
                each.check_students([ARMS[name] for name, _ in wanted])
            train_side_by_side(plans, workers)
            stages = [method.teacher_stage, method.gan_stage, method.ratio_stage, method.synth_stage]
            stages += [each.student_stage(*cell) for each, wanted in plans for cell in wanted]
            seconds |= {stage.fingerprint: stage.seconds for stage in stages}
            base, *taught = [compare(each, wanted) for each, wanted in plans]
            rows.append(_row(recipe, "labels alone", base, base, task))
            for (other, _), arms in zip(plans[1:], taught, strict=True):
                rows.append(_row(other.recipe, _name(other.recipe.student.objective), arms, base, task))
    return LossComparison(rows, seeds, sum(seconds.values()))


def _name(objective: Objective) -> str:
    """What a row is called: what the student learns besides the labels."""
    return str(objective.distilling) or str(objective)


def _all_for(task: Task) -> list[Objective]:
    """Every loss of the package for this task, at its published weight; those that only repeat the label loss not."""
    plain = {"classification": "CE", "regression": "MSE"}[task.kind]
    return [
        term(found.name).complete
        for found in all_losses().values()
        if task.kind in found.tasks and found.name not in ("Label", plain) and not (found.needs or found.needs_source)
    ]


def _row(recipe: Recipe, loss: str, arms: Sequence[ArmResult], base: Sequence[ArmResult], task: Task) -> dict[str, Any]:
    control = base[0]
    row: dict[str, Any] = {
        "recipe": recipe.name,
        "loss": loss,
        "metric": f"{task.metric} {task.metric_unit}".strip(),
        "updates": control.updates,
    }
    for name, arm in zip(("alone", "fakes"), arms, strict=True):
        mean, error = mean_stderr(arm.values)
        interval = None if arm is control else _gain(arm, control, task)
        row |= {
            name: f"{mean:.2f} ± {error:.2f}",
            f"{name}_values": list(arm.values),
            f"{name}_gain": f"{interval.diff:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]" if interval else "",
            f"{name}_worse": interval is not None and interval.high < 0,
            f"{name}_seconds": arm.seconds,
        }
    return row


def _gain(arm: ArmResult, control: ArmResult, task: Task) -> Interval:
    own, other = zip(*paired_values(arm, control), strict=True)
    return paired_interval(own, other, higher_is_better=task.higher_is_better)
