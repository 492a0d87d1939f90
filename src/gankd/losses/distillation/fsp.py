"""Flow of solution procedure: match the products of each stage's channels with those of the next stage."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from gankd.config import require
from gankd.errors import ModelError
from gankd.losses.distillation.maps import project, same_size
from gankd.losses.distillation.spec import LossModule, loss


@loss("FSP", paper="Yim et al., CVPR 2017", weight=1)
class FSP(LossModule):
    """A first phase in which the flow between the student's stages is matched to the teacher's.

        sum over consecutive maps (F, F') of mean over channel pairs of (G_S - G_T)^2,
        G[c, c'] = mean over positions of F[c] F'[c']

    Departures from [1], which needs equal widths: where they differ, 1x1 convolutions with batch normalisation bring
    the student's maps to the teacher's widths, and these may learn part of the flow in the student's place. The larger
    map of two stages is pooled by mean instead of maximum. The sum over channel pairs is a mean, as in later
    comparisons. Stages are paired without the stem, which RepDistiller has, too: student.student_taps and
    student.teacher_taps can name it.

    Args:
        student_features, teacher_features: at least 2 paired maps (N, C, H, W); sizes need not agree.
        first: share of the updates, at the start, that minimise only this loss, as published; afterwards it is
            switched off. With 0 it is added to the other losses throughout.

    Returns:
        (N,) one value per row, independent of where in the image something is.

    Raises:
        ModelError: there is only one pair.

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
    """Adapters to the teacher's widths for at least two maps; the identity where widths are equal."""
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
