"""Softened targets for an unsoftened student, which ends up as soft as its targets."""

import torch.nn.functional as F
from torch import Tensor

from gankd.config import require
from gankd.losses.distillation.kd import scaled
from gankd.losses.distillation.spec import loss


@loss("SoftTargets", paper="after Kim, IEEE Access 2022", own_weight=True)
def soft_targets(student_logits: Tensor, teacher_logits: Tensor, *, T: float = 4.0) -> Tensor:
    """Cross-entropy of the student, unsoftened, to the teacher's softened classes.

        -sum_k q_k ln softmax(student)_k,    q = softmax(teacher / T)

    Least at softmax(student) = q. KD softens both and is least where the student's own output is as sharp as the
    teacher's. Here the student ends up as soft as the target, as with label smoothing, which suits targets that depend
    only on the label: SoftTargets@virtual, SoftTargets@table. The loss is linear in q: with targets drawn
    independently of the image given its label, the expected gradient is that of their mean (as for KD).

    The form is our own reading: only the abstract of Kim's paper [1] is public, and it does not give the form. Use it
    in place of most of the label loss: 0.1*CE + 0.9*SoftTargets@virtual; search the best share among 0.3, 0.6, 0.9 and
    1. Do not let a student learn from its own outputs in this form with T above 1: see SelfVKD.

    Args:
        student_logits: (N, K).
        teacher_logits: (N, K), without gradient.
        T: temperature of the teacher only, so there is no factor T^2.

    Returns:
        (N,) in nats.

    Raises:
        ConfigError: T is not positive.

    [1] Kim. A virtual knowledge distillation via conditional GAN. IEEE Access 10 (2022), as reconstructed from its
        abstract.
    """
    require(T > 0, f"SoftTargets: T must be positive, got {T}")
    target = scaled(teacher_logits, T).softmax(1)
    return F.cross_entropy(scaled(student_logits, 1.0), target, reduction="none")
