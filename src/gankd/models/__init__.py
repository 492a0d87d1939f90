"""Teachers and students: a zoo, networks of other libraries, and the user's own `nn.Module` as "module:name"."""

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gankd.config import suggest
from gankd.data.images import LabelledImages
from gankd.errors import ModelError
from gankd.models import (
    cnn,
    densenet,
    efficientnet,
    imagenet_resnet,
    mobilenet,
    resnet,
    shufflenet_v1,
    shufflenet_v2,
    vgg,
    vit,
    wide_resnet,
)
from gankd.models.contract import ImageModel
from gankd.models.libraries import MODULES, library_factory
from gankd.models.network_files import is_network_file, open_network
from gankd.models.parts import mlp_head
from gankd.own_code import import_own, running_own_code, split_arguments
from gankd.sizes import sides, size_of

ZOO: dict[str, Callable[..., nn.Module]] = {
    **cnn.NETWORKS,
    **resnet.NETWORKS,
    **wide_resnet.NETWORKS,
    **vgg.NETWORKS,
    **imagenet_resnet.NETWORKS,
    **mobilenet.NETWORKS,
    **shufflenet_v1.NETWORKS,
    **shufflenet_v2.NETWORKS,
    **densenet.NETWORKS,
    **efficientnet.NETWORKS,
    **vit.NETWORKS,
}
"""Published networks by name; each is built in the form that fits the images (`parts.form_of`)."""

HEADS = {"mlp": 512, "mlp128": 128}
"""Widths of the heads of the regression networks: of cGAN-KD, and of its first version."""
SYNONYMS = {
    "in_channels": ("in_channels", "in_chans"),
    "image_size": ("image_size", "img_size", "input_size"),
    "num_outputs": ("num_outputs", "num_classes", "n_classes"),
}
"""Names under which constructors take what a network is built for; the first that is there is used."""


def build_net(
    name: str,
    *,
    in_channels: int,
    image_size: int | str,
    num_outputs: int,
    seed: int,
    factory: Callable[..., nn.Module] | None = None,
) -> nn.Module:
    """Build a network with random weights: a zoo name, "timm:NAME" or "torchvision:NAME" if these are installed, or
    "module:name" from the user's own code. Each name may end in "+mlp" (or "+mlp128"), and then in arguments:
    my_nets:Tiny(width=8).
    Or open the finished network in a file (`network_files`), whose code, if it holds any, is then trusted.

    The user's class or function is called with those of in_channels, image_size and num_outputs that are among its
    arguments, under these names or `SYNONYMS`; the current folder is on the import path. Its lazy layers get their
    weights here. Of images that are not square (48x64), image_size is a pair (height, width); convolutional networks of
    the zoo get the shorter side. `factory` is such a class or function in memory; the name is then only for messages.

    "+mlp" replaces the last linear layer by the regression head of the cGAN-KD experiments (`parts.mlp_head`). It is
    part of the name because the head is part of the architecture and does not follow from the task: any network works
    with either head, and families need no code for heads.

    Raises:
        ModelError: the model does not exist (with suggestions) or cannot be built.
    """
    if is_network_file(name):
        return open_network(name)
    plain, arguments = split_arguments(name)
    base, plus, head = plain.partition("+")
    if plus and head not in HEADS:
        known = ", ".join(f"{base}+{name}" for name in HEADS)
        raise ModelError(f"no head {head!r} for model {base}; write {known}, or {base} for its own head")
    high, wide = sides(image_size)
    square = high == wide or (factory is None and base in ZOO and not base.startswith("vit_"))
    sizes: dict[str, Any] = {
        "in_channels": in_channels,
        "image_size": min(high, wide) if square else (high, wide),
        "num_outputs": num_outputs,
    }
    factory = factory or _factory(base)
    chosen = _arguments(factory, sizes) | arguments
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            if is_own(base):
                with running_own_code():
                    net = factory(**chosen)
            else:
                net = factory(**chosen)
        except Exception as error:  # the user's code may raise anything
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            remedy = ""
            if isinstance(error, TypeError):
                names = ", ".join(other for size in SYNONYMS.values() for other in size)
                remedy = f" (set by itself: {names}; others by teacher.args or student.args, as in {{width=8}})"
            raise ModelError(f"model {base} cannot be built with {chosen}: {reason}{remedy}") from error
        if not isinstance(net, nn.Module):
            raise ModelError(f"model {base} gave a {type(net).__name__}, expected a torch.nn.Module")
        if any(is_lazy(parameter) for parameter in net.parameters()):
            _set_lazy_layers(net, torch.zeros(2, in_channels, high, wide), base)
        if plus:
            _set_mlp_head(net, num_outputs, base, HEADS[head])
    return net


