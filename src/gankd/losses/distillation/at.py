"""Attention transfer: match where in the image a feature map has its energy."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.config import require
from gankd.losses.distillation.maps import same_size
from gankd.losses.distillation.spec import loss


@loss("AT", paper="Zagoruyko, Komodakis, ICLR 2017", weight=1000)
def at(student_features: list[Tensor], teacher_features: list[Tensor], *, p: float = 2.0) -> Tensor:
    """Match where in the image each feature map has its energy.

        sum over pairs of mean over positions of (a(S) - a(T))^2,  a(F) = q / |q|_2,  q = mean over channels of |F|^p

    Invariant to the scale of either map and to the number, order and signs of channels; 0 for maps of one position.
    Departures from [1]: the mean of squares replaces the norm, as in the comparisons that use the weight of 1000 (the
    mean falls with the number of positions: those had 64 to 1024, and fewer need a smaller weight); the larger map is
    averaged down to the size of the smaller before attention is computed.

    Args:
        student_features, teacher_features: paired maps (N, C, H, W).
        p: power of the activations, at least 1; below 1 the gradient is infinite at 0.

    Returns:
        (N,) one value per row.

    [1] Zagoruyko, Komodakis. Paying more attention to attention (ICLR 2017), section 3.1.
    """
    require(p >= 1, f"AT: p must be at least 1, got {p}")
    losses = []
    for pair in zip(student_features, teacher_features, strict=True):
        student, teacher = (F.normalize(torch.linalg.vector_norm(m, p, 1).pow(p).flatten(1)) for m in same_size(*pair))
        losses.append((student - teacher).square().mean(1))
    return torch.stack(losses).sum(0)
