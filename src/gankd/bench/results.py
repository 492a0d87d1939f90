"""Results of a comparison: the metrics of each arm, and its differences to the controls."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gankd.bench.stats import Interval, mean_stderr, paired_interval
from gankd.config import require
from gankd.recipes.arms import Arm, Role
from gankd.tasks import Task
from gankd.text import Table, plus_minus

Split = Literal["val", "test"]


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """Metrics of the students of one arm, and their cost."""

    arm: Arm
    seeds: tuple[int, ...]
    """Seeds of the students, or numbers of pipelines."""
    metrics: tuple[Mapping[str, float], ...]
    """All metrics of each student, or their means in each pipeline, in the order of `seeds`."""
    metric: str
    """The task's own metric, by which arms are compared."""
    updates: int
    """Optimiser steps of one student."""
    seconds: float
    """Mean wall time of one training."""
    loss: str = "Label"
    """The objective in force."""
    over: Literal["seed", "pipeline"] = "seed"
    """Unit over which intervals are: students, or whole pipelines with other teachers and generators."""
    by_class: Mapping[str, float] = field(default_factory=dict)
    """Accuracy in per cent on the images of each class, mean over the students; empty for values."""
    vs: Mapping[str, Interval] = field(default_factory=dict)
    """Paired difference to each control, by the control's name; positive is better."""

    def __post_init__(self) -> None:
        require(
            len(self.seeds) == len(self.metrics) >= 1,
            f"arm {self.arm.name} needs one result per seed, got {len(self.metrics)} for {len(self.seeds)} seeds",
        )

    @property
    def name(self) -> str:
        """Identifier of the arm."""
        return self.arm.name

    @property
    def title(self) -> str:
        """Name of the arm on tables and pages."""
        return self.arm.title

    @property
    def role(self) -> Role:
        """Part that the arm plays in a comparison."""
        return self.arm.role

    @property
    def generated(self) -> bool:
        """True if the students saw generated images."""
        return self.arm.images is not None

    @property
    def values(self) -> tuple[float, ...]:
        """The task's metric of each student, in the order of `seeds`."""
        return self.values_of(self.metric)

    def values_of(self, metric: str) -> tuple[float, ...]:
        """One metric of each student."""
        return tuple(found[metric] for found in self.metrics)


@dataclass(frozen=True)
class Comparison:
    """Arms on one split, each with its paired differences to the controls among them."""

    arms: tuple[ArmResult, ...]
    task: Task
    split: Split = "test"

    def result(self, name: str) -> ArmResult:
        """The arm of this name."""
        return next(found for found in self.arms if found.name == name)

    def gain(self, name: str, control: str) -> Interval:
        """Paired difference of two arms with its 95 % interval; positive is better."""
        own, other = zip(*paired_values(self.result(name), self.result(control)), strict=True)
        return paired_interval(own, other, higher_is_better=self.task.higher_is_better)

    @property
    def controls(self) -> list[ArmResult]:
        """The arms that others are compared with."""
        return [found for found in self.arms if found.arm.role == "control"]

    @property
    def table(self) -> Table:
        """One row per arm: both metrics, the differences to the controls, and the time of a student."""
        unit = f"{self.task.metric} {self.task.metric_unit}".strip()
        second = next(name for name in self.arms[0].metrics[0] if name != self.task.metric)
        head = ["student", unit, second, *(f"against {control.title}" for control in self.controls), "seconds"]
        rows = []
        for found in self.arms:
            means = [plus_minus(*mean_stderr(found.values_of(name))) for name in (self.task.metric, second)]
            gains = [found.vs[control.name].text() if control.name in found.vs else "" for control in self.controls]
            rows.append([found.title, *means, *gains, f"{found.seconds:.1f}"])
        seeds = max(len(found.seeds) for found in self.arms)
        notes = ["differences: paired by seed, [95 % interval]; all arms share one teacher and one choice of images"]
        if seeds < 3:
            notes.append("fewer than 3 seeds: differences say little; --seeds 5")
        notes += self.task.table_notes
        caption = f"{self.split} images, last update, {seeds} seed{'s' * (seeds != 1)}, equal updates; + is better"
        return Table(head, rows, caption=caption, notes=notes)

    @property
    def text(self) -> str:
        """The table and the loss of each arm, as plain text."""
        losses = Table(["arm", "loss"], [[found.title, found.loss] for found in self.arms], align="ll")
        return f"{self.table.plain()}\n\n{losses.plain()}"

    @property
    def markdown(self) -> str:
        """The table for a page that says the rest itself."""
        return replace(self.table, caption="", notes=()).markdown()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "split": self.split,
            "metric": self.task.metric,
            "rows": [
                {
                    "title": found.title,
                    "loss": found.loss,
                    "fakes": found.arm.images is not None,
                    "metrics": [dict(values) for values in found.metrics],
                    "updates": found.updates,
                    "seconds": found.seconds,
                    "gains": {self.result(name).title: plain(gain) for name, gain in found.vs.items()},
                }
                for found in self.arms
            ],
        }


@dataclass(frozen=True)
class Choice:
    """Names of the arms that validation images choose; None where no arm of the kind is finished."""

    best: str | None = None
    """The best of all arms, controls included: what `gankd export` writes."""
    method: str | None = None
    """The best arm of the method: the headline speaks of it."""
    control: str | None = None
    """The strongest control: what the headline compares with."""


def plain(interval: Interval) -> dict[str, float | None]:
    """Plain data of an interval; None for bounds that one seed leaves open, which JSON has no number for."""
    return {name: None if math.isnan(value) else value for name, value in vars(interval).items()}


def with_intervals(arms: Sequence[ArmResult], task: Task, level: float = 0.95) -> tuple[ArmResult, ...]:
    """Arms with `vs` filled in: paired by seed with every control among them, except with themselves.

    Seeds that only one of the two has are left out of their difference.
    """
    controls = [arm for arm in arms if arm.arm.role == "control"]
    filled = []
    for arm in arms:
        vs = {}
        for control in controls:
            pairs = paired_values(arm, control)
            if control.name != arm.name and pairs:
                values, control_values = zip(*pairs, strict=True)
                vs[control.name] = paired_interval(
                    values, control_values, higher_is_better=task.higher_is_better, level=level
                )
        filled.append(replace(arm, vs=vs))
    return tuple(filled)


def paired_values(arm: ArmResult, control: ArmResult) -> list[tuple[float, float]]:
    """(value, control value) of every seed that both have."""
    by_seed = dict(zip(control.seeds, control.values, strict=True))
    return [(value, by_seed[seed]) for seed, value in zip(arm.seeds, arm.values, strict=True) if seed in by_seed]
