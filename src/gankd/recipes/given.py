"""A teacher with the user's weights: its input and output contract, and signs that it is misread."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gankd.config import require
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import CheckpointError, ConfigError, ModelError
from gankd.models.contract import ImageModel, predict
from gankd.models.network_files import fixed_side, is_network_file
from gankd.recipes.config import TeacherConfig
from gankd.seeds import rng
from gankd.sizes import size_of
from gankd.storage import read_card
from gankd.tasks import Task

IMAGENET = {1: ((0.449,), (0.226,)), 3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
"""Mean and standard deviation per channel that most networks trained on ImageNet read; for grey images their means."""
FEWEST, PER_CLASS = 1000, 20
"""Training images that a given teacher is checked on."""


# --- the contract -------------------------------------------------------------------------------------------


def input_size(config: TeacherConfig) -> int | str | None:
    """Size in pixels of the teacher's images, where the user, the weights' card or the network's file says so.

    Raises:
        ConfigError: the user says something else than the file of the network.
    """
    if not is_network_file(config.model):
        return config.input_size or read_card(Path(config.weights or "")).get("size")
    fixed = fixed_side(config.model)
    require(
        None in (fixed, config.input_size) or fixed == config.input_size,
        f"teacher.input_size={config.input_size}, but {config.model} takes only images of {fixed}x{fixed} pixels; "
        "leave it out",
    )
    return config.input_size or fixed


def class_names(config: TeacherConfig, task: Task) -> tuple[str, ...]:
    """Classes in the order of the teacher's outputs, as set or from a card that lists those of the data; may be empty.

    Raises:
        ConfigError: the file of names cannot be read.
    """
    names = config.class_names
    if len(names) == 1:
        try:
            text = Path(names[0]).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"teacher.class_names: {names[0]} cannot be read ({type(error).__name__}); "
                "give a file with one name per line, or a list such as cat,dog"
            ) from None
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    card: Any = read_card(Path(config.weights or "")).get("task") or {}
    stored = tuple(card.get("class_names") or ())
    return names or (stored if sorted(stored) == sorted(task.label_names) else ())


def users_contract(net: nn.Module, config: TeacherConfig, train: LabelledImages) -> ImageModel:
    """The user's trained network with its own normalisation, and outputs in label units and the order of the classes.

    Raises:
        ConfigError: teacher.mean, teacher.std or teacher.class_names does not fit the data.
    """
    own, card = ImageModel.for_data(net, train), read_card(Path(config.weights or ""))  # the card of gankd export
    channels, size = train.shape[0], size_of(*train.shape[1:])
    pair = []
    for name, set_by_user in (("mean", config.mean), ("std", config.std)):
        value = set_by_user or card.get(name)
        if value is not None and len(value) not in (1, channels):
            grey = channels == 1
            raise ConfigError(
                f"teacher.{name} has {len(value)} numbers, the images have {channels} channel{'' if grey else 's'}; "
                "give "
                + ("1, or for a teacher of colour images add --channels rgb" if grey else f"{channels}, or 1 for all")
            )
        pair.append(getattr(own, name).flatten() if value is None else torch.tensor(value).expand(channels).clone())
    names = class_names(config, train.task)
    several = len(own.offset) if isinstance(own.offset, tuple) else 0
    unit = ((0.0,) * several, (1.0,) * several) if several else (0.0, 1.0)  # outputs are in label units
    return ImageModel(
        net,
        size=input_size(config) or size,
        mean=pair[0],
        std=pair[1],
        offset=card.get("offset", unit[0]),
        factor=card.get("factor", unit[1]),
        order=train.task.output_order(names, "teacher.class_names") if names else None,
        ends_in=config.ends_in,
        one_of_two=train.task.is_binary,
    )


def check_shapes(net: nn.Module, state: Mapping[str, Tensor], config: TeacherConfig, train: LabelledImages) -> None:
    """Raise CheckpointError if weights have another number of classes or channels than the data."""
    own, task, channels = net.state_dict(), train.task, train.shape[0]
    if own.keys() != state.keys():
        return
    other = {
        name: (list(state[name].shape), list(own[name].shape))
        for name in own
        if isinstance(own[name], Tensor) and state[name].shape != own[name].shape  # not an extra state
    }
    if not other:
        return
    name, (found, needed) = next(iter(other.items()))
    if all(a[1:] == b[1:] and b[:1] == [task.head_size] for a, b in other.values()):
        raise CheckpointError(
            f"{config.weights} has {found[0]} outputs ({name} {found}), the data's {task.description} need "
            f"{needed[0]} ({name} {needed}); give a teacher of these labels, or the data it was trained for"
        )
    if all(len(a) == len(b) == 4 and a[0] == b[0] and a[2:] == b[2:] and b[1] == channels for a, b in other.values()):
        remedy = f"; add --channels {'rgb' if found[1] == 3 else 'grey'}" if found[1] in (1, 3) else ""
        raise CheckpointError(
            f"{config.weights} reads images with channels={found[1]} ({name} {found}), the data have "
            f"channels={channels}{remedy}"
        )


# --- signs that it is misread -------------------------------------------------------------------------------


def check_given(
    teacher: ImageModel,
    train: LabelledImages,
    engine: Engine,
    seed: int,
    what: str,
    say: Callable[[str, str], None],
) -> None:
    """Compare the outputs for training images with other ways to read the network.

    Tried are the usual normalisations, other orders of the classes, and for values a linear change of the outputs.

    Args:
        teacher: the network as it is set up, on the device.
        train: training images.
        engine: device.
        seed: of the choice of images.
        what: the network, as messages name it.
        say: prints advice for the user.

    Raises:
        ModelError: it ends in a softmax, or another reading is clearly better.
    """
    task, count = train.task, max(FEWEST, PER_CLASS * train.task.num_groups)
    index = torch.randperm(len(train), generator=rng(seed, "given teacher"))[:count]
    sample = train.subset(index.to(train.labels.device))
    labels = sample.labels.cpu()
    outputs = predict(teacher, sample.images, engine).cpu()
    if not outputs.isfinite().all():
        raise ModelError(f"{what} gives outputs that are not finite numbers; check its weights")
    problem, advice = task.output_problem(outputs)
    if problem:
        raise ModelError(f"{what} {problem}")
    if advice and teacher.ends_in == "none":
        say("teacher", advice)
    if teacher.one_of_two and teacher.raw(sample.images[:2].to(engine.device)).shape[1:] in ((), (1,)):
        first, second = task.label_names
        say("teacher", f"one output for two classes: read as the logit of {second} against {first}")

    # --- errors under each normalisation, and where outputs mean something else
    errors = task.errors(outputs, labels)
    best, best_errors = "", errors
    if not task.nearly_right(errors, labels):
        for name, mean, std in normalisations(teacher, train):
            other = engine.place(_normalised(teacher, mean, std)).eval()
            its_outputs = predict(other, sample.images, engine).cpu()
            its_errors = task.errors(its_outputs, labels)
            if its_errors.mean() < best_errors.mean():
                best, best_errors = f"{name} (teacher.mean={_list(mean)} teacher.std={_list(std)})", its_errors
    raw = outputs
    if teacher.order is not None:
        raw = torch.empty_like(outputs)
        raw[:, teacher.order.cpu()] = outputs  # (N, K) as the network gives them, as teacher.class_names lists them
    reread, cause = task.reread(raw, labels)
    as_is = f"on {len(labels)} training images the mean error is {_error(errors, task)} as it is set up"
    renormalised = task.clearly_less(best_errors, errors, labels)
    if task.clearly_less(reread, best_errors if renormalised else errors, labels):
        raise ModelError(f"{what} {cause}; {as_is}, {_error(reread, task)} then")
    if best:
        found = f"fits another normalisation better: {best}; {as_is}, {_error(best_errors, task)} then"
        if renormalised:
            raise ModelError(f"{what} {found}; set these")
        say("teacher", found)


def normalisations(teacher: ImageModel, train: LabelledImages) -> list[tuple[str, Tensor, Tensor]]:
    """Name, mean (C,) and standard deviation (C,) of the usual normalisations other than the one in force."""
    channels = train.shape[0]
    ones, own = torch.ones(channels), ImageModel.for_data(teacher.net, train)
    usual = [
        ("that of the data", own.mean.flatten(), own.std.flatten()),
        ("-1 to 1", 0.5 * ones, 0.5 * ones),
        ("0 to 1", 0 * ones, ones),
        ("0 to 255", 0 * ones, ones / 255),
    ]
    if channels in IMAGENET:
        mean, std = IMAGENET[channels]
        usual.insert(1, ("ImageNet's", torch.tensor(mean), torch.tensor(std)))
    in_force = teacher.mean.flatten().cpu(), teacher.std.flatten().cpu()
    return [
        (name, mean, std)
        for name, mean, std in usual
        if not (torch.allclose(mean, in_force[0], atol=1e-3) and torch.allclose(std, in_force[1], rtol=1e-2))
    ]


def _normalised(teacher: ImageModel, mean: Tensor, std: Tensor) -> ImageModel:
    return ImageModel(
        teacher.net,
        size=teacher.size,
        mean=mean,
        std=std,
        offset=teacher.offset,
        factor=teacher.factor,
        order=teacher.order,
        ends_in=teacher.ends_in,
        one_of_two=teacher.one_of_two,
    )


def _list(values: Tensor) -> str:
    return "[" + ",".join(f"{value:.4g}" for value in values.tolist()) + "]"


def _error(errors: Tensor, task: Task) -> str:
    return f"{errors.mean().item():.3g} {task.metric_unit}".rstrip()
