"""Train the virtual teacher: alongside the teacher on the outputs of its updates, then on stored outputs.

Kim, IEEE Access 10 (2022), as reconstructed from its abstract; see `gankd.virtual`.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gankd.config import require
from gankd.data.augment import Augmentation
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import DataError
from gankd.models.contract import ImageModel, predict
from gankd.runs import Stage
from gankd.seeds import Batches, rng
from gankd.storage import load_state, save_state
from gankd.tasks import Task
from gankd.virtual.gan import KnowledgeGan, VirtualConfig, label_means
from gankd.virtual.gates import Gates
from gankd.virtual.measurement import measure
from gankd.virtual.outputs import make_output_reader, store_outputs
from gankd.virtual.teacher import Bank, Hints, VirtualTeacher

SNAPSHOTS = 10
"""Number of generators kept along the teacher's training."""


class Watcher(nn.Module):
    """A generator that learns from the outputs of each update of a teacher, without affecting the teacher.

    Args:
        gan: the generator and its discriminator.
        task: of the labels.
        updates: of the teacher.
        folder: where a snapshot of the generator is written after every tenth of the updates.
        look: gives the teacher's outputs (N, K) for its training images; called once, a tenth before the end.
    """

    earlier: Tensor

    def __init__(
        self, gan: KnowledgeGan, task: Task, updates: int, folder: Path, look: Callable[[], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.gan, self._task, self._folder, self._look = gan, task, folder, look
        self._period = max(1, updates // SNAPSHOTS)
        self._late = updates - self._period
        self.register_buffer("earlier", torch.zeros(0, gan.num_outputs))
        if look is not None:  # the final shape from the start, so that a checkpoint fits at any time
            self.earlier = look()

    def observe(self, step: int, outputs: Tensor, labels: Tensor) -> None:
        """Learn from outputs (N, K) of one update of the teacher and labels (N,) in user units."""
        self.gan.observe(outputs, self._task.hard_labels(labels))
        if (step + 1) % self._period == 0 and self.gan.ready:
            VirtualTeacher.of(self.gan, updates=step + 1).save(self._folder / f"{step + 1:06d}.safetensors")
        if step + 1 == self._late and self._look is not None:
            self.earlier.copy_(self._look())


@dataclass(frozen=True)
class TeacherTraining:
    """A teacher's training that a generator can watch."""

    teacher: ImageModel
    """The network before its training."""
    updates: int
    train: Callable[[Stage, Watcher], None]
    """Trains `teacher` in place, passing the outputs of each update to the watcher, with checkpoints in the stage."""


def learns_alongside(config: VirtualConfig, task: Task, updates: int | None) -> bool:
    """True if the virtual teacher is trained alongside the teacher, False if after it.

    Args:
        config: settings.
        task: of the labels.
        updates: of the teacher if it is one network that is trained in this run; otherwise None.

    Raises:
        ConfigError: virtual.when=beside for a teacher that does not allow it, or too few updates.
    """
    # A regressor's read-out is fitted to the finished teacher, so that there is nothing to learn alongside it.
    possible = task.has_classes and updates is not None
    require(
        possible or config.when != "beside",
        "virtual.when=beside needs a teacher for classes that is one network and trained here, on un-mixed images; "
        "set it to after",
    )
    alongside = possible and config.when != "after"
    require(
        config.polish >= 1 or not alongside or (updates or 0) >= config.warmup + config.every,
        f"the virtual teacher would not begin: teacher.updates={updates} are fewer than virtual.warmup + "
        "virtual.every; set virtual.polish to 500 or more",
    )
    require(
        alongside or config.polish >= 1,
        "virtual.polish must be at least 1 where nothing is learned alongside the teacher",
    )
    return alongside


def train_virtual(
    config: VirtualConfig,
    train: LabelledImages,
    val: LabelledImages,
    stage: Stage,
    *,
    teacher: Callable[[], ImageModel],
    alongside: TeacherTraining | None,
    augment: tuple[Augmentation, ...],
    engine: Engine,
    seed: int,
    facts: dict[str, Any],
) -> VirtualTeacher:
    """Train a virtual teacher, and store it with its bank, and for classes its hints, in the folder of `stage`.

    Args:
        config: settings.
        train: the teacher's training images.
        val: images for early stopping of a regressor's read-out.
        stage: where everything is kept; a part of it resumes.
        teacher: gives the trained teacher in eval mode; called after `alongside` is trained.
        alongside: the teacher's training to watch; None learns from stored outputs only.
        augment: augmentation of the teacher's training images.
        engine: device and precision.
        seed: of weights, noise, views and batches.
        facts: where it comes from, stored in its file.

    Returns:
        The virtual teacher as stored.

    Raises:
        TrainingError: a weight is not finite.
    """
    # --- alongside the teacher
    updates = alongside.updates if alongside is not None else 0
    gan = KnowledgeGan(train.task, config, seed, total=updates // config.every + config.polish)
    gan.to(engine.device)
    earlier = torch.zeros(0, gan.num_outputs)  # (N, K), or none
    if alongside is not None:
        earlier = _watch(gan, alongside, train, engine, stage)

    # --- on stored outputs of the finished teacher
    path = stage.path("read_out.safetensors")
    reader = make_output_reader(teacher(), train, val, config, path, augment=augment, engine=engine, seed=seed)
    stage.begin()
    bank = store_outputs(reader, train.to(engine.device), augment, config.views, seed)
    if config.polish > 0:
        polish(gan, bank, stage.part("polish"))

    # --- files
    bank.save(stage.path("bank.safetensors"))
    if _has_hints(train.task):
        probs = (bank.logits / gan.temperature).softmax(1).unflatten(0, (-1, len(train))).mean(0)  # over views
        Hints.of(probs, train.labels.cpu()).save(stage.path("hints.safetensors"))
    path = stage.path("virtual.safetensors")
    VirtualTeacher.of(gan, **facts).save(path)

    # --- failures that only training can see
    warnings = []
    with suppress(DataError):  # too few images of each label to say anything
        warnings = [vars(warning) for warning in check(gan, bank, earlier.cpu()).warnings]
    for one in warnings:
        stage.console.say(f"virtual            {one['code']} {one['text']}; {one['remedy']}")
    stage.finish(kilobytes=path.stat().st_size / 1000, warnings=warnings)
    return load_virtual(stage, train.task)


def load_virtual(stage: Stage, task: Task) -> VirtualTeacher:
    """The virtual teacher that `train_virtual` stored, with its bank and hints, on the CPU.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    path, bank, hints = (stage.path(f"{name}.safetensors") for name in ("virtual", "bank", "hints"))
    return VirtualTeacher.load(path, bank, hints if _has_hints(task) else None)


def _has_hints(task: Task) -> bool:
    """True if a hint of each training image is kept: the three likeliest classes."""
    return task.has_classes


def _watch(gan: KnowledgeGan, training: TeacherTraining, train: LabelledImages, engine: Engine, stage: Stage) -> Tensor:
    """Train the teacher while `gan` learns from its outputs, or restore the result.

    Returns:
        (N, K) logits of the teacher for its training images, a tenth of its training before the end.
    """
    part = stage.part("beside", counted=False)  # its time is the teacher's

    def look() -> Tensor:
        return predict(training.teacher, train.images, engine).float()

    watcher = Watcher(gan, train.task, training.updates, stage.path("snapshots"), look)
    watcher.to(engine.device)
    kept = part.path("beside.safetensors")
    if kept.is_file():
        watcher.load_state_dict(load_state(kept))
    else:
        training.train(part, watcher)
        save_state(kept, watcher.state_dict())
    return watcher.earlier


def polish(gan: KnowledgeGan, bank: Bank, stage: Stage) -> None:
    """Train the generator on stored outputs, with exact label means and a learning rate that falls to 0."""
    steps, device = gan.config.polish, gan.mean_sum.device
    probs = (bank.logits.to(device) / gan.temperature).softmax(1)  # (M, K)
    labels = bank.labels.to(device)
    gan.set_means(*label_means(probs, labels, len(gan.mean_weight)))
    if not gan.ready:
        gan.start()
    batches = Batches(len(probs), gan.config.batch_size, gan.seed, "polish")
    schedules = gan.schedules(steps)
    for step in stage.steps(steps, gan=gan, **schedules):
        index = batches(step).to(device)
        terms = gan.step(probs[index], labels[index])
        for schedule in schedules.values():
            schedule.step()
        stage.report(len(index), **terms)


def check(gan: KnowledgeGan, bank: Bank, earlier: Tensor) -> Gates:
    """Measure a finished generator, including failures that need unaveraged samples or the teacher's earlier outputs.

    Args:
        gan: at the end of its training.
        bank: the teacher's stored outputs, view after view.
        earlier: (N, K) logits for its images a tenth of the training before the end; (0, K) if there are none.
    """
    device = gan.mean_sum.device
    labels = bank.labels.to(device)
    z = torch.randn(len(labels), gan.ema.z_dim, generator=rng(gan.seed, "check", device=device), device=device)
    with torch.no_grad():
        averaged, raw = (net(z, labels).softmax(1) for net in (gan.ema, gan.generator))  # (M, K) each
    before = None
    if len(earlier):
        before = (earlier / gan.temperature).softmax(1).repeat(len(labels) // len(earlier), 1)
    probs = (bank.logits / gan.temperature).softmax(1)
    return measure(probs, averaged, labels, raw=raw, earlier=before, seed=gan.seed)
