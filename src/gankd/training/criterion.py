"""An objective wired to two networks: which maps meet, which adapters they need, and the loss of a step."""

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
from gankd.losses.distillation.spec import BUILD_INPUTS, OTHER_INPUTS, network_inputs
from gankd.models.contract import ImageModel
from gankd.models.taps import Tap, Tapped, check_taps, find_taps, pair_taps, teacher_head
from gankd.seeds import derive_seed, rng
from gankd.tasks import Task
from gankd.training.objective import Objective, Term
from gankd.virtual import Sources, VirtualTeacher

EXAMPLES = 4
"""Images of the dry run."""
NewStudent = Callable[[str, int], ImageModel]
"""(name or "" for the student's own architecture, seed) -> a student with freshly drawn weights."""
Signals = dict[str, Any]
"""What losses read, by name: tensors of N rows, or lists of such."""


@dataclass(frozen=True)
class Wiring:
    """Feature maps of the student and the teacher that meet, shallow to deep."""

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
                "they meet one by one, so name as many of each"
            )
        own = check_taps(student, images, student_taps, "student") if student_taps else find_taps(student, images)
        other = check_taps(teacher, images, teacher_taps, "teacher") if teacher_taps else find_taps(teacher, images)
        if student_taps and teacher_taps:
            return cls(tuple(zip(own, other, strict=True)))
        return cls(tuple(pair_taps(own, other)))


class Reader:
    """What losses want to see of one network, computed for a batch.

    Args:
        side: "student" or "teacher".
        model: the network.
        task: its task.
        wanted: names of the inputs of all losses; those of the other side are left alone.
        taps: modules whose maps are the features.

    Raises:
        ModelError: maps or an embedding are wanted and the network has none.
    """

    def __init__(self, side: str, model: ImageModel, task: Task, wanted: set[str], taps: Sequence[Tap]) -> None:
        self.names = sorted(name for name in wanted if name in network_inputs() and f"{side}_" in name)
        kinds = {name: name.removeprefix("rotated_").removeprefix(f"{side}_") for name in self.names}
        self._kinds, self._task, self.model = kinds, task, model
        self.rotated = any(name.startswith("rotated_") for name in self.names)
        maps = bool({"features", "preactivations"} & set(kinds.values()))
        if maps and not taps:
            raise ModelError(
                f"the {side} {type(model.net).__name__} has no feature maps that meet the other network's; "
                "name modules in student.student_taps and student.teacher_taps, or take a loss without features"
            )
        self._tapped = None
        if maps or "embedding" in kinds.values():
            self._tapped = Tapped(model, tuple(taps) if maps else (), preactivations="preactivations" in kinds.values())

        self.run: Callable[[Tensor], Any] = self.model if self._tapped is None else self._tapped

    def __call__(self, images: Tensor) -> tuple[Tensor, Signals]:
        """Outputs (N,) or (N, K) in user units, and the inputs of the losses, for images (N, C, H, W)."""
        count = len(images)
        if self.rotated:
            images = torch.cat([images, *(torch.rot90(images, turns, (2, 3)) for turns in (1, 2, 3))])
        found: dict[str, Any]
        if self._tapped is None:
            found = {"outputs": self.run(images)}
        else:
            signals = self.run(images)
            found = signals._asdict()
            if signals.embedding is None and "embedding" in self._kinds.values():
                raise ModelError(self._tapped.why_no_embedding)
        outputs = found["outputs"][:count]
        found["logits"] = found["values"] = found["outputs"] = self._task.on_unit_scale(found["outputs"])
        result = {}
        for name in self.names:
            value = found[self._kinds[name]]
            if self.rotated:  # a slice of all rows would cost a copy of the gradient
                value = rows_of(value, slice(count, None) if name.startswith("rotated_") else slice(count))
            result[name] = [keep_layout(m) for m in value] if isinstance(value, list) else value
        return outputs, result

    def compile(self) -> None:
        """Compile the network with its taps; maps and embedding are then outputs of the compiled code.

        Raises:
            ConfigError: what is read of it cannot be compiled, with the reason.
        """
        self.check_compile()
        self.run = torch.compile(self.model if self._tapped is None else self._tapped)

    def check_compile(self) -> None:
        """Raise ConfigError if what is read of the network cannot be compiled."""
        if self._tapped is not None and self._tapped.why_not_compile:
            raise ConfigError(
                f"student.compile is not possible with this loss: {self._tapped.why_not_compile}; set it to false"
            )

    def close(self) -> None:
        """Take the hooks off the network."""
        if self._tapped is not None:
            self._tapped.close()


