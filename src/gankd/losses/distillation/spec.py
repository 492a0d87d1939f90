"""Distillation losses as functions or modules: a name, and arguments that name their inputs."""

import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

from torch import Tensor, nn

from gankd.config import suggest
from gankd.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

NETWORK_INPUTS = {
    "logits": "(N, K) logits; the loss is then for classification only",
    "values": "(N,) values on the [0, 1] label scale, or (N, n) of n values; the loss is then for regression only",
    "outputs": "either of the two",
    "embedding": "(N, F) penultimate features: what the last linear layer reads",
    "features": "list of L feature maps (N, C, H, W), shallow to deep, paired between teacher and student",
    "preactivations": "the same maps before their ReLU, where they have one",
}
"""Inputs that come from a network, as student_NAME or teacher_NAME. The prefix rotated_ gives them for the images
turned by 90, 180 and 270 degrees, in this order: 3 N rows.
"""
OTHER_INPUTS = {
    "teacher_distribution": "(N, B) log-probabilities of equal bins of the label range, from @virtual and other "
    "target sources; the loss is then for regression only",
    "labels": "(N,) int64 classes, or float32 values on the [0, 1] label scale, (N, n) of n values",
    "targets": "(N, K) label probabilities, or (N,) or (N, n) values on the [0, 1] label scale",
    "label_loss": "(N,) the task's own loss of the student: cross-entropy, or squared error on the [0, 1] scale",
    "images": "(N, C, H, W) in [0, 1], as the student sees them",
    "index": "(N,) int64: which image of the training data it is, generated ones after the real ones",
    "progress": "share of the updates done, a float in [0, 1)",
    "generator": "torch.Generator on the device, seeded for this step and this loss",
    "task": "gankd.tasks.Classification, Regression or VectorRegression",
}
BUILD_INPUTS = {
    "dataset_labels": "(M,) labels of all training images in the order of `index`, of the kind of `labels`",
    "teacher_head": "nn.Linear from the teacher's embedding to its outputs (logits, or values on the [0, 1] scale)",
    "new_student": "function (seed) -> a student with new random weights, from images to outputs",
    "new_network": "function (name, seed) -> such a network of another architecture",
}
"""Inputs of constructors only, besides examples of all of the above."""


def network_inputs() -> dict[str, str]:
    """Every argument that reads one of the two networks, with its meaning."""
    return {
        f"{prefix}{side}_{name}": text
        for prefix in ("", "rotated_")
        for side in ("student", "teacher")
        for name, text in NETWORK_INPUTS.items()
    }


class LossModule(nn.Module):
    """Base class of a loss that offers more than its value; a loss that does not needs `nn.Module` only.

    Training asks for this class, never for attributes by name, so that an `nn.Module` may use these names freely.
    Override what applies:

    first, an opening phase: share of the updates, at the beginning, in which only this loss is minimised, and after
        which it takes no part.
    pretrain, pretrained, pretraining, a part that learns from the teacher before the student starts: its length as a
        share of the student's updates; the module that is trained, and frozen afterwards; and its loss, a function of
        inputs without the student's, one value.
    problems, what a user should know: texts by name. A new text is logged and printed once.
    """

    first: float = 0.0
    pretrain: float = 0.0
    pretrained: nn.Module
    problems: dict[str, str]

    def __init__(self) -> None:
        super().__init__()
        self.problems = {}

    def pretraining(self, *inputs: Any, **named: Any) -> Tensor:
        """Loss of `pretrained`; its arguments say what it reads, as those of `forward` do."""
        raise NotImplementedError(f"{type(self).__name__} sets pretrain and has no pretraining")


