"""Calibration of probabilities: is an answer given with 80 % right in 80 % of the cases?"""

import torch
from torch import Tensor

BINS = 15
"""Equal ranges of confidence, as in [1]."""


def reliability(confidence: Tensor, right: Tensor, bins: int = BINS) -> Tensor:
    """Number of answers, mean confidence and share of right answers in equal ranges of confidence: (bins, 3).

    Args:
        confidence: (N,) probability of the class that was answered, in [0, 1].
        right: (N,) bool.
        bins: number of ranges; an empty one is a row of zeros.
    """
    place = (confidence.double() * bins).long().clamp(0, bins - 1)  # (N,)
    columns = torch.stack([torch.ones_like(confidence.double()), confidence.double(), right.double()], 1)
    sums = torch.zeros((bins, 3), dtype=torch.float64).index_add(0, place.cpu(), columns.cpu())
    return torch.cat([sums[:, :1], sums[:, 1:] / sums[:, :1].clamp_min(1)], 1)


def calibration_error(confidence: Tensor, right: Tensor, bins: int = BINS) -> float:
    """Expected calibration error in [0, 1]: mean over answers of |confidence - share right| of their range [1].

    It is 0 for a calibrated network, and small ranges make it larger by chance.

    [1] Guo, Pleiss, Sun, Weinberger. On calibration of modern neural networks. ICML 2017, equation 3.
    """
    count, sure, share = reliability(confidence, right, bins).unbind(1)
    return float((count * (sure - share).abs()).sum() / count.sum())
