"""Measure how well a virtual teacher's samples match the real teacher's outputs: gates with floors, and failures.

Each distance has a floor, the distance between two halves of the teacher's own outputs. Both are measured at the same
sample size: one half of the teacher's outputs against the samples for the labels of the other half, and against that
other half itself, over the same random splits. Means, covariances and energy distances of few samples differ by
chance, the more so the fewer they are. That share is in both, and samples of exactly the teacher's law have their
floor as expectation. Ratios of spreads and shares of right classes have no such bias and use all rows. A comparison
uses at most 256 outputs of a group, so that a bound that is a multiple of its floor is the same for larger data.
"""

import torch
from torch import Tensor

from gankd.virtual.distances import (
    class_distances,
    correlation,
    over_splits,
    pit,
    plain,
    rank_correlation,
    value_distances,
    wrong_classes,
)
from gankd.virtual.failures import (
    Failure,
    by_number,
    class_ignored,
    label_noise,
    memorised,
    sharpness_failures,
    spread_failures,
    training_failures,
    value_ignored,
)
from gankd.virtual.gates import Gate, Gates
from gankd.virtual.groups import TINY, Groups
from gankd.virtual.two_sample import two_sample_test

LABEL_BINS = 12
"""Equal bins of [0, 1] in which values are compared."""


def measure(
    probs: Tensor,
    samples: Tensor,
    labels: Tensor,
    *,
    raw: Tensor | None = None,
    earlier: Tensor | None = None,
    seed: int = 0,
) -> Gates:
    """All gates and failures, for classes or for values.

    Own design; rows count as independent. Bounds were fixed before the first measurement, and widened since only where
    two small samples of one law would often miss them: the Wasserstein distance of largest probabilities may exceed
    its floor by 0.01 (was: be at most 0.01), the share of right classes may differ by its floor and 0.02 (was: 0.02),
    and the rank correlation need not be above that of the teacher's own halves less 0.01. The ratio of spreads is
    averaged in logarithms; the error of the covariance is the mean error over the mean size.

    Args:
        probs: (N, K) softened outputs of the teacher.
        samples: (N, K) probabilities drawn for these labels.
        labels: (N,) classes, or values on the [0, 1] scale, of which the K columns are equal bins.
        raw: (N, K) samples of the generator without averaging of its weights, for F10.
        earlier: (N, K) outputs of the teacher some epochs ago for these labels, for F5.
        seed: of splits and of the two-sample classifier.

    Raises:
        DataError: no group has 4 outputs.
    """
    of_task = _measure_values if labels.is_floating_point() else _measure_classes
    raw, earlier = (None if x is None else plain(x) for x in (raw, earlier))
    return of_task(plain(probs), plain(samples), labels.detach().cpu(), raw, earlier, seed)


