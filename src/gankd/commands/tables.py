"""`gankd plan TABLE`: the time that a published table takes, from a few timed updates."""

from collections.abc import Sequence
from pathlib import Path

import torch

from gankd.bench.cost import Peak, real_images, table_work
from gankd.bench.grid import base_recipe
from gankd.bench.prices import Prices, Timer
from gankd.commands.plan import PlanRow, shared_rows, students_row
from gankd.config import require
from gankd.console import Console
from gankd.data.images import LabelledImages, Splits
from gankd.data.sets import published_shape
from gankd.recipes.config import Recipe
from gankd.recipes.experiment import Experiment
from gankd.recipes.published import Protocol, Scale, find_table
from gankd.recipes.stages import declare
from gankd.recipes.workers import Workers
from gankd.runs import Run
from gankd.seeds import rng
from gankd.sizes import sides
from gankd.tasks import Classification, Regression, Task


def plan_table_run(
    name: str,
    folder: Path | str,
    *,
    scale: Scale = "small",
    protocol: Protocol = "gankd",
    data: str | None = None,
    seeds: int = 3,
    workers: int | Workers = 1,
    changes: Sequence[str] = (),
    console: Console | None = None,
) -> list[PlanRow]:
    """Time a few steps of each network of a table and estimate the time of the whole table; nothing is written.

    Slow steps are timed once, and those of more than `bench.prices.LONGEST_STEP` seconds are counted from shapes.
    Without `data`, random images of the published shape are used, and finished students are not recognised.

    Raises:
        GankdError: the bench itself would refuse to start.
    """
    require(seeds >= 1, f"--seeds must be at least 1, got {seeds}")
    table = find_table(name, protocol)
    base = base_recipe(table, scale, data, changes)
    splits = _random_splits(base) if data is None and scale != "tiny" else None
    prices = Prices(Timer(console, count=True), None if splits is None else real_images(base))
    experiment = Experiment.open(base, Run(Path(folder)), splits)
    shared: dict[str, PlanRow] = {}
    students = []
    for pair in table.distinct(scale):
        own = experiment.with_recipe(table.pair_recipe(base, scale, pair))
        arms = [table.pair_arm(base, scale, pair, row) for row in (*table.controls, *table.arms)]
        stages = declare(own, arms, range(seeds))
        shared = shared_rows(own, arms, stages, prices) | shared
        students.append(students_row(own, arms, stages, prices, workers, title=pair.name))
    return [*shared.values(), *students]


def plan_table_on(
    name: str,
    machine: Peak,
    *,
    scale: Scale = "small",
    protocol: Protocol = "gankd",
    seeds: int = 3,
    changes: Sequence[str] = (),
) -> list[PlanRow]:
    """The stages of a whole table on a machine that is not here, counted from the shapes of networks.

    Args:
        name: the table.
        machine: its speed.
        scale, protocol, seeds, changes: as for `plan_table_run`.
    """
    require(seeds >= 1, f"--seeds must be at least 1, got {seeds}")
    table = find_table(name, protocol)
    work = table_work(table, scale, base_recipe(table, scale, None, changes))
    pairs, rows = len(table.distinct(scale)), len(table.arms) + len(table.controls)
    students = {f"students ({pairs} pairs, {rows} arms, {seeds} seeds)": (pairs * rows * seeds, seeds * work.students)}
    stages = {stage: (1, operations) for stage, operations in work.shared.items()} | students
    return [
        PlanRow(stage, "run", count, operations / machine.speed, 0.0, 0.0, counted=True)
        for stage, (count, operations) in stages.items()
    ]


def _random_splits(recipe: Recipe) -> Splits:
    """Splits of a few random images of the set's shape, to time networks on."""
    channels, size, outputs = published_shape(recipe.data.name)
    size, classes = sides(recipe.data.size or size)[0], recipe.data.classes or outputs
    task: Task = Regression(low=0.0, high=1.0) if outputs == 1 else Classification(num_classes=classes)
    count = max(2 * classes, 256)
    images = torch.randint(256, (count, channels, size, size), dtype=torch.uint8, generator=rng(0, "plan images"))
    labels = torch.linspace(0, 1, count) if outputs == 1 else torch.arange(count) % classes
    part = LabelledImages(images, labels, task)
    return Splits(part, part, part, recipe.data.name)
