"""Networks of other libraries as "timm:NAME" and "torchvision:NAME": freshly drawn, for nothing is ever downloaded."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn

from gankd.errors import ModelError

MODULES = {"timm": "timm", "torchvision": "torchvision.models"}


def library_factory(library: str, model: str) -> Callable[..., nn.Module]:
    """What builds `model` of a library in `MODULES` from in_channels and num_outputs.

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
        # Beside a torch that it was not built for, torchvision fails with a RuntimeError, and timm imports torchvision.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(
            f"model {library}:{model}: {library} cannot be imported beside torch {torch.__version__} ({reason}); "
            "install the torchvision that belongs to this torch"
        ) from error
    return partial(_from_timm if library == "timm" else _from_torchvision, module, model)


def _from_timm(timm: Any, model: str, in_channels: int, num_outputs: int) -> nn.Module:
    return timm.create_model(model, pretrained=False, in_chans=in_channels, num_classes=num_outputs)


def _from_torchvision(models: Any, model: str, in_channels: int, num_outputs: int) -> nn.Module:
    """The first convolution is replaced where the images have no three channels, for which there is no setting."""
    net: nn.Module = models.get_model(model, weights=None, num_classes=num_outputs)
    path, first = next(((path, part) for path, part in net.named_modules() if isinstance(part, nn.Conv2d)), ("", None))
    if first is None or first.in_channels == in_channels:
        return net
    shape: Any = {key: getattr(first, key) for key in ("kernel_size", "stride", "padding", "dilation")}
    net.set_submodule(path, nn.Conv2d(in_channels, first.out_channels, **shape, bias=first.bias is not None))
    return net
