"""Match the correlation with the teacher's predictions instead of their exact values."""

import torch
from torch import Tensor

from gankd.config import require
from gankd.losses.distillation.kd import scaled
from gankd.losses.distillation.spec import loss


@loss("DIST", paper="Huang, You, Wang, Qian, Xu, NeurIPS 2022", weight=2.0)
def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    T: float = 1.0,
    standardise: bool = False,
) -> Tensor:
    """Pearson correlation with the teacher's predictions, image by image and class by class.

        T^2 (beta mean_i (1 - r(student_i., teacher_i.)) + gamma mean_k (1 - r(student_.k, teacher_.k)))

    with r Pearson's correlation of probabilities softmax(logits / T): of an image over the classes (inter-class
    relation), and of a class over the batch (intra-class relation). Each part lies in [0, 2] and is 0 where one
    network's probabilities are, image by image and class by class, a rising linear function of the other's.

    Published for ImageNet: weight 2, T = 1; CIFAR-100: T = 4. The factor T^2 is in the authors' code and not in the
    paper. A constant row or column (to 1e-5 of its size) has no correlation and no gradient.

    Args:
        student_logits: (N, K).
        teacher_logits: (N, K).
        beta, gamma: weights of the two relations, at least 0.
        T: temperature.
        standardise: z-scores of the logits before softmax (LSKD; not published for this loss).

    Returns:
        A scalar, because classes are compared over the whole batch.

    Raises:
        ConfigError: a setting is out of range.

    [1] Huang, You, Wang, Qian, Xu. Knowledge distillation from a stronger teacher. NeurIPS 2022, eq. 8 and 9.
    """
    require(T > 0, f"DIST: T must be positive, got {T}")
    require(beta >= 0 and gamma >= 0, f"DIST: beta and gamma must be at least 0, got {beta} and {gamma}")
    student = scaled(student_logits, T, standardise).softmax(1)
    teacher = scaled(teacher_logits, T, standardise).softmax(1)
    inter = 1 - pearson(student, teacher).mean()
    intra = 1 - pearson(student.T, teacher.T).mean()
    return T**2 * (beta * inter + gamma * intra)


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """(N,) correlation of the rows of two (N, M); 0, without gradient, where one of the two is constant."""
    (a, varies), (b, also) = _standardised(x), _standardised(y)
    return torch.where(varies & also, (a * b).mean(1), 0)


def _standardised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of (N, M) scaled to mean 0 and spread 1, and a mask of those that are not constant."""
    unit, mean, inverse_spread = torch.native_layer_norm(x, x.shape[1:], None, None, 1e-30)
    # In a constant row only rounding errors are left, which the correlation would magnify to full size.
    return unit, (1e-5 * mean * inverse_spread).abs().squeeze(1) < 1
