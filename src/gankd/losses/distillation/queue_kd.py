"""Distillation without labels: similarities to a queue of the teacher's embeddings are those that the teacher has."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.config import require
from gankd.losses.distillation.spec import loss

_EMPTY = -1e4
"""Logit of a place of the queue that is not filled yet: its probability is 0, and finite differences stay finite."""


@loss("QueueKD", paper="LightlyTrain 0.15, distillation v3", weight=1.0)
class QueueKD(nn.Module):
    """Match similarities to a queue of the teacher's embeddings of other images.

        loss_i = KL( softmax(t_i K^T / tau) || softmax(p(s_i) K^T / tau) ),  K = rows of the queue and of this batch

    t are the teacher's embeddings and K's rows are of them, all of length 1; p is a linear projection of the student's
    embedding to the teacher's width, brought to length 1. Zero where the student points to every row at the angle that
    the teacher does, whatever its width and scale. It works with every kind of label, and on images that have none.

    The queue holds the teacher's last `size` embeddings, first in, first out, and takes up a batch after its loss, in
    training mode. In LightlyTrain the batch is in the queue when the loss is computed; here it is added to its rows,
    so that a short queue, too, knows the images themselves. Memory: 4 size F' bytes.

    Args:
        student_embedding: (N, F).
        teacher_embedding: (N, F'), without gradient.
        dataset_labels: (M,) or (M, n), only for their number: the queue is never longer than the data set.
        size: longest queue.
        tau: temperature.

    Returns:
        (N,) in nats.

    Source: lightly-ai/lightly-train, a queue of teacher features as in MoCo (He et al., CVPR 2020).
    """

    queue: Tensor
    place: Tensor
    filled: Tensor

    def __init__(
        self,
        student_embedding: Tensor,
        teacher_embedding: Tensor,
        dataset_labels: Tensor,
        *,
        size: int = 4096,
        tau: float = 0.07,
    ) -> None:
        super().__init__()
        require(size >= 1, f"QueueKD: size must be at least 1, got {size}")
        require(tau > 0, f"QueueKD: tau must be positive, got {tau}")
        self.tau, width = tau, teacher_embedding.shape[1]
        self.project = nn.Linear(student_embedding.shape[1], width)
        self.register_buffer("queue", torch.zeros(min(size, len(dataset_labels)), width))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        teacher = F.normalize(teacher_embedding, dim=1)  # (N, F')
        student = F.normalize(self.project(student_embedding), dim=1)
        keys = torch.cat([teacher, self.queue])
        empty = torch.arange(len(keys), device=keys.device) >= len(teacher) + self.filled
        like = [(rows @ keys.T / self.tau).masked_fill(empty, _EMPTY).log_softmax(1) for rows in (teacher, student)]
        if self.training:
            self._take_up(teacher)
        return F.kl_div(like[1], like[0], reduction="none", log_target=True).sum(1)

    @torch.no_grad()
    def _take_up(self, rows: Tensor) -> None:
        """Put rows into the queue, in place of the oldest."""
        size = len(self.queue)
        rows = rows[-size:]
        self.queue[(self.place + torch.arange(len(rows), device=rows.device)) % size] = rows.to(self.queue.dtype)
        self.place.copy_((self.place + len(rows)) % size)
        self.filled.copy_((self.filled + len(rows)).clamp_max(size))
