"""Hints: a regressor maps a middle feature map of the student to the teacher's."""

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
    usual learning rates. Departures from [1]: r has no activation, since a map need not end in a ReLU; the larger map
    is averaged down to the size of the smaller; and the hint is added throughout training, as in later comparisons,
    instead of being a separate first stage.

    Args:
        student_features, teacher_features: L paired maps (N, C, H, W), of which one pair is used.
        layer: index of that pair, 0 the shallowest, -1 the deepest. Ignored if there is a single pair.

    Returns:
        (N,) one value per row.

    Raises:
        ModelError: there are several pairs and `layer` is out of range.

    [1] Romero, Ballas, Kahou, Chassang, Gatta, Bengio. FitNets: hints for thin deep nets (ICLR 2015), eq. 3.
    """

    def __init__(self, student_features: list[Tensor], teacher_features: list[Tensor], *, layer: int = -2) -> None:
        super().__init__()
        pairs = len(student_features)
        if pairs > 1 and not -pairs <= layer < pairs:
            raise ModelError(
                f"FitNet: layer must be in {-pairs}..{pairs - 1} for {pairs} pairs of feature maps, got {layer}; "
                "change it, or name more maps with student.student_taps and student.teacher_taps"
            )
        self.layer = layer % pairs
        self.regressor = project(student_features[self.layer].shape[1], teacher_features[self.layer].shape[1])

    def forward(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
        student, teacher = same_size(student_features[self.layer], teacher_features[self.layer])
        return F.mse_loss(self.regressor(student), teacher, reduction="none").mean((1, 2, 3))
