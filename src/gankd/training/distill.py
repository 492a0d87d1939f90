"""Train a student on real and generated images, from labels and, if asked, from a teacher by any sum of losses.

Every arm of a comparison is this one loop with other inputs, so that arms differ in nothing else.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gankd.config import require
from gankd.data.augment import apply_views, augment, draw_views
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.models.contract import ImageModel, check_model, evaluate
from gankd.runs import Stage
from gankd.seeds import Batches, rng
from gankd.tasks import Task
from gankd.training.criterion import Connection, NewStudent, Signals, connect, in_float32
from gankd.training.objective import Objective, term
from gankd.training.supervised import SupervisedConfig, make_optimizer, seed_own_layers
from gankd.training.teacher_outputs import TeacherOutputs, join
from gankd.virtual import VirtualTeacher

OUTPUTS = {"teacher_outputs", "teacher_logits", "teacher_values"}
"""What is stored with generated images anyway."""


@dataclass(frozen=True, kw_only=True)
class DistillConfig(SupervisedConfig):
    """How a student learns."""

    fake_share: float = 0.5
    """Share of generated images in each batch, where there are any."""
    kd_on: Literal["both", "real", "fake"] = "both"
    """Images on which losses that read the teacher work."""
    views: Literal["online"] | int = "online"
    """How images are augmented: online draws anew at every step; K draws K views of each image once, so that what
    the teacher says of them can be stored."""
    compile: bool = False
    """Compile student and teacher by torch.compile, with what losses read of them; pays on a GPU in long trainings."""
    store_features: bool = False
    """Also store the teacher's features for images or views that stay the same; its outputs always are."""
    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()
    """Modules whose feature maps meet one by one, as dotted paths; none: stage boundaries, see `gankd inspect`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.fake_share <= 1, f"{self.where}fake_share must lie in (0, 1], got {self.fake_share}")
        require(
            round(self.fake_share * self.batch_size) >= 1,
            f"fake_share {self.fake_share} of batch_size {self.batch_size} is less than one image",
        )
        require(
            self.views == "online" or self.views >= 1,
            f"{self.where}views must be online or at least 1, got {self.views}",
        )
        require(
            self.views == "online" or bool(self.augment),
            f"{self.where}views={self.views} needs an augmentation to draw; set {self.where}augment",
        )


@dataclass(frozen=True)
class Fakes:
    """Generated images for a student: uint8 images (M, C, H, W) and labels (M,) or class probabilities (M, K)."""

    images: Tensor
    labels: Tensor
    teacher_outputs: Tensor | None = None
    """(M,) or (M, K) in user units, of the very teacher that the student learns from; computed if not given."""
    folder: Path | None = None
    """Where other outputs of the teacher are kept for the next student."""

    def to(self, device: torch.device) -> "Fakes":
        """The same on another device."""
        outputs = None if self.teacher_outputs is None else self.teacher_outputs.to(device)
        return Fakes(self.images.to(device), self.labels.to(device), outputs, self.folder)


@dataclass(frozen=True)
class Batch:
    """What one update sees, real images first."""

    images: Tensor
    parts: list[tuple[slice, Tensor]]
    """Rows and their labels, in user units."""
    index: Tensor
    num_real: int
    real_index: Tensor
    fake_index: Tensor | None
    view: Tensor | None
    """(N,) which of the stored views each image is seen in."""


class Feed:
    """Batches of real and generated images: those of step k depend on (seed, k) alone."""

    def __init__(
        self, real: LabelledImages, fakes: Fakes | None, config: DistillConfig, engine: Engine, seed: int
    ) -> None:
        self.real, self.fakes, self.config, self.engine, self.seed = real, fakes, config, engine, seed
        self.num_fake = round(config.fake_share * config.batch_size) if fakes is not None else 0
        self.num_real = config.batch_size - self.num_fake
        self._real_batches = Batches(len(real), max(self.num_real, 1), seed, "student real")
        self._fake_batches = Batches(len(fakes.images), self.num_fake, seed, "student fake") if fakes else None
        self.real_views, self.fake_views = self._draw("real", len(real)), self._draw("fake", self.num_fakes)

    @property
    def num_fakes(self) -> int:
        """Number of generated images."""
        return 0 if self.fakes is None else len(self.fakes.images)

    @property
    def fixed(self) -> bool:
        """Are there finitely many views, of which the teacher's outputs can be stored?"""
        return not self.config.augment or self.config.views != "online"

    def dataset_labels(self, task: Task) -> Tensor:
        """(n + M,) classes or values on the [0, 1] scale, of real and then generated images."""
        parts = [task.hard_labels(self.real.labels)]
        if self.fakes is not None:
            parts.append(task.hard_labels(self.fakes.labels))
        return torch.cat(parts)

    def index(self, step: int) -> Tensor:
        """(N,) which images, generated ones after the real ones, make the batch of a step; on the CPU."""
        parts = [self._real_batches(step)[: self.num_real]]
        if self._fake_batches is not None:
            parts.append(self._fake_batches(step) + len(self.real))
        return torch.cat(parts)

    def __call__(self, step: int) -> Batch:
        config, device = self.config, self.engine.device
        real_index = self._real_batches(step)[: self.num_real].to(device)
        images, index, fake_index = self.real.images[real_index], real_index, None
        parts = [(slice(0, self.num_real), self.real.labels[real_index])] if self.num_real else []
        if self.fakes is not None and self._fake_batches is not None:
            fake_index = self._fake_batches(step).to(device)
            images = torch.cat([images, self.fakes.images[fake_index]])
            index = torch.cat([index, fake_index + len(self.real)])
            parts.append((slice(self.num_real, None), self.fakes.labels[fake_index]))
        view = None
        if config.augment and self.real_views is not None:
            view = torch.randint(len(self.real_views), (len(images),), generator=rng(self.seed, "view", step))
            view = view.to(device)
            draws = [self.real_views[view[: self.num_real], real_index]]
            if fake_index is not None and self.fake_views is not None:
                draws.append(self.fake_views[view[self.num_real :], fake_index])
            images = apply_views(images, config.augment, torch.cat(draws))
        elif config.augment:
            images = augment(images, config.augment, rng(self.seed, "augment", step, device=device))
        return Batch(images, parts, index, self.num_real, real_index, fake_index, view)

    def _draw(self, purpose: str, count: int) -> Tensor | None:
        """(K, count, 7) stored views: the same for all students, which can then share the teacher's outputs."""
        if not self.config.augment or self.config.views == "online" or count == 0:
            return None
        views = [
            draw_views(count, self.config.augment, rng(0, "view", purpose, k)) for k in range(int(self.config.views))
        ]
        return torch.stack(views).to(self.engine.device)


