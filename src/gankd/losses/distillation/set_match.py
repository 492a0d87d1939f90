"""Match sets of outputs class by class: their spread matters, which image got which target does not."""

import torch
from torch import Tensor

from gankd.config import require
from gankd.losses.distillation.kd import scaled
from gankd.losses.distillation.spec import loss


@loss("SetMatch", paper="Székely, Rizzo, JSPI 2013", own_weight=True)
def set_match(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, T: float = 4.0) -> Tensor:
    """Energy distance between the student's and the teacher's softened outputs of each class.

        T (2 mean_ij |p_i - q_j| - mean_{i != j} |p_i - p_j| - mean_{i != j} |q_i - q_j|),    i, j of one class

    p and q are the student's and the teacher's softmax at T, |.| the Euclidean norm; each class is weighted by its
    number of rows, and classes with a single row are left out. In expectation the loss is 0 if the two sets have the
    same distribution and positive otherwise [1]. It therefore teaches how outputs spread about their class mean, which
    a loss that is linear in its target, such as KD, cannot do if targets depend only on the label (SetMatch@virtual).

    The means of i != j leave out i = j. With it (a V-statistic) the distance is never negative, but too large by
    mean |p_i - p_j| / n for n rows, which would pull the few rows of a class together; without it (a U-statistic) it is
    unbiased, and negative where two small sets agree better than chance. Batches should hold several rows per class,
    8 or more if possible. The factor T keeps the size of the gradient as T grows, as T^2 does for KD. No paper for the
    distillation, and the weight of 1 is a guess.

    Args:
        student_logits: (N, K).
        teacher_logits: (N, K), without gradient.
        labels: (N,) classes.
        T: temperature of both.

    Returns:
        (N,), whose mean is the distance; a single row means little.

    Raises:
        ConfigError: T is not positive.

    [1] Székely, Rizzo. Energy statistics: a class of statistics based on distances. J. Statistical Planning and
        Inference 143 (2013), section 2.
    """
    require(T > 0, f"SetMatch: T must be positive, got {T}")
    p, q = scaled(student_logits, T).softmax(1), scaled(teacher_logits, T).softmax(1)
    same = labels[:, None] == labels
    count = same.sum(1)
    others = (count - 1).clamp_min(1)
    between = (_distances(p, q) * same).sum(1) / count
    within = ((_distances(p, p) + _distances(q, q)) * same).sum(1) / others
    return T * (2 * between - within) * (count > 1)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # From differences, not from a Gram matrix: close rows need full precision. No gradient at distance 0.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