class OnUnitScale(nn.Module):
    """A network whose outputs are logits, or values on the [0, 1] label scale."""

    def __init__(self, model: ImageModel, task: Task) -> None:
        super().__init__()
        self.model, self._task = model, task

    def forward(self, images: Tensor) -> Tensor:
        return self._task.on_unit_scale(self.model(images))


class Criterion(nn.Module):
    """The weighted sum of an objective's losses; its parameters and memories are those of the losses.

    Args:
        objective: the sum.
        examples: inputs of a dry run of a few images, and what constructors ask for.
        seed: of the losses' own parameters.

    Raises:
        ConfigError: an input is missing. ModelError: a loss does not fit the two networks.
    """

    def __init__(self, objective: Objective, examples: Mapping[str, Any], seed: int) -> None:
        super().__init__()
        self.objective, self.seed = objective, seed
        self.parts = nn.ModuleDict()
        with torch.random.fork_rng(devices=[]):
            for label, item in zip(objective.labels, objective.terms, strict=True):
                settings = dict(item.settings)
                if item.loss.is_module:
                    torch.manual_seed(derive_seed(seed, "loss", label))
                    arguments = _chosen(examples, item.build_reads, item.loss.name)
                    with _blamed_on(item.spelling):
                        self.parts[label] = item.loss.make(*arguments, **settings)
        self.to(examples["label_loss"].device)
        self._dry_run(examples)

    def _dry_run(self, examples: Mapping[str, Any]) -> None:
        """Refuse now what would fail, or teach nothing, at a later step."""
        read_of_student = {name: _with_gradient(value) for name, value in examples.items() if _is_of_student(name)}
        inputs = {**examples, **read_of_student}
        count = len(inputs["label_loss"])
        self.eval()
        for label, item in zip(self.objective.labels, self.objective.terms, strict=True):
            value: Any = self._value(label, item, inputs, step=0)
            what = f"loss {item.spelling}"
            if not isinstance(value, Tensor) or tuple(value.shape) not in ((), (count,)):
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ConfigError(f"{what} must give one value, or one per row ({count},), got {got}")
            if not value.isfinite().all():
                raise ConfigError(f"{what} is nan or inf for the first {count} images; check it and its settings")
            if not value.requires_grad:
                raise ConfigError(f"{what} does not depend on the student; does it detach what it reads?")
        self.train()

    @property
    def first(self) -> float:
        """Share of the updates during which only the losses that come first are minimised."""
        return max((_first(part) for part in self.parts.values()), default=0.0)

    def forward(
        self, inputs: Mapping[str, Any], *, step: int, taught: slice = slice(None)
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum, and each term without its weight; the mean over rows is taken here.

        Args:
            inputs: what the losses read, N rows each.
            step: number of the update; random numbers depend on it.
            taught: rows on which losses that read the teacher work.
        """
        restricted: Mapping[str, Any] = inputs
        if taught != slice(None):
            count = len(inputs["label_loss"])
            restricted = {name: _restrict(name, value, taught, count) for name, value in inputs.items()}
        progress = float(inputs["progress"])
        opening = progress < self.first
        total: Tensor | None = None
        terms = {}
        for label, item in zip(self.objective.labels, self.objective.terms, strict=True):
            part = self.parts[label] if item.loss.is_module else None
            if (progress < _first(part)) != opening or (not opening and _first(part) > 0):
                continue
            own = restricted if any("teacher_" in name for name in item.reads) else inputs
            value = self._value(label, item, own, step).mean()
            terms[label] = value.detach()
            total = item.coefficient * value if total is None else total + item.coefficient * value
        if total is None:
            raise ConfigError("the objective has no loss to minimise; name one besides those that come first")
        return total, terms

    def _value(self, label: str, item: Term, inputs: Mapping[str, Any], step: int) -> Tensor:
        """What one loss gives, without its weight."""
        if "generator" in item.loss.inputs:
            device = inputs["label_loss"].device
            inputs = {**inputs, "generator": rng(self.seed, "loss", label, step, device=device)}
        arguments = _chosen(inputs, item.reads, item.loss.name)
        with _blamed_on(item.spelling):
            if item.loss.is_module:
                return self.parts[label](*arguments)
            return item.loss.make(*arguments, **dict(item.settings))

    def train(self, mode: bool = True) -> "Criterion":
        """Training mode, but for what was trained beforehand."""
        super().train(mode)
        for part, _ in self.pretrained().values():
            part.pretrained.eval()  # type: ignore[union-attr]
        return self

    def pretrained(self) -> dict[str, tuple[nn.Module, float]]:
        """Losses with a part that is trained on the teacher alone before the student starts, with its length as a
        share of the student's updates.
        """
        found = {}
        for label, part in self.parts.items():
            share = getattr(part, "pretrain", 0.0)
            if hasattr(part, "pretraining") and share > 0:
                found[label] = (part, float(share))
        return found


@contextmanager
def _blamed_on(spelling: str) -> Iterator[None]:
    """Errors of a loss in one line: it may be the user's own. Memory that ran out is not its fault."""
    try:
        yield
    except GankdError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())
        if isinstance(error, MemoryError) or "out of memory" in reason or "allocate memory" in reason:
            raise
        frames = list(traceback.extract_tb(error.__traceback__))
        # The last line that is no library's: of none, where gankd is installed as one and the loss is its own.
        place = ([frame for frame in frames if "site-packages" not in frame.filename] or frames)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        raise ConfigError(f"loss {spelling} fails ({where}): {reason[:300]}") from error


