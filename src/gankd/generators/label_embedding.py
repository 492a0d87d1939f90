"""Label inputs of generator and discriminator, in which cGAN and CcGAN differ."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.tasks import Classification, Task, Values

LabelInput = Literal["learned", "nli", "ili"]


class LabelEmbedding(nn.Module):
    """Labels (N,), or (N, n) of n values, in user units to (N, width)."""

    width: int


class ClassEmbedding(LabelEmbedding):
    """A learned vector per class: labels (N,) int64 to (N, width)."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.table = nn.Embedding(num_classes, width)

    def forward(self, labels: Tensor) -> Tensor:
        return self.table(labels)


class OneHot(LabelEmbedding):
    """Classes (N,) to (N, num_classes): a linear layer after it is a learned vector per class."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.width = num_classes

    def forward(self, labels: Tensor) -> Tensor:
        return F.one_hot(labels, self.width).float()


class FourierEmbedding(LabelEmbedding):
    """Sines and cosines of each value of the label at doubling frequencies, then a learned layer: user units (N,) or
    (N, n) to (N, width).
    """

    frequencies: Tensor

    def __init__(self, task: Values, width: int, octaves: int = 4) -> None:
        super().__init__()
        self.task, self.width = task, width
        # From half a turn over the label range upwards; high octaves would let neighbouring labels differ freely.
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(octaves))
        self.layer = nn.Linear((2 * octaves + 1) * task.head_size, width)

    def forward(self, labels: Tensor) -> Tensor:
        labels01 = _columns(self.task.normalise(labels.float()))  # (N, n)
        phase = (labels01[:, :, None] * self.frequencies).flatten(1)  # (N, 4 n)
        return torch.relu(self.layer(torch.cat([2 * labels01 - 1, phase.sin(), phase.cos()], 1)))


class NaiveLabelInput(LabelEmbedding):
    """NLI (Ding et al., CcGAN, ICLR 2021): the label itself, here on [-1, 1]: user units (N,) or (N, n) to (N, n)."""

    def __init__(self, task: Values) -> None:
        super().__init__()
        self.task, self.width = task, task.head_size

    def forward(self, labels: Tensor) -> Tensor:
        return 2 * _columns(self.task.normalise(labels)) - 1


class LabelToEmbedding(LabelEmbedding):
    """T2 of ILI (Ding et al., CcGAN; improved label input): five linear layers from a label to the (N, 128) space in
    which T1 sees images of that label. Trained beforehand (`training.label_embedding`), then frozen.
    """

    width = 128

    def __init__(self, task: Values) -> None:
        super().__init__()
        self.task = task
        layers: list[nn.Module] = []
        for number in range(5):
            layers.append(nn.Linear(128 if number else task.head_size, 128))
            if number < 4:
                layers.append(nn.GroupNorm(8, 128))
            layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)

    def forward(self, labels: Tensor) -> Tensor:
        return self.layers(_columns(self.task.normalise(labels)))


def make_embedding(
    task: Task, kind: LabelInput, width: int, ili: LabelToEmbedding | None = None, one_hot: bool = False
) -> LabelEmbedding:
    """The label input of one network.

    Args:
        task: owns the labels.
        kind, width, ili: for continuous labels; `ili` is shared by generator and discriminator and stays as it is.
            Classes have learned vectors of `width` numbers.
        one_hot: classes enter as they are, for a layer with weights per class.
    """
    # The label input is where a GAN for classes and one for values differ.
    if isinstance(task, Classification):
        return OneHot(task.num_classes) if one_hot else ClassEmbedding(task.num_classes, width)
    if kind == "nli":
        return NaiveLabelInput(task)
    if kind == "ili":
        return (ili or LabelToEmbedding(task)).requires_grad_(False)
    return FourierEmbedding(task, width)


def _columns(labels: Tensor) -> Tensor:
    """(N, n) of labels (N, n), or (N, 1) of labels (N,)."""
    return labels.reshape(len(labels), -1)
