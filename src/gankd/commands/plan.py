"""What a run would do: which stages are reused, which will run, and what they cost here, from a few timed steps."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from gankd.bench.compare import cells
from gankd.bench.cost import gan_step, machine_speed, sampling_step, training_step
from gankd.console import Console
from gankd.data.images import Splits
from gankd.models.contract import ImageModel, predict_with_features
from gankd.recipes.arms import ARMS, Arm
from gankd.recipes.cgan_kd import CLASSIFIER, CganKd, sample_images
from gankd.recipes.config import Recipe
from gankd.recipes.taught import Taught
from gankd.runs import Run, Stage
from gankd.seeds import BLOCK
from gankd.subsampling.autoencoder import SparseAutoencoder
from gankd.tasks import Regression
from gankd.text import duration
from gankd.training.autoencoder import train_autoencoder
from gankd.training.distill import distill
from gankd.training.gan import GanTrainer
from gankd.training.label_embedding import train_label_embedding
from gankd.training.lesson import Lesson
from gankd.training.supervised import train_supervised
from gankd.virtual import KnowledgeGan

Status = Literal["reuse", "resume", "run"]
SLOW_STEP = 1.0
"""Seconds from which on a step is timed once."""
LONGEST_STEP = 10.0
"""Seconds from which on a step of a published table is not timed at all."""


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
    counted: bool = False
    """From the shapes of networks alone, as a step would take too long to time."""


class StepTime(NamedTuple):
    """Of one step."""

    seconds: float
    counted: bool = False


class Timer:
    """Times steps and says whose.

    Args:
        console: where it says so.
        count: take long steps from the shapes of networks.
    """

    def __init__(self, console: Console | None = None, *, count: bool = False) -> None:
        self.console, self.count = console or Console("quiet"), count

    @cached_property
    def speed(self) -> float:
        """Operations per second here."""
        return machine_speed()

    def __call__(self, what: str, work: Callable[[int], None], operations: Callable[[], float]) -> StepTime:
        """Seconds of one step of `work`, which needs so many `operations`; 0: unknown."""
        guess = operations() / self.speed if self.count else 0.0
        if guess > LONGEST_STEP:
            self.console.say(f"{what:<40} about {duration(guess)} a step, from shapes: too long to time")
            return StepTime(guess, counted=True)
        found = StepTime(seconds_per_step(work))
        self.console.say(f"{what:<40} {found.seconds:.2g} s a step")
        return found


def plan(
    recipe: Recipe,
    folder: Path,
    *,
    arms: Sequence[str] | None = None,
    workers: int = 1,
    splits: Splits | None = None,
    timer: Timer | None = None,
) -> list[PlanRow]:
    """Estimate a run without training anything or writing to its folder.

    Args:
        recipe: settings.
        folder: run folder, which need not be there.
        arms: names of the rows of the table; all if not given.
        workers: students trained side by side.
        splits: images in memory in place of the recipe's data.
        timer: how steps are timed.

    Raises:
        GankdError: whatever the run itself would refuse at its start.
    """
    method = CganKd(recipe, Run(folder), splits)
    wanted = cells(recipe, arms or ARMS)
    train, engine = method.splits.train, method.engine
    teacher = engine.place(ImageModel.for_data(method.net(recipe.teacher.model, 0), train))
    student = engine.place(ImageModel.for_data(method.net(recipe.student.model, 0), train))
    timer = timer or Timer()
    trainer = GanTrainer(train, recipe.gan, engine, 0, None, method.untrained_teacher())

    teacher_steps = partial(teach_for, method, teacher)

    def gan_steps(steps: int) -> None:
        for step in range(steps):
            for number in range(recipe.gan.d_steps):
                trainer.discriminator_step(step * recipe.gan.d_steps + number)
            trainer.generator_step(step)

    student_steps = partial(distill_for, method, student)

    def ili_steps(updates: int) -> None:
        train_label_embedding(train, train.subset(torch.arange(2)), updates, engine, 0, Stage("ili"))

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

    teacher_work = partial(work_of, method, recipe.teacher.model, recipe.teacher.batch_size)

    def student_work(taught: bool) -> float:
        return work_of(method, recipe.student.model, recipe.student.batch_size, taught)

    def sampling_work() -> float:
        return sampling_step(recipe.gan, train.task, train.shape, recipe.teacher.model, BLOCK)

    needs_fakes = any(ARMS[name].fakes for name, _ in wanted)
    updates = recipe.teacher.updates * recipe.teacher.members if recipe.teacher.weights is None else 0
    name, megabytes = f"teacher {recipe.teacher.model}", recipe.teacher.members * _size(teacher)
    once = _once(timer, name, teacher_steps, teacher_work)
    rows = [_row(method.teacher_stage, updates, once, megabytes)]
    taught_virtually = recipe.student.objective.needs_virtual and any(ARMS[name].kd for name, _ in wanted)
    if taught_virtually and recipe.student.virtual is None:
        once = _once(timer, "virtual teacher", virtual_steps, lambda: 0.0)
        row = _row(method.virtual_stage, recipe.virtual.polish, once, 0.5)
        if row.status == "run" and method.beside and rows[0].status == "reuse":  # the teacher is trained once more
            again = timer(name, teacher_steps, teacher_work)
            row = replace(row, seconds=row.seconds + updates * again.seconds, counted=again.counted)
        rows.append(row)
    if needs_fakes:
        steps = 0 if method.external else recipe.gan.steps
        once = _once(timer, "generator", gan_steps, lambda: gan_step(recipe.gan, train.task, train.shape))
        row = _row(method.gan_stage, steps, once, _size(trainer.generator))
        if steps and isinstance(train.task, Regression) and recipe.gan.label_input == "ili":
            row = _longer(row, recipe.gan.ili_updates, _once(timer, "label embedding (ILI)", ili_steps, lambda: 0.0))
        rows.append(row)
        once = _once(timer, f"sampling, {BLOCK} images", sampling, sampling_work)
        row = _row(method.ratio_stage, max(2 * len(train), 2048) // BLOCK + 1, once, 1.0)
        if recipe.ratio.features != "teacher":
            feature_steps, work = _features_of_ratio(method)
            once_features = _once(timer, f"ratio's {recipe.ratio.features}", feature_steps, work)
            row = _longer(row, recipe.teacher.updates, once_features)
        rows.append(row)
        megabytes = recipe.synth.pool * method.bytes_per_fake / 1e6
        rows.append(_row(method.synth_stage, recipe.synth.pool // BLOCK + 1, once, megabytes))
    for name in dict.fromkeys(name for name, _ in wanted):
        rows += assistant_rows(method, ARMS[name], timer)
    left = [cell for cell in wanted if not method.student_stage(*cell).done]
    seconds, counted = 0.0, False
    for taught in (False, True):
        some = [ARMS[name] for name, _ in left if ARMS[name].kd == taught]
        updates = sum(method.student_config(arm).updates for arm in some)
        if some:
            what = f"student {recipe.student.model}{', taught' * taught}"
            step = timer(what, partial(student_steps, taught=taught), partial(student_work, taught=taught))
            seconds, counted = seconds + updates * step.seconds, counted or step.counted
    parallel = max(1, min(engine.at_a_time(workers), len(left)))
    rows.append(
        PlanRow(
            f"students ({len(wanted)})",
            "run" if left else "reuse",
            len(left),
            seconds / parallel,
            len(left) * _size(student),
            counted,
        )
    )
    return rows


def assistant_rows(method: CganKd, arm: Arm, timer: Timer) -> list[PlanRow]:
    """What the networks between teacher and student take."""
    rows, config = [], method.recipe.student
    for stage, name in zip(method.assistant_stages(arm), config.assistants, strict=False):
        net = method.engine.place(ImageModel.for_data(method.net(name, 0), method.splits.train))
        steps = partial(distill_for, method, net, taught=True)
        once = _once(timer, f"assistant {name}", steps, partial(work_of, method, name, config.batch_size, True))
        rows.append(_row(stage, method.student_config(arm).updates, once, _size(net)))
    return rows


def _features_of_ratio(method: CganKd) -> tuple[Callable[[int], None], Callable[[], float]]:
    """Training of the network in whose features real and generated images are compared, and operations of an update."""
    train = method.splits.train
    if method.recipe.ratio.features == "classifier":
        net = method.engine.place(ImageModel.for_data(method.net(CLASSIFIER, 0), train))
        work = partial(work_of, method, CLASSIFIER, method.recipe.teacher.batch_size)
        return partial(teach_for, method, net), work
    encoder = method.engine.place(SparseAutoencoder(train.task, train.shape, 0))

    def steps(updates: int) -> None:
        train_autoencoder(encoder, train, updates, method.engine, 0, Stage("autoencoder"))

    return steps, lambda: 0.0


def _longer(row: PlanRow, steps: int, step: Callable[[], StepTime]) -> PlanRow:
    """The same stage with so many further steps, if it is to run."""
    if row.status == "reuse":
        return row
    each = step()
    return replace(row, seconds=row.seconds + steps * each.seconds, counted=row.counted or each.counted)


def work_of(method: CganKd | Taught, name: str, batch: int, taught: bool = False) -> float:
    """Operations of one update of a network on the run's images, beside its teacher if it is taught."""
    train = method.splits.train
    teacher = method.tutor.recipe.teacher.model if taught and isinstance(method, CganKd) else None
    return training_step(name, train.shape, train.task.head_size, batch, teacher)