class Teaching:
    """The teacher's side of each batch: stored where its images stay the same, computed in step otherwise."""

    def __init__(self, connection: Connection, feed: Feed, task: Task, folder: Path | None) -> None:
        self._reader, self._engine, self._stored = connection.teacher, feed.engine, list[Any]()
        reader, config, fakes = connection.teacher, feed.config, feed.fakes
        if reader is None or not feed.fixed or not (set(reader.names) <= OUTPUTS or config.store_features):
            return
        paths = [pair[1].path for pair in connection.wiring.pairs]
        kinds = config.augment

        def store(images: Tensor, views: Tensor | None, where: Path | None) -> TeacherOutputs:
            return TeacherOutputs(reader, images, feed.engine, kinds, views, paths=paths, folder=where)

        if feed.num_real:
            self._stored.append(store(feed.real.images, feed.real_views, folder))
        given = None if fakes is None else fakes.teacher_outputs
        if given is not None and set(reader.names) <= OUTPUTS and not config.augment:
            outputs = task.on_unit_scale(given.float())
            self._stored.append(_AlreadyThere(dict.fromkeys(reader.names, outputs)))
        elif fakes is not None:
            self._stored.append(store(fakes.images, feed.fake_views, fakes.folder))

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Signals:
        if self._reader is None:
            return {}
        if not self._stored:
            with self._engine.autocast():
                return {name: in_float32(value) for name, value in self._reader(batch.images)[1].items()}
        index = [batch.real_index[: batch.num_real]] if batch.num_real else []
        if batch.fake_index is not None:
            index.append(batch.fake_index)
        views: list[Tensor | int] = [0, 0]
        if batch.view is not None:
            views = [batch.view[: batch.num_real]] if batch.num_real else []
            views.append(batch.view[batch.num_real :])
        return join([stored.rows(rows, view) for stored, rows, view in zip(self._stored, index, views, strict=False)])


