"""Students and the assistants between them and the teacher: identities, checks, training."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gankd.errors import ModelError
from gankd.identity import Identity, is_users
from gankd.models import is_own
from gankd.models.contract import ImageModel, check_model, evaluate
from gankd.models.rounded import rounded_to_int8
from gankd.own_code import user_errors_in_one_line
from gankd.recipes.arms import Arm
from gankd.recipes.config import Recipe, StudentConfig
from gankd.recipes.experiment import Experiment
from gankd.recipes.teacher import other_teacher, teacher_stage, untrained_teacher
from gankd.recipes.virtual import given_virtual, untrained_virtual
from gankd.runs import Stage, fingerprint
from gankd.seeds import derive_seed
from gankd.storage import restore, save_state
from gankd.synthetic import Selection
from gankd.training.distill import distill
from gankd.training.lesson import Fakes, Lesson, NewStudent
from gankd.training.objective import Objective
from gankd.training.wiring import Wiring, check_mixing, connect
from gankd.virtual import VirtualTeacher

# --- identities ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """Stages that the students of an experiment may depend on; None for those that no arm needs."""

    virtual: str | None
    """Fingerprint of the virtual teacher, of this run or from a file."""
    synth: Stage | None
    unlabelled: Stage | None


def lesson_stage(experiment: Experiment, recipe: Recipe) -> Stage:
    """Stage of the teacher whose outputs the losses read, under the settings of one arm."""
    return teacher_stage(experiment, other_teacher(recipe, recipe.student.teacher))


def student_stage(experiment: Experiment, arm: Arm, seed: int, inputs: Inputs) -> Stage:
    """Identity and state of one student.

    Args:
        experiment: images and run folder.
        arm: how it is trained.
        seed: of its weights and batches.
        inputs: what it may depend on.
    """
    recipe = arm.recipe(experiment.recipe)
    config = recipe.student
    rests_on = {
        "net": experiment.describe(config.network, config.input_size),
        **_selected(experiment, arm, recipe, inputs),
    }
    if arm.reads_teacher:
        chain = assistant_stages(experiment, arm, inputs)
        rests_on["teacher"] = (chain[-1] if chain else lesson_stage(experiment, recipe)).fingerprint
    if arm.reads_virtual:
        assert inputs.virtual is not None
        rests_on["virtual"] = inputs.virtual
    if arm.loss is not None:
        rests_on |= own_losses(experiment, config)
    if arm.starts_from_another(config):
        rests_on["init"] = student_stage(experiment, arm.start, seed, inputs).fingerprint
    rests_on["data"] = experiment.data_fingerprint
    settings = {**_settings(experiment, config, arm), "seed": seed, **experiment.engine.identity}
    if arm.int8:
        settings["int8"] = True
    return experiment.run.stage(f"student-{arm.folder_name}-{seed}", settings, rests_on)


def _selected(experiment: Experiment, arm: Arm, recipe: Recipe, inputs: Inputs) -> dict[str, str]:
    """Identity of the images that an arm adds to the real ones."""
    found = {}
    for what, stage, chosen in (
        ("", inputs.synth, arm.selection(recipe.select)),
        ("unlabelled ", inputs.unlabelled, arm.unlabelled_selection(recipe.select)),
    ):
        if chosen is None:
            continue
        assert stage is not None
        reading = experiment.splits.task.reading_of_teacher if chosen.reads_teacher else ""
        found[what.strip() or "synth"] = stage.fingerprint
        found[f"{what}select"] = fingerprint(chosen.identity, *([reading] if reading else []))
    return found


def _settings(experiment: Experiment, config: StudentConfig, arm: Arm) -> dict[str, Any]:
    """Settings that a student's weights depend on: without a loss, they do not depend on those of losses."""
    settings = config.identity
    del settings["virtual"]  # its content is an input
    for name in ("init", "finetune_lr", "start_updates", "start_batch"):  # stored by their effect
        settings.pop(name, None)
    if not arm.sees_more:
        del settings["fake_share"]  # here it only affects the number of updates, which is stored
    settings["teacher"] = None  # its stage is an input
    objective = arm.objective
    if objective is not None:
        return settings | {"loss": str(objective.for_task(experiment.splits.task)), **_reading(objective)}
    for name in ("loss", "assistants", "kd_on", "store_features", "student_taps", "teacher_taps"):
        del settings[name]
    return settings


def _reading(objective: Objective) -> dict[str, Any]:
    """Mark of results since sums in front of a batch normalisation and a ReLU are read behind the former."""
    return {"preactivations": "normalised"} if any("preactivations" in name for name in objective.inputs) else {}


