"""cGAN-KD: distil a teacher into students through images from a conditional GAN.

Ding, Wang, Xu, Wang, Welch. Distilling and transferring knowledge via cGAN-generated samples for image classification
and regression. Expert Systems with Applications 213 (2023) 119060.
"""

import atexit
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from gankd.config import to_dict
from gankd.data.images import Splits
from gankd.errors import RunError
from gankd.recipes.arms import Arm
from gankd.recipes.config import Recipe
from gankd.recipes.exchange import Exchange
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import (
    check_disk,
    make_generator,
    make_pool,
    make_ratio,
    make_ratio_features,
    open_pool,
    select_images,
)
from gankd.recipes.stages import Cell, Stages, declare
from gankd.recipes.students import Material, make_assistants, make_student
from gankd.recipes.teacher import make_teacher, other_teacher
from gankd.recipes.unlabelled import make_unlabelled, select_unlabelled
from gankd.recipes.virtual import given_virtual, make_virtual
from gankd.recipes.workers import LocalWorkers, Work, Workers, as_workers
from gankd.runs import Run, fingerprint
from gankd.synthetic import Selection
from gankd.text import duration

Job = tuple[Arm, int, str]
"""A student to train: its arm, its seed, and the fingerprint of its stage."""
Ended = Callable[[Cell, Exception | None], None]
"""Called for every student that has ended, with the error of one that failed."""


def cgan_kd(
    experiment: Experiment,
    arms: Sequence[Arm],
    seeds: Sequence[int] = (),
    *,
    workers: int | Workers = 1,
    ended: Ended | None = None,
) -> Stages:
    """Run the method: each stage restores its finished result, or computes it from the results before it.

    Args:
        experiment: settings, images, device and run folder.
        arms: ways to train the students; stages that none of their unfinished students needs are left out.
        seeds: of the students of each arm; without seeds everything up to the students is made.
        workers: number of students trained side by side here, or workers on other machines.
        ended: called for each student; if given, one that fails does not stop the others.

    Returns:
        All stages, finished.

    Raises:
        GankdError: with one line that says what to do.
    """
    recipe, stages = experiment.recipe, declare(experiment, arms, seeds)
    exchange = as_workers(workers).exchange(experiment.run.folder)
    if exchange is not None:  # an earlier head, which is lost, may have finished some
        exchange.bring(stages)
    arms = stages.unfinished(arms)
    sees_generated = any(arm.images is not None for arm in arms)
    if sees_generated:
        check_disk(experiment, recipe.synth, stages.synth)

    # --- virtual teacher (VKD), before the teacher because it may be trained alongside it; or from a file
    virtual = None
    if any(arm.reads_virtual for arm in arms):
        virtual = given_virtual(experiment, recipe.student)
        if stages.virtual is not None:
            virtual = make_virtual(experiment, recipe.virtual, stages.teacher, stages.virtual)

    # --- teacher -> generator -> density ratio -> pool of generated images
    if sees_generated:
        teacher = make_teacher(experiment, recipe.teacher, stages.teacher)
        if not stages.synth.done:
            generator = make_generator(experiment, teacher, recipe.gan, stages.gan)
            features = make_ratio_features(experiment, teacher, recipe.ratio, recipe.teacher, stages.ratio)
            ratio = make_ratio(experiment, features, generator, recipe.ratio, stages.ratio)
            origin = {"gan": stages.gan.fingerprint, "ratio": stages.ratio.fingerprint}
            make_pool(experiment, teacher, generator, features, ratio, recipe.synth, stages.synth, origin)

    # --- the user's images without labels, as the teacher labels them
    if stages.unlabelled is not None and any(arm.unlabelled for arm in arms):
        teacher = make_teacher(experiment, recipe.teacher, stages.teacher)
        make_unlabelled(experiment, teacher, stages.unlabelled)

    # --- what the students of each arm learn from: selected images, a teacher or its assistants, the virtual teacher
    materials = {}
    for arm in arms:
        own = arm.recipe(recipe)
        config = other_teacher(own, own.student.teacher)
        material = Material(virtual=virtual, filtered=config == recipe.teacher)
        if arm.sees_more:
            material = replace(material, selections=_selections(experiment, arm, stages))
        if arm.reads_teacher:
            stage = stages.lessons[arm.name]
            material = replace(material, teacher=make_teacher(experiment, config, stage), outputs=stage.folder)
        materials[arm.name] = make_assistants(experiment, arm, material, stages.assistants[arm.name])

    # --- students; fine-tuned ones start from students of real images
    starts = stages.missing_starts()
    if starts:
        begin = [arm.start for arm in arms if arm.name in {name for name, _ in starts}]
        tolerant = None if ended is None else lambda *_: None
        cgan_kd(experiment, begin, sorted({seed for _, seed in starts}), workers=workers, ended=tolerant)
    _train_students(experiment, arms, seeds, stages, materials, workers, ended)
    return stages


