"""Variational information distillation: maximise the likelihood of the teacher's maps given the student's."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.config import require
from gankd.losses.distillation.maps import keep_layout, same_size
from gankd.losses.distillation.spec import loss


@loss("VID", paper="Ahn et al., CVPR 2019")
class VID(nn.Module):
    """Negative log-likelihood of the teacher's maps under Gaussians predicted from the student's.

        sum over pairs of mean over channels c and positions of 1/2 ((mu_c(S) - T_c)^2 / v_c + log v_c)

    mu is three 1x1 convolutions with ReLUs between; v_c = softplus(alpha_c) + eps is learnt per channel. Least at
    v_c = mean squared error of channel c; may be negative. The larger map is averaged down to the size of the smaller.

    Args:
        student_features, teacher_features: paired maps (N, C, H, W).
        variance: initial v_c, in squared units of the teacher's maps.
        eps: least variance.

    Returns:
        (N,) one value per row.

    [1] Ahn, Hu, Damianou, Lawrence, Dai. Variational information distillation for knowledge transfer (CVPR 2019),
        section 3.
    """

    def __init__(
        self,
        student_features: list[Tensor],
        teacher_features: list[Tensor],
        *,
        variance: float = 5.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        require(0 < eps < variance, f"VID: eps must lie between 0 and variance {variance}, got {eps}")
        self.eps = eps
        self.means, self.alphas = nn.ModuleList(), nn.ParameterList()
        for student, teacher in zip(student_features, teacher_features, strict=True):
            channels = teacher.shape[1]
            self.means.append(
                nn.Sequential(
                    nn.Conv2d(student.shape[1], channels, 1, bias=False),
                    nn.ReLU(),
                    nn.Conv2d(channels, channels, 1, bias=False),
                    nn.ReLU(),
                    nn.Conv2d(channels, channels, 1, bias=False),
                )
            )
            # softplus inverted, without overflow where the variance is large
            self.alphas.append(torch.full((channels, 1, 1), variance - eps + math.log(-math.expm1(eps - variance))))

    def forward(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
        losses = []
        for *pair, mean, alpha in zip(student_features, teacher_features, self.means, self.alphas, strict=True):
            student, teacher = same_size(*pair)
            variance = F.softplus(alpha).flatten() + self.eps
            error = F.mse_loss(keep_layout(mean(student)), teacher, reduction="none").mean((2, 3))
            losses.append((error / variance + variance.log()).mean(1) / 2)
        return torch.stack(losses).sum(0)
