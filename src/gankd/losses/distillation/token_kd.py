"""Token term of queue distillation: places of an image are as similar to one another as the teacher finds them."""

import torch.nn.functional as F
from torch import Tensor

from gankd.config import require
from gankd.losses.distillation.maps import same_size
from gankd.losses.distillation.spec import loss


@loss("TokenKD", paper="LightlyTrain 0.15, distillation v3", weight=1.0)
def token_kd(student_features: list[Tensor], teacher_features: list[Tensor], *, tau: float = 0.07) -> Tensor:
    """Match how alike the places of an image are in the last feature maps; goes with `QueueKD`.

        loss_i = mean_p KL( softmax(T_p T^T / tau) || softmax(S_p S^T / tau) )

    T and S (P, F) hold the features of image i at its P places, each of length 1: pixels of a map, or tokens of a
    transformer. Each network is compared with itself, so widths may differ and no layer is trained. The larger
    map is averaged to the size of the smaller one. Zero where one is the other turned and scaled, place by place.
    LightlyTrain adds it to the queue's loss with equal weight, as in "QueueKD + TokenKD", and reads projected
    features of the student; here they are its own. It works with every kind of label, and on images that have none.

    Args:
        student_features: list of maps (N, C, H, W); only the last is read.
        teacher_features: likewise.
        tau: temperature.

    Returns:
        (N,) in nats.

    Source: lightly-ai/lightly-train, intra-image term of its distillation v3.
    """
    require(tau > 0, f"TokenKD: tau must be positive, got {tau}")
    student, teacher = (_likeness(maps) / tau for maps in same_size(student_features[-1], teacher_features[-1]))
    return F.kl_div(student.log_softmax(2), teacher.log_softmax(2), reduction="none", log_target=True).sum(2).mean(1)


def _likeness(maps: Tensor) -> Tensor:
    """Cosines (N, P, P) of the places of maps (N, C, H, W), with P = H W."""
    rows = F.normalize(maps.flatten(2).transpose(1, 2), dim=2)
    return rows @ rows.transpose(1, 2)
