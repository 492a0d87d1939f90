"""Losses that read only the labels; each can replace the task's own label loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.config import require
from gankd.losses.distillation.kd import over_outputs, scaled
from gankd.losses.distillation.spec import loss


@loss("Label", is_label_loss=True)
def label(label_loss: Tensor) -> Tensor:
    """The task's own loss on the labels: cross-entropy, or squared error on the [0, 1] scale.

    Args:
        label_loss: (N,), already computed by the training loop.

    Returns:
        (N,), `label_loss` unchanged.
    """
    return label_loss


@loss("CE", is_label_loss=True)
def cross_entropy(student_logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy to the label probabilities.

        -sum_k targets_k ln softmax(student)_k

    Args:
        student_logits: (N, K).
        targets: (N, K) probabilities; one-hot for plain classes.

    Returns:
        (N,) in nats.
    """
    return label_smoothing(student_logits, targets, epsilon=0.0)


@loss("MSE", is_label_loss=True)
def squared_error(student_values: Tensor, targets: Tensor) -> Tensor:
    """Squared error to the labels on the [0, 1] scale.

    Args:
        student_values: (N,), or (N, n) of n values, over which the mean is taken.
        targets: the same.

    Returns:
        (N,).
    """
    return over_outputs((student_values - targets).square())


@loss("LS", paper="Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, CVPR 2016", is_label_loss=True)
def label_smoothing(student_logits: Tensor, targets: Tensor, *, epsilon: float = 0.1) -> Tensor:
    """Label smoothing: cross-entropy to labels mixed with the uniform distribution.

        -sum_k ((1 - epsilon) targets_k + epsilon / K) ln softmax(student)_k

    The share epsilon is spread over all K classes, including the labelled one [1]. The loss is least at the mixed
    labels, where it is their entropy.

    Args:
        student_logits: (N, K).
        targets: (N, K) probabilities; one-hot for plain classes.
        epsilon: share of the uniform distribution, in [0, 1].

    Returns:
        (N,) in nats.

    Raises:
        ConfigError: epsilon is outside [0, 1].

    [1] Szegedy, Vanhoucke, Ioffe, Shlens, Wojna. Rethinking the Inception architecture for computer vision.
        CVPR 2016, section 7.
    """
    require(0 <= epsilon <= 1, f"LS: epsilon must lie in [0, 1], got {epsilon}")
    logits = scaled(student_logits, 1.0)
    mixed = torch.lerp(targets.to(logits.dtype), torch.full_like(logits, 1 / logits.shape[1]), epsilon)
    return F.cross_entropy(logits, mixed, reduction="none")
