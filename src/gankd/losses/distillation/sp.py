"""Similarity-preserving distillation: match which images of a batch activate a network alike."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.losses.distillation.spec import loss


@loss("SP", paper="Tung, Mori, ICCV 2019", weight=3000)
def sp(student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
    """Match which images of the batch have similar last feature maps.

        row i: 1/N sum_j (S_ij - T_ij)^2,  S, T = rows of A A^T over their norms,  A = maps as (N, C H W)

    The mean over rows is 1/N^2 times a squared Frobenius norm. Maps may differ in width and size, since only N x N
    matrices are compared. Zero where the maps agree up to scale and a rotation of all their entries.

    Args:
        student_features: list of maps (N, C, H, W); only the last is read, the one before pooling.
        teacher_features: likewise.

    Returns:
        (N,), one value per row of the similarity matrix.

    [1] Tung, Mori. Similarity-preserving knowledge distillation. ICCV 2019, section 2.
    """
    return (_similarity(student_features[-1]) - _similarity(teacher_features[-1])).square().mean(1)


def _similarity(maps: Tensor) -> Tensor:
    if maps.is_contiguous(memory_format=torch.channels_last):
        maps = maps.permute(0, 2, 3, 1)  # the order of entries is free, and memory order needs no copy
    flat = maps.flatten(1)
    return F.normalize(flat @ flat.mT, dim=1)
