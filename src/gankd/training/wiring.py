"""Wiring of losses before training: pair feature maps of two networks, build the losses, try them on a few images."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gankd.config import require
from gankd.data.images import LabelledImages
from gankd.data.mix import check_mix
from gankd.engine import Engine
from gankd.errors import ConfigError, ModelError
from gankd.losses.distillation.spec import BUILD_INPUTS, OTHER_INPUTS, LossModule, network_inputs
from gankd.models.contract import ImageModel
from gankd.models.head import teacher_head
from gankd.models.tapped import Tap, Tapped
from gankd.models.taps import check_taps, find_taps, pair_taps
from gankd.seeds import derive_seed
from gankd.tasks import Task
from gankd.training.criterion import Criterion, Reader, WeightedLoss, blamed_on, in_float32
from gankd.training.lesson import DistillConfig, Lesson
from gankd.training.objective import Objective
from gankd.training.rows import Signals
from gankd.virtual import Sources

EXAMPLES = 4
"""Images of the dry run."""


@dataclass(frozen=True)
class Wiring:
    """Paired feature maps of the student and the teacher, shallow to deep."""

    pairs: tuple[tuple[Tap, Tap], ...] = ()

    @classmethod
    def find(
        cls,
        student: ImageModel,
        teacher: ImageModel,
        images: Tensor,
        student_taps: Sequence[str] = (),
        teacher_taps: Sequence[str] = (),
    ) -> "Wiring":
        """Pair the maps at the paths given, or at stage boundaries found by a dry run on `images`.

        Raises:
            ModelError: a path that does not exist or gives no map; or not as many for one network as for the other.
        """
        if student_taps and teacher_taps and len(student_taps) != len(teacher_taps):
            raise ModelError(
                f"student_taps names {len(student_taps)} maps and teacher_taps {len(teacher_taps)}; "
                "they are paired one by one, so name as many of each"
            )
        own = check_taps(student, images, student_taps, "student") if student_taps else find_taps(student, images)
        other = check_taps(teacher, images, teacher_taps, "teacher") if teacher_taps else find_taps(teacher, images)
        if student_taps and teacher_taps:
            return cls(tuple(zip(own, other, strict=True)))
        return cls(tuple(pair_taps(own, other)))


class OnUnitScale(nn.Module):
    """A network whose outputs are logits, or values on the [0, 1] label scale."""

    def __init__(self, model: ImageModel, task: Task) -> None:
        super().__init__()
        self.model, self._task = model, task

    def forward(self, images: Tensor) -> Tensor:
        return self._task.on_unit_scale(self.model(images))


@dataclass(frozen=True)
class Connection:
    """Losses between two networks, ready for training; a `with` block takes the hooks off both networks."""

    criterion: Criterion
    student: Reader
    teacher: Reader | None
    wiring: Wiring
    sources: Sources | None
    """Target sources of losses written as LOSS@source."""

    def close(self) -> None:
        """Take all hooks off the two networks."""
        self.student.close()
        if self.teacher is not None:
            self.teacher.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(
    student: ImageModel,
    lesson: Lesson,
    data: LabelledImages,
    config: DistillConfig,
    engine: Engine,
    seed: int,
    dataset_labels: Tensor | None = None,
) -> Connection:
    """Pair feature maps and build what the losses need, from a dry run of four images; no network is changed.

    Args:
        student: on the engine's device, as the teacher of the lesson is.
        lesson: losses, and what they read.
        data: real images on that device, of which the first four are used.
        config: names modules whose maps are paired, and whether networks will be compiled.
        engine: device and precision.
        seed: of the losses' own parameters.
        dataset_labels: (M,) classes, or values on the [0, 1] scale, of all training images; default: those of `data`.

    Raises:
        ConfigError: a loss for the other task, or one that cannot work on mixed images; or one of its inputs is
            missing; or a network cannot be compiled as the losses read it.
        ModelError: a loss does not fit the two networks.
    """
    task, teacher = data.task, lesson.teacher
    # --- feature maps: which exist, and which are paired
    objective = lesson.objective.for_task(task)
    check_mixing(objective, config, task)
    if objective.needs_teacher and teacher is None:
        raise ConfigError(f"the loss {objective} reads a teacher, and none is given")
    _, height, width = data.shape
    require(
        height == width or not any(name.startswith("rotated_") for name in objective.inputs),
        f"the loss {objective} turns images by 90 degrees, so they must be square, got {height}x{width}; take another",
    )
    if dataset_labels is None:
        dataset_labels = task.hard_labels(data.labels)
    wiring = _wiring(objective, student, teacher, data.images[:1], config)
    readers = [_reader("student", student, task, objective.inputs, [pair[0] for pair in wiring.pairs])]
    # From here on the networks have hooks, which must go if anything fails.
    try:
        if teacher is not None and objective.needs_teacher:
            taps = [pair[1] for pair in wiring.pairs]
            readers.append(_reader("teacher", teacher, task, objective.inputs, taps))
        for reader in readers:
            if config.compile and reader.why_not_compile:
                raise ConfigError(
                    f"student.compile is not possible with this loss: {reader.why_not_compile}; set it to false"
                )
        # --- examples of everything that a loss may read
        rows = torch.arange(EXAMPLES, device=data.images.device) % len(data.images)
        examples, outputs = _read(readers, data, rows, engine)
        examples["dataset_labels"] = dataset_labels
        sources = None
        if objective.sources:
            virtual = None if lesson.virtual is None else lesson.virtual.to(engine.device)
            sources = Sources(objective.sources, virtual, task, dataset_labels, seed)
            with torch.no_grad():  # (N, K) or (N, B) for each source
                examples |= sources(0, rows, task.on_unit_scale(outputs))
        if "teacher_head" in objective.inputs and teacher is not None:
            examples["teacher_head"] = teacher_head(teacher, data.images[rows], task)
        if lesson.new_student is not None:
            make = lesson.new_student
            examples["new_network"] = lambda name, seed: engine.place(OnUnitScale(make(name, seed), task))
            examples["new_student"] = lambda seed: engine.place(OnUnitScale(make("", seed), task))
        # --- the losses, built from the examples and tried on them
        criterion = _build(objective, examples, seed)
        _dry_run(criterion, examples)
    except BaseException:
        for reader in readers:
            reader.close()
        raise
    return Connection(criterion, readers[0], readers[1] if readers[1:] else None, wiring, sources)


def check_mixing(objective: Objective, config: DistillConfig, task: Task) -> None:
    """Raise ConfigError if images are mixed, and their labels or one of the losses do not allow it."""
    check_mix(config.mix, task, config.where)
    if config.mix == "none":
        return
    setting = f"{config.where}mix={config.mix}"
    for item in objective.terms:
        make: Any = item.loss.make
        reads = set(item.loss.inputs)
        if item.loss.is_module and issubclass(make, LossModule):
            reads |= set(inspect.signature(make.pretraining).parameters)
        if refused := sorted(reads & set(task.not_when_mixed)):
            meaning = OTHER_INPUTS[refused[0]]
            raise ConfigError(
                f"loss {item.spelling} reads {refused[0]} ({meaning}), which mixed images do not have; "
                f"set {setting.partition('=')[0]}=none, or leave the loss out, got {setting}"
            )
        if item.source is not None:
            raise ConfigError(
                f"loss {item} reads targets of single labels, which mixed images do not have; "
                f"set {setting.partition('=')[0]}=none, or leave @{item.source.name} out, got {setting}"
            )


def _wiring(
    objective: Objective, student: ImageModel, teacher: ImageModel | None, images: Tensor, config: DistillConfig
) -> Wiring:
    """Paired maps, if the losses read any."""
    if not any(name.rpartition("_")[2] in ("features", "preactivations") for name in objective.inputs):
        return Wiring()
    if teacher is None:
        raise ConfigError(f"the loss {objective} reads feature maps, which are paired with a teacher's: give one")
    if closed := getattr(teacher.net, "only_outputs", ""):
        raise ModelError(f"the loss {objective} reads feature maps, but the teacher {closed}")
    return Wiring.find(student, teacher, images, config.student_taps, config.teacher_taps)


def _reader(side: str, model: ImageModel, task: Task, wanted: set[str], taps: Sequence[Tap]) -> Reader:
    """Reads of one network ("student" or "teacher") those inputs of the losses that are its own.

    Raises:
        ModelError: maps are wanted and the network has none.
    """
    names = [name for name in wanted if name in network_inputs() and f"{side}_" in name]
    kinds = {name: name.removeprefix("rotated_").removeprefix(f"{side}_") for name in names}
    maps = bool({"features", "preactivations"} & set(kinds.values()))
    if maps and not taps:
        raise ModelError(
            f"the {side} {type(model.net).__name__} has no feature maps that can be paired with the other network's; "
            "name modules in student.student_taps and student.teacher_taps, or take a loss without features"
        )
    tapped = None
    if maps or "embedding" in kinds.values():
        tapped = Tapped(model, tuple(taps) if maps else (), preactivations="preactivations" in kinds.values())
    return Reader(model, task, kinds, tapped)


def _read(readers: Sequence[Reader], data: LabelledImages, rows: Tensor, engine: Engine) -> tuple[Signals, Tensor]:
    """Inputs of the losses that come from images, labels and networks, for these rows; and the student's outputs."""
    task, student = data.task, readers[0].model
    images, labels = data.images[rows], data.labels[rows]
    examples: Signals = {
        "task": task,
        "progress": 0.0,
        "index": rows,
        "images": images.float() / 255,  # (N, C, H, W)
        "targets": task.targets(labels),  # (N, K) or (N,)
        "labels": task.hard_labels(labels),  # (N,)
    }
    was_training = student.training
    student.eval()  # or the dry run would change batch statistics
    try:
        with torch.no_grad(), engine.autocast():
            read = [reader(images) for reader in readers]
    finally:
        student.train(was_training)
    for _, signals in read:
        examples |= {name: in_float32(value) for name, value in signals.items()}
    outputs = read[0][0]
    return examples | {"label_loss": task.loss(outputs, labels)}, outputs