def arm_images(experiment: Experiment, arm: Arm, stages: Stages) -> Selection:
    """Generated images that the students of an arm see, selected from a finished pool."""
    config = arm.selection(arm.recipe(experiment.recipe).select)
    assert config is not None
    teacher = make_teacher(experiment, experiment.recipe.teacher, stages.teacher)
    return select_images(experiment, open_pool(experiment, stages.synth), teacher, config, stages.synth)


def _selections(experiment: Experiment, arm: Arm, stages: Stages) -> tuple[tuple[Selection, Path], ...]:
    """Images that an arm adds to the real ones, generated ones first, each with the folder of their pool."""
    found = []
    if arm.images is not None:
        found.append((arm_images(experiment, arm, stages), stages.synth.path("pool")))
    config = arm.unlabelled_selection(arm.recipe(experiment.recipe).select)
    if config is not None:
        assert stages.unlabelled is not None
        teacher = make_teacher(experiment, experiment.recipe.teacher, stages.teacher)
        chosen = select_unlabelled(experiment, teacher, config, stages.unlabelled)
        found.append((chosen, stages.unlabelled.path("pool")))
    return tuple(found)


def _train_students(
    experiment: Experiment,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    stages: Stages,
    materials: dict[str, Material],
    workers: int | Workers,
    ended: Ended | None,
) -> None:
    """Train the students that are not finished, several at a time with one thread each; equal ones once."""
    jobs: dict[Job, list[Cell]] = {}
    first: dict[str, Job] = {}  # by fingerprint: different arms may describe the same student
    for arm, seed in [(arm, seed) for seed in seeds for arm in arms]:
        stage = stages.students[arm.name, seed]
        if not stage.done:
            job = first.setdefault(stage.fingerprint, (arm, seed, stage.fingerprint))
            jobs.setdefault(job, []).append((arm.name, seed))
    if not jobs:
        return

    def train_here(job: Job) -> None:
        arm, seed, _ = job
        own, start = stages.starts.get((arm.name, seed)), None
        if own is not None:
            start = make_student(experiment, arm.start, seed, Material(), own)
        make_student(experiment, arm, seed, materials[arm.name], stages.students[arm.name, seed], start)

    total, console, config, engine = len(jobs), experiment.run.console, experiment.recipe.student, experiment.engine
    if experiment.live and as_workers(workers) != LocalWorkers():
        experiment.say("students", "one at a time: networks and generators in memory stay in this process")
        workers = LocalWorkers()
    workers = as_workers(workers)
    exchange = workers.exchange(experiment.run.folder)
    if exchange is not None:
        exchange.take([*stages.shared, *stages.starts.values()])
    shared = (
        str(experiment.run.folder),
        exchange,
        experiment.splits if "splits" in experiment.in_memory else None,
        experiment.recipe,
    )
    begun = time.monotonic()
    experiment.say("students", f"{total} to train, {min(workers.at_a_time(engine), total)} at a time")
    work = Work(
        function=_train_in_worker,
        shared=shared,
        jobs=list(jobs),
        engine=engine,
        tolerant=ended is not None,
        here=train_here,
    )
    for done, (job, error) in enumerate(workers.run(work), 1):
        if exchange is not None and error is None:
            exchange.bring([stages.students[jobs[job][0]]])
        if ended is not None:
            for cell in jobs[job]:
                ended(cell, error)
        if console.outlook is not None:
            console.outlook.student_ended()
        if console.due() or done == total:
            elapsed = time.monotonic() - begun
            rate = done * config.updates * config.batch_size / elapsed
            console.progress("students", done, total, rate, elapsed / done * (total - done), {})
    experiment.say("students", f"{total} trained in {duration(time.monotonic() - begun)}")


# --- in another process -------------------------------------------------------------------------------------


class _Held:
    """Experiment that a worker keeps from one student to the next, with teacher and pool in memory."""

    key = ""
    experiment: Experiment


@cache
def _scratch() -> str:
    """Run folder of a worker that uses an exchange; names of stages differ, so it serves many runs."""
    folder = tempfile.mkdtemp(prefix="gankd-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _train_in_worker(folder: str, exchange: Exchange | None, splits: Splits | None, recipe: Recipe, job: Job) -> None:
    """Train one student in another process, which restores what the student learns from out of the run folder."""
    key = fingerprint(folder, to_dict(recipe), None if splits is None else splits.fingerprint())
    if _Held.key != key:
        if exchange is not None:
            exchange.check()
            folder = _scratch()
        _Held.experiment, _Held.key = Experiment.open(recipe, Run(Path(folder)), splits), key
    arm, seed, expected = job
    experiment = _Held.experiment
    if exchange is None:
        cgan_kd(experiment, [arm], [seed])
        return
    stages = declare(experiment, [arm], [seed])
    student = stages.students[arm.name, seed]
    if student.fingerprint != expected:
        raise RunError(
            f"worker {platform.node()} would train another student than the one that was asked for: its images, code, "
            "version of gankd, device or precision differ; use the same on all machines, or --set precision=fp32"
        )
    exchange.bring([*stages.shared, *stages.starts.values()], link=True)
    cgan_kd(experiment, [arm], [seed])
    exchange.take([student])
