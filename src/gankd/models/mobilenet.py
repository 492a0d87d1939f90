"""MobileNetV2 (Sandler, Howard, Zhu, Zhmoginov, Chen, CVPR 2018)."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from gankd.models.parts import form_of, he_normal, plain_stem, read_out

STAGES = (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
"""Expansion, channels, blocks and stride of each stage (table 2)."""


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 filter per channel, 1x1 projection without activation; a shortcut if the shape is kept."""

    def __init__(self, in_channels: int, channels: int, width: int, stride: int, relu: type[nn.Module]) -> None:
        """Args:
        in_channels, channels: channels of input and output.
        width: channels in between; 0 filters the input without expansion.
        stride: stride of the filter.
        relu: kind of the activations.
        """
        super().__init__()
        layers: list[nn.Module] = []
        if width:
            layers += [nn.Conv2d(in_channels, width, 1, bias=False), nn.BatchNorm2d(width), relu()]
        wide = width or in_channels
        layers += [nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), relu()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.has_shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.has_shortcut else self.layers(x)


class ProjectedResidual(InvertedResidual):
    """Inverted residual block with a projected shortcut where the side is kept and the width is not, as in the first
    version of cGAN-KD.
    """

    def __init__(self, in_channels: int, channels: int, width: int, stride: int, relu: type[nn.Module]) -> None:
        super().__init__(in_channels, channels, width, stride, relu)
        self.projection: nn.Module | None = None
        if stride == 1 and not self.has_shortcut:
            self.projection = nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.projection is None else self.layers(x) + self.projection(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al., CVPR 2018); the half-width one has ReLU instead of ReLU6 and no dropout.

    The half-width network is the student of the CIFAR-100 tables; its first block has a 1x1 convolution too. At 32 px
    the second stage keeps the side, so the last map has 2x2 pixels.
    """

    def __init__(self, in_channels: int, image_size: int, num_outputs: int, *, half: bool) -> None:
        super().__init__()
        share, relu = (0.5, nn.ReLU) if half else (1.0, nn.ReLU6)
        channels = int(32 * share)
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            relu(),
        ]
        self.stem = nn.Sequential(*layers)
        stages: list[nn.Module] = []
        for number, (expansion, full_width, count, stride) in enumerate(STAGES):
            first_stride = 1 if number == 1 and form_of(image_size) == 32 else stride
            blocks = []
            for block in range(count):
                width = 0 if number == 0 and not half else expansion * channels
                out = int(full_width * share)
                blocks.append(InvertedResidual(channels, out, width, 1 if block else first_stride, relu))
                channels = out
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.last = nn.Sequential(nn.Conv2d(channels, 1280, 1, bias=False), nn.BatchNorm2d(1280), relu())
        self.dropout = nn.Dropout(0.0 if half else 0.2)
        self.head = nn.Linear(1280, num_outputs)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        return read_out(self.head, self.dropout(self.last(self.stages(self.stem(x))).mean((2, 3))))


class MobileNetV2Of2021(nn.Module):
    """MobileNetV2 for classes in the first version of cGAN-KD: the first convolution keeps the side, every block
    expands, shortcuts are projected where the width changes. ReLU, no dropout.
    """

    def __init__(self, in_channels: int, image_size: int, num_outputs: int) -> None:
        super().__init__()
        self.stem = plain_stem(in_channels, 32)
        channels, stages = 32, []
        for number, (expansion, width, count, stride) in enumerate(STAGES):
            first_stride = 1 if number == 1 and form_of(image_size) == 32 else stride
            blocks = []
            for block in range(count):
                step = 1 if block else first_stride
                blocks.append(ProjectedResidual(channels, width, expansion * channels, step, nn.ReLU))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.last = nn.Sequential(nn.Conv2d(channels, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU())
        self.head = nn.Linear(1280, num_outputs)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        return read_out(self.head, self.last(self.stages(self.stem(x))).mean((2, 3)))


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mobilenet_v2": partial(MobileNetV2, half=False),
    "mobilenet_v2_2021": MobileNetV2Of2021,
    "mobilenet_v2_half": partial(MobileNetV2, half=True),
}
