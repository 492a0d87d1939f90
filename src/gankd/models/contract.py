"""Networks with their own input and output contracts, so that none is fed another one's normalisation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.batches import in_batches
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import ModelError
from gankd.models.read_out import ReadOut
from gankd.tasks import Task


class ImageModel(nn.Module):
    """`net` from normalised images to raw outputs, wrapped to read stored images and speak the task's units.

    Input: uint8 (N, C, H, W), or float in [0, 1] of the same shape. Output: logits (N, K) for classes; values (N,)
    in user units for regression, `offset + factor * net(x)`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        size: int,
        mean: Tensor,
        std: Tensor,
        offset: float = 0.0,
        factor: float = 1.0,
    ) -> None:
        """Args:
        size: side in pixels that `net` expects; other images are resized.
        mean, std: per channel (C,), on the [0, 1] scale.
        offset, factor: from raw outputs to the task's units.
        """
        super().__init__()
        self.net = net
        self.size, self.offset, self.factor = size, offset, factor
        self.register_buffer("mean", mean.view(1, -1, 1, 1).float())
        self.register_buffer("std", std.view(1, -1, 1, 1).float())
        for head in self._heads():
            if _in_float32 not in head._forward_hooks.values():
                head.register_forward_hook(_in_float32)

    @classmethod
    def for_data(cls, net: nn.Module, data: LabelledImages) -> "ImageModel":
        """Contract of a network that is about to be trained on `data`: its size, mean, spread and label range."""
        mean, std = data.pixel_statistics
        offset, factor = data.task.output_scale
        return cls(net, size=data.shape[1], mean=mean, std=std.clamp_min(0.02), offset=offset, factor=factor)

    def normalise(self, images: Tensor) -> Tensor:
        """Stored images to what `net` reads."""
        x = images.float() / 255 if images.dtype == torch.uint8 else images
        if x.shape[-1] != self.size or x.shape[-2] != self.size:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        x = (x - self.mean) / self.std
        return x.contiguous(memory_format=torch.channels_last) if self.size >= 16 else x

    def forward(self, images: Tensor) -> Tensor:
        return self._finish(self.net(self.normalise(images)))

    def _finish(self, raw: Tensor) -> Tensor:
        raw = raw.float()
        if raw.ndim == 2 and raw.shape[1] == 1:
            raw = raw[:, 0]
        return raw if self.offset == 0.0 and self.factor == 1.0 else self.offset + self.factor * raw

    def outputs_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs, and penultimate features (N, F): the input of the last linear layer (of each member), `ReadOut`.

        Raises:
            ModelError: the network has no linear layer to read features from.
        """
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

    def _heads(self) -> list[nn.Linear]:
        heads = []
        for member in self.members:
            linear = [module for module in member.modules() if isinstance(module, nn.Linear)]
            heads += linear[-1:]
        return heads


def _in_float32(head: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
    """Read a last linear layer out in float32: bfloat16 has 8 bits, half a degree where angles range over 120."""
    assert isinstance(head, nn.Linear)
    with torch.autocast(inputs[0].device.type, enabled=False):
        return F.linear(inputs[0].float(), head.weight, head.bias)


class Ensemble(nn.Module):
    """Mean of the raw outputs of several networks of one kind."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x).float() for member in self.members]).mean(0)


def check_model(model: ImageModel, data: LabelledImages, what: str) -> None:
    """Run two images through `model` and check that its outputs fit the task.

    Raises:
        ModelError: the network fails on these images or gives outputs of another shape.
    """
    was_training = model.training
    try:
        with torch.no_grad():
            outputs = model.eval()(data.images[:2])
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
    with engine.autocast():
        return torch.cat(
            in_batches(lambda part: model(images[part].to(engine.device)).float(), len(images), engine.device)
        )


@torch.no_grad()
def predict_with_features(model: ImageModel, images: Tensor, engine: Engine) -> tuple[Tensor, Tensor]:
    """Outputs and penultimate features of `model` in eval mode for stored images, in batches."""
    model.eval()
    with engine.autocast():
        pairs = in_batches(
            lambda part: model.outputs_and_features(images[part].to(engine.device)), len(images), engine.device
        )
    outputs, features = zip(*pairs, strict=True)
    return torch.cat(outputs), torch.cat(features)


def evaluate(model: ImageModel, data: LabelledImages, engine: Engine) -> dict[str, float]:
    """The task's metrics of `model` on `data`."""
    task: Task = data.task
    return task.metrics(predict(model, data.images, engine).cpu(), data.labels.cpu())


def evaluate_in_detail(model: ImageModel, data: LabelledImages, engine: Engine) -> dict[str, float]:
    """The metrics of `evaluate`, and for classes balanced accuracy."""
    outputs, labels, task = predict(model, data.images, engine).cpu(), data.labels.cpu(), data.task
    return task.metrics(outputs, labels) | task.detail(outputs, labels)
