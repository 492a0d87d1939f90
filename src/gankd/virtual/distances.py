"""Distances between outputs of a teacher and samples of a generator for the same labels.

All are within a group (a class or a bin of labels) and averaged over groups. Samples are weighted rows (G, H, K): one
half of each group's rows, with weights (G, H) that sum to 1.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gankd.virtual.groups import TINY, Groups

PIT_CELLS = 10
"""Equal cells in which the place of outputs among samples is counted."""

Distances = Callable[[Tensor, Tensor, Tensor, Tensor], dict[str, Tensor]]
"""Function of halves (G, H, K) and (G, H, K), weights (G, H) and group numbers (G,) to distances (G,) by name."""


def plain(x: Tensor) -> Tensor:
    """`x` on the CPU in float64, without gradient."""
    return x.detach().cpu().double()


def over_splits(
    groups: Groups,
    p: Tensor | None,
    q: Tensor | None,
    raw: Tensor | None,
    earlier: Tensor | None,
    *,
    distances: Distances,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Distances by name, averaged over random halves and groups.

    Args:
        groups: of the N rows.
        p: (N, K) outputs.
        q: (N, K) samples.
        raw: (N, K) samples of the generator without averaging of its weights.
        earlier: (N, K) outputs of the teacher some epochs ago.
        distances: how two halves are compared.
        seed: of the halves.

    Returns:
        `samples`: outputs to samples; `floor`: outputs to outputs; `raw`: outputs to `raw` samples; `earlier`:
        `earlier` outputs to samples. Empty where an input is None.
    """
    compared = {"samples": (p, q), "floor": (p, p), "raw": (p, raw), "earlier": (earlier, q)}
    found = {}
    for name, (first, second) in compared.items():
        sums: dict[str, Tensor] = {}
        if first is not None and second is not None:
            assert first.shape == second.shape, f"not for the same labels: {first.shape}, {second.shape}"
            first, second = plain(first), plain(second)
            for number in range(groups.splits):
                a, b, weight = groups.split(number, seed)  # (G, H) each
                for key, value in distances(first[a], second[b], weight, groups.names).items():
                    sums[key] = sums.get(key, torch.zeros_like(value)) + value / groups.splits
        found[name] = _averaged(sums)
    return found


def _averaged(sums: dict[str, Tensor]) -> dict[str, float]:
    values = {name: float(value.mean()) for name, value in sums.items()}
    if "log_spread" in values:
        values["spread"] = math.exp(values.pop("log_spread"))
    if "cov_gap" in sums:
        # Ratio of means, not mean of ratios: a half of few outputs may have almost no covariance.
        values["cov"] = values.pop("cov_gap") / max(TINY, values.pop("cov_size"))
    return values


