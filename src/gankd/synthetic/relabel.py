"""Filter of the teacher: drop generated images on which it disagrees with the assigned label."""

from typing import Literal

import torch
from torch import Tensor

from gankd.config import require
from gankd.errors import ConfigError, DataError

FilterRule = Literal["none", "published", "per_group", "global", "real_calibrated"]
SMALL_REAL_GROUP = 20
"""A group with fewer held-out real samples gets the threshold of all groups together."""


def keep_most_consistent(
    disagreement: Tensor,
    groups: Tensor,
    rule: FilterRule,
    rho: float,
    *,
    num_groups: int,
    per_class: bool,
    real_disagreement: Tensor | None = None,
    real_groups: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Keep the fakes on which the teacher disagrees with the assigned label by at most a threshold alpha.

        none             keep all
        published [1]    alpha = rho-quantile of the fakes, per class if `per_class`, else over all labels
        per_group        alpha = rho-quantile of the fakes of each group, also for scalar labels
        global           alpha = rho-quantile of all fakes, also for classes, as in the first version of [1]
        real_calibrated  alpha = rho-quantile of held-out *real* images of each group: a well generated class loses
                         few fakes and a badly generated one many, while the other rules always drop 1 - rho

    Departures from [1]: the quantile is over all fakes instead of a burn-in batch, and ties with alpha are kept.
    The authors' strict `<` drops every tie, which costs far more than 1 - rho where scores are whole numbers.

    Args:
        disagreement: (N,) scores of the fakes, as `Task.disagreement` gives them.
        groups: (N,) int64 label groups.
        rule: one of the five above.
        rho: level of the quantile in (0, 1]; linear interpolation, as in `numpy.quantile`.
        num_groups: number of label groups.
        per_class: the published rule's choice for this task, `Task.filter_per_group`.
        real_disagreement: (R,) scores of real images that the teacher was not trained on.
        real_groups: (R,) their label groups.

    Returns:
        (N,) bool mask of the kept fakes, and (num_groups,) float64 thresholds; NaN for a group without samples.

    Raises:
        ConfigError: `rho` is out of range, the rule is unknown, or `real_calibrated` has no real scores.
        DataError: a score is NaN.

    [1] Ding, Wang, Xu, Wang, Welch. Distilling and transferring knowledge via cGAN-generated samples for
        image classification and regression. Expert Systems with Applications 213 (2023), module M2.
    """
    require(0 < rho <= 1, f"rho must lie in (0, 1], got {rho}")
    if disagreement.isnan().any():
        raise DataError(
            f"the teacher's disagreement is NaN for {int(disagreement.isnan().sum())} of "
            f"{len(disagreement)} generated images; check the teacher's outputs"
        )
    scores = disagreement.double()
    everything = torch.zeros_like(groups)
    if rule == "none":
        thresholds = torch.full((num_groups,), torch.inf, dtype=torch.float64, device=scores.device)
    elif rule == "per_group" or (rule == "published" and per_class):
        thresholds = group_quantile(scores, groups, num_groups, rho)
    elif rule in ("published", "global"):
        thresholds = group_quantile(scores, everything, 1, rho).expand(num_groups).clone()
    elif rule == "real_calibrated":
        if real_disagreement is None or real_groups is None or len(real_groups) == 0:
            raise ConfigError(
                "filter=real_calibrated needs the teacher's disagreement on held-out real images, got none; "
                "give a validation split or use filter=published"
            )
        real = real_disagreement.double().to(scores.device)
        real_groups = real_groups.to(scores.device)
        overall = group_quantile(real, torch.zeros_like(real_groups), 1, rho)
        enough = real_groups.bincount(minlength=num_groups) >= SMALL_REAL_GROUP
        thresholds = torch.where(enough, group_quantile(real, real_groups, num_groups, rho), overall)
    else:
        raise ConfigError(f"filter must be none, published, per_group, global or real_calibrated, got {rule!r}")
    return scores <= thresholds[groups], thresholds


def group_quantile(values: Tensor, groups: Tensor, num_groups: int, level: float) -> Tensor:
    """(num_groups,) quantiles of (N,) values in (N,) groups, as in `numpy.quantile`; NaN for empty groups."""
    by_value = values.argsort(stable=True)
    ordered = values[by_value[groups[by_value].argsort(stable=True)]]
    count = groups.bincount(minlength=num_groups)
    start = count.cumsum(0) - count
    position = level * (count - 1).clamp_min(0).to(values.dtype)
    below, weight = position.floor().long(), position.frac()
    filled = count > 0
    if not filled.any():
        return values.new_full((num_groups,), torch.nan)
    last = len(ordered) - 1
    low = ordered[(start + below).clamp_max(last)]
    high = ordered[(start + torch.minimum(below + 1, (count - 1).clamp_min(0))).clamp_max(last)]
    return torch.where(filled, torch.lerp(low, high, weight), torch.nan)