@dataclass(frozen=True)
class _AlreadyThere:
    """Outputs that were stored with generated images."""

    signals: Signals

    def rows(self, index: Tensor, view: Tensor | int = 0) -> Signals:
        return {name: value[index] for name, value in self.signals.items()}


class Learner:
    """A student between its data, its teacher and its losses: `update` is one step of training.

    See `distill` for the arguments and what is raised.
    """

    def __init__(
        self,
        student: ImageModel,
        real: LabelledImages,
        config: DistillConfig,
        engine: Engine,
        seed: int,
        *,
        objective: Objective | str | None = None,
        fakes: Fakes | None = None,
        teacher: ImageModel | None = None,
        new_student: NewStudent | None = None,
        virtual: VirtualTeacher | None = None,
        folder: Path | None = None,
    ) -> None:
        objective = Objective.parse(objective) if isinstance(objective, str) else objective
        self.student, self.task, self.config, self.engine, self.seed = student, real.task, config, engine, seed
        real, fakes = real.to(engine.device), fakes.to(engine.device) if fakes is not None else None
        engine.place(student)
        check_model(student, real, "student")
        if teacher is not None:
            engine.place(teacher).eval()
        self.feed = Feed(real, fakes, config, engine, seed)
        require(
            {"both": 1, "real": self.feed.num_real, "fake": self.feed.num_fake}[config.kd_on] > 0,
            f"{config.where}kd_on={config.kd_on}, but no batch has such images; choose another kd_on or fake_share",
        )
        ends = {"both": (0, None), "real": (0, self.feed.num_real), "fake": (self.feed.num_real, None)}
        self._taught = slice(*ends[config.kd_on])
        self.connection = connect(
            objective or term("Label"),
            student,
            teacher,
            real.images,
            real.labels,
            self.task,
            engine,
            seed,
            dataset_labels=self.feed.dataset_labels(self.task),
            student_taps=config.student_taps,
            teacher_taps=config.teacher_taps,
            new_student=new_student,
            virtual=None if virtual is None else virtual.to(engine.device),
        )
        self.criterion = self.connection.criterion
        self._telling: list[Any] = [part for part in self.criterion.parts.values() if hasattr(part, "problems")]
        self._told: dict[str, str] = {}
        if config.compile:
            for reader in filter(None, (self.connection.student, self.connection.teacher)):
                reader.compile()
        self._teaching = Teaching(self.connection, self.feed, self.task, folder)

    def __enter__(self) -> "Learner":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def pretrain(self, stage: Stage) -> None:
        """Train the parts of losses that see the teacher alone, then freeze them."""
        for label, (part, share) in self.criterion.pretrained().items():
            self._pretrain(part, max(1, round(share * self.config.updates)), stage.part(label))

    def _pretrain(self, part: Any, updates: int, stage: Stage) -> None:
        loss_of: Callable[..., Tensor] = part.pretraining
        names = tuple(inspect.signature(loss_of).parameters)
        module: nn.Module = part.pretrained
        optimizer, schedule = make_optimizer(module, self.config, updates)
        for step in stage.steps(updates, module=module, optimizer=optimizer, schedule=schedule):
            module.train()
            batch = self.feed(step)
            inputs = _inputs(batch, self.task, self._teaching(batch), step / updates)
            loss = loss_of(*[inputs[name] for name in names])
            _descend(loss, optimizer, schedule)
            stage.report(len(batch.images), loss=loss.detach())
        module.requires_grad_(False)

    def start(self) -> dict[str, Any]:
        """Make optimiser and schedule; returns all that a checkpoint must hold."""
        self._optimizer, self._schedule = make_optimizer(nn.ModuleList([self.student, self.criterion]), self.config)
        state = {"student": self.student, "optimizer": self._optimizer, "schedule": self._schedule}
        parts = {"criterion": self.criterion, "sources": self.connection.sources}
        return state | {name: part for name, part in parts.items() if part.state_dict()}

    def update(self, step: int) -> tuple[int, dict[str, Tensor]]:
        """One update; returns the number of images and the loss with its terms, still on the device."""
        self.student.train()
        self.criterion.train()
        seed_own_layers(self.seed, step)
        batch = self.feed(step)
        # The teacher first: what the student keeps for the way back is then still in the cache.
        inputs = _inputs(batch, self.task, self._teaching(batch), step / self.config.updates)
        with self.engine.autocast():
            outputs, signals = self.connection.student(batch.images)
        inputs["label_loss"] = torch.cat([self.task.loss(outputs[rows], labels) for rows, labels in batch.parts])
        inputs.update({name: in_float32(value) for name, value in signals.items()})
        inputs.update(self._from_sources(step, batch, outputs))
        loss, terms = self.criterion(inputs, step=step, taught=self._taught)
        _descend(loss, self._optimizer, self._schedule)
        return len(batch.images), {"loss": loss.detach(), **terms}

    def news(self) -> list[str]:
        """What losses have to tell since the last time, as of peers whose files cannot be read."""
        found = [(name, text) for part in self._telling for name, text in part.problems.items()]
        fresh = [text for name, text in found if self._told.get(name) != text]
        self._told = dict(found)
        return fresh

    def _from_sources(self, step: int, batch: Batch, outputs: Tensor) -> Signals:
        """What losses read of others than the teacher: for these a label is enough, and maybe the student's output."""
        feed, stored = self.feed, None
        if feed.fakes is not None and feed.fakes.teacher_outputs is not None and batch.fake_index is not None:
            stored = slice(batch.num_real, None), feed.fakes.teacher_outputs[batch.fake_index]
        unit = self.task.on_unit_scale(outputs.detach())
        found: Signals = self.connection.sources(step, batch.index, unit, feed.index, stored)
        return found


