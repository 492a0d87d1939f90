"""Correlation congruence: match a Gaussian kernel between the images of a batch."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from gankd.config import require
from gankd.losses.distillation.spec import loss


def kernel(embedding: Tensor, gamma: float, order: int) -> Tensor:
    """(N, N) Taylor expansion of exp(-gamma |x - y|^2) in x.y between unit rows of (N, F), without its constant.

        exp(-2 gamma) sum_{p=1}^{order} (2 gamma)^p / p! (x.y)^p

    The term p = 0 is equal for all pairs and networks and cancels in their difference.
    """
    unit = F.normalize(embedding, dim=1)
    cosine = unit @ unit.mT
    terms = [(2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(1, order + 1)]
    return math.exp(-2 * gamma) * sum(terms[1:], terms[0])


@loss("CC", paper="Peng et al., ICCV 2019", weight=100, own_weight=True)
class CC(nn.Module):
    """Match a Gaussian kernel between the embeddings of the batch's images.

        row i: 1/N sum_j (k(f(s_i), f(s_j)) - k(g(t_i), g(t_j)))^2,  k = `kernel`, f, g linear to `dim`

    This is the version of the paper [1], section 3, with gamma = 0.4 and P = 2. The benchmark in the code of CRD,
    with weight 0.02, runs another one, sum_f |s_i - t_i|_f |s_{i+1} - t_{i+1}|_f of neighbouring rows, whose values
    are far larger; the weight 100 makes this version comparable to cross-entropy. As there, f and g train with the
    student.

    Args:
        student_embedding: (N, F).
        teacher_embedding: (N, F'), without gradient.
        gamma: inverse squared width of the kernel, > 0.
        order: highest power P of the expansion, >= 1.
        dim: common width.

    [1] Peng, Jin, Liu, Zhou, Wu, Liu, Li, Zhang. Correlation congruence for knowledge distillation. ICCV 2019.
    """

    def __init__(
        self,
        student_embedding: Tensor,
        teacher_embedding: Tensor,
        *,
        gamma: float = 0.4,
        order: int = 2,
        dim: int = 128,
    ) -> None:
        super().__init__()
        require(gamma > 0, f"CC: gamma must be positive, got {gamma}")
        require(order >= 1, f"CC: order must be at least 1, got {order}")
        require(dim >= 1, f"CC: dim must be at least 1, got {dim}")
        self.gamma, self.order = gamma, order
        self.student = nn.Linear(student_embedding.shape[1], dim)
        self.teacher = nn.Linear(teacher_embedding.shape[1], dim)

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        student = kernel(self.student(student_embedding), self.gamma, self.order)
        teacher = kernel(self.teacher(teacher_embedding), self.gamma, self.order)
        return (student - teacher).square().mean(1)
