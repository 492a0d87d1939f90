"""Soft targets at several temperatures, for images, pairs of images and pairs of classes."""

import torch
from torch import Tensor

from gankd.config import require
from gankd.losses.distillation.kd import kd_loss, scaled
from gankd.losses.distillation.spec import loss


@loss("MLKD", paper="Jin, Wang, Lin, CVPR 2023", own_weight=True)
def mlkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0),
    standardise: bool = False,
) -> Tensor:
    """Multi-level logits: predictions, their similarity between images, and between classes.

        sum_T  mean_i T^2 KL(teacher_i || student_i)        instance
             + |P_t P_t' - P_s P_s'|^2 / N                  batch: (N, N) similarity of images
             + |P_t' P_t - P_s' P_s|^2 / K                  class: (K, K) similarity of classes
        P = softmax(logits / T), (N, K); |.| the Frobenius norm

    Left out, because they belong to the training loop or are only in the authors' code: the second, strongly augmented
    view of each image, 480 epochs instead of 240, and masks of the images and classes on which the teacher is least
    confident (the code multiplies whole sums by them, which halves those terms and selects nothing). The code uses 0.1
    times the cross-entropy of each view plus 0.9 times this loss; LSKD's uses 9 in place of 0.9, with `standardise`,
    which affects only the instance level, as here.

    Args:
        student_logits: (N, K).
        teacher_logits: (N, K).
        temperatures: one or more (prediction augmentation of [1]).
        standardise: compare z-scores of the logits at the instance level (LSKD).

    Returns:
        A scalar, because images and classes are compared in pairs.

    Raises:
        ConfigError: there is no temperature, or one is not positive.

    [1] Jin, Wang, Lin. Multi-level logit distillation. CVPR 2023, section 3.
    """
    require(
        len(temperatures) > 0 and min(temperatures) > 0,
        f"MLKD: temperatures must be one or more positive numbers, got {temperatures}",
    )
    instance = torch.stack([kd_loss(student_logits, teacher_logits, T, standardise) for T in temperatures]).sum(0)
    student, teacher = (
        torch.stack([scaled(logits, T) for T in temperatures]).softmax(2) for logits in (student_logits, teacher_logits)
    )
    batch = (teacher @ teacher.mT - student @ student.mT).square().sum() / student.shape[1]
    between_classes = (teacher.mT @ teacher - student.mT @ student).square().sum() / student.shape[2]
    return instance.mean() + batch + between_classes
