"""Match a teacher's values, or the labels as closely as the teacher does; all on the [0, 1] label scale."""

import torch
from torch import Tensor

from gankd.config import require
from gankd.losses.distillation.kd import over_outputs
from gankd.losses.distillation.spec import loss


@loss("L1", own_weight=True)
def absolute_distance(student_values: Tensor, teacher_values: Tensor) -> Tensor:
    """Absolute distance to the teacher's values, robust to its outliers.

        |student - teacher|, the mean over the outputs

    Args:
        student_values: (N,), or (N, n) of n values.
        teacher_values: the same.

    Returns:
        (N,).
    """
    return over_outputs((student_values - teacher_values).abs())


@loss("L2", own_weight=True)
def squared_distance(student_values: Tensor, teacher_values: Tensor) -> Tensor:
    """Squared distance to the teacher's values; KD for regression.

        (student - teacher)^2, the mean over the outputs

    Args:
        student_values: (N,), or (N, n) of n values.
        teacher_values: the same.

    Returns:
        (N,).
    """
    return over_outputs((student_values - teacher_values).square())


@loss("TeacherBounded", paper="Chen, Choi, Yu, Han, Chandraker, NeurIPS 2017", weight=0.5)
def teacher_bounded(student_values: Tensor, teacher_values: Tensor, targets: Tensor, *, margin: float = 0.0) -> Tensor:
    """Additional label error for images on which the student is not better than the teacher.

        (student - target)^2   if (student - target)^2 + margin > (teacher - target)^2,   otherwise 0

    The teacher is a bound to reach, not a value to copy, so its errors are not taught. With a margin the student has
    to be better than the teacher by that much before the loss is 0. Published with the weight 0.5 in addition to the
    label loss; the paper gives no margin. Squares of several values are means over them, as the paper compares whole
    vectors.

    Args:
        student_values: (N,), or (N, n) of n values.
        teacher_values: the same.
        targets: labels, the same.
        margin: in squared label ranges, at least 0.

    Returns:
        (N,).

    Raises:
        ConfigError: margin is below 0.

    [1] Chen, Choi, Yu, Han, Chandraker. Learning efficient object detection models with knowledge distillation.
        NeurIPS 2017, section 3.3.
    """
    require(margin >= 0, f"TeacherBounded: margin must be at least 0, got {margin}")
    own, bound = (over_outputs((values - targets).square()) for values in (student_values, teacher_values))
    return torch.where(own + margin > bound, own, 0)
