"""CIFAR residual networks (He, Zhang, Ren, Sun, CVPR 2016, section 4.2) for 8 to 32 pixels."""

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where width or side changes."""

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
    """Three stages of (depth - 2) / 6 blocks with widths 1, 2 and 4 times `width`; global mean; linear head."""

    def __init__(self, in_channels: int, num_outputs: int, depth: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        channels = width
        for stage in range(3):
            for number in range((depth - 2) // 6):
                out = width * 2**stage
                blocks.append(BasicBlock(channels, out, stride=2 if stage and not number else 1))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def resnet8(in_channels: int, image_size: int, num_outputs: int) -> ResNet:
    """One block a stage, widths 16, 32, 64."""
    return ResNet(in_channels, num_outputs, depth=8, width=16)


def resnet14(in_channels: int, image_size: int, num_outputs: int) -> ResNet:
    """Two blocks a stage, widths 16, 32, 64."""
    return ResNet(in_channels, num_outputs, depth=14, width=16)


def resnet20(in_channels: int, image_size: int, num_outputs: int) -> ResNet:
    """Three blocks a stage, widths 16, 32, 64."""
    return ResNet(in_channels, num_outputs, depth=20, width=16)


def resnet8x2(in_channels: int, image_size: int, num_outputs: int) -> ResNet:
    """One block a stage, widths 32, 64, 128."""
    return ResNet(in_channels, num_outputs, depth=8, width=32)


def resnet8x4(in_channels: int, image_size: int, num_outputs: int) -> ResNet:
    """One block a stage, widths 64, 128, 256."""
    return ResNet(in_channels, num_outputs, depth=8, width=64)


def resnet14x2(in_channels: int, image_size: int, num_outputs: int) -> ResNet:
    """Two blocks a stage, widths 32, 64, 128."""
    return ResNet(in_channels, num_outputs, depth=14, width=32)


def resnet20x2(in_channels: int, image_size: int, num_outputs: int) -> ResNet:
    """Three blocks a stage, widths 32, 64, 128."""
    return ResNet(in_channels, num_outputs, depth=20, width=32)
