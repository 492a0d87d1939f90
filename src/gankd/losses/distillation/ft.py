"""Factor transfer: match the student's translated last map to the teacher's, paraphrased in fewer channels."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.config import require
from gankd.losses.distillation.maps import BatchNorm2d, keep_layout, same_size
from gankd.losses.distillation.spec import LossModule, loss


@loss("FT", paper="Kim, Park, Kwak, NeurIPS 2018", weight=500)
class FT(LossModule):
    """Match the direction of the student's translated last map to the teacher's paraphrased one.

        mean over factors of |f_S / |f_S|_2 - f_T / |f_T|_2|^p,  f_S = translator(S), f_T = paraphraser(T)

    The paraphraser is the first half of an auto-encoder of the teacher's last map. It is trained before the student
    starts (`pretraining`) and then frozen. Departures from [1]: the auto-encoder's output layer is linear, so it can
    reproduce any map, and the larger of the two factor maps is averaged down to the size of the smaller.

    Args:
        student_features, teacher_features: paired maps (N, C, H, W), of which the last pair is used.
        k: factor channels per channel of the teacher's map.
        p: 1 (absolute difference) or 2 (squared).
        pretrain: length of the pre-training as a share of the student's updates.
        attention: compare maps of the mean square over the factor channels, normalised, as RepDistiller and cGAN-KD
            do. Their weight of 200 belongs to this function, the authors' 500 to the one above.

    Returns:
        (N,) one value per row, independent of the scale of either factor.

    [1] Kim, Park, Kwak. Paraphrasing complex network: network compression via factor transfer (NeurIPS 2018),
        section 3.
    """

    pretrained: nn.ModuleDict

    def __init__(
        self,
        student_features: list[Tensor],
        teacher_features: list[Tensor],
        *,
        k: float = 0.5,
        p: int = 1,
        pretrain: float = 0.125,
        attention: bool = False,
    ) -> None:
        super().__init__()
        require(k > 0, f"FT: k must be positive, got {k}")
        require(p in (1, 2), f"FT: p must be 1 or 2, got {p}")
        require(pretrain >= 0, f"FT: pretrain must be at least 0, got {pretrain}")
        self.p, self.pretrain, self.attention = p, pretrain, attention
        student, teacher = student_features[-1].shape[1], teacher_features[-1].shape[1]
        factors = max(1, int(k * teacher))
        self.pretrained = nn.ModuleDict(
            {
                "paraphraser": _layers(teacher, teacher, factors, factors),
                # A transposed convolution of stride 1 is a convolution.
                "decoder": _layers(factors, factors, teacher, teacher)[:-1],
            }
        )
        self.translator = _layers(student, student, factors, factors, norm=True)

    def pretraining(self, teacher_features: list[Tensor]) -> Tensor:
        """Mean squared error of the auto-encoder."""
        teacher = teacher_features[-1]
        decoded = self.pretrained["decoder"](self.pretrained["paraphraser"](teacher))
        return F.mse_loss(decoded, teacher)

    def forward(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
        with torch.no_grad():  # otherwise the paraphraser would learn factors that are easy to translate
            teacher = self.pretrained["paraphraser"](teacher_features[-1])
        student, teacher = same_size(keep_layout(self.translator(student_features[-1])), teacher)
        return (self._direction(student) - self._direction(teacher)).abs().pow(self.p).mean(1)

    def _direction(self, factors: Tensor) -> Tensor:
        """(N, ...) vectors of length 1."""
        return F.normalize((factors.square().mean(1) if self.attention else factors).flatten(1))


def _layers(*channels: int, norm: bool = False) -> nn.Sequential:
    """3x3 convolutions of these widths, each with a leaky ReLU."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers.append(nn.Conv2d(before, after, 3, padding=1, bias=not norm))
        if norm:
            layers.append(BatchNorm2d(after))
        layers.append(nn.LeakyReLU(0.1))
    return nn.Sequential(*layers)
