"""Label inputs of generator and discriminator, in which cGAN and CcGAN differ."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.tasks import Regression, Task

LabelInput = Literal["learned", "nli", "ili"]


class LabelEmbedding(nn.Module):
    """Labels (N,) in user units to (N, width)."""

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
    """Sines and cosines of the label at doubling frequencies, then a learned layer: user units (N,) to (N, width)."""

    frequencies: Tensor

    def __init__(self, task: Regression, width: int, octaves: int = 4) -> None:
        super().__init__()
        self.task, self.width = task, width
        # From half a turn over the label range upwards; high octaves would let neighbouring labels differ freely.
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(octaves))
        self.layer = nn.Linear(2 * octaves + 1, width)

    def forward(self, labels: Tensor) -> Tensor:
        labels01 = self.task.normalise(labels.float())[:, None]
        phase = labels01 * self.frequencies
        return torch.relu(self.layer(torch.cat([2 * labels01 - 1, phase.sin(), phase.cos()], 1)))


class NaiveLabelInput(LabelEmbedding):
    """NLI (Ding et al., CcGAN, ICLR 2021): the label itself, here on [-1, 1]: user units (N,) to (N, 1)."""

    width = 1

    def __init__(self, task: Regression) -> None:
        super().__init__()
        self.task = task

    def forward(self, labels: Tensor) -> Tensor:
        return 2 * self.task.normalise(labels)[:, None] - 1


class LabelToEmbedding(LabelEmbedding):
    """T2 of ILI (Ding et al., CcGAN; improved label input): five linear layers from a label to the (N, 128) space in
    which T1 sees images of that label. Trained beforehand (`training.label_embedding`), then frozen.
    """

    width = 128

    def __init__(self, task: Regression) -> None:
        super().__init__()
        self.task = task
        layers: list[nn.Module] = []
        for number in range(5):
            layers.append(nn.Linear(128 if number else 1, 128))
            if number < 4:
                layers.append(nn.GroupNorm(8, 128))
            layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)

    def forward(self, labels: Tensor) -> Tensor:
        return self.layers(self.task.normalise(labels)[:, None])


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
    if not isinstance(task, Regression):
        return OneHot(task.num_classes) if one_hot else ClassEmbedding(task.num_classes, width)
    if kind == "nli":
        return NaiveLabelInput(task)
    if kind == "ili":
        return (ili or LabelToEmbedding(task)).requires_grad_(False)
    return FourierEmbedding(task, width)
