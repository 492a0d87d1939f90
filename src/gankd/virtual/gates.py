"""Do the draws of a virtual teacher match the outputs of the real one? Distances with floors, and failures by name.

All distances are between outputs of the teacher and draws for the same labels, within a class or a bin of labels, then
averaged over these groups. Each stands beside its floor, the same distance between two halves of the teacher's own
outputs.

Both are measured at the same sample size: one half of the teacher's outputs against the draws for the labels of the
other half, and against that other half itself, over the same random splits. Means, covariances and energy distances
of few samples lie apart by chance, by the more the fewer they are; that share is then in both, and draws from exactly
the teacher's law have their floor as expectation. Ratios of spreads and shares of right classes, which are not off by
chance in one direction, are of all rows. No group has more than 256 outputs in a comparison, so that a bound
that is a multiple of its floor asks no more of a larger set of data.

Failures that no array of outputs shows: F11, a gain that is due to the weight of the loss alone, is for the control
of equal weight among the ablations; F12, other classes or another order of them, is refused by
`VirtualTeacher.check_task`.
"""

import math
import textwrap
import warnings as python_warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from gankd.errors import DataError
from gankd.seeds import rng

WIDTH = 100
"""Columns of a table."""
LEAST = 4
"""Outputs that a group needs to count: two in each half."""
MOST = 256
"""Outputs of a group that are compared."""
NUMBERS = 20_000_000
"""That are compared at once; with very many classes each has fewer outputs."""
LABEL_BINS = 12
"""Equal bins of [0, 1] in which values are compared."""
PIT_CELLS = 10
C2ST_ROWS = 4000
"""Outputs, and as many draws, that the classifier of the two-sample test sees."""
TINY = 1e-8
"""Of a variance: spread that no student can notice."""


@dataclass(frozen=True)
class Gate:
    """One distance between a teacher's outputs and draws, and the bounds within which it passes."""

    name: str
    title: str
    value: float
    floor: float
    """The same between two halves of the teacher's outputs."""
    low: float = -math.inf
    high: float = math.inf

    @property
    def passed(self) -> bool:
        """Is the value within its bounds?"""
        return self.low <= self.value <= self.high

    @property
    def bound(self) -> str:
        """The bounds in words."""
        if math.isinf(self.low):
            return f"at most {self.high:.4f}"
        return f"at least {self.low:.4f}" if math.isinf(self.high) else f"{self.low:.3g} to {self.high:.3g}"


@dataclass(frozen=True)
class Failure:
    """A way in which a virtual teacher is known to fail, found in its draws."""

    code: str
    """F1 to F10."""
    text: str
    remedy: str


