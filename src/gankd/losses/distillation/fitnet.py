"""Hints: a middle feature map of the student, through a regressor, meets one of the teacher."""

import torch.nn.functional as F
from torch import Tensor, nn

from gankd.errors import ModelError
from gankd.losses.distillation.maps import project, same_size
from gankd.losses.distillation.spec import loss


@loss("FitNet", paper="Romero et al., ICLR 2015", weight=100)
class FitNet(nn.Module):
    """A middle feature map predicts the teacher's.

        mean over channels and positions of (r(S_l) - T_l)^2

    The regressor r is a 1x1 convolution with batch normalisation, which keeps the published weight of 100 stable at
    usual learning rates. Departures from [1]: no activation behind it, since a map need not end in a ReLU; the larger
    map is averaged down to the size of the smaller; and the hint accompanies training, as in later comparisons,
    instead of a stage of its own.

    Args:
        student_features, teacher_features: L paired maps (N, C, H, W), of which one pair is used.
        layer: that pair, from 0 (shallowest) on or from -1 (deepest) back. A single pair is taken whatever this says.

    Returns:
        (N,) one value per row.

    Raises:
        ModelError: there are several pairs and `layer` is none of them.

    [1] Romero, Ballas, Kahou, Chassang, Gatta, Bengio. FitNets: hints for thin deep nets (ICLR 2015), eq. 3.
    """

    def __init__(self, student_features: list[Tensor], teacher_features: list[Tensor], *, layer: int = -2) -> None:
        super().__init__()
        pairs = len(student_features)
        if pairs > 1 and not -pairs <= layer < pairs:
            raise ModelError(
                f"FitNet: layer {layer} is none of the {pairs} pairs of feature maps; give one from {-pairs} to "
                f"{pairs - 1}, or name more with student.student_taps and student.teacher_taps"
            )
        self.layer = layer % pairs
        self.regressor = project(student_features[self.layer].shape[1], teacher_features[self.layer].shape[1])

    def forward(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
        student, teacher = same_size(student_features[self.layer], teacher_features[self.layer])
        return F.mse_loss(self.regressor(student), teacher, reduction="none").mean((1, 2, 3))
