"""Relational distillation: match distances between the images of a batch, and angles of their triangles."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.config import require
from gankd.losses.distillation.spec import loss


@loss("RKD", paper="Park et al., CVPR 2019")
def rkd(student_embedding: Tensor, teacher_embedding: Tensor, *, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    """Match distances and angles between the embeddings of the batch's images.

        row j: distance 1/N sum_i h(d_ij, d'_ij) + angle 1/N^2 sum_ik h(cos_ijk, cos'_ijk)

    with h the Huber loss of the difference (quadratic below 1), d the distances over their mean over distinct pairs,
    cos_ijk the cosine of the angle at j between i and k, and ' the teacher. By the law of cosines

        cos_ijk = (d_ij^2 + d_kj^2 - d_ik^2) / (2 d_ij d_kj),

    so no N x N x F tensor of differences is needed. A direction has cosine 0 to all others if its length is zero or
    too short for an accurate angle. Zero where the embeddings agree up to a similarity transform.

    Args:
        student_embedding: (N, F).
        teacher_embedding: (N, F'), without gradient.
        distance: weight of the distances.
        angle: weight of the angles.

    Returns:
        (N,), one value per image; means run over all i (and k), as in the authors' code.

    [1] Park, Kim, Lu, Cho. Relational knowledge distillation. CVPR 2019, section 3.2.
    """
    require(distance >= 0, f"RKD: distance must not be negative, got {distance}")
    require(angle >= 0, f"RKD: angle must not be negative, got {angle}")
    student, teacher = distances(student_embedding), distances(teacher_embedding)
    by_distance = F.smooth_l1_loss(student, teacher, reduction="none").mean(1)
    by_angle = F.smooth_l1_loss(cosines(student), cosines(teacher), reduction="none").mean((1, 2))
    return distance * by_distance + angle * by_angle


def distances(embedding: Tensor) -> Tensor:
    """(N, N) distances between rows of (N, F), divided by the mean of the positive ones."""
    # From differences, not from a Gram matrix: angles between close rows need full precision.
    plain = torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist")
    mean = plain.sum() / (plain > 0).sum().clamp_min(1)
    return plain / torch.where(mean > 0, mean, 1)


def cosines(distance: Tensor) -> Tensor:
    """(N, N, N) cosines at vertex j, [j, i, k], from (N, N) distances of mean about 1."""
    # The law's rounding error is about eps / shortest side.
    shortest = torch.finfo(distance.dtype).eps ** 0.5
    inverse = distance.masked_fill(distance <= shortest, torch.inf).reciprocal()
    square = distance.square()
    return (square[:, :, None] + square[:, None] - square) * (0.5 * inverse)[:, :, None] * inverse[:, None]
