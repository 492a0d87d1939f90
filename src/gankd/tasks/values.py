"""Common part of the tasks whose labels are values, one or several."""

from typing import ClassVar

import torch
from torch import Tensor

from gankd.tasks.choices import Adjust, Stronger
from gankd.tasks.value_labels import ValueLabels


class OfValues(ValueLabels):
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
    adjustments: ClassVar[tuple[Adjust, ...]] = ("none", "prediction")
    """Adjustments of labels that the task has."""
    default_adjust: ClassVar[Adjust] = "prediction"
    """Adjustment of labels that `auto` selects: the teacher's prediction."""
    reading_of_teacher: ClassVar[str] = "clipped"
    """Reading of the teacher by filter and labels: part of the identity of students, as 0.1 did not clip."""
    answer_name: ClassVar[str] = "value"
    """Name of what an exported student gives."""
    low: float
    high: float
    """Range of one value. Several have a range each, and scales of their own."""

    def normalise(self, labels: Tensor) -> Tensor:
        """User units to [0, 1], (N, ...)."""
        return (labels - self.low) / (self.high - self.low)

    def denormalise(self, labels01: Tensor) -> Tensor:
        """[0, 1] to user units, (N, ...)."""
        return self.low + (self.high - self.low) * labels01

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Squared error (N,) on the [0, 1] label scale (Ding et al. 2023)."""
        return ((outputs.float() - labels) / (self.high - self.low)) ** 2

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

    def metrics(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Mean absolute error, and root mean squared error."""
        raise NotImplementedError

    def unit_of(self, metric: str) -> str:
        """Unit of one of `metrics`."""
        return self.metric_unit

    def beats_chance(self, outputs: Tensor, labels: Tensor) -> bool:
        """True if these values leave less than nine tenths of a constant guess's mean absolute error."""
        return self.metrics(outputs, labels)["mae"] < 0.9 * self.chance(labels)

    def adjust(self, outputs: Tensor, labels: Tensor, how: Adjust) -> Tensor:
        """Labels (N, ...) after adjustment: the assigned ones, or the teacher's predictions, within the range."""
        return labels if how == "none" else self.clipped(outputs)

    def clipped(self, outputs: Tensor) -> Tensor:
        """A teacher's outputs (N, ...) in float, within the label range, as the authors' code clips them."""
        raise NotImplementedError
