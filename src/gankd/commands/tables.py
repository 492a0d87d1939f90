"""`gankd plan TABLE`: the time that a published table takes, from a few timed updates."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gankd.bench.grid import base_recipe
from gankd.commands.plan import (
    PlanRow,
    Status,
    StepTime,
    Timer,
    assistant_rows,
    distill_for,
    plan,
    teach_for,
    work_of,
)
from gankd.config import require
from gankd.console import Console
from gankd.data.images import LabelledImages, Splits
from gankd.data.sets import published_shape
from gankd.models.contract import ImageModel
from gankd.recipes.arms import ARMS
from gankd.recipes.cgan_kd import CganKd
from gankd.recipes.config import Recipe
from gankd.recipes.published import Scale, find_table
from gankd.recipes.taught import Taught
from gankd.runs import Run
from gankd.seeds import rng
from gankd.tasks import Classification, Regression, Task


def plan_table_run(
    name: str,
    folder: Path,
    *,
    scale: Scale = "small",
    data: str | None = None,
    seeds: int = 3,
    workers: int = 1,
    changes: Sequence[str] = (),
    console: Console | None = None,
) -> list[PlanRow]:
    """Time a few steps of each network of a table and say what the whole would take; nothing is written. Steps that
    take long are timed once, and those of more than `plan.LONGEST_STEP` seconds are counted from shapes.

    Without `data`, random images of the published shape are used, and what a folder holds already is not recognised.

    Raises:
        GankdError: whatever the bench itself would refuse at its start.
    """
    require(seeds >= 1, f"--seeds must be at least 1, got {seeds}")
    table = find_table(name)
    base = base_recipe(table, scale, data, changes)
    splits = _random_splits(base) if data is None and scale != "tiny" else None
    fakes = any(method.fakes is not None for method in table.methods)
    timer = Timer(console, count=True)
    *rows, _ = plan(base, folder, arms=["adjusted" if fakes else "real_matched"], splits=splits, timer=timer)
    method = CganKd(base, Run(folder), splits)
    train, engine = method.splits.train, method.engine
    known: dict[tuple[Any, ...], StepTime] = {}
    students: dict[str, tuple[int, float, bool]] = {}
    tutors: dict[str, Taught] = {}
    assistants: dict[str, PlanRow] = {}
    for pair in table.distinct(scale):
        for row in (*table.controls, *table.methods):
            each = CganKd(table.cell(base, scale, pair, row), method.run, method.splits)
            arm, config = ARMS[row.arm], each.recipe.student
            if arm.kd:
                tutors[each.tutor.teacher_stage.fingerprint] = each.tutor
            stages = each.assistant_stages(arm)
            if any(stage.fingerprint not in assistants for stage in stages):
                found = assistant_rows(each, arm, timer)
                for stage, network, one in zip(stages, config.assistants, found, strict=True):
                    assistants[stage.fingerprint] = replace(one, stage=f"assistant {network}")
            left = [seed for seed in range(seeds) if not each.student_stage(row.arm, seed).done]
            key = (config.model, config.loss if arm.kd else None, config.teacher if arm.kd else None)
            if left and key not in known:
                student = engine.place(ImageModel.for_data(each.net(config.model, 0), train))
                known[key] = timer(
                    f"{pair.name}, {row.title}",
                    partial(distill_for, each, student, taught=arm.kd),
                    partial(work_of, each, config.model, config.batch_size, arm.kd),
                )
            step = known[key] if left else StepTime(0.0)
            seconds = step.seconds * each.student_config(arm).updates * len(left)
            seconds /= max(1, min(engine.at_a_time(workers), len(left)))
            count, before, counted = students.get(pair.name, (0, 0.0, False))
            students[pair.name] = count + len(left), before + seconds, counted or step.counted
    for tutor in tutors.values():
        stage, recipe = tutor.teacher_stage, tutor.recipe.teacher
        if stage.fingerprint == method.teacher_stage.fingerprint:
            continue
        net = engine.place(ImageModel.for_data(tutor.net(recipe.model, 0), train))
        work = partial(work_of, tutor, recipe.model, recipe.batch_size)
        step = StepTime(0.0) if stage.done else timer(f"teacher {recipe.model}", partial(teach_for, tutor, net), work)
        megabytes = sum(value.numel() * value.element_size() for value in net.state_dict().values()) / 1e6
        status: Status = "reuse" if stage.done else "run"
        rows.append(PlanRow(recipe.model, status, 1, step.seconds * recipe.updates, megabytes, step.counted))
    rows += assistants.values()
    rows += [
        PlanRow(pair, "run" if count else "reuse", count, seconds, 0.0, counted)
        for pair, (count, seconds, counted) in students.items()
    ]
    return rows


def _random_splits(recipe: Recipe) -> Splits:
    """A few random images of the set's shape, to time networks on."""
    channels, size, outputs = published_shape(recipe.data.name)
    size, classes = recipe.data.size or size, recipe.data.classes or outputs
    task: Task = Regression(low=0.0, high=1.0) if outputs == 1 else Classification(num_classes=classes)
    count = max(2 * classes, 256)
    images = torch.randint(256, (count, channels, size, size), dtype=torch.uint8, generator=rng(0, "plan images"))
    labels = torch.linspace(0, 1, count) if outputs == 1 else torch.arange(count) % classes
    part = LabelledImages(images, labels, task)
    return Splits(part, part, part, recipe.data.name)