@dataclass(frozen=True)
class Loss:
    """A loss under its name.

    `make` is either a function of inputs, or an `nn.Module` class whose constructor gets examples of the inputs that
    it names (a dry run of four images, so that it can build adapters) and whose `forward` gets the batch's.
    Keyword-only arguments are its settings.
    """

    name: str
    make: Callable[..., Any]
    paper: str
    weight: float
    """Published weight, or one that was chosen here; see `weight_for`."""
    is_label_loss: bool
    """It replaces the task's own loss."""
    classification_only: bool
    """Set where no input implies it."""
    needs: str = ""
    """Settings that a user has to give, in words."""
    own_weight: bool = False
    """The weight was chosen here: none is published, or one next to another share of the label loss."""

    def weight_for(self, divisor: float) -> float:
        """Weight of a term written without a number; `divisor` is the task's `weight_divisor`.

        Losses that read outputs shrink with the task's own loss and keep their weight.
        """
        with_outputs = {"label_loss", "student_outputs", "student_values", "student_logits"} & set(self.inputs)
        return self.weight if with_outputs else self.weight / divisor

    @property
    def is_module(self) -> bool:
        """True if it has parameters or memory."""
        return isinstance(self.make, type)

    @property
    def summary(self) -> str:
        """First line of its docstring."""
        return (inspect.getdoc(self.make) or "").split("\n")[0].removesuffix(" [1]").rstrip(".:")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs at every step."""
        return _positional(self.make.forward if self.is_module else self.make)  # type: ignore[attr-defined]

    @property
    def build_inputs(self) -> tuple[str, ...]:
        """Names of the inputs of its constructor."""
        return _positional(self.make.__init__) if self.is_module else ()

    @property
    def needs_source(self) -> bool:
        """True if it reads what only target sources give."""
        return "teacher_distribution" in self.all_inputs

    @property
    def all_inputs(self) -> tuple[str, ...]:
        """Names of its inputs at every step or when it is built."""
        return (*self.inputs, *self.build_inputs)

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings with their defaults."""
        parameters = inspect.signature(self.make).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def check(self) -> None:
        """Raise ConfigError if it reads something that is not an input."""
        known = {**network_inputs(), **OTHER_INPUTS}
        reads = [(name, known) for name in self.inputs]
        reads += [(name, {**known, **BUILD_INPUTS}) for name in self.build_inputs]
        parameters = inspect.signature(self.make).parameters
        for name, names in reads:
            if name in names:
                continue
            remedy = suggest(name, names)
            if name in parameters and parameters[name].default is not inspect.Parameter.empty:
                remedy = "a setting comes after a bare * in the list of arguments"
            raise ConfigError(
                f"loss {self.name} reads {name!r}, which is not an input; {remedy}; all inputs: gankd list inputs"
            )

    @property
    def tasks(self) -> tuple[str, ...]:
        """Kinds of task that it works for."""
        reads = {name.rpartition("_")[2] for name in (*self.inputs, *self.build_inputs)}
        if {"values", "distribution"} & reads:
            return ("regression",)
        if "logits" in reads or self.classification_only:
            return ("classification",)
        return ("classification", "regression")


def loss(
    name: str,
    *,
    paper: str = "",
    weight: float = 1.0,
    is_label_loss: bool = False,
    classification_only: bool = False,
    needs: str = "",
    own_weight: bool = False,
) -> Callable[[F], F]:
    """Make a function or an `nn.Module` class a distillation loss; it stays what it was otherwise.

        @loss("Margin", weight=0.5)
        def margin(student_logits, teacher_logits, *, margin=1.0):
            return F.relu(margin - (student_logits - teacher_logits).abs()).mean(1)

    Its arguments say what it reads (`NETWORK_INPUTS`, `OTHER_INPUTS`; a constructor also `BUILD_INPUTS`), keyword-only
    ones are settings. It returns one value, or one per row (N,), of which the mean is taken.
    """

    def mark(make: F) -> F:
        make.gankd_loss = Loss(  # type: ignore[attr-defined]
            name, make, paper, weight, is_label_loss, classification_only, needs, own_weight
        )
        return make

    return mark


def package_losses(package: ModuleType) -> dict[str, Loss]:
    """The losses in the files of a package, by name."""
    found = {}
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        found.update(losses_of(import_module(module.name)))
    return found


def losses_of(module: ModuleType) -> dict[str, Loss]:
    """The losses that a module holds, by name."""
    marked = [getattr(item, "gankd_loss", None) for item in vars(module).values() if callable(item)]
    return {item.name: item for item in marked if isinstance(item, Loss)}


@cache  # asked for at every step
def _positional(function: Callable[..., Any]) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self")
