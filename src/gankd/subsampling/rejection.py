"""Rejection by density ratio: keep a fixed budget per label group, or follow the published rule."""

import torch
from torch import Tensor

from gankd.config import require
from gankd.errors import DataError
from gankd.seeds import BLOCK, rng

SMALL_GROUP = 16
"""Groups with fewer samples have no budget of their own and use the factor c of all samples together."""


def budgeted_acceptance(log_ratio: Tensor, groups: Tensor, share: float) -> Tensor:
    """Probability of keeping each fake, with mean `share` in each group: optimal budgeted rejection [1].

        a(x) = min(1, c r(x)),  c such that the mean of a over the group is `share`

    At a given share no other acceptance brings p_fake a / share closer to p_real, in any f-divergence [1].
    c is exact. Fakes of ratio 0 are used only if the others are not enough, and then evenly, which is the limit
    of tiny equal ratios; a group of zeros is thus thinned at random. Groups with fewer than SMALL_GROUP samples
    use the factor c of all samples, so their own mean may differ from `share`.

    Args:
        log_ratio: (N,) log p_real / p_fake; -inf is a ratio of 0.
        groups: (N,) int64 label groups.
        share: accepted share in (0, 1].

    Returns:
        (N,) float64 probabilities.

    Raises:
        ConfigError: `share` out of range.
        DataError: a log-ratio is NaN or +inf.

    [1] Verine, Pydi, Negrevergne, Chevaleyre. Optimal budgeted rejection sampling for generative models.
        arXiv 2311.00460 (2023).
    """
    require(0 < share <= 1, f"the accepted share must lie in (0, 1], got {share}")
    _check(log_ratio)
    if len(log_ratio) == 0:
        return log_ratio.double()
    per_group = _budgeted(log_ratio.double(), groups, share)
    small = groups.bincount()[groups] < SMALL_GROUP
    if not small.any():
        return per_group
    return torch.where(small, _budgeted(log_ratio.double(), torch.zeros_like(groups), share), per_group)


def _budgeted(log_ratio: Tensor, groups: Tensor, share: float) -> Tensor:
    """`budgeted_acceptance` for groups of any size."""
    count = groups.bincount()
    zeros = torch.zeros(len(count), dtype=torch.float64, device=groups.device)
    largest = zeros.scatter_reduce(0, groups, log_ratio, "amax", include_self=False)
    ratio = (log_ratio - largest.nan_to_num(neginf=0.0)[groups]).exp()  # at most 1 in each group

    budget = share * count.double()  # accepted samples, in expectation
    positive = zeros.scatter_add(0, groups, (ratio > 0).double())
    scarce = positive <= budget
    # Samples with c r >= 1 are sure; the rest of the budget is spread over the others, which raises c. Repeat
    # until no further sample reaches 1. The set of sure samples only grows, so this ends, in a few rounds for
    # ratios within e^(+-8).
    sure = scarce[groups] & (ratio > 0)
    while True:
        room = (budget - zeros.scatter_add(0, groups, sure.double())).clamp_min(0)
        factor = room / zeros.scatter_add(0, groups, torch.where(sure, 0.0, ratio))
        more = ~sure & ~scarce[groups] & (factor[groups] * ratio >= 1)
        if not more.any():
            break
        sure |= more
    fill = room / (count - positive).clamp_min(1)  # for the zeros of groups with too few positive ratios
    return torch.where(sure, 1.0, torch.where(scarce[groups], fill[groups], factor[groups] * ratio))


