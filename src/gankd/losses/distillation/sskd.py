"""Self-supervised distillation: match teacher and student on images and their rotated views."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.config import require
from gankd.losses.distillation.kd import are_logits
from gankd.losses.distillation.spec import LossModule, loss
from gankd.tasks import Task


@loss("SSKD", paper="Xu et al., ECCV 2020")
class SSKD(LossModule):
    """Match outputs on rotated images, and the similarity of rotated views to upright images.

        tf TF + ss SS
        TF = mean over kept views v of T^2 KL(softmax(t_v / T) || softmax(s_v / T)), outputs t, s
        SS = mean over kept views v of ss_T^2 KL(softmax(a_v / ss_T) || softmax(b_v / ss_T)),
             a_vi = cosine of the projections of view v and upright image i in the teacher, b_vi in the student

    A view is right if the teacher ranks its true class (TF) or its own image (SS) first. All right views are kept, and
    of the wrong ones the share `ratio_tf` or `ratio_ss` of best rank; among equal ranks the first in the batch.
    Cross-entropy and KD on upright images are separate terms: the published sum is 0.1 CE + 0.9 KD + 1 SSKD. For
    values, which have no ranks, only SS is used.

    The teacher's projection (linear, ReLU, linear) is trained first, by `pretraining`; the student's trains with the
    student.

    Args:
        student_embedding: (N, F) of upright images.
        teacher_embedding: (N, F'), without gradient.
        rotated_student_embedding: (3 N, F) of the images turned by 90 degrees, then by 180, then by 270.
        rotated_teacher_embedding: (3 N, F').
        rotated_student_outputs: (3 N, K) logits, or values, which are not read.
        rotated_teacher_outputs: likewise.
        labels: (N,) classes, or values, which are not read.
        task: tells logits from several values; default: (3 N, K) are logits.
        tf: weight of TF. ss: weight of SS.
        T: temperature of TF. ss_T: that of SS.
        ratio_tf: share of the wrong views that TF keeps. ratio_ss: that SS keeps.
        pretrain: length of the first phase as a share of the student's updates; published 60 of 240 epochs.

    Returns:
        (N,), summed over the views of each image, so that the mean over images is the formula above.

    [1] Xu, Liu, Li, Loy. Knowledge distillation meets self-supervision. ECCV 2020, section 3.
    """

    def __init__(
        self,
        student_embedding: Tensor,
        teacher_embedding: Tensor,
        *,
        tf: float = 2.7,
        ss: float = 10.0,
        T: float = 4.0,
        ss_T: float = 0.5,
        ratio_tf: float = 1.0,
        ratio_ss: float = 0.75,
        pretrain: float = 0.25,
    ) -> None:
        super().__init__()
        for name, value in {"tf": tf, "ss": ss, "pretrain": pretrain}.items():
            require(value >= 0, f"SSKD: {name} must not be negative, got {value}")
        for name, value in {"T": T, "ss_T": ss_T}.items():
            require(value > 0, f"SSKD: {name} must be positive, got {value}")
        for name, value in {"ratio_tf": ratio_tf, "ratio_ss": ratio_ss}.items():
            require(0 <= value <= 1, f"SSKD: {name} must lie in [0, 1], got {value}")
        self.tf, self.ss, self.T, self.ss_T = tf, ss, T, ss_T
        self.ratio_tf, self.ratio_ss, self.pretrain = ratio_tf, ratio_ss, pretrain
        self.student = _projection(student_embedding.shape[1])
        self.pretrained = _projection(teacher_embedding.shape[1])

    def pretraining(self, teacher_embedding: Tensor, rotated_teacher_embedding: Tensor) -> Tensor:
        """Mean cross-entropy for finding the own image of each rotated view by cosines with all upright images."""
        cosine = _cosines(self.pretrained, teacher_embedding, rotated_teacher_embedding)
        return F.cross_entropy(cosine, _own(cosine))

    def forward(
        self,
        student_embedding: Tensor,
        teacher_embedding: Tensor,
        rotated_student_embedding: Tensor,
        rotated_teacher_embedding: Tensor,
        rotated_student_outputs: Tensor,
        rotated_teacher_outputs: Tensor,
        labels: Tensor,
        task: Task | None = None,
    ) -> Tensor:
        with torch.no_grad():
            teacher = _cosines(self.pretrained, teacher_embedding, rotated_teacher_embedding)
        student = _cosines(self.student, student_embedding, rotated_student_embedding)
        total = self.ss * _kept_divergence(student, teacher, _own(teacher), self.ss_T, self.ratio_ss)
        if are_logits(rotated_student_outputs, task):
            total = total + self.tf * _kept_divergence(
                rotated_student_outputs, rotated_teacher_outputs, labels.repeat(3), self.T, self.ratio_tf
            )
        return total


def _projection(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def _cosines(projection: nn.Module, upright: Tensor, rotated: Tensor) -> Tensor:
    """(3 N, N) cosines of projected rotated views with projected upright images."""
    return F.normalize(projection(rotated), dim=1) @ F.normalize(projection(upright), dim=1).mT


def _own(cosine: Tensor) -> Tensor:
    """(3 N,) index of the upright image of each rotated view."""
    return torch.arange(cosine.shape[1], device=cosine.device).repeat(3)


def _kept_divergence(student: Tensor, teacher: Tensor, target: Tensor, temperature: float, ratio: float) -> Tensor:
    """(N,) T^2 KL of (3 N, K) scores at temperature T, summed over each image's kept views, times N / number kept."""
    rank = (teacher > teacher.gather(1, target[:, None])).sum(1)
    right = (rank == 0).sum()
    num_kept = right + (ratio * (len(rank) - right)).floor()
    kept = rank.argsort(stable=True).argsort() < num_kept
    divergence = F.kl_div(
        (student / temperature).log_softmax(1),
        (teacher / temperature).log_softmax(1),
        reduction="none",
        log_target=True,
    ).sum(1)
    per_image = (kept * divergence).view(3, -1).sum(0)
    return temperature**2 * len(per_image) / num_kept.clamp_min(1) * per_image