@dataclass(frozen=True)
class Gates:
    """How well draws match a teacher's outputs."""

    gates: tuple[Gate, ...]
    warnings: tuple[Failure, ...]
    facts: dict[str, Tensor]
    """By group, a class or a bin of labels: `mean_p`, `mean_q` (G, K) mean probabilities of outputs and of draws,
    `sd_p`, `sd_q` (G,) spread within the group, `count` (G,). Classes: `rank` (C,) rank correlation of the mean wrong
    probabilities. Values: `value_p`, `value_q` (G,) mean read-out, `pit` (10,) where outputs fall among draws.
    Groups without an output have zeros."""

    @property
    def passed(self) -> bool:
        """Did all pass?"""
        return all(gate.passed for gate in self.gates)

    @property
    def table(self) -> str:
        """Plain text, at most 100 columns."""
        lines = [f"{'':44}{'draws':>9}{'floor':>9}   {'asked for':<18}"]
        lines += [
            f"{gate.title:<44}{gate.value:>9.4f}{gate.floor:>9.4f}   {gate.bound:<18}{'' if gate.passed else 'missed'}"
            for gate in self.gates
        ]
        lines.append(f"{sum(gate.passed for gate in self.gates)} of {len(self.gates)} passed")
        for failure in self.warnings:
            text = f"{failure.code} {failure.text}; {failure.remedy}"
            lines += textwrap.wrap(text, WIDTH, subsequent_indent="    ")
        return "\n".join(line.rstrip() for line in lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, numbers to four digits."""
        return {
            "passed": self.passed,
            "gates": [
                {
                    "name": gate.name,
                    "title": gate.title,
                    "value": _short(gate.value),
                    "floor": _short(gate.floor),
                    "bound": gate.bound,
                    "passed": gate.passed,
                }
                for gate in self.gates
            ],
            "warnings": [{"code": one.code, "text": one.text, "remedy": one.remedy} for one in self.warnings],
            "facts": {name: _short(value.tolist()) for name, value in self.facts.items()},
        }


def _short(value: Any) -> Any:
    return [_short(item) for item in value] if isinstance(value, list) else float(f"{value:.4g}")


def measure(
    probs: Tensor,
    draws: Tensor,
    labels: Tensor,
    *,
    raw: Tensor | None = None,
    earlier: Tensor | None = None,
    gap: float | None = None,
    seed: int = 0,
) -> Gates:
    """All gates and failures, for classes or for values.

    Own design; rows count as independent. Bounds were laid down before the first measurement, and widened since only
    where two small samples of one law would often miss them: the Wasserstein distance of largest probabilities may
    exceed its floor by 0.01 (was: be at most 0.01), the share of right classes may differ by its floor and 0.02 (was:
    0.02), and the rank correlation need not be above that of the teacher's own halves less 0.01. The ratio of spreads
    is averaged in logarithms; the error of the covariance is the mean error over the mean size.

    Args:
        probs: (N, K) outputs of the teacher, softened.
        draws: (N, K) probabilities drawn for the same labels.
        labels: (N,) classes, or values on the [0, 1] scale of which the K columns are equal bins.
        raw: (N, K) draws of the generator as it is without averaging, for F10.
        earlier: (N, K) outputs of the teacher some epochs ago for these labels, for F5.
        gap: accuracy of the discriminator on outputs it was trained with, less that on others, for F8.
        seed: of splits and of the two-sample classifier.

    Raises:
        DataError: no group has 4 outputs.
    """
    measure_task = _measure_values if labels.is_floating_point() else _measure_classes
    raw, earlier = (None if x is None else _plain(x) for x in (raw, earlier))
    return measure_task(_plain(probs), _plain(draws), labels.detach().cpu(), raw, earlier, gap, seed)


def _measure_classes(
    p: Tensor, q: Tensor, labels: Tensor, raw: Tensor | None, earlier: Tensor | None, gap: float | None, seed: int
) -> Gates:
    """`measure` for classes (N,)."""
    groups = _Groups(labels, p.shape[1], p.shape[1])
    found = _over_splits(groups, p, q, raw, earlier, distances=_class_distances, seed=seed)
    value, floor = found["draws"], found["floor"]

    (mean_p, spread_p), (mean_q, spread_q) = (groups.moments(x) for x in (p, q))
    spread = groups.ratio(spread_q, spread_p)
    hits = [groups.mean((x.argmax(1) == labels).double()) for x in (p, q)]
    lost = groups.average(hits[0] - hits[1])
    noise = groups.split_noise((p.argmax(1) == labels).double(), seed)
    auc, auc_floor = _two_sample_test(groups, p, q, labels, seed)
    agreed = floor["rank"]
    gates = (
        Gate("mean", "class means, total variation", value["mean"], floor["mean"], high=floor["mean"] + 0.02),
        Gate("spread", "spread, as a share of the teacher's", spread, floor["spread"], 0.85, 1.15),
        Gate("covariance", "covariance, relative error", value["cov"], floor["cov"], high=1.5 * floor["cov"] + TINY),
        Gate("rank", "order of wrong classes, rank correlation", value["rank"], agreed, low=_rank_bound(agreed)),
        Gate(
            "wrong",
            "two likeliest wrong classes, variation",
            value["wrong"],
            floor["wrong"],
            high=floor["wrong"] + 0.05,
        ),
        Gate("energy", "energy distance", value["energy"], floor["energy"], high=1.5 * floor["energy"] + TINY),
        Gate("label", "right class likeliest, less the teacher's", -lost, noise, -0.02 - noise, 0.02 + noise),
        Gate("peak", "largest probability, Wasserstein", value["peak"], floor["peak"], high=floor["peak"] + 0.01),
        Gate("c2st", "told apart by a classifier, AUC", auc, auc_floor, high=0.6),
    )

    failures = _common_failures(groups, p, q, gates, found, gap)
    (between_p, share_p), (between_q, share_q) = (groups.label_share(x) for x in (p, q))
    if share_q < 0.9 * share_p and between_q < 0.9 * between_p:
        right = groups.average(hits[1])
        failures.append(
            Failure(
                "F3",
                f"draws hardly depend on the class: it explains {share_q:.0%} of their variance and {share_p:.0%} of "
                f"the teacher's; it is the likeliest class of {right:.0%} of the draws",
                "keep virtual.anchor and virtual.mean_table on, train longer",
            )
        )
    if lost > 0.02 + noise:
        failures.append(
            Failure(
                "F7",
                f"the label is the likeliest class of a draw {100 * lost:.1f} points less often than of the teacher's "
                "outputs, which acts as label noise",
                "redraw such draws, or lower the weight of the loss",
            )
        )
    wrong_p, wrong_q = (_wrong(mean[:, None], torch.arange(p.shape[1]))[:, 0] for mean in (mean_p, mean_q))
    facts = {
        "mean_p": mean_p,
        "mean_q": mean_q,
        "sd_p": spread_p.sqrt(),
        "sd_q": spread_q.sqrt(),
        "count": groups.count,
        "rank": _rank_correlation(wrong_p, wrong_q) * (groups.count > 0),
    }
    return Gates(gates, _by_number(failures), facts)


def _measure_values(
    p: Tensor, q: Tensor, labels: Tensor, raw: Tensor | None, earlier: Tensor | None, gap: float | None, seed: int
) -> Gates:
    """`measure` for values (N,) on the [0, 1] scale, in 12 equal bins of labels; bounds are an own choice.

    The read-out of a distribution is its mean. How far that lies from the label is what is compared: its mean and
    spread, where the teacher's fall among those of the draws (PIT), and how well the draws forecast them (CRPS),
    against the one value of a table. The energy distance is between cumulated distributions, where neighbouring bins
    are near.
    """
    labels = labels.double()
    bins = p.shape[1]
    centres = (torch.arange(bins, dtype=torch.float64) + 0.5) / bins
    groups = _Groups((labels * LABEL_BINS).long().clamp(0, LABEL_BINS - 1), LABEL_BINS, bins + 1)
    # The label travels with the row, as a last column.
    with_label = (None if x is None else torch.cat([x, labels[:, None]], 1) for x in (p, q, raw, earlier))
    found = _over_splits(groups, *with_label, distances=_value_distances, seed=seed)
    value, floor = found["draws"], found["floor"]

    read = [x @ centres for x in (p, q)]
    error = [(x - labels)[:, None] for x in read]
    spreads = [groups.moments(x)[1] for x in error]
    follows = [_correlation(x, labels) for x in read]
    auc, auc_floor = _two_sample_test(groups, p, q, labels, seed)
    halfway = (floor["crps"] + value["table"]) / 2
    gates = (
        Gate("mean", "mean distributions, total variation", value["mean"], floor["mean"], high=floor["mean"] + 0.02),
        Gate("value", "mean value, absolute error", value["value"], floor["value"], high=floor["value"] + 0.01),
        Gate(
            "spread",
            "spread of values, share of the teacher's",
            groups.ratio(spreads[1], spreads[0]),
            floor["spread"],
            0.85,
            1.15,
        ),
        Gate("pit", "place among draws (PIT), from uniform", value["pit"], floor["pit"], high=floor["pit"] + 0.05),
        Gate(
            "crps",
            f"forecast of the teacher, CRPS (table {value['table']:.4f})",
            value["crps"],
            floor["crps"],
            high=halfway,
        ),
        Gate("energy", "energy distance", value["energy"], floor["energy"], high=1.5 * floor["energy"] + TINY),
        Gate("label", "correlation with the label", follows[1], follows[0], low=follows[0] - 0.03),
        Gate("c2st", "told apart by a classifier, AUC", auc, auc_floor, high=0.6),
    )
    failures = _common_failures(groups, p, q, gates, found, gap)
    if follows[1] < 0.9 * follows[0]:
        failures.append(
            Failure(
                "F3",
                f"draws hardly depend on the label: their mean correlates with it by {follows[1]:.2f}, the "
                f"teacher's by {follows[0]:.2f}",
                "keep virtual.anchor and virtual.mean_table on, train longer",
            )
        )
    facts = {
        "mean_p": groups.mean(p),
        "mean_q": groups.mean(q),
        "sd_p": spreads[0].sqrt(),
        "sd_q": spreads[1].sqrt(),
        "count": groups.count,
        "value_p": groups.mean(read[0]),
        "value_q": groups.mean(read[1]),
        "pit": _pit(groups, error[0], error[1], seed),
    }
    return Gates(gates, _by_number(failures), facts)


def entropy_drift(entropies: Sequence[float]) -> Failure | None:
    """F9: does a network that learns from its own outputs grow ever less sure?

    Args:
        entropies: mean entropy of its outputs after each epoch so far, since the learning rate last changed.
    """
    last = list(entropies)[-4:]
    if len(last) < 4 or not all(a < b for a, b in pairwise(last)):
        return None
    return Failure(
        "F9",
        f"the entropy of the network's own outputs has grown for three epochs, from {last[0]:.3f} to {last[-1]:.3f}",
        "halve the weight of the loss, learn from right predictions alone, or start later",
    )


# --- failures -----------------------------------------------------------------------------------------------


def _common_failures(
    groups: "_Groups",
    p: Tensor,
    q: Tensor,
    gates: tuple[Gate, ...],
    found: dict[str, dict[str, float]],
    gap: float | None,
) -> list[Failure]:
    """Those that classes and values share."""
    by_name = {gate.name: gate for gate in gates}
    spread, energy, auc = by_name["spread"].value, by_name["energy"], by_name["c2st"]
    peak_p, peak_q = (float(x.amax(1).mean()) for x in (p, q))
    (_, share_p), (_, share_q) = (groups.label_share(x) for x in (p, q))
    count = int(groups.count[groups.kept].median())
    once = found["earlier"].get("energy", math.inf)
    further = max(
        (found["raw"][name] / max(TINY, found["draws"][name]) for name in ("mean", "energy") if name in found["raw"]),
        default=0.0,
    )
    checks = [
        (
            spread < 0.7,
            "F1",
            f"draws of a label have {spread:.2f} of the teacher's spread",
            "more virtual.polish, virtual.anchor=1, virtual.discriminator_steps=2 or a larger virtual.z_dim",
        ),
        (
            peak_q > peak_p + 0.05,
            "F2",
            f"draws are too sharp: their largest probability is {peak_q:.2f} on average, the teacher's {peak_p:.2f}",
            "a higher virtual.temperature, virtual.discriminator_input=sqrt, virtual.anchor=1",
        ),
        (
            spread < 0.7 and 1 - share_q < 0.1 * (1 - share_p),
            "F4",
            "draws hardly depend on the noise: a label has but one",
            "as for F1",
        ),
        (
            energy.value > 1.5 * once and not energy.passed,
            "F5",
            "draws are nearer to the teacher of some epochs ago than to what it has become: energy distance "
            f"{once:.4f} then, {energy.value:.4f} now",
            "a lower virtual.ema or more virtual.polish",
        ),
        (
            peak_p > 0.9,
            "F6",
            f"the teacher's softened outputs are almost one-hot: largest probability {peak_p:.2f} on average",
            "a higher virtual.temperature, stronger augmentation, or outputs of earlier epochs",
        ),
        (
            gap is not None and gap > 0.1,
            "F8",
            f"the discriminator knows its training outputs by heart: {100 * (gap or 0):.0f} points more accurate on "
            "them than on others",
            "virtual.spectral_norm=true, a smaller virtual.width, or the table in its place",
        ),
        (
            gap is None and not auc.passed and count < 50,
            "F8",
            f"with {count} outputs of a label the discriminator may know them by heart: a classifier tells draws "
            f"from outputs with AUC {auc.value:.2f}",
            "virtual.spectral_norm=true, a smaller virtual.width, or the table in its place",
        ),
        (
            spread > 1.15,
            "F9b",
            f"draws of a label have {spread:.2f} times the teacher's spread",
            "a higher virtual.lr, virtual.spectral_norm=false or more steps",
        ),
        (
            further > 3,
            "F10",
            f"the generator oscillates: without averaging it is {further:.1f} times as far off",
            "keep the averaged one, and let the learning rate fall to 0 (virtual.polish)",
        ),
    ]
    return [Failure(code, text, remedy) for fires, code, text, remedy in checks if fires]


def _by_number(failures: list[Failure]) -> tuple[Failure, ...]:
    return tuple(sorted(failures, key=lambda one: (int(one.code.strip("Fb")), one.code)))


# --- groups and halves --------------------------------------------------------------------------------------


class _Groups:
    """Rows by group, a class or a bin of labels.

    Args:
        groups: (N,) group number of each row.
        num_groups: G.
        width: numbers per row.
    """

    def __init__(self, groups: Tensor, num_groups: int, width: int) -> None:
        self.groups, self.num_groups = groups, num_groups
        self.count = groups.bincount(minlength=num_groups)
        self.kept = self.count >= LEAST
        self.names = self.kept.nonzero()[:, 0]
        if not self.kept.any():
            raise DataError(f"no label has {LEAST} outputs, which is the least to compare draws with; store more views")
        most = min(MOST, max(LEAST, NUMBERS // (num_groups * width)))
        self.half = (self.count[self.kept] // 2).clamp_max(most // 2)
        self.splits = min(16, max(2, 400 // num_groups))
        """Few groups leave more to chance."""

    def mean(self, x: Tensor) -> Tensor:
        """(G, ...) mean over the rows of each group of x (N, ...); 0 for none."""
        total = x.new_zeros(self.num_groups, *x.shape[1:]).index_add_(0, self.groups, x)
        return total / self.count.clamp_min(1).view(-1, *[1] * (x.ndim - 1))

    def average(self, x: Tensor) -> float:
        """Mean of (G,) over the groups that count."""
        return float(x[self.kept].mean())

    def ratio(self, a: Tensor, b: Tensor) -> float:
        """Of spreads, from variances (G,), averaged in logarithms over the groups that count."""
        return math.exp(self.average(((a + TINY) / (b + TINY)).log()) / 2)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (G, K) and total variance (G,) of x (N, K) in each group."""
        mean = self.mean(x)
        squares = x.new_zeros(self.num_groups).index_add_(0, self.groups, (x - mean[self.groups]).square().sum(1))
        return mean, squares / (self.count - 1).clamp_min(1)

    def label_share(self, x: Tensor) -> tuple[float, float]:
        """Variance between groups, and its share of the whole (omega squared: 0 in expectation if groups are alike)."""
        mean, variance = self.moments(x)
        rows, groups = len(x), int((self.count > 0).sum())
        within = float((variance * (self.count - 1).clamp_min(0)).sum()) / max(1, rows - groups)
        apart = float((self.count * (mean - x.mean(0)).square().sum(1)).sum())
        between = max(0.0, apart - (groups - 1) * within) / rows
        return between, between / max(TINY, between + within)

    def split(self, number: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (G', H) of one random half and of the other of the groups that count, and weights (G', H).

        Weights are 1 / size of the half, and 0 where a half is shorter than the longest.
        """
        order = torch.randperm(len(self.groups), generator=rng(seed, "gates", number))
        order = order[self.groups[order].argsort(stable=True)]
        start = (self.count.cumsum(0) - self.count)[self.kept][:, None]
        place = torch.arange(int(self.half.max()))
        there = place < self.half[:, None]
        place = torch.where(there, place, 0)
        return order[start + place], order[start + self.half[:, None] + place], there / self.half[:, None].double()

    def split_noise(self, x: Tensor, seed: int) -> float:
        """Mean difference, without its sign, of the average of x (N,) between halves."""
        gaps = []
        for number in range(self.splits):
            a, b, weight = self.split(number, seed)
            gaps.append(((x[a] - x[b]) * weight).sum(1).mean().abs())
        return float(torch.stack(gaps).mean())


def _plain(x: Tensor) -> Tensor:
    return x.detach().cpu().double()


_Distances = Callable[[Tensor, Tensor, Tensor, Tensor], dict[str, Tensor]]
"""Of halves (G', H, K) and (G', H, K), weights (G', H) and group numbers (G',); distances (G',) by name."""


def _over_splits(
    groups: _Groups,
    p: Tensor | None,
    q: Tensor | None,
    raw: Tensor | None,
    earlier: Tensor | None,
    *,
    distances: _Distances,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Distances by name: of `draws` to outputs, of outputs to outputs (`floor`), of `raw` draws to outputs, and of
    draws to `earlier` outputs; none where one is not given.
    """
    compared = {"draws": (p, q), "floor": (p, p), "raw": (p, raw), "earlier": (earlier, q)}
    found = {}
    for what, (first, second) in compared.items():
        sums: dict[str, Tensor] = {}
        if first is not None and second is not None:
            assert first.shape == second.shape, f"not for the same labels: {first.shape}, {second.shape}"
            first, second = _plain(first), _plain(second)
            for number in range(groups.splits):
                a, b, weight = groups.split(number, seed)
                for name, value in distances(first[a], second[b], weight, groups.names).items():
                    sums[name] = sums.get(name, torch.zeros_like(value)) + value / groups.splits
        found[what] = _averaged(sums)
    return found


def _averaged(sums: dict[str, Tensor]) -> dict[str, float]:
    values = {name: float(value.mean()) for name, value in sums.items()}
    if "log_spread" in values:
        values["spread"] = math.exp(values.pop("log_spread"))
    if "cov_gap" in sums:
        # Of means: a half of few outputs may have next to no covariance.
        values["cov"] = values.pop("cov_gap") / max(TINY, values.pop("cov_size"))
    return values


def _class_distances(a: Tensor, b: Tensor, weight: Tensor, classes: Tensor) -> dict[str, Tensor]:
    mean_a, mean_b = _mean(a, weight), _mean(b, weight)
    gap, size, log_spread = _compare_spread(a, b, weight)
    wrong_a, wrong_b = _wrong(a, classes), _wrong(b, classes)
    return {
        "mean": _variation(mean_a, mean_b),
        "log_spread": log_spread,
        "cov_gap": gap,
        "cov_size": size,
        "rank": _rank_correlation(_mean(wrong_a, weight), _mean(wrong_b, weight)),
        "wrong": _variation(_likeliest(wrong_a, weight), _likeliest(wrong_b, weight)),
        "energy": _energy_distance(a, b, weight),
        "peak": _wasserstein(a.amax(2), b.amax(2), weight),
    }


def _value_distances(a: Tensor, b: Tensor, weight: Tensor, _: Tensor) -> dict[str, Tensor]:
    probs_a, probs_b = a[..., :-1], b[..., :-1]
    bins = probs_a.shape[2]
    centres = (torch.arange(bins, dtype=a.dtype) + 0.5) / bins
    error_a, error_b = probs_a @ centres - a[..., -1], probs_b @ centres - b[..., -1]
    mean_a, mean_b = ((x * weight).sum(1) for x in (error_a, error_b))
    apart = (error_a[:, :, None] - error_b[:, None, :]).abs()
    within = (error_b[:, :, None] - error_b[:, None, :]).abs()
    cells = _cells(error_a, error_b, weight)
    return {
        "mean": _variation(_mean(probs_a, weight), _mean(probs_b, weight)),
        "value": (mean_a - mean_b).abs(),
        "log_spread": _compare_spread(error_a[..., None], error_b[..., None], weight)[2],
        "pit": 0.5 * (cells - 1 / PIT_CELLS).abs().sum(1),
        # The ensemble's own spread without its diagonal: the CRPS of its law, whatever the number of draws.
        "crps": _expect(apart, weight) - _expect(within, weight) / (1 - weight.square().sum(1)) / 2,
        "table": ((error_a - mean_b[:, None]).abs() * weight).sum(1),
        "energy": _energy_distance(probs_a.cumsum(2) / bins**0.5, probs_b.cumsum(2) / bins**0.5, weight),
    }


# --- distances of weighted samples --------------------------------------------------------------------------


def _mean(x: Tensor, weight: Tensor) -> Tensor:
    """(G, K) of x (G, H, K)."""
    return torch.einsum("gh,ghk->gk", weight, x)


def _variation(a: Tensor, b: Tensor) -> Tensor:
    """Total variation (G,) of distributions (G, K)."""
    return 0.5 * (a - b).abs().sum(1)


def _expect(x: Tensor, weight: Tensor) -> Tensor:
    """(G,) mean of x (G, H, H) over pairs."""
    return torch.einsum("gi,gij,gj->g", weight, x, weight)


def _energy_distance(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """2 E|a - b| - E|a - a'| - E|b - b'|, (G,), pairs of a sample with itself included: at least 0, and 0 for a = b.

    Szekely, Rizzo. Energy statistics: a class of statistics based on distances. JSPI 143 (2013), eq. 6.1.
    """
    apart, within_a, within_b = (_expect(torch.cdist(x, y), weight) for x, y in ((a, b), (a, a), (b, b)))
    return 2 * apart - within_a - within_b


def _compare_spread(a: Tensor, b: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """|cov a - cov b|, |cov a|, both Frobenius, and log sqrt(tr cov b / tr cov a), (G,) each.

    From inner products of samples, of which there are fewer than entries of a covariance of many classes:
    |X'X - Y'Y|^2 = |XX'|^2 + |YY'|^2 - 2 |XY'|^2.
    """
    scale = (weight / (1 - weight.square().sum(1, keepdim=True))).sqrt()[..., None]  # 1 / (H - 1): unbiased
    x, y = (scale * (z - _mean(z, weight)[:, None]) for z in (a, b))
    xx, yy, xy = ((s @ t.mT).square().sum((1, 2)) for s, t in ((x, x), (y, y), (x, y)))
    trace_x, trace_y = (z.square().sum((1, 2)) + TINY for z in (x, y))
    return (xx + yy - 2 * xy).clamp_min(0).sqrt(), xx.sqrt(), (trace_y / trace_x).log() / 2


def _wrong(x: Tensor, classes: Tensor) -> Tensor:
    """x (G, H, K) without the column of each group's own class; the others from the next one on, (G, H, K - 1)."""
    count = x.shape[2]
    others = (classes[:, None] + torch.arange(1, count)) % count
    return x.gather(2, others[:, None].expand(-1, x.shape[1], -1))


def _rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's (G,) of (G, K); 1 where neither has an order, 0 where one has none."""
    x, y = (torch.from_numpy(rankdata(z.numpy(), axis=1)) for z in (a, b))
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    size = (x.square().sum(1) * y.square().sum(1)).sqrt()
    flat = ((x == 0).all(1) & (y == 0).all(1)).double()
    return torch.where(size > 0, (x * y).sum(1) / size.clamp_min(TINY), flat)


def _rank_bound(floor: float) -> float:
    """0.95 and at most 0.03 below the floor; but no more than 0.01 below where the teacher's halves agree no better."""
    return max(floor - 0.03, min(0.95, floor - 0.01))


def _likeliest(wrong: Tensor, weight: Tensor) -> Tensor:
    """(G, K - 1) how often each wrong class is one of the two likeliest of a sample."""
    top = wrong.topk(min(2, wrong.shape[2]), dim=2).indices
    share = (weight[..., None] / top.shape[2]).expand(top.shape)
    return wrong.new_zeros(len(wrong), wrong.shape[2]).scatter_add_(1, top.flatten(1), share.flatten(1))


def _wasserstein(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """First Wasserstein distance (G,) of samples (G, H) on a line: those of equal rank are moved onto each other."""
    beyond = 2.0 * (weight == 0)
    a, b = ((x.clamp_max(1) + beyond).sort(dim=1).values for x in (a, b))
    return ((a - b).abs() * weight).sum(1)


def _cells(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """(G, 10) where samples a (G, H) fall among b (G, H): equal tenths if both are of one law."""
    below = (b[:, None, :] < a[:, :, None]).double() + 0.5 * (b[:, None, :] == a[:, :, None])
    size = (weight > 0).sum(1, keepdim=True)
    place = (size * torch.einsum("gij,gj->gi", below, weight) + 0.5) / (size + 1)  # one of size + 1 gaps, its middle
    cell = (place * PIT_CELLS).long().clamp_max(PIT_CELLS - 1)
    return a.new_zeros(len(a), PIT_CELLS).scatter_add_(1, cell, weight)


def _pit(groups: _Groups, p: Tensor, q: Tensor, seed: int) -> Tensor:
    """(10,) where outputs fall among draws, over all groups; p and q (N, 1)."""
    cells = []
    for number in range(groups.splits):
        a, b, weight = groups.split(number, seed)
        cells.append(_cells(p[a, 0], q[b, 0], weight).mean(0))
    return torch.stack(cells).mean(0)


def _correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's of (N,) and (N,); 0 where one does not vary."""
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x.norm() * y.norm()).clamp_min(TINY))


def _two_sample_test(groups: _Groups, p: Tensor, q: Tensor, labels: Tensor, seed: int) -> tuple[float, float]:
    """Held-out AUC of a small network that tells outputs from draws given the label, and outputs from outputs.

    Lopez-Paz, Oquab. Revisiting classifier two-sample tests. ICLR 2017. It reads square roots of probabilities, less
    their mean over both sides for the label's group, and the label.
    """
    a, b, weight = groups.split(0, seed)
    there = weight > 0
    a, b = a[there], b[there]
    chosen = torch.randperm(len(a), generator=rng(seed, "gates", "c2st"))[:C2ST_ROWS]
    a, b = a[chosen], b[chosen]
    return _auc(groups, p, q, labels, a, b, seed), _auc(groups, p, p, labels, a, b, seed)


def _auc(groups: _Groups, p: Tensor, q: Tensor, labels: Tensor, a: Tensor, b: Tensor, seed: int) -> float:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import roc_auc_score
    from sklearn.neural_network import MLPClassifier

    rows = torch.cat([a, b])
    roots = (p.shape[1] * torch.cat([p[a], q[b]])).sqrt()
    # A mean over one side alone would give that side away where a group has few rows.
    total = roots.new_zeros(groups.num_groups, roots.shape[1]).index_add_(0, groups.groups[rows], roots)
    mean = total / groups.groups[rows].bincount(minlength=groups.num_groups).clamp_min(1)[:, None]
    label = torch.nn.functional.one_hot(groups.groups[rows], groups.num_groups).double()
    if labels.is_floating_point():
        label = torch.cat([label, labels[rows, None]], 1)
    x = torch.cat([roots - mean[groups.groups[rows]], label], 1).float().numpy()
    side = np.repeat([0, 1], [len(a), len(b)])
    fold = np.concatenate([np.arange(len(a)) % 2, np.arange(len(b)) % 2])
    found = []
    for held_out in (0, 1):
        network = MLPClassifier((64,), max_iter=40, learning_rate_init=3e-3, alpha=1e-3, random_state=seed)
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore", ConvergenceWarning)  # it need not converge to tell them apart
            network.fit(x[fold != held_out], side[fold != held_out])
        score = network.predict_proba(x[fold == held_out])[:, 1]
        found.append(roc_auc_score(side[fold == held_out], score))
    return float(np.mean(found))
