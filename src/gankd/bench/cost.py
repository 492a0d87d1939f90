"""Cost of a published table on a machine: operations counted from the shapes of networks, over a measured speed."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from gankd.data.sets import published_shape
from gankd.engine import Engine
from gankd.models import ZOO, build_net
from gankd.recipes.config import Recipe
from gankd.recipes.generated import CLASSIFIER
from gankd.recipes.published.table import PublishedTable, Scale
from gankd.sizes import sides, size_of
from gankd.tasks import Classification, Regression, Task
from gankd.training.gan import GanConfig, build_discriminator, build_generator

BACKWARD = 3
"""Forward passes that cost as much as one update."""


@dataclass(frozen=True)
class Cost:
    """An estimate that can be wrong by a factor of several: small networks are slower per operation than large ones."""

    seconds: float
    """Time of all students of the table with one seed, their controls at equal updates, and everything they share. The
    control at equal time comes on top."""
    shared_seconds: float
    """Part of `seconds` for teachers, generator and pool, which further seeds do not repeat."""
    gigabytes: float
    """Memory of the largest training."""


@dataclass(frozen=True)
class Work:
    """Work of one network on one image."""

    operations: float
    """Floating-point operations of a forward pass."""
    activations: float
    """Bytes kept for the backward pass."""
    parameters: int


def estimate(table: PublishedTable, scale: Scale, speed: float) -> Cost:
    """Count the work of a table from the shapes of its networks.

    Args:
        table: the table.
        scale: size of its experiment.
        speed: floating-point operations per second, see `machine_speed`.
    """
    base = table.recipe(scale)
    channels, size, outputs = published_shape(base.data.name)
    size = sides(base.data.size or size)[0]
    outputs = outputs if outputs == 1 else base.data.classes or outputs

    def of(name: str) -> Work:
        return network_work(name, channels, size, outputs)

    memory = [_gigabytes(of(base.teacher.model), base.teacher.batch_size)]
    shared: dict[Any, float] = {
        base.teacher.model: _training(of(base.teacher.model), base.teacher.updates, base.teacher.batch_size)
    }
    students: dict[Any, float] = {}
    uses_fakes = False
    for pair in table.distinct(scale):
        for row in (*table.controls, *table.arms):
            arm = table.pair_arm(base, scale, pair, row)
            recipe = arm.recipe(table.pair_recipe(base, scale, pair))
            config, work, taught = recipe.student, of(recipe.student.model), arm.loss is not None
            operations = _training(work, config.updates, config.batch_size)
            uses_fakes |= arm.images is not None
            if taught:
                teacher = config.teacher or recipe.teacher.model
                shared[teacher] = _training(of(teacher), recipe.teacher.updates, recipe.teacher.batch_size)
                operations += of(teacher).operations * config.updates * config.batch_size
            for name in config.assistants if taught else ():
                shared[teacher, name, arm.folder_name] = _training(of(name), config.updates, config.batch_size)
            memory.append(_gigabytes(work, config.batch_size))
            key = (config if taught else (config.model, config.updates), arm.folder_name, recipe.select.count)
            students[key] = operations
    if uses_fakes:
        task: Task = Regression(low=0.0, high=1.0) if outputs == 1 else Classification(num_classes=outputs)
        if base.ratio.features == "classifier":
            shared["ratio"] = _training(of(CLASSIFIER), base.teacher.updates, base.teacher.batch_size)
        shared["generator"], gigabytes = _generator(base, task, (channels, size, size), of(base.teacher.model))
        memory.append(gigabytes)
    together = sum(shared.values()) / speed
    return Cost(together + sum(students.values()) / speed, together, max(memory))


def machine_speed(rounds: int = 5, batch: int = 32) -> float:
    """Floating-point operations per second on this machine: median of a few updates of resnet14 at 32 pixels."""
    engine = Engine.pick(32)
    net = engine.place(build_net("resnet14", in_channels=3, image_size=32, num_outputs=10, seed=0))
    images, labels = torch.zeros(batch, 3, 32, 32, device=engine.device), torch.zeros(batch, dtype=torch.int64)
    optimizer, seconds = torch.optim.SGD(net.parameters(), 0.1), []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        with engine.autocast():
            loss = F.cross_entropy(net(images), labels.to(engine.device))
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return BACKWARD * batch * network_work("resnet14", 3, 32, 10).operations / median(seconds[1:])


def training_step(
    name: str,
    shape: tuple[int, int, int],
    outputs: int,
    batch: int,
    teacher: str | None = None,
    *,
    size: int | str | None = None,
    teacher_size: int | str | None = None,
) -> float:
    """Operations of one update on `batch` images (C, H, W), which the teacher sees too if there is one; each network
    in its own size.

    0 for networks other than the zoo's, which cannot be counted without building them.
    """
    if not all(_in_zoo(each) for each in (name, *([] if teacher is None else [teacher]))):
        return 0.0
    channels, own = shape[0], size_of(*shape[1:])
    seen = 0.0 if teacher is None else network_work(teacher, channels, teacher_size or own, outputs).operations
    return _training(network_work(name, channels, size or own, outputs), 1, batch) + batch * seen


def gan_step(config: GanConfig, task: Task, shape: tuple[int, int, int]) -> float:
    """Operations of one update of a generator of images (C, H, W), with the updates of its discriminator."""
    generator, discriminator = _gan_work(config, task, shape)
    judge = config.d_steps * (generator.operations + 2 * BACKWARD * discriminator.operations)
    both = judge + BACKWARD * (generator.operations + discriminator.operations)
    return config.batch_size * config.accumulate * both


def sampling_step(
    config: GanConfig, task: Task, shape: tuple[int, int, int], teacher: str, count: int, teacher_size: int | str | None
) -> float:
    """Operations of generating `count` images (C, H, W) and showing them to the teacher; 0 for a user's own teacher."""
    if not _in_zoo(teacher):
        return 0.0
    generator, _ = _gan_work(config, task, shape)
    seen = network_work(teacher, shape[0], teacher_size or size_of(*shape[1:]), task.head_size)
    return count * (generator.operations + seen.operations)


