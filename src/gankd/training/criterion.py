"""Inputs that losses read of a network, and the weighted sum of losses; `gankd.training.wiring` makes both ready."""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gankd.engine import Engine
from gankd.errors import ConfigError, GankdError, ModelError
from gankd.losses.distillation.maps import keep_layout
from gankd.losses.distillation.spec import LossModule
from gankd.models.contract import ImageModel
from gankd.models.tapped import Tapped
from gankd.seeds import rng
from gankd.tasks import Task
from gankd.training.rows import Signals, by_row, restricted_to, rotations_first, rows_of


class Reader:
    """Computes what losses read of one network for a batch.

    Args:
        model: the network.
        task: its task.
        kinds: kind of each input of a loss, as {"rotated_student_outputs": "outputs"}; the keys become the names of
            the result.
        tapped: the network with its maps and embedding as outputs; default: only its outputs are read.
    """

    def __init__(self, model: ImageModel, task: Task, kinds: Mapping[str, str], tapped: Tapped | None = None) -> None:
        self.model, self.names, self.task, self._kinds, self._tapped = model, sorted(kinds), task, kinds, tapped
        self.rotated = any(name.startswith("rotated_") for name in kinds)
        self.run: Callable[[Tensor], Any] = model if tapped is None else tapped

    def __call__(self, images: Tensor) -> tuple[Tensor, Signals]:
        """Outputs (N,), (N, K) or (N, n) in user units, and the inputs of the losses, for images (N, C, H, W)."""
        count = len(images)
        if self.rotated:
            # (4 N, C, H, W): one pass for the images and their three rotations, so that batch statistics are shared
            images = torch.cat([images, *(torch.rot90(images, turns, (2, 3)) for turns in (1, 2, 3))])
        found: Signals
        if self._tapped is None:
            found = {"outputs": self.run(images)}
        else:
            signals = self.run(images)
            found = signals._asdict()
            if signals.embedding is None and "embedding" in self._kinds.values():
                raise ModelError(self._tapped.why_no_embedding)
        outputs = found["outputs"][:count]  # of the upright images
        found["logits"] = found["values"] = found["outputs"] = self.task.on_unit_scale(found["outputs"])
        result = {}
        for name in self.names:
            value = found[self._kinds[name]]
            if self.rotated:  # only then: a slice of all rows would cost a copy of the gradient
                value = rows_of(value, slice(count, None) if name.startswith("rotated_") else slice(count))
            result[name] = [keep_layout(m) for m in value] if isinstance(value, list) else value
        return outputs, result

    def compile(self) -> None:
        """Compile the network with its taps; maps and embedding are then outputs of the compiled code."""
        self.run = torch.compile(self.model if self._tapped is None else self._tapped)

    @property
    def why_not_compile(self) -> str:
        """Reason why the network cannot be compiled as it is read; empty if it can be."""
        return "" if self._tapped is None else self._tapped.why_not_compile

    def close(self) -> None:
        """Take the hooks off the network."""
        if self._tapped is not None:
            self._tapped.close()


@dataclass(frozen=True)
class WeightedLoss:
    """One loss of a sum, with all that an update needs of it."""

    label: str
    """Name in logs, unique in the sum."""
    spelling: str
    """Name in error messages."""
    weight: float
    function: Callable[..., Tensor]
    """Function of its inputs, in the order of `reads`, to one value or (N,) values; a module if it has parameters."""
    reads: tuple[str, ...]
    on_labels: bool = False
    """It is a label loss, to which weights of classes apply."""

    @property
    def reads_teacher(self) -> bool:
        """True if it reads the teacher, or a target source in the teacher's place."""
        return any("teacher_" in name for name in self.reads)

    @property
    def first(self) -> float:
        """Share of the updates that it has for itself at the beginning."""
        return self.function.first if isinstance(self.function, LossModule) else 0.0


