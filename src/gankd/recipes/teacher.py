"""The teacher: its stage, and how it is trained or taken from the user's weights."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gankd.config import require
from gankd.data.augment import with_teachers
from gankd.data.images import LabelledImages
from gankd.errors import ModelError
from gankd.models.checkpoints import fill_from_checkpoint, own_names
from gankd.models.contract import Ensemble, ImageModel, check_model, predict
from gankd.models.weights import load_weights, nest_of
from gankd.own_code import user_errors_in_one_line
from gankd.parted import divide, whole_state
from gankd.recipes.config import Recipe, TeacherConfig
from gankd.recipes.experiment import Experiment
from gankd.recipes.given import check_given, check_shapes, class_names, input_size, users_contract
from gankd.recipes.suited import suited_kinds
from gankd.runs import Stage, fingerprint
from gankd.seeds import derive_seed
from gankd.storage import restore, save_state
from gankd.training.supervised import train_supervised
from gankd.virtual import Watcher


def teacher_stage(experiment: Experiment, config: TeacherConfig) -> Stage:
    """Identity and state of a teacher with these settings.

    Raises:
        CheckpointError: the user's weights cannot be read. ModelError: no network of that name.
    """
    inputs = {"net": experiment.describe(config.network, input_size(config))}
    if config.weights is not None and config.weights not in experiment.live:
        inputs["weights"] = _weights_fingerprint(experiment, Path(config.weights))
    # A trained teacher has no order of its own, and its stage is called as before there was this setting.
    settings = {name: value for name, value in config.identity.items() if name != "class_names"}
    if config.weights is not None:
        settings["class_names"] = class_names(config, experiment.splits.task)
        settings["weights"] = "given"  # wherever they lie: their content is an input
    elif config.is_given:
        settings |= {"model": "given", "class_names": class_names(config, experiment.splits.task)}
    return experiment.stage("teacher", settings, **inputs)


def make_teacher(experiment: Experiment, config: TeacherConfig, stage: Stage) -> ImageModel:
    """Train the teacher, or restore it; in eval mode.

    Raises:
        ModelError: it does not fit the task, or is not better than chance on validation images.
        CheckpointError: its file is damaged, or the user's weights do not fit.
    """
    if stage.fingerprint not in experiment.memory:
        if stage.done:
            teacher = restore(_unplaced(experiment, config), stage.path("model.safetensors"))
        else:
            teacher = new_teacher(experiment, config)
            train_teacher(experiment, config, teacher, stage)
            finish_teacher(experiment, config, teacher, stage)
        teacher = _placed(experiment, config, teacher, finished=True)
        if caution := seen_images(experiment, config):
            experiment.say("teacher", caution)
        experiment.memory[stage.fingerprint] = teacher
    found: ImageModel = experiment.memory[stage.fingerprint]
    return found


def finished_teacher(experiment: Experiment, config: TeacherConfig) -> ImageModel:
    """The teacher that is finished, in eval mode.

    Raises:
        ConfigError: it is not.
    """
    stage = teacher_stage(experiment, config)
    require(stage.done, f"no finished teacher in {experiment.run.folder}; train it with teach or run")
    return make_teacher(experiment, config, stage)


def other_teacher(recipe: Recipe, model: str | None) -> TeacherConfig:
    """Settings of the teacher whose outputs a student's losses read: the run's own, or another network trained alike.

    Filter, labels of generated images and the virtual teacher always use the run's own.
    """
    if model is None:
        return recipe.teacher
    other = replace(recipe.teacher, model=model, args={})
    if not recipe.teacher.is_given:
        return other
    return replace(other, weights=None, mean=None, std=None, input_size=None, class_names=(), ends_in="none")


def untrained_teacher(experiment: Experiment, config: TeacherConfig) -> ImageModel:
    """Network of the teacher's architecture and input contract, for dry runs."""
    nets = [experiment.net(config.network, number, input_size(config)) for number in range(config.members)]
    if config.is_given:
        return _given(experiment, nets[0], config)
    return _untrained(nets, config, experiment.splits.train)


def new_teacher(experiment: Experiment, config: TeacherConfig) -> ImageModel:
    """The teacher before training, or with the user's weights; on the device."""
    return _placed(experiment, config, _unplaced(experiment, config), finished=config.is_given)


