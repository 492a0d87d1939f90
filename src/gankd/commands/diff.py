"""`gankd diff`: two runs in one table, arm by arm, and the settings in which they differ."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gankd.bench.compare import compare_pipelines
from gankd.bench.results import ArmResult, Comparison, Split, paired_values, plain
from gankd.bench.stats import Interval, mean_stderr, paired_interval
from gankd.commands.stages import changed_settings, finished_arms, found_run, opened
from gankd.config import require, to_dict
from gankd.errors import ConfigError
from gankd.models.contract import evaluate
from gankd.recipes.config import Recipe
from gankd.recipes.stages import declare
from gankd.recipes.teacher import finished_teacher
from gankd.report.tables import METRIC_WORDS, decimals
from gankd.text import Table, fixed, plus_minus


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    folder: Path
    recipe: Recipe
    comparison: Comparison
    teacher: float | None
    """The teacher's metric; None if the run has no finished teacher."""
    images: str
    """Fingerprint of its images and labels."""


@dataclass(frozen=True)
class TwoRuns:
    """Result of `gankd diff`."""

    one: Side
    other: Side

    @property
    def settings(self) -> list[str]:
        """Settings of the other run that differ, with those of the first."""
        return changed_settings(to_dict(self.one.recipe), to_dict(self.other.recipe))

    @property
    def same_images(self) -> bool:
        """True if both runs have the same images in the same parts."""
        return self.one.images == self.other.images

    def gain(self, name: str) -> Interval | None:
        """Difference of an arm, other minus first, paired by seed; + is better. None where they share no seed."""
        own, before = (_arms(side).get(name) for side in (self.other, self.one))
        if own is None or before is None or not self.same_images or own.over != before.over:
            return None
        pairs = paired_values(own, before)
        if not pairs:
            return None
        task = self.one.comparison.task
        return paired_interval(*zip(*pairs, strict=True), higher_is_better=task.higher_is_better)

    @property
    def table(self) -> Table:
        """The teacher and one row per arm of either run."""
        task, sides = self.one.comparison.task, (self.one, self.other)
        arms = {name: arm for side in reversed(sides) for name, arm in _arms(side).items()}
        places = decimals(list(arms.values()), task)
        rows = [["teacher", *("" if side.teacher is None else fixed(side.teacher, places) for side in sides), ""]]
        for name in dict.fromkeys(name for side in sides for name in _arms(side)):
            found = [_arms(side).get(name) for side in sides]
            cells = ["" if arm is None else plus_minus(*mean_stderr(arm.values), places) for arm in found]
            gain = self.gain(name)
            rows.append([arms[name].title, *cells, "" if gain is None else f"{gain.text(places)} {gain.verdict}"])
        words = METRIC_WORDS.get(task.metric, task.metric)
        unit = f" in {task.metric_unit}" if task.metric_unit else ""
        caption = f"{words}{unit} on {self.one.comparison.split} images, mean ± standard error"
        if self.same_images:
            notes = [
                "difference: paired by seed of the student, [95 % interval], + means the second is better; teachers"
            ]
            notes[0] += " and generators are one of each, whose luck is not in the interval"
        else:
            notes = ["the runs have other images, so no differences are printed"]
        notes.append(f"settings of the second run: {'; '.join(self.settings) or 'the same'}")
        head = ("student", str(self.one.folder), str(self.other.folder), "second against first")
        return Table(head, rows, caption=caption, notes=notes)

    @property
    def text(self) -> str:
        """The table as plain text."""
        return self.table.plain()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        names = dict.fromkeys(name for side in (self.one, self.other) for name in _arms(side))
        gains = {name: gain for name in names if (gain := self.gain(name)) is not None}
        return {
            "runs": [
                {
                    "folder": str(side.folder),
                    "teacher": side.teacher,
                    "arms": {name: list(arm.values) for name, arm in _arms(side).items()},
                }
                for side in (self.one, self.other)
            ],
            "differences": {name: {**plain(gain), "verdict": gain.verdict} for name, gain in gains.items()},
            "same_images": self.same_images,
            "settings": self.settings,
        }


def diff(one: str, other: str, *, split: Split = "test", trust: bool = False) -> TwoRuns:
    """Measure the finished students of two runs.

    Args:
        one, other: run folders, or recipes whose folders are runs/RECIPE.
        split: images to measure on.
        trust: run the code that they name.

    Raises:
        ConfigError: a folder is not a run or has no finished student, or they measure different things.
    """
    first, second = (_side(target, split, trust) for target in (one, other))
    tasks = [side.comparison.task for side in (first, second)]
    measured = [f"{task.metric} {task.metric_unit}".strip() for task in tasks]
    require(
        measured[0] == measured[1],
        f"{first.folder} measures {measured[0]}, {second.folder} {measured[1]}; compare runs of one task",
    )
    return TwoRuns(first, second)


def _side(target: str, split: Split, trust: bool) -> Side:
    recipe, folder = found_run(target, trust=trust)
    with opened(recipe, folder) as experiment:
        found = compare_pipelines(experiment, finished_arms(experiment), split)
        if not found.arms:
            raise ConfigError(f"no finished student in {folder}; run: gankd student {folder}")
        teacher = None
        if declare(experiment, []).teacher.done:
            images = experiment.splits.test if split == "test" else experiment.splits.val
            network = finished_teacher(experiment, experiment.recipe.teacher)
            teacher = evaluate(network, images, experiment.engine)[found.task.metric]
        return Side(folder, experiment.recipe, found, teacher, experiment.data_fingerprint)


def _arms(side: Side) -> dict[str, ArmResult]:
    return {arm.name: arm for arm in side.comparison.arms}
