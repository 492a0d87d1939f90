"""Teacher-free distillation: regularisation by a hand-made distribution around the label."""

import torch
from torch import Tensor

from gankd.config import require
from gankd.losses.distillation.kd import kl, scaled
from gankd.losses.distillation.spec import loss


@loss("TfKD", paper="Yuan, Tay, Li, Wang, Feng, CVPR 2020", weight=1 / 9)
def tf_kd(student_logits: Tensor, labels: Tensor, *, a: float = 0.99, T: float = 20.0) -> Tensor:
    """Teacher-free KD: KL to a made-up teacher that is right on every image.

        KL(softmax(p / T) || softmax(student)),   p_k = a at the label, (1 - a) / (K - 1) elsewhere

    Published as (1 - alpha) CE + alpha KL with alpha = 0.1, hence the weight 1/9 relative to CE. The minimum, 0, is at
    the softened virtual teacher: e^(a/T) to e^((1-a)/(K-1)/T) in favour of the label, nearly uniform at T = 20.

    As in the authors' code and unlike eq. 9, the student is not softened, and T divides the probabilities p instead of
    their logarithms; the code's mean over classes times a multiplier of K is the sum over classes here.

    Args:
        student_logits: (N, K).
        labels: (N,) classes.
        a: probability of the label before softening, in (0, 1).
        T: temperature of the virtual teacher.

    Returns:
        (N,) in nats.

    Raises:
        ConfigError: `a` is outside (0, 1), or T is not positive.

    [1] Yuan, Tay, Li, Wang, Feng. Revisiting knowledge distillation via label smoothing regularization. CVPR 2020,
        section 5 (Tf-KD reg).
    """
    require(0 < a < 1, f"TfKD: a must lie in (0, 1), got {a}")
    require(T > 0, f"TfKD: T must be positive, got {T}")
    student = scaled(student_logits, 1.0)
    classes = torch.arange(student.shape[1], device=student.device)
    virtual = student.new_full(student.shape, (1 - a) / (student.shape[1] - 1))
    virtual = virtual.masked_fill(labels[:, None] == classes, a)
    return kl(virtual / T, student)
