"""Weights of classes in the label loss, for data in which some classes are rare."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from gankd.config import require
from gankd.tasks import Task

ClassWeights = Literal["none", "balanced"] | tuple[float, ...]


def weights_of_classes(
    how: ClassWeights, task: Task, sources: Sequence[tuple[Tensor, float]], where: str = ""
) -> Tensor | None:
    """Weight of each class (K,), or None where all images weigh the same.

        balanced    w_k = 1 / (K p_k), where p_k is the share of class k among the images of a batch

    so that every class has the same part of the label loss, and an image weighs 1 on average. p_k counts every source
    by its share of a batch: generated images, which are balanced already, make up for rare classes of the real ones.

    Args:
        how: none, balanced, or a weight for each class.
        task: of the labels.
        sources: labels (N,), or class probabilities (N, K), and the share of a batch that they make up.
        where: group of settings, for messages.

    Raises:
        ConfigError: labels are values, or there is not a weight for each class.
    """
    if how == "none":
        return None
    count = len(task.label_names)
    require(count > 0, f"{where}class_weights is for classes, and the labels are values; leave it out")
    if how != "balanced":
        require(
            len(how) == count, f"{where}class_weights must be none, balanced or {count} numbers, got {len(how)} numbers"
        )
        return torch.tensor(how, device=sources[0][0].device)
    share = torch.stack([part * task.targets(labels).mean(0) for labels, part in sources]).sum(0)
    present = share > 0
    return torch.where(present, 1 / (present.sum() * share.clamp_min(1e-12)), 0.0)


def weights_of_images(weights: Tensor, task: Task, labels: Tensor) -> Tensor:
    """Weight (N,) of images with these labels: that of their class, or the mean over probabilities (N, K).

    A whole image is weighted, so that the optimum for an image stays its label, also where that is soft or mixed.
    """
    return task.targets(labels) @ weights
