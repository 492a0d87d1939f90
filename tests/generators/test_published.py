"""Published architectures: their parameter counts, the maths of their parts, and one round through training."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.utils import parametrize

from gankd.errors import ConfigError
from gankd.generators.label_embedding import LabelInput
from gankd.generators.published import (
    ConditionalBatchNorm,
    DeepDownBlock,
    DeepUpBlock,
    Init,
    Published,
    PublishedDiscriminator,
    PublishedGenerator,
    SelfAttention,
    initialise,
    plan_of,
)
from gankd.seeds import rng
from gankd.storage import load_state, save_state
from gankd.tasks import Classification, Regression, Task

CLASSES = Classification(num_classes=3)
AGES = Regression(low=20.0, high=60.0)
ARCHITECTURES: tuple[Published, ...] = get_args(Published)


def pair(
    architecture: Published,
    task: Task = CLASSES,
    size: int = 32,
    *,
    width: int = 4,
    z_dim: int = 12,
    label_input: LabelInput = "learned",
    embedding_width: int = 5,
) -> tuple[PublishedGenerator, PublishedDiscriminator]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = (3, size, size)
        known = {"width": width, "label_input": label_input, "embedding_width": embedding_width}
        g = PublishedGenerator(architecture, task, shape, z_dim=z_dim, **known)  # type: ignore[arg-type]
        return g, PublishedDiscriminator(architecture, task, shape, spectral=True, **known)  # type: ignore[arg-type]


def noise(*shape: int, name: str = "noise") -> Tensor:
    return torch.randn(shape, generator=rng(0, name))


def some_labels(task: Task, count: int) -> Tensor:
    return task.sample_labels(count, torch.tensor([20.0]), "uniform", rng(0, "labels"))


# --- published counts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "size", "classes", "width", "z_dim", "counts"),
    [
        # asserted in the tests of Google's compare_gan; BigGAN's paper says 158 M in all (table 1)
        ("biggan", 128, 1000, 96, 120, (70_433_988, 87_982_370)),
        ("biggan-deep", 128, 1000, 128, 128, (50_244_484, 34_590_210)),
        # 4.3 M, says issue 78 of the first author's repository; added up by hand from its layers
        ("biggan", 32, 10, 64, 128, (4_304_387, 4_207_361)),
    ],
)
def test_parameters_are_as_many_as_published(
    architecture: Published, size: int, classes: int, width: int, z_dim: int, counts: tuple[int, int]
) -> None:
    with torch.device("meta"):  # counted, not made
        task = Classification(num_classes=classes)
        nets = pair(architecture, task, size, width=width, z_dim=z_dim, embedding_width=128)
    assert tuple(sum(p.numel() for p in net.parameters()) for net in nets) == counts


def test_the_parameters_of_sagan_at_64_pixels_by_hand() -> None:
    with torch.device("meta"):
        g, d = pair("sagan", AGES, 64, width=64, z_dim=256, label_input="ili", embedding_width=128)
    c, e = 64, 128

    def conv(a: int, b: int, side: int) -> int:
        return a * b * side**2 + b

    def attention(n: int) -> int:
        return 2 * n * n // 8 + 2 * n * n // 2 + 1

    widths = [16 * c, 8 * c, 4 * c, 2 * c, c]
    steps = list(pairwise(widths))
    blocks = sum(conv(a, b, 3) + conv(b, b, 3) + conv(a, b, 1) + 2 * e * (a + b) for a, b in steps)
    expected = 257 * 16 * c * 16 + blocks + attention(2 * c) + 2 * c + conv(c, 3, 3)
    assert sum(p.numel() for p in g.parameters() if p.requires_grad) == expected
    down = [(3, c), *[(b, a) for a, b in reversed(steps)]]
    blocks = sum(conv(a, b, 3) + conv(b, b, 3) + conv(a, b, 1) for a, b in down)
    expected = blocks + attention(c) + 16 * c * 16 + 1 + e * 16 * c * 16
    assert sum(p.numel() for p in d.parameters() if p.requires_grad) == expected


@pytest.mark.parametrize("without_values", [FakeTensorMode, partial(torch.device, "meta")])
def test_networks_that_are_only_counted_have_no_spectral_norms(without_values: Callable[[], Any]) -> None:
    small = Classification(num_classes=3)
    with without_values():  # norms would be estimated at length, and count as work and memory of every image
        assert not any(map(parametrize.is_parametrized, pair("biggan", small, 32, width=4, z_dim=12)[1].modules()))
    assert any(map(parametrize.is_parametrized, pair("biggan", small, 32, width=4, z_dim=12)[1].modules()))


# --- parts --------------------------------------------------------------------------------------------------


def test_attention_without_gain_is_the_identity_and_otherwise_a_weighted_mean() -> None:
    layer = SelfAttention(16, spectral=False)
    x = noise(2, 16, 6, 6)
    assert torch.equal(layer(x), x)
    nn.init.constant_(layer.gain, 0.7)
    expected = x.clone()
    with torch.no_grad():
        theta, phi, g = layer.theta(x), F.max_pool2d(layer.phi(x), 2), F.max_pool2d(layer.g(x), 2)
        for image in range(2):
            for row in range(6):
                for column in range(6):
                    scores = torch.einsum("c,chw->hw", theta[image, :, row, column], phi[image])
                    weights = scores.exp() / scores.exp().sum()
                    seen = torch.einsum("hw,chw->c", weights, g[image])
                    expected[image, :, row, column] += 0.7 * layer.out.weight[:, :, 0, 0] @ seen  # type: ignore[index]
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("spectral", [True, False])
def test_conditional_batch_norm_by_formula(spectral: bool) -> None:
    x, embedded = noise(6, 3, 4, 4) * 5 + 2, noise(6, 5, name="e")
    norm = ConditionalBatchNorm(3, 5, spectral).eval()
    norm.norm.train()
    gamma, beta = (F.linear(embedded, layer.weight) for layer in (norm.gamma, norm.beta))  # type: ignore[arg-type]
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    expected = (x - mean) / (var + 1e-5).sqrt() * (1 + gamma[..., None, None]) + beta[..., None, None]
    torch.testing.assert_close(norm(x, embedded), expected)


def test_deep_blocks_keep_what_they_do_not_change() -> None:
    norm = partial(ConditionalBatchNorm, width=5, spectral=False)
    up, down = DeepUpBlock(8, 4, norm, False, up=True), DeepDownBlock(4, 8, down=True, spectral=False)
    for last in (up.convs[3], down.conv4):
        nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    x, y = noise(2, 8, 4, 4), noise(2, 4, 4, 4)
    doubled = x[:, :4].repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(up(x, noise(2, 5)), doubled)  # the first half of the channels
    halved = F.avg_pool2d(y, 2)
    torch.testing.assert_close(down(y), torch.cat([halved, down.more(halved)], 1))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_spectral_norms_are_one(architecture: Published) -> None:
    g, d = pair(architecture, size=32)
    labels = some_labels(CLASSES, 2)
    with torch.no_grad():
        for _ in range(20):  # power iterations
            d(g.train()(noise(2, g.z_dim), labels), labels)
    layers = [m for net in (g, d) for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    wrapped = [layer for layer in layers if parametrize.is_parametrized(layer)]
    for layer in wrapped:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)
    bare = {name for name, m in g.named_modules() if m in layers and m not in wrapped}
    assert all(m in wrapped for m in d.modules() if m in layers)
    if architecture == "sngan":
        assert "output" in bare
    elif architecture == "biggan-deep":
        assert not bare
    else:  # one vector per class, or SAGAN's gamma and beta
        assert all(name.endswith((".gamma", ".beta")) for name in bare)


@pytest.mark.parametrize("architecture", ["biggan", "sagan"])
def test_the_label_enters_the_discriminator_as_a_projection(architecture: Published) -> None:
    _, d = pair(architecture)
    d.eval()
    images, a, b = noise(4, 3, 32, 32).tanh(), torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 0, 2])
    maps = d.blocks(images).relu()
    h = maps.sum((2, 3)) if architecture == "biggan" else maps.flatten(1)
    vectors = d.project(torch.eye(3))
    expected = (h * (vectors[a] - vectors[b])).sum(1)
    torch.testing.assert_close(d(images, a) - d(images, b), expected, atol=1e-4, rtol=1e-3)


# --- whole networks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "label_input"), [(CLASSES, "learned"), (AGES, "learned"), (AGES, "ili")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_forward_backward_sample_and_round_trip(
    architecture: Published, task: Task, label_input: LabelInput, tmp_path: Path
) -> None:
    g, d = pair(architecture, task, label_input=label_input)
    labels = some_labels(task, 3)
    images = g(noise(3, g.z_dim), labels)
    assert images.shape == (3, 3, 32, 32)
    assert images.abs().max() <= 1
    scores = d(images, labels)
    assert scores.shape == (3,)
    scores.sum().backward()
    for net in (g, d):
        for name, parameter in net.named_parameters():
            if parameter.requires_grad:  # the label input of ILI is frozen
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
    g.eval()
    sampled = g.sample(labels, generator=rng(0, "s"))
    assert sampled.dtype == torch.uint8
    assert torch.equal(sampled, g.sample(labels, generator=rng(0, "s")))
    assert not torch.equal(sampled, g.sample(labels, generator=rng(1, "s")))
    sweep = g.sweep(labels, 2, generator=rng(0, "s"))
    assert sweep.shape == (2, 3, 3, 32, 32)
    save_state(tmp_path / "g", g.state_dict())
    again, _ = pair(architecture, task, label_input=label_input)
    again.load_state_dict(load_state(tmp_path / "g"))
    assert torch.equal(again.eval().sample(labels, generator=rng(0, "s")), sampled)


@pytest.mark.parametrize("task", [CLASSES, AGES])
@pytest.mark.parametrize(
    ("architecture", "size", "side"),
    [("biggan", 64, 32), ("biggan-deep", 64, 32), ("sagan", 64, 32), ("sagan", 32, 16), ("sagan", 28, 14)],
)
def test_attention_lies_where_it_was_published(architecture: Published, size: int, side: int, task: Task) -> None:
    g, d = pair(architecture, task, size, width=2)
    seen = []
    for net in (g, d):
        (layer,) = [m for m in net.modules() if isinstance(m, SelfAttention)]
        layer.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[-1]))
    labels = some_labels(task, 2)
    with torch.no_grad():
        assert d(g(noise(2, g.z_dim), labels), labels).shape == (2,)
    assert seen == [side, side]


def test_a_latent_in_chunks_is_used_whole() -> None:
    g, _ = pair("biggan", size=64, width=1, z_dim=128)
    assert g.z_dim == 125  # five chunks of 25
    z = noise(2, g.z_dim).requires_grad_()
    for layer in g.modules():
        if isinstance(layer, ConditionalBatchNorm):  # nothing is cut off by a ReLU for all images
            layer.norm.eval()
    g(z, torch.tensor([0, 1])).sum().backward()
    assert z.grad is not None
    assert (z.grad.abs().sum(0) > 0).all()
    with pytest.raises(ConfigError, match=r"gan.z_dim must be at least 5 here, got 4"):
        pair("biggan", size=64, z_dim=4)


@pytest.mark.parametrize(("architecture", "size"), [("biggan", 16), ("biggan-deep", 28), ("sagan", 8), ("sngan", 12)])
def test_sizes_that_were_never_made_are_refused(architecture: Published, size: int) -> None:
    with pytest.raises(ConfigError, match=f"gan.architecture={architecture} makes images of .*, got {size}; use resid"):
        plan_of(architecture, size)


# --- init ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["normal", "orthogonal", "xavier"])
def test_initialise(how: Init) -> None:
    g, d = pair("biggan-deep", AGES, width=8, label_input="ili")
    frozen = {name: value.clone() for name, value in g.embedding.state_dict().items()}
    for net in (g, d):
        torch.manual_seed(1)
        initialise(net, how)
        for layer in net.modules():
            if not isinstance(layer, nn.Conv2d | nn.Linear) or not next(layer.parameters()).requires_grad:
                continue
            assert layer.bias is None or not layer.bias.any()
            assert parametrize.is_parametrized(layer)
            weight = layer.get_parameter("parametrizations.weight.original")
            matrix = weight.flatten(1)
            if how == "orthogonal":
                short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
                torch.testing.assert_close(short @ short.T, torch.eye(len(short)), atol=1e-5, rtol=0)
            elif how == "normal" and matrix.numel() > 1000:
                assert matrix.std().item() == pytest.approx(0.02, rel=0.1)
            elif how == "xavier":
                places = weight[0, 0].numel()
                bound = (6 / (places * sum(weight.shape[:2]))) ** 0.5
                assert 0.8 * bound < matrix.abs().max() <= bound
            # the singular vectors were found for these weights, not for those before
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.3)
    assert all(torch.equal(value, g.embedding.state_dict()[name]) for name, value in frozen.items())
