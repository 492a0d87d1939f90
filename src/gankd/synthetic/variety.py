"""T.stddev: one number for how soft and varied a teacher's outputs for a pool of images are."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gankd.seeds import rng
from gankd.synthetic.pool import SyntheticSet
from gankd.tasks import Task

GROUPS, LARGEST = 20, 640
"""Number of groups of images, and most images of a group."""


def teacher_stddev(task: Task, outputs: Tensor, size: int) -> float:
    """Spread of the teacher's mean output over groups of images; lower promises a better student at equal updates.

        mean over k of std over g of u_gk,   u_g = mean of p_i over the `size` images of group g

    p_i are the teacher's probabilities at temperature 1 (for values: the twentieth of the label range that the value
    is in, which [1] did not try). The spread is about sqrt(var_i p_ik / size), so confident outputs score badly.

    Args:
        task: of the outputs.
        outputs: (G * size, K) or (G * size,) outputs of the teacher, group by group, G >= 2.
        size: images per group; only numbers of one size can be compared.

    [1] Wang, Lohit, Jones, Fu. What makes a "good" data augmentation in knowledge distillation: a statistical
        perspective. NeurIPS 2022.
    """
    shares = task.shares(outputs).double()  # (G * size, K)
    return shares.view(-1, size, shares.shape[1]).mean(1).std(0).mean().item()


def teacher_stddevs(pool: SyntheticSet, steps: Mapping[str, Tensor], seed: int) -> dict[str, float | None]:
    """`teacher_stddev` of the images that are left after each step, with one size of groups for all.

    Args:
        pool: images with the teacher's outputs.
        steps: (M,) bool per step.
        seed: of the groups.

    Returns:
        A number per step; None if one of them leaves fewer than 20 images.
    """
    left = {name: mask.nonzero()[:, 0] for name, mask in steps.items()}
    size = min(LARGEST, min(map(len, left.values())) // GROUPS)
    if size == 0:
        return dict.fromkeys(left)
    found: dict[str, float | None] = {}
    for name, index in left.items():
        order = torch.randperm(len(index), generator=rng(seed, "teacher stddev", name))
        outputs = pool.teacher_outputs(index[order[: GROUPS * size]])
        found[name] = teacher_stddev(pool.task, outputs, size)
    return found
