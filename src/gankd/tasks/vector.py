"""The task of predicting several values at once, such as a position or a pose."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gankd.config import require
from gankd.errors import ConfigError, DataError, ModelError
from gankd.tasks.choices import LabelSampling, Scale
from gankd.tasks.kernel import kernel_root
from gankd.tasks.regression import Regression
from gankd.tasks.units import likely_unit
from gankd.tasks.values import OfValues


@dataclass(frozen=True, kw_only=True)
class VectorRegression(OfValues):
    """Labels are float32 (N, n) in user units, each output within its own range; a model gives (N, n) such values.

    Errors of all outputs together are means over the outputs, each in per cent of its range.
    """

    names: tuple[str, ...]
    outputs: tuple[Regression, ...]
    """Range and unit of each output."""

    def __post_init__(self) -> None:
        require(len(self.outputs) >= 1, "a regression needs at least one output, got none")
        require(
            len(set(self.names)) == len(self.names) == len(self.outputs),
            f"a regression needs one name for each of its {len(self.outputs)} outputs, got {', '.join(self.names)}",
        )

    # --- in words

    @property
    def unit(self) -> str:
        """Unit of errors of all outputs together."""
        return "% of range"

    @property
    def metric_unit(self) -> str:  # type: ignore[override]
        """Unit of the metric."""
        return self.unit

    @property
    def description(self) -> str:
        """The labels in words."""
        each = (f"{name} in [{out.low:g}, {out.high:g}] {out.unit}".strip() for name, out in self._named)
        return f"{self.head_size} values: {', '.join(each)}"

    @property
    def facts(self) -> dict[str, Any]:
        """Kind of task and its labels, for scripts."""
        return {
            "task": self.kind,
            "range": [[out.low, out.high] for out in self.outputs],
            "classes": None,
            "outputs": list(self.names),
        }

    def describe(self, labels: Tensor) -> str:
        """The values that occur in `labels` (N, n), in words, output by output."""
        each = (f"{name}: {out.describe(column)}" for (name, out), column in self._columns(labels))
        return f"{self.head_size} values: {'; '.join(each)}"

    @property
    def reading(self) -> dict[str, Any]:
        """Settings with which a reader of the user's own images reads labels of this task."""
        return {"task": self.kind, "label": self.names}

    @property
    def _named(self) -> list[tuple[str, Regression]]:
        return list(zip(self.names, self.outputs, strict=True))

    def _columns(self, labels: Tensor) -> list[tuple[tuple[str, Regression], Tensor]]:
        return list(zip(self._named, labels.unbind(1), strict=True))

    def distribution_size(self, bins: int) -> int:
        """Raise ConfigError: distributions are of one value."""
        raise ConfigError(
            f"virtual teachers give distributions of one value, and the labels are {self.head_size} "
            f"({', '.join(self.names)}); leave out what is written with @, or keep one: --label {self.names[0]}"
        )

    # --- scales and shapes

    @property
    def label_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of one label."""
        return (self.head_size,)

    @property
    def head_size(self) -> int:
        """Width of a model's last layer: n."""
        return len(self.outputs)

    @property
    def output_scale(self) -> tuple[Scale, Scale]:
        """(offset, factor) of each output, from a network's raw one, near [0, 1], to user units."""
        return tuple(out.low for out in self.outputs), tuple(out.span for out in self.outputs)

    def _each(self, function: Callable[[Regression, Tensor], Tensor], values: Tensor) -> Tensor:
        """(N, n) of a function of each output's task and its column."""
        return torch.stack([function(out, column) for (_, out), column in self._columns(values)], 1)

    def normalise(self, labels: Tensor) -> Tensor:
        """User units to [0, 1], (N, n)."""
        return self._each(Regression.normalise, labels)

    def denormalise(self, labels01: Tensor) -> Tensor:
        """[0, 1] to user units, (N, n)."""
        return self._each(Regression.denormalise, labels01)

    def check_labels(self, labels: Tensor) -> None:
        """Raise DataError unless labels are (N, n) numbers, each within its output's range."""
        if labels.ndim != 2 or labels.shape[1] != self.head_size:
            raise DataError(f"labels must be (N, {self.head_size}), got {tuple(labels.shape)}")
        for (name, out), column in self._columns(labels):
            try:
                out.check_labels(column)
            except DataError as error:
                raise DataError(f"{name}: {error}") from None

    def check_outputs(self, outputs: Tensor, count: int, what: str) -> None:
        """Raise ModelError unless `outputs` is (count, n)."""
        if tuple(outputs.shape) != (count, self.head_size):
            raise ModelError(
                f"{what} gives outputs of shape {tuple(outputs.shape)} for {count} images; "
                f"regression of {', '.join(self.names)} needs ({count}, {self.head_size}) values"
            )

    # --- errors

    def _shares(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Errors (N, n) as shares of the ranges."""
        return self._each(lambda out, error: error / out.span, outputs - labels)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Squared error (N,) on the [0, 1] label scale, the mean over the outputs."""
        return self._shares(outputs.float(), labels).square().mean(1)

    def closeness(self, labels: Tensor) -> Tensor:
        """(N, N) log-odds, up to a constant, with which rows of `labels` (N, n) are mixed.

        A product of Gaussian kernels of the outputs, as for one value, with bandwidths 1.06 std N^(-1 / (n + 4)).
        """
        labels01 = self.normalise(labels.float())
        bandwidth = 1.06 * labels01.std(0, correction=0) * len(labels) ** (-1 / (self.head_size + 4))
        scaled = labels01 / bandwidth.clamp_min(1e-6)  # all labels may be equal
        return -(scaled[:, None] - scaled).square().sum(2) / 2

    def metrics(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Mean absolute and root mean squared error in per cent of each output's range, the mean over outputs; and
        the mean absolute error of each output, `mae_NAME`, in its own unit.
        """
        shares = 100 * self._shares(outputs.double(), labels.double())
        rmse = shares.square().mean(0).sqrt().mean()
        own = (outputs.double() - labels.double()).abs().mean(0).tolist()
        return {
            "mae": shares.abs().mean().item(),
            "rmse": rmse.item(),
            **dict(zip(self.parts, own, strict=True)),
        }

    @property
    def parts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of `metrics` that split the error by output."""
        return tuple(f"mae_{name}" for name in self.names)

    def unit_of(self, metric: str) -> str:
        """Unit of one of `metrics`."""
        return dict(zip(self.parts, (out.unit for out in self.outputs), strict=True)).get(metric, self.unit)

    def chance(self, labels: Tensor) -> float:
        """Mean absolute error, in per cent of range, of always guessing the median of each output."""
        each = [100 * out.chance(column) / out.span for (_, out), column in self._columns(labels)]
        return sum(each) / len(each)

    def detail(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """An empty dictionary: values have no classes to balance."""
        return {}

    def errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Absolute error (N,) in per cent of range, the mean over outputs."""
        return 100 * self._shares(outputs.double(), labels.double()).abs().mean(1)

    def reread(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, str]:
        """Errors (N,) with the outputs in the order, and after the linear change of each, that fit best; and in words
        what the network should return.
        """
        from scipy.optimize import linear_sum_assignment

        labels = labels.double()
        lines = [
            [likely_unit(ours, theirs, out.low, out.high) for ours in outputs.unbind(1)]
            for (_, out), theirs in self._columns(labels)
        ]
        answers = [
            outputs.double() * outputs.new_tensor([factor for _, factor, _ in row], dtype=torch.float64)
            + outputs.new_tensor([offset for offset, _, _ in row], dtype=torch.float64)
            for row in lines
        ]  # of each value: (N, n), from each output
        costs = torch.stack(
            [
                (found - theirs[:, None]).abs().mean(0) / out.span
                for found, ((_, out), theirs) in zip(answers, self._columns(labels), strict=True)
            ]
        )
        order = linear_sum_assignment(costs.numpy())[1].tolist()
        words = [
            f"{name} = {lines[row][place][0]:.6g} + {lines[row][place][1]:.6g} * output {place}"
            for row, (name, place) in enumerate(zip(self.names, order, strict=True))
        ]
        best = torch.stack([found[:, place] for found, place in zip(answers, order, strict=True)], 1)
        return self.errors(best, labels), (
            f"gives values in other units or in another order than the labels; let its forward return "
            f"{', '.join(words)} (outputs count from 0), in label units"
        )

    def disagreement(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """|f_t(x) - y| (N,) in per cent of range, the mean over outputs, f_t(x) clipped to the ranges."""
        return 100 * self._shares(self.clipped(outputs), labels).abs().mean(1)

    def clipped(self, outputs: Tensor) -> Tensor:
        """A teacher's outputs (N, n) in float, each within its range."""
        return self._each(Regression.clipped, outputs)

    def consecutive(self, labels: Tensor) -> Tensor:
        """Number (N,) of each label among its distinct ones; its box where labels hardly repeat (fewer than two per
        label on average).
        """
        distinct, number = labels.unique(dim=0, return_inverse=True)
        return number if len(labels) >= 2 * len(distinct) else self.groups(labels)

    def shares(self, outputs: Tensor) -> Tensor:
        """One-hot (N, 20) of each output, side by side: the twentieth of its range that each value is in."""
        return torch.cat([out.shares(column) for (_, out), column in self._columns(outputs)], 1)

    # --- groups, and labels for people

    @property
    def _parts(self) -> int:
        """Number of equal parts of each range: as many as give at most 12 boxes."""
        return int(Regression.num_groups ** (1 / self.head_size) + 1e-9)

    @property
    def num_groups(self) -> int:  # type: ignore[override]
        """Number of label groups for budgets and per-label statistics: equal boxes; from four outputs on, only one."""
        parts: int = self._parts**self.head_size
        return parts

    def groups(self, labels: Tensor) -> Tensor:
        """Box number (N,) of each label."""
        parts = self._parts
        place = (self.normalise(labels) * parts).long().clamp(0, parts - 1)  # (N, n)
        number = place[:, 0]
        for column in place.unbind(1)[1:]:
            number = number * parts + column
        return number

    def group_name(self, group: int) -> str:
        """The box's ranges in user units."""
        parts, texts = self._parts, []
        if parts == 1:
            return "all labels"
        for name, out in reversed(self._named):
            group, place = divmod(group, parts)
            edge = out.span / parts
            texts.append(f"{name} {out.low + place * edge:.3g} to {out.low + (place + 1) * edge:.3g}")
        return ", ".join(reversed(texts))

    def label_name(self, label: Tensor) -> str:
        """Name of this label (n,) for people: its values."""
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(self.names, label.tolist(), strict=True))

    def caption(self, label: Tensor) -> str:
        """Values of this label (n,) below a picture, each rounded to about a thousandth of its range."""
        parts = zip(self._named, label.unbind(), strict=True)
        return ", ".join(f"{name} {out.caption(value)}" for (name, out), value in parts)

    def labels_from(self, texts: Sequence[str], most: int) -> Tensor:
        """Labels (N, n) from n numbers each as typed by a person; ranges start:stop:step give all combinations.

        Raises:
            ConfigError: another number of values, not a number or a range, or outside its range.
        """
        width = self.head_size
        require(
            len(texts) > 0 and len(texts) % width == 0,
            f"a label is {width} values ({', '.join(self.names)}), got {len(texts)}: {','.join(texts)}",
        )
        rows: list[tuple[float, ...]] = []
        for first in range(0, len(texts), width):
            axes = [
                out.labels_from([text], most).tolist()
                for out, text in zip(self.outputs, texts[first : first + width], strict=True)
            ]
            rows += itertools.islice(itertools.product(*axes), most + 1)
            require(len(rows) <= most, f"{','.join(texts)!r} is more than {most:,} labels")
        return torch.tensor(rows)

    def sweep(self, count: int) -> Tensor | None:
        """None: several values have no one order to sweep through."""
        return None

    def histogram(self, labels: Tensor, bins: int) -> list[tuple[str, int]]:
        """(output and range of its values, number of `labels` (N, n)) of equal parts of every range, `bins` in all."""
        parts = max(2, bins // self.head_size)
        return [
            (f"{name} {text}", count)
            for (name, out), column in self._columns(labels)
            for text, count in out.histogram(column, parts)
        ]

    # --- random labels

    def add_noise(self, labels: Tensor, at: Tensor, amount: float, generator: torch.Generator) -> Tensor:
        """`labels` (N, n) plus N(0, 1) times `amount` of each range, kept within it; `at` has no part."""
        return self._each(lambda out, column: out.add_noise(column, at, amount, generator), labels)

    def sample_labels(self, count: int, real: Tensor, how: LabelSampling, generator: torch.Generator) -> Tensor:
        """(count, n) labels: uniform over the distinct real labels (`balanced`), as often as in `real`, or (`uniform`)
        distinct real ones plus noise, unseen labels included, but never far from all real ones.
        """
        pool = real if how == "empirical" else real.unique(dim=0)
        labels = pool[torch.randint(len(pool), (count,), generator=generator)]
        if how != "uniform":
            return labels
        noise = torch.randn(labels.shape, generator=generator, dtype=torch.float64) @ kernel_root(self.normalise(pool))
        return self.denormalise((self.normalise(labels.double()) + noise).clamp(0, 1)).to(real.dtype)
