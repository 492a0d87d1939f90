"""Activation boundaries: match which neurons of the teacher fire, not how strongly."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.config import require
from gankd.losses.distillation.maps import project, same_size
from gankd.losses.distillation.spec import LossModule, loss


@loss("AB", paper="Heo et al., AAAI 2019")
class AB(LossModule):
    """A first phase in which the student's neurons learn to fire where the teacher's do.

        3/1000 sum over pairs l = 1 .. L of 2^(l - L) sum over neurons of  max(0, m - s)^2  where t > 0,
                                                                           max(0, m + s)^2  elsewhere

    s is the student's pre-activation after a 1x1 convolution with batch normalisation, t the teacher's, of which
    only the sign counts. The loss is 0 once each s is on the right side by the margin. Sums are not divided by the
    number of neurons, as published. Departure from [1]: the larger map is averaged down to the size of the smaller,
    so the sign of t is the sign of a mean.

    Args:
        student_preactivations, teacher_preactivations: paired maps (N, C, H, W) before their ReLU.
        margin: m, in units of normalised pre-activations.
        first: share of the updates, at the start, that minimise only this loss; afterwards it is switched off.
            With 0 it is added to the other losses throughout.

    Returns:
        (N,) one value per row.

    [1] Heo, Lee, Yun, Choi. Knowledge transfer via distillation of activation boundaries formed by hidden neurons
        (AAAI 2019).
    """

    def __init__(
        self,
        student_preactivations: list[Tensor],
        teacher_preactivations: list[Tensor],
        *,
        margin: float = 1.0,
        first: float = 0.125,
    ) -> None:
        super().__init__()
        require(margin > 0, f"AB: margin must be positive, got {margin}")
        require(0 <= first < 1, f"AB: first must lie in [0, 1), got {first}")
        self.margin, self.first = margin, first
        self.connectors = nn.ModuleList(
            project(student.shape[1], teacher.shape[1])
            for student, teacher in zip(student_preactivations, teacher_preactivations, strict=True)
        )

    def forward(self, student_preactivations: list[Tensor], teacher_preactivations: list[Tensor]) -> Tensor:
        losses = []
        for *pair, connector in zip(student_preactivations, teacher_preactivations, self.connectors, strict=True):
            student, teacher = same_size(*pair)
            student = connector(student)
            sign = 2 * (teacher > 0).to(student.dtype) - 1
            losses.append(F.relu(self.margin - sign * student).square().sum((1, 2, 3)))
        weights = [0.003 * 2.0 ** (place + 1 - len(losses)) for place in range(len(losses))]
        return torch.stack([weight * value for weight, value in zip(weights, losses, strict=True)]).sum(0)