def teach_for(method: Taught, teacher: ImageModel, updates: int) -> None:
    """Train a network as the run's teacher is."""
    train, config = method.splits.train, replace(method.recipe.teacher, updates=updates)
    train_supervised(teacher, train, train.subset(torch.arange(2)), config, method.engine, 0)


def distill_for(method: CganKd, student: ImageModel, updates: int, taught: bool) -> None:
    """Train a student on real images, by the loss of the run's recipe if it is taught."""
    train, recipe = method.splits.train, method.recipe
    teacher = method.engine.place(method.tutor.untrained_teacher())
    lesson = Lesson(recipe.student.objective, teacher, method.untrained_virtual(), method.new_student(recipe.student))
    distill(
        student,
        train,
        train.subset(torch.arange(2)),
        replace(recipe.student, updates=updates, assistants=()),
        method.engine,
        0,
        lesson=lesson if taught else None,
    )


def _once(
    timer: Timer, what: str, work: Callable[[int], None], operations: Callable[[], float]
) -> Callable[[], StepTime]:
    return cache(lambda: timer(what, work, operations))  # ratio and pool are made of the same steps


def _row(stage: Stage, steps: int, step: Callable[[], StepTime], megabytes: float) -> PlanRow:
    if stage.done:
        return PlanRow(stage.name, "reuse", 0, 0.0, 0.0)
    status: Status = "run"
    if stage.folder is not None and any(stage.folder.rglob("checkpoint.safetensors")):
        status = "resume"
    each = step() if steps else StepTime(0.0)
    return PlanRow(stage.name, status, 1, steps * each.seconds, megabytes, each.counted)


