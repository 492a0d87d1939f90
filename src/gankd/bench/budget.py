"""Arms with a time budget: how many updates fit in it on this machine."""

from collections.abc import Sequence
from dataclasses import replace

from gankd.bench.prices import Prices, Timer
from gankd.config import to_dict
from gankd.recipes.arms import Arm
from gankd.recipes.experiment import Experiment
from gankd.recipes.workers import one_thread
from gankd.runs import fingerprint
from gankd.storage import read_json, write_json

BUDGETS = "budgets.json"
"""File of a run folder: updates by fingerprint of an arm with its settings."""


def with_updates(experiment: Experiment, arms: Sequence[Arm], *, keep: bool = True) -> list[Arm]:
    """Arms with a number of updates where they have a time budget in seconds.

    One update is timed with one thread, as students are trained. The number is kept in the run folder, so that a
    resumed run trains the same student.

    Args:
        experiment: images, networks and run folder.
        arms: with or without a budget.
        keep: store what was measured; False for a plan.
    """
    if all(arm.seconds is None for arm in arms):
        return list(arms)
    path = experiment.run.folder / BUDGETS
    known: dict[str, int] = read_json(path) if path.is_file() else {}
    prices, found = Prices(Timer()), []
    for arm in arms:
        if arm.seconds is None:
            found.append(arm)
            continue
        key = fingerprint(to_dict(arm), to_dict(arm.recipe(experiment.recipe).student), experiment.data_fingerprint)
        if key not in known:
            with one_thread(experiment.engine.device):
                step = prices.student(experiment, arm).seconds
            known[key] = max(1, round(arm.seconds / step))
            if keep:
                write_json(path, known)
        found.append(replace(arm, seconds=None, updates=known[key]))
    return found
