"""Vision transformers: published sizes, patches, the mathematics of attention, and feature maps for losses."""

import pytest
import torch
from torch import Tensor, nn

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import ModelError
from gankd.models import build_net
from gankd.models.cnn import Cnn
from gankd.models.contract import ImageModel
from gankd.models.taps import find_taps
from gankd.models.vit import Attention, Block, VisionTransformer, patch_side
from gankd.seeds import rng
from gankd.tasks import Classification, Regression, Task
from gankd.training.distill import distill
from gankd.training.lesson import DistillConfig, Lesson


def count(name: str, size: int, outputs: int) -> int:
    with torch.device("meta"):
        net = build_net(name, in_channels=3, image_size=size, num_outputs=outputs, seed=0)
    return sum(parameter.numel() for parameter in net.parameters())


def test_parameters_are_those_of_deit() -> None:
    """DeiT-Ti and DeiT-S with 16 px patches at 224 px and 1,000 classes (Touvron et al., table 1: 5 M and 22 M)."""
    assert count("vit_tiny", 224, 1000) == 5_717_416
    assert count("vit_small", 224, 1000) == 22_050_664


def test_patches_fit_the_image() -> None:
    assert [patch_side(size, size) for size in (8, 12, 16, 28, 32, 64, 100, 128, 224, 256)] == [
        2,
        2,
        4,
        4,
        4,
        8,
        4,
        16,
        16,
        16,
    ]
    with pytest.raises(ModelError, match="patches need images with even sides, got 33x33"):
        build_net("vit_tiny", in_channels=3, image_size=33, num_outputs=5, seed=0)


def tiny(size: int, outputs: int = 4) -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VisionTransformer(3, size, outputs, width=16, depth=5, heads=2)


def test_attention_is_the_softmax_of_products_of_each_head() -> None:
    layer, x = Attention(6, 2), torch.randn(2, 5, 6, generator=rng(0, "x"))
    query, key, value = layer.qkv(x).chunk(3, 2)  # (N, T, 6): two heads of 3
    heads = []
    for part in (slice(0, 3), slice(3, 6)):
        weights = (query[..., part] @ key[..., part].transpose(1, 2) / 3**0.5).softmax(2)
        heads.append(weights @ value[..., part])
    torch.testing.assert_close(layer(x), layer.proj(torch.cat(heads, 2)))


def test_a_block_whose_last_layers_are_zero_hands_on_what_it_reads() -> None:
    block, x = Block(6, 2), torch.randn(2, 5, 6, generator=rng(0, "x"))
    for layer in (block.attn.proj, block.mlp.fc2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert torch.equal(block(x), x)


def test_without_positions_the_order_of_patches_does_not_matter() -> None:
    net, x = tiny(16).eval(), torch.rand(2, 3, 16, 16, generator=rng(0, "x"))
    swapped = torch.cat([x[..., 8:], x[..., :8]], 3)  # whole patches of 4 px
    assert not torch.allclose(net(x), net(swapped), atol=1e-5)
    nn.init.zeros_(net.pos_embed)
    torch.testing.assert_close(net(x), net(swapped))


def images(size: int, task: Task, number: int = 12) -> LabelledImages:
    pixels = torch.randint(256, (number, 3, size, size), dtype=torch.uint8, generator=rng(0, "pixels"))
    labels = torch.arange(number) % 4
    return LabelledImages(pixels, labels if task.has_classes else labels.float(), task)


CLASSES, VALUES = Classification(num_classes=4), Regression(low=0, high=3)


def test_maps_are_the_patches_after_four_blocks_without_the_class_token() -> None:
    data = images(16, CLASSES)
    model = ImageModel.for_data(tiny(16), data)
    taps = find_taps(model, data.images)
    assert [tap.path for tap in taps] == ["blocks.1", "blocks.2", "blocks.3", "blocks.4"]
    assert {tap.shape for tap in taps} == {(16, 4, 4)}


READING = [(task, loss) for task in (CLASSES, VALUES) for loss in ("KD", "KD + FitNet", "AT", "ReviewKD")]
"""Losses that read outputs and maps."""


@pytest.mark.parametrize(("task", "loss"), [*READING, (CLASSES, "KD + CRD")])
@pytest.mark.parametrize("swapped", [False, True])
def test_as_teacher_and_as_student_of_a_cnn(task: Task, loss: str, swapped: bool) -> None:
    data = images(16, task)
    pair = [ImageModel.for_data(net, data) for net in (tiny(16, task.head_size), Cnn(3, 16, task.head_size, width=4))]
    teacher, student = pair[::-1] if swapped else pair
    before = [parameter.clone() for parameter in student.parameters()]
    lesson = Lesson(loss, teacher)
    distill(student, data, data, DistillConfig(updates=2, batch_size=4), Engine.pick(16), 0, lesson=lesson)
    assert any(not torch.equal(old, new) for old, new in zip(before, student.parameters(), strict=True))


def test_a_teacher_of_224_pixels_teaches_about_images_of_32() -> None:
    """A transformer and a residual network made for 224 px, as pre-trained ones are; the student reads 32 px."""
    data = images(32, CLASSES, 4)
    for name in ("vit", "resnet"):
        net: nn.Module = tiny(224)
        if name == "resnet":
            net = build_net("resnet8", in_channels=3, image_size=224, num_outputs=4, seed=0)
        teacher = ImageModel.for_data(net, data, 224)
        assert teacher.normalise(data.images).shape == (4, 3, 224, 224)
        student = ImageModel.for_data(Cnn(3, 32, 4, width=4), data)
        config = DistillConfig(updates=1, batch_size=2)
        distill(student, data, data, config, Engine.pick(32), 0, lesson=Lesson("KD + FitNet", teacher))


def test_resizing_down_is_antialiased() -> None:
    """Stripes of one pixel become their mean: sampling without a filter would give black or white."""
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::2] = 1
    model = ImageModel(nn.Identity(), size=16, mean=torch.zeros(3), std=torch.ones(3))
    assert (model.normalise(stripes)[..., 2:-2] - 0.5).abs().max() < 0.05


@pytest.mark.compat
def test_weights_of_timm_fit() -> None:
    timm = pytest.importorskip("timm")
    other = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=5).eval()
    own = build_net("vit_tiny", in_channels=3, image_size=224, num_outputs=5, seed=0).eval()
    own.load_state_dict(other.state_dict())
    x: Tensor = torch.rand(1, 3, 224, 224, generator=rng(0, "x"))
    torch.testing.assert_close(own(x), other(x), rtol=1e-4, atol=1e-5)


@pytest.mark.compat
@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "timm:resnet18", "torchvision:resnet18"])
def test_networks_of_libraries_for_224_pixels_teach_about_images_of_64(name: str) -> None:
    pytest.importorskip(name.partition(":")[0], exc_type=ImportError)
    data = images(64, CLASSES, 4)
    net = build_net(name, in_channels=3, image_size=224, num_outputs=4, seed=0)
    student, config = ImageModel.for_data(Cnn(3, 64, 4, width=4), data), DistillConfig(updates=1, batch_size=2)
    lesson = Lesson("KD + FitNet", ImageModel.for_data(net, data, 224))
    distill(student, data, data, config, Engine.pick(64), 0, lesson=lesson)
