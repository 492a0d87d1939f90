"""`gankd pareto`: several student networks in one command, accuracy against time and size, next to the teacher."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import torch

from gankd.bench.compare import chosen_by_validation, compare, student_of
from gankd.bench.model_card import model_card
from gankd.bench.stats import mean_stderr
from gankd.bench.timing import timed
from gankd.commands.stages import check_arms, finished_arms, opened
from gankd.config import require, suggest
from gankd.console import Console
from gankd.errors import ConfigError
from gankd.models.contract import ImageModel, evaluate
from gankd.recipes.arms import Arm
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.config import Recipe
from gankd.recipes.experiment import Experiment
from gankd.recipes.live import Given
from gankd.recipes.teacher import finished_teacher, teacher_stage
from gankd.report.front import Front, Point, write_front

SECONDS = 0.5
"""Time for which the latency of each network is measured."""


def pareto(
    recipe: Recipe,
    folder: Path | str,
    students: Sequence[str],
    *,
    arm: str | None = None,
    workers: int = 1,
    console: Console | None = None,
    **given: Unpack[Given],
) -> Front:
    """Train each network as one arm of a run trains its student, measure all, and write pareto.html.

    Teacher, generator and pool are those of the run; every network gets its seeds.

    Args:
        recipe: settings of the run.
        folder: its folder.
        students: networks, zoo names or module:name.
        arm: how they are trained; default: the arm that is best on validation images, controls included.
        workers: students trained side by side.
        console: where progress is shown.
        given: what the run had in memory, as for `run`.

    Raises:
        ConfigError: no such arm, or none is finished. ModelError: no such network, or it does not fit.
    """
    require(len(set(students)) == len(students), f"--students names a network twice: {', '.join(students)}")
    with opened(recipe, folder, console, **given) as experiment:
        arms = {each.name: each for each in finished_arms(experiment)}
        chosen = arm or chosen_by_validation(experiment, list(arms.values())).best
        if chosen is None:
            raise ConfigError(f"no finished student in {folder}; train one with: gankd student {folder}, or name --arm")
        require(chosen in arms, f"no arm {chosen!r}; {suggest(chosen, arms)}")
        own = [_with_network(arms[chosen], network, experiment.recipe) for network in students]
        check_arms(experiment, own)
        seeds = range(experiment.recipe.seeds)
        stages = cgan_kd(experiment, own, seeds, workers=workers)
        found, task = compare(experiment, own, seeds), experiment.splits.task
        points = []
        for each, network in zip(found.arms, students, strict=True):
            student = student_of(experiment, each.arm, 0, stages)
            points.append(_point(experiment, student, network, *mean_stderr(each.values)))
        points += _teacher(experiment)
        front = Front(Path(folder) / "pareto.html", recipe.name, task, arms[chosen].title, len(seeds), points)
        write_front(front)
    return front


def _with_network(arm: Arm, network: str, recipe: Recipe) -> Arm:
    """The arm with another student; of the recipe's own, the same student."""
    changes = [f"student.model={network}"]
    if network != recipe.student.model and recipe.student.args:
        changes.append("student.args={}")  # those of the recipe's network
    return replace(arm, name=f"{arm.name} {network}", title=network, settings=(*arm.settings, *changes))


def _point(experiment: Experiment, network: ImageModel, name: str, value: float, error: float) -> Point:
    card = model_card(network, experiment.splits.train.shape, name)
    image = experiment.splits.test.images[:1].cpu()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            taken = timed(lambda: network.cpu()(image), SECONDS)
    finally:
        torch.set_num_threads(threads)
        experiment.engine.place(network)
    return Point(name, value, error, taken.percentiles[0], card["size_kib"], card["parameters"], busy=taken.busy)


def _teacher(experiment: Experiment) -> list[Point]:
    config = experiment.recipe.teacher
    if not teacher_stage(experiment, config).done:
        return []
    teacher = finished_teacher(experiment, config)
    value = evaluate(teacher, experiment.splits.test, experiment.engine)[experiment.splits.task.metric]
    name = config.model if config.members == 1 else f"{config.members} x {config.model}"
    return [replace(_point(experiment, teacher, f"teacher {name}", value, float("nan")), teacher=True)]
