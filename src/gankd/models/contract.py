"""Networks with their own input and output contracts, so that none is fed another one's normalisation."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from gankd.batches import in_batches
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import ModelError
from gankd.models.read_out import ReadOut
from gankd.sizes import sides, size_of
from gankd.tasks import Scale, Task

EndsIn = Literal["none", "softmax", "sigmoid"]
LEAST_PROBABILITY = 1e-7
"""Smaller ones are rounding errors of float32; their log would be as large as they are wrong."""


class ImageModel(nn.Module):
    """`net` from normalised images to raw outputs, wrapped to read stored images and speak the task's units.

    Input: uint8 (N, C, H, W), or float in [0, 1] of the same shape. Output: logits (N, K) for classes; values (N,) or
    (N, n) in user units for regression, `offset + factor * net(x)`.

    `net` computes here what it computes anywhere else: it reads images in the type of its first weights, and gives a
    tensor or something that holds one (`main_output`). Lower precision is a matter of autocast around it, from which a
    network whose weights are not float32 is left out: it has chosen its own.
    """

    mean: Tensor
    std: Tensor
    order: Tensor | None
    scale: Tensor | None
    """Offset and factor (2, n) of n values."""

    def __init__(
        self,
        net: nn.Module,
        *,
        size: int | str,
        mean: Tensor,
        std: Tensor,
        offset: Scale = 0.0,
        factor: Scale = 1.0,
        order: Tensor | None = None,
        ends_in: EndsIn = "none",
        one_of_two: bool = False,
    ) -> None:
        """Args:
        size: side in pixels of the images that `net` expects, or height and width as in 48x64; others are resized.
        mean, std: per channel (C,), on the [0, 1] scale.
        offset, factor: from raw outputs to the task's units, of all outputs or of each.
        order: number of the output (K,) of each class; default: as the network gives them.
        ends_in: last step of `net`, which is undone: the log of probabilities (N, K), or the log-odds of each.
        one_of_two: a single output z is the logit of the second of two classes, and becomes (0, z).
        """
        super().__init__()
        self.net = net
        # JSON cards hold tuples as lists.
        self.offset, self.factor = (each if isinstance(each, float | int) else tuple(each) for each in (offset, factor))
        self.size, self.sides = size, sides(size)
        self.ends_in, self.one_of_two = ends_in, one_of_two
        self.register_buffer("mean", mean.view(1, -1, 1, 1).float())
        self.register_buffer("std", std.view(1, -1, 1, 1).float())
        self.register_buffer("order", order)
        # Not with the weights: cards hold both numbers already.
        several = isinstance(self.offset, tuple)
        self.register_buffer("scale", torch.tensor([self.offset, self.factor]).float() if several else None, False)

    @classmethod
    def for_data(cls, net: nn.Module, data: LabelledImages, size: int | str | None = None) -> "ImageModel":
        """Contract of a network that is about to be trained on `data`: its mean, spread and label range, and its size
        unless another is given.
        """
        mean, std = data.pixel_statistics
        offset, factor = data.task.output_scale
        size = size or size_of(*data.shape[1:])
        return cls(net, size=size, mean=mean, std=std.clamp_min(0.02), offset=offset, factor=factor)

    def normalise(self, images: Tensor) -> Tensor:
        """Stored images to what `net` reads."""
        x = images.float() / 255 if images.dtype == torch.uint8 else images
        if tuple(x.shape[-2:]) != self.sides:
            x = F.interpolate(x, self.sides, mode="bilinear", antialias=True, align_corners=False)
        x = ((x - self.mean) / self.std).to(_type_of_weights(self.net))
        return x.contiguous(memory_format=torch.channels_last) if min(self.sides) >= 16 else x

    def forward(self, images: Tensor) -> Tensor:
        return self._finish(self.raw(images))

    def raw(self, images: Tensor) -> Tensor:
        """Outputs of `net` in its own type and units.

        Raises:
            ModelError: it gives something else than `main_output` knows.
        """
        x = self.normalise(images)
        if x.dtype == torch.float32:
            return main_output(self.net(x), self.net)
        with torch.autocast(x.device.type, enabled=False):
            return main_output(self.net(x), self.net)

    def _finish(self, raw: Tensor) -> Tensor:
        raw = raw.float()
        if self.ends_in == "softmax":
            raw = raw.clamp_min(LEAST_PROBABILITY).log()
        elif self.ends_in == "sigmoid":
            raw = raw.logit(LEAST_PROBABILITY)
        if raw.ndim == 2 and raw.shape[1] == 1:
            raw = raw[:, 0]
        if self.one_of_two and raw.ndim == 1:
            raw = torch.stack([torch.zeros_like(raw), raw], 1)
        if self.order is not None:
            raw = raw[:, self.order]
        if self.scale is not None:
            return self.scale[0] + self.scale[1] * raw
        assert not isinstance(self.offset, tuple)
        assert not isinstance(self.factor, tuple)
        return raw if self.offset == 0.0 and self.factor == 1.0 else self.offset + self.factor * raw

    def outputs_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs, and penultimate features (N, F): the input of the last linear layer (of each member), `ReadOut`. A
        network in a file has only its outputs, which stand in for them.

        Raises:
            ModelError: the network has no linear layer to read features from.
        """
        if hasattr(self.net, "only_outputs"):
            outputs = self(images)
            return outputs, outputs.reshape(len(outputs), -1)
        with ReadOut(self.members, type(self.net).__name__) as read_out:
            if read_out.can_be_found:
                read_out.start()
                outputs = self(images)
                found = read_out.finish(outputs)
                if found:
                    return outputs, torch.cat([features for _, features in found], 1).float()
        raise ModelError(read_out.reason)

    @property
    def members(self) -> list[nn.Module]:
        """The networks of an ensemble, or the one network."""
        return list(self.net.members) if isinstance(self.net, Ensemble) else [self.net]