def _placed(experiment: Experiment, config: TeacherConfig, teacher: ImageModel, *, finished: bool) -> ImageModel:
    """The teacher on the device, in eval mode; in parts if it is finished and the settings say so."""
    if config.in_parts and finished:
        divide(teacher.net, experiment.engine.device)  # before the whole of it would be there
    return experiment.engine.place(teacher).eval()


def _unplaced(experiment: Experiment, config: TeacherConfig) -> ImageModel:
    seeds = [derive_seed(experiment.recipe.seed, "teacher", number) for number in range(config.members)]
    nets = [experiment.net(config.network, seed, input_size(config), initial=config.initial) for seed in seeds]
    if config.weights is not None:
        net = nets[0] if config.weights in experiment.live else _with_weights(experiment, config, nets[0])
        teacher = _given(experiment, net, config)
    elif config.is_given:
        teacher = _given(experiment, nets[0], config)
    else:
        teacher = _untrained(nets, config, experiment.splits.train)
    return teacher


def _given(experiment: Experiment, net: nn.Module, config: TeacherConfig) -> ImageModel:
    """The contract of a network with the user's weights, which one in memory may bring along."""
    teacher, brought = users_contract(net, config, experiment.splits.train), experiment.live.get(config.weights or "")
    if isinstance(brought, ImageModel):
        teacher.offset, teacher.factor, teacher.ends_in = brought.offset, brought.factor, brought.ends_in
        teacher.order = brought.order if teacher.order is None else teacher.order
    return teacher


def train_teacher(
    experiment: Experiment, config: TeacherConfig, teacher: ImageModel, stage: Stage, watcher: Watcher | None = None
) -> None:
    """Train every member of the teacher in place; the user's weights stay as they are.

    Args:
        experiment: images, device, seed.
        config: settings.
        teacher: as `new_teacher` makes it.
        stage: where checkpoints go.
        watcher: a virtual teacher's generator that learns from the outputs of each update.
    """
    splits, engine, members = experiment.splits, experiment.engine, config.members
    experiment.say("teacher", config.model + (f" x {members}" if members > 1 else ""))
    check_model(teacher, splits.train.to(engine.device), f"teacher {config.model}")
    if config.weights is not None:
        path = Path(config.weights)
        if config.weights not in experiment.live:
            for remark in filter(None, (nest_of(path), own_names(load_weights(path), teacher.net)[1])):
                experiment.say("teacher", f"{config.weights} is {remark}")
    if config.is_given:
        what = f"teacher {config.model}"
        check_given(teacher, splits.train, engine, experiment.recipe.seed, what, experiment.say)
        return
    stage.begin()
    for number, net in enumerate(teacher.members):
        part = stage if members == 1 else stage.part(f"member-{number}")
        member = _untrained([net], config, splits.train)
        seed = derive_seed(experiment.recipe.seed, "member", number)
        with user_errors_in_one_line(config.model, f"teacher {config.model}"):
            train_supervised(member, splits.train, splits.val, config, engine, seed, part, beside=watcher)


def finish_teacher(experiment: Experiment, config: TeacherConfig, teacher: ImageModel, stage: Stage) -> None:
    """Measure the teacher on validation images, refuse one at chance level, and store its weights."""
    val = experiment.splits.val
    outputs = predict(teacher, val.images, experiment.engine).cpu()
    refuse_chance_level(outputs, val, f"teacher {config.model}", given=config.is_given)
    save_state(stage.path("model.safetensors"), whole_state(teacher))
    labels = val.labels.cpu()
    facts: dict[str, Any] = {"val": val.task.metrics(outputs, labels) | val.task.detail(outputs, labels)}
    if config.weights is not None:
        facts["suited"] = suited_kinds(teacher, config.augment, val, experiment.engine, experiment.say)
    stage.finish(**facts)
    teacher.eval()


def seen_images(experiment: Experiment, config: TeacherConfig) -> str:
    """Caution about a given teacher's score on splits that gankd drew: empty where there is no reason for one."""
    drawn = experiment.splits.card.get("drawn", [])
    if not config.is_given or not drawn:
        return ""
    words = " and ".join({"val": "validation", "test": "test"}[part] for part in drawn)
    options = " and ".join(f"--{part} PATH" for part in drawn)
    return (
        f"gankd drew the {words} images from yours: the given teacher may have been trained on some of them, and its "
        f"score on them may be too good; give images that it has not seen by {options}"
    )


