"""The virtual teacher as a stage of a run: trained alongside the teacher or after it, or read from a file."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from gankd.config import to_dict
from gankd.data.images import Splits
from gankd.errors import CheckpointError, ConfigError
from gankd.models.contract import ImageModel
from gankd.recipes.config import Recipe, StudentConfig
from gankd.recipes.experiment import Experiment
from gankd.recipes.teacher import finish_teacher, make_teacher, new_teacher, teacher_stage, train_teacher
from gankd.runs import Stage, fingerprint
from gankd.storage import load_state
from gankd.virtual import (
    Inspection,
    OutputReader,
    TeacherTraining,
    VirtualConfig,
    VirtualTeacher,
    Watcher,
    inspect_virtual,
    learns_alongside,
    load_virtual,
    make_output_reader,
    train_virtual,
)


def trained_alongside(recipe: Recipe, splits: Splits) -> bool:
    """True if the virtual teacher is trained alongside the teacher, False if after it; see `learns_alongside`."""
    teacher = recipe.teacher
    watched = teacher.members == 1 and not teacher.is_given and teacher.mix == "none"
    return learns_alongside(recipe.virtual, splits.task, teacher.updates if watched else None)


def virtual_stage(experiment: Experiment, config: VirtualConfig, teacher: Stage) -> Stage:
    """Identity and state of the virtual teacher that this run trains."""
    settings = {**to_dict(config), "beside": trained_alongside(experiment.recipe, experiment.splits)}
    return experiment.stage("virtual", settings, teacher=teacher.fingerprint)


def finished_virtual(experiment: Experiment, teacher: Stage) -> Stage | None:
    """The virtual teacher that this run has trained, if there is one."""
    if experiment.recipe.student.virtual is not None or not teacher.done:
        return None
    try:
        stage = virtual_stage(experiment, experiment.recipe.virtual, teacher)
    except ConfigError:  # settings that no virtual teacher can have
        return None
    return stage if stage.done else None


def given_fingerprint(path: str) -> str:
    """Identity of a virtual teacher's file: its content.

    Raises:
        CheckpointError: no such file.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"no virtual teacher {path} (student.virtual); gankd vkd train writes one")
    return fingerprint(hashlib.blake2b(Path(path).read_bytes()).hexdigest())


def given_virtual(experiment: Experiment, config: StudentConfig) -> VirtualTeacher | None:
    """The virtual teacher of `student.virtual`, on the device; None if that is not set.

    Raises:
        DataError: it was made for other labels. CheckpointError: missing or damaged.
    """
    if config.virtual is None:
        return None
    virtual = VirtualTeacher.load(Path(config.virtual))
    virtual.check_task(experiment.splits.task, config.virtual)
    return virtual.to(experiment.engine.device)


def untrained_virtual(experiment: Experiment, config: VirtualConfig) -> VirtualTeacher:
    """A virtual teacher before training, for dry runs."""
    return VirtualTeacher.untrained(experiment.splits.task, config).to(experiment.engine.device)


def virtual_temperature(experiment: Experiment) -> float:
    """Temperature T of the virtual teacher's samples; that of this run's own need not be trained yet."""
    given = given_virtual(experiment, experiment.recipe.student)
    return experiment.recipe.virtual.temperature_for(experiment.splits.task) if given is None else given.temperature


def make_virtual(experiment: Experiment, config: VirtualConfig, teacher: Stage, stage: Stage) -> VirtualTeacher:
    """Train the virtual teacher, or restore it. Trains the teacher too, if that is not done yet.

    Args:
        experiment: images, device, seed.
        config: settings.
        teacher: stage of the teacher whose outputs it learns.
        stage: where it is kept.

    Raises:
        TrainingError: a weight is not finite.
    """
    if stage.fingerprint not in experiment.memory:
        task = experiment.splits.task
        virtual = load_virtual(stage, task) if stage.done else _train(experiment, config, teacher, stage)
        experiment.memory[stage.fingerprint] = virtual.to(experiment.engine.device)
    found: VirtualTeacher = experiment.memory[stage.fingerprint]
    return found


def _train(experiment: Experiment, config: VirtualConfig, teacher: Stage, stage: Stage) -> VirtualTeacher:
    recipe, splits, settings = experiment.recipe, experiment.splits, experiment.recipe.teacher
    alongside = None
    if trained_alongside(recipe, splits):
        network = new_teacher(experiment, settings)

        def train(part: Stage, watcher: Watcher) -> None:
            _train_watched(experiment, network, teacher, part, watcher)

        alongside = TeacherTraining(network, settings.updates, train)
    return train_virtual(
        config,
        splits.train,
        splits.val,
        stage,
        teacher=lambda: make_teacher(experiment, settings, teacher),
        alongside=alongside,
        augment=settings.augment,
        engine=experiment.engine,
        seed=recipe.seed,
        facts={"teacher": teacher.fingerprint, "data": experiment.data_fingerprint},
    )


def _train_watched(experiment: Experiment, network: ImageModel, teacher: Stage, part: Stage, watcher: Watcher) -> None:
    """Train the teacher while the generator watches. A finished teacher must come out the same."""
    config, again = experiment.recipe.teacher, teacher.done
    if again:
        experiment.say(
            "virtual",
            "the teacher is trained once more, for the generator to learn from its updates; "
            "virtual.when=after avoids this",
        )
    train_teacher(experiment, config, network, part, watcher)
    if not again:
        teacher.begin()
        teacher.seconds = part.seconds
        for line in part.history:
            teacher.log(**line)
        finish_teacher(experiment, config, network, teacher)
    elif not _same_weights(network, teacher):
        experiment.say(
            "virtual",
            "trained again, the teacher came out a little different (another machine or number of threads); "
            "the generator is polished on the stored one",
        )


def _same_weights(network: ImageModel, teacher: Stage) -> bool:
    stored = load_state(teacher.path("model.safetensors"))
    return all(torch.equal(value.cpu(), stored[name]) for name, value in network.state_dict().items())


def output_reader(experiment: Experiment, teacher: Stage, stage: Stage) -> OutputReader:
    """The teacher's outputs as the virtual teacher learns them."""
    recipe, splits = experiment.recipe, experiment.splits
    return make_output_reader(
        make_teacher(experiment, recipe.teacher, teacher),
        splits.train,
        splits.val,
        recipe.virtual,
        stage.path("read_out.safetensors"),
        augment=recipe.teacher.augment,
        engine=experiment.engine,
        seed=recipe.seed,
    )


def inspected(experiment: Experiment) -> Inspection:
    """Measure the virtual teacher of an experiment by the gates; it is trained if it is not there.

    Raises:
        ConfigError: it comes from a file, without outputs to compare with. DataError: these are too few.
    """
    recipe = experiment.recipe
    teacher = teacher_stage(experiment, recipe.teacher)
    stage = virtual_stage(experiment, recipe.virtual, teacher)
    virtual = given_virtual(experiment, recipe.student) or make_virtual(experiment, recipe.virtual, teacher, stage)

    def read_teacher(images: Tensor) -> Tensor:
        return output_reader(experiment, teacher, stage)(images)

    return inspect_virtual(virtual, read_teacher, experiment.splits.test, recipe.seed, stage.result or {})