def seconds_per_step(work: Callable[[int], None], few: int = 1, many: int = 5) -> float:
    """Seconds per step: the difference between many and few, so that set-up does not count; the fastest of three each,
    as other processes only ever slow a step down. A slow step is timed once after one to warm up, which has more weight
    than set-up then.
    """

    def once(steps: int) -> float:
        start = time.perf_counter()
        work(steps)
        return time.perf_counter() - start

    work(few)
    first = once(few)
    if first > SLOW_STEP * few:
        return first / few
    some, all_ = min(first, once(few), once(few)), min(once(many) for _ in range(3))
    return (all_ - some) / (many - few) if all_ > some else all_ / many


def _size(module: torch.nn.Module) -> float:
    return sum(value.numel() * value.element_size() for value in module.state_dict().values()) / 1e6


def plan_table(rows: Sequence[PlanRow], folder: Path) -> str:
    """The plan as people read it."""
    times = [duration(row.seconds) + " *" * row.counted if row.status != "reuse" else "-" for row in rows]
    total, space = sum(row.seconds for row in rows), sum(row.megabytes for row in rows)
    width = max(8, len(duration(total)), *map(len, times))
    lines = [f"{'stage':<16} {'status':<8} {'time':>{width}} {'disk':>9}"]
    for row, time_ in zip(rows, times, strict=True):
        disk = f"{row.megabytes:.1f} MB" if row.status != "reuse" else "-"
        lines.append(f"{row.stage:<16} {row.status:<8} {time_:>{width}} {disk:>9}")
    lines.append(f"{'total':<16} {'':<8} {duration(total):>{width}} {f'{space:.1f} MB':>9}   in {folder}")
    if any(row.counted for row in rows):
        lines.append(f"* from the shapes of networks, to a factor of some: a step takes more than {LONGEST_STEP:g} s")
    return "\n".join(lines)
