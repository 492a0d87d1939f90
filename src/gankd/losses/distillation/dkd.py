"""Soft targets in two parts: the teacher's confidence in the label, and its probabilities of all other classes."""

import torch
from torch import Tensor

from gankd.config import require
from gankd.losses.distillation.kd import kl, scaled
from gankd.losses.distillation.spec import loss


@loss("DKD", paper="Zhao, Cui, Song, Qiu, Liang, CVPR 2022")
def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    progress: float,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    T: float = 4.0,
    warmup: float = 20 / 240,
    standardise: bool = False,
) -> Tensor:
    """Decoupled KD: target and non-target classes in separate terms, each with its own weight.

        T^2 (alpha TCKD + beta NCKD) min(progress / warmup, 1)
        TCKD = KL of (p_label, 1 - p_label) of the two networks
        NCKD = KL of the probabilities of the other classes, rescaled to sum 1
        p = softmax(logits / T)

    KD is TCKD + (1 - teacher's p_label) NCKD: beta replaces a factor that vanishes for a confident teacher [1]. LSKD
    multiplies alpha and beta by 9; its T = 2 is never used by its code: 9*DKD(standardise=True).

    Args:
        student_logits: (N, K).
        teacher_logits: (N, K).
        labels: (N,) classes.
        progress: share of the updates done.
        alpha, beta: weights of the two parts, at least 0; beta is published by pair, for CIFAR-100 2 (ResNet-56
            and 110), 6 (VGG-13, and WRN -> WRN) or 8 (others), for ImageNet 0.5.
        T: temperature; 1 for ImageNet.
        warmup: share of the updates over which the loss grows linearly to its full size (20 of 240 epochs), update
            by update where the authors count epochs; 0: no warm-up.
        standardise: compare z-scores of the logits (LSKD).

    Returns:
        (N,) in nats.

    Raises:
        ConfigError: a setting is out of range.

    [1] Zhao, Cui, Song, Qiu, Liang. Decoupled knowledge distillation. CVPR 2022, eq. 5 to 7, and the supplement for
        settings.
    """
    require(T > 0, f"DKD: T must be positive, got {T}")
    require(alpha >= 0 and beta >= 0, f"DKD: alpha and beta must be at least 0, got {alpha} and {beta}")
    require(0 <= warmup <= 1, f"DKD: warmup must lie in [0, 1], got {warmup}")
    student, student_others = _apart(scaled(student_logits, T, standardise), labels)
    teacher, teacher_others = _apart(scaled(teacher_logits, T, standardise), labels)
    tckd, nckd = kl(teacher, student), kl(teacher_others, student_others)
    share = min(progress / warmup, 1.0) if warmup > 0 else 1.0
    return share * T**2 * (alpha * tckd + beta * nckd)


def _apart(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 2) logits of the label and of all other classes together, and (N, K - 1) logits of the others."""
    num_classes = logits.shape[1]
    steps = torch.arange(1, num_classes, device=logits.device)
    others = logits.gather(1, (labels[:, None] + steps) % num_classes)
    target = logits.gather(1, labels[:, None])
    return torch.cat([target, others.logsumexp(1, keepdim=True)], 1), others
