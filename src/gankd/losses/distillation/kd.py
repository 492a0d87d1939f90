"""Distillation from a teacher's outputs, one loss value per sample, in at least float32."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.config import require
from gankd.losses.distillation.spec import loss
from gankd.tasks import Task


def over_outputs(errors: Tensor) -> Tensor:
    """(N,) mean over the outputs of errors (N, n); errors (N,) of one output as they are."""
    return errors if errors.ndim == 1 else errors.mean(1)


def are_logits(outputs: Tensor, task: Task | None) -> bool:
    """True if outputs are logits (N, K), False if they are values (N,), or (N, n) as labels of `task` are."""
    return outputs.ndim == 2 and (task is None or task.label_shape == ())


def scaled(logits: Tensor, temperature: float | Tensor, standardise: bool = False) -> Tensor:
    """Logits (N, K) divided by T, in at least float32; before that each row gets mean 0 and spread 1 if asked [1].

    A spread well below 0.003 is left as small as it is: magnified, the noise of equal logits would be all there is.

    [1] Sun, Ren, Li, Wang, Cao. Logit standardization in knowledge distillation. CVPR 2024, section 3. The spread is
        that of the population, where the authors' code divides by K - 1: sqrt((K - 1) / K) of their temperature.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if standardise:
        logits = F.layer_norm(logits, logits.shape[-1:])
    return logits / temperature


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) (N,) in nats of scaled logits (N, K)."""
    student, teacher = student.log_softmax(1), teacher.log_softmax(1)
    return (teacher.exp() * (teacher - student)).sum(1)


def kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor, standardise: bool = False
) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), (N,) in nats [1].

    T^2 keeps the size of the gradient as T grows: it tends to (centred student - centred teacher logits) / K.

    Args:
        student_logits: (N, K).
        teacher_logits: (N, K), without gradient.
        temperature: T > 0; 1 compares the distributions as they are.
        standardise: compare z-scores of the logits; T is then in units of their spread (LSKD).

    [1] Hinton, Vinyals, Dean. Distilling the knowledge in a neural network (2015), section 2.
    """
    student = scaled(student_logits, temperature, standardise)
    teacher = scaled(teacher_logits, temperature, standardise)
    return temperature**2 * kl(teacher, student)


def regression_kd_loss(student: Tensor, teacher: Tensor, span: float) -> Tensor:
    """Squared difference (N,) from the teacher's prediction on the [0, 1] label scale.

    The same scale as the task loss, so that one weight mixes both whatever the label unit is.

    Args:
        student: (N,) predictions, or (N, n) of n values, over which the mean is taken.
        teacher: predictions in the same unit, without gradient.
        span: length of the label range in that unit, > 0; 1 on the [0, 1] scale.
    """
    difference = student - teacher
    return over_outputs(((difference if difference.dtype == torch.float64 else difference.float()) / span).square())


@loss("KD", paper="Hinton, Vinyals, Dean, 2015", own_weight=True)
def kd(
    student_outputs: Tensor,
    teacher_outputs: Tensor,
    task: Task | None = None,
    *,
    T: float = 4.0,
    standardise: bool = False,
) -> Tensor:
    """Soft targets: KL to the teacher's softened classes, or squared distance to its values.

        T^2 KL(softmax(teacher / T) || softmax(student / T))     classes
        (student - teacher)^2                                    values on the [0, 1] scale

    Published next to 0.1 times the cross-entropy with 0.9 (and in "X + KD" with 1 next to 1): write 0.1*CE + 0.9*KD.
    With `standardise` (LSKD) the weight is ten times that and T is 2: 0.1*CE + 9*KD(T=2, standardise=True).

    Args:
        student_outputs: (N, K) logits, or (N,) or (N, n) values on the [0, 1] scale.
        teacher_outputs: the same of the teacher.
        task: tells logits from several values; default: (N, K) are logits.
        T: temperature; a regression has no use for it.
        standardise: compare z-scores of the logits, which asks of the student the teacher's order and relative
            distances but not their size.

    Returns:
        (N,).

    Raises:
        ConfigError: T is not positive, or `standardise` for a regression.

    [1] Hinton, Vinyals, Dean. Distilling the knowledge in a neural network (2015), section 2.
    [2] Sun, Ren, Li, Wang, Cao. Logit standardization in knowledge distillation. CVPR 2024.
    """
    require(T > 0, f"KD: T must be positive, got {T}")
    if are_logits(student_outputs, task):
        return kd_loss(student_outputs, teacher_outputs, T, standardise)
    require(not standardise, "KD: standardise is for logits, of which a regression has none; leave it out")
    return regression_kd_loss(student_outputs, teacher_outputs, span=1.0)
