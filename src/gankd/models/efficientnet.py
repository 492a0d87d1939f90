"""EfficientNet-B0 (Tan, Le, ICML 2019)."""

import torch.nn.functional as F
from torch import Tensor, nn

from gankd.models.parts import form_of, he_normal, read_out

STAGES = (
    *((1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2)),
    *((6, 5, 112, 3, 1), (6, 5, 192, 4, 2), (6, 3, 320, 1, 1)),
)
"""Expansion, side of the kernel, channels, blocks and stride of each stage (table 1)."""
DROP = 0.2
"""Dropout before the head, and share of images that skip the last block; earlier blocks in proportion."""


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate computed from the means of all channels (Hu, Shen, Sun, CVPR 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()


class MBConv(nn.Module):
    """Inverted residual block with squeeze and excitation; if it has a shortcut, a share `drop` of images skip it."""

    def __init__(
        self, in_channels: int, channels: int, *, expansion: int, kernel: int, stride: int, drop: float
    ) -> None:
        super().__init__()
        width = expansion * in_channels
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [nn.Conv2d(in_channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU()]
        layers += [nn.Conv2d(width, width, kernel, stride, kernel // 2, groups=width, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.SiLU(), SqueezeExcitation(width, in_channels // 4)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.has_shortcut = stride == 1 and in_channels == channels
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(x)
        if not self.has_shortcut:
            return out
        return x + out * F.dropout(out.new_ones(len(out), 1, 1, 1), self.drop, self.training)


class EfficientNet(nn.Module):
    """EfficientNet-B0 (Tan, Le, ICML 2019); the first convolution keeps the side of images up to 64 px."""

    def __init__(self, in_channels: int, image_size: int, num_outputs: int) -> None:
        super().__init__()
        channels = 32
        stride = 2 if form_of(image_size) == 128 else 1
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.SiLU()
        )
        stages: list[nn.Module] = []
        done, total = 0, sum(count for _, _, _, count, _ in STAGES)
        for expansion, kernel, width, count, stride in STAGES:
            blocks = []
            for number in range(count):
                settings = {"expansion": expansion, "kernel": kernel, "stride": 1 if number else stride}
                blocks.append(MBConv(channels, width, **settings, drop=DROP * done / total))
                channels, done = width, done + 1
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.last = nn.Sequential(nn.Conv2d(channels, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.SiLU())
        self.dropout = nn.Dropout(DROP)
        self.head = nn.Linear(1280, num_outputs)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        return read_out(self.head, self.dropout(self.last(self.stages(self.stem(x))).mean((2, 3))))


NETWORKS = {"efficientnet_b0": EfficientNet}