def distill(
    student: ImageModel,
    real: LabelledImages,
    val: LabelledImages,
    config: DistillConfig,
    engine: Engine,
    seed: int,
    *,
    objective: Objective | str | None = None,
    fakes: Fakes | None = None,
    teacher: ImageModel | None = None,
    new_student: NewStudent | None = None,
    virtual: VirtualTeacher | None = None,
    stage: Stage | None = None,
    folder: Path | None = None,
    peers: list[ImageModel] | None = None,
) -> ImageModel:
    """Train `student` in place; return it in eval mode, as it is after the last update.

    Args:
        student, real, val, config, engine, seed: what is trained, on what and how; `val` is only measured.
        objective: the losses; the label loss alone if not given, and joined by it where it names none.
        fakes: a share of each batch is generated.
        teacher: read where a loss asks for it, frozen, in eval mode, with its own normalisation.
        new_student: makes another student, for losses that train peers.
        virtual: read in the teacher's place where a loss is told so by @.
        stage: where progress is shown and kept.
        folder: where the teacher's outputs for real images are kept for the next student.
        peers: takes up the networks that a loss trained along with the student, in eval mode.

    Raises:
        ConfigError: a loss is for the other task or misses an input. ModelError: outputs do not fit the task, or a
            loss does not fit the networks. TrainingError: the loss is not finite.
    """
    stage = stage or Stage("student")
    given: dict[str, Any] = {"objective": objective, "fakes": fakes, "teacher": teacher, "new_student": new_student}
    given |= {"virtual": virtual, "folder": folder}
    with Learner(student, real, config, engine, seed, **given) as learner:
        learner.pretrain(stage)
        for step in stage.steps(config.updates, **learner.start()):
            count, terms = learner.update(step)
            stage.report(count, **terms)
            for text in learner.news():
                stage.log(step=step + 1, problem=text)
                stage.console.say(f"{stage.name}: {text}")
        if peers is not None:
            peers += [
                peer.model.eval() for part in learner.criterion.parts.values() for peer in getattr(part, "peers", ())
            ]
    stage.log(step=config.updates, **{f"val_{name}": value for name, value in evaluate(student, val, engine).items()})
    return student.eval()


def _descend(loss: Tensor, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    schedule.step()


def _inputs(batch: Batch, task: Task, signals: Signals, progress: float) -> Signals:
    """All inputs of the losses but the student's."""
    pixels = batch.images.float() / 255 if batch.images.dtype == torch.uint8 else batch.images
    return {
        "task": task,
        "progress": progress,
        "index": batch.index,
        "images": pixels,
        "labels": torch.cat([task.hard_labels(labels) for _, labels in batch.parts]),
        "targets": torch.cat([task.targets(labels) for _, labels in batch.parts]),
        **signals,
    }
