"""Plain convolutional networks for 8 to 32 pixels: the smallest useful students."""

from functools import partial

from torch import Tensor, nn

from gankd.models.parts import read_out


class Cnn(nn.Module):
    """Plain CNN: Conv3-BN-ReLU with 1, 2, then 4 times `width` channels, halving the side down to about 4 px."""

    def __init__(self, in_channels: int, image_size: int, num_outputs: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        side, channels = image_size, in_channels
        for stage in range(8):
            out = width * 2 ** min(stage, 2)
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
            if side <= 4:
                break
            layers.append(nn.MaxPool2d(2))
            side //= 2
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return read_out(self.head, self.features(x).mean((2, 3)))


NETWORKS = {f"cnn{width}": partial(Cnn, width=width) for width in (4, 8, 16, 32)}
