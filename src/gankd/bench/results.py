"""What an arm of a comparison reached, and how it differs from the controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from gankd.bench.stats import Interval, paired_interval
from gankd.config import require
from gankd.recipes.arms import ARMS, CONTROLS, METHODS
from gankd.tasks import Task

Role = Literal["control", "step", "method"]


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One way to train the student: the test metric of each seed, and what it cost."""

    arm: str
    title: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    """Test metric per seed, in the order of `seeds`."""
    updates: int
    """Optimiser steps of one student."""
    seconds: float
    """Mean wall time of one training."""
    vs: Mapping[str, Interval] = field(default_factory=dict)
    """Paired difference to each control, by the control's `arm`."""

    def __post_init__(self) -> None:
        require(
            len(self.seeds) == len(self.values) >= 1,
            f"arm {self.arm} needs one value per seed, got {len(self.values)} for {len(self.seeds)} seeds",
        )

    @property
    def name(self) -> str:
        """Identifier of the arm."""
        return self.arm

    @property
    def role(self) -> Role:
        """Part that the arm plays in a comparison."""
        return "control" if self.arm in CONTROLS else "method" if self.arm in METHODS else "step"

    @property
    def generated(self) -> bool:
        """True if the students saw generated images."""
        return self.arm in ARMS and ARMS[self.arm].fakes is not None


def with_intervals(arms: Sequence[ArmResult], task: Task, level: float = 0.95) -> tuple[ArmResult, ...]:
    """The same arms with `vs` filled in: paired by seed with every control among them, itself excepted.

    Seeds that only one of the two has are left out of their difference.
    """
    controls = [arm for arm in arms if arm.arm in CONTROLS]
    filled = []
    for arm in arms:
        vs = {}
        for control in controls:
            pairs = paired_values(arm, control)
            if control.arm != arm.arm and pairs:
                values, control_values = zip(*pairs, strict=True)
                vs[control.arm] = paired_interval(
                    values, control_values, higher_is_better=task.higher_is_better, level=level
                )
        filled.append(replace(arm, vs=vs))
    return tuple(filled)


def paired_values(arm: ArmResult, control: ArmResult) -> list[tuple[float, float]]:
    """(value, control value) of every seed that both have."""
    by_seed = dict(zip(control.seeds, control.values, strict=True))
    return [(value, by_seed[seed]) for seed, value in zip(arm.seeds, arm.values, strict=True) if seed in by_seed]
