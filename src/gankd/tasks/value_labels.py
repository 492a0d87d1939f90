"""Value labels for people and as data: what is asked of them that has no part in training."""

import math
from collections.abc import Sequence
from typing import ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor

from gankd.errors import ConfigError


class ValueLabels:
    """Labels are numbers in float32, (N,) for one value and (N, n) for n; below, (N, ...) is either."""

    num_groups: ClassVar[int]
    """Number of label groups, for budgets and per-label statistics."""

    @property
    def is_binary(self) -> bool:
        """False: labels are values."""
        return False

    @property
    def label_names(self) -> tuple[str, ...]:
        """Values have no names."""
        return ()

    @property
    def label_dtype(self) -> torch.dtype:
        """Type of stored labels; never an integer, so that 34.9 years stay 34.9."""
        return torch.float32

    def first_classes(self, count: int, what: str) -> NoReturn:
        """Raise ConfigError: values have no first classes."""
        raise ConfigError(
            f"data.classes keeps the first classes, but the labels of {what} are values; leave it out, or, "
            "where numbers are names of your own classes, add --task classification"
        )

    def target_loss(self, source: str, temperature: float) -> str:
        """Default loss of a student that learns from a target source."""
        return f"Label + Distribution@{source}"

    def distribution_size(self, bins: int) -> int:
        """Length of a distribution over labels: `bins` equal parts of the label range."""
        return bins

    def answers(self, outputs: Tensor) -> Tensor:
        """The values themselves: what an exported student gives."""
        return outputs

    def confidence(self, answers: Tensor) -> Tensor | None:
        """None: values come without probabilities."""
        return None

    def outputs_of(self, answers: Tensor) -> Tensor:
        """Inverse of `answers`."""
        return answers

    def doubt(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Error (N,) of each answer: the label lies within it around the value."""
        return self.errors(answers, labels)

    def unanswered(self, answers: Tensor, limit: float) -> float | None:
        """None: values get an interval and not a refusal."""
        return None

    def metric_interval(self, errors: Tensor) -> tuple[float, float]:
        """95 % interval of the mean of errors (N,) over images: +- 1.96 standard errors."""
        half = 1.96 * errors.double().std(correction=min(1, len(errors) - 1)).item() / math.sqrt(len(errors))
        return errors.double().mean().item() - half, errors.double().mean().item() + half

    def calibration(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """An empty dictionary: values come without probabilities."""
        return {}

    def by_class(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """An empty dictionary: values have no classes."""
        return {}

    def nearly_right(self, errors: Tensor, labels: Tensor) -> bool:
        """True if these errors (N,) leave nothing to look for."""
        return errors.mean().item() <= 0.02 * self.chance(labels)

    def clearly_less(self, errors: Tensor, before: Tensor, labels: Tensor) -> bool:
        """True if `errors` (N,) are those of a better reading of the same network, and not only by luck.

        They are at most half of those `before`, by three standard errors, less by a twentieth of a constant guess's
        error, and at most 0.7 of that.
        """
        gain, chance = before - errors, self.chance(labels)
        return errors.mean().item() <= min(0.5 * before.mean().item(), 0.7 * chance) and gain.mean().item() >= max(
            3 * gain.std().item() / math.sqrt(len(gain)), 0.05 * chance
        )

    def output_order(self, names: Sequence[str], setting: str) -> Tensor:
        """Raise ConfigError: values have no classes."""
        raise ConfigError(f"{setting} is for classes, and the labels are values; leave it out")

    def output_problem(self, outputs: Tensor) -> tuple[str, str]:
        """A reason to refuse these outputs (N, ...), and advice about them: none, as any number may be a value."""
        return "", ""

    def written(self, labels: Tensor) -> np.ndarray:
        """Labels (N, ...) as a file of a user's own images holds them: the values."""
        values: np.ndarray = labels.numpy()
        return values

    def counts(self, labels: Tensor) -> list[float]:
        """Number of labels (N, ...) in each group."""
        return [float(value) for value in self.groups(labels).bincount(minlength=self.num_groups)]

    def groups(self, labels: Tensor) -> Tensor:
        """Group number (N,) of each label."""
        raise NotImplementedError

    def absent(self, labels: Tensor) -> list[int]:
        """An empty list: no value has to occur."""
        return []

    def chance(self, labels: Tensor) -> float:
        """Mean absolute error of always guessing the median of `labels`."""
        raise NotImplementedError

    def errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Error (N,) of each answer."""
        raise NotImplementedError