def is_own(name: str) -> bool:
    """True if the network is the user's own, module:name, and not one of gankd, timm or torchvision."""
    library, colon, _ = name.partition(":")
    return bool(colon) and library not in MODULES


def new_model(name: str, data: LabelledImages, seed: int) -> ImageModel:
    """A network of `build_net` with random weights, which reads the images and gives the outputs that `data` asks for.

    Raises:
        ModelError: see `build_net`.
    """
    channels, height, width = data.shape
    size = size_of(height, width)
    net = build_net(name, in_channels=channels, image_size=size, num_outputs=data.task.head_size, seed=seed)
    return ImageModel.for_data(net, data)


def _factory(name: str) -> Callable[..., nn.Module]:
    library, colon, model = name.partition(":")
    if colon and library in MODULES:
        return library_factory(library, model)
    if colon:
        return _import(*name.rsplit(":", 1))
    if name not in ZOO:
        raise ModelError(f"no model {name!r}; {suggest(name, ZOO)}; for your own network write module:name")
    return ZOO[name]


def _arguments(factory: Callable[..., nn.Module], sizes: dict[str, Any]) -> dict[str, Any]:
    """The sizes that a class or function takes, under its own names for them; all of them if it takes any name."""
    accepted = inspect.signature(factory).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    if isinstance(factory, type) and factory.__init__ is nn.Module.__init__:  # type: ignore[misc]
        takes_all = False  # a module without a constructor of its own
    chosen = {}
    for size, value in sizes.items():
        own = next((name for name in SYNONYMS[size] if name in accepted), size)
        if own in accepted or takes_all:
            chosen[own] = value
    return chosen


def _set_lazy_layers(net: nn.Module, images: Tensor, name: str) -> None:
    """Give lazy layers their shapes and first weights, by a pass of images in eval mode."""
    was_training = net.training
    try:
        with torch.no_grad():
            net.eval()(images)
    except Exception as error:  # the user's code may raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"model {name} fails on images of shape {tuple(images.shape[1:])}: {reason}") from error
    net.train(was_training)
    lazy = [key for key, parameter in net.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise ModelError(
            f"model {name} has lazy layers that do not run in eval mode: {', '.join(lazy)}; give their sizes"
        )


def _set_mlp_head(net: nn.Module, num_outputs: int, name: str, width: int) -> None:
    linear = [(path, module) for path, module in net.named_modules() if path and isinstance(module, nn.Linear)]
    if not linear or linear[-1][1].out_features != num_outputs:
        raise ModelError(f"model {name} does not end in an nn.Linear of {num_outputs} outputs that +mlp could replace")
    path, last = linear[-1]
    net.set_submodule(path, mlp_head(last.in_features, num_outputs, width))


def _import(module_name: str, attribute: str) -> Callable[..., nn.Module]:
    module = import_own(module_name, f"model {module_name}:{attribute}", ModelError)
    found: Any = getattr(module, attribute, None)
    if found is None:
        public = [name for name in dir(module) if not name.startswith("_")]
        raise ModelError(f"no {attribute!r} in module {module_name}; {suggest(attribute, public)}")
    if not callable(found):
        raise ModelError(
            f"{module_name}:{attribute} is a {type(found).__name__}, expected a class or function that makes a network"
        )
    return cast(Callable[..., nn.Module], found)