def _measure_classes(
    p: Tensor, q: Tensor, labels: Tensor, raw: Tensor | None, earlier: Tensor | None, seed: int
) -> Gates:
    """`measure` for classes (N,)."""
    groups = Groups(labels, p.shape[1], p.shape[1])
    found = over_splits(groups, p, q, raw, earlier, distances=class_distances, seed=seed)
    value, floor = found["samples"], found["floor"]

    # --- numbers of all rows
    (mean_p, spread_p), (mean_q, spread_q) = (groups.moments(x) for x in (p, q))  # (C, C), (C,)
    spread = groups.ratio(spread_q, spread_p)
    right_p, right_q = (groups.mean((x.argmax(1) == labels).double()) for x in (p, q))  # (C,)
    lost = groups.average(right_p - right_q)
    noise = groups.split_noise((p.argmax(1) == labels).double(), seed)
    auc, auc_floor = two_sample_test(groups, p, q, labels, seed)

    gates = (
        Gate("mean", "class means, total variation", value["mean"], floor["mean"], high=floor["mean"] + 0.02),
        Gate("spread", "spread, as a share of the teacher's", spread, floor["spread"], 0.85, 1.15),
        Gate("covariance", "covariance, relative error", value["cov"], floor["cov"], high=1.5 * floor["cov"] + TINY),
        Gate(
            "rank",
            "order of wrong classes, rank correlation",
            value["rank"],
            floor["rank"],
            low=rank_bound(floor["rank"]),
        ),
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
    (between_p, share_p), (between_q, share_q) = (groups.label_share(x) for x in (p, q))
    failures = [
        *_common_failures(groups, p, q, gates, found),
        *class_ignored((share_p, share_q), (between_p, between_q), groups.average(right_q)),
        *label_noise(lost, noise),
    ]
    wrong_p, wrong_q = (wrong_classes(mean[:, None], torch.arange(p.shape[1]))[:, 0] for mean in (mean_p, mean_q))
    facts = {
        "mean_p": mean_p,
        "mean_q": mean_q,
        "sd_p": spread_p.sqrt(),
        "sd_q": spread_q.sqrt(),
        "count": groups.count,
        "rank": rank_correlation(wrong_p, wrong_q) * (groups.count > 0),
    }
    return Gates(gates, by_number(failures), facts)


def _measure_values(
    p: Tensor, q: Tensor, labels: Tensor, raw: Tensor | None, earlier: Tensor | None, seed: int
) -> Gates:
    """`measure` for values (N,) on the [0, 1] scale, in 12 equal bins of labels; bounds are an own choice.

    The read-out of a distribution is its mean. Its distance from the label is compared: mean and spread of that
    distance, the place of the teacher's among those of the samples (PIT), and how well the samples forecast them
    (CRPS), against the one value of a table. The energy distance is between cumulative distributions, where
    neighbouring bins are near.
    """
    labels = labels.double()
    bins = p.shape[1]
    centres = (torch.arange(bins, dtype=torch.float64) + 0.5) / bins
    groups = Groups((labels * LABEL_BINS).long().clamp(0, LABEL_BINS - 1), LABEL_BINS, bins + 1)
    # The label travels with the row, as a last column: (N, B + 1).
    with_label = (None if x is None else torch.cat([x, labels[:, None]], 1) for x in (p, q, raw, earlier))
    found = over_splits(groups, *with_label, distances=value_distances, seed=seed)
    value, floor = found["samples"], found["floor"]

    # --- numbers of all rows
    read_p, read_q = p @ centres, q @ centres  # (N,)
    error_p, error_q = (read_p - labels)[:, None], (read_q - labels)[:, None]  # (N, 1)
    spread_p, spread_q = (groups.moments(x)[1] for x in (error_p, error_q))
    follows_p, follows_q = correlation(read_p, labels), correlation(read_q, labels)
    auc, auc_floor = two_sample_test(groups, p, q, labels, seed)

    halfway = (floor["crps"] + value["table"]) / 2
    gates = (
        Gate("mean", "mean distributions, total variation", value["mean"], floor["mean"], high=floor["mean"] + 0.02),
        Gate("value", "mean value, absolute error", value["value"], floor["value"], high=floor["value"] + 0.01),
        Gate(
            "spread",
            "spread of values, share of the teacher's",
            groups.ratio(spread_q, spread_p),
            floor["spread"],
            0.85,
            1.15,
        ),
        Gate("pit", "place among samples (PIT), from uniform", value["pit"], floor["pit"], high=floor["pit"] + 0.05),
        Gate(
            "crps",
            f"forecast of the teacher, CRPS (table {value['table']:.4f})",
            value["crps"],
            floor["crps"],
            high=halfway,
        ),
        Gate("energy", "energy distance", value["energy"], floor["energy"], high=1.5 * floor["energy"] + TINY),
        Gate("label", "correlation with the label", follows_q, follows_p, low=follows_p - 0.03),
        Gate("c2st", "told apart by a classifier, AUC", auc, auc_floor, high=0.6),
    )
    failures = [*_common_failures(groups, p, q, gates, found), *value_ignored(follows_p, follows_q)]
    facts = {
        "mean_p": groups.mean(p),
        "mean_q": groups.mean(q),
        "sd_p": spread_p.sqrt(),
        "sd_q": spread_q.sqrt(),
        "count": groups.count,
        "value_p": groups.mean(read_p),
        "value_q": groups.mean(read_q),
        "pit": pit(groups, error_p, error_q, seed),
    }
    return Gates(gates, by_number(failures), facts)


def _common_failures(
    groups: Groups, p: Tensor, q: Tensor, gates: tuple[Gate, ...], found: dict[str, dict[str, float]]
) -> list[Failure]:
    """Failures that classes and values share."""
    by_name = {gate.name: gate for gate in gates}
    energy, auc = by_name["energy"], by_name["c2st"]
    (_, share_p), (_, share_q) = (groups.label_share(x) for x in (p, q))
    count = int(groups.count[groups.kept].median())
    return [
        *spread_failures(by_name["spread"].value, share_p, share_q),
        *sharpness_failures(p, q),
        *training_failures(found, energy=energy.value, passed=energy.passed),
        *memorised(auc.value, passed=auc.passed, count=count),
    ]


def rank_bound(floor: float) -> float:
    """0.95 and at most 0.03 below the floor; but no more than 0.01 below where the teacher's halves agree no better."""
    return max(floor - 0.03, min(0.95, floor - 0.01))