def class_distances(a: Tensor, b: Tensor, weight: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """Distances of `Distances` for classes (G,)."""
    mean_a, mean_b = _mean(a, weight), _mean(b, weight)  # (G, K)
    gap, size, log_spread = compare_spread(a, b, weight)
    wrong_a, wrong_b = wrong_classes(a, classes), wrong_classes(b, classes)  # (G, H, K - 1)
    return {
        "mean": _variation(mean_a, mean_b),
        "log_spread": log_spread,
        "cov_gap": gap,
        "cov_size": size,
        "rank": rank_correlation(_mean(wrong_a, weight), _mean(wrong_b, weight)),
        "wrong": _variation(likeliest(wrong_a, weight), likeliest(wrong_b, weight)),
        "energy": energy_distance(a, b, weight),
        "peak": wasserstein(a.amax(2), b.amax(2), weight),
    }


def value_distances(a: Tensor, b: Tensor, weight: Tensor, _: Tensor) -> dict[str, Tensor]:
    """Distances of `Distances` for values; the last column of each row is its label on the [0, 1] scale."""
    probs_a, probs_b = a[..., :-1], b[..., :-1]  # (G, H, B)
    bins = probs_a.shape[2]
    centres = (torch.arange(bins, dtype=a.dtype) + 0.5) / bins
    error_a, error_b = probs_a @ centres - a[..., -1], probs_b @ centres - b[..., -1]  # (G, H)
    mean_a, mean_b = ((x * weight).sum(1) for x in (error_a, error_b))
    apart = (error_a[:, :, None] - error_b[:, None, :]).abs()  # (G, H, H)
    within = (error_b[:, :, None] - error_b[:, None, :]).abs()
    places = cells(error_a, error_b, weight)  # (G, 10)
    return {
        "mean": _variation(_mean(probs_a, weight), _mean(probs_b, weight)),
        "value": (mean_a - mean_b).abs(),
        "log_spread": compare_spread(error_a[..., None], error_b[..., None], weight)[2],
        "pit": 0.5 * (places - 1 / PIT_CELLS).abs().sum(1),
        # Spread of the ensemble without its diagonal: the CRPS of its law, whatever the number of samples.
        "crps": _expect(apart, weight) - _expect(within, weight) / (1 - weight.square().sum(1)) / 2,
        "table": ((error_a - mean_b[:, None]).abs() * weight).sum(1),
        "energy": energy_distance(probs_a.cumsum(2) / bins**0.5, probs_b.cumsum(2) / bins**0.5, weight),
    }


# --- of weighted samples ------------------------------------------------------------------------------------


def _mean(x: Tensor, weight: Tensor) -> Tensor:
    """Mean (G, K) of x (G, H, K)."""
    return torch.einsum("gh,ghk->gk", weight, x)


def _variation(a: Tensor, b: Tensor) -> Tensor:
    """Total variation (G,) of distributions (G, K)."""
    return 0.5 * (a - b).abs().sum(1)


def _expect(x: Tensor, weight: Tensor) -> Tensor:
    """Mean (G,) of x (G, H, H) over pairs."""
    return torch.einsum("gi,gij,gj->g", weight, x, weight)


def energy_distance(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """2 E|a - b| - E|a - a'| - E|b - b'|, (G,), pairs of a sample with itself included: at least 0, and 0 for a = b.

    Szekely, Rizzo. Energy statistics: a class of statistics based on distances. JSPI 143 (2013), eq. 6.1.
    """
    apart, within_a, within_b = (_expect(torch.cdist(x, y), weight) for x, y in ((a, b), (a, a), (b, b)))
    return 2 * apart - within_a - within_b


def compare_spread(a: Tensor, b: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """|cov a - cov b|, |cov a|, both Frobenius, and log sqrt(tr cov b / tr cov a), (G,) each.

    Computed from inner products of samples, which are fewer than the entries of a covariance of many classes:
    |X'X - Y'Y|^2 = |XX'|^2 + |YY'|^2 - 2 |XY'|^2.
    """
    scale = (weight / (1 - weight.square().sum(1, keepdim=True))).sqrt()[..., None]  # 1 / (H - 1): unbiased
    x, y = (scale * (z - _mean(z, weight)[:, None]) for z in (a, b))  # (G, H, K)
    xx, yy, xy = ((s @ t.mT).square().sum((1, 2)) for s, t in ((x, x), (y, y), (x, y)))
    trace_x, trace_y = (z.square().sum((1, 2)) + TINY for z in (x, y))
    return (xx + yy - 2 * xy).clamp_min(0).sqrt(), xx.sqrt(), (trace_y / trace_x).log() / 2


def wrong_classes(x: Tensor, classes: Tensor) -> Tensor:
    """x (G, H, K) without the column of each group's own class; the others from the next one on, (G, H, K - 1)."""
    count = x.shape[2]
    others = (classes[:, None] + torch.arange(1, count)) % count
    return x.gather(2, others[:, None].expand(-1, x.shape[1], -1))


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's (G,) of each pair of rows (G, K); 1 where neither has an order, 0 where only one has.

    All rows at once: scipy.stats.spearmanr takes one pair at a time, which is slow for a thousand classes.
    """
    from scipy.stats import rankdata

    x, y = (torch.from_numpy(rankdata(z.numpy(), axis=1)) for z in (a, b))
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    size = (x.square().sum(1) * y.square().sum(1)).sqrt()
    flat = ((x == 0).all(1) & (y == 0).all(1)).double()
    return torch.where(size > 0, (x * y).sum(1) / size.clamp_min(TINY), flat)


def likeliest(wrong: Tensor, weight: Tensor) -> Tensor:
    """(G, K - 1) how often each wrong class is one of the two likeliest of a sample (G, H, K - 1)."""
    top = wrong.topk(min(2, wrong.shape[2]), dim=2).indices
    share = (weight[..., None] / top.shape[2]).expand(top.shape)
    return wrong.new_zeros(len(wrong), wrong.shape[2]).scatter_add_(1, top.flatten(1), share.flatten(1))


def wasserstein(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """First Wasserstein distance (G,) of samples (G, H) on a line: those of equal rank are moved onto each other."""
    beyond = 2.0 * (weight == 0)  # rows without weight sort last
    a, b = ((x.clamp_max(1) + beyond).sort(dim=1).values for x in (a, b))
    return ((a - b).abs() * weight).sum(1)


def cells(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """(G, 10) share of samples a (G, H) at each place among b (G, H): equal tenths if both are of one law."""
    below = (b[:, None, :] < a[:, :, None]).double() + 0.5 * (b[:, None, :] == a[:, :, None])  # (G, H, H)
    size = (weight > 0).sum(1, keepdim=True)
    place = (size * torch.einsum("gij,gj->gi", below, weight) + 0.5) / (size + 1)  # middle of one of size + 1 gaps
    cell = (place * PIT_CELLS).long().clamp_max(PIT_CELLS - 1)
    return a.new_zeros(len(a), PIT_CELLS).scatter_add_(1, cell, weight)


def pit(groups: Groups, p: Tensor, q: Tensor, seed: int) -> Tensor:
    """(10,) share of outputs p (N, 1) at each place among samples q (N, 1), over all groups."""
    found = []
    for number in range(groups.splits):
        a, b, weight = groups.split(number, seed)
        found.append(cells(p[a, 0], q[b, 0], weight).mean(0))
    return torch.stack(found).mean(0)


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's of (N,) and (N,); 0 where one does not vary."""
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x.norm() * y.norm()).clamp_min(TINY))