def running_max_acceptance(
    log_ratio: Tensor,
    groups: Tensor,
    burn_in: int,
    cap_quantile: float = 1.0,
    *,
    judged: int = 1,
    keep_burn_in: bool = True,
) -> Tensor:
    """Probability r / M of keeping each fake, with the published running maximum M of its group [1, 2].

    M starts at the largest ratio of the group's first `burn_in` samples and grows along the stream (the order
    of the samples), so early samples may be judged by a smaller M than late ones. Departure from the authors'
    code: a group whose ratios are all zero is kept whole, where 0 / 0 makes their loop endless.

    Args:
        log_ratio: (N,) log p_real / p_fake; -inf is a ratio of 0.
        groups: (N,) int64 label groups.
        burn_in: samples per group that set the first M, >= 1.
        cap_quantile: M never exceeds this quantile of the group's ratios. Below 1 a single outlier no longer lowers
            the acceptance of all others, and ratios beyond the quantile are always kept. 1 is the published rule.
        judged: samples of a group that share one M, which no sample of theirs exceeds; the authors' batches.
        keep_burn_in: burn-in samples are judged too; the authors throw them away.

    Returns:
        (N,) float64 probabilities.

    Raises:
        ConfigError: `burn_in` or `cap_quantile` out of range.
        DataError: a log-ratio is NaN or +inf.

    [1] Ding, Wang, Welch. Subsampling generative adversarial networks: density ratio estimation in feature
        space with softplus loss. IEEE Trans. Signal Processing 68 (2020).
    [2] Ding, Wang, Wang, Welch. Efficient subsampling of realistic images from GANs conditional on a class or
        a continuous variable. Neurocomputing 517 (2023).
    """
    require(burn_in >= 1, f"burn_in must be at least 1, got {burn_in}")
    require(0 < cap_quantile <= 1, f"cap_quantile must lie in (0, 1], got {cap_quantile}")
    require(judged >= 1, f"judged must be at least 1, got {judged}")
    _check(log_ratio)
    if len(log_ratio) == 0:
        return log_ratio.double()
    order = groups.argsort(stable=True)  # by group, in stream order
    group = groups[order]
    count = group.bincount()
    start = count.cumsum(0) - count
    position = torch.arange(len(order), device=order.device) - start[group]

    # Running maximum within a group: one cumulative maximum over (group, rank of the ratio), both integers.
    values, level = log_ratio.double().unique(return_inverse=True)
    highest = (group * len(values) + level[order]).cummax(0).values % len(values)
    burnt = highest[start[group] + count[group].clamp_max(burn_in) - 1]
    batch_end = (burn_in + ((position - burn_in) // judged + 1) * judged).minimum(count[group]) - 1
    highest = torch.where(position < burn_in, burnt, highest[start[group] + batch_end.clamp_min(0)])

    by_value = _lexsort(groups, level)
    capped = by_value[(start + ((count - 1).double() * cap_quantile).ceil().long()).clamp_max(len(order) - 1)]
    highest = torch.minimum(highest, level[capped][group])

    logs = (log_ratio.double()[order] - values[highest]).nan_to_num(nan=0.0)  # nan: 0 / 0 in a group of zeros
    accepted = logs.exp().clamp_max(1)
    if not keep_burn_in:
        accepted = torch.where(position < burn_in, 0.0, accepted)
    return torch.empty_like(accepted).scatter(0, order, accepted)


def accept(probabilities: Tensor, seed: int) -> Tensor:
    """Keep each sample with its probability: (N,) bool. The random number of sample i depends only on (seed, i)."""
    blocks = -(-len(probabilities) // BLOCK)
    draws = [torch.rand(BLOCK, generator=rng(seed, "accept", n), dtype=torch.float64) for n in range(blocks)]
    uniform = torch.cat(draws) if draws else torch.empty(0, dtype=torch.float64)
    return uniform[: len(probabilities)].to(probabilities.device) < probabilities


def _lexsort(first: Tensor, second: Tensor) -> Tensor:
    """Indices that sort by `first`, then by `second`."""
    order = second.argsort(stable=True)
    return order[first[order].argsort(stable=True)]


def _check(log_ratio: Tensor) -> None:
    wrong = log_ratio.isnan() | log_ratio.isposinf()
    if wrong.any():
        raise DataError(
            f"{int(wrong.sum())} of {len(log_ratio)} log-ratios are NaN or +inf, expected finite ones or -inf; "
            "retrain the density ratio with a lower learning rate"
        )
