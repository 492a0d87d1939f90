"""Networks of other libraries as "timm:NAME" and "torchvision:NAME". Weights are random: nothing is downloaded."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn

from gankd.errors import ModelError

MODULES = {"timm": "timm", "torchvision": "torchvision.models"}


Sides = int | tuple[int, int]
"""Side of square images, or height and width."""


def library_factory(library: str, model: str) -> Callable[..., nn.Module]:
    """Function of in_channels, image_size and num_outputs that builds `model` of a library in `MODULES`.

    Raises:
        ModelError: the library is missing or broken, or `model` would be looked up on a hub.
    """
    if ":" in model:
        raise ModelError(
            f"{library}:{model} would be downloaded; name an architecture ({library}:resnet18) and give trained "
            "weights as a file (teacher.weights)"
        )
    try:
        module = import_module(MODULES[library])
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == library:
            raise ModelError(f"model {library}:{model} needs {library}: pip install {library}") from None
        # torchvision raises a RuntimeError if built for another torch; timm imports torchvision.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(
            f"model {library}:{model}: {library} cannot be imported with torch {torch.__version__} ({reason}); "
            "install the torchvision that belongs to this torch"
        ) from error
    return partial(_from_timm if library == "timm" else _from_torchvision, module, model)


def _from_timm(timm: Any, model: str, in_channels: int, image_size: Sides, num_outputs: int) -> nn.Module:
    """Build the network; one that takes images of one size only, as transformers do, for images of this size."""
    settings: dict[str, Any] = {"pretrained": False, "in_chans": in_channels, "num_classes": num_outputs}
    net: nn.Module = timm.create_model(model, **settings)
    card: Any = getattr(net, "pretrained_cfg", {})
    if card.get("fixed_input_size") and image_size not in (card["input_size"][-1], tuple(card["input_size"][-2:])):
        net = timm.create_model(model, **settings, img_size=image_size)
    return net


def _from_torchvision(models: Any, model: str, in_channels: int, image_size: Sides, num_outputs: int) -> nn.Module:
    """Build the network, a transformer for images of this size; images without three channels get a new first
    convolution, as there is no setting for it.
    """
    settings: dict[str, Any] = {"weights": None, "num_classes": num_outputs}
    net: nn.Module = models.get_model(model, **settings)
    if getattr(net, "image_size", image_size) != image_size:
        if not isinstance(image_size, int):
            raise ModelError(f"torchvision:{model} takes square images only, got {image_size[0]}x{image_size[1]}")
        net = models.get_model(model, **settings, image_size=image_size)
    path, first = next(((path, part) for path, part in net.named_modules() if isinstance(part, nn.Conv2d)), ("", None))
    if first is None or first.in_channels == in_channels:
        return net
    shape: Any = {key: getattr(first, key) for key in ("kernel_size", "stride", "padding", "dilation")}
    net.set_submodule(path, nn.Conv2d(in_channels, first.out_channels, **shape, bias=first.bias is not None))
    return net
