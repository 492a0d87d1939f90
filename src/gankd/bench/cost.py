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

from gankd.config import require
from gankd.data.sets import published_shape
from gankd.engine import Engine
from gankd.errors import ConfigError
from gankd.models import ZOO, build_net
from gankd.recipes.config import Recipe, TeacherConfig
from gankd.recipes.generated import CLASSIFIER
from gankd.recipes.published.table import PublishedTable, Scale
from gankd.sizes import sides, size_of
from gankd.subsampling.autoencoder import SparseAutoencoder
from gankd.tasks import Classification, Regression, Task
from gankd.text import speed_of
from gankd.training.autoencoder import BATCH as AUTOENCODER_BATCH
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


@dataclass(frozen=True)
class Peak:
    """A machine that is not here: its nominal speed, and the share of it that training is taken to reach."""

    operations: float
    """Floating-point operations per second, as the maker names them."""
    share: float = 0.2

    def __post_init__(self) -> None:
        require(self.operations > 0, f"--on needs a positive speed, got {self.operations:g}")
        require(0 < self.share <= 1, f"--share must lie in (0, 1], got {self.share:g}")

    @property
    def speed(self) -> float:
        """Operations per second in training."""
        return self.operations * self.share

    @property
    def name(self) -> str:
        """The machine in words."""
        return f"{self.operations / 1e12:g} TFLOP/s, of which {100 * self.share:g} % is reached"


def peak(text: str, share: float = Peak.share) -> Peak:
    """A machine from text such as "60 TFLOP/s".

    Raises:
        ConfigError: it is not a speed.
    """
    found = speed_of(text)
    if found is None:
        raise ConfigError(f'--on takes a speed such as "60 TFLOP/s", got {text!r}')
    return Peak(found, share)


@dataclass(frozen=True)
class TableWork:
    """Operations of a published table, counted from the shapes of its networks."""

    shared: dict[str, float]
    """Those of each stage that all seeds share."""
    students: float
    """Those of all students of one seed, with their controls at equal updates."""
    gigabytes: float
    """Memory of the largest training."""

    @property
    def all_shared(self) -> float:
        """Operations of all stages before the students."""
        return sum(self.shared.values())


def estimate(table: PublishedTable, scale: Scale, speed: float) -> Cost:
    """Time and memory of a table with one seed.

    Args:
        table: the table.
        scale: size of its experiment.
        speed: floating-point operations per second, see `machine_speed`.
    """
    work = table_work(table, scale)
    return Cost((work.all_shared + work.students) / speed, work.all_shared / speed, work.gigabytes)


def table_work(table: PublishedTable, scale: Scale, base: Recipe | None = None) -> TableWork:
    """Count the work of a table.

    Args:
        table, scale: as for `estimate`.
        base: settings that all cells share; default: those of the table at this scale.
    """
    base = base or table.recipe(scale)
    channels, size, outputs = published_shape(base.data.name)
    size = sides(base.data.size or size)[0]
    outputs = outputs if outputs == 1 else base.data.classes or outputs

    def of(name: str) -> Work:
        return network_work(name, channels, size, outputs)

    def teacher(name: str, config: TeacherConfig) -> float:
        return _training(of(name), config.updates, config.batch_size)

    memory = [_gigabytes(of(base.teacher.model), base.teacher.batch_size)]
    shared = {f"teacher {base.teacher.model}": teacher(base.teacher.model, base.teacher)}
    assistants: dict[Any, float] = {}
    students: dict[Any, float] = {}
    uses_fakes = False
    for pair in table.distinct(scale):
        for row in (*table.controls, *table.arms):
            arm = table.pair_arm(base, scale, pair, row)
            recipe = arm.recipe(table.pair_recipe(base, scale, pair))
            config, work, taught = recipe.student, of(recipe.student.model), arm.loss is not None
            turns = 4 if "SSKD" in (arm.loss or "") else 1  # it shows every image in four positions
            operations = turns * _training(work, config.updates, config.batch_size)
            uses_fakes |= arm.images is not None
            if taught:
                name = config.teacher or recipe.teacher.model
                shared[f"teacher {name}"] = teacher(name, recipe.teacher)
                operations += turns * of(name).operations * config.updates * config.batch_size
            for each in config.assistants if taught else ():
                found = _training(of(each), config.updates, config.batch_size)
                assistants[config.teacher, each, arm.folder_name] = found
            memory.append(_gigabytes(work, config.batch_size))
            key = (config if taught else (config.model, config.updates), arm.folder_name, recipe.select.count)
            students[key] = operations
    if assistants:
        shared["assistants"] = sum(assistants.values())
    if uses_fakes:
        task: Task = Regression(low=0.0, high=1.0) if outputs == 1 else Classification(num_classes=outputs)
        stages, gigabytes = _generated(base, task, (channels, size, size), of(base.teacher.model))
        shared |= stages
        memory.append(gigabytes)
    return TableWork(shared, sum(students.values()), max(memory))


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


def _generated(base: Recipe, task: Task, shape: tuple[int, int, int], teacher: Work) -> tuple[dict[str, float], float]:
    """Operations of generator, density ratio and pool, and the gigabytes of the generator's training."""
    config, ratio = base.gan, base.ratio
    generator, discriminator = _gan_work(config, task, shape)
    reader, features = teacher, 0.0
    if ratio.features == "classifier":
        reader = network_work(CLASSIFIER, shape[0], shape[1], task.head_size)
        features = _training(reader, base.teacher.updates, base.teacher.batch_size)
    elif ratio.features == "autoencoder":
        reader = _autoencoder_work(task, shape)
        features = base.teacher.updates * autoencoder_step(task, shape)
    seen = ratio.epochs * real_images(base) if ratio.fresh else 0
    found = {
        "generator": config.steps * gan_step(config, task, shape),
        "density ratio": features + seen * (generator.operations + reader.operations),
        "pool": base.synth.pool * (generator.operations + 2 * teacher.operations),
    }
    both = _gigabytes(generator, config.batch_size) + 2 * _gigabytes(discriminator, config.batch_size)
    return found, both


def real_images(base: Recipe) -> int:
    """Training images of a published table, whose students see `select.count` generated ones next to them."""
    assert base.select.count is not None
    share = base.student.fake_share
    return round(base.select.count * (1 - share) / share)


def autoencoder_step(task: Task, shape: tuple[int, int, int]) -> float:
    """Operations of one update of the auto-encoder of the density ratio."""
    return _training(_autoencoder_work(task, shape), 1, AUTOENCODER_BATCH)


@cache
def _autoencoder_work(task: Task, shape: tuple[int, int, int]) -> Work:
    with FakeTensorMode():
        net = SparseAutoencoder(task, shape, 0).eval()
        return _work(net, lambda: net(torch.zeros(1, *shape, dtype=torch.uint8)))
