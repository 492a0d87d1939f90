"""Distribution over values given only the label, learnt by a read-out of the student's embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.config import require
from gankd.losses.distillation.spec import loss


@loss("Distribution", paper="after Kim, IEEE Access 2022", weight=0.1, own_weight=True)
class Distribution(nn.Module):
    """Likelihood of the label and KL to a distribution over values, for an auxiliary head.

        (1 - a) sum_b -h_b ln s_b + a KL(teacher || s),    s = softmax(linear head on the student's embedding)

    over B equal bins of [0, 1], with h the label as a Gaussian of one bin's width, integrated over each bin and
    rescaled to sum 1. A target source draws the teacher's distribution for the label: Distribution@virtual or @table.

    The head is trained with the embedding and is not exported. Only the label loss trains the student's own value, on
    purpose: for a calibrated teacher the mean of the distributions drawn for a label is nearer to the mean of all
    labels than the label itself, so a value trained on it would shrink. No paper: this is virtual knowledge [1]
    applied to values, and `a` = 1/2 is an even share. The weight is 0.001 (for values a hundredth of the 0.1 given
    here), chosen on validation images of rotated-digits: with 0.01, and even with only the histogram of the label,
    the student lost half a degree.

    Args:
        student_embedding: example, (n, F).
        teacher_distribution: example, (n, B) log-probabilities.
        a: share of the teacher, in [0, 1].

    Raises:
        ConfigError: `a` is outside [0, 1].

    [1] Kim. A virtual knowledge distillation via conditional GAN. IEEE Access 10 (2022), as reconstructed from its
        abstract.
    """

    edges: Tensor

    def __init__(self, student_embedding: Tensor, teacher_distribution: Tensor, *, a: float = 0.5) -> None:
        super().__init__()
        require(0 <= a <= 1, f"Distribution: a must lie in [0, 1], got {a}")
        self.a = a
        bins = teacher_distribution.shape[1]
        self.head = nn.Linear(student_embedding.shape[1], bins)
        self.register_buffer("edges", torch.linspace(0, 1, bins + 1), persistent=False)

    def forward(self, student_embedding: Tensor, teacher_distribution: Tensor, labels: Tensor) -> Tensor:
        log_probs = self.head(student_embedding).log_softmax(1)
        below = torch.special.ndtr((self.edges - labels.clamp(0, 1)[:, None]) * log_probs.shape[1])
        smoothed = below.diff(dim=1) / (below[:, -1:] - below[:, :1])
        likelihood = -(smoothed * log_probs).sum(1)
        divergence = F.kl_div(log_probs, teacher_distribution, reduction="none", log_target=True).sum(1)
        return (1 - self.a) * likelihood + self.a * divergence
