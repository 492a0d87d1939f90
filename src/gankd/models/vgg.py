"""VGG networks with batch norm (Simonyan, Zisserman, ICLR 2015) in the forms used by the distillation papers."""

from functools import partial

from torch import Tensor, nn

from gankd.models.parts import form_of, he_normal, read_out, require_side

WIDTHS = 64, 128, 256, 512, 512
LAYERS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions of each block; 8 is CRD's plan S, the others are A, B, D and E of the paper."""


class VGG(nn.Module):
    """VGG with batch norm (Simonyan, Zisserman, ICLR 2015): five blocks of 3x3 convolutions, widths 64 to 512.

    32 px: three poolings and the global mean. 64 px: five poolings and a linear layer on the 2x2 map. 128 px: three
    poolings, one of 4x4, and two hidden layers of 1024 with dropout.

    Args:
        five_poolings: five poolings by 2 at 32 px, too, as in the first version of cGAN-KD.
        mean: the global mean behind four poolings at 64 px, as for SSKD in that version.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        num_outputs: int,
        *,
        depth: int,
        five_poolings: bool = False,
        mean: bool = False,
    ) -> None:
        super().__init__()
        require_side(image_size, 8)
        form = form_of(image_size)
        blocks: list[nn.Module] = []
        channels = in_channels
        for number, (width, count) in enumerate(zip(WIDTHS, LAYERS[depth], strict=True)):
            layers: list[nn.Module] = []
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            blocks.append(nn.Sequential(*layers))
            if number < (4 if form == 64 or five_poolings else 3):
                blocks.append(nn.MaxPool2d(2))
        mean = mean or (form == 32 and not five_poolings)
        blocks.append(nn.AdaptiveAvgPool2d(1) if mean else nn.MaxPool2d(4 if form == 128 else 2))
        self.blocks = nn.Sequential(*blocks)
        features = channels if mean or form == 32 else channels * (image_size // 32) ** 2
        self.hidden = nn.Sequential()
        if form == 128:
            for _ in range(2):
                self.hidden.extend([nn.Linear(features, 1024), nn.ReLU(), nn.Dropout(0.5)])
                features = 1024
        self.head = nn.Linear(features, num_outputs)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        return read_out(self.head, self.hidden(self.blocks(x).flatten(1)))


NETWORKS = {
    **{f"vgg{depth}": partial(VGG, depth=depth) for depth in LAYERS},
    **{f"vgg{depth}_2021": partial(VGG, depth=depth, five_poolings=True) for depth in (11, 13)},
    "vgg11_sskd": partial(VGG, depth=11, mean=True),
}
