"""Softmax regression representation learning: the student's embedding must work in the teacher's last layer."""

import torch.nn.functional as F
from torch import Tensor, nn

from gankd.config import require
from gankd.losses.distillation.maps import BatchNorm1d
from gankd.losses.distillation.spec import loss


@loss("SRRL", paper="Yang et al., ICLR 2021")
class SRRL(nn.Module):
    """Match the teacher's embedding, and the outputs of the teacher's frozen last layer.

        alpha mean_f (h_f - t_f)^2 + beta mean_k ((W h)_k - (W t)_k)^2,  h = adapter(s)

    W is the weight of the teacher's last layer; its bias cancels. The loss does not need classes: for values W has one
    row. Means over features and outputs and alpha = beta = 1 follow the authors' ImageNet code; [1] writes sums, and
    its author suggests (1, 5) and (10, 1) for other pairs of networks. The adapter is a linear layer and batch
    normalisation of the embedding; the authors' adapter also has a ReLU and comes before pooling, which restricts it
    to teachers whose embedding is a pooled ReLU map.

    Args:
        student_embedding: (N, F).
        teacher_embedding: (N, F'), without gradient.
        teacher_head: linear layer from F' to the teacher's outputs; a frozen copy is kept.
        alpha: weight of the match of embeddings.
        beta: weight of the match of outputs.

    Returns:
        (N,).

    [1] Yang, Martinez, Bulat, Tzimiropoulos. Knowledge distillation via softmax regression representation learning.
        ICLR 2021, section 3.
    """

    weight: Tensor

    def __init__(
        self,
        student_embedding: Tensor,
        teacher_embedding: Tensor,
        teacher_head: nn.Linear,
        *,
        alpha: float = 1.0,
        beta: float = 1.0,
    ) -> None:
        super().__init__()
        require(alpha >= 0, f"SRRL: alpha must not be negative, got {alpha}")
        require(beta >= 0, f"SRRL: beta must not be negative, got {beta}")
        self.alpha, self.beta = alpha, beta
        width = teacher_embedding.shape[1]
        self.adapter = nn.Sequential(nn.Linear(student_embedding.shape[1], width, bias=False), BatchNorm1d(width))
        self.register_buffer("weight", teacher_head.weight.detach().clone(), persistent=False)

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        difference = self.adapter(student_embedding) - teacher_embedding
        outputs = F.linear(difference, self.weight)
        return self.alpha * difference.square().mean(1) + self.beta * outputs.square().mean(1)
