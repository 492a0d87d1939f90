"""Parts shared by the families of the zoo: choice of the published form, stems, initial weights, heads."""

from typing import Literal

import torch
from torch import Tensor, nn

from gankd.errors import ModelError

Form = Literal[32, 64, 128]


def form_of(image_size: int) -> Form:
    """Side in pixels of the published form of a network for images of `image_size` px: the nearest by ratio.

    The cGAN-KD experiments use three forms of each family: for CIFAR, for regression at 64 px and for ImageNet-100 at
    128 px.
    """
    return 32 if image_size < 46 else 64 if image_size < 91 else 128


def stem(in_channels: int, channels: int, image_size: int, *, kernel: int = 3, bare: bool = False) -> nn.Sequential:
    """Layers before the first stage. 32 px: a convolution at full side; 64 px: a 4x4 convolution with stride 2;
    128 px: the same and a max-pooling, so the stages see a quarter of the side.

    Args:
        in_channels, channels: channels of the images, and of the first stage's input.
        image_size: side of the images in pixels.
        kernel: side of the kernel in the form for 32 px.
        bare: a convolution alone in the form for 32 px, for blocks that begin with batch norm and ReLU of their own.
    """
    form = form_of(image_size)
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
        if form == 32
        else nn.Conv2d(in_channels, channels, 4, stride=2, padding=1, bias=False)
    ]
    if form != 32 or not bare:
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
    if form == 128:
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    return nn.Sequential(*layers)


def plain_stem(
    in_channels: int, channels: int, *, stride: int = 1, kernel: int = 3, pool: bool = False
) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU, and a 3x3 max-pooling with stride 2 if `pool`: stem of networks whose
    published form has another one than `stem`.
    """
    pooling = [nn.MaxPool2d(3, stride=2, padding=1)] * pool
    convolution = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(), *pooling)


def he_normal(net: nn.Module) -> None:
    """Draw every convolution from a normal of variance 2 / (fan out) (He et al., ICCV 2015); biases are 0."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def read_out(head: nn.Module, x: Tensor) -> Tensor:
    """Outputs of a network's head for its input, in the type of its weights, which autocast would round.

    bfloat16 has 8 bits: half a degree where angles range over 120.
    """
    if not torch.amp.is_autocast_available(x.device.type):  # a meta device, which only counts
        return head(x)
    with torch.autocast(x.device.type, enabled=False):
        return head(x.to(next(head.parameters()).dtype))


def mlp_head(features: int, num_outputs: int, width: int = 512) -> nn.Sequential:
    """Head of the cGAN-KD regression networks, two hidden layers of `width`, but without the ReLU after the output.

    That ReLU keeps values from falling below the lowest label but has no gradient there, and losses that read the
    teacher's last layer need it to be linear.
    """
    return nn.Sequential(
        *(nn.Linear(features, width), nn.BatchNorm1d(width), nn.ReLU()),
        *(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()),
        nn.Linear(width, num_outputs),
    )


def require_side(image_size: int, least: int) -> None:
    """Raise ModelError for images that are too small for the poolings of a network."""
    if image_size < least:
        raise ModelError(f"its poolings need images of at least {least} px, got {image_size}")
