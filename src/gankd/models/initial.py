"""Initial weights of zoo networks as their authors drew them."""

from typing import Literal

import torch
from torch import nn

from gankd.models.parts import form_of, he_normal
from gankd.seeds import derive_seed

Initial = Literal["gankd", "pytorch", "published"]
DEEP_RESNETS = ("resnet18", "resnet34", "resnet50")


def draw_weights(net: nn.Module, how: Initial, name: str, image_size: int, seed: int) -> None:
    """Draw the weights of convolutions and linear layers of a zoo network again.

    gankd: leave them. pytorch: PyTorch's defaults throughout, as in the first version of cGAN-KD. published: these, and
    by family what the later versions and RepDistiller set: He's normal for convolutions of ResNets, Wide ResNets, VGG
    and MobileNetV2, but not of VGG (except for SSKD) and ResNet-18 to 50 at 64 px; N(0, 0.01^2) for linear layers of
    the VGG and MobileNetV2 among them; biases of 0 in linear layers of Wide ResNets.

    Args:
        net: changed in place.
        how: which.
        name: zoo name, which may end in a head.
        image_size: side of the images that the network is built for.
        seed: of the weights.
    """
    if how == "gankd":
        return
    base = name.partition("+")[0].partition("(")[0]
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initial weights"))
        for layer in layers:
            layer.reset_parameters()
        if how == "pytorch" or not _has_he(base, image_size):
            return
        he_normal(net)
        for layer in layers:
            if isinstance(layer, nn.Linear) and not base.startswith("resnet"):
                nn.init.zeros_(layer.bias)
                if not base.startswith("wrn"):
                    nn.init.normal_(layer.weight, std=0.01)


def _has_he(name: str, image_size: int) -> bool:
    """True if the convolutions of this network were published with He's normal."""
    default_at_64 = (name.startswith("vgg") and not name.endswith("_sskd")) or name in DEEP_RESNETS
    if name.endswith(("_2021", "_rc49")) or (default_at_64 and form_of(image_size) == 64):
        return False
    return name.startswith(("resnet", "wrn", "vgg", "mobilenet"))
