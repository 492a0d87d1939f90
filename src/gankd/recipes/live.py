"""Networks, generators and images in memory, in place of what a recipe names."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, TypedDict

from torch import nn

from gankd.config import require
from gankd.errors import ModelError
from gankd.models.contract import ImageModel
from gankd.own_code import IN_MEMORY
from gankd.recipes.config import Recipe

Network = nn.Module | Callable[..., nn.Module] | str
Objects = dict[str, Any]
"""Objects by the names that the recipe has for them."""


class Live(TypedDict, total=False):
    """Networks and a generator in memory."""

    teacher: Network
    """A trained network, which is not trained again and is checked like `teacher.weights`; or a class or function that
    makes a network, which is trained; or a name, as in `teacher.model`. The normalisation of a network is that of the
    data unless `teacher.mean` and `teacher.std` say otherwise; an `ImageModel` has its own."""
    student: Network
    """A class or function that makes a network, called for each student; or a network that all arms start from, for
    one seed; or a name, as in `student.model`."""
    generator: Any
    """Source of images for labels, of a kind that `gan.external` takes: a function (labels, generator), a network with
    z_dim, or an object with such a function as `sample`; or a text, as in `gan.external`."""
    unlabelled: Any
    """Images without labels: an array or tensor, or anything that gives images one by one; or a path, as in
    `data.unlabelled`."""


class Given(Live, total=False):
    """Everything that a command takes in memory."""

    splits: Any
    """Images: `Splits`, a pair (images, labels), a `Dataset`, or a dict of these; see `gankd.data.given`."""


def with_objects(recipe: Recipe, **live: Any) -> tuple[Recipe, Objects]:
    """The recipe that names what is given, and the objects behind these names.

    Raises:
        ConfigError: one network for several students, or settings that contradict what is given. ModelError: something
            is not a network.
    """
    objects: Objects = {}
    for role in live:
        require(role in Live.__annotations__, f"no argument {role!r}; known: {', '.join(Live.__annotations__)}")
    teacher, student, generator = (live.get(role) for role in ("teacher", "student", "generator"))
    if isinstance(teacher, nn.Module):
        recipe = replace(recipe, teacher=_trained(recipe, teacher, objects))
    elif teacher is not None:
        recipe = replace(recipe, teacher=replace(recipe.teacher, model=_network(teacher, "teacher", objects)))
    if student is not None:
        model = _network(student, "student", objects)
        require(
            not isinstance(student, nn.Module) or recipe.seeds == 1,
            f"student is one network, and seeds={recipe.seeds} asks for students that differ; give a class or function "
            "that makes a new one each time, or set seeds=1",
        )
        recipe = replace(recipe, student=replace(recipe.student, model=model))
    if generator is not None:
        source = generator if isinstance(generator, str) else _name(generator, objects, "generator")
        recipe = replace(recipe, gan=replace(recipe.gan, external=source))
    unlabelled = live.get("unlabelled")
    if unlabelled is not None:
        found = str(unlabelled) if isinstance(unlabelled, str | Path) else IN_MEMORY + "unlabelled"
        objects |= {} if isinstance(unlabelled, str | Path) else {found: unlabelled}
        recipe = replace(recipe, data=replace(recipe.data, unlabelled=found))
    return recipe, objects


def named(recipe: Recipe, given: Given) -> Recipe:
    """The recipe with names for what is given in memory."""
    live: Any = {role: value for role, value in given.items() if role != "splits"}
    return with_objects(recipe, **live)[0]


def _trained(recipe: Recipe, teacher: nn.Module, objects: Objects) -> Any:
    """Settings of a teacher that is trained already; those of an `ImageModel` are its own."""
    config = recipe.teacher
    require(
        config.weights is None,
        f"teacher is in memory, and teacher.weights={config.weights} is another one; leave one of them out",
    )
    name = _name(teacher, objects, "teacher")
    config = replace(config, model=name, weights=name, members=1)
    if isinstance(teacher, ImageModel):
        mean, std = (tuple(map(float, values.flatten())) for values in (teacher.mean, teacher.std))
        config = replace(config, mean=mean, std=std, input_size=teacher.size)
    return config


def _network(found: Any, role: str, objects: Objects) -> str:
    if isinstance(found, str):
        return found
    if isinstance(found, ImageModel):
        raise ModelError(f"{role} is a network with the input of other images; give its own network: {role}.net")
    if not callable(found):
        raise ModelError(
            f"{role} is a {type(found).__name__}, expected a network, or a class or function that makes one"
        )
    return _name(found if isinstance(found, nn.Module | type) else _fresh(found, role), objects, role)


def _fresh(factory: Callable[..., nn.Module], role: str) -> Callable[..., nn.Module]:
    """The factory, which has to make a new network at each call."""
    last: list[object] = [None]

    def make(*given: Any, **sizes: Any) -> nn.Module:
        net = factory(*given, **sizes)
        if net is last[0]:
            raise ModelError(f"{role} returns the same network at each call; make a new one in it")
        last[0] = net
        return net

    return wraps(factory, updated=())(make)


def _name(thing: Any, objects: Objects, role: str) -> str:
    """A new name for an object: that of its class or function, if it has one."""
    net = thing.net if isinstance(thing, ImageModel) else thing
    net = getattr(net, "func", net)  # of functools.partial
    words = getattr(net, "__name__", type(net).__name__)
    name = IN_MEMORY + (words if words.isidentifier() else role)
    if name in objects:
        name += f"_{role}"
    objects[name] = thing
    return name


def copied(net: nn.Module, name: str) -> nn.Module:
    """A copy of a network in memory, so that the user's own stays as it is.

    Raises:
        ModelError: it cannot be copied.
    """
    plain = net.net if isinstance(net, ImageModel) else net
    try:
        return copy.deepcopy(plain)
    except Exception as error:  # the user's network may hold anything
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{name.removeprefix(IN_MEMORY)} cannot be copied ({type(error).__name__} {reason}); give a class or "
            "function that makes it"
        ) from None
