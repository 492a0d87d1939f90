"""Deep mutual learning: students that teach one another, without a teacher."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.config import require
from gankd.losses.distillation.kd import are_logits
from gankd.losses.distillation.prediction import squared_distance
from gankd.losses.distillation.spec import loss
from gankd.tasks import Task


@loss("DML", paper="Zhang et al., CVPR 2018")
class DML(nn.Module):
    """Train peers with the student; all learn from the labels and from one another.

        student 0:   mean_{q > 0} D(q || 0)
        peer p:      label loss of p + mean_{q != p} D(q || p)

    summed over the student and its peers. D(q || p) is a divergence of p's outputs from q's, with gradient only
    through p. Classes: the KL divergence of the softmax at temperature 1, and cross-entropy to the labels. Values:
    squared distances, for which [1] has no formula. Peers are part of this module and are trained by the student's
    optimiser, all in the same step, where [1] updates one after another. The student's own label loss is a separate
    term. Needs no teacher.

    Args:
        student_outputs: (N, K) logits, or (N,) or (N, n) values on the [0, 1] scale.
        targets: (N, K) probabilities, or values like these.
        images: (N, C, H, W), input of the peers.
        task: tells logits from several values; default: (N, K) are logits.
        new_student: function of a seed that makes a peer with the student's architecture.
        new_network: function of a name and a seed that makes a peer with another architecture.
        peers: number of peers, >= 1.
        network: architecture of the peers; empty: the student's.

    Returns:
        (N,).

    [1] Zhang, Xiang, Hospedales, Lu. Deep mutual learning. CVPR 2018, section 3.
    """

    def __init__(
        self,
        new_student: Callable[[int], nn.Module],
        new_network: Callable[[str, int], nn.Module],
        *,
        peers: int = 1,
        network: str = "",
    ) -> None:
        super().__init__()
        require(peers >= 1, f"DML: peers must be at least 1, got {peers}")
        seeds: list[int] = torch.randint(2**31, (peers,)).tolist()
        self.peers = nn.ModuleList(new_network(network, seed) if network else new_student(seed) for seed in seeds)

    def forward(self, student_outputs: Tensor, targets: Tensor, images: Tensor, task: Task | None = None) -> Tensor:
        logits = are_logits(student_outputs, task)
        outputs = [student_outputs, *(peer(images) for peer in self.peers)]
        total = torch.stack([_label_loss(peer, targets, logits) for peer in outputs[1:]]).sum(0)
        for number, learner in enumerate(outputs):
            others = [other.detach() for place, other in enumerate(outputs) if place != number]
            total = total + torch.stack([_divergence(learner, other, logits) for other in others]).mean(0)
        return total


def _label_loss(outputs: Tensor, targets: Tensor, logits: bool) -> Tensor:
    if not logits:
        return squared_distance(outputs, targets)
    return F.cross_entropy(outputs, targets, reduction="none")


def _divergence(learner: Tensor, other: Tensor, logits: bool) -> Tensor:
    if not logits:
        return squared_distance(learner, other)
    log_p, log_q = learner.log_softmax(1), other.log_softmax(1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
