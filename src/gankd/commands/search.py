"""A search for the augmentation and the length that suit the student on labels only, on validation images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gankd.bench.compare import compare
from gankd.commands.stages import Arms, started, store_run
from gankd.console import Console
from gankd.data.augment import Augmentation
from gankd.recipes.arms import Arm, arm_named, chosen_arms, default_arms
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.config import Recipe
from gankd.recipes.weak_teacher import with_strong_teacher
from gankd.recipes.workers import Workers
from gankd.report.facts import SEARCH
from gankd.storage import write_hashed_json
from gankd.tasks import Task
from gankd.text import Table, fixed

LENGTHS = (1, 4)
"""Lengths that are tried, in units of student.updates."""


@dataclass(frozen=True)
class Setting:
    """One way to train the student of an arm."""

    name: str
    augment: tuple[Augmentation, ...]
    updates: int

    def of(self, arm: Arm) -> Arm:
        """The arm with this setting."""
        name = f"{arm.name}: {self.name}"
        return replace(arm, name=name, title=name, augment=self.augment, updates=self.updates, seconds=None)


def settings(recipe: Recipe, task: Task) -> list[Setting]:
    """The settings that are tried, cheap ones first: no augmentation, the teacher's, or strong; short or long."""
    kinds: dict[str, tuple[Augmentation, ...]] = {
        "plain images": (),
        "teacher's augmentation": ("teacher",),
        "strong augmentation": ("teacher", *task.strong_augmentation),
    }
    return [
        Setting(f"{name}, x{length}", augment, length * recipe.student.updates)
        for length in LENGTHS
        for name, augment in kinds.items()
    ]


@dataclass(frozen=True)
class SearchResult:
    """Values of all settings that were tried, and the one that was chosen for the students on labels only."""

    recipe: Recipe
    """Settings of the run, with the choice."""
    choice: str
    values: Mapping[str, Mapping[str, float]]
    """Mean of the task's metric on validation images: arm, by title, to setting."""
    task: Task
    seeds: int

    def best(self, arm: str) -> str:
        """The setting that is best for one arm."""
        return best(self.values[arm], self.task)

    @property
    def text(self) -> str:
        """Table of arms, each at the choice and at its own best."""
        places = 2 if self.task.metric_unit == "%" else 3
        rows = []
        for arm, values in self.values.items():
            own = self.best(arm)
            rows.append([arm, fixed(values[self.choice], places), fixed(values[own], places), own])
        unit = f"{self.task.metric} {self.task.metric_unit}".strip()
        head = ["student trained on", f"{unit} at the choice", "at its own best", "which is"]
        caption = f"validation images, means over {self.seeds} seed{'s' * (self.seeds != 1)}"
        table = Table(head, rows, align="lrrl", caption=caption)
        tried = len(next(iter(self.values.values())))
        augment = ",".join(self.recipe.student.augment) or "[]"
        return (
            f"{table.plain()}\n\nchosen for the labels only, among {tried} settings: {self.choice} "
            f"(student.augment={augment} student.updates={self.recipe.student.updates}); the run folder keeps it"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        student = self.recipe.student
        chosen = {"setting": self.choice, "augment": list(student.augment), "updates": student.updates}
        return {"choice": chosen, "metric": self.task.metric, "seeds": self.seeds, "values": self.values}


def best(values: Mapping[str, float], task: Task) -> str:
    """The name of the best value, the first of equal ones."""
    sign = 1 if task.higher_is_better else -1
    return max(values, key=lambda name: sign * values[name])


def search(
    recipe: Recipe,
    folder: Path | str,
    *,
    arms: Arms | None = None,
    workers: int | Workers = 1,
    console: Console | None = None,
) -> SearchResult:
    """Choose student.augment and student.updates for the students on labels only, on validation images.

    All other arms are trained with every setting, too, so that each is shown at that choice and at its own best. The
    run folder keeps the choice: `gankd run FOLDER` uses it.

    Args:
        recipe: settings; student.updates is the short length.
        folder: run folder.
        arms: ways to train the students; default: both controls at equal updates and both whole methods.
        workers: number of students trained side by side here, or workers on other machines.
        console: where progress is shown; default: nowhere.

    Raises:
        GankdError: with one line that says what to do.
    """
    labels_only = arm_named(recipe, "real_matched")
    wanted = chosen_arms(recipe, arms) if arms is not None else _whole(recipe)
    wanted = [labels_only, *(arm for arm in wanted if arm != labels_only)]
    seeds = range(recipe.seeds)
    with started(recipe, Path(folder), console, arms=wanted, by="student --search") as experiment:
        experiment = with_strong_teacher(experiment, wanted, seeds, workers)
        task, tried = experiment.splits.task, settings(experiment.recipe, experiment.splits.task)
        variants = {(arm.title, one.name): one.of(arm) for arm in wanted for one in tried}
        cgan_kd(experiment, list(variants.values()), seeds, workers=workers)
        found = compare(experiment, list(variants.values()), seeds, "val")
        values = {
            arm.title: {
                one.name: sum(found.result(variants[arm.title, one.name].name).values) / recipe.seeds for one in tried
            }
            for arm in wanted
        }
        choice = best(values[labels_only.title], task)
        chosen = next(one for one in tried if one.name == choice)
        student = replace(experiment.recipe.student, augment=chosen.augment, updates=chosen.updates, views="online")
        result = SearchResult(replace(experiment.recipe, student=student), choice, values, task, recipe.seeds)
        write_hashed_json(experiment.run.folder / SEARCH, result.to_dict())
        store_run(experiment.with_recipe(result.recipe), None)
    return result


def _whole(recipe: Recipe) -> Sequence[Arm]:
    """The controls at equal updates, and the whole methods."""
    return [arm for arm in default_arms(recipe) if arm.role in ("control", "method") and not arm.timed]
