"""A generator of the outputs of a network that still trains, shared by self-distillation and peers; ramps and trust."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from gankd.config import require
from gankd.losses.distillation.kd import kd_loss
from gankd.tasks import Task
from gankd.virtual.gan import KnowledgeGan, VirtualConfig
from gankd.virtual.networks import read_table

MARGIN = 0.02
"""Share of right outputs by which a peer may be worse than the learner and still teach it."""
PEERS_FROM = 0.25
"""Share of the updates after which peers count fully."""
HALF_LIFE = 20
"""Shortest half-life of the averaged generator, in its own steps; a shorter one would hardly average."""


def linear_ramp(progress: float, start: float) -> float:
    """0 up to the share `start` of the updates, then linear to 1 at the end."""
    return max(0.0, (progress - start) / (1 - start))


def sigmoid_ramp(progress: float, end: float = PEERS_FROM) -> float:
    """exp(-5 (1 - progress / end)^2) up to the share `end` of the updates, then 1."""
    return math.exp(-5 * max(0.0, 1 - progress / end) ** 2)


class OwnKnowledge(nn.Module):
    """Generator of a network's own outputs while it trains, and the network's recent accuracy.

    The moving average of the generator's weights must follow a network that changes: its half-life is a quarter of a
    pass over the data, but at least `HALF_LIFE` steps of the generator. For the same reason the learning rate is the
    higher of the two defaults, however long the training.

    Args:
        task: a classification.
        temperature: T at which outputs are learned.
        num_images: number of training images.
        correct_only: learn only from outputs whose likeliest class is the label.
    """

    hits: Tensor
    weight: Tensor

    def __init__(self, task: Task, temperature: float, num_images: int, *, correct_only: bool = True) -> None:
        super().__init__()
        self.num_images, self.correct_only = num_images, correct_only
        config = VirtualConfig(temperature=temperature, every=4)
        self.gan = KnowledgeGan(task, config, int(torch.randint(2**31, ())))
        self.register_buffer("hits", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    @property
    def accuracy(self) -> Tensor:
        """Accuracy (), an exponential mean over about the last hundred updates; 0 before the first."""
        return self.hits / self.weight.clamp_min(1e-6)

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Logits (N, K), of softmax at temperature 1; before the generator begins, those of the running class means."""
        temperature = self.gan.temperature
        if self.gan.ready:
            return temperature * self.gan.draw(labels, generator)
        return temperature * read_table(self.gan.means(), labels).clamp_min(1e-8).log()

    @torch.no_grad()
    def observe(self, logits: Tensor, labels: Tensor) -> None:
        """Learn from the outputs (N, K) of one update for classes (N,); no gradient flows back."""
        config = self.gan.config
        half_life = max(HALF_LIFE, self.num_images / (4 * len(labels) * config.every))
        if config.ema != (decay := min(0.999, 0.5 ** (1 / half_life))):
            self.gan.config = replace(config, ema=decay)
        right = logits.argmax(1) == labels
        self.hits.lerp_(right.to(self.hits).mean(), 0.01)
        self.weight.lerp_(torch.ones_like(self.weight), 0.01)
        if self.correct_only:
            rows = repeated(right)
            logits, labels = logits[rows], labels[rows]
        self.gan.observe(logits, labels)


def repeated(right: Tensor) -> Tensor:
    """Numbers of the rows that are true, repeated until there are N; all N rows where none is.

    The host does not know how many are true; reading it would make every step wait for the device. The first rows
    count once more than the last, which is fair as long as images come in random order.
    """
    order = right.int().argsort(descending=True, stable=True)
    count = right.sum()
    count = torch.where(count > 0, count, len(right))
    return order[torch.arange(len(right), device=right.device) % count]


def trust(peers: Tensor, own: Tensor, gate: bool) -> Tensor:
    """(M,) 1 for peers whose accuracy (M,) exceeds one's own () less two points, else 0; without a gate 1 for all."""
    return (peers > own - MARGIN).float() if gate else torch.ones_like(peers)


def learn_from(draws: Sequence[Tensor], trusted: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Mean (N,) over trusted peers of T^2 KL(sample || learner); 0 if there are none.

    Args:
        draws: logits (N, K) sampled from each of M >= 1 peers.
        trusted: (M,), 1 or 0.
        logits: (N, K) of the learner.
        temperature: T.
    """
    losses = torch.stack([kd_loss(logits, draw, temperature) for draw in draws])
    return trusted.to(losses) @ losses / trusted.sum().clamp_min(1)


def check_temperature(name: str, temperature: float) -> None:
    """Raise ConfigError unless T lies in (0, 100]."""
    require(0 < temperature <= 100, f"{name}: T must lie in (0, 100], got {temperature}")
