"""Relative cost of distillation losses: time of an update with a loss over that of a student trained on labels only."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.losses.distillation import Loss
from gankd.models import build_net
from gankd.models.contract import ImageModel
from gankd.runs import Stage
from gankd.seeds import rng
from gankd.tasks import Classification, Regression, Task
from gankd.training.distill import updates
from gankd.training.lesson import DistillConfig, Lesson
from gankd.training.objective import term_of
from gankd.virtual import VirtualConfig, VirtualTeacher

CLASSES, VALUES = Classification(num_classes=10), Regression(low=0.0, high=1.0)
TEACHER, STUDENT, SIZE, BATCH = "resnet14", "cnn16", 16, 64
"""Networks, side of the images and batch size of the measurement; `report.lists` names them."""
STEPS = 2
"""Updates of one measurement."""


def measure_costs(losses: Sequence[Loss], rounds: int = 3) -> dict[str, float]:
    """Measure what losses cost: seconds of an update with each, label loss included, over those of a plain student.

    In each round everything runs in turn, so that a busy machine slows all of it alike; the median round counts.

    Args:
        losses: what to measure.
        rounds: measurements of each, after one that warms up.

    Returns:
        The ratio for each loss, by name.
    """
    steps = {found.name: _stepper(found, _task_of(found)) for found in losses}
    plain = {task.kind: _stepper(None, task) for task in (CLASSES, VALUES)}
    ratios: dict[str, list[float]] = {found.name: [] for found in losses}
    for number in range(rounds + 1):
        base = {kind: run() for kind, run in plain.items()}
        for found in losses:
            ratio = steps[found.name]() / base[_task_of(found).kind]
            if number:  # the first round warms up
                ratios[found.name].append(ratio)
    return {name: sorted(values)[rounds // 2] for name, values in ratios.items()}


def _task_of(found: Loss) -> Task:
    return CLASSES if CLASSES.kind in found.tasks else VALUES


def _stepper(found: Loss | None, task: Task) -> Callable[[], float]:
    """A function that trains for a few updates and gives the seconds of one, set-up not counted."""
    count = 4 * BATCH
    images = torch.randint(256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=rng(0, "cost"))
    labels = task.sample_labels(count, torch.arange(task.head_size), "uniform", rng(0, "cost labels"))
    data = LabelledImages(images, labels, task)

    def network(name: str, seed: int) -> ImageModel:
        net = build_net(name or STUDENT, in_channels=3, image_size=SIZE, num_outputs=task.head_size, seed=seed)
        return ImageModel.for_data(net, data)

    # One thread and float32, as a student on the CPU is trained; the teacher runs in step, as for augmented images.
    config = DistillConfig(updates=10_000, batch_size=BATCH, augment=("shift",))
    virtual = VirtualTeacher.untrained(task, VirtualConfig())
    lesson = Lesson("Label" if found is None else term_of(found), network(TEACHER, 0), virtual, network)
    # After every warm-up, except for losses that work only in an opening phase.
    first = 0 if found is not None and "first" in found.settings else config.updates // 2

    steps = updates(
        network(STUDENT, 1), data, config, Engine.pick(SIZE), 0, lesson=lesson, fakes=None, stage=StartingAt(first)
    )
    next(steps)  # set-up

    def run() -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            next(steps)
        return (time.perf_counter() - start) / STEPS

    return run


class StartingAt(Stage):
    """A stage in memory that begins in the middle of a training; its parts train for one step."""

    def __init__(self, first: int) -> None:
        super().__init__("cost")
        self.first = first

    def steps(self, total: int, **state: Any) -> Iterator[int]:
        for step in range(self.first, total):
            self._step, self._total = step, total
            yield step

    def part(self, name: str, *, counted: bool = True) -> Stage:
        return _OneStep(name)


class _OneStep(Stage):
    def steps(self, total: int, **state: Any) -> Iterator[int]:
        yield from super().steps(1, **state)