def with_suited_augmentation(experiment: Experiment, *, make: bool = False) -> Experiment:
    """The experiment whose students are augmented by what suits a given teacher, of the kinds in teacher.augment.

    Args:
        experiment: with a teacher of any kind; those that are trained here suit what they were trained with.
        make: check the given teacher if that was not done yet.
    """
    recipe = experiment.recipe
    if recipe.teacher.weights is None or "teacher" not in recipe.student.augment:
        return experiment
    stage = teacher_stage(experiment, recipe.teacher)
    if make:
        make_teacher(experiment, recipe.teacher, stage)
    if not stage.done:
        return experiment
    suited = (stage.result or {}).get("suited", recipe.teacher.augment)
    kinds = with_teachers(recipe.student.augment, suited)
    views = recipe.student.views if kinds else "online"
    return experiment.with_recipe(replace(recipe, student=replace(recipe.student, augment=kinds, views=views)))


def refuse_chance_level(outputs: Tensor, data: LabelledImages, what: str, *, given: bool = False) -> None:
    """Raise ModelError unless `outputs` for `data` are clearly better than a constant guess.

    Args:
        outputs: (N, K) or (N,), on the CPU.
        data: N images with labels.
        what: the network, as the message names it.
        given: its weights come from the user, so that longer training is not a remedy.
    """
    remedy = "train it longer (teacher.updates), choose another teacher.model, or check the labels"
    if given:
        remedy = "check that its outputs are in the order or unit of these labels, and teacher.mean and teacher.std"
    task, labels = data.task, data.labels.cpu()
    if len(labels.unique()) == 1:
        raise ModelError(
            f"{what} cannot be judged: all {len(labels)} validation images have the label "
            f"{task.label_name(labels[0])}; add validation images with other labels"
        )
    if not task.beats_chance(outputs, labels):
        found = [
            f"{name} {value:.4g} {task.metric_unit}".rstrip() for name, value in task.detail(outputs, labels).items()
        ]
        value = f"{task.metrics(outputs, labels)[task.metric]:.4g} {task.metric_unit}".rstrip()
        raise ModelError(
            f"{what} is at chance level: {task.metric} {value}{''.join(f' ({each})' for each in found)} on {len(data)} "
            f"validation images, a constant guess has {task.chance(labels):.4g}; {remedy}"
        )


def _with_weights(experiment: Experiment, config: TeacherConfig, net: nn.Module) -> nn.Module:
    """`net` with the user's weights; if these are for one of two classes, a network with one output takes its place."""
    weights, train = load_weights(Path(config.weights or "")), experiment.splits.train
    if train.task.is_binary:
        single = experiment.net(config.network, 0, input_size(config), num_outputs=1)
        shapes = [{name: value.shape for name, value in own_names(weights, single)[0].items()}]
        shapes += [{name: value.shape for name, value in each.state_dict().items()} for each in (net, single)]
        if shapes[0] == shapes[2] != shapes[1]:
            net = single
    check_shapes(net, own_names(weights, net)[0], config, train)
    fill_from_checkpoint(net, weights, f"{config.weights} does not fit {config.model}")
    return net


def _untrained(nets: list[nn.Module], config: TeacherConfig, train: LabelledImages) -> ImageModel:
    return ImageModel.for_data(nets[0] if len(nets) == 1 else Ensemble(nets), train, config.input_size)


def _weights_fingerprint(experiment: Experiment, path: Path) -> str:
    """The fingerprint of the tensors in the user's file; the file is read again only when it has changed."""
    stat = path.stat() if path.is_file() else None  # what cannot be read, `load_weights` refuses
    key = f"weights {path.resolve()} {stat and (stat.st_mtime_ns, stat.st_size)}"
    if key not in experiment.memory:
        experiment.memory[key] = fingerprint(sorted(_hashes(load_weights(path)).items()))
    return str(experiment.memory[key])


def _hashes(state: dict[str, Tensor]) -> dict[str, str]:
    return {
        name: hashlib.blake2b(
            value.contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes()
            if isinstance(value, Tensor)
            else repr(value).encode(),  # an extra state
            digest_size=16,
        ).hexdigest()
        for name, value in state.items()
    }
