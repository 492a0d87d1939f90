"""Turn the scores of a trained ratio network into ratios: slope, offset and normaliser from held-out samples."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.subsampling.ratio_net import LOG_LIMIT, DensityRatio

PRIOR_FAKES = 20.0
"""Shrinkage of a group's mean ratio: as if so many of its samples had the mean ratio of all."""


def calibrate(
    ratio: DensityRatio,
    pairs: tuple[Tensor, Tensor],
    features_fake: Tensor,
    labels_fake: Tensor,
    prior: float,
    *,
    apply: bool = True,
) -> dict[str, float | str]:
    """Set slope, offset and normaliser of a trained ratio from held-out samples; returns facts about it.

    Args:
        ratio: in eval mode; its buffers are changed in place.
        pairs: standardised features (2 B, F) of B pairs, real ones first, and the labels (2 B,) that condition them.
        features_fake, labels_fake: (M, F) and (M,) held-out generated samples, for the normaliser.
        prior: see `platt`.
        apply: False leaves the ratio as the network gives it, and only finds the facts.
    """
    with torch.no_grad():
        raw_real, raw_fake = ratio.net.log_ratio(*pairs).double().chunk(2)  # (B,) each
    slope, offset = platt(raw_fake, raw_real, prior) if apply else (1.0, 0.0)
    ratio.calibration.copy_(torch.tensor([slope, offset]))
    if apply:
        scores, groups = ratio.log_ratio(features_fake, labels_fake), ratio.task.groups(labels_fake)
        ratio.log_normaliser.copy_(_log_group_means(scores, groups, ratio.task.num_groups))

    log_fake = (slope * raw_fake + offset).clamp(-LOG_LIMIT, LOG_LIMIT)
    log_real = (slope * raw_real + offset).clamp(-LOG_LIMIT, LOG_LIMIT)
    auc = area_under_curve(log_fake, log_real)
    return {
        "auc": auc,
        "mean_ratio_fake": log_fake.exp().mean().item(),
        "mean_ratio_real": log_real.exp().mean().item(),
        "mean_inverse_ratio_real": (-log_real).exp().mean().item(),
        "slope": slope,
        "offset": offset,
        "advice": _advice(auc),
    }


def area_under_curve(fake: Tensor, real: Tensor) -> float:
    """Chance that a real sample (M,) scores above a generated one (N,), ties counting half."""
    from sklearn.metrics import roc_auc_score  # slow to import

    is_real = torch.cat([torch.zeros(len(fake)), torch.ones(len(real))])
    return float(roc_auc_score(is_real.numpy(), torch.cat([fake, real]).cpu().numpy()))


def platt(log_ratio_fake: Tensor, log_ratio_real: Tensor, prior: float = 0.0) -> tuple[float, float]:
    """Slope >= 0 and offset that calibrate log-ratios: logistic regression of real against generated, by Newton.

    With equal weight for both sides its optimum is the log-ratio itself, so a calibrated score has slope 1,
    offset 0.

    Args:
        log_ratio_fake: (N,) scores of held-out generated samples.
        log_ratio_real: (M,) scores of held-out real samples.
        prior: weight of ((slope - 1)^2 + offset^2) / 2, added to the mean loss; keeps separable samples finite.

    Returns:
        (slope, offset); (0, 0) if the scores are worse than none.
    """
    score = torch.cat([log_ratio_fake, log_ratio_real]).double()  # (N + M,)
    sign = torch.cat([torch.ones_like(log_ratio_fake), -torch.ones_like(log_ratio_real)]).double()
    # Both sides weigh alike, however many samples each has.
    weight = torch.cat([torch.full_like(x, 0.5 / len(x)) for x in (log_ratio_fake, log_ratio_real)]).double()
    design = torch.stack([score, torch.ones_like(score)], 1)  # (N + M, 2)
    start = torch.tensor([1.0, 0.0], dtype=torch.float64, device=score.device)

    def loss(at: Tensor) -> Tensor:
        return (weight * F.softplus(sign * (design @ at))).sum() + prior / 2 * (at - start).square().sum()

    theta = start
    for _ in range(100):
        chance = (design @ theta).sigmoid()
        gradient = design.T @ (weight * (chance - (sign < 0).double())) + prior * (theta - start)
        curvature = design.T @ (design * (weight * chance * (1 - chance))[:, None])
        curvature = curvature + (prior + 1e-12) * torch.eye(2, dtype=torch.float64, device=score.device)
        move = torch.linalg.solve(curvature, gradient)
        size = 1.0  # halved until the loss falls: far from the optimum Newton's step can overshoot
        while size > 1e-6 and loss(theta - size * move) > loss(theta):
            size /= 2
        theta = theta - size * move
        if move.abs().max() < 1e-10:
            break
    slope, offset = theta.tolist()
    return (slope, offset) if slope > 0 else (0.0, 0.0)  # a ratio of 1 everywhere


def _log_group_means(log_ratio: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """(num_groups,) log of the mean ratio of each group, shrunk towards the mean of all."""
    ratio = log_ratio.double().exp()
    total = torch.zeros(num_groups, dtype=torch.float64, device=ratio.device).scatter_add(0, groups, ratio)
    count = groups.bincount(minlength=num_groups)
    return ((total + PRIOR_FAKES * ratio.mean()) / (count + PRIOR_FAKES)).log().float()


def _advice(auc: float) -> str:
    if auc < 0.53:
        return f"no difference found (AUC {auc:.3f}): subsampling has nothing to gain"
    if auc > 0.98:
        return (
            f"real and fake are told apart almost without error (AUC {auc:.3f}): the generator is too weak "
            "and the ratios are unreliable; train the generator longer"
        )
    return ""
