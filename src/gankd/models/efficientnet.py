"""EfficientNet-B0 (Tan, Le, ICML 2019)."""

from collections.abc import Callable
from functools import partial
from typing import Literal

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


def convolution(
    in_channels: int, channels: int, kernel: int, stride: int, *, groups: int = 1, same: bool = False
) -> list[nn.Module]:
    """Convolution without bias. Equal padding on all sides, or, if `same` and the side is halved, TensorFlow's "same"
    for even sides: one pixel less on the left and at the top.
    """
    pad = kernel // 2
    if not same or stride == 1:
        return [nn.Conv2d(in_channels, channels, kernel, stride, pad, groups=groups, bias=False)]
    padding = nn.ZeroPad2d((pad - 1, pad, pad - 1, pad))
    return [padding, nn.Conv2d(in_channels, channels, kernel, stride, groups=groups, bias=False)]


class MBConv(nn.Module):
    """Inverted residual block with squeeze and excitation; if it has a shortcut, a share `drop` of images skip it."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        expansion: int,
        kernel: int,
        stride: int,
        drop: float,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        same: bool = False,
    ) -> None:
        super().__init__()
        width = expansion * in_channels
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [nn.Conv2d(in_channels, width, 1, bias=False), norm(width), nn.SiLU()]
        layers += convolution(width, width, kernel, stride, groups=width, same=same)
        layers += [norm(width), nn.SiLU(), SqueezeExcitation(width, in_channels // 4)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, channels, 1, bias=False), norm(channels))
        self.has_shortcut = stride == 1 and in_channels == channels
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(x)
        if not self.has_shortcut:
            return out
        return x + out * F.dropout(out.new_ones(len(out), 1, 1, 1), self.drop, self.training)


class EfficientNet(nn.Module):
    """EfficientNet-B0 (Tan, Le, ICML 2019); the first convolution keeps the side of images up to 64 px.

    Args:
        of: form. 2021: first version of cGAN-KD for classes, without the 1x1 convolution to 1280 channels, and a first
            convolution that keeps the side; rc49: the same for RC-49, with the padding and batch normalisation of
            TensorFlow and a first convolution that halves the side.
    """

    def __init__(
        self, in_channels: int, image_size: int, num_outputs: int, *, of: Literal["", "2021", "rc49"] = ""
    ) -> None:
        super().__init__()
        channels, same = 32, of == "rc49"
        norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01) if same else nn.BatchNorm2d
        stride = 2 if same or (form_of(image_size) == 128 and of != "2021") else 1
        first = convolution(in_channels, channels, 3, stride, same=same)
        self.stem = nn.Sequential(*first, norm(channels), nn.SiLU())
        stages: list[nn.Module] = []
        done, total = 0, sum(count for _, _, _, count, _ in STAGES)
        for expansion, kernel, width, count, stride in STAGES:
            blocks = []
            for number in range(count):
                settings = {"expansion": expansion, "kernel": kernel, "stride": 1 if number else stride}
                blocks.append(MBConv(channels, width, **settings, drop=DROP * done / total, norm=norm, same=same))
                channels, done = width, done + 1
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.last = nn.Sequential()
        if of != "2021":
            self.last.extend([nn.Conv2d(channels, 1280, 1, bias=False), norm(1280), nn.SiLU()])
            channels = 1280
        self.dropout = nn.Dropout(DROP)
        self.head = nn.Linear(channels, num_outputs)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        return read_out(self.head, self.dropout(self.last(self.stages(self.stem(x))).mean((2, 3))))


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "efficientnet_b0": EfficientNet,
    "efficientnet_b0_2021": partial(EfficientNet, of="2021"),
    "efficientnet_b0_rc49": partial(EfficientNet, of="rc49"),
}
