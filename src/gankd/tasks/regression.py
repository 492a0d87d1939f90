"""The task of predicting a scalar value."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.config import require
from gankd.errors import DataError, ModelError
from gankd.tasks.choices import LabelSampling, Scale
from gankd.tasks.typed import values_from
from gankd.tasks.units import likely_unit
from gankd.tasks.values import OfValues


@dataclass(frozen=True, kw_only=True)
class Regression(OfValues):
    """Labels are float32 in user units within [low, high]; a model gives (N,) values in the same units."""

    low: float
    high: float
    unit: str = ""

    num_groups: ClassVar[int] = 12
    """Equal bins of [low, high], for budgets and per-label statistics."""

    def __post_init__(self) -> None:
        require(self.high > self.low, f"a regression needs low < high, got [{self.low}, {self.high}]")

    @property
    def metric_unit(self) -> str:  # type: ignore[override]
        """Unit of the metric: that of the labels."""
        return self.unit

    @property
    def span(self) -> float:
        """Length of the label range."""
        return self.high - self.low

    @property
    def head_size(self) -> int:
        """Width of a model's last layer."""
        return 1

    @property
    def description(self) -> str:
        """The labels in words."""
        return f"values in [{self.low:g}, {self.high:g}] {self.unit}".strip()

    @property
    def facts(self) -> dict[str, Any]:
        """Kind of task and its labels, for scripts."""
        return {"task": self.kind, "range": [self.low, self.high], "classes": None}

    def describe(self, labels: Tensor) -> str:
        """The values that occur in `labels` (N,), in words, with the label range if it is wider."""
        found = labels.unique()
        low, high = found[0].item(), found[-1].item()
        text = f"values from {low:.4g} to {high:.4g} {self.unit}".rstrip() + f", {len(found):,} different"
        if (low, high) != (self.low, self.high):
            text += f"; range {self.low:.4g} to {self.high:.4g}"
        return text

    @property
    def reading(self) -> dict[str, Any]:
        """Settings with which a reader of the user's own images reads labels of this task."""
        return {"task": self.kind, "low": self.low, "high": self.high}

    @property
    def output_scale(self) -> tuple[Scale, Scale]:
        """(offset, factor) from a network's raw output, near [0, 1], to user units."""
        return self.low, self.span

    def check_labels(self, labels: Tensor) -> None:
        """Raise DataError unless every label is a number within [low, high]."""
        if not labels.isfinite().all():
            raise DataError(f"{int((~labels.isfinite()).sum())} of {len(labels)} labels are not finite numbers")
        slack = 1e-5 * self.span
        wrong = (labels < self.low - slack) | (labels > self.high + slack)
        if wrong.any():
            raise DataError(
                f"label {labels[wrong][0].item():g} is outside [{self.low:g}, {self.high:g}] {self.unit} "
                f"({int(wrong.sum())} of {len(labels)} labels)"
            )

    def check_outputs(self, outputs: Tensor, count: int, what: str) -> None:
        """Raise ModelError unless `outputs` is (count,)."""
        if tuple(outputs.shape) != (count,):
            raise ModelError(
                f"{what} gives outputs of shape {tuple(outputs.shape)} for {count} images; "
                f"regression needs ({count},) or ({count}, 1) values; a network of your own takes this number "
                "as its argument num_outputs or num_classes"
            )

    def closeness(self, labels: Tensor) -> Tensor:
        """(N, N) log-odds, up to a constant, with which rows of `labels` (N,) are mixed.

        A Gaussian kernel of labels (Yao et al. 2022, equation 6). Its bandwidth is 1.06 std N^(-1/5), Silverman's rule.
        """
        labels = labels.float()
        bandwidth = 1.06 * labels.std(correction=0) * len(labels) ** -0.2
        gaps = (labels[:, None] - labels) / bandwidth.clamp_min(1e-6 * self.span)  # all labels may be equal
        return -gaps.square() / 2

    def metrics(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Mean absolute and root mean squared error in user units."""
        error = outputs.double() - labels.double()
        return {"mae": error.abs().mean().item(), "rmse": error.square().mean().sqrt().item()}

    def chance(self, labels: Tensor) -> float:
        """Mean absolute error of always guessing the median of `labels`."""
        return (labels - labels.median()).abs().double().mean().item()

    def detail(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """An empty dictionary: values have no classes to balance."""
        return {}

    def errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Absolute error (N,) in user units."""
        return (outputs.double() - labels.double()).abs()

    def reread(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, str]:
        """Errors (N,) after the linear change of the outputs that fits best, and its likely cause in words."""
        offset, factor, cause = likely_unit(outputs, labels, self.low, self.high)
        return self.errors(offset + factor * outputs.double(), labels), (
            f"gives values in another unit than the labels ({cause}); let its forward return "
            f"{offset:.6g} + {factor:.6g} * output, in label units"
        )

    def disagreement(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """|f_t(x) - y| (N,) in user units, f_t(x) clipped to the label range (filter score of Ding et al. 2023)."""
        return (self.clipped(outputs) - labels).abs()

    def clipped(self, outputs: Tensor) -> Tensor:
        """A teacher's outputs in float, within the label range, as the authors' code clips them."""
        return outputs.float().clamp(self.low, self.high)

    def consecutive(self, labels: Tensor) -> Tensor:
        """Number (N,) of each label among its distinct values in ascending order; of its part of the range, in 48 equal
        parts, where values hardly repeat (fewer than two labels per value on average).
        """
        values, number = labels.unique(return_inverse=True)
        if len(labels) >= 2 * len(values):
            return number
        return (self.normalise(labels) * 48).long().clamp(0, 47)

    def shares(self, outputs: Tensor) -> Tensor:
        """One-hot (N, 20): the twentieth of [low, high] that each value is in; their mean is a histogram."""
        bins = (self.normalise(outputs.float()) * 20).long().clamp(0, 19)
        return F.one_hot(bins, 20).float()

    def groups(self, labels: Tensor) -> Tensor:
        """Bin number (N,) of each label."""
        return (self.normalise(labels) * self.num_groups).long().clamp(0, self.num_groups - 1)

    def group_name(self, group: int) -> str:
        """The bin's range in user units."""
        edge = self.span / self.num_groups
        return f"{self.low + group * edge:.3g} to {self.low + (group + 1) * edge:.3g}"

    def label_name(self, label: Tensor) -> str:
        """Name of this label for people: its value."""
        return f"{label.item():.4g}"

    def caption(self, label: Tensor) -> str:
        """Value of this label below a picture, rounded to about a thousandth of the range."""
        return f"{round(label.item(), 3 - math.floor(math.log10(self.span))) + 0.0:.6g}"  # + 0.0: no -0

    def labels_from(self, texts: Sequence[str], most: int) -> Tensor:
        """Values (N,) from numbers or ranges start:stop:step as typed by a person; see `typed.values_from`."""
        return values_from(texts, most, self.low, self.high, self.unit)

    def sweep(self, count: int) -> Tensor | None:
        """(count,) values at equal distances from low to high."""
        return torch.linspace(self.low, self.high, count)

    def histogram(self, labels: Tensor, bins: int) -> list[tuple[str, int]]:
        """(range of values, number of `labels` (N,)) of `bins` equal parts of [low, high]."""
        edges = np.linspace(self.low, self.high, bins + 1)
        # Labels are float32, and the ends of their range may have been rounded the other way.
        values = labels.double().cpu().numpy().clip(*edges[[0, -1]])
        names = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges.tolist())]
        return list(zip(names, np.histogram(values, edges)[0].tolist(), strict=True))

    def add_noise(self, labels: Tensor, at: Tensor, amount: float, generator: torch.Generator) -> Tensor:
        """`labels` (N,) plus N(0, 1) times `amount` of the label range, kept within it; `at` has no part."""
        if amount == 0:
            return labels
        noise = amount * self.span * torch.randn(labels.shape, generator=generator)
        return (labels + noise).clamp(self.low, self.high)

    def sample_labels(self, count: int, real: Tensor, how: LabelSampling, generator: torch.Generator) -> Tensor:
        """(count,) labels: uniform over the distinct real labels (`balanced`), as often as in `real`, or
        uniform over [low, high], unseen values included.
        """
        if how == "uniform":
            return self.denormalise(torch.rand(count, generator=generator))
        pool = real.unique() if how == "balanced" else real
        return pool[torch.randint(len(pool), (count,), generator=generator)]
