"""`gankd inspect`: paired feature maps of two networks, the adapters built between them, and the losses that fit."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gankd.config import require
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import GankdError
from gankd.models import build_net
from gankd.models.contract import ImageModel, check_model
from gankd.models.taps import find_taps
from gankd.seeds import rng
from gankd.tasks import Classification, Regression, Task
from gankd.text import Table
from gankd.training.lesson import DistillConfig, Lesson
from gankd.training.losses import all_losses
from gankd.training.objective import Objective, term_of
from gankd.training.wiring import Wiring, connect
from gankd.virtual import VirtualConfig, VirtualTeacher


@dataclass(frozen=True)
class Fit:
    """Fit of one loss to a pair of networks."""

    name: str
    applies: bool
    reason: str = ""
    """Reason why it does not apply."""
    other_task: bool = False
    """The loss is for classes and the label is a value, or the reverse."""
    parameters: int = 0
    """Number of parameters in adapters and other parts that train with the student and are not exported."""
    adapters: tuple[str, ...] = ()
    """Layers built for the loss, as `1x1 conv 16->32`."""


@dataclass(frozen=True)
class Inspection:
    """Result of `gankd inspect`."""

    teacher: str
    student: str
    task: Task
    parameters: dict[str, int]
    taps: dict[str, list[tuple[str, tuple[int, int, int]]]]
    """(path, shape (C, H, W)) of every feature map found, for `student` and for `teacher`."""
    pairs: list[tuple[str, str]]
    """(student path, teacher path) of the paired feature maps."""
    problem: str
    """Reason why no feature maps are paired."""
    losses: list[Fit]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "parameters": self.parameters,
            "taps": self.taps,
            "pairs": self.pairs,
            "problem": self.problem,
            "losses": [vars(fit) for fit in self.losses],
        }

    @property
    def text(self) -> str:
        """Text for a terminal."""
        shapes = {side: dict(taps) for side, taps in self.taps.items()}
        lines = [
            f"teacher {self.teacher}: {self.parameters['teacher']:,} parameters",
            f"student {self.student}: {self.parameters['student']:,} parameters "
            f"({self.parameters['teacher'] / self.parameters['student']:.3g} times fewer)",
            "",
            "paired feature maps (choose others with student.student_taps and student.teacher_taps)",
        ]
        rows = [
            [own, _shape(shapes["student"][own]), other, _shape(shapes["teacher"][other])] for own, other in self.pairs
        ]
        if rows:
            lines.append(Table(["student", "its map", "teacher", "its map"], rows, align="llll").plain())
        else:
            lines.append(f"  none: {self.problem}")
        for side, names in (("student", {own for own, _ in self.pairs}), ("teacher", {o for _, o in self.pairs})):
            left = [f"{path} {_shape(shape)}" for path, shape in shapes[side].items() if path not in names]
            if left:
                lines.append(f"  not paired in the {side}: {', '.join(left)}")
        lines += ["", f"losses for {self.task.kind}"]
        for fit in self.losses:
            if fit.applies:
                count = f"+ {fit.parameters:,} parameter{'s' * (fit.parameters > 1)}" if fit.parameters else ""
                extra = ": ".join(filter(None, (count, ", ".join(fit.adapters))))
                lines += textwrap.wrap(f"  {fit.name:<15} fits  {extra}", 118, subsequent_indent=" " * 24)
        others = [fit.name for fit in self.losses if fit.other_task]
        lines += textwrap.wrap(f"  for the other kind of label: {', '.join(others)}", 118, subsequent_indent="    ")
        for fit in self.losses:
            if not fit.applies and not fit.other_task:
                lines += textwrap.wrap(f"  {fit.name:<15} no: {fit.reason}", 118, subsequent_indent=" " * 22)
        return "\n".join(lines)


def inspect_networks(
    teacher: str,
    student: str,
    *,
    size: int = 32,
    channels: int = 3,
    classes: int | None = None,
    teacher_taps: Sequence[str] = (),
    student_taps: Sequence[str] = (),
    losses: Sequence[str] = (),
) -> Inspection:
    """Pair the feature maps of two networks in a dry run, and try every loss on them.

    Args:
        teacher: zoo name or module:name; weights do not matter.
        student: the same.
        size: side of the images in pixels.
        channels: of the images.
        classes: number of classes; default: the label is a value.
        teacher_taps: dotted paths of the maps to pair; default: found.
        student_taps: the same, as many.
        losses: expressions to try in addition to the package's losses: sums, or losses of your own.

    Raises:
        ConfigError: a size is out of range. ModelError: a network cannot be built, or a path does not fit.
    """
    require(size >= 4, f"--size must be at least 4, got {size}")
    require(channels >= 1, f"--channels must be at least 1, got {channels}")
    task: Task = Regression(low=0.0, high=1.0) if classes is None else Classification(num_classes=classes)
    images = torch.randint(256, (8, channels, size, size), dtype=torch.uint8, generator=rng(0, "inspect"))
    labels = task.sample_labels(8, torch.arange(task.head_size), "uniform", rng(0, "inspect labels"))
    data = LabelledImages(images, labels, task)
    engine = Engine.pick(size, "cpu", "fp32")

    def network(name: str, seed: int) -> ImageModel:
        net = build_net(name or student, in_channels=channels, image_size=size, num_outputs=task.head_size, seed=seed)
        return engine.place(ImageModel.for_data(net, data)).eval()

    large, small = network(teacher, 0), network(student, 1)
    check_model(large, data, f"teacher {teacher}")
    check_model(small, data, f"student {student}")
    problem = ""
    try:
        pairs = Wiring.find(small, large, images, student_taps, teacher_taps).pairs
    except GankdError as error:
        if teacher_taps or student_taps:
            raise
        pairs, problem = (), str(error)
    fits = []
    objectives = {name: term_of(found) for name, found in all_losses().items() if not found.needs}
    objectives |= {text: Objective.parse(text) for text in losses}
    virtual = VirtualTeacher.untrained(task, VirtualConfig())
    config = DistillConfig(student_taps=tuple(student_taps), teacher_taps=tuple(teacher_taps))
    for name, objective in objectives.items():
        other_task = any(task.kind not in item.loss.tasks for item in objective.terms)
        try:
            with connect(small, Lesson(objective, large, virtual, network), data, config, engine, 0) as connection:
                fits.append(_fit(name, connection.criterion))
        except GankdError as error:
            fits.append(Fit(name, False, str(error), other_task=other_task))
    taps = {side: [(t.path, t.shape) for t in find_taps(net, images)] for side, net in _sides(small, large)}
    for place, side in enumerate(("student", "teacher")):
        known = {path for path, _ in taps[side]}
        taps[side] += [(pair[place].path, pair[place].shape) for pair in pairs if pair[place].path not in known]
    return Inspection(
        teacher=teacher,
        student=student,
        task=task,
        parameters={side: _count(net) for side, net in _sides(small, large)},
        taps=taps,
        pairs=[(own.path, other.path) for own, other in pairs],
        problem=problem or "one of the networks has no feature maps",
        losses=fits,
    )


def _sides(student: ImageModel, teacher: ImageModel) -> tuple[tuple[str, ImageModel], ...]:
    return ("student", student), ("teacher", teacher)


def _fit(name: str, criterion: nn.Module) -> Fit:
    adapters = tuple(
        _layer(module)
        for module in criterion.modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.requires_grad
    )
    shown = adapters if len(adapters) <= 6 else (*adapters[:5], f"{len(adapters) - 5} more")
    trained = sum(parameter.numel() for parameter in criterion.parameters() if parameter.requires_grad)
    return Fit(name, True, parameters=trained, adapters=shown)


def _layer(module: nn.Conv2d | nn.Linear) -> str:
    if isinstance(module, nn.Linear):
        return f"linear {module.in_features}->{module.out_features}"
    height, width = module.kernel_size
    return f"{height}x{width} conv {module.in_channels}->{module.out_channels}"


def _count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
