"""Peers in one process that learn together, each from generators of the others' outputs."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.config import require
from gankd.losses.distillation.spec import loss
from gankd.tasks import Task
from gankd.virtual.losses.own_knowledge import OwnKnowledge, check_temperature, learn_from, sigmoid_ramp, trust


@loss("PeerVKD", paper="after Kim, IEEE Access 2022", own_weight=True)
class PeerVKD(nn.Module):
    """Learn together with peers of the student, each from samples of the others' generators.

        student 0:   lam mean_{i > 0} T^2 KL(softmax(sample of i / T) || softmax(student / T))
        peer j:      label loss of j + lam mean_{i != j} T^2 KL(softmax(sample of i / T) || softmax(j / T))

    summed over the student and its peers. Every network has its own generator, which learns from the outputs that the
    network gets right, given the label; no gradient flows between the two. lam = exp(-5 (1 - progress / 0.25)^2) in
    the first quarter of the updates and 1 afterwards. With `gate` the means include only those i whose accuracy on
    recent batches exceeds j's less two points: a much weaker peer does not teach. (Accuracy on validation data would
    be a better measure, but is not available in training.)

    Peers live in this module, `peers`, and train with the student's optimiser, all in the same step. The student's own
    label loss is another term. Peers share the batch here, so the baseline to beat is DML, which compares their outputs
    image by image. Only the idea of collaborative learning is in the abstract of [1].

    Args:
        dataset_labels: (M,) of the training images; their number sets the half-life of the averaged generator.
        task: a classification.
        new_student: makes a peer like the student from a seed.
        new_network: makes a peer of another architecture from a name and a seed.
        peers: number of peers, >= 1.
        networks: architectures of the peers, separated by commas, instead of their number: "cnn8,cnn16".
        T: temperature.
        gate: leave out peers that are much weaker than the learner.

    Returns:
        (N,).

    Raises:
        ConfigError: a setting out of range.

    [1] Kim. A virtual knowledge distillation via conditional GAN. IEEE Access 10 (2022), as reconstructed from its
        abstract.
    """

    def __init__(
        self,
        dataset_labels: Tensor,
        task: Task,
        new_student: Callable[[int], nn.Module],
        new_network: Callable[[str, int], nn.Module],
        *,
        peers: int = 1,
        networks: str = "",
        T: float = 4.0,
        gate: bool = True,
    ) -> None:
        super().__init__()
        require(peers >= 1, f"PeerVKD: peers must be at least 1, got {peers}")
        check_temperature("PeerVKD", T)
        names = [name.strip() for name in networks.split(",")] if networks else [""] * peers
        require(not networks or all(names), f"PeerVKD: networks must be names separated by commas, got {networks!r}")
        self.T, self.gate = T, gate
        seeds: list[int] = torch.randint(2**31, (len(names),)).tolist()
        self.peers = nn.ModuleList(
            new_network(name, seed) if name else new_student(seed) for name, seed in zip(names, seeds, strict=True)
        )
        self._own = [OwnKnowledge(task, T, len(dataset_labels)) for _ in range(len(names) + 1)]
        self.knowledge = nn.ModuleList(self._own)

    def forward(
        self,
        student_logits: Tensor,
        labels: Tensor,
        targets: Tensor,
        images: Tensor,
        progress: float,
        generator: torch.Generator,
    ) -> Tensor:
        outputs = [student_logits, *(peer(images) for peer in self.peers)]
        draws = [own.draw(labels, generator) for own in self._own]
        accuracies = [own.accuracy for own in self._own]
        total = torch.stack([F.cross_entropy(peer, targets, reduction="none") for peer in outputs[1:]]).sum(0)
        ramp = sigmoid_ramp(progress)
        for number, learner in enumerate(outputs):
            others = [other for other in range(len(outputs)) if other != number]
            trusted = trust(torch.stack([accuracies[other] for other in others]), accuracies[number], self.gate)
            total = total + ramp * learn_from([draws[other] for other in others], trusted, learner, self.T)
        if self.training:
            for own, logits in zip(self._own, outputs, strict=True):
                own.observe(logits, labels)
        return total
