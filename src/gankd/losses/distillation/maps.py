"""What losses on feature maps share: bringing maps to one size, and the layers that bring them to one width."""

import torch.nn.functional as F
from torch import Tensor, nn


def same_size(*maps: Tensor) -> list[Tensor]:
    """Average maps (N, C, H, W) down to the smallest height and width among them; channels may differ."""
    height, width = min(m.shape[-2] for m in maps), min(m.shape[-1] for m in maps)
    return [m if m.shape[-2:] == (height, width) else F.adaptive_avg_pool2d(m, (height, width)) for m in maps]


def project(in_channels: int, out_channels: int) -> nn.Module:
    """1x1 convolution and batch normalisation from one width to another."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
