"""Teachers and students: a small zoo, and any `nn.Module` of the user's as "module:name"."""

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from gankd.config import suggest
from gankd.errors import ModelError
from gankd.models.cnn import cnn4, cnn8, cnn16, cnn32
from gankd.models.resnet import resnet8, resnet8x2, resnet8x4, resnet14, resnet14x2, resnet20, resnet20x2
from gankd.own_code import import_own

ZOO: dict[str, Callable[..., nn.Module]] = {
    build.__name__: build
    for build in (
        *(cnn4, cnn8, cnn16, cnn32),
        *(resnet8, resnet14, resnet20, resnet8x2, resnet8x4, resnet14x2, resnet20x2),
    )
}


def build_net(name: str, *, in_channels: int, image_size: int, num_outputs: int, seed: int) -> nn.Module:
    """A network with freshly drawn weights: a zoo name, or "module:name" from the user's own code.

    The user's class or function is called with those of in_channels, image_size and num_outputs that it names; the
    current folder is on the import path.

    Raises:
        ModelError: no such model (with suggestions), or it cannot be built.
    """
    module_name, colon, attribute = name.rpartition(":")
    sizes = {"in_channels": in_channels, "image_size": image_size, "num_outputs": num_outputs}
    factory = _import(module_name, attribute) if colon else ZOO.get(name)
    if factory is None:
        raise ModelError(f"no model {name!r}; {suggest(name, ZOO)}; for your own network write module:name")
    accepted = inspect.signature(factory).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    if isinstance(factory, type) and factory.__init__ is nn.Module.__init__:  # type: ignore[misc]
        takes_all = False  # a module without a constructor of its own
    chosen = {key: value for key, value in sizes.items() if takes_all or key in accepted}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            net = factory(**chosen)
        except Exception as error:  # the user's code may raise anything
            raise ModelError(f"model {name} cannot be built with {chosen}: {error}") from error
    if not isinstance(net, nn.Module):
        raise ModelError(f"model {name} gave a {type(net).__name__}, expected a torch.nn.Module")
    return net


def _import(module_name: str, attribute: str) -> Callable[..., nn.Module]:
    module = import_own(module_name, f"model {module_name}:{attribute}", ModelError)
    found: Any = getattr(module, attribute, None)
    if found is None:
        public = [name for name in dir(module) if not name.startswith("_")]
        raise ModelError(f"no {attribute!r} in module {module_name}; {suggest(attribute, public)}")
    if not callable(found):
        raise ModelError(
            f"{module_name}:{attribute} is a {type(found).__name__}, expected a class or function that gives a network"
        )
    return cast(Callable[..., nn.Module], found)
