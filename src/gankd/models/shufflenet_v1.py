"""ShuffleNet (Zhang, Zhou, Lin, Sun, CVPR 2018) with three groups."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.models.parts import read_out, stem

GROUPS = 3
STAGES = (240, 4), (480, 8), (960, 4)
"""Channels and blocks of each stage (table 1, g = 3)."""


class ShuffleBlock(nn.Module):
    """Grouped 1x1, shuffle, 3x3 per channel, grouped 1x1; added to the input, or at stride 2 joined to its pooling."""

    def __init__(self, in_channels: int, channels: int, stride: int, first_groups: int) -> None:
        super().__init__()
        out = channels - in_channels if stride == 2 else channels
        middle = out // 4
        self.conv1 = nn.Conv2d(in_channels, middle, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.shuffle = nn.ChannelShuffle(first_groups)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, out, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.shuffle(F.relu(self.bn1(self.conv1(x))))
        out = F.relu(self.bn2(self.conv2(out)))  # this ReLU is in CRD's code, not in the paper
        out = self.bn3(self.conv3(out))
        return F.relu(out + x if self.pool is None else torch.cat([out, self.pool(x)], 1))


class ShuffleNetV1(nn.Module):
    """ShuffleNet (Zhang et al., CVPR 2018): three stages of 4, 8, 4 blocks, widths 240, 480, 960, 3 groups."""

    def __init__(self, in_channels: int, image_size: int, num_outputs: int) -> None:
        super().__init__()
        self.stem = stem(in_channels, 24, image_size, kernel=1)
        stages: list[nn.Module] = []
        channels = 24
        for stage, (width, count) in enumerate(STAGES):
            blocks = []
            for number in range(count):
                first_groups = GROUPS if stage or number else 1  # 24 channels are too few for groups
                blocks.append(ShuffleBlock(channels, width, 1 if number else 2, first_groups))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return read_out(self.head, self.stages(self.stem(x)).mean((2, 3)))


NETWORKS = {"shufflenet_v1": ShuffleNetV1}
