"""Wide residual networks (Zagoruyko, Komodakis, BMVC 2016), with normalisation before each convolution."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from gankd.models.parts import he_normal, read_out, stem


class PreActivationBlock(nn.Module):
    """BN-ReLU-Conv3 twice and a shortcut, projected after the first BN-ReLU where width or side changes."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.projection = None
        if stride != 1 or in_channels != channels:
            self.projection = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.projection is None else self.projection(active))


class WideResNet(nn.Module):
    """Wide ResNet (Zagoruyko, Komodakis, 2016): three stages of (depth - 4) / 6 blocks, widths 16, 32, 64 times k."""

    def __init__(self, in_channels: int, image_size: int, num_outputs: int, *, depth: int, k: int) -> None:
        super().__init__()
        self.stem = stem(in_channels, 16, image_size, bare=True)
        stages: list[nn.Module] = []
        channels = 16
        for stage, width in enumerate((16 * k, 32 * k, 64 * k)):
            blocks = []
            for number in range((depth - 4) // 6):
                blocks.append(PreActivationBlock(channels, width, stride=2 if stage and not number else 1))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.last = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.head = nn.Linear(channels, num_outputs)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        return read_out(self.head, self.last(self.stages(self.stem(x))).mean((2, 3)))


NETWORKS = {f"wrn_{depth}_{k}": partial(WideResNet, depth=depth, k=k) for depth in (16, 40) for k in (1, 2)}
