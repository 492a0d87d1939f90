"""Singular vectors: match how the main directions of consecutive stages relate."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.config import require
from gankd.losses.distillation.fsp import to_teacher_widths
from gankd.losses.distillation.spec import loss


@loss("KDSVD", paper="Lee, Kim, Song, ECCV 2018", weight=1, own_weight=True)
class KDSVD(nn.Module):
    """Match how the main directions of consecutive feature maps relate.

        sum over consecutive maps, channel pairs (c, c') and vectors j of (R_S - R_T)^2,
        R[c, c', j] = exp(-(w_j v_j[c] - w'_j v'_j[c'])^2 / 8)

    v_1 .. v_k are the leading singular vectors (C,) of a map as a matrix of C channels by H W positions, w the
    teacher's singular values scaled to norm 1 (so w = 1 for k = 1), the same for both networks.

    Departures from [1]. The student's vectors come from a few power iterations that start at the teacher's: they get
    the teacher's order and sign, and gradients stay finite where singular values coincide. The teacher's sign, left
    open in [1], is chosen so that the channel with most energy is positive. [1] has no weight but clips this loss's
    gradients to the size of the label loss's; the weight of 1 is our choice. Where widths differ, 1x1 convolutions
    with batch normalisation bring the student's maps to the teacher's.

    Args:
        student_features, teacher_features: at least 2 paired maps (N, C, H, W); sizes need not agree.
        k: number of singular vectors; those beyond the rank of a map count as 0.
        iterations: power iterations for the student's vectors; the teacher's get three times as many.

    Returns:
        (N,) one value per row, independent of the scale of each map and of where in the image something is.

    Raises:
        ModelError: there is only one pair.

    [1] Lee, Kim, Song. Self-supervised knowledge distillation using singular value decomposition (ECCV 2018),
        section 3.
    """

    def __init__(
        self, student_features: list[Tensor], teacher_features: list[Tensor], *, k: int = 1, iterations: int = 5
    ) -> None:
        super().__init__()
        require(k >= 1, f"KDSVD: k must be at least 1, got {k}")
        require(iterations >= 1, f"KDSVD: iterations must be at least 1, got {iterations}")
        self.k, self.iterations = k, iterations
        self.adapters = to_teacher_widths("KDSVD", student_features, teacher_features)

    def forward(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
        student_vectors, teacher_vectors = [], []
        for student, teacher, adapter in zip(student_features, teacher_features, self.adapters, strict=True):
            vectors, values = _leading(teacher, None, self.k, 3 * self.iterations)
            weights = F.normalize(values)[:, None]
            teacher_vectors.append(weights * vectors)
            vectors, _ = _leading(adapter(student), vectors, self.k, self.iterations)
            student_vectors.append(weights * vectors)
        pairs = zip(_relations(student_vectors), _relations(teacher_vectors), strict=True)
        return torch.stack([(student - teacher).square().sum((1, 2, 3)) for student, teacher in pairs]).sum(0)


def _relations(vectors: list[Tensor]) -> list[Tensor]:
    """R (N, C, C', k) between the vectors (N, C, k) of each map and the next."""
    return [(-(here[:, :, None] - there[:, None]).square() / 8).exp() for here, there in pairwise(vectors)]


def _leading(m: Tensor, start: Tensor | None, k: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Leading vectors (N, C, k) and singular values (N, k) of maps scaled to norm 1, by power iteration and deflation.

    Args:
        m: (N, C, H, W).
        start: (N, C, k) start of the iterations; default: the channel with most energy.
        k, iterations: at least 1.
    """
    flat = F.normalize(m.flatten(1)).view(*m.shape[:2], -1)
    over_positions = flat.shape[1] > flat.shape[2]  # iterate on the smaller of the two Gram matrices
    vectors, values = [], []
    for place in range(k):
        if start is None:
            largest = flat.square().sum(2).argmax(1)[:, None, None]
            vector = flat @ flat.gather(1, largest.expand(-1, 1, flat.shape[2])).mT
        else:
            vector = start[:, :, place, None]
        if over_positions:
            vector = flat.mT @ vector
        gram = flat.mT @ flat if over_positions else flat @ flat.mT
        for _ in range(iterations):
            # eps: below a millionth of the energy the vector is rounding error, which should fade, not be magnified
            vector = F.normalize(gram @ vector, dim=1, eps=1e-6)
        if over_positions:
            vector = F.normalize(flat @ vector, dim=1, eps=1e-3)
        projected = vector.mT @ flat
        vectors.append(vector[:, :, 0])
        values.append(projected.square().sum((1, 2)).sqrt())
        if place + 1 < k:
            flat = flat - vector @ projected
    return torch.stack(vectors, 2), torch.stack(values, 1)