class Criterion(nn.Module):
    """A weighted sum of losses; its parameters and memories are those of the losses.

    Args:
        losses: the terms of the sum.
        seed: of random numbers that losses draw.
    """

    def __init__(self, losses: Sequence[WeightedLoss], seed: int) -> None:
        super().__init__()
        self.losses, self.seed = tuple(losses), seed
        self.parts = nn.ModuleDict(
            {item.label: item.function for item in losses if isinstance(item.function, nn.Module)}
        )
        self._offers = {label: part for label, part in self.parts.items() if isinstance(part, LossModule)}
        self._told: dict[str, str] = {}

    @property
    def first(self) -> float:
        """Share of the updates during which only losses with an opening phase are minimised."""
        return max((item.first for item in self.losses), default=0.0)

    def forward(
        self, inputs: Mapping[str, Any], *, step: int, taught: slice = slice(None)
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum, and each term without its weight, averaged over rows.

        Args:
            inputs: what the losses read, N rows each.
            step: number of the update; random numbers depend on it.
            taught: rows on which losses that read the teacher work.
        """
        restricted = inputs
        if taught != slice(None):
            count = len(inputs["label_loss"])
            restricted = {name: restricted_to(name, value, taught, count) for name, value in inputs.items()}
        progress = float(inputs["progress"])
        opening = progress < self.first
        total: Tensor | None = None
        terms = {}
        for item in self.losses:
            # In the opening phase only losses with one that still lasts; after it, all but these.
            if (progress < item.first) != opening or (not opening and item.first > 0):
                continue
            value = self.value(item, restricted if item.reads_teacher else inputs, step)  # (N,) or ()
            if item.on_labels and "label_weights" in inputs:
                value = value * inputs["label_weights"]
            value = value.mean()
            terms[item.label] = value.detach()  # without its weight, so that logs of two weights compare
            total = item.weight * value if total is None else total + item.weight * value
        if total is None:
            raise ConfigError("the objective has only losses with a first phase of their own; add another")
        return total, terms

    def value(self, item: WeightedLoss, inputs: Mapping[str, Any], step: int) -> Tensor:
        """One loss, () or (N,), without its weight."""
        if "generator" in item.reads:
            device = inputs["label_loss"].device
            # Random numbers by step and loss: a resumed run and another sum of losses draw the same.
            inputs = {**inputs, "generator": rng(self.seed, "loss", item.label, step, device=device)}
        with blamed_on(item.spelling):
            return item.function(*[inputs[name] for name in item.reads])

    def train(self, mode: bool = True) -> "Criterion":
        """Set training mode for all parts, except modules that were trained beforehand."""
        super().train(mode)
        for part in self.pretrained.values():
            part.pretrained.eval()
        return self

    @property
    def pretrained(self) -> dict[str, LossModule]:
        """Losses with a part that is trained on the teacher before the student starts, by label."""
        return {label: part for label, part in self._offers.items() if part.pretrain > 0}

    def news(self) -> list[str]:
        """New warnings from losses since the last call, e.g. about unreadable peer files."""
        found = [(name, text) for part in self._offers.values() for name, text in part.problems.items()]
        fresh = [text for name, text in found if self._told.get(name) != text]
        self._told = dict(found)
        return fresh


@contextmanager
def blamed_on(spelling: str) -> Iterator[None]:
    """Errors of a loss in one line, as it may be the user's own. Memory that ran out is not its fault."""
    try:
        yield
    except GankdError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())
        if isinstance(error, MemoryError) or "out of memory" in reason or "allocate memory" in reason:
            raise
        frames = list(traceback.extract_tb(error.__traceback__))
        # The last line outside installed libraries; the last of all where gankd is installed and the loss is its own.
        place = ([frame for frame in frames if "site-packages" not in frame.filename] or frames)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        raise ConfigError(f"loss {spelling} fails ({where}): {reason[:300]}") from error


def read(engine: Engine, reader: Reader, images: Tensor, trains: nn.Module | None = None) -> tuple[Tensor, Signals]:
    """Result of a reader for a batch of images, which several processes may share.

    Args:
        engine: divides the batch.
        reader: of one network.
        images: (N, C, H, W).
        trains: that network, if it is trained.
    """
    if engine.shards.count == 1:
        return reader(images)
    call = by_row(reader) if reader.rotated else reader
    outputs, signals = engine.shards(call, images, trains=trains)
    return outputs, {
        name: rotations_first(name, value) for name, value in signals.items()
    } if reader.rotated else signals


def in_float32(value: Any) -> Any:
    """Low-precision tensors in float32: losses square, exponentiate and divide."""
    if isinstance(value, list):
        return [in_float32(item) for item in value]
    low = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if low else value
