"""Common part of the tasks whose labels are values, one or several."""

import math
from collections.abc import Sequence
from typing import ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor

from gankd.errors import ConfigError
from gankd.tasks.choices import Adjust, Stronger


class OfValues:
    """Labels are numbers in float32, and a model's outputs are such labels.

    Shapes are (N,) for one value and (N, n) for n; below, (N, ...) is either.
    """

    kind: ClassVar[str] = "regression"
    metric: ClassVar[str] = "mae"
    higher_is_better: ClassVar[bool] = False
    disagreement_name: ClassVar[str] = "|teacher - label|"
    error_name: ClassVar[str] = "|error| / label range"
    """Name of the error in [0, 1] that the error bound is about."""
    weight_divisor: ClassVar[float] = 100.0
    """Published weights of losses stand next to a cross-entropy; a squared error on the [0, 1] scale is a hundred times
    smaller and more, and so is the weight of a loss that does not shrink with it because it does not read outputs."""
    output_dtype: ClassVar[torch.dtype] = torch.float32
    """Type of stored teacher outputs: they become labels."""
    filter_per_group: ClassVar[bool] = False
    """The published filter has one threshold for all labels."""
    strong_augmentation: ClassVar[tuple[Stronger, ...]] = ("colour", "erase")
    """Kinds that strong augmentation adds to those of the teacher; none changes a value."""
    filter_share: ClassVar[float] = 0.7
    """Published rho: share of generated images that the filter keeps."""
    has_classes: ClassVar[bool] = False
    label_shape: ClassVar[tuple[int, ...]] = ()
    """Shape of one label: () for one value, (n,) for n."""
    soft_temperature: ClassVar[float] = 1.0
    """Default temperature of a virtual teacher's distributions over bins of the label range."""
    label_loss_name: ClassVar[str] = "MSE"
    mixes: ClassVar[tuple[str, ...]] = ("mixup",)
    """Ways to mix labelled images. Values are not in proportion to the area of a part of the image."""
    not_when_mixed: ClassVar[tuple[str, ...]] = ("index",)
    """Inputs of losses that a mixed image does not have."""
    metric_unit: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ()
    """Those of `metrics` that split the error by output."""
    table_notes: ClassVar[tuple[str, ...]] = ()
    default_adjust: ClassVar[Adjust] = "prediction"
    """Adjustment of labels that `auto` selects: the teacher's prediction."""
    reading_of_teacher: ClassVar[str] = "clipped"
    """Reading of the teacher by filter and labels: part of the identity of students, as 0.1 did not clip."""
    answer_name: ClassVar[str] = "value"
    """Name of what an exported student gives."""
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

    def normalise(self, labels: Tensor) -> Tensor:
        """User units to [0, 1], (N, ...)."""
        raise NotImplementedError

    def denormalise(self, labels01: Tensor) -> Tensor:
        """[0, 1] to user units, (N, ...)."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Squared error (N,) on the [0, 1] label scale."""
        raise NotImplementedError

    def excess_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss (N,) above the least that the labels allow, which is 0."""
        return self.loss(outputs, labels)

    def on_unit_scale(self, outputs: Tensor) -> Tensor:
        """Outputs (N, ...) as losses read them: the label range becomes [0, 1], in at least float32."""
        return self.normalise(outputs.float() if outputs.dtype != torch.float64 else outputs)

    def targets(self, labels: Tensor) -> Tensor:
        """Labels (N, ...) on the [0, 1] scale."""
        return self.normalise(labels.float())

    def hard_labels(self, labels: Tensor) -> Tensor:
        """Labels (N, ...) on the [0, 1] scale: values are values."""
        return self.targets(labels)

    def mixable(self, labels: Tensor) -> Tensor:
        """Labels whose weighted means are labels: values (N, ...)."""
        return labels.float()

    def predict(self, outputs: Tensor) -> Tensor:
        """The values themselves."""
        return outputs

    def answers(self, outputs: Tensor) -> Tensor:
        """The values themselves: what an exported student gives."""
        return outputs

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

    def errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Error (N,) of each answer."""
        raise NotImplementedError

    def metrics(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Mean absolute error, and root mean squared error."""
        raise NotImplementedError

    def unit_of(self, metric: str) -> str:
        """Unit of one of `metrics`."""
        return self.metric_unit

    def chance(self, labels: Tensor) -> float:
        """Mean absolute error of always guessing the median of `labels`."""
        raise NotImplementedError

    def by_class(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """An empty dictionary: values have no classes."""
        return {}

    def beats_chance(self, outputs: Tensor, labels: Tensor) -> bool:
        """True if these values leave less than nine tenths of a constant guess's mean absolute error."""
        return self.metrics(outputs, labels)["mae"] < 0.9 * self.chance(labels)

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

    def adjust(self, outputs: Tensor, labels: Tensor, how: Adjust) -> Tensor:
        """Labels (N, ...) after adjustment: the assigned ones, or the teacher's predictions, within the range."""
        return labels if how == "none" else self.clipped(outputs)

    def clipped(self, outputs: Tensor) -> Tensor:
        """A teacher's outputs (N, ...) in float, within the label range, as the authors' code clips them."""
        raise NotImplementedError

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
