"""Train a student on real and generated images, from labels and, if asked, from a teacher by any sum of losses.

Every arm of a comparison is this loop with other inputs, so that arms differ in nothing else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gankd.config import require
from gankd.data.augment import Views, apply_views, augment, draw_views
from gankd.data.images import LabelledImages
from gankd.data.mix import mix
from gankd.engine import Engine
from gankd.models.contract import ImageModel, check_model
from gankd.runs import Stage
from gankd.seeds import Batches, rng, seed_own_layers
from gankd.tasks import Task
from gankd.training.class_weights import weights_of_classes, weights_of_images
from gankd.training.criterion import in_float32, read
from gankd.training.lesson import DistillConfig, Fakes, Lesson
from gankd.training.objective import Objective
from gankd.training.pretraining import pretrain
from gankd.training.rows import Signals, joined, rotations_first, rows_of
from gankd.training.supervised import make_optimizer, measure, require_trainable
from gankd.training.teacher_outputs import stored_signals
from gankd.training.wiring import Connection, connect

OUTPUTS = {"teacher_outputs", "teacher_logits", "teacher_values"}
"""Signals that are stored with generated images anyway."""


def distill(
    student: ImageModel,
    real: LabelledImages,
    val: LabelledImages,
    config: DistillConfig,
    engine: Engine,
    seed: int,
    *,
    objective: Objective | str = "Label",
    teacher: ImageModel | None = None,
    lesson: Lesson | None = None,
    fakes: Fakes | None = None,
    stage: Stage | None = None,
) -> ImageModel:
    """Train `student` in place; return it in eval mode, as it is after the last update.

    Args:
        student: what is trained.
        real: images that it is trained on.
        val: images on which it is only measured.
        config: length, learning rate, augmentation.
        engine: device and precision.
        seed: of the order of images and their augmentation.
        objective: losses, as in "KD + FitNet"; default: labels only.
        teacher: read by the losses.
        lesson: in place of both, for losses that read more (`Lesson`).
        fakes: generated images, `config.fake_share` of each batch.
        stage: shows and keeps progress.

    Raises:
        ConfigError: a loss is for the other task or misses an input. ModelError: outputs do not fit the task, or a
            loss does not fit the networks. TrainingError: the loss is not finite.
    """
    require(
        lesson is None or (objective == "Label" and teacher is None),
        "distill takes objective and teacher, or a lesson that holds both; leave one of them out",
    )
    stage = stage or Stage("student")
    lesson = lesson or Lesson(objective, teacher)
    for step in updates(student, real, config, engine, seed, lesson=lesson, fakes=fakes, stage=stage):
        if step + 1 < config.updates:
            measure(stage, student, val, engine, step + 1, config.updates)
    measure(stage, student, val, engine, config.updates, config.updates)
    return student.eval()


def updates(
    student: ImageModel,
    real: LabelledImages,
    config: DistillConfig,
    engine: Engine,
    seed: int,
    *,
    lesson: Lesson,
    fakes: Fakes | None,
    stage: Stage,
) -> Iterator[int]:
    """Yield the number of each update when it is done; see `distill`, which runs them all."""
    real, fakes = real.to(engine.device), fakes.to(engine.device) if fakes is not None else None
    check_model(engine.place(student), real, "student")
    if lesson.teacher is not None:  # frozen, with the statistics of its own training
        engine.place(lesson.teacher).eval()
    require_trainable(student, "student")
    task, feed = real.task, Feed(real, fakes, config, engine, seed, student)
    taught = feed.taught

    with connect(student, lesson, real, config, engine, seed, feed.dataset_labels(task)) as net:
        if config.compile:
            for reader in filter(None, (net.student, net.teacher)):
                reader.compile()
        # --- before the student: stored outputs, and parts of losses that learn from the teacher only
        teacher = Teaching(net, feed, task, lesson.folder)
        for label, part in net.criterion.pretrained.items():
            pretrain(part, lambda step: (batch := feed(step)).inputs(task) | teacher(batch), config, stage.part(label))

        # Losses may have parameters and memories of their own; they train, and are kept, with the student.
        optimizer, schedule = make_optimizer(torch.nn.ModuleList([student, net.criterion]), config)
        state = {"student": student, "optimizer": optimizer, "schedule": schedule}
        extras = {"criterion": net.criterion, "sources": net.sources}
        state |= {name: module for name, module in extras.items() if module is not None and module.state_dict()}

        # --- the updates
        for step in stage.steps(config.updates, **state):
            student.train()
            net.criterion.train()
            seed_own_layers(seed, step)
            batch = feed(step)
            # The teacher runs first, so that the student's saved activations are still in cache for backward.
            signals = teacher(batch)
            with engine.autocast():
                outputs, own_signals = read(engine, net.student, batch.images, trains=student)

            inputs = batch.inputs(task) | signals | {name: in_float32(value) for name, value in own_signals.items()}
            inputs["progress"] = step / config.updates
            inputs["label_loss"] = batch.label_loss(task, outputs)  # (N,)
            if feed.class_weights is not None:
                inputs["label_weights"] = batch.label_weights(task, feed.class_weights)
            if net.sources is not None:
                unit = task.on_unit_scale(outputs.detach())
                ahead = feed.index if feed.foreseeable else None
                inputs |= net.sources(step, batch.index, unit, ahead, feed.stored_outputs(batch))
            loss, terms = net.criterion(inputs, step=step, taught=taught)

            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()

            stage.report(len(batch.images), loss=loss.detach(), **terms)  # on the device: no wait per step
            for text in net.criterion.news():
                stage.log(step=step + 1, problem=text)
                stage.console.say(f"{stage.name}: {text}")
            yield step


# --- the images of a step -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """The N images of one update, real ones first."""

    images: Tensor
    """(N, C, H, W) uint8, or float32 in [0, 1] if augmented or mixed."""
    parts: list[tuple[slice, Tensor]]
    """Rows and their labels, in user units: of real images, then of generated ones; or of all, mixed."""
    index: Tensor
    """(N,) positions in the training data, where generated images follow real ones."""
    num_real: int
    real_index: Tensor
    fake_index: Tensor | None
    view: Tensor | None
    """(N,) which of the stored views each image is seen in."""

    def inputs(self, task: Task) -> Signals:
        """Inputs of the losses that come from images and labels."""
        return {
            "task": task,
            "index": self.index,
            "images": self.images.float() / 255 if self.images.dtype == torch.uint8 else self.images,
            "labels": torch.cat([task.hard_labels(labels) for _, labels in self.parts]),
            "targets": torch.cat([task.targets(labels) for _, labels in self.parts]),
        }

    def label_loss(self, task: Task, outputs: Tensor) -> Tensor:
        """The task's own loss (N,) of outputs; part by part, as generated images may have soft labels."""
        return torch.cat([task.loss(outputs[rows], labels) for rows, labels in self.parts])

    def label_weights(self, task: Task, weights: Tensor) -> Tensor:
        """Weight (N,) of each image in the label loss, from those of the classes (K,)."""
        return torch.cat([weights_of_images(weights, task, labels) for _, labels in self.parts])


