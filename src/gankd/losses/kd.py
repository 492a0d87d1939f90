"""Distillation from a teacher's outputs, one loss value per sample, in float32."""

import torch.nn.functional as F
from torch import Tensor


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), (N,) in nats [1].

    T^2 keeps the size of the gradient as T grows: it tends to (centred student - centred teacher logits) / K.

    Args:
        student_logits: (N, K).
        teacher_logits: (N, K), without gradient.
        temperature: T > 0; 1 compares the distributions as they are.

    [1] Hinton, Vinyals, Dean. Distilling the knowledge in a neural network (2015), section 2.
    """
    student = F.log_softmax(student_logits.float() / temperature, 1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, 1)
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)


def regression_kd_loss(student: Tensor, teacher: Tensor, span: float) -> Tensor:
    """Squared difference (N,) from the teacher's prediction on the [0, 1] label scale.

    The same scale as the task loss, so that one weight mixes both whatever the label unit is.

    Args:
        student: (N,) predictions in user units.
        teacher: (N,) predictions in user units, without gradient.
        span: length of the label range in user units, > 0.
    """
    return ((student.float() - teacher.float()) / span).square()
