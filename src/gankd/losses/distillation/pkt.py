"""Probabilistic knowledge transfer: match the probability that an image picks another as its neighbour."""

import torch.nn.functional as F
from torch import Tensor

from gankd.losses.distillation.spec import loss

_EPS = 1e-7
"""Keeps the logarithm finite where two embeddings point in opposite directions (as in the authors' code)."""


@loss("PKT", paper="Passalis, Tefas, ECCV 2018", weight=30_000)
def pkt(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Match neighbourhoods in embedding space as probabilities.

        row i: 1/N sum_j t_ij ln(t_ij / s_ij),  s_ij = (1 + cos(s_i, s_j)) / sum_k (1 + cos(s_i, s_k)), t likewise

    Zero where all cosines agree, whatever the scale or rotation. As in the authors' code, and unlike [1], an image
    counts as its own neighbour and the sum over j is a mean, to which the published weight belongs.

    Args:
        student_embedding: (N, F).
        teacher_embedding: (N, F'), without gradient.

    Returns:
        (N,), per image a Kullback-Leibler divergence divided by N, in nats.

    [1] Passalis, Tefas. Learning deep representations with probabilistic knowledge transfer. ECCV 2018, section 3.
    """
    student, teacher = _neighbours(student_embedding), _neighbours(teacher_embedding)
    return (teacher * ((teacher + _EPS).log() - (student + _EPS).log())).mean(1)


def _neighbours(embedding: Tensor) -> Tensor:
    unit = F.normalize(embedding, dim=1)
    similarity = 1 + unit @ unit.mT
    return similarity / similarity.sum(1, keepdim=True)
