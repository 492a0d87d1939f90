"""Densely connected networks (Huang, Liu, van der Maaten, Weinberger, CVPR 2017), variant BC."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.models.parts import form_of, he_normal, read_out, require_side, stem


class DenseLayer(nn.Module):
    """BN-ReLU-Conv1 to four times `growth` channels, BN-ReLU-Conv3 to `growth`, concatenated with the input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        return torch.cat([x, self.conv2(F.relu(self.bn2(out)))], 1)


class Transition(nn.Sequential):
    """BN-ReLU-Conv1 to half the channels, and 2x2 mean pooling."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)
        )


class DenseNet(nn.Module):
    """DenseNet-BC (Huang et al., CVPR 2017): four dense blocks, with channels and side halved between them.

    Args:
        pooled_later: the stem of the form for 32 px at every size, and from 64 px on a max-pooling behind the first
            transition, as in the first version of cGAN-KD.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        num_outputs: int,
        *,
        growth: int,
        layers: tuple[int, ...],
        pooled_later: bool = False,
    ) -> None:
        super().__init__()
        require_side(image_size, 8)
        channels = 2 * growth
        self.stem = stem(in_channels, channels, 32 if pooled_later else image_size, bare=True)
        parts: list[nn.Module] = []
        for number, count in enumerate(layers):
            if number:
                parts.append(Transition(channels))
                channels //= 2
                if number == 1 and pooled_later and form_of(image_size) > 32:
                    parts.append(nn.MaxPool2d(2))
            parts.append(nn.Sequential(*(DenseLayer(channels + growth * layer, growth) for layer in range(count))))
            channels += growth * count
        self.parts = nn.Sequential(*parts)
        self.last = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.head = nn.Linear(channels, num_outputs)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        return read_out(self.head, self.last(self.parts(self.stem(x))).mean((2, 3)))


NETWORKS = {
    "densenet121": partial(DenseNet, growth=32, layers=(6, 12, 24, 16)),
    "densenet121_2021": partial(DenseNet, growth=32, layers=(6, 12, 24, 16), pooled_later=True),
    "densenet161": partial(DenseNet, growth=48, layers=(6, 12, 36, 24)),
}
