"""Self-distillation through a generator: the student learns from samples of its own outputs."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.config import require
from gankd.losses.distillation.kd import kd_loss
from gankd.losses.distillation.soft_targets import soft_targets
from gankd.losses.distillation.spec import LossModule, loss
from gankd.tasks import Task
from gankd.virtual.losses.own_knowledge import OwnKnowledge, check_temperature, linear_ramp


@loss("SelfVKD", paper="after Kim, IEEE Access 2022", own_weight=True)
class SelfVKD(LossModule):
    """Learn from a generator of one's own softened outputs, given the label; no teacher.

        kd:      lam T^2 KL(softmax(sample / T) || softmax(student / T))
        soft1:   lam CE(softmax(sample), softmax(student)),   T = 1

    lam rises linearly from 0 at the share `start` of the updates to 1 at the end, times the weight of the term. The
    generator learns from the student's outputs of every update, after they have been used; no gradient flows between
    the two. The method lies between online label smoothing, which keeps the mean of these outputs per class, and
    CS-KD, which takes the output for another image of the class. Its expected gradient is that of the class means, so
    it pulls outputs of a class together.

    soft1 is for T = 1 only: with a higher T, outputs are softened again in every round and the class disappears (0.023
    of the mass is left at 100 classes, T = 4 and four fifths of the weight on the samples).

    Guard: if the mean entropy of the student's softened outputs grows by more than 1 % in each of three passes over
    the data (of at least 50 updates), and the cross-entropy to the labels falls in none, lam is halved permanently.
    The 1 % is our choice: without it, three such passes in a row occur by chance every few dozen passes.

    Only the idea of self-distillation is in the abstract of [1]; everything else is our reconstruction.

    Args:
        dataset_labels: (M,) of the training images; their number sets the half-life of the averaged generator.
        task: a classification.
        T: temperature.
        form: kd or soft1.
        start: share of the updates before the term counts.
        correct_only: the generator learns only from images that the student gets right.

    Returns:
        (N,).

    Raises:
        ConfigError: a setting out of range; soft1 with a T other than 1.

    [1] Kim. A virtual knowledge distillation via conditional GAN. IEEE Access 10 (2022), as reconstructed from its
        abstract.
    """

    factor: Tensor
    growing: Tensor
    sums: Tensor
    before: Tensor

    def __init__(
        self,
        dataset_labels: Tensor,
        task: Task,
        *,
        T: float = 4.0,
        form: str = "kd",
        start: float = 0.1,
        correct_only: bool = True,
    ) -> None:
        super().__init__()
        check_temperature("SelfVKD", T)
        require(form in ("kd", "soft1"), f"SelfVKD: form must be kd or soft1, got {form!r}")
        require(
            form == "kd" or T == 1,
            f"SelfVKD: form soft1 needs T=1, or the student becomes ever more uniform by learning from itself, got {T}",
        )
        require(0 <= start < 1, f"SelfVKD: start must lie in [0, 1), got {start}")
        self.T, self.form, self.start = T, form, start
        self.knowledge = OwnKnowledge(task, T, len(dataset_labels), correct_only=correct_only)
        self.register_buffer("factor", torch.ones(()))
        self.register_buffer("growing", torch.zeros(()))
        self.register_buffer("sums", torch.zeros(2))
        self.register_buffer("before", torch.full((2,), torch.inf))

    def forward(self, student_logits: Tensor, labels: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        draw = self.knowledge.draw(labels, generator)
        if self.form == "kd":
            value = kd_loss(student_logits, draw, self.T)
        else:
            value = soft_targets(student_logits, draw, T=1.0)
        value = linear_ramp(progress, self.start) * self.factor * value
        if self.training:
            self.knowledge.observe(student_logits, labels)
            self._guard(student_logits.detach(), labels)
        return value

    @torch.no_grad()
    def _guard(self, logits: Tensor, labels: Tensor) -> None:
        entropy = torch.special.entr((logits / self.T).softmax(1)).sum(1).mean()
        self.sums += torch.stack([entropy, F.cross_entropy(logits, labels)]).to(self.sums)
        window = max(50, self.knowledge.num_images // len(labels))
        if self.knowledge.gan.observed % window:
            return
        now = self.sums / window
        drifts = (now[0] > 1.01 * self.before[0]) & (now[1] >= self.before[1])
        self.growing.copy_(torch.where(drifts, self.growing + 1, 0))
        if bool(self.growing == 3):  # the host waits for the device once per window
            self.problems["F9"] = (
                f"F9 SelfVKD: the entropy of the student's own outputs grows, to {float(now[0]):.3f} nats, and the "
                f"label loss does not fall; its weight is halved to {float(self.factor) / 2:g}"
            )
        self.factor.copy_(torch.where(self.growing == 3, self.factor / 2, self.factor))
        self.growing.remainder_(3)
        self.before.copy_(now)
        self.sums.zero_()