def own_losses(experiment: Experiment, config: StudentConfig) -> dict[str, str]:
    """Identity of every loss of the user's own, and of every network of the user's that a loss trains as a peer."""
    found = {}
    for term in config.objective.terms:
        name, make = f"loss {term.spelling}", term.loss.make
        if is_users(make):
            found[name] = experiment.identity(name, lambda make=make: Identity(make))  # type: ignore[misc]
        texts = [value for _, value in term.settings if isinstance(value, str)]
        for network in (part.strip() for text in texts for part in text.split(",")):
            if is_own(network) and "/" not in network:
                found[f"{name} {network}"] = experiment.describe(network, config.input_size)
    return found


def assistant_stages(experiment: Experiment, arm: Arm, inputs: Inputs) -> list[Stage]:
    """Identity and state of each network between teacher and student, large to small (TAKD)."""
    arm = arm.exact  # students learn from the same ones in int8
    recipe = arm.recipe(experiment.recipe)
    stages: list[Stage] = []
    for config in assistant_configs(experiment.recipe, arm):
        before = stages[-1] if stages else lesson_stage(experiment, recipe)
        net = experiment.describe(config.network, config.input_size)
        rests_on = {"net": net, "teacher": before.fingerprint, **own_losses(experiment, config)}
        if arm.reads_virtual:
            assert inputs.virtual is not None
            rests_on["virtual"] = inputs.virtual
        rests_on |= _selected(experiment, arm, recipe, inputs)
        settings = config.identity | {"teacher": None} | _reading(config.objective)
        del settings["virtual"]
        name = f"assistant-{len(stages) + 1}-{arm.folder_name}"
        stages.append(experiment.stage(name, settings, **rests_on))
    return stages


def assistant_configs(base: Recipe, arm: Arm) -> list[StudentConfig]:
    """Settings of each assistant of an arm, large to small; all start from scratch, with the recipe's learning rate."""
    config, lr = arm.exact.recipe(base).student.from_scratch, arm.changed(base).student.lr
    chain = config.assistants if arm.reads_teacher else ()
    return [replace(config, lr=lr, model=name, args={}, assistants=chain[:place]) for place, name in enumerate(chain)]


# --- checks -------------------------------------------------------------------------------------------------


def check_students(experiment: Experiment, arms: Iterable[Arm]) -> dict[str, Wiring]:
    """Refuse a student or a loss that does not fit, before hours of training teacher and generator.

    Returns:
        The paired feature maps for each network that students learn from, if their losses read any.

    Raises:
        ConfigError: a loss is for the other task. ModelError: networks do not fit the task, or each other.
    """
    wirings: dict[str, Wiring] = {}
    for arm in _distinct(arms):
        wirings |= _check_student(experiment, arm)
    return wirings


def _distinct(arms: Iterable[Arm]) -> list[Arm]:
    """One arm for each combination of loss and settings."""
    return list({(arm.loss, arm.settings, arm.augment): arm for arm in arms}.values())


def _check_student(experiment: Experiment, arm: Arm) -> dict[str, Wiring]:
    recipe, engine = arm.recipe(experiment.recipe), experiment.engine
    config, train = recipe.student, experiment.splits.train.to(engine.device)
    student = experiment.model(config.network, 0, config.input_size)
    check_model(student, train, f"student {config.model}")
    check_mixing(arm.objective or Objective(()), config, train.task)
    if arm.loss is None:
        return {}
    virtual = None
    if arm.reads_virtual:
        virtual = given_virtual(experiment, config) or untrained_virtual(experiment, recipe.virtual)
    teacher = other_teacher(recipe, config.teacher)
    networks = {f"teacher {teacher.model}": untrained_teacher(experiment, teacher)}
    networks |= {f"assistant {name}": experiment.model(name, 0, config.input_size) for name in config.assistants}
    wirings = {}
    for what, network in networks.items():
        check_model(engine.place(network).eval(), train, what)
        lesson = Lesson(config.objective, network, virtual, new_student(experiment, config))
        with connect(student, lesson, train, config, engine, 0) as connection:
            if connection.wiring.pairs:
                wirings[what] = connection.wiring
    return wirings


def new_student(
    experiment: Experiment, config: StudentConfig, made: list[tuple[str, ImageModel]] | None = None
) -> NewStudent:
    """Factory for networks that a loss trains alongside the student; appends each, with its name, to `made`."""

    def make(name: str, seed: int) -> ImageModel:
        if isinstance(experiment.live.get(name or config.network), nn.Module):
            raise ModelError(
                "a loss trains further networks like the student, which is one network in memory; give student= a "
                "class or function that makes one"
            )
        size = config.input_size
        peer = ImageModel.for_data(experiment.net(name or config.network, seed, size), experiment.splits.train, size)
        if made is not None:
            made.append((name or config.network, peer))
        return peer

    return make


# --- training -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Material:
    """Results of earlier stages that the students of one arm learn from; None for those that they do not need."""

    selections: tuple[tuple[Selection, Path], ...] = ()
    """Images besides the real ones, generated or without labels, with their adjusted labels; each with the folder where
    a teacher's outputs for them are kept."""
    teacher: ImageModel | None = None
    """Network whose outputs the losses read: a teacher, or the last assistant."""
    outputs: Path | None = None
    """Folder of the teacher's outputs for real images."""
    filtered: bool = True
    """True if the losses read the run's own teacher, which filtered the images: its outputs are stored with them."""
    virtual: VirtualTeacher | None = None


