"""The published networks: parameter counts, the sides of their stages in every form, and all that the package asks of
a network.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import ModelError
from gankd.models import ZOO, build_net, new_model
from gankd.models.contract import ImageModel, predict_with_features
from gankd.models.densenet import DenseLayer
from gankd.models.efficientnet import MBConv
from gankd.models.mobilenet import InvertedResidual
from gankd.models.parts import form_of
from gankd.models.shufflenet_v1 import ShuffleBlock
from gankd.models.shufflenet_v2 import SplitBlock
from gankd.models.taps import find_taps
from gankd.models.wide_resnet import PreActivationBlock
from gankd.seeds import rng
from gankd.storage import load_state, save_state
from gankd.tasks import Classification

OWN = {"cnn4", "cnn8", "cnn16", "cnn32", "resnet8x2", "resnet14x2", "resnet20x2"}
"""Those that no paper has."""
FIRST_VERSION = {name for name in ZOO if name.endswith(("_2021", "_rc49", "_sskd"))}
"""Networks of the first version of cGAN-KD; see `test_published_shapes.py`."""
TRANSFORMERS = {"vit_tiny", "vit_small"}
"""They have one resolution; see `test_vit.py`."""


def build(name: str, size: int = 32, channels: int = 3, outputs: int = 5) -> nn.Module:
    return build_net(name, in_channels=channels, image_size=size, num_outputs=outputs, seed=0)


def shaped(name: str, size: int = 32, channels: int = 3, outputs: int = 5) -> nn.Module:
    """Without weights, so that the largest costs nothing."""
    with torch.device("meta"):
        return build(name, size, channels, outputs)


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


# --- parameter counts ---------------------------------------------------------------------------------------


def conv(inside: int, outside: int, side: int, groups: int = 1) -> int:
    return inside // groups * outside * side**2


def bn(channels: int) -> int:
    return 2 * channels


def linear(inside: int, outside: int) -> int:
    return inside * outside + outside


def cifar_resnet(depth: int, widths: tuple[int, int, int, int]) -> int:
    """Stem, then n = (depth - 2) / 6 blocks a stage, the first of which projects where the width changes."""
    total = conv(3, widths[0], 3) + bn(widths[0])
    for before, width in pairwise(widths):
        total += conv(before, width, 3) + ((depth - 2) // 3 - 1) * conv(width, width, 3) + (depth - 2) // 3 * bn(width)
        total += conv(before, width, 1) + bn(width) if before != width else 0
    return total + linear(widths[3], 100)


def wide_resnet(depth: int, k: int) -> int:
    """Every convolution has a batch norm before it; projections have none."""
    total, before = conv(3, 16, 3), 16
    for width in (16 * k, 32 * k, 64 * k):
        total += bn(before) + conv(before, width, 3) + ((depth - 4) // 3 - 1) * (bn(width) + conv(width, width, 3))
        total += conv(before, width, 1) if before != width else 0
        before = width
    return total + bn(before) + linear(before, 100)


def vgg8() -> int:
    widths = (3, 64, 128, 256, 512, 512)
    return sum(conv(a, b, 3) + b + bn(b) for a, b in pairwise(widths)) + linear(512, 100)


def mobilenet_half() -> int:
    """Table 2 of the paper at half width, with an expanding convolution in the first block too."""
    total, before = conv(3, 16, 3) + bn(16), 16
    for factor, width, repeats in ((1, 8, 1), (6, 12, 2), (6, 16, 3), (6, 32, 4), (6, 48, 3), (6, 80, 3), (6, 160, 1)):
        for _ in range(repeats):
            wide = factor * before
            total += conv(before, wide, 1) + conv(wide, wide, 3, wide) + conv(wide, width, 1) + 2 * bn(wide) + bn(width)
            before = width
    return total + conv(160, 1280, 1) + bn(1280) + linear(1280, 100)


def shufflenet_v1() -> int:
    """Table 1 of the paper, three groups: bottlenecks a quarter as wide as what the block makes."""
    total, before = conv(3, 24, 1) + bn(24), 24
    for width, repeats in ((240, 4), (480, 8), (960, 4)):
        for number in range(repeats):
            made = width if number else width - before
            mid, groups = made // 4, 1 if before == 24 else 3
            total += conv(before, mid, 1, groups) + conv(mid, mid, 3, mid) + conv(mid, made, 1, 3) + 2 * bn(mid)
            total, before = total + bn(made), width
    return total + linear(960, 100)


DISTILLER = "karanchahal/distiller, models/model_factory.py"
TORCHVISION = "torchvision's documentation, num_params of the ImageNet weights; less what its larger stem has more"
FORMULA = "layer table of the paper; the sum is written out above"
RESNET_STEM = conv(3, 64, 7) - conv(3, 64, 3)
PUBLISHED: dict[str, tuple[int, int, str]] = {
    "resnet8": (10, 78_042, DISTILLER),
    "resnet14": (10, 175_258, DISTILLER),
    "resnet20": (10, 272_474, DISTILLER),
    "resnet32": (10, 466_906, DISTILLER),
    "resnet44": (10, 661_338, DISTILLER),
    "resnet56": (10, 855_770, DISTILLER),
    "resnet110": (10, 1_730_714, DISTILLER),
    "resnet8x4": (100, 1_233_540, FORMULA),
    "resnet32x4": (100, 7_433_860, FORMULA),
    "wrn_16_1": (10, 175_066, DISTILLER),
    "wrn_16_2": (10, 691_674, DISTILLER),
    "wrn_40_1": (10, 563_930, DISTILLER),
    "wrn_40_2": (100, 2_255_156, FORMULA),
    "vgg8": (100, 3_965_028, FORMULA),
    "vgg11": (10, 9_231_114, DISTILLER),
    "vgg13": (10, 9_416_010, DISTILLER),
    "vgg16": (10, 14_728_266, DISTILLER),
    "vgg19": (10, 20_040_522, DISTILLER),
    "resnet18": (1000, 11_689_512 - RESNET_STEM, TORCHVISION),
    "resnet34": (1000, 21_797_672 - RESNET_STEM, TORCHVISION),
    "resnet50": (1000, 25_557_032 - RESNET_STEM, TORCHVISION),
    "mobilenet_v2": (1000, 3_504_872, TORCHVISION),
    "mobilenet_v2_half": (100, 812_836, FORMULA),
    "shufflenet_v1": (100, 949_258, FORMULA),
    "shufflenet_v2": (1000, 2_278_604 - (conv(3, 24, 3) - conv(3, 24, 1)), TORCHVISION),
    "densenet121": (1000, 7_978_856 - (conv(3, 64, 7) + bn(64) - conv(3, 64, 3)), TORCHVISION),
    "densenet161": (1000, 28_681_000 - (conv(3, 96, 7) + bn(96) - conv(3, 96, 3)), TORCHVISION),
    "efficientnet_b0": (1000, 5_288_548, TORCHVISION),
}
"""Classes, parameters at 32 px with three channels, and where the count is from."""
SUMS: dict[str, Callable[[], int]] = {
    "resnet8x4": lambda: cifar_resnet(8, (32, 64, 128, 256)),
    "resnet32x4": lambda: cifar_resnet(32, (32, 64, 128, 256)),
    "wrn_40_2": lambda: wide_resnet(40, 2),
    "vgg8": vgg8,
    "mobilenet_v2_half": mobilenet_half,
    "shufflenet_v1": shufflenet_v1,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name: str) -> None:
    classes, parameters, source = PUBLISHED[name]
    assert count(shaped(name, outputs=classes)) == parameters, source
    if name in SUMS:
        assert SUMS[name]() == parameters


def test_every_network_of_the_zoo_is_in_the_table() -> None:
    assert set(PUBLISHED) | OWN | TRANSFORMERS | FIRST_VERSION == set(ZOO)
    assert set(SUMS) == {name for name, (_, _, source) in PUBLISHED.items() if source == FORMULA}


# --- forms --------------------------------------------------------------------------------------------------


def test_the_form_is_that_of_the_nearest_published_side() -> None:
    assert [form_of(size) for size in (8, 28, 45, 46, 64, 90, 91, 128, 224)] == [32] * 3 + [64] * 3 + [128] * 3


SIDES = {
    "resnet20": {32: [32, 16, 8], 64: [64, 32, 16, 8], 128: [32, 16, 8]},
    "wrn_16_1": {32: [32, 16, 8], 64: [32, 16, 8], 128: [32, 16, 8]},
    "vgg8": {32: [32, 16, 8, 4], 64: [64, 32, 16, 8, 4], 128: [128, 64, 32, 16]},
    "resnet18": {32: [32, 16, 8, 4], 64: [64, 32, 16, 8, 4], 128: [32, 16, 8, 4]},
    "mobilenet_v2_half": {32: [16, 8, 4, 2], 64: [32, 16, 8, 4, 2], 128: [64, 32, 16, 8, 4]},
    "shufflenet_v1": {32: [32, 16, 8, 4], 64: [16, 8, 4], 128: [16, 8, 4]},
    "shufflenet_v2": {32: [32, 16, 8, 4], 64: [16, 8, 4], 128: [16, 8, 4]},
    "densenet121": {32: [32, 16, 8, 4], 64: [32, 16, 8, 4], 128: [32, 16, 8, 4]},
    "efficientnet_b0": {32: [32, 16, 8, 4, 2], 64: [64, 32, 16, 8, 4], 128: [64, 32, 16, 8, 4]},
}
"""Of each family, the sides of its stages for images of 32, 64 and 128 px."""


@pytest.mark.parametrize("name", SIDES)
def test_stages_of_every_form(name: str) -> None:
    for size, sides in SIDES[name].items():
        taps = find_taps(wrap(build(name, size), size), images(size))
        assert [tap.shape[1] for tap in taps] == sides


def test_dense_blocks_and_residual_stages_are_what_is_tapped() -> None:
    paths = [tap.path for tap in find_taps(wrap(build("densenet121"), 32), images(32))]
    assert paths == ["parts.0", "parts.2", "parts.4", "last"]
    paths = [tap.path for tap in find_taps(wrap(build("wrn_16_2"), 32), images(32))]
    assert paths == ["stages.0", "stages.1", "last"]


def test_vgg_reads_a_2x2_map_at_64_px_and_hidden_layers_at_128_px() -> None:
    features = {size: shaped("vgg19", size).get_submodule("head") for size in (32, 64, 128)}
    assert [layer.in_features for layer in features.values()] == [512, 2048, 1024]
    hidden = linear(512 * 4 * 4, 1024) + linear(1024, 1024) + 512 * 5
    assert count(shaped("vgg19", 128)) == count(shaped("vgg19", 32)) + hidden


@pytest.mark.parametrize("name", PUBLISHED)
def test_small_images_work_or_are_refused_in_one_line(name: str) -> None:
    assert shaped(name, 8, 1).eval()(torch.zeros(1, 1, 8, 8, device="meta")).shape == (1, 5)
    if name.startswith(("vgg", "densenet")):
        with pytest.raises(ModelError) as error:
            build(name, size=7)
        assert str(error.value) == (
            f"model {name} cannot be built with {{'in_channels': 3, 'image_size': 7, 'num_outputs': 5}}: its poolings "
            "need images of at least 8 px, got 7"
        )
    else:
        assert shaped(name, 4).eval()(torch.zeros(1, 3, 4, 4, device="meta")).shape == (1, 5)


# --- what the package asks of a network ---------------------------------------------------------------------


def images(size: int, channels: int = 3, number: int = 2) -> Tensor:
    return torch.randint(256, (number, channels, size, size), generator=rng(0, "x"), dtype=torch.uint8)


def wrap(net: nn.Module, size: int, channels: int = 3) -> ImageModel:
    return ImageModel(net, size=size, mean=torch.full((channels,), 0.5), std=torch.full((channels,), 0.25))


def check_gradients(model: ImageModel, size: int, channels: int) -> None:
    """Every parameter and every image has a part in the outputs."""
    pixels = (images(size, channels) / 255).requires_grad_()
    given = model.train()(pixels)
    assert given.dtype == torch.float32
    given.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert pixels.grad is not None
    assert pixels.grad.abs().amax((1, 2, 3)).min() > 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_network_trains_and_is_read(name: str, tmp_path: Path) -> None:
    net = build(name)
    model = Engine(torch.device("cpu"), bf16=True, channels_last=True).place(wrap(net, 32))
    with torch.autocast("cpu", torch.bfloat16):
        check_gradients(model, 32, 3)
        assert model.raw(images(32)).dtype == torch.float32  # `parts.read_out`

    taps = find_taps(model, images(32))
    sides = [tap.shape[1] for tap in taps]
    assert len(taps) >= 3
    assert sides == sorted(set(sides), reverse=True)

    engine = Engine(torch.device("cpu"), bf16=False, channels_last=True)
    outputs, features = predict_with_features(model, images(32, number=1), engine)
    last = net.get_submodule("head")
    assert isinstance(last, nn.Linear)
    assert features.shape == (1, last.in_features)
    torch.testing.assert_close(outputs, last(features))

    save_state(tmp_path / "net.safetensors", net.state_dict())
    other = build_net(name, in_channels=3, image_size=32, num_outputs=5, seed=1)
    other.load_state_dict(load_state(tmp_path / "net.safetensors"))
    torch.testing.assert_close(wrap(other, 32).eval()(images(32, number=1)), outputs, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize(("size", "channels", "outputs", "head"), [(64, 3, 1, "+mlp"), (128, 1, 5, "")])
def test_every_form_trains(name: str, size: int, channels: int, outputs: int, head: str) -> None:
    model = wrap(build(name + head, size, channels, outputs), size, channels)
    check_gradients(model, size, channels)
    assert model.eval()(images(size, channels, 1)).shape == ((1, 5) if outputs == 5 else (1,))


# --- blocks -------------------------------------------------------------------------------------------------


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=rng(0, "noise"))


def test_residual_blocks_whose_last_layer_is_zero_are_their_shortcuts() -> None:
    x = noise(2, 12, 8, 8)
    wide = PreActivationBlock(12, 12, stride=1).eval()
    nn.init.zeros_(wide.conv2.weight)
    inverted = InvertedResidual(12, 12, 24, 1, nn.ReLU6).eval()
    mobile = MBConv(12, 12, expansion=6, kernel=5, stride=1, drop=0.5).eval()
    for layer in (inverted.layers[-1], mobile.layers[-1]):
        assert isinstance(layer, nn.BatchNorm2d)
        nn.init.zeros_(layer.weight)
    for block in (wide, inverted, mobile):
        assert torch.equal(block(x), x)
    grouped = ShuffleBlock(12, 12, 1, 3).eval()
    nn.init.zeros_(grouped.bn3.weight)
    assert torch.equal(grouped(x), x.relu())


def test_a_projection_reads_what_the_first_batch_norm_and_relu_give() -> None:
    block = PreActivationBlock(12, 24, stride=2).eval()
    nn.init.zeros_(block.bn1.weight)
    nn.init.constant_(block.bn1.bias, -1)
    nn.init.zeros_(block.conv2.weight)
    assert (block(noise(2, 12, 8, 8)) == 0).all()


def test_a_dense_layer_hands_on_what_it_reads() -> None:
    x = noise(2, 12, 8, 8)
    out = DenseLayer(12, 5).eval()(x)
    assert out.shape == (2, 17, 8, 8)
    assert torch.equal(out[:, :12], x)


def test_half_of_a_split_block_passes_and_both_halves_are_mixed() -> None:
    x = noise(2, 12, 8, 8)
    out = SplitBlock(12, 12, 1).eval()(x)
    assert torch.equal(out[:, ::2], x[:, :6])  # interleaved, so that the next block filters half of them
    assert SplitBlock(12, 20, 2).eval()(x).shape == (2, 20, 4, 4)


def test_a_stride_of_2_sets_the_mean_of_the_input_beside_what_a_shuffle_block_makes() -> None:
    x = noise(2, 12, 8, 8).abs()
    out = ShuffleBlock(12, 36, 2, 3).eval()(x)
    assert out.shape == (2, 36, 4, 4)
    torch.testing.assert_close(out[:, 24:, 1, 1], x[:, :, 1:4, 1:4].mean((2, 3)))


def test_a_block_is_left_out_for_a_share_of_images_in_training_alone() -> None:
    block = MBConv(4, 4, expansion=1, kernel=3, stride=1, drop=0.25).train()
    x = noise(1, 4, 4, 4).expand(4000, -1, -1, -1)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        part = block(x) - x
        block.drop = 0.0
        whole = block(x) - x
    kept = part.abs().amax((1, 2, 3)) > 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)  # four standard deviations
    torch.testing.assert_close(part[kept], whole[kept] / 0.75)  # the same on average


def test_a_new_model_reads_the_images_and_gives_the_outputs_of_its_data() -> None:
    images = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8, generator=rng(0, "images"))
    data = LabelledImages(images, torch.arange(6) % 3, Classification(num_classes=3))
    first, again, other = (new_model("cnn4", data, seed).eval() for seed in (0, 0, 1))
    assert first(images).shape == (6, 3)
    assert torch.equal(first(images), again(images))
    assert not torch.equal(first(images), other(images))
    torch.testing.assert_close(first.mean.flatten(), images.double().div(255).mean().float()[None])
