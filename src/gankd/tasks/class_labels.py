"""Class labels for people and as data: names, counts and samples of them, and how outputs given for them are read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from gankd.config import require
from gankd.errors import ConfigError, DataError
from gankd.tasks.choices import LabelSampling
from gankd.tasks.given import in_best_order, logits_problem, odds_rise, order_of_outputs
from gankd.tasks.typed import classes_from


@dataclass(frozen=True, kw_only=True)
class ClassLabels:
    """Labels are int64 class numbers 0 .. num_classes - 1."""

    num_classes: int
    class_names: tuple[str, ...] = ()

    kind: ClassVar[str] = "classification"
    label_shape: ClassVar[tuple[int, ...]] = ()
    """Shape of one label."""
    mixes: ClassVar[tuple[str, ...]] = ("mixup", "cutmix", "both")
    """Ways to mix labelled images."""
    not_when_mixed: ClassVar[tuple[str, ...]] = ("index", "labels")
    """Inputs of losses that a mixed image does not have: it is not one image, and has no single class."""

    def __post_init__(self) -> None:
        require(self.num_classes >= 2, f"a classification needs at least 2 classes, got {self.num_classes}")

    @property
    def description(self) -> str:
        """The labels in words."""
        return f"{self.num_classes} classes"

    @property
    def facts(self) -> dict[str, Any]:
        """Kind of task and its labels, for scripts."""
        return {"task": self.kind, "range": None, "classes": self.num_classes}

    def describe(self, labels: Tensor) -> str:
        """The labels in words, whichever of them `labels` (N,) are."""
        return self.description

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of all labels, in order."""
        return tuple(self.group_name(number) for number in range(self.num_classes))

    @property
    def reading(self) -> dict[str, Any]:
        """Settings with which a reader of the user's own images reads labels of this task."""
        return {"task": self.kind}

    def first_classes(self, count: int, what: str) -> Self:
        """Task of the first `count` classes of the data set `what`.

        Raises:
            ConfigError: `count` is not 2 .. number of classes.
        """
        require(
            2 <= count <= self.num_classes,
            f"data.classes must lie in 2..{self.num_classes}, the classes of {what}, got {count}",
        )
        return replace(self, num_classes=count, class_names=self.class_names[:count])

    def target_loss(self, source: str, temperature: float) -> str:
        """Default loss of a student that learns from a target source; the student is at temperature 1."""
        return f"0.1*Label + 0.9*SoftTargets(T={temperature:g})@{source}"

    def distribution_size(self, bins: int) -> int:
        """Length of a distribution over labels: the classes, however many `bins` values would have."""
        return self.num_classes

    @property
    def label_dtype(self) -> torch.dtype:
        """Type of stored labels."""
        return torch.int64

    @property
    def num_groups(self) -> int:
        """Number of label groups for budgets and per-label statistics: the classes."""
        return self.num_classes

    def check_labels(self, labels: Tensor) -> None:
        """Raise DataError unless every label is a class number."""
        wrong = (labels < 0) | (labels >= self.num_classes)
        if wrong.any():
            raise DataError(
                f"class label {labels[wrong][0].item()} is outside 0..{self.num_classes - 1} "
                f"({int(wrong.sum())} of {len(labels)} labels)"
            )

    def answers(self, outputs: Tensor) -> Tensor:
        """Probabilities (N, K) of logits: what an exported student gives."""
        return outputs.softmax(1)

    def confidence(self, answers: Tensor) -> Tensor | None:
        """Probability (N,) of the class that is answered."""
        return answers.amax(1)

    def outputs_of(self, answers: Tensor) -> Tensor:
        """Logits of probabilities (N, K), which are as good as the network's: the logarithm."""
        return answers.clamp_min(1e-30).log()

    def doubt(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Probability (N,) of each answer where it is wrong, and 0 where it is right.

        Of all images, those above a limit are the wrong answers that are given if a class needs a higher probability.
        """
        return torch.where(self.predict(answers) == labels, 0.0, answers.amax(1).double())

    def unanswered(self, answers: Tensor, limit: float) -> float | None:
        """Share of images whose class is left open because its probability is not above the limit."""
        return (answers.amax(1) <= limit).double().mean().item()

    def metric_interval(self, errors: Tensor) -> tuple[float, float]:
        """95 % interval of the accuracy in per cent over images with errors (N,) of 0 or 100.

        Wilson. Probable inference, the law of succession, and statistical inference. JASA 22 (1927): sound near 0 and
        100 %, too.
        """
        z, count = 1.96, len(errors)
        share = 1 - errors.double().mean().item() / 100
        centre, spread = share + z * z / (2 * count), share * (1 - share) / count + (z / (2 * count)) ** 2
        low, high = (100 * (centre + sign * z * math.sqrt(spread)) / (1 + z * z / count) for sign in (-1, 1))
        return low, high

    def output_order(self, names: Sequence[str], setting: str) -> Tensor:
        """Number of the output (K,) of each class, for a network whose outputs are the classes `names`."""
        return order_of_outputs(names, self.label_names, setting)

    def output_problem(self, outputs: Tensor) -> tuple[str, str]:
        """A reason to refuse these outputs (N, K) as logits, and advice about them; each may be empty."""
        return logits_problem(outputs)

    def nearly_right(self, errors: Tensor, labels: Tensor) -> bool:
        """True if these errors (N,) leave nothing to look for."""
        return errors.mean().item() <= 2.0

    def clearly_less(self, errors: Tensor, before: Tensor, labels: Tensor) -> bool:
        """True if `errors` (N,) are those of a better reading of the same network, and not only by luck.

        The odds of a right answer are three times those `before` and above chance, and the answers that changed changed
        for the better by three standard deviations (McNemar's test).
        """
        gain, value = (before - errors) / 100, 100 - errors.mean().item()
        return (
            odds_rise(value, 100 - before.mean().item(), 3.0)
            and odds_rise(value, self.chance(labels), 1.25)
            and gain.sum().item() >= 3 * gain.abs().sum().sqrt().item()
        )

    def reread(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, str]:
        """Errors (N,) with the outputs in the order of classes that fits best, and that order in words."""
        return in_best_order(self.predict(outputs), labels, self.label_names)

    def consecutive(self, labels: Tensor) -> Tensor:
        """Raise ConfigError: nothing lies between two classes."""
        raise ConfigError("data.gap leaves out values between others, but the labels are classes; leave it at 1")

    def groups(self, labels: Tensor) -> Tensor:
        """Group number (N,) of each label: its class."""
        return labels

    def counts(self, labels: Tensor) -> list[float]:
        """Number of labels of each class; probabilities (N, K) count fractionally."""
        if labels.ndim == 2:
            return [float(value) for value in labels.double().sum(0)]
        return [float(value) for value in labels.bincount(minlength=self.num_classes)]

    def group_name(self, group: int) -> str:
        """Name of this group for people."""
        return self.class_names[group] if self.class_names else str(group)

    def label_name(self, label: Tensor) -> str:
        """Name of this label for people: its class."""
        return self.group_name(int(label))

    def caption(self, label: Tensor) -> str:
        """Name of this label below a picture."""
        return self.label_name(label)

    def labels_from(self, texts: Sequence[str], most: int) -> Tensor:
        """Class numbers (N,) from names or numbers as typed by a person; see `typed.classes_from`."""
        return classes_from(texts, self.label_names)

    def written(self, labels: Tensor) -> np.ndarray:
        """Labels (N,) as a file of a user's own images holds them: class names."""
        return np.array([self.group_name(int(label)) for label in labels])

    def sweep(self, count: int) -> Tensor | None:
        """None: classes have no order to sweep through."""
        return None

    def histogram(self, labels: Tensor, bins: int) -> list[tuple[str, int]]:
        """(class, number of `labels` (N,)) of every class, whatever `bins`."""
        counts = labels.cpu().bincount(minlength=self.num_classes).tolist()
        return list(zip(self.label_names, counts, strict=True))

    def absent(self, labels: Tensor) -> list[int]:
        """Classes that do not occur in `labels` (N,)."""
        return (labels.bincount(minlength=self.num_classes) == 0).nonzero()[:, 0].tolist()

    def add_noise(self, labels: Tensor, at: Tensor, amount: float, generator: torch.Generator) -> Tensor:
        """`labels` (N,) after a share `amount` of those at indices `at` became another class, each equally likely.

        Random numbers are drawn for all labels, so that a label's noise does not depend on `at`.
        """
        shift = torch.randint(1, self.num_classes, labels.shape, generator=generator)
        turn = torch.randperm(len(labels), generator=generator)
        hit = at[turn[at].sort().indices[: math.floor(amount * len(at) + 0.5)]]
        labels = labels.clone()
        labels[hit] = (labels[hit] + shift[hit]) % self.num_classes
        return labels

    def sample_labels(self, count: int, real: Tensor, how: LabelSampling, generator: torch.Generator) -> Tensor:
        """(count,) labels: the classes of `real` (`balanced`) or all (`uniform`) equally often, or as often as in
        `real`.
        """
        if how == "empirical":
            return real[torch.randint(len(real), (count,), generator=generator)]
        classes = real.unique() if how == "balanced" else torch.arange(self.num_classes)
        order = torch.randperm(count, generator=generator)
        return classes[order % len(classes)]

    def predict(self, outputs: Tensor) -> Tensor:
        """Most likely class (N,)."""
        return outputs.argmax(1)

    def chance(self, labels: Tensor) -> float:
        """Top-1 of always guessing the most frequent class of `labels`."""
        return 100.0 * labels.bincount(minlength=self.num_classes).max().item() / len(labels)
