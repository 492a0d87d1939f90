"""ShuffleNetV2 (Ma, Zhang, Zheng, Sun, ECCV 2018)."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from gankd.models.parts import form_of, plain_stem, read_out, stem

STAGES = (116, 4), (232, 8), (464, 4)
"""Channels and blocks of each stage (table 5, 1x)."""


def pointwise(in_channels: int, channels: int) -> list[nn.Module]:
    """1x1 convolution, batch norm, ReLU."""
    return [nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]


def depthwise(channels: int, stride: int) -> list[nn.Module]:
    """3x3 convolution of each channel, batch norm."""
    return [nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False), nn.BatchNorm2d(channels)]


class SplitBlock(nn.Module):
    """Half of the channels pass, the other half is filtered; at stride 2 both halves are computed from all channels."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        half = channels // 2
        self.short: nn.Module | None = None
        if stride == 2:
            self.short = nn.Sequential(*depthwise(in_channels, 2), *pointwise(in_channels, half))
        self.long = nn.Sequential(
            *pointwise(half if self.short is None else in_channels, half),
            *depthwise(half, stride),
            *pointwise(half, half),
        )
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        if self.short is None:
            passing, filtered = x.chunk(2, 1)
            out = torch.cat([passing, self.long(filtered)], 1)
        else:
            out = torch.cat([self.short(x), self.long(x)], 1)
        return self.shuffle(out)


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 1x (Ma et al., ECCV 2018): three stages of 4, 8, 4 blocks, widths 116, 232, 464, then 1024.

    Args:
        of: form of the stem. 2021: first version of cGAN-KD for classes, a 3x3 convolution, and a max-pooling from
            64 px on; rc49: the same for RC-49, where the convolution halves the side, too; sskd: as 2021, with a 1x1
            convolution.
    """

    def __init__(
        self, in_channels: int, image_size: int, num_outputs: int, *, of: Literal["", "2021", "rc49", "sskd"] = ""
    ) -> None:
        super().__init__()
        if of:
            stride, kernel = 2 if of == "rc49" else 1, 1 if of == "sskd" else 3
            self.stem = plain_stem(in_channels, 24, stride=stride, kernel=kernel, pool=form_of(image_size) > 32)
        else:
            self.stem = stem(in_channels, 24, image_size, kernel=1)
        stages: list[nn.Module] = []
        channels = 24
        for width, count in STAGES:
            blocks = []
            for number in range(count):
                blocks.append(SplitBlock(channels, width, 1 if number else 2))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.last = nn.Sequential(*pointwise(channels, 1024))
        self.head = nn.Linear(1024, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return read_out(self.head, self.last(self.stages(self.stem(x))).mean((2, 3)))


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "shufflenet_v2": ShuffleNetV2,
    "shufflenet_v2_2021": partial(ShuffleNetV2, of="2021"),
    "shufflenet_v2_rc49": partial(ShuffleNetV2, of="rc49"),
    "shufflenet_v2_sskd": partial(ShuffleNetV2, of="sskd"),
}
