"""What a run would do: which stages are reused, which will run, and what they cost here, from a few timed steps."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from gankd.bench.compare import cells
from gankd.console import duration
from gankd.data.images import Splits
from gankd.models.contract import ImageModel, predict_with_features
from gankd.recipes.arms import ARMS
from gankd.recipes.cgan_kd import CganKd, sample_images
from gankd.recipes.config import Recipe
from gankd.recipes.taught import Taught
from gankd.run import Run, Stage
from gankd.seeds import BLOCK
from gankd.training.distill import distill
from gankd.training.gan import GanTrainer
from gankd.training.supervised import train_supervised
from gankd.virtual.gan import KnowledgeGan

Status = Literal["reuse", "resume", "run"]


@dataclass(frozen=True)
class PlanRow:
    """One stage of a plan."""

    stage: str
    status: Status
    count: int
    """Stages of this kind that would run."""
    seconds: float
    """Estimated wall time; 0 where all is reused."""
    megabytes: float
    """Estimated disk space that it adds."""


def plan(
    recipe: Recipe,
    folder: Path,
    *,
    arms: Sequence[str] | None = None,
    workers: int = 1,
    splits: Splits | None = None,
) -> list[PlanRow]:
    """Estimate a run without training anything or writing to its folder.

    Args:
        recipe: settings.
        folder: run folder, which need not be there.
        arms: names of the rows of the table; all if not given.
        workers: students trained side by side.
        splits: images in memory in place of the recipe's data.

    Raises:
        GankdError: whatever the run itself would refuse at its start.
    """
    method = CganKd(recipe, Run(folder), splits)
    wanted = cells(recipe, arms or ARMS)
    train, engine = method.splits.train, method.engine
    teacher = engine.place(ImageModel.for_data(method.net(recipe.teacher.model, 0), train))
    student = engine.place(ImageModel.for_data(method.net(recipe.student.model, 0), train))
    trainer = GanTrainer(train, recipe.gan, engine, 0, None)

    teacher_steps = partial(teach_for, method, teacher)

    def gan_steps(steps: int) -> None:
        for step in range(steps):
            for number in range(recipe.gan.d_steps):
                trainer.discriminator_step(step * recipe.gan.d_steps + number)
            trainer.generator_step(step)

    student_steps = partial(distill_for, method, student)

    def virtual_steps(steps: int) -> None:
        gan = KnowledgeGan(train.task, recipe.virtual, seed=0)
        labels = train.task.hard_labels(train.labels.cpu())[torch.arange(recipe.virtual.batch_size) % len(train)]
        probs = torch.full((len(labels), gan.num_outputs), 1 / gan.num_outputs)
        for _ in range(steps):
            gan.step(probs, labels)

    def sampling(blocks: int) -> None:
        generator = method.external or trainer.generator
        labels = train.labels[:1].cpu().repeat(blocks * BLOCK)
        predict_with_features(teacher, sample_images(generator, labels, 0, "plan"), engine)

    needs_fakes = any(ARMS[name].fakes for name, _ in wanted)
    updates = recipe.teacher.updates * recipe.teacher.members if recipe.teacher.weights is None else 0
    rows = [_row(method.teacher_stage, updates, teacher_steps, recipe.teacher.members * _size(teacher))]
    taught_virtually = recipe.student.objective.needs_virtual and any(ARMS[name].kd for name, _ in wanted)
    if taught_virtually and recipe.student.virtual is None:
        row = _row(method.virtual_stage, recipe.virtual.polish, virtual_steps, 0.5)
        if row.status == "run" and method.beside and rows[0].status == "reuse":  # the teacher is trained once more
            row = replace(row, seconds=row.seconds + updates * seconds_per_step(teacher_steps))
        rows.append(row)
    if needs_fakes:
        steps = 0 if method.external else recipe.gan.steps
        rows.append(_row(method.gan_stage, steps, gan_steps, _size(trainer.generator)))
        rows.append(_row(method.ratio_stage, max(2 * len(train), 2048) // BLOCK + 1, sampling, 1.0))
        megabytes = recipe.synth.pool * method.bytes_per_fake / 1e6
        rows.append(_row(method.synth_stage, recipe.synth.pool // BLOCK + 1, sampling, megabytes))
    for name in dict.fromkeys(name for name, _ in wanted):
        for stage in method.assistant_stages(ARMS[name]):
            rows.append(_row(stage, recipe.student.updates, partial(student_steps, taught=True), _size(student)))
    left = [cell for cell in wanted if not method.student_stage(*cell).done]
    seconds = 0.0
    for taught in (False, True):
        some = [ARMS[name] for name, _ in left if ARMS[name].kd == taught]
        updates = sum(method.student_config(arm).updates for arm in some)
        seconds += updates * seconds_per_step(partial(student_steps, taught=taught)) if some else 0.0
    parallel = max(1, min(workers, len(left)))
    rows.append(
        PlanRow(
            f"students ({len(wanted)})",
            "run" if left else "reuse",
            len(left),
            seconds / parallel,
            len(left) * _size(student),
        )
    )
    return rows


def teach_for(method: Taught, teacher: ImageModel, updates: int) -> None:
    """Train a network as the run's teacher is."""
    train, config = method.splits.train, replace(method.recipe.teacher, updates=updates)
    train_supervised(teacher, train, train.subset(torch.arange(2)), config, method.engine, 0)


def distill_for(method: CganKd, student: ImageModel, updates: int, taught: bool) -> None:
    """Train a student on real images, by the loss of the run's recipe if it is taught."""
    train, recipe = method.splits.train, method.recipe
    distill(
        student,
        train,
        train.subset(torch.arange(2)),
        replace(recipe.student, updates=updates, assistants=()),
        method.engine,
        0,
        objective=recipe.student.objective if taught else None,
        teacher=method.engine.place(method.tutor.untrained_teacher()),
        new_student=method.new_student(recipe.student),
        virtual=method.untrained_virtual(),
    )


def _row(stage: Stage, steps: int, work: Callable[[int], None], megabytes: float) -> PlanRow:
    if stage.done:
        return PlanRow(stage.name, "reuse", 0, 0.0, 0.0)
    status: Status = "run"
    if stage.folder is not None and any(stage.folder.rglob("checkpoint.safetensors")):
        status = "resume"
    return PlanRow(stage.name, status, 1, steps * seconds_per_step(work), megabytes)


def seconds_per_step(work: Callable[[int], None], few: int = 1, many: int = 5) -> float:
    """Seconds per step: the difference between many and few, so that set-up does not count; the fastest of three each,
    as other processes only ever slow a step down.
    """

    def fastest(steps: int) -> float:
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            work(steps)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    work(few)
    some, all_ = fastest(few), fastest(many)
    return (all_ - some) / (many - few) if all_ > some else all_ / many


def _size(module: torch.nn.Module) -> float:
    return sum(value.numel() * value.element_size() for value in module.state_dict().values()) / 1e6


def plan_table(rows: Sequence[PlanRow], folder: Path) -> str:
    """The plan as people read it."""
    lines = [f"{'stage':<16} {'status':<8} {'time':>8} {'disk':>9}"]
    for row in rows:
        time_ = duration(row.seconds) if row.status != "reuse" else "-"
        disk = f"{row.megabytes:.1f} MB" if row.status != "reuse" else "-"
        lines.append(f"{row.stage:<16} {row.status:<8} {time_:>8} {disk:>9}")
    total, space = sum(row.seconds for row in rows), sum(row.megabytes for row in rows)
    lines.append(f"{'total':<16} {'':<8} {duration(total):>8} {f'{space:.1f} MB':>9}   in {folder}")
    return "\n".join(lines)
