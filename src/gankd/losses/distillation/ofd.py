"""Overhaul of feature distillation: match pre-activations, but only loosely where the teacher suppresses them."""

import torch
from torch import Tensor, nn

from gankd.losses.distillation.maps import project, same_size
from gankd.losses.distillation.spec import loss


@loss("OFD", paper="Heo et al., ICCV 2019", weight=0.001)
class OFD(nn.Module):
    """Match pre-activations where the teacher responds, and keep them low where it does not.

        sum over pairs l = 1 .. L of 2^(l - L) sum over neurons of  0            where s <= t <= 0,
                                                                    (s - t)^2    elsewhere

    t = max(teacher's pre-activation, m_c) with the margin m_c < 0: the mean of channel c where it is negative; s is
    the student's pre-activation after a 1x1 convolution with batch normalisation. Sums are not divided by the number
    of neurons, as published.

    Departures from [1]: m_c is the mean over all batches so far. It needs neither batch normalisation before the ReLU
    (whose parameters give m_c in [1]) nor a first pass over the data, and is accurate after a few batches. The larger
    map is averaged down to the size of the smaller.

    Args:
        student_preactivations, teacher_preactivations: paired maps (N, C, H, W) before their ReLU.

    Returns:
        (N,) one value per row.

    [1] Heo, Kim, Yun, Park, Kwak, Choi. A comprehensive overhaul of feature distillation (ICCV 2019), section 3.
    """

    def __init__(self, student_preactivations: list[Tensor], teacher_preactivations: list[Tensor]) -> None:
        super().__init__()
        self.connectors, self.margins = nn.ModuleList(), nn.ModuleList()
        for student, teacher in zip(student_preactivations, teacher_preactivations, strict=True):
            self.connectors.append(project(student.shape[1], teacher.shape[1]))
            self.margins.append(NegativeMean(teacher.shape[1]))

    def forward(self, student_preactivations: list[Tensor], teacher_preactivations: list[Tensor]) -> Tensor:
        losses = []
        for place, pair in enumerate(zip(student_preactivations, teacher_preactivations, strict=True)):
            student, teacher = same_size(*pair)
            student = self.connectors[place](student)
            target = torch.maximum(teacher, self.margins[place](teacher))
            gap = (student - target).masked_fill((student <= target) & (target <= 0), 0)
            losses.append(2.0 ** (place + 1 - len(self.margins)) * gap.square().sum((1, 2, 3)))
        return torch.stack(losses).sum(0)


class NegativeMean(nn.Module):
    """Mean of each channel where it is negative, over all batches seen in training; 0 before the first one."""

    negative: Tensor
    share: Tensor
    batches: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("negative", torch.zeros(channels, 1, 1))
        self.register_buffer("share", torch.zeros(channels, 1, 1))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, m: Tensor) -> Tensor:
        if self.training:
            self.batches += 1
            # Running means, because sums would outgrow float32.
            self.negative += (m.clamp_max(0).mean((0, 2, 3))[:, None, None] - self.negative) / self.batches
            self.share += ((m < 0).to(m.dtype).mean((0, 2, 3))[:, None, None] - self.share) / self.batches
        return self.negative / self.share.clamp_min(torch.finfo(m.dtype).tiny)
