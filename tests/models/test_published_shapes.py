"""The outputs of published networks, against plain functions written from their layer tables.

Both compute with weights that are written by a formula, in the order in which layers compute. A stride, a pooling, a
shortcut or an activation in another place gives other outputs, where parameter counts stay the same.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.models import build_net

OUTPUTS = 5


class Layers:
    """Layers with weights sin(k), k counted within a layer from its number."""

    def __init__(self, head: int | None = None) -> None:
        self.number, self.head = 0, head

    def wave(self, *shape: int, part: int = 0) -> Tensor:
        start = 1000 * self.number + 250 * part
        return torch.arange(start, start + torch.Size(shape).numel(), dtype=torch.float64).sin().reshape(shape)

    def conv_weights(self, out: int, inside: int, high: int, wide: int) -> tuple[Tensor, Tensor]:
        self.number += 1
        return self.wave(out, inside, high, wide) * (4 / (inside * high * wide)) ** 0.5, self.wave(out, part=1) / 10

    def bn_statistics(self, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Running mean and variance, weight and bias."""
        self.number += 1
        mean, variance, weight, bias = (self.wave(channels, part=part) for part in range(4))
        return mean / 10, 1 + variance / 2, 1 + weight / 4, bias / 4

    def linear_weights(self, out: int, inside: int) -> tuple[Tensor, Tensor]:
        self.number += 1
        return self.wave(out, inside) * (4 / inside) ** 0.5, self.wave(out, part=1) / 10

    # --- the same as functions

    def conv(
        self,
        x: Tensor,
        out: int,
        side: int,
        stride: int = 1,
        *,
        pad: int | None = None,
        groups: int = 1,
        bias: bool = False,
    ) -> Tensor:
        weight, shift = self.conv_weights(out, x.shape[1] // groups, side, side)
        return F.conv2d(x, weight, shift if bias else None, stride, side // 2 if pad is None else pad, groups=groups)

    def bn(self, x: Tensor, eps: float = 1e-5) -> Tensor:
        return F.batch_norm(x, *self.bn_statistics(x.shape[1]), eps=eps)

    def linear(self, x: Tensor, out: int) -> Tensor:
        return F.linear(x, *self.linear_weights(out, x.shape[1]))

    def outputs(self, x: Tensor) -> Tensor:
        """The last layer, behind two hidden layers if there is a head."""
        for width in [self.head] * 2 if self.head else []:
            x = F.relu(self.bn(self.linear(x, width)))
        return self.linear(x, OUTPUTS)

    def cbr(self, x: Tensor, out: int, side: int, stride: int = 1, groups: int = 1) -> Tensor:
        return F.relu(self.bn(self.conv(x, out, side, stride, groups=groups)))


@contextmanager
def by_formula(net: nn.Module) -> Iterator[None]:
    """Every layer's weights are written just before its first computation."""
    layers = Layers()
    written: set[nn.Module] = set()

    def write(module: nn.Module, _: object) -> None:
        assert module not in written, "a layer that computes twice has no place in the order"
        written.add(module)
        with torch.no_grad():
            if isinstance(module, nn.Conv2d):
                weight, shift = layers.conv_weights(*module.weight.shape)
                module.weight.copy_(weight)
                if module.bias is not None:
                    module.bias.copy_(shift)
            elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                mean, variance, weight, shift = layers.bn_statistics(module.num_features)
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.copy_(mean)
                module.running_var.copy_(variance)
                module.weight.copy_(weight)
                module.bias.copy_(shift)
            elif isinstance(module, nn.Linear):
                weight, shift = layers.linear_weights(*module.weight.shape)
                module.weight.copy_(weight)
                module.bias.copy_(shift)

    kinds = nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.Linear
    own = [module for module in net.modules() if isinstance(module, kinds)]
    hooks = [module.register_forward_pre_hook(write) for module in own]
    yield
    for hook in hooks:
        hook.remove()
    assert written == set(own)


# --- layer tables -------------------------------------------------------------------------------------------


def first_layers(net: Layers, x: Tensor, channels: int, side: int, kernel: int = 3, *, bare: bool = False) -> Tensor:
    """32 px: one convolution. 64 px: 4x4 with stride 2. 128 px: the same and a 3x3 max-pooling with stride 2."""
    if side == 32:
        return net.conv(x, channels, kernel) if bare else net.cbr(x, channels, kernel)
    x = F.relu(net.bn(net.conv(x, channels, 4, 2, pad=1)))
    return F.max_pool2d(x, 3, 2, 1) if side == 128 else x


def residual(net: Layers, x: Tensor, out: int, stride: int, *, deep: bool = False) -> Tensor:
    """Basic block, or a bottleneck four times as wide outside."""
    if deep:
        y = net.cbr(net.cbr(x, out, 1), out, 3, stride)
        y = net.bn(net.conv(y, 4 * out, 1))
    else:
        y = net.bn(net.conv(net.cbr(x, out, 3, stride), out, 3))
    if stride != 1 or x.shape[1] != y.shape[1]:
        x = net.bn(net.conv(x, y.shape[1], 1, stride))
    return F.relu(x + y)


def resnet(counts: tuple[int, ...], widths: tuple[int, ...], stem: int, *, deep: bool = False) -> "Table":
    """At 64 px the stem keeps the side, and the first block halves it."""

    def table(net: Layers, x: Tensor, side: int) -> Tensor:
        x = net.cbr(x, stem, 3) if side == 64 else first_layers(net, x, stem, side)
        for stage, (count, width) in enumerate(zip(counts, widths, strict=True)):
            for block in range(count):
                halves = block == 0 and (stage > 0 or side == 64)
                x = residual(net, x, width, 2 if halves else 1, deep=deep)
        return net.outputs(x.mean((2, 3)))

    return table


def wide_resnet(blocks: int, k: int) -> "Table":
    def table(net: Layers, x: Tensor, side: int) -> Tensor:
        x = first_layers(net, x, 16, side, bare=True)
        for stage in range(3):
            for block in range(blocks):
                width, stride = 16 * k * 2**stage, 2 if stage and not block else 1
                active = F.relu(net.bn(x))
                y = net.conv(F.relu(net.bn(net.conv(active, width, 3, stride))), width, 3)
                x = y + (net.conv(active, width, 1, stride) if active.shape != y.shape else x)
        return net.outputs(F.relu(net.bn(x)).mean((2, 3)))

    return table


def vgg(counts: tuple[int, ...], *, always_five: bool = False, mean: bool = False) -> "Table":
    """128 px: two hidden layers of 1024 units. `always_five`: five poolings by 2 at 32 px, too. `mean`: of the last
    map.
    """

    def table(net: Layers, x: Tensor, side: int) -> Tensor:
        for block, (count, width) in enumerate(zip(counts, (64, 128, 256, 512, 512), strict=True)):
            for _ in range(count):
                x = F.relu(net.bn(net.conv(x, width, 3, bias=True)))
            if block < 3 or (block == 3 and (side == 64 or always_five)):
                x = F.max_pool2d(x, 2)
        if always_five:
            return net.outputs(F.max_pool2d(x, 2).flatten(1))
        if mean:
            return net.outputs(x.mean((2, 3)))
        x = {32: x.mean((2, 3), keepdim=True), 64: F.max_pool2d(x, 2), 128: F.max_pool2d(x, 4)}[side].flatten(1)
        for _ in range(2 if side == 128 else 0):
            x = F.relu(net.linear(x, 1024))
        return net.outputs(x)

    return table


def mobilenet(share: float) -> "Table":
    def table(net: Layers, x: Tensor, side: int) -> Tensor:
        relu = F.relu if share < 1 else F.relu6
        rows = (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
        x = relu(net.bn(net.conv(x, int(32 * share), 3, 2)))
        for number, (factor, width, count, stride) in enumerate(rows):
            for block in range(count):
                step = stride if block == 0 and not (number == 1 and side == 32) else 1
                inside, out = x.shape[1], int(width * share)
                y = x
                if factor > 1 or share < 1:
                    y = relu(net.bn(net.conv(y, factor * inside, 1)))
                y = relu(net.bn(net.conv(y, y.shape[1], 3, step, groups=y.shape[1])))
                y = net.bn(net.conv(y, out, 1))
                x = x + y if step == 1 and inside == out else y
        x = relu(net.bn(net.conv(x, 1280, 1)))
        return net.outputs(x.mean((2, 3)))

    return table


def shuffled(x: Tensor, groups: int) -> Tensor:
    count, channels, high, wide = x.shape
    return x.reshape(count, groups, channels // groups, high, wide).transpose(1, 2).reshape(x.shape)


def shufflenet_v1(net: Layers, x: Tensor, side: int) -> Tensor:
    x = first_layers(net, x, 24, side, kernel=1)
    for stage, (width, count) in enumerate(((240, 4), (480, 8), (960, 4))):
        for block in range(count):
            stride, groups = (1, 3) if block else (2, 3 if stage else 1)
            made = width if block else width - x.shape[1]
            y = shuffled(net.cbr(x, made // 4, 1, groups=groups), groups)
            y = net.cbr(y, made // 4, 3, stride, groups=made // 4)
            y = net.bn(net.conv(y, made, 1, groups=3))
            x = F.relu(x + y if block else torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1))
    return net.outputs(x.mean((2, 3)))


def mobilenet_2021(net: Layers, x: Tensor, side: int) -> Tensor:
    """Every block expands; blocks that keep the side have a shortcut, projected where the width changes."""
    rows = (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    x = net.cbr(x, 32, 3)
    for number, (factor, width, count, stride) in enumerate(rows):
        for block in range(count):
            step = stride if block == 0 and not (number == 1 and side == 32) else 1
            inside = x.shape[1]
            y = net.cbr(net.cbr(x, factor * inside, 1), factor * inside, 3, step, groups=factor * inside)
            y = net.bn(net.conv(y, width, 1))
            if step == 1:
                y = y + (x if inside == width else net.bn(net.conv(x, width, 1)))
            x = y
    return net.outputs(net.cbr(x, 1280, 1).mean((2, 3)))


def efficientnet(form: str = "") -> "Table":
    """The form of 2021 has no layer behind the last block; that of RC-49 pads by one pixel less at the left and top."""

    def table(net: Layers, x: Tensor, side: int) -> Tensor:
        eps = 1e-3 if form == "rc49" else 1e-5

        def conv(x: Tensor, out: int, kernel: int, stride: int, groups: int = 1) -> Tensor:
            if form == "rc49" and stride == 2:
                x = F.pad(x, (kernel // 2 - 1, kernel // 2, kernel // 2 - 1, kernel // 2))
                return net.conv(x, out, kernel, stride, pad=0, groups=groups)
            return net.conv(x, out, kernel, stride, groups=groups)

        x = F.silu(net.bn(conv(x, 32, 3, 2 if form == "rc49" or (side == 128 and not form) else 1), eps))
        rows = (1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2), (6, 5, 112, 3, 1)
        for factor, kernel, width, count, stride in (*rows, (6, 5, 192, 4, 2), (6, 3, 320, 1, 1)):
            for block in range(count):
                inside, step = x.shape[1], 1 if block else stride
                y = x if factor == 1 else F.silu(net.bn(net.conv(x, factor * inside, 1), eps))
                y = F.silu(net.bn(conv(y, factor * inside, kernel, step, groups=factor * inside), eps))
                gate = F.silu(net.conv(y.mean((2, 3), keepdim=True), inside // 4, 1, bias=True))
                y = y * net.conv(gate, factor * inside, 1, bias=True).sigmoid()
                y = net.bn(net.conv(y, width, 1), eps)
                x = x + y if step == 1 and inside == width else y
        if form != "2021":
            x = F.silu(net.bn(net.conv(x, 1280, 1), eps))
        return net.outputs(x.mean((2, 3)))

    return table


def shufflenet_v2(net: Layers, x: Tensor, side: int) -> Tensor:
    return split_stages(net, first_layers(net, x, 24, side, kernel=1))


def shufflenet_v2_with(stride: int, kernel: int = 3) -> "Table":
    """A convolution first, and a pooling where the images are larger than 32 px."""

    def table(net: Layers, x: Tensor, side: int) -> Tensor:
        x = net.cbr(x, 24, kernel, stride)
        return split_stages(net, x if side == 32 else F.max_pool2d(x, 3, 2, 1))

    return table


def split_stages(net: Layers, x: Tensor) -> Tensor:
    for width, count in ((116, 4), (232, 8), (464, 4)):
        for block in range(count):
            half = width // 2
            left, right = (x[:, :half], x[:, half:]) if block else (x, x)
            if not block:
                left = net.bn(net.conv(left, left.shape[1], 3, 2, groups=left.shape[1]))
                left = net.cbr(left, half, 1)
            right = net.cbr(right, half, 1)
            right = net.bn(net.conv(right, half, 3, 1 if block else 2, groups=half))
            right = net.cbr(right, half, 1)
            x = shuffled(torch.cat([left, right], 1), 2)
    return net.outputs(net.cbr(x, 1024, 1).mean((2, 3)))


def densenet(growth: int, counts: tuple[int, ...], *, of_2021: bool = False) -> "Table":
    def table(net: Layers, x: Tensor, side: int) -> Tensor:
        x = first_layers(net, x, 2 * growth, 32 if of_2021 else side, bare=True)
        for part, count in enumerate(counts):
            if part:
                x = F.avg_pool2d(net.conv(F.relu(net.bn(x)), x.shape[1] // 2, 1), 2)
                if of_2021 and part == 1 and side > 32:
                    x = F.max_pool2d(x, 2)
            for _ in range(count):
                y = net.conv(F.relu(net.bn(x)), 4 * growth, 1)
                x = torch.cat([x, net.conv(F.relu(net.bn(y)), growth, 3)], 1)
        return net.outputs(F.relu(net.bn(x)).mean((2, 3)))

    return table


Table = Callable[[Layers, Tensor, int], Tensor]
TABLES: dict[str, Table] = {
    "resnet8": resnet((1, 1, 1), (16, 32, 64), 16),
    "resnet20": resnet((3, 3, 3), (16, 32, 64), 16),
    "resnet56": resnet((9, 9, 9), (16, 32, 64), 16),
    "resnet8x4": resnet((1, 1, 1), (64, 128, 256), 32),
    "resnet18": resnet((2, 2, 2, 2), (64, 128, 256, 512), 64),
    "resnet50": resnet((3, 4, 6, 3), (64, 128, 256, 512), 64, deep=True),
    "wrn_16_1": wide_resnet(2, 1),
    "wrn_16_2": wide_resnet(2, 2),
    "wrn_40_1": wide_resnet(6, 1),
    "vgg8": vgg((1, 1, 1, 1, 1)),
    "vgg11": vgg((1, 1, 2, 2, 2)),
    "vgg19": vgg((2, 2, 4, 4, 4)),
    "mobilenet_v2": mobilenet(1.0),
    "mobilenet_v2_half": mobilenet(0.5),
    "shufflenet_v1": shufflenet_v1,
    "shufflenet_v2": shufflenet_v2,
    "densenet121": densenet(32, (6, 12, 24, 16)),
    "efficientnet_b0": efficientnet(),
    "densenet161": densenet(48, (6, 12, 36, 24)),
    "vgg11_sskd": vgg((1, 1, 2, 2, 2), mean=True),
    "shufflenet_v2_sskd": shufflenet_v2_with(1, kernel=1),
    "vgg11_2021": vgg((1, 1, 2, 2, 2), always_five=True),
    "mobilenet_v2_2021": mobilenet_2021,
    "shufflenet_v2_2021": shufflenet_v2_with(1),
    "shufflenet_v2_rc49": shufflenet_v2_with(2),
    "efficientnet_b0_2021": efficientnet("2021"),
    "efficientnet_b0_rc49": efficientnet("rc49"),
    "densenet121_2021": densenet(32, (6, 12, 24, 16), of_2021=True),
}
ONE_TABLE = {"_rc49": (64,), "_2021": (32, 64), "_sskd": (64,), "et161": (128,)}
"""Sides at which networks of the first version are published, by the end of their names."""
CASES = [(name, side) for name in TABLES for side in ONE_TABLE.get(name[-5:], (32, 64, 128))]


@pytest.mark.parametrize(("name", "side"), CASES)
def test_outputs_are_those_of_the_layer_table(name: str, side: int) -> None:
    net = build_net(name, in_channels=3, image_size=side, num_outputs=OUTPUTS, seed=0).double().eval()
    images = torch.arange(3 * side * side, dtype=torch.float64).mul(0.37).sin().reshape(1, 3, side, side)
    with torch.no_grad(), by_formula(net):
        outputs = net(images)
    with torch.no_grad():
        expected = TABLES[name](Layers(), images, side)
    assert expected.std() > 1e-3
    torch.testing.assert_close(outputs, expected, rtol=1e-9, atol=1e-9)


STUDENTS = ["resnet20", "mobilenet_v2", "wrn_16_1", "resnet8x4", "wrn_40_1", "shufflenet_v1", "resnet56"]


@pytest.mark.parametrize("name", [*STUDENTS, "vgg11", "vgg19"])
def test_regression_networks_end_in_two_hidden_layers(name: str) -> None:
    net = build_net(f"{name}+mlp", in_channels=3, image_size=64, num_outputs=OUTPUTS, seed=0).double().eval()
    images = torch.arange(3 * 64 * 64, dtype=torch.float64).mul(0.37).sin().reshape(1, 3, 64, 64)
    with torch.no_grad(), by_formula(net):
        outputs = net(images)
    with torch.no_grad():
        expected = TABLES[name](Layers(head=512), images, 64)
    assert expected.std() > 1e-3
    torch.testing.assert_close(outputs, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "side", "outputs", "parameters"),
    [
        ("shufflenet_v2_2021", 32, 10, 1_263_854),
        ("mobilenet_v2_2021", 32, 10, 2_296_922),
        ("vgg11_2021", 32, 10, 9_231_114),
        ("vgg11_sskd", 64, 200, 9_328_584),
        ("shufflenet_v2_sskd", 64, 200, 1_458_028),
        ("vgg16+mlp128", 64, 1, 15_002_561),
        ("shufflenet_v2_rc49+mlp128", 64, 1, 1_401_957),
        ("mobilenet_v2+mlp128", 64, 1, 2_404_993),
        ("efficientnet_b0_rc49+mlp128", 64, 1, 4_188_669),
    ],
)
def test_parameters_of_the_first_version(name: str, side: int, outputs: int, parameters: int) -> None:
    net = build_net(name, in_channels=3, image_size=side, num_outputs=outputs, seed=0)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