class Ensemble(nn.Module):
    """Mean of the raw outputs of several networks of one kind."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([main_output(member(x), member).float() for member in self.members]).mean(0)


def main_output(given: Any, net: nn.Module) -> Tensor:
    """The tensor of logits or values in what `net` gives: a tensor, an object or dict with `logits`, or a tuple that
    begins with it. The rest (auxiliary outputs, features) is not used.

    Raises:
        ModelError: there is no such tensor.
    """
    if isinstance(given, Tensor):
        return given
    found = getattr(given, "logits", None)
    if found is None and isinstance(given, Mapping):
        found = given.get("logits")
    elif found is None and isinstance(given, tuple | list) and given:
        found = given[0]
    if not isinstance(found, Tensor):
        held = f" with {', '.join(map(str, given)) or 'nothing'}" if isinstance(given, Mapping) else ""
        raise ModelError(
            f"{type(net).__name__} gives a {type(given).__name__}{held}; expected a tensor of logits or values, a "
            "tuple that begins with it, or a dict or object that has it as logits"
        )
    return found


def _type_of_weights(net: nn.Module) -> torch.dtype:
    """Type of the first weights, which read the images: float32 if there are none, or not yet."""
    for parameter in net.parameters():
        lazy = isinstance(parameter, UninitializedParameter)
        if not lazy and parameter.is_floating_point() and parameter.ndim > 1:
            return parameter.dtype
    return torch.float32


def check_model(model: ImageModel, data: LabelledImages, what: str) -> None:
    """Run two images through `model` and check that its outputs fit the task.

    Raises:
        ModelError: the network fails on these images or gives outputs of another shape.
    """
    was_training = model.training
    try:
        with torch.no_grad():
            outputs = model.eval()(data.images[:2])
    except ModelError as error:
        raise ModelError(f"{what} cannot be read: {error}") from None
    except Exception as error:  # the user's network may raise anything
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise ModelError(f"{what} fails on images of shape {data.shape}: {reason}") from None
    finally:
        model.train(was_training)
    data.task.check_outputs(outputs, len(data.images[:2]), what)


@torch.no_grad()
def predict(model: ImageModel, images: Tensor, engine: Engine) -> Tensor:
    """Outputs of `model` in eval mode for stored images, in batches."""
    model.eval()
    with _autocast(model, images, engine):
        return torch.cat(
            in_batches(lambda part: model(images[part].to(engine.device)).float(), len(images), engine.device)
        )


@torch.no_grad()
def predict_with_features(model: ImageModel, images: Tensor, engine: Engine) -> tuple[Tensor, Tensor]:
    """Outputs and penultimate features of `model` in eval mode for stored images, in batches."""
    model.eval()
    with _autocast(model, images, engine):
        pairs = in_batches(
            lambda part: model.outputs_and_features(images[part].to(engine.device)), len(images), engine.device
        )
    outputs, features = zip(*pairs, strict=True)
    return torch.cat(outputs), torch.cat(features)


def _autocast(model: ImageModel, images: Tensor, engine: Engine) -> AbstractContextManager[object]:
    """Autocast where the outputs bear it. Values that come in bfloat16, of 8 bits, do not: half a degree where angles
    range over 120. The zoo's networks give float32 under autocast too.
    """
    if not engine.bf16:
        return nullcontext()
    with engine.autocast():
        raw = model.raw(images[:2].to(engine.device))
    values = raw.ndim < 2 or raw.shape[1] == 1 or model.scale is not None
    return nullcontext() if values and raw.dtype == torch.bfloat16 else engine.autocast()


def evaluate(model: ImageModel, data: LabelledImages, engine: Engine) -> dict[str, float]:
    """The task's metrics of `model` on `data`."""
    task: Task = data.task
    return task.metrics(predict(model, data.images, engine).cpu(), data.labels.cpu())


def measured(task: Task, outputs: Tensor, labels: Tensor) -> dict[str, float]:
    """The metrics of outputs, and for classes balanced accuracy and calibration error."""
    return task.metrics(outputs, labels) | task.detail(outputs, labels) | task.calibration(outputs, labels)