class Feed:
    """Batches of real and generated images: those of step k depend only on (seed, k).

    Raises:
        ConfigError: no batch has an image of the kind that `config.kd_on` names.
    """

    def __init__(
        self,
        real: LabelledImages,
        fakes: Fakes | None,
        config: DistillConfig,
        engine: Engine,
        seed: int,
        student: ImageModel | None = None,
    ) -> None:
        self.real, self.fakes, self.config, self.engine, self.seed = real, fakes, config, engine, seed
        self.student, self.first_fake = student, len(real)
        self.num_fake = round(config.fake_share * config.batch_size) if fakes is not None else 0
        self.num_real = config.batch_size - self.num_fake
        # A batch of at least one image also where all are generated: Batches takes no size of 0.
        self._real_batches = Batches(len(real), max(self.num_real, 1), seed, "student real")
        self._fake_batches = None
        if fakes is not None:
            drawn = self.num_fake * config.fake_choices
            self._fake_batches = Batches(len(fakes.images), drawn, seed, "student fake")
        self._last_batches = Batches(len(real), config.batch_size, seed, "student real", "last")
        self.class_weights: Tensor | None = None
        """(K,) weights of the classes in label losses; None: all weigh the same."""
        if config.class_weights != "none":
            shares = [(real.labels, self.num_real / config.batch_size)]
            shares += [(fakes.labels, self.num_fake / config.batch_size)] if fakes else []
            self.class_weights = weights_of_classes(config.class_weights, real.task, shares, config.where)
        self.real_views = self._draw("real", len(real))
        self.fake_views = self._draw("fake", 0 if fakes is None else len(fakes.images))
        require(
            {"both": 1, "real": self.num_real, "fake": self.num_fake}[config.kd_on] > 0,
            f"{config.where}kd_on={config.kd_on}, but no batch has such images; choose another kd_on or fake_share",
        )

    @property
    def taught(self) -> slice:
        """Rows of a batch on which losses that read the teacher work."""
        ends = {"both": (None, None), "real": (0, self.num_real), "fake": (self.num_real, None)}
        return slice(*ends[self.config.kd_on])

    @property
    def fixed(self) -> bool:
        """True if there are finitely many views, so that the teacher's outputs can be stored."""
        return self.config.mix == "none" and (not self.config.augment or self.config.views != "online")

    def dataset_labels(self, task: Task) -> Tensor:
        """(n + M,) classes or values on the [0, 1] scale, of real and then generated images."""
        parts = [task.hard_labels(self.real.labels)]  # (n,)
        if self.fakes is not None:
            parts.append(task.hard_labels(self.fakes.labels))  # (M,)
        return torch.cat(parts)

    @property
    def foreseeable(self) -> bool:
        """True if the images of a step do not depend on the student."""
        return self.fakes is None or self.config.fake_choices == 1

    def index(self, step: int) -> Tensor:
        """(N,) positions in the training data of the images of a step; on the CPU."""
        real, fake = self._positions(step)
        return real if fake is None else torch.cat([real, fake.cpu() + self.first_fake])

    def _positions(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Real images on the CPU, and generated ones unless the step has none; these on the device if they are chosen
        there, so that nothing waits for it.
        """
        if self._fake_batches is None:
            return self._real_batches(step), None
        config = self.config
        if config.fake_until < 1 and step >= round(config.fake_until * config.updates):
            return self._last_batches(step), None
        fake = self._fake_batches(step)
        if config.fake_choices > 1:
            fake = self._least_fitted(fake)
        return self._real_batches(step)[: self.num_real], fake

    @torch.no_grad()
    def _least_fitted(self, index: Tensor) -> Tensor:
        """The `num_fake` of these generated images whose labels are farthest from the student's outputs.

        Source: CutMixPick of Wang et al., NeurIPS 2022, which picks among mixed images.
        """
        assert self.fakes is not None
        assert self.student is not None
        index = index.to(self.engine.device)
        self.student.eval()  # no batch statistics of images that are not trained on
        with self.engine.autocast():
            outputs = self.engine.shards(self.student, self.fakes.images[index])
        self.student.train()
        excess = self.real.task.excess_loss(outputs, self.fakes.labels[index])
        return index[excess.topk(self.num_fake).indices]

    def __call__(self, step: int) -> Batch:
        config, device = self.config, self.engine.device
        real_index, fake_index = self._positions(step)
        real_index, num_real = real_index.to(device), len(real_index)
        images, index = self.real.images[real_index], real_index  # (num_real, C, H, W)
        parts = [(slice(0, num_real), self.real.labels[real_index])] if num_real else []
        if self.fakes is not None and fake_index is not None:
            fake_index = fake_index.to(device)
            images = torch.cat([images, self.fakes.images[fake_index]])  # (N, C, H, W), real ones first
            index = torch.cat([index, fake_index + self.first_fake])
            parts.append((slice(num_real, None), self.fakes.labels[fake_index]))
        view = None
        if config.augment and self.real_views is not None:
            view = torch.randint(len(self.real_views), (len(images),), generator=rng(self.seed, "view", step))
            view = view.to(device)
            draws = [self.real_views[view[:num_real], real_index]]
            if fake_index is not None and self.fake_views is not None:
                draws.append(self.fake_views[view[num_real:], fake_index])
            images = apply_views(images, Views.cat(draws))
        elif config.augment:
            images = augment(images, config.augment, rng(self.seed, "augment", step, device=device))
        if config.mix != "none":  # real images with generated ones, too
            task, numbers = self.real.task, rng(self.seed, "mix", step, device=device)
            labels = torch.cat([task.mixable(some) for _, some in parts])  # (N, K) or (N,)
            images, labels = mix(images, labels, task, config.mix, config.mix_alpha, numbers)
            parts = [(slice(None), labels)]
        return Batch(images, parts, index, num_real, real_index, fake_index, view)

    def stored_outputs(self, batch: Batch) -> tuple[slice, Tensor] | None:
        """Rows of generated images whose teacher outputs were given with them, and these outputs."""
        if self.fakes is None or self.fakes.teacher_outputs is None or batch.fake_index is None:
            return None
        return slice(batch.num_real, None), self.fakes.teacher_outputs[batch.fake_index]

    def _draw(self, purpose: str, count: int) -> Views | None:
        """(K, count) stored views: the same for all students, which can then share the teacher's outputs."""
        if not self.config.augment or self.config.views == "online" or count == 0:
            return None
        views = [
            draw_views(count, self.config.augment, rng(0, "view", purpose, k)) for k in range(int(self.config.views))
        ]
        return Views.stack(views).to(self.engine.device)


# --- the teacher's side of a step ---------------------------------------------------------------------------


class Teaching:
    """The teacher's signals for a batch: computed in step, or looked up where images or views stay the same."""

    def __init__(self, net: Connection, feed: Feed, task: Task, folder: Path | None) -> None:
        self._reader, self._engine = net.teacher, feed.engine
        self._real: Signals | None = None
        self._fake: Signals | None = None
        self._sizes = len(feed.real), 0 if feed.fakes is None else len(feed.fakes.images)
        reader, config, fakes = net.teacher, feed.config, feed.fakes
        given = None if fakes is None else fakes.teacher_outputs
        if reader is not None and given is not None and fakes is not None and fakes.every_view:
            views = 1 if feed.fake_views is None else len(feed.fake_views)
            outputs = torch.cat([task.on_unit_scale(given.float())] * views)
            self._fake = dict.fromkeys(reader.names, outputs)
            return
        if reader is None or not feed.fixed or not (set(reader.names) <= OUTPUTS or config.store_features):
            return
        paths = [pair[1].path for pair in net.wiring.pairs]
        store = partial(stored_signals, reader, engine=feed.engine, kinds=config.augment, paths=paths)
        if feed.num_real or feed.config.fake_until < 1:
            self._real = store(feed.real.images, views=feed.real_views, folder=folder)
        if given is not None and set(reader.names) <= OUTPUTS and not config.augment:
            self._fake = dict.fromkeys(reader.names, task.on_unit_scale(given.float()))
        elif fakes is not None:
            self._fake = store(fakes.images, views=feed.fake_views, folder=fakes.folder)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Signals:
        if self._reader is None:
            return {}
        if self._real is None and self._fake is None:
            with self._engine.autocast():
                return {
                    name: in_float32(value) for name, value in read(self._engine, self._reader, batch.images)[1].items()
                }
        # Stored signals hold all images in their first view, then all in their second, and so on.
        view = torch.zeros_like(batch.index) if batch.view is None else batch.view
        real_view, fake_view = view[: batch.num_real], view[batch.num_real :]
        parts = []
        if self._real is not None:
            place = batch.real_index + real_view * self._sizes[0]
            parts.append({name: rows_of(value, place) for name, value in self._real.items()})
        if self._fake is not None and batch.fake_index is not None:
            place = batch.fake_index + fake_view * self._sizes[1]
            parts.append({name: rows_of(value, place) for name, value in self._fake.items()})
        signals = {name: in_float32(joined([part[name] for part in parts])) for name in parts[0]}
        return {name: rotations_first(name, value) for name, value in signals.items()}
