"""Soft targets with a temperature that is trained against the student."""

import math

import torch
from torch import Tensor, nn

from gankd.config import require
from gankd.losses.distillation.kd import kd_loss
from gankd.losses.distillation.spec import loss


@loss("CTKD", paper="Li, Li, Yang, Zhao, Song, Luo, Li, Yang, AAAI 2023", own_weight=True)
class Ctkd(nn.Module):
    """Curriculum temperature: KD with a temperature trained against the student, gently at first.

        T^2 KL(softmax(teacher / T) || softmax(student / T)),   T = start + width sigmoid(theta)

    theta, one number for all images, starts at 1 (T = 15.6). Its gradient is multiplied by -lambda, so it increases
    the loss that the student decreases. lambda is the curriculum, from 0 to 1 along half a cosine:

        lambda = (1 - cos(pi min(progress / warmup, 1))) / 2

    Published as 0.1*CE + 0.9*CTKD, with `standardise` (LSKD) as 0.1*CE + 9*CTKD. Departures from [1]: lambda grows
    with each update instead of each epoch, and the variant with a temperature per image is left out.

    Args:
        start: least temperature, > 0.
        width: length of the range of temperatures above `start`, >= 0.
        warmup: share of the updates until lambda is 1 (10 of 240 epochs); 0: lambda is 1 from the start.
        standardise: compare z-scores of the logits (LSKD).

    Raises:
        ConfigError: a setting is out of range.

    [1] Li, Li, Yang, Zhao, Song, Luo, Li, Yang. Curriculum temperature for knowledge distillation. AAAI 2023,
        section 3.
    """

    def __init__(
        self, *, start: float = 1.0, width: float = 20.0, warmup: float = 10 / 240, standardise: bool = False
    ) -> None:
        super().__init__()
        require(start > 0, f"CTKD: start must be positive, got {start}")
        require(width >= 0, f"CTKD: width must be at least 0, got {width}")
        require(0 <= warmup <= 1, f"CTKD: warmup must lie in [0, 1], got {warmup}")
        self.start, self.width, self.warmup, self.standardise = start, width, warmup, standardise
        self.theta = nn.Parameter(torch.ones(()))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, progress: float) -> Tensor:
        done = min(progress / self.warmup, 1.0) if self.warmup > 0 else 1.0
        strength = (1 - math.cos(math.pi * done)) / 2
        # Value of theta, gradient times -strength.
        theta = (1 + strength) * self.theta.detach() - strength * self.theta
        temperature = self.start + self.width * theta.sigmoid()
        return kd_loss(student_logits, teacher_logits, temperature, self.standardise)
