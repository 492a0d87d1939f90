"""The virtual teacher: a generator of a teacher's outputs, with stored outputs and hints of the training images."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gankd.config import from_dict, to_dict
from gankd.errors import CheckpointError, DataError
from gankd.storage import FORMAT, fitting, load_state, save_state
from gankd.tasks import Task, task_from_dict, task_to_dict
from gankd.virtual.gan import KnowledgeGan, VirtualConfig, build_generator
from gankd.virtual.networks import KnowledgeGenerator

KIND = "virtual teacher"


def _stored(path: Path, kind: str, problem: str) -> dict[str, Any]:
    """Content of a file of this kind; CheckpointError with `problem` if it is another kind of file."""
    stored = load_state(path)
    if not isinstance(stored, dict) or stored.get("kind") != kind:
        raise CheckpointError(f"{path} holds {problem}")
    return stored


@dataclass(frozen=True)
class Bank:
    """Stored outputs of the real teacher, against which the generator is measured; baselines are made from them."""

    logits: Tensor
    """(M, K) of softmax at temperature 1."""
    labels: Tensor
    """(M,) classes, or values on the [0, 1] scale."""

    def save(self, path: Path) -> None:
        """Write to one file, logits in float16."""
        save_state(path, {"format": FORMAT, "kind": "bank", "logits": self.logits.half(), "labels": self.labels})

    @classmethod
    def load(cls, path: Path) -> "Bank":
        """Inverse of `save`.

        Raises:
            CheckpointError: missing, damaged, or not a bank.
        """
        stored = _stored(path, "bank", "no stored outputs; the virtual stage writes them as bank.safetensors")
        return cls(stored["logits"].float(), stored["labels"])


@dataclass(frozen=True)
class Hints:
    """A three-byte summary of the teacher's output for each training image."""

    rank: Tensor
    """(N,) uint8: quantile of the label's probability among images of its class, 0 least, 255 most."""
    runner_up: Tensor
    """(N,) int16: likeliest class other than the label."""

    @classmethod
    def of(cls, probs: Tensor, labels: Tensor) -> "Hints":
        """Hints from probabilities (N, C) and classes (N,)."""
        own = probs.gather(1, labels[:, None])
        return cls(
            (255 * quantiles(own[:, 0], labels)).round().to(torch.uint8),
            probs.scatter(1, labels[:, None], -1.0).argmax(1).to(torch.int16),
        )

    def save(self, path: Path) -> None:
        """Write to one file."""
        save_state(path, {"format": FORMAT, "kind": "hints", "rank": self.rank, "runner_up": self.runner_up})

    @classmethod
    def load(cls, path: Path) -> "Hints":
        """Inverse of `save`.

        Raises:
            CheckpointError: missing, damaged, or not hints.
        """
        stored = _stored(path, "hints", "no hints; the virtual stage writes them as hints.safetensors")
        return cls(stored["rank"], stored["runner_up"])


def quantiles(values: Tensor, labels: Tensor) -> Tensor:
    """Quantile of each value (M,) within its class, in (0, 1); 0.5 where the value is nan."""
    known = values.nan_to_num(float("inf"))
    order = known.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]  # by class, then by value
    counts = labels.bincount()
    place = torch.arange(len(labels), device=labels.device) - (counts.cumsum(0) - counts)[labels[order]]
    found = torch.empty_like(values)
    found[order] = (place + 0.5) / counts[labels[order]]
    return torch.where(values.isnan(), 0.5, found)


