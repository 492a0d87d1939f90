"""CIFAR residual networks (He, Zhang, Ren, Sun, CVPR 2016, section 4.2)."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from gankd.models.parts import form_of, read_out, stem


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a projection where width or side changes."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """CIFAR ResNet (He et al., CVPR 2016): three stages of (depth - 2) / 6 blocks, widths 1, 2 and 4 times `width`.

    Initial weights are PyTorch's. At 64 px the first stage halves the side, instead of the stem.

    Args:
        in_channels, num_outputs, image_size: sizes of the task.
        depth: layers with weights, 6 n + 2.
        width: channels of the first stage.
        stem_width: channels of the stem; default: `width`.
    """

    def __init__(
        self,
        in_channels: int,
        num_outputs: int,
        depth: int,
        width: int,
        *,
        image_size: int = 32,
        stem_width: int | None = None,
    ) -> None:
        super().__init__()
        form = form_of(image_size)
        channels = stem_width or width
        self.stem = stem(in_channels, channels, 32 if form == 64 else image_size)
        blocks: list[nn.Module] = []
        for stage in range(3):
            for number in range((depth - 2) // 6):
                out = width * 2**stage
                halves = number == 0 and (stage > 0 or form == 64)
                blocks.append(BasicBlock(channels, out, stride=2 if halves else 1))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return read_out(self.head, self.blocks(self.stem(x)).mean((2, 3)))


NETWORKS = {
    **{f"resnet{depth}": partial(ResNet, depth=depth, width=16) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x2": partial(ResNet, depth=depth, width=32) for depth in (8, 14, 20)},
    **{f"resnet{depth}x4": partial(ResNet, depth=depth, width=64, stem_width=32) for depth in (8, 32)},
}
"""The x4 networks have a stem of half their width, as published; x2 is our own."""