def make_assistants(experiment: Experiment, arm: Arm, material: Material, stages: Sequence[Stage]) -> Material:
    """Train or restore the assistants of an arm, each from the one before; the students learn from the last.

    Source: TAKD, Mirzadeh et al., AAAI 2020.
    """
    for config, stage in zip(assistant_configs(experiment.recipe, arm), stages, strict=True):
        seed = derive_seed(experiment.recipe.seed, "assistant", *config.assistants, config.model)
        assistant = experiment.model(config.network, seed, config.input_size, config.initial)
        if stage.done:
            restore(assistant, stage.path("model.safetensors"))
        else:
            _train(experiment, assistant, arm.exact, config, seed, material, stage)
        material = replace(material, teacher=assistant)
    return material


def make_student(
    experiment: Experiment, arm: Arm, seed: int, material: Material, stage: Stage, start: ImageModel | None = None
) -> ImageModel:
    """Train the student of one arm and seed, or restore it; in eval mode.

    Args:
        experiment: images and device.
        arm: how it is trained.
        seed: of its weights and batches.
        material: what it learns from.
        stage: where it is kept.
        start: the student that it is fine-tuned from, if it is.

    Raises:
        ModelError: the network does not fit the task. TrainingError: the loss is not finite.
    """
    config = arm.recipe(experiment.recipe).student
    student = experiment.model(config.network, derive_seed(seed, "student"), config.input_size, config.initial)
    if stage.done:
        return restore(student, stage.path("model.safetensors"))
    if start is not None:
        student.load_state_dict(start.state_dict())
    _train(experiment, student, arm, config, seed, material, stage)
    return student


def restore_student(experiment: Experiment, arm: Arm, stage: Stage) -> ImageModel:
    """The student of a finished stage, in eval mode."""
    config = arm.recipe(experiment.recipe).student
    student = experiment.model(config.network, 0, config.input_size)
    return restore(student, stage.path("model.safetensors"))


def as_used(student: ImageModel, arm: Arm) -> AbstractContextManager[None]:
    """Block in which a student computes as it will be used: in int8 if its arm says so."""
    return rounded_to_int8(student) if arm.int8 else nullcontext()


def restore_peers(experiment: Experiment, stage: Stage) -> list[tuple[str, ImageModel]]:
    """Networks that a loss trained alongside a finished student, with their names, in eval mode."""
    found = []
    for number, name in enumerate((stage.result or {}).get("peers", ()), 1):
        peer = experiment.model(name, 0, experiment.recipe.student.input_size)
        found.append((name, restore(peer, stage.path(f"peer-{number}.safetensors"))))
    return found


def _train(
    experiment: Experiment,
    student: ImageModel,
    arm: Arm,
    config: StudentConfig,
    seed: int,
    material: Material,
    stage: Stage,
) -> None:
    """Train one student or assistant, and finish its stage."""
    splits, objective = experiment.splits, arm.objective
    teacher = material.teacher if arm.reads_teacher else None
    virtual = material.virtual if arm.reads_virtual else None
    peers: list[tuple[str, ImageModel]] = []
    lesson = Lesson()
    if objective is not None:
        outputs = material.outputs if arm.reads_teacher else None
        lesson = Lesson(objective, teacher, virtual, new_student(experiment, config, peers), outputs)
    stage.begin()  # storing the teacher's outputs is the student's time, training the teacher is not
    with user_errors_in_one_line(config.model, f"student {config.model}"), as_used(student, arm):
        distill(
            student,
            splits.train,
            splits.val,
            config,
            experiment.engine,
            seed,
            lesson=lesson,
            fakes=_fakes(material, with_outputs=objective is not None and material.filtered and not config.assistants),
            stage=stage,
        )
        val = evaluate(student, splits.val, experiment.engine)
    save_state(stage.path("model.safetensors"), student.state_dict())
    for number, (_, peer) in enumerate(peers, 1):
        save_state(stage.path(f"peer-{number}.safetensors"), peer.state_dict())
    facts = {"peers": [name for name, _ in peers]} if peers else {}
    stage.finish(val=val, updates=config.updates, **facts)


def _fakes(material: Material, *, with_outputs: bool) -> Fakes | None:
    """All images besides the real ones, with the outputs stored in the pool if these are of the network that teaches.

    An assistant has outputs of its own for them.
    """
    if not material.selections:
        return None
    chosen = [selection for selection, _ in material.selections]
    return Fakes(
        torch.cat([selection.images() for selection in chosen]),
        torch.cat([selection.labels for selection in chosen]),
        torch.cat([selection.teacher_outputs for selection in chosen]) if with_outputs else None,
        folder=material.selections[-1][1],
    )