@dataclass(frozen=True)
class VirtualTeacher:
    """Generator of softened outputs for labels; needs no image, and no teacher in memory.

    Made by `VirtualTeacher.of` or `VirtualTeacher.load`.
    """

    task: Task
    config: VirtualConfig
    generator: KnowledgeGenerator
    """Frozen, in eval mode."""
    means: Tensor
    """(R, K) mean probabilities at the temperature, of each class or at each point of a grid over [0, 1]."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Origin: fingerprints of teacher and data, or of a peer its accuracy and process."""
    bank: Bank | None = None
    hints: Hints | None = None

    @classmethod
    def of(cls, gan: KnowledgeGan, **facts: Any) -> "VirtualTeacher":
        """Copy of the averaged generator of a GAN in its present state."""
        generator = build_generator(gan.task, gan.config)
        generator.load_state_dict(gan.ema.state_dict())
        generator.to(gan.mean_sum.device).requires_grad_(False).eval()
        return cls(gan.task, gan.config, generator, gan.means().clone(), facts)

    @classmethod
    def untrained(cls, task: Task, config: VirtualConfig) -> "VirtualTeacher":
        """Virtual teacher before training, with two stored outputs and one hint, for dry runs."""
        gan = KnowledgeGan(task, config, seed=0)
        labels = torch.tensor([0, 1], dtype=task.label_dtype)
        hints = Hints(torch.zeros(1, dtype=torch.uint8), torch.zeros(1, dtype=torch.int16))
        return replace(cls.of(gan), bank=Bank(torch.zeros(2, gan.num_outputs), labels), hints=hints)

    @property
    def temperature(self) -> float:
        """T of its distributions."""
        return self.config.temperature_for(self.task)

    @property
    def num_outputs(self) -> int:
        """K: classes, or bins."""
        return self.config.num_outputs(self.task)

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the generator."""
        return sum(parameter.numel() for parameter in self.generator.parameters())

    def to(self, device: torch.device) -> "VirtualTeacher":
        """Copy on another device."""
        bank = self.bank and Bank(self.bank.logits.to(device), self.bank.labels.to(device))
        hints = self.hints and Hints(self.hints.rank.to(device), self.hints.runner_up.to(device))
        generator = self.generator.to(device)
        return replace(self, generator=generator, means=self.means.to(device), bank=bank, hints=hints)

    @torch.no_grad()
    def draw(self, labels: Tensor, z: Tensor) -> Tensor:
        """Logits (N, K), of softmax at temperature 1 as a teacher's are, for labels (N,) and noise (N, Z)."""
        return self.temperature * self.generator(z, labels)

    def save(self, path: Path) -> None:
        """Write to one file, numbers in float16; bank and hints have files of their own."""
        save_state(path, {"format": FORMAT, "kind": KIND, **self.stored()})

    def stored(self) -> dict[str, Any]:
        """Nested state for a file, numbers in float16, without bank and hints."""
        return {
            "task": task_to_dict(self.task),
            "config": to_dict(self.config),
            "generator": {name: value.half() for name, value in self.generator.state_dict().items()},
            "means": self.means.half(),
            "facts": self.facts,
        }

    @classmethod
    def restored(cls, stored: Mapping[str, Any], where: str) -> "VirtualTeacher":
        """Inverse of `stored`; nothing is built that is larger than its weights.

        Args:
            stored: nested state of a file.
            where: the file, for messages.

        Raises:
            CheckpointError: not a virtual teacher. ConfigError: a setting is refused.
        """
        problem = f"{where} is not a complete virtual teacher"
        try:
            config, task = from_dict(VirtualConfig, stored["config"], where), task_from_dict(stored["task"])
            generator = fitting(lambda: build_generator(task, config), stored["generator"], problem)
            generator.load_state_dict({name: value.float() for name, value in stored["generator"].items()})
            means, facts = stored["means"].float(), dict(stored["facts"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise CheckpointError(f"{problem}: {' '.join(str(error).split())[:200]}") from None
        return cls(task, config, generator.requires_grad_(False).eval(), means, facts)

    @classmethod
    def load(cls, path: Path, bank: Path | None = None, hints: Path | None = None) -> "VirtualTeacher":
        """Read from its file, with bank and hints if their files are given.

        Raises:
            CheckpointError: missing, damaged, or not a virtual teacher.
        """
        stored = _stored(path, KIND, "no virtual teacher; gankd vkd train writes one as virtual.safetensors")
        found = cls.restored(stored, str(path))
        if bank is not None:
            found = replace(found, bank=Bank.load(bank))
        return found if hints is None else replace(found, hints=Hints.load(hints))

    def check_task(self, task: Task, where: str) -> None:
        """Raise DataError unless its classes, or its range of values, are those of `task` in the same order (F12)."""
        own, other = task_to_dict(self.task), task_to_dict(task)
        if own == other:
            return
        if own["kind"] == other["kind"] == "classification" and own["num_classes"] == other["num_classes"]:
            if not own["class_names"] or not other["class_names"]:
                return
            pairs = zip(own["class_names"], other["class_names"], strict=True)
            place = next(n for n, (a, b) in enumerate(pairs) if a != b)
            raise DataError(
                f"{where}: class {place} is {own['class_names'][place]!r} for the virtual teacher and "
                f"{other['class_names'][place]!r} in these data; give the classes in the same order (F12)"
            )
        remedy = ""
        if own["kind"] == other["kind"] and "low" in own:
            remedy = f"; give the data its range: data.low={own['low']:g} and data.high={own['high']:g}"
        raise DataError(f"{where} was made for {self.task.description}, the data are {task.description} (F12){remedy}")
