"""Feature maps read from outside: found at stage boundaries of nets of every style, paired, and equal to what the
network computes by hand. The nets are written as users write them.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.errors import ModelError
from gankd.models import ZOO, build_net
from gankd.models.contract import Ensemble, ImageModel
from gankd.models.head import teacher_head
from gankd.models.tapped import Signals, Tap, Tapped, as_map
from gankd.models.taps import check_taps, find_taps, pair_taps
from gankd.seeds import rng
from gankd.tasks import Classification, Regression

CLASSES = Classification(num_classes=3)
AGES = Regression(low=20.0, high=60.0)


@pytest.fixture(autouse=True)
def _same_weights() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def images(size: int = 16, count: int = 4) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=rng(0, "x")).to(torch.uint8)


def wrap(net: nn.Module, size: int = 16, offset: float = 0.0, factor: float = 1.0) -> ImageModel:
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    return ImageModel(net, size=size, mean=mean, std=std, offset=offset, factor=factor).eval()


def zoo(name: str, size: int = 16, outputs: int = 3, seed: int = 0) -> nn.Module:
    return build_net(name, in_channels=3, image_size=size, num_outputs=outputs, seed=seed)


def found(net: nn.Module, size: int = 16) -> dict[str, tuple[int, int, int]]:
    model = wrap(net, size)
    taps = find_taps(model, images(size))
    if taps:
        assert check_taps(model, images(size), [tap.path for tap in taps]) == taps  # each could be named by hand
    return {tap.path: tap.shape for tap in taps}


class Net(nn.Module):
    """`body` to a map or vector, then global mean and a linear head."""

    def __init__(self, width: int, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for name, part in self.named_children():
            if name != "head":
                x = part(x)
        return self.head(x.mean((2, 3)))


def conv(inside: int, outside: int, side: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, side, stride, side // 2, groups=groups, bias=False)


class Functional(nn.Module):
    """As in beginners' tutorials: no padding, and everything but the layers written in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 8, 5)
        self.fc1, self.fc2 = nn.Linear(8 * 4 * 4, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Vgg(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside in ((3, 4), (4, 8), (8, 16)):
            layers += [conv(inside, outside), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]
            layers += [conv(outside, outside), nn.BatchNorm2d(outside), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(nn.Linear(64, 8), nn.ReLU(True), nn.Dropout(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class Bottleneck(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(inside, 4, 1), conv(4, 4, 3, stride)  # the stride comes second
        self.conv3, self.relu = conv(4, outside, 1), nn.ReLU(inplace=True)
        self.downsample = conv(inside, outside, 1, stride) if stride > 1 or inside != outside else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv3(self.relu(self.conv2(self.relu(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def resnet() -> nn.Module:
    return Net(
        24,
        stem=nn.Sequential(conv(3, 4, 3, 2), nn.ReLU(inplace=True)),
        maxpool=nn.MaxPool2d(3, 2, 1),
        layer1=nn.Sequential(Bottleneck(4, 8, 1), Bottleneck(8, 8, 1)),
        layer2=nn.Sequential(Bottleneck(8, 16, 2), Bottleneck(16, 16, 1)),
        layer3=nn.Sequential(Bottleneck(16, 24, 2), Bottleneck(24, 24, 1)),
    )


class Gated(nn.Module):
    """A block that squeezes and excites at its very end."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv, self.reduce, self.expand = conv(inside, outside, 3, stride), conv(outside, 2, 1), conv(2, outside, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class InvertedResidual(nn.Module):
    """Expansion at the old resolution, depthwise convolution, linear bottleneck."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.skip = stride == 1 and inside == outside
        wide = 3 * inside
        self.body = nn.Sequential(
            *(conv(inside, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True)),
            *(conv(wide, wide, 3, stride, wide), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True)),
            *(Gated(wide, wide, 1), conv(wide, outside, 1), nn.BatchNorm2d(outside)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skip else self.body(x)


def mobilenet() -> nn.Module:
    blocks = [
        InvertedResidual(4, 4, 1),
        InvertedResidual(4, 6, 2),
        InvertedResidual(6, 6, 1),
        InvertedResidual(6, 8, 2),
    ]
    return Net(8, stem=conv(3, 4), blocks=nn.Sequential(*blocks))


class Dense(nn.Module):
    def __init__(self, inside: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(inside, 4), conv(inside + 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.conv1(F.relu(x))], 1)
        return torch.cat([x, self.conv2(F.relu(x))], 1)


class Transition(nn.Sequential):
    def __init__(self, inside: int) -> None:
        super().__init__(nn.BatchNorm2d(inside), nn.ReLU(inplace=True), conv(inside, inside // 2, 1), nn.AvgPool2d(2))


def densenet() -> nn.Module:
    return Net(16, stem=conv(3, 8), dense1=Dense(8), down1=Transition(16), dense2=Dense(8), norm=nn.BatchNorm2d(16))


class PooledBlock(nn.Module):
    """A block that ends in its pooling."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv, self.relu, self.pool = conv(inside, outside), nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.relu(self.conv(x)))


class Backbone(nn.Module):
    """All of a two-stage network in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.pool, self.conv2 = conv(3, 4), nn.MaxPool2d(2), conv(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.pool(F.relu(self.conv1(x)))))


class Trunk(nn.Module):
    """Three stages in one module, after a stem."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Bottleneck(4, 4, 1), Bottleneck(4, 8, 2), Bottleneck(8, 8, 2)])

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return x


def strided() -> nn.Module:
    """A stage is a plain nn.Sequential that ends in the convolution which halves."""
    layers = (
        [conv(inside, inside), nn.ReLU(), conv(inside, outside, 3, 2), nn.ReLU()]
        for inside, outside in ((4, 6), (6, 8))
    )
    one, two = (nn.Sequential(*stage) for stage in layers)
    return Net(8, stem=nn.Sequential(conv(3, 4, 3, 2), nn.ReLU()), one=one, two=two)


def convnext() -> nn.Module:
    """Before the convolution which halves there is a normalisation at the old resolution."""
    down = nn.Sequential(nn.GroupNorm(1, 4), nn.Conv2d(4, 8, 2, 2))
    return Net(8, stem=nn.Conv2d(3, 4, 2, 2), one=Bottleneck(4, 4, 1), down=down, two=Bottleneck(8, 8, 1))


class Shared(nn.Module):
    """One ReLU and one pooling for all layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, 4), conv(4, 8), conv(8, 8)
        self.relu, self.pool, self.unused = nn.ReLU(), nn.MaxPool2d(2), conv(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        return self.head(self.relu(self.conv3(x)).mean((2, 3)))


class Nested(nn.Module):
    """Modules in a dictionary in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.ModuleDict({"conv": conv(3, 4), "act": nn.ReLU()})
        second = nn.ModuleDict({"conv": conv(4, 8, 3, 2), "act": nn.ReLU()})
        self.stages = nn.ModuleDict({"first": first, "second": second})
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages.values():
            for layer in stage.values():  # type: ignore[operator]
                x = layer(x)
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """Of one head, over tokens (N, T, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*self.qkv(x).chunk(3, 2))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = Attention(width), nn.Sequential(nn.Linear(width, width), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class MixerBlock(nn.Module):
    """Mixes tokens, then channels: 25 channels look like a map of 5 x 5 for a while."""

    def __init__(self, width: int = 25) -> None:
        super().__init__()
        self.tokens, self.channels = nn.Linear(64, 64), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        return x + self.channels(x)


class Vit(nn.Module):
    def __init__(
        self, depth: int = 6, width: int = 8, num_prefix: int = 1, block: Callable[[int], nn.Module] = Block
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.prefix = nn.Parameter(torch.zeros(1, num_prefix, width))
        self.blocks = nn.ModuleList([block(width) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.prefix.expand(len(x), -1, -1), self.patches(x).flatten(2).transpose(1, 2)], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class ChannelsLast(nn.Module):
    """Linear layers on (N, H, W, C), as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.stage1 = nn.Conv2d(3, 6, 2, 2), nn.Sequential(nn.Linear(6, 6), nn.GELU())
        self.stage2, self.head = nn.Sequential(nn.Linear(24, 12), nn.GELU()), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage1(self.patches(x).permute(0, 2, 3, 1))
        x = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], 3)
        return self.head(self.stage2(x).mean((1, 2)))


class SqueezeNet(nn.Module):
    """Its classes come from a 1x1 convolution."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 6), nn.ReLU())
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(6, 3, 1), last, nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).flatten(1)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.ReLU(), nn.Linear(8, 3))


STYLES: list[tuple[Callable[[], nn.Module], dict[str, tuple[int, int, int]]]] = [
    (Functional, {"conv1": (6, 24, 24), "conv2": (8, 8, 8)}),
    (Vgg, {"features.5": (4, 32, 32), "features.12": (8, 16, 16), "features.19": (16, 8, 8)}),
    (resnet, {"layer1": (8, 8, 8), "layer2": (16, 4, 4), "layer3": (24, 2, 2)}),
    (mobilenet, {"blocks.0": (4, 32, 32), "blocks.2": (6, 16, 16), "blocks.3": (8, 8, 8)}),
    (densenet, {"dense1": (16, 32, 32), "norm": (16, 16, 16)}),
    (
        lambda: Net(8, one=PooledBlock(3, 4), two=PooledBlock(4, 6), three=PooledBlock(6, 8)),
        {"one.relu": (4, 32, 32), "two.relu": (6, 16, 16), "three.relu": (8, 8, 8)},
    ),
    (lambda: Net(8, backbone=Backbone()), {"backbone.conv1": (4, 32, 32), "backbone": (8, 16, 16)}),
    (
        lambda: Net(8, stem=conv(3, 4), trunk=Trunk()),
        {"trunk.stages.0": (4, 32, 32), "trunk.stages.1": (8, 16, 16), "trunk.stages.2": (8, 8, 8)},
    ),
    (
        lambda: Net(8, stem=conv(3, 4), one=Gated(4, 4, 1), two=Gated(4, 8, 2)),
        {"one": (4, 32, 32), "two": (8, 16, 16)},
    ),
    (strided, {"one.1": (4, 16, 16), "two.1": (6, 8, 8), "two.3": (8, 4, 4)}),
    (convnext, {"one": (4, 16, 16), "two": (8, 8, 8)}),
    (  # nothing has weights at 8 pixels but the block that leaves them
        lambda: Net(8, stem=conv(3, 4, 3, 2), pool=nn.MaxPool2d(2), one=Bottleneck(4, 6, 2), two=Bottleneck(6, 8, 2)),
        {"stem": (4, 16, 16), "one": (6, 4, 4), "two": (8, 2, 2)},
    ),
    (  # without padding
        lambda: Net(
            6, stem=nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), pool=nn.MaxPool2d(2), two=conv(4, 6)
        ),
        {"stem": (4, 28, 28), "two": (6, 14, 14)},
    ),
    (
        lambda: Net(4, body=nn.Sequential(conv(3, 4), nn.ReLU(), nn.Identity()), pool=nn.MaxPool2d(2)),
        {"body": (4, 32, 32)},
    ),
    (  # a pooling to a fixed size, larger than what it reads
        lambda: Net(4, body=nn.Sequential(conv(3, 4), nn.ReLU(), nn.MaxPool2d(32)), pool=nn.AdaptiveAvgPool2d(30)),
        {"body.1": (4, 32, 32)},
    ),
    (Shared, {"conv1": (4, 32, 32), "conv2": (8, 16, 16), "conv3": (8, 8, 8)}),
    (Nested, {"stages.first.act": (4, 32, 32), "stages.second.act": (8, 16, 16)}),
    (Vit, {f"blocks.{number}": (8, 8, 8) for number in (1, 2, 4, 5)}),
    (lambda: Vit(depth=2), {"blocks.0": (8, 8, 8), "blocks.1": (8, 8, 8)}),
    (
        lambda: Vit(depth=4, width=25, num_prefix=0, block=MixerBlock),
        {f"blocks.{number}": (25, 8, 8) for number in range(4)},
    ),
    (lambda: Vit(depth=1), {"norm": (8, 8, 8)}),
    (ChannelsLast, {"stage1": (6, 16, 16), "stage2": (12, 8, 8)}),
    (lambda: SqueezeNet(nn.ReLU()), {"features.1": (4, 32, 32), "features.4": (6, 16, 16)}),
    (mlp, {}),
]
"""Networks and what is found in them. Each rule of `find_taps`, taken out, turns at least one of these red."""


@pytest.mark.parametrize(("build", "expected"), STYLES)
def test_stage_boundaries_of_nets_of_every_style(
    build: Callable[[], nn.Module], expected: dict[str, tuple[int, int, int]]
) -> None:
    size = 32 if expected else 16
    if build is Functional:
        size = 28
    taps = found(build(), size)
    assert list(taps) == list(expected)
    assert taps == expected


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("cnn4", ["features.2", "features.6", "features.10", "features.14"]),
        ("resnet8", ["blocks.0", "blocks.1", "blocks.2"]),
        ("resnet20", ["blocks.2", "blocks.5", "blocks.8"]),
    ],
)
def test_stage_boundaries_of_the_zoo(name: str, paths: list[str]) -> None:
    assert list(found(zoo(name, 32), 32)) == paths


@pytest.mark.parametrize("name", ZOO)
def test_every_zoo_network_has_stages_at_small_sizes(name: str) -> None:
    size = 32 if name.endswith(("_rc49", "vgg11_2021", "vgg13_2021")) else 8  # published for 32 px or more
    sides = [shape[1] * 8 / size for shape in found(zoo(name, size), size).values()]
    halved = [[8, 4], [8, 4, 2], [8, 4, 2, 1], [4, 2], [4, 2, 1], [4, 2, 1, 0.5], [2, 1, 0.5], [8, 4, 2, 1, 0.5]]
    assert sides in (*halved, [4, 4, 4, 4])  # the last are tokens of a vision transformer


def test_a_net_of_no_matter_how_many_wrappers_has_the_same_stages() -> None:
    inner = found(resnet(), 32)
    wrapped = found(nn.Sequential(nn.Sequential(resnet())), 32)
    assert wrapped == {f"0.0.{path}": shape for path, shape in inner.items()}


def test_names_of_the_popular_models_of_timm() -> None:
    timm = pytest.importorskip("timm")
    stages = {
        "resnet18": [f"layer{number}" for number in (1, 2, 3, 4)],
        "mobilenetv3_small_100": [f"blocks.{number}" for number in (0, 1, 3, 5)],
        "convnext_tiny": [f"stages.{number}" for number in range(4)],
        "vit_tiny_patch16_224": [f"blocks.{number}" for number in (2, 5, 8, 11)],
        "densenet121": [f"features.{name}" for name in ("denseblock1", "denseblock2", "denseblock3", "norm5")],
    }
    for name, paths in stages.items():
        assert list(found(timm.create_model(name, pretrained=False), 224)) == paths


def test_tokens_become_the_map_that_they_were_cut_from() -> None:
    tokens = torch.randn(2, 3 + 16, 5, generator=rng(0, "tokens"))  # three tokens that are no patches
    maps = as_map(tokens, (32, 32))
    assert maps.shape == (2, 5, 4, 4)
    for i in range(4):
        for j in range(4):
            assert torch.equal(maps[:, :, i, j], tokens[:, 3 + 4 * i + j])
    last = torch.randn(2, 4, 4, 7, generator=rng(0, "last"))
    assert torch.equal(as_map(last, (32, 32)), last.permute(0, 3, 1, 2))
    assert as_map(maps, (32, 32)) is maps


def test_maps_of_images_that_are_not_square() -> None:
    tokens = torch.randn(2, 1 + 96, 5, generator=rng(0, "tokens"))  # 8 x 12 patches of 4 pixels
    maps = as_map(tokens, (32, 48))
    assert maps.shape == (2, 5, 8, 12)
    assert torch.equal(maps[:, :, 1, 2], tokens[:, 1 + 14])
    plain = torch.randn(2, 8, 8, 12)  # as many channels as rows
    assert as_map(plain, (32, 48)) is plain
    assert as_map(torch.randn(2, 8, 12, 7), (32, 48)).shape == (2, 7, 8, 12)


class Restless(nn.Module):
    """Draws random numbers and has a part that is to stay in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout())
        self.frozen = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(self.frozen(self.body(x)), 0.5, training=True).mean((2, 3)))


def test_a_dry_run_leaves_the_model_and_the_random_numbers_as_they_were() -> None:
    net = Restless()
    model = wrap(net).train()
    net.frozen.eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    find_taps(model, images())
    check_taps(model, images(), ["body"])
    teacher_head(model, images(), CLASSES)
    with pytest.raises(ModelError):
        check_taps(model, images(), ["nobody"])
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.body.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["find", "check"])
def test_a_network_that_fails_keeps_no_hooks(name: str) -> None:
    model = wrap(nn.Sequential(conv(3, 4), nn.Linear(5, 3))).train()
    with pytest.raises(RuntimeError):
        find_taps(model, images()) if name == "find" else check_taps(model, images(), ["0"])
    assert model.net.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not model.net[0]._forward_hooks  # type: ignore[index]


# ---- paths that the user names


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["conv4"], "'conv4' of the teacher is not a module of Shared; did you mean conv3 or conv2 or conv1?"),
        (["?"], "is not a module of Shared; known: conv1, conv2, conv3"),
        ([""], "is not a module of Shared; known: conv1, conv2, conv3"),
        (["conv1", "conv1"], "'conv1' of the teacher is given twice"),
        (["unused"], "'unused' of the teacher never runs in eval mode; name a module that does"),
        (["relu"], "'relu' of the teacher runs 3 times for a batch"),
        (["conv1", "head"], r"'head' of the teacher gives shape \(2, 3\), but a feature map is \(N, C, H, W\)"),
        (["conv2", "conv1"], "must be given in the order in which they run, shallow to deep: conv1, conv2"),
    ],
)
def test_what_can_be_wrong_with_a_path(paths: list[str], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        check_taps(wrap(Shared()), images(), paths, "teacher")
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("(see gankd inspect TEACHER STUDENT)")


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class GivesPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair, self.head = Pair(), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pair(x)[0].mean((2, 3)))


def test_a_module_that_gives_no_tensor_is_no_tap() -> None:
    assert found(GivesPair()) == {}
    with pytest.raises(ModelError, match="'pair' of the network gives a tuple, but a feature map"):
        check_taps(wrap(GivesPair()), images(), ["pair"])
    with pytest.raises(ModelError, match="'pear' .* is not a module of Sequential; it has no feature maps at all"):
        check_taps(wrap(mlp()), images(), ["pear"])


def test_a_path_that_is_no_stage_boundary_may_be_named() -> None:
    taps = check_taps(wrap(zoo("resnet8")), images(), ["stem.0", "blocks.1.conv1"])
    assert [tap.shape for tap in taps] == [(16, 16, 16), (32, 8, 8)]


# ---- pairs


def chain(sides: Sequence[float], size: int = 32) -> list[Tap]:
    return [Tap(f"stage{number}", (4, int(side), int(side)), (size, size)) for number, side in enumerate(sides)]


def sides_of(student: Sequence[float], teacher: Sequence[float], size: int = 32) -> list[tuple[int, int]]:
    return [(a.shape[1], b.shape[1]) for a, b in pair_taps(chain(student), chain(teacher, size))]


def test_pairs_solved_by_hand() -> None:
    assert sides_of([32, 16, 8], [32, 16, 8]) == [(32, 32), (16, 16), (8, 8)]
    assert sides_of([32, 16, 8, 4], [32, 16, 8]) == [(32, 32), (16, 16), (4, 8)]  # the deepest meet at any price
    assert sides_of([16, 8], [32, 16, 8, 4]) == [(16, 16), (8, 4)]
    assert sides_of([8, 4], [112, 56, 28, 14], size=224) == [(8, 56), (4, 14)]  # relative to the image
    assert sides_of([16, 4], [32, 8, 4]) == [(16, 8), (4, 4)]  # 32 and 8 are as far from 16: the deeper one
    assert sides_of([8, 8], [16, 8, 8, 8, 8]) == [(8, 8), (8, 8)]
    assert [b.path for _, b in pair_taps(chain([8, 8]), chain([16, 8, 8, 8, 8]))] == ["stage3", "stage4"]
    assert pair_taps([], chain([8])) == pair_taps(chain([8]), []) == []


@pytest.mark.parametrize("trial", range(20))
def test_pairs_are_the_best_of_all_that_keep_the_order(trial: int) -> None:
    numbers = rng(trial, "pairs")
    short, long = (
        torch.randint(2, 33, (count,), generator=numbers).sort(descending=True).values.tolist() for count in (3, 6)
    )
    costs = {
        choice: sum(abs(math.log2(a / long[b])) for a, b in zip(short, choice, strict=True))
        for choice in combinations(range(6), 3)
        if choice[-1] == 5
    }
    least = min(costs.values())
    best = max(choice[::-1] for choice, cost in costs.items() if cost < least + 1e-6)[::-1]
    expected = [(f"stage{a}", f"stage{b}") for a, b in enumerate(best)]
    assert [(a.path, b.path) for a, b in pair_taps(chain(short), chain(long))] == expected
    assert [(b.path, a.path) for a, b in pair_taps(chain(long), chain(short))] == expected


# ---- reading


def test_signals_are_what_the_network_computes_and_carry_gradients() -> None:
    net = zoo("resnet14")
    model = wrap(net)
    with Tapped(model, find_taps(model, images())) as tapped:
        signals = tapped(images())
    x = net.stem(model.normalise(images()))  # type: ignore[operator]
    maps = []
    for number, block in enumerate(net.blocks):  # type: ignore[arg-type]
        x = block(x)
        maps += [x] if number in (1, 3, 5) else []
    torch.testing.assert_close(signals.outputs, model(images()))
    torch.testing.assert_close(signals.embedding, x.mean((2, 3)))
    torch.testing.assert_close(signals.features, maps)
    assert signals.preactivations == []

    def gradients(features: list[Tensor]) -> list[Tensor | None]:
        loss = sum((feature.square().mean() for feature in features), torch.zeros(()))
        return list(torch.autograd.grad(loss, list(net.parameters()), allow_unused=True))

    torch.testing.assert_close(gradients(signals.features), gradients(maps))


def test_tapping_changes_nothing_in_the_model() -> None:
    model = wrap(zoo("cnn4"))
    names, outputs = list(model.state_dict()), model(images())
    tapped = Tapped(model, find_taps(model, images()))
    assert list(model.state_dict()) == names
    assert {id(p) for p in tapped.parameters()} == {id(p) for p in model.parameters()}
    assert torch.equal(model(images()), outputs)
    assert not tapped._caught  # outside of its own forward pass nothing is kept
    tapped(images())
    assert not tapped._caught
    tapped.close()
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_vision_transformer_gives_maps_of_its_patches() -> None:
    net = Vit(num_prefix=2)
    model = wrap(net)
    with Tapped(model, find_taps(model, images())) as tapped:
        signals = tapped(images())
    assert [tuple(feature.shape) for feature in signals.features] == [(4, 8, 4, 4)] * 4
    kept: list[Tensor] = []
    net.blocks[2].register_forward_hook(lambda _, inputs, output: kept.append(output))
    model(images())
    torch.testing.assert_close(signals.features[1].flatten(2), kept[0][:, 2:].transpose(1, 2))


def test_members_of_an_ensemble_are_side_by_side() -> None:
    members = [zoo("cnn4", seed=seed) for seed in range(3)]
    model, singles = wrap(Ensemble(members)), [wrap(member) for member in members]
    taps = find_taps(model, images())
    assert [tap.path for tap in taps] == [tap.path for tap in find_taps(singles[0], images())]
    assert [tap.shape[0] for tap in taps] == [3 * tap.shape[0] for tap in find_taps(singles[0], images())]
    with Tapped(model, taps, preactivations=True) as tapped:
        signals = tapped(images())
    assert [tuple(feature.shape[1:]) for feature in signals.features] == [tap.shape for tap in taps]
    parts = []
    for single in singles:
        with Tapped(single, taps, preactivations=True) as tapped:
            parts.append(tapped(images()))
    torch.testing.assert_close(signals.embedding, torch.cat([part.embedding for part in parts], 1))
    for number in range(len(taps)):
        torch.testing.assert_close(signals.features[number], torch.cat([part.features[number] for part in parts], 1))
        before = torch.cat([part.preactivations[number] for part in parts], 1)
        torch.testing.assert_close(signals.preactivations[number], before)


class Overwriting(nn.Module):
    """Works in place on the map of the stage before."""

    def __init__(self) -> None:
        super().__init__()
        self.stage, self.last, self.head = conv(3, 4), conv(4, 4, 3, 2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(F.relu_(self.stage(x))).mean((2, 3)))


def test_a_map_that_is_overwritten_later_is_read_as_it_was() -> None:
    net = Overwriting()
    model = wrap(net)
    taps = find_taps(model, images())
    assert [(tap.path, tap.overwritten) for tap in taps] == [("stage", True), ("last", False)]
    expected = net.stage(model.normalise(images()))
    assert (expected < 0).any()
    for which in (taps, [tap.path for tap in taps]):
        with Tapped(model, which) as tapped:
            torch.testing.assert_close(tapped(images()).features[0], expected)


def test_a_tap_that_fails_to_run_is_named() -> None:
    with (
        Tapped(wrap(Shared()), ["unused"]) as tapped,
        pytest.raises(ModelError, match="'unused' of Shared did not run"),
    ):
        tapped(images())


def test_the_embedding_is_read_where_the_last_linear_layer_runs() -> None:
    class Mixed(nn.Module):
        """Its head is defined before the layers that come first."""

        def __init__(self) -> None:
            super().__init__()
            self.head, self.gate, self.conv = nn.Linear(4, 3), nn.Linear(3, 4), conv(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x).mean((2, 3)) * self.gate(x.mean((2, 3))).sigmoid())

    net = Mixed()
    model = wrap(net)
    with Tapped(model, []) as tapped:
        embedding = tapped(images()).embedding
    x = model.normalise(images())
    torch.testing.assert_close(embedding, net.conv(x).mean((2, 3)) * net.gate(x.mean((2, 3))).sigmoid())
    torch.testing.assert_close(model.outputs_and_features(images())[1], embedding)


def test_without_a_linear_layer_there_is_no_embedding_but_a_reason() -> None:
    def net() -> nn.Module:
        return nn.Sequential(conv(3, 5, 1), nn.ReLU(), conv(5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    unused = net()
    unused.head = nn.Identity()
    unused.head.unused = nn.Linear(3, 3)
    for model in (wrap(net()), wrap(unused), wrap(Ensemble([Shared(), unused]))):
        with Tapped(model, []) as tapped:
            assert tapped(images()).embedding is None
            assert f"{type(model.net).__name__} has no nn.Linear" in tapped.why_no_embedding
        with pytest.raises(ModelError, match="has no nn.Linear"):
            model.outputs_and_features(images())


# ---- maps before their ReLU


class Relu(nn.Module):
    """A stage that ends in any call."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.function, self.same, self.head = conv(3, 4), function, nn.Identity(), nn.Linear(4, 3)
        self.stage = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage(self.same(self.function(self.conv(x)))).mean((2, 3)))


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu": F.relu,
    "F.relu inplace": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_": lambda x: x.relu_(),
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU inplace": nn.ReLU(inplace=True),
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6 inplace": nn.ReLU6(inplace=True),
    "nn.Hardtanh": nn.Hardtanh(0, 1),
    "F.relu6": F.relu6,
    "clamp": lambda x: x.clamp(min=0),
    "clamp positional": lambda x: x.clamp(0, 1),
    "torch.clamp_": lambda x: torch.clamp_(x, min=0.0),
    "clamp_min": lambda x: x.clamp_min(0),
    "torch.clamp_min": lambda x: torch.clamp_min(x, 0),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "GELU": nn.GELU(),
    "clamp from below elsewhere": lambda x: x.clamp(min=-1),
    "clamp from above": lambda x: x.clamp(max=1),
    "ReLU, then more": lambda x: x.relu() + 1,
}


@pytest.mark.parametrize("name", [*RELUS, *OTHERS])
def test_maps_before_their_relu(name: str) -> None:
    net = Relu({**RELUS, **OTHERS}[name])
    model = wrap(net)
    x = model.normalise(images())
    with Tapped(model, check_taps(model, images(), ["stage"]), preactivations=True) as tapped:
        signals = tapped(images())
    raw = net.conv(x)
    after = net.function(net.conv(x))
    torch.testing.assert_close(signals.features[0], after)
    before = raw if name in RELUS else after
    torch.testing.assert_close(signals.preactivations[0], before)
    torch.testing.assert_close(signals.outputs, model(images()))
    if name in RELUS:
        assert (before < 0).any()
    weight = net.conv.weight
    expected = torch.autograd.grad(before.square().mean() + after.mean(), weight)
    gradient = torch.autograd.grad(signals.preactivations[0].square().mean() + signals.features[0].mean(), weight)
    torch.testing.assert_close(gradient, expected)


@torch.no_grad()
def test_a_relu_whose_result_is_changed_in_place_is_not_the_last_word() -> None:
    net = Relu(lambda x: x.relu_().add_(1))
    model = wrap(net)
    with Tapped(model, ["stage"], preactivations=True) as tapped:
        signals = tapped(images())
    assert torch.equal(signals.preactivations[0], signals.features[0])


def test_preactivations_of_the_zoo_are_sums_with_the_shortcut() -> None:
    net = zoo("resnet8")
    model = wrap(net)
    with Tapped(model, find_taps(model, images()), preactivations=True) as tapped:
        assert "compile" in tapped.why_not_compile
        signals = tapped(images())
    for before, after in zip(signals.preactivations, signals.features, strict=True):
        assert (before < 0).any()
        torch.testing.assert_close(before.relu(), after)


def test_preactivations_of_a_wide_resnet_are_what_the_next_relu_reads() -> None:
    net: Any = zoo("wrn_16_1")
    torch.nn.init.uniform_(net.stages[1][0].bn1.bias, -1, 1)
    model = wrap(net.eval())
    with Tapped(model, ["stages.0", "stages.1", "last"], preactivations=True) as tapped, torch.no_grad():
        signals = tapped(images())
    first, second = signals.features[:2]
    torch.testing.assert_close(signals.preactivations[0], net.stages[1][0].bn1(first))
    torch.testing.assert_close(signals.preactivations[1], net.stages[2][0].bn1(second))
    torch.testing.assert_close(signals.preactivations[2], net.last[0](net.stages[2](second)))
    assert ((signals.preactivations[0] > 0) != (first > 0)).any()


def test_a_map_that_is_normalised_without_a_relu_is_its_own_preactivation() -> None:
    """The projections of MobileNetV2 are linear, and a convolution comes next."""
    net = zoo("mobilenet_v2")
    with Tapped(wrap(net), ["stages.1"], preactivations=True) as tapped:
        signals = tapped(images())
    assert torch.equal(signals.preactivations[0], signals.features[0])


# ---- compiled


@pytest.mark.parametrize(("name", "backend"), [("resnet8", "eager"), ("cnn4", "aot_eager")])
def test_taps_survive_compilation(name: str, backend: str) -> None:
    model = wrap(zoo(name, 8), 8)

    def gradients(signals: Signals) -> tuple[Tensor, ...]:
        assert signals.embedding is not None
        loss = torch.stack([x.square().mean() for x in (signals.outputs, signals.embedding, *signals.features)]).sum()
        return torch.autograd.grad(loss, list(model.parameters()))

    logging.disable()  # otherwise pytest keeps all that the compiler has to say
    try:
        with Tapped(model, find_taps(model, images(8))) as tapped:
            assert not tapped.why_not_compile
            expected = tapped(images(8))
            signals = torch.compile(tapped, fullgraph=True, backend=backend)(images(8))
            torch.testing.assert_close(signals, expected)
            torch.testing.assert_close(gradients(signals), gradients(expected))
    finally:
        logging.disable(logging.NOTSET)
        torch._dynamo.reset()


# ---- the teacher's head


def test_the_head_gives_the_outputs_from_the_embedding() -> None:
    model = wrap(zoo("resnet8"))
    state = torch.get_rng_state()
    head = teacher_head(model, images(), CLASSES)
    assert torch.equal(torch.get_rng_state(), state)
    outputs, embedding = model.outputs_and_features(images())
    torch.testing.assert_close(head(embedding), outputs)
    assert not any(parameter.requires_grad for parameter in head.parameters())
    assert head.weight.data_ptr() != model.net.get_parameter("head.weight").data_ptr()


@pytest.mark.parametrize("count", [1, 3])
def test_the_head_of_a_regression_gives_values_on_the_unit_scale(count: int) -> None:
    members = [zoo("cnn4", outputs=1, seed=seed) for seed in range(count)]
    model = wrap(Ensemble(members) if count > 1 else members[0], offset=-5.0, factor=7.0)  # not the task's own scale
    head = teacher_head(model, images(), AGES)
    outputs, embedding = model.outputs_and_features(images())
    torch.testing.assert_close(head(embedding)[:, 0], AGES.normalise(outputs))


def test_a_1x1_convolution_is_a_head_too() -> None:
    net = SqueezeNet(nn.Identity())
    model = wrap(net)
    head = teacher_head(model, images(), CLASSES)
    outputs, embedding = model.outputs_and_features(images())
    torch.testing.assert_close(embedding, net.features(model.normalise(images())).mean((2, 3)))
    torch.testing.assert_close(head(embedding), outputs)


@pytest.mark.parametrize("last", ["ReLU", "Softmax", "Softplus"])
def test_a_read_out_that_is_not_linear_has_no_head(last: str) -> None:
    net = {
        "ReLU": SqueezeNet(nn.ReLU()),  # after the head
        "Softmax": nn.Sequential(Vgg(), nn.Softmax(1)),
        "Softplus": nn.Sequential(Vgg(), nn.Softplus()),
    }[last]
    with pytest.raises(ModelError, match="changes what its last layer gives .* ends in one nn.Linear"):
        teacher_head(wrap(net), images(), CLASSES)


def test_without_a_linear_layer_there_is_no_head() -> None:
    with pytest.raises(ModelError, match="Flatten has no nn.Linear"):
        teacher_head(wrap(nn.Flatten()), images(), CLASSES)
