"""ImageNet residual networks (He, Zhang, Ren, Sun, CVPR 2016, table 1), with stems for small images."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from gankd.models.parts import form_of, he_normal, read_out, stem
from gankd.models.resnet import BasicBlock


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last one four times as wide, and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = 4 * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class ImageNetResNet(nn.Module):
    """ImageNet ResNet (He et al., CVPR 2016, table 1): four stages of widths 64 to 512, times 4 with bottlenecks.

    At 64 px the first stage halves the side, instead of the stem.
    """

    def __init__(
        self, in_channels: int, image_size: int, num_outputs: int, *, layers: tuple[int, ...], bottleneck: bool
    ) -> None:
        super().__init__()
        form = form_of(image_size)
        self.stem = stem(in_channels, 64, 32 if form == 64 else image_size)
        stages: list[nn.Module] = []
        channels = 64
        for stage, count in enumerate(layers):
            width = 64 * 2**stage
            blocks: list[nn.Module] = []
            for number in range(count):
                halves = number == 0 and (stage > 0 or form == 64)
                blocks.append((Bottleneck if bottleneck else BasicBlock)(channels, width, 2 if halves else 1))
                channels = 4 * width if bottleneck else width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, num_outputs)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        return read_out(self.head, self.stages(self.stem(x)).mean((2, 3)))


NETWORKS = {
    "resnet18": partial(ImageNetResNet, layers=(2, 2, 2, 2), bottleneck=False),
    "resnet34": partial(ImageNetResNet, layers=(3, 4, 6, 3), bottleneck=False),
    "resnet50": partial(ImageNetResNet, layers=(3, 4, 6, 3), bottleneck=True),
}