def _is_of_student(name: str) -> bool:
    return "student_" in name or name == "label_loss"


def _with_gradient(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_gradient(item) for item in value]
    return value.detach().requires_grad_() if isinstance(value, Tensor) else value


def rows_of(value: Any, rows: slice | Tensor) -> Any:
    """These rows of a tensor, or of each tensor of a list."""
    return [item[rows] for item in value] if isinstance(value, list) else value[rows]


def in_float32(value: Any) -> Any:
    """Low-precision tensors in float32: losses square, exponentiate and divide."""
    if isinstance(value, list):
        return [in_float32(item) for item in value]
    low = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if low else value


@dataclass(frozen=True)
class Connection:
    """An objective between two networks, ready for training."""

    criterion: Criterion
    student: Reader
    teacher: Reader | None
    wiring: Wiring
    sources: Sources

    def close(self) -> None:
        """Take all hooks off the two networks."""
        self.student.close()
        if self.teacher is not None:
            self.teacher.close()


def connect(
    objective: Objective,
    student: ImageModel,
    teacher: ImageModel | None,
    images: Tensor,
    labels: Tensor,
    task: Task,
    engine: Engine,
    seed: int,
    *,
    dataset_labels: Tensor | None = None,
    student_taps: Sequence[str] = (),
    teacher_taps: Sequence[str] = (),
    new_student: NewStudent | None = None,
    virtual: VirtualTeacher | None = None,
) -> Connection:
    """Find out which maps meet and build what the losses need, from a dry run of four images.

    Args:
        objective: the sum of losses.
        student, teacher: on the engine's device; neither is changed.
        images: (n, C, H, W), of which the first four are used.
        labels: (n,) in user units.
        task: what the labels are.
        engine: device and precision.
        seed: of the losses' own parameters.
        dataset_labels: (M,) classes, or values on the [0, 1] scale, of all training images; `labels` if not given.
        student_taps, teacher_taps: dotted paths of modules whose maps meet one by one; found if not given.
        new_student: makes another student, for losses that train peers.
        virtual: whom losses behind @ read, on the engine's device.

    Raises:
        ConfigError: a loss for the other task, or something it asks for is missing.
        ModelError: a loss does not fit the two networks.
    """
    objective = objective.for_task(task)
    wanted = objective.inputs
    if objective.needs_teacher and teacher is None:
        raise ConfigError(f"the loss {objective} reads a teacher, and none is given")
    maps = any(name.rpartition("_")[2] in ("features", "preactivations") for name in wanted)
    wiring = Wiring()
    if maps:
        if teacher is None:
            raise ConfigError(f"the loss {objective} reads feature maps, which are paired with a teacher's: give one")
        wiring = Wiring.find(student, teacher, images[:1], student_taps, teacher_taps)
    own = Reader("student", student, task, wanted, [pair[0] for pair in wiring.pairs])
    readers = [own]
    other = None
    if teacher is not None and objective.needs_teacher:
        other = Reader("teacher", teacher, task, wanted, [pair[1] for pair in wiring.pairs])
        readers.append(other)

    rows = torch.arange(EXAMPLES, device=images.device) % len(images)
    images, labels, all_labels = images[rows], labels[rows], labels
    examples: Signals = {"task": task, "progress": 0.0, "index": rows, "images": _in_unit_range(images)}
    try:
        was_training = student.training
        with torch.no_grad(), engine.autocast():
            student.eval()
            for reader in readers:
                outputs, signals = reader(images)
                examples.update({name: in_float32(value) for name, value in signals.items()})
                if reader is own:
                    outputs_of_student = outputs
                    examples["label_loss"] = task.loss(outputs, labels)
        student.train(was_training)
        examples |= {"targets": task.targets(labels), "labels": task.hard_labels(labels)}
        examples["dataset_labels"] = task.hard_labels(all_labels) if dataset_labels is None else dataset_labels
        sources = Sources(objective.sources, virtual, task, examples["dataset_labels"], seed)
        with torch.no_grad():
            examples |= sources(0, rows, task.on_unit_scale(outputs_of_student))
        if "teacher_head" in wanted and teacher is not None:
            examples["teacher_head"] = teacher_head(teacher, images, task)
        if new_student is not None:
            make = new_student
            examples["new_network"] = lambda name, seed: engine.place(OnUnitScale(make(name, seed), task))
            examples["new_student"] = lambda seed: engine.place(OnUnitScale(make("", seed), task))
        criterion = Criterion(objective, examples, seed)
    except BaseException:
        for reader in readers:
            reader.close()
        raise
    return Connection(criterion, own, other, wiring, sources)


def _in_unit_range(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _first(part: nn.Module | None) -> float:
    """Share of the updates that a loss has for itself at the beginning; it takes no part afterwards."""
    return float(getattr(part, "first", 0.0))


def _chosen(inputs: Mapping[str, Any], names: Sequence[str], what: str) -> list[Any]:
    missing = [name for name in names if name not in inputs]
    if missing:
        known = {**network_inputs(), **OTHER_INPUTS, **BUILD_INPUTS}
        meaning = known.get(missing[0].partition("@")[0], "unknown")
        raise ConfigError(f"loss {what} reads {missing[0]} ({meaning}), which is not given here")
    return [inputs[name] for name in names]


def _restrict(name: str, value: Any, rows: slice, count: int) -> Any:
    """The rows of one input; of a rotated one, those rows of each of the three rotations."""
    if isinstance(value, list):
        return [_restrict(name, item, rows, count) for item in value]
    if not isinstance(value, Tensor):
        return value
    if name.startswith("rotated_"):
        return value.unflatten(0, (3, count))[:, rows].flatten(0, 1)
    return value[rows]
