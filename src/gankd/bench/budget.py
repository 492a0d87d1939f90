"""Arms whose length is a time: how many updates fit in it on this machine."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from gankd.bench.prices import Prices, Timer
from gankd.config import to_dict
from gankd.recipes.arms import Arm, arm_named
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import declare
from gankd.recipes.workers import Workers, as_workers
from gankd.runs import Stage, fingerprint
from gankd.storage import read_json, write_hashed_json

BUDGETS = "budgets.json"
"""File of a run folder: updates by fingerprint of an arm with its settings."""
FACTORS = "equal_time.json"
"""File of a run folder: updates of controls at equal time, in units of their own, neither rounded nor cut."""


# --- a budget in seconds ------------------------------------------------------------------------------------


def with_updates(experiment: Experiment, arms: Sequence[Arm], *, keep: bool = True) -> list[Arm]:
    """Arms with a number of updates where they have a time budget in seconds.

    The number is kept in the run folder, so that a resumed run trains the same student.

    Args:
        experiment: images, networks and run folder.
        arms: with or without a budget.
        keep: store what was measured; False for a plan.
    """
    known, prices, found = Known(experiment.run.folder / BUDGETS), Prices(Timer()), []
    for arm in arms:
        if arm.seconds is not None:
            key = fingerprint(arm.identity, to_dict(arm.recipe(experiment.recipe).student), experiment.data_fingerprint)
            if key not in known:
                known.add(key, max(1, round(arm.seconds / prices.student(experiment, arm).seconds)), keep=keep)
            arm = replace(arm, seconds=None, updates=int(known[key]))
        found.append(arm)
    return found


# --- equal time ---------------------------------------------------------------------------------------------


def at_equal_time(
    experiment: Experiment, arms: Sequence[Arm], *, students: int = 0, workers: int | Workers = 1, measure: bool = True
) -> list[Arm]:
    """Arms with a number of updates where they get the time of generator, density ratio and pool.

    Titles then end in the number of updates in units of student.updates, as in `x8 of x43`: 8 is `time_cap`, 43 what
    would fit. The lengths are kept in the run folder.

    Args:
        experiment: images, networks, and the run folder, in which the pool is finished.
        arms: timed or not.
        students: students that learn from the pool, among which `shared time` divides it.
        workers: number of students trained side by side here, or workers on other machines.
        measure: False leaves out arms whose length is not in the run folder.
    """
    if not any(arm.timed for arm in arms):
        return list(arms)
    recipe, known = experiment.recipe, Known(experiment.run.folder / FACTORS)
    made, prices, found = declare(experiment, [arm_named(recipe, "adjusted")]), Prices(Timer()), []
    for arm in arms:
        if arm.timed:
            config = arm.recipe(recipe).student
            key = fingerprint(arm.identity, to_dict(config), made.synth.fingerprint)
            if key not in known:
                if not measure:
                    continue
                shares = max(1, students) if arm.updates == "shared time" else 1
                more = student_seconds(experiment, [made.gan, made.ratio, made.synth], workers) / shares
                known.add(key, 1 + more / (config.updates * prices.student(experiment, arm).seconds))
            arm = lengthened(arm, config.updates, known[key], recipe.time_cap)
        found.append(arm)
    return found


def lengthened(arm: Arm, updates: int, needed: float, most: float) -> Arm:
    """A timed arm with its number of updates: `needed` times `updates`, or `most` times."""
    factor = rounded_factor(needed, most)
    cut = f" of x{needed:.0f}" if needed > most else ""
    return replace(arm, title=f"{arm.title}, x{factor:g}{cut}", updates=round(factor * updates))


def rounded_factor(factor: float, most: float) -> float:
    """Rounded up to halves, in favour of the control; from 1 to `most`."""
    return min(most, max(1.0, math.ceil(2 * factor) / 2))


def side_by_side(experiment: Experiment, workers: int | Workers) -> int:
    """Students that are trained in the time of one stage that has the machine to itself, by as many threads."""
    return min(as_workers(workers).at_a_time(experiment.engine), torch.get_num_threads())


def student_seconds(experiment: Experiment, stages: Sequence[Stage], workers: int | Workers) -> float:
    """Time of stages that have the machine to themselves, in seconds of a student's training."""
    return side_by_side(experiment, workers) * sum(stage.seconds for stage in stages)


# --- helpers ------------------------------------------------------------------------------------------------


class Known(dict[str, float]):
    """Numbers that were measured once, kept in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(read_json(path) if path.is_file() else {})
        self._path = path

    def add(self, key: str, value: float, *, keep: bool = True) -> None:
        """Set a number, and store it if asked to."""
        self[key] = value
        if keep:
            write_hashed_json(self._path, dict(self))
