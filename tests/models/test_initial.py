"""Initial weights: the spread of every layer follows from the published rule and its shape."""

import math

import pytest
import torch
from torch import nn

from gankd.models import build_net
from gankd.models.initial import Initial, draw_weights


def drawn(name: str, side: int, how: Initial, seed: int = 0) -> nn.Module:
    net = build_net(name, in_channels=3, image_size=side, num_outputs=10, seed=0)
    draw_weights(net, how, name, side, seed)
    return net


def spread(layer: nn.Conv2d | nn.Linear, rule: str) -> float:
    """Standard deviation of a layer's weights under a rule."""
    if rule == "small":
        return 0.01
    per_output = layer.weight[0].numel()
    if rule == "he":
        assert isinstance(layer, nn.Conv2d)
        return math.sqrt(2 / (layer.out_channels * layer.kernel_size[0] ** 2))
    return math.sqrt(1 / (3 * per_output))  # uniform between the roots of 1 / fan-in


@pytest.mark.parametrize(
    ("name", "side", "convolutions", "linear", "biases"),
    [
        ("resnet20", 32, "he", "default", True),
        ("resnet8x4+mlp", 64, "he", "default", True),
        ("resnet18", 64, "default", "default", True),
        ("wrn_16_2", 32, "he", "default", False),
        ("vgg8", 32, "he", "small", False),
        ("vgg8+mlp", 64, "default", "default", True),
        ("mobilenet_v2_half", 32, "he", "small", False),
        ("mobilenet_v2+mlp", 64, "he", "small", False),
        ("shufflenet_v1", 32, "default", "default", True),
        ("vgg11_2021", 32, "default", "default", True),
        ("vgg11_sskd", 64, "he", "small", False),
    ],
)
def test_published_spreads(name: str, side: int, convolutions: str, linear: str, biases: bool) -> None:
    for layer in drawn(name, side, "published").modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear) or layer.weight.numel() < 600:
            continue
        rule = convolutions if isinstance(layer, nn.Conv2d) else linear
        assert layer.weight.std().item() == pytest.approx(spread(layer, rule), rel=0.12), layer
        if isinstance(layer, nn.Linear):
            assert bool(layer.bias.abs().sum() > 0) == biases
    if convolutions == "he":
        plain = [module for module in drawn(name, side, "pytorch").modules() if isinstance(module, nn.Conv2d)]
        for layer in plain[-3:]:
            assert layer.weight.std().item() == pytest.approx(spread(layer, "default"), rel=0.12)


def test_weights_follow_the_seed_and_gankds_own_stay() -> None:
    first, again, other = (drawn("resnet8", 32, "published", seed) for seed in (1, 1, 2))
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.ndim < 2 or not torch.equal(a, c)
    own, plain = (
        drawn("resnet8", 32, "gankd"),
        build_net("resnet8", in_channels=3, image_size=32, num_outputs=10, seed=0),
    )
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), plain.parameters(), strict=True))