def _in_zoo(name: str) -> bool:
    return name.partition("+")[0] in ZOO


@cache
def network_work(name: str, channels: int, size: int | str, outputs: int) -> Work:
    """Work of a zoo network, counted from its shapes without weights."""
    with torch.device("meta"):
        net = build_net(name, in_channels=channels, image_size=size, num_outputs=outputs, seed=0).eval()
        return _work(net, lambda: net(torch.zeros(1, channels, *sides(size))))


def _work(net: nn.Module, call: Callable[[], Any]) -> Work:
    kept: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: kept.append(out.numel() * 4))
        for layer in net.modules()
        if not any(layer.children())
    ]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    for hook in hooks:
        hook.remove()
    return Work(counter.get_total_flops(), sum(kept), sum(parameter.numel() for parameter in net.parameters()))


def _training(work: Work, updates: int, batch: int) -> float:
    return BACKWARD * work.operations * updates * batch


def _gigabytes(work: Work, batch: int) -> float:
    return (16 * work.parameters + batch * work.activations) / 1e9  # weights, gradients and two moments in float32


@cache
def _gan_work(config: GanConfig, task: Task, shape: tuple[int, int, int]) -> tuple[Work, Work]:
    with FakeTensorMode():  # only shapes; a meta device would fail, because the networks leave autocast
        config = replace(config, init="default", spectral_norm=False)  # both would be slow here, and are little work
        generator, discriminator = build_generator(task, shape, config, 0), build_discriminator(task, shape, config, 0)
        labels = torch.zeros(1, dtype=task.label_dtype)
        first = _work(generator, lambda: generator(torch.zeros(1, config.z_dim), labels))
        second = _work(discriminator, lambda: discriminator(torch.zeros(1, *shape), labels))
    return first, second


def _generator(base: Recipe, task: Task, shape: tuple[int, int, int], teacher: Work) -> tuple[float, float]:
    """Operations of generator, ratio features and pool, and the gigabytes of its training."""
    config = base.gan
    generator, discriminator = _gan_work(config, task, shape)
    training = config.steps * gan_step(config, task, shape)
    pool = base.synth.pool * (generator.operations + 2 * teacher.operations)
    both = _gigabytes(generator, config.batch_size) + 2 * _gigabytes(discriminator, config.batch_size)
    return training + pool, both
