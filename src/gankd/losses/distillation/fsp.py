"""Flow between stages: how channels of one stage go together with those of the next."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from gankd.config import require
from gankd.errors import ModelError
from gankd.losses.distillation.maps import project, same_size
from gankd.losses.distillation.spec import loss


@loss("FSP", paper="Yim et al., CVPR 2017", weight=1)
class FSP(nn.Module):
    """A first phase in which stages come to follow one another as the teacher's do.

        sum over consecutive maps (F, F') of mean over channel pairs of (G_S - G_T)^2,
        G[c, c'] = mean over positions of F[c] F'[c']

    Departures from [1]. It asks for equal widths: here 1x1 convolutions with batch normalisation bring the student's
    maps to the teacher's widths where these differ, so that in part they may learn the flow instead of the student.
    It pools the larger map of two stages by maximum, here by mean; its sum over channel pairs is a mean here, as in
    later comparisons.

    Args:
        student_features, teacher_features: at least 2 paired maps (N, C, H, W); sizes need not agree.
        first: share of the updates, at the beginning, that minimises this loss alone, as published; afterwards it
            takes no part. With 0 it accompanies the other losses throughout.

    Returns:
        (N,) one value per row; blind to where in the image something is.

    Raises:
        ModelError: there is one pair only.

    [1] Yim, Joo, Bae, Kim. A gift from knowledge distillation (CVPR 2017), eq. 1 and 2.
    """

    def __init__(self, student_features: list[Tensor], teacher_features: list[Tensor], *, first: float = 0.125) -> None:
        super().__init__()
        require(0 <= first < 1, f"FSP: first must lie in [0, 1), got {first}")
        self.first = first
        self.adapters = to_teacher_widths("FSP", student_features, teacher_features)

    def forward(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
        adapted = [adapter(m) for adapter, m in zip(self.adapters, student_features, strict=True)]
        pairs = zip(_flows(adapted), _flows(teacher_features), strict=True)
        return torch.stack([(student - teacher).square().mean((1, 2)) for student, teacher in pairs]).sum(0)


def to_teacher_widths(name: str, student: list[Tensor], teacher: list[Tensor]) -> nn.ModuleList:
    """For each of at least two maps what brings it to the teacher's width: nothing where widths are equal."""
    if len(student) < 2:
        raise ModelError(
            f"{name} needs at least 2 pairs of feature maps, got {len(student)}; "
            "name more with student.student_taps and student.teacher_taps"
        )
    return nn.ModuleList(
        nn.Identity() if own.shape[1] == other.shape[1] else project(own.shape[1], other.shape[1])
        for own, other in zip(student, teacher, strict=True)
    )


def _flows(maps: list[Tensor]) -> list[Tensor]:
    """FSP matrices (N, C, C') of each map and the next."""
    flows = []
    for pair in pairwise(maps):
        here, there = (m.flatten(2) for m in same_size(*pair))
        flows.append(here @ there.mT / here.shape[2])
    return flows