def _build(objective: Objective, examples: Mapping[str, Any], seed: int) -> Criterion:
    """The sum, with losses that are modules constructed from `examples` of their inputs.

    Raises:
        ConfigError: an input is missing, or a constructor fails.
    """
    losses = []
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        for label, item in zip(objective.labels, objective.terms, strict=True):
            settings = dict(item.settings)
            if item.loss.is_module:
                torch.manual_seed(derive_seed(seed, "loss", label))  # parameters do not depend on the other losses
                arguments = _chosen(examples, item.build_reads, item.loss.name)
                with blamed_on(item.spelling):
                    function = item.loss.make(*arguments, **settings)
            else:
                function = partial(item.loss.make, **settings)
            losses.append(
                WeightedLoss(label, item.spelling, item.coefficient, function, item.reads, item.loss.is_label_loss)
            )
    return Criterion(losses, seed).to(examples["label_loss"].device)


def _dry_run(criterion: Criterion, examples: Mapping[str, Any]) -> None:
    """Refuse now what would fail, or teach nothing, at a later step.

    Raises:
        ConfigError: a loss misses an input, gives another shape, is not finite, or does not depend on the student.
    """
    # Leaves that want a gradient show whether a loss depends on the student.
    inputs = {name: _with_gradient(value) if _is_of_student(name) else value for name, value in examples.items()}
    count = len(inputs["label_loss"])
    criterion.eval()  # memories of losses stay as they are
    for item in criterion.losses:
        what = f"loss {item.spelling}"
        _chosen(inputs | {"generator": None}, item.reads, item.spelling)
        value: Any = criterion.value(item, inputs, step=0)
        if not isinstance(value, Tensor) or tuple(value.shape) not in ((), (count,)):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(f"{what} must give one value, or one per row ({count},), got {got}")
        if not value.isfinite().all():
            raise ConfigError(f"{what} is nan or inf for the first {count} images; check it and its settings")
        if not value.requires_grad:
            raise ConfigError(f"{what} does not depend on the student; does it detach what it reads?")
    for label, part in criterion.pretrained.items():
        _chosen(inputs, tuple(inspect.signature(part.pretraining).parameters), label)
    criterion.train()


def _chosen(inputs: Mapping[str, Any], names: Sequence[str], what: str) -> list[Any]:
    """Inputs by name; ConfigError with the meaning of the first that is missing."""
    missing = [name for name in names if name not in inputs]
    if missing:
        known = {**network_inputs(), **OTHER_INPUTS, **BUILD_INPUTS}
        meaning = known.get(missing[0].partition("@")[0], "unknown")
        raise ConfigError(f"loss {what} reads {missing[0]} ({meaning}), which is not given here")
    return [inputs[name] for name in names]


def _is_of_student(name: str) -> bool:
    return "student_" in name or name == "label_loss"


def _with_gradient(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_gradient(item) for item in value]
    return value.detach().requires_grad_() if isinstance(value, Tensor) else value
