"""Neuron selectivity: match the distribution of the patterns that a layer's channels respond to."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.losses.distillation.maps import same_size
from gankd.losses.distillation.spec import loss


@loss("NST", paper="Huang, Wang, 2017", weight=50)
def nst(student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
    """Match the distribution of the channels' response patterns.

        sum over pairs of mean k(s, s') + mean k(t, t') - 2 mean k(s, t),  k(x, y) = (x . y)^2

    s and t run over the channels of a map, each flattened and scaled to norm 1: the squared maximum mean discrepancy
    of [1]. Independent of the order, scale and sign of channels; their numbers may differ. 0 for maps of one
    position. The larger map is averaged down to the size of the smaller.

    Args:
        student_features, teacher_features: paired maps (N, C, H, W).

    Returns:
        (N,) one value per row, at least 0 up to rounding.

    [1] Huang, Wang. Like what you like: knowledge distill via neuron selectivity transfer (2017), section 4, with
        the polynomial kernel of degree d = 2 and c = 0.
    """
    losses = []
    for pair in zip(student_features, teacher_features, strict=True):
        student, teacher = (F.normalize(m.flatten(2), dim=2) / m.shape[1] ** 0.5 for m in same_size(*pair))
        losses.append(_discrepancy(student, teacher))
    return torch.stack(losses).sum(0)


def _discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """MMD^2 (N,) between rows of (N, C, P) and (N, D, P), scaled by C^-1/2 and D^-1/2.

    As sum (x . y)^2 = |X Y'|^2 = <X' X, Y' Y>, there are two ways to compute it; this uses the smaller matrices.
    """
    if student.shape[2] <= max(student.shape[1], teacher.shape[1]):
        return (student.mT @ student - teacher.mT @ teacher).square().sum((1, 2))
    own, other, cross = student @ student.mT, teacher @ teacher.mT, student @ teacher.mT
    return own.square().sum((1, 2)) + other.square().sum((1, 2)) - 2 * cross.square().sum((1, 2))
