"""Plan of a run: the stages that are reused, those that will run, and their cost, from a few timed steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Unpack

from gankd.bench.budget import at_equal_time, lengthened, side_by_side, with_updates
from gankd.bench.cost import Peak
from gankd.bench.prices import LONGEST_STEP, Prices, StepTime, Timer, megabytes
from gankd.outlook import STUDENTS, Outlook
from gankd.recipes.arms import Arm, chosen_arms
from gankd.recipes.config import Recipe, TeacherConfig
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import bytes_per_image
from gankd.recipes.given import input_size
from gankd.recipes.live import Given
from gankd.recipes.stages import Stages, declare
from gankd.recipes.students import assistant_configs
from gankd.recipes.teacher import other_teacher, with_suited_augmentation
from gankd.recipes.virtual import trained_alongside
from gankd.recipes.workers import Workers, as_workers
from gankd.runs import Run, Stage
from gankd.seeds import BLOCK
from gankd.text import Table, duration, hours

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
    cpu: float
    """Estimated CPU time."""
    megabytes: float
    """Estimated disk space that it adds."""
    counted: bool = False
    """True if estimated from the shapes of networks, as a step would take too long to time."""

    def longer(self, steps: int, step: Callable[[], StepTime]) -> "PlanRow":
        """This row plus the cost of `steps` more steps, unless the stage is reused."""
        if self.status == "reuse":
            return self
        each = step()
        return replace(
            self,
            seconds=self.seconds + steps * each.seconds,
            cpu=self.cpu + steps * each.cpu,
            counted=self.counted or each.counted,
        )


def plan(
    recipe: Recipe,
    folder: Path | str,
    *,
    arms: Sequence[str | Arm] | None = None,
    workers: int | Workers = 1,
    timer: Timer | None = None,
    **given: Unpack[Given],
) -> list[PlanRow]:
    """Estimate a run without training anything or writing to its folder.

    Args:
        recipe: settings.
        folder: run folder, which need not be there.
        arms: ways to train the students, as for `run`; default: all.
        workers: number of students trained side by side here, or workers on other machines.
        timer: how steps are timed.
        given: splits, networks and a generator in memory, as for `run`.

    Raises:
        GankdError: whatever the run itself would refuse at its start.
    """
    experiment = with_suited_augmentation(Experiment.open(recipe, Run(Path(folder)), **given))
    return plan_rows(experiment, chosen_arms(experiment.recipe, arms), Prices(timer or Timer()), workers)


def plan_rows(experiment: Experiment, arms: Sequence[Arm], prices: Prices, workers: int | Workers) -> list[PlanRow]:
    """The rows of `plan` for an experiment that is open.

    Controls at equal time are as long as generator, density ratio and pool are expected to take.

    Args:
        experiment: settings and images.
        arms: ways to train the students.
        prices: cost of a step.
        workers: number of students trained side by side here, or workers on other machines.
    """
    arms = with_updates(experiment, arms, keep=False)
    known = {arm.name: arm for arm in at_equal_time(experiment, arms, measure=False)}
    rows: list[PlanRow] = []
    for number, (each, seeds) in enumerate(experiment.pipelines(), 1):
        stages = declare(each, arms, seeds)
        shared = shared_rows(each, arms, stages, prices)
        chosen = [known.get(arm.name) or _expected(each, arm, arms, stages, shared, prices, workers) for arm in arms]
        students = students_row(each, chosen, declare(each, chosen, seeds), prices, workers)
        own = [*shared.values(), students]
        rows += own if number == 1 else [replace(row, stage=f"{row.stage}, pipeline {number}") for row in own]
    return rows


def outlook(experiment: Experiment, arms: Sequence[Arm], workers: int | Workers) -> Outlook:
    """The outlook on a run from here, by a few timed steps; arguments as for `plan_rows`."""
    rows = [row for row in plan_rows(experiment, arms, Prices(Timer()), workers) if row.status != "reuse"]
    expected: dict[str, float] = {}
    for row in rows:
        name = STUDENTS if row.stage.startswith(STUDENTS) else row.stage
        expected[name] = expected.get(name, 0.0) + row.seconds
    return Outlook(expected, sum(row.count for row in rows if row.stage.startswith(STUDENTS)))


def shared_rows(experiment: Experiment, arms: Sequence[Arm], stages: Stages, prices: Prices) -> dict[str, PlanRow]:
    """One row per stage before the students, by fingerprint, in the order of the method.

    Args:
        experiment: settings and images.
        arms: as they were declared.
        stages: what `cgan_kd` would make or restore.
        prices: cost of a step.
    """
    recipe = experiment.recipe
    needed = stages.to_make(arms)
    rows: dict[str, PlanRow] = {}
    if stages.teacher.fingerprint in {stage.fingerprint for stage in stages.shared}:
        rows[stages.teacher.fingerprint] = _teacher(experiment, recipe.teacher, stages.teacher, prices)
    if stages.virtual is not None:
        rows[stages.virtual.fingerprint] = _virtual(experiment, stages, stages.virtual, prices)
    if stages.generated is not None:
        rows[stages.gan.fingerprint] = _generator(experiment, stages.gan, prices)
        rows[stages.ratio.fingerprint] = _ratio(experiment, stages.ratio, prices)
        blocks, space = recipe.synth.pool // BLOCK + 1, recipe.synth.pool * bytes_per_image(experiment) / 1e6
        rows[stages.synth.fingerprint] = _row(stages.synth, blocks, lambda: prices.sampling(experiment), space)
    if stages.unlabelled is not None:
        count = len(experiment.splits.unlabelled)  # type: ignore[arg-type]
        rows[stages.unlabelled.fingerprint] = _row(
            stages.unlabelled, 0, StepTime, count * bytes_per_image(experiment) / 1e6
        )
    for arm in arms:
        lesson = stages.lessons.get(arm.name)
        if lesson is not None and lesson.fingerprint not in rows:
            config = other_teacher(arm.recipe(recipe), arm.recipe(recipe).student.teacher)
            rows[lesson.fingerprint] = replace(_teacher(experiment, config, lesson, prices), stage=config.model)
        for place, stage in enumerate(stages.assistants[arm.name]):
            if stage.fingerprint not in rows:
                rows[stage.fingerprint] = _assistant(experiment, arm, place, stage, prices)
    # A stage that nothing unfinished needs is not made again, even if its folder is gone.
    return {key: row for key, row in rows.items() if row.status == "reuse" or key in needed}


def _teacher(experiment: Experiment, config: TeacherConfig, stage: Stage, prices: Prices) -> PlanRow:
    updates = 0 if config.is_given else config.updates * config.members
    space = config.members * megabytes(experiment.net(config.network, 0, input_size(config)))
    return _row(stage, updates, lambda: prices.teacher(experiment, config), space)


def _virtual(experiment: Experiment, stages: Stages, stage: Stage, prices: Prices) -> PlanRow:
    recipe, teacher = experiment.recipe, stages.teacher
    row = _row(stage, recipe.virtual.polish, lambda: prices.virtual(experiment), 0.5)
    if row.status == "run" and trained_alongside(recipe, experiment.splits) and teacher.done:
        row = row.longer(recipe.teacher.updates, lambda: prices.teacher(experiment, recipe.teacher))
    return row


def _generator(experiment: Experiment, stage: Stage, prices: Prices) -> PlanRow:
    config = experiment.recipe.gan
    steps = 0 if config.external is not None else config.steps
    row = _row(stage, steps, lambda: prices.generator(experiment), prices.generator_megabytes(experiment))
    if steps and config.label_input == "ili":  # for classes nothing is trained, and it costs nothing
        row = row.longer(config.ili_updates, lambda: prices.label_embedding(experiment))
    return row


def _ratio(experiment: Experiment, stage: Stage, prices: Prices) -> PlanRow:
    recipe, count = experiment.recipe, prices.real or len(experiment.splits.train)
    row = _row(stage, max(2 * count, 2048) // BLOCK + 1, lambda: prices.sampling(experiment), 1.0)
    if recipe.ratio.fresh:
        row = row.longer(recipe.ratio.epochs * count // BLOCK + 1, lambda: prices.sampling(experiment))
    if recipe.ratio.features != "teacher":
        row = row.longer(recipe.teacher.updates, lambda: prices.ratio_features(experiment))
    return row


def _assistant(experiment: Experiment, arm: Arm, place: int, stage: Stage, prices: Prices) -> PlanRow:
    config = assistant_configs(experiment.recipe, arm)[place]
    space = megabytes(experiment.net(config.network, 0, config.input_size))
    return _row(stage, config.updates, lambda: prices.assistant(experiment, arm, place), space)


def students_row(
    experiment: Experiment,
    arms: Sequence[Arm],
    stages: Stages,
    prices: Prices,
    workers: int | Workers,
    title: str | None = None,
) -> PlanRow:
    """All students in one row.

    Args:
        experiment, arms, stages, prices: as for `shared_rows`.
        workers: number of students trained side by side here, or workers on other machines.
        title: default: students and their number.
    """
    by_name = {arm.name: arm for arm in arms}
    wanted = {stage.fingerprint: (by_name[name], stage) for (name, _), stage in stages.students.items()}
    starts = {
        stages.starts[cell].fingerprint: (by_name[cell[0]].start, stages.starts[cell])
        for cell in stages.missing_starts()
    }
    left = [arm for arm, stage in (starts | wanted).values() if not stage.done]
    seconds, cpu, counted, space = 0.0, 0.0, False, 0.0
    for arm in left:
        config = arm.recipe(experiment.recipe).student
        step = prices.student(experiment, arm)
        seconds, cpu = seconds + config.updates * step.seconds, cpu + config.updates * step.cpu
        counted = counted or step.counted
        space += megabytes(experiment.net(config.network, 0, config.input_size))
    seconds /= max(1, min(as_workers(workers).at_a_time(experiment.engine), len(left)))
    name = title or f"students ({len(stages.students)})"
    return PlanRow(name, "run" if left else "reuse", len(left), seconds, cpu, space, counted)


def _expected(
    experiment: Experiment,
    arm: Arm,
    arms: Sequence[Arm],
    stages: Stages,
    shared: Mapping[str, PlanRow],
    prices: Prices,
    workers: int | Workers,
) -> Arm:
    """A control at equal time as long as it will be if generator, density ratio and pool take what `shared` says; as
    long as it can become where nothing says so.
    """
    recipe = experiment.recipe
    if not arm.timed:
        return arm
    updates, factor = arm.recipe(recipe).student.updates, recipe.time_cap
    if stages.generated is not None:
        made = (stages.gan, stages.ratio, stages.synth)
        seconds = sum(stage.seconds if stage.done else shared[stage.fingerprint].seconds for stage in made)
        learners = recipe.seeds * sum(each.images is not None for each in arms)
        seconds *= side_by_side(experiment, workers) / (learners if arm.updates == "shared time" else 1)
        factor = 1 + seconds / (updates * prices.student(experiment, arm).seconds)
    return lengthened(arm, updates, factor, recipe.time_cap)


def _row(stage: Stage, steps: int, step: Callable[[], StepTime], space: float) -> PlanRow:
    """A stage of `steps` equal steps, which are timed only if it is to run."""
    if stage.done:
        return PlanRow(stage.name, "reuse", 0, 0.0, 0.0, 0.0)
    status: Status = "run"
    if stage.folder is not None and any(stage.folder.rglob("checkpoint.safetensors")):
        status = "resume"
    each = step() if steps else StepTime()
    return PlanRow(stage.name, status, 1, steps * each.seconds, steps * each.cpu, space, each.counted)


def plan_table(rows: Sequence[PlanRow], folder: Path | str, on: Peak | None = None) -> str:
    """The plan as plain text; `on` a machine that is not here, times and operations."""
    if on is not None:
        return _counted_table(rows, folder, on)
    cells = []
    for row in rows:
        runs = row.status != "reuse"
        cost = [duration(row.seconds) + " *" * row.counted, duration(row.cpu), f"{row.megabytes:.1f} MB"]
        cells.append([row.stage, row.status, *(cost if runs else ["-"] * len(cost))])
    total, cpu, space = (sum(getattr(row, name) for row in rows) for name in ("seconds", "cpu", "megabytes"))
    cells.append(["total", "", duration(total), duration(cpu), f"{space:.1f} MB"])
    notes = [f"in {folder}"]
    if any(row.counted for row in rows):
        notes.append(f"* estimated from the shapes of networks, as a step takes more than {LONGEST_STEP:g} s")
    return Table(["stage", "status", "time", "CPU time", "disk"], cells, align="llrrr", notes=notes).plain()


def _counted_table(rows: Sequence[PlanRow], folder: Path | str, on: Peak) -> str:
    cells = [
        [row.stage, row.status, *([hours(row.seconds), f"{row.seconds * on.speed:.2g}"] if row.seconds else "--")]
        for row in rows
    ]
    total = sum(row.seconds for row in rows)
    cells.append(["total", "", hours(total), f"{total * on.speed:.2g}"])
    notes = [
        f"in {folder}, on {on.name}",
        "Operations are counted from the shapes of networks; a stage without any is small and not counted. The share "
        "is a guess, as small networks keep a large machine waiting: set it with --share. Controls at equal time come "
        "on top.",
    ]
    return Table(["stage", "status", "hours", "operations"], cells, align="llrr", notes=notes).plain()
