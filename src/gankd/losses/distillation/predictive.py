"""Distillation of a distribution over labels, made from a teacher's value and its usual error.

The teacher gives one number. Its error on the labels, averaged over the training so far, sets the width of the
distribution. The student learns it through a small read-out of its embedding that is thrown away afterwards.
Everything is on the [0, 1] label scale.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.config import require
from gankd.losses.distillation.kd import over_outputs
from gankd.losses.distillation.spec import loss


class TeacherError(nn.Module):
    """Running mean of a teacher's squared error on the labels, never below a floor.

    A plain mean over the first 1 / (1 - momentum) updates, then an exponential one; the floor before the first update.
    """

    mean: Tensor
    updates: Tensor

    def __init__(self, momentum: float, floor: float, outputs: tuple[int, ...] = ()) -> None:
        """Args:
        momentum: momentum of the mean, in [0, 1).
        floor: least standard deviation, > 0.
        outputs: () for one value, (n,) for n, each with an error of its own.
        """
        super().__init__()
        self.momentum, self.floor = momentum, floor
        self.register_buffer("mean", torch.zeros(outputs))
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, teacher_values: Tensor, labels: Tensor) -> Tensor:
        """Variance, () or (n,), after this batch; in eval mode the batch is ignored."""
        if self.training:
            self.updates += 1
            error = (teacher_values - labels).square().mean(0)
            self.mean.lerp_(error, (1 / self.updates).clamp_min(1 - self.momentum))
        return self.mean.clamp_min(self.floor**2)


@loss("Gaussian", paper="Nix, Weigend, ICNN 1994", own_weight=True)
class Gaussian(nn.Module):
    """KL from a Gaussian with the teacher's usual error to one with the student's own variance.

        2 s_t^2 KL(N(teacher, s_t^2) || N(student, s_s^2))
            = s_t^2 (l + e^-l - 1) + e^-l (student - teacher)^2,    l = ln(s_s^2 / s_t^2)

    0 where student = teacher and l = 0. s_t^2 is the running mean of the teacher's squared error on the labels. The
    factor 2 s_t^2, like T^2 of KD, makes this the squared distance at l = 0 however accurate the teacher is. l is a
    linear read-out of the student's embedding with the optimum e^l = 1 + (student - teacher)^2 / s_t^2: images that
    the student misses by more than s_t weigh less. It starts at 0, trains with the student and is not exported.

    The optimal l is never negative; an ELU keeps it above -1, so that no image weighs more than e times its share. The
    read-out gets the embedding at unit length, so its step size does not depend on the student's width. No paper; with
    the label instead of the teacher the idea is regression with a learnt variance [1]. Several values have variances of
    their own, and the loss is the mean over them.

    Args:
        student_embedding: example, (N, F).
        student_values: example, (N,), or (N, n) of n values.
        momentum: momentum of the running mean.
        floor: least s_t, as a share of the label range; without it s_t is 0 for a teacher that overfits.

    Raises:
        ConfigError: a setting is out of range.

    [1] Nix, Weigend. Estimating the mean and variance of the target probability distribution. ICNN 1994.
    """

    def __init__(
        self, student_embedding: Tensor, student_values: Tensor, *, momentum: float = 0.99, floor: float = 0.01
    ) -> None:
        super().__init__()
        require(0 <= momentum < 1, f"Gaussian: momentum must lie in [0, 1), got {momentum}")
        require(floor > 0, f"Gaussian: floor must be positive, got {floor}")
        self.teacher_error = TeacherError(momentum, floor, student_values.shape[1:])
        self.read_out = nn.Linear(student_embedding.shape[1], student_values.shape[1:].numel())
        nn.init.zeros_(self.read_out.weight)
        nn.init.zeros_(self.read_out.bias)

    def forward(
        self, student_values: Tensor, teacher_values: Tensor, student_embedding: Tensor, labels: Tensor
    ) -> Tensor:
        variance = self.teacher_error(teacher_values, labels)
        # eps: the gradient stays bounded for an embedding of zeros
        log_ratio = F.elu(self.read_out(F.normalize(student_embedding, eps=1e-3)).view(student_values.shape))
        distance = (student_values - teacher_values).square()
        return over_outputs(variance * (log_ratio + torch.expm1(-log_ratio)) + torch.exp(-log_ratio) * distance)


@loss("Histogram", paper="Imani, White, ICML 2018", weight=0.01, own_weight=True)
class Histogram(nn.Module):
    """KL between histograms of labels: the teacher's Gaussian and the student's auxiliary head.

        KL(h_t || h_s) + (student - mean(h_s))^2
        h_t = N(teacher, s_t^2) integrated over each of B equal bins of [-margin, 1 + margin], rescaled to sum 1
        h_s = softmax(linear head on the student's embedding)

    Neighbouring bins share the mass of each image, so the embedding is trained as by a classification that knows the
    order of the labels; the second term lets the student's own value learn from the histogram's mean. 0 where h_s =
    h_t and the value is its mean. The head trains with the student and is not exported. The weight 0.01 brings a KL
    divergence in nats to the size of a squared error on the [0, 1] scale.

    s_t^2 is the running mean of the teacher's squared error on the labels; s_t is at least one bin's width, so h_t is
    never one-hot. Teacher values are clipped to [0, 1]. Without a margin, the truncated Gaussian would shift the mean
    of h_t inwards near the ends, by up to 0.8 s_t; with a margin of 2.5 s_t or more the shift is at most 0.02 s_t. No
    paper for the distillation; with the label instead of the teacher it is HL-Gauss [1]. Several values have histograms
    of their own, and the loss is the mean over them.

    Args:
        student_embedding: example, (N, F).
        student_values: example, (N,), or (N, n) of n values.
        bins: B, at least 2.
        margin: width that the bins cover beyond each end of the label range, as a share of the range, at least 0.
        momentum: momentum of the running mean.

    Raises:
        ConfigError: a setting is out of range.

    [1] Imani, White. Improving regression performance with distributional losses. ICML 2018.
    """

    edges: Tensor

    def __init__(
        self,
        student_embedding: Tensor,
        student_values: Tensor,
        *,
        bins: int = 32,
        margin: float = 0.25,
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        require(bins >= 2, f"Histogram: bins must be at least 2, got {bins}")
        require(margin >= 0, f"Histogram: margin must be at least 0, got {margin}")
        require(0 <= momentum < 1, f"Histogram: momentum must lie in [0, 1), got {momentum}")
        self.teacher_error = TeacherError(momentum, (1 + 2 * margin) / bins, student_values.shape[1:])
        self.head = nn.Linear(student_embedding.shape[1], bins * student_values.shape[1:].numel())
        self.register_buffer("edges", torch.linspace(-margin, 1 + margin, bins + 1), persistent=False)

    def forward(
        self, student_values: Tensor, teacher_values: Tensor, student_embedding: Tensor, labels: Tensor
    ) -> Tensor:
        sigma = self.teacher_error(teacher_values, labels).sqrt()
        # (N, B), or (N, n, B) of n values
        below = torch.special.ndtr((self.edges - teacher_values.clamp(0, 1)[..., None]) / sigma[..., None])
        target = below.diff(dim=-1) / (below[..., -1:] - below[..., :1])
        log_probs = self.head(student_embedding).view(target.shape).log_softmax(-1)
        centres = (self.edges[1:] + self.edges[:-1]) / 2
        mean = log_probs.exp() @ centres
        divergence = F.kl_div(log_probs, target, reduction="none").sum(-1)
        return over_outputs(divergence + (student_values - mean).square())
