"""Generator and discriminator: closed forms of their parts, rounding of samples, and spectral norms of one."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gankd.errors import ConfigError
from gankd.generators.label_embedding import LabelInput
from gankd.generators.networks import (
    ConditionalGenerator,
    ConditionalNorm,
    DownBlock,
    ProjectionDiscriminator,
    UpBlock,
    start_side,
    start_sides,
    to_float,
    to_uint8,
)
from gankd.seeds import rng
from gankd.tasks import Classification, Regression, Task
from gankd.training.gan import GanConfig, build_generator

CLASSES = Classification(num_classes=4)
AGES = Regression(low=20.0, high=60.0)
INPUTS: list[tuple[Task, LabelInput]] = [(CLASSES, "learned"), (AGES, "learned"), (AGES, "nli"), (AGES, "ili")]


def generator(
    task: Task = CLASSES, label_input: LabelInput = "learned", size: int = 8, batch_norm: bool = True
) -> ConditionalGenerator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ConditionalGenerator(
            task,
            (3, size, size),
            width=4,
            z_dim=6,
            label_input=label_input,
            embedding_width=5,
            batch_norm=batch_norm,
        )


def discriminator(
    task: Task = CLASSES, label_input: LabelInput = "learned", size: int = 8, spectral: bool = True
) -> ProjectionDiscriminator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ProjectionDiscriminator(
            task,
            (3, size, size),
            width=4,
            label_input=label_input,
            embedding_width=5,
            spectral=spectral,
        )


def some_labels(task: Task, count: int) -> Tensor:
    return task.sample_labels(count, torch.tensor([20.0]), "uniform", rng(0, "labels"))


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=rng(0, "noise"))


@pytest.mark.parametrize(
    ("size", "side"),
    [
        (8, 4),
        (16, 4),
        (28, 7),
        (32, 4),
        (64, 4),
        (224, 7),
        (256, 4),
        (10, 5),
        (12, 6),
        (48, 6),
        (56, 7),
        (4, 4),
        (7, 7),
    ],
)
def test_start_side(size: int, side: int) -> None:
    assert start_side(size) == side
    assert size // side & (size // side - 1) == 0  # a power of two


@pytest.mark.parametrize(
    ("height", "width", "sides"),
    [(32, 48, (4, 6)), (48, 32, (6, 4)), (24, 64, (6, 16)), (64, 64, (4, 4)), (8, 8, (4, 4))],
)
def test_start_sides(height: int, width: int, sides: tuple[int, int]) -> None:
    assert start_sides(height, width) == sides


def test_sides_that_cannot_be_halved_together_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="images of 32x36 pixels by 3 doublings, so the longer side must be a multiple"
    ):
        start_sides(32, 36)


def test_images_that_are_not_square() -> None:
    task, shape = Classification(num_classes=3), (3, 16, 24)
    net = ConditionalGenerator(
        task, shape, width=4, z_dim=4, label_input="learned", embedding_width=4, batch_norm=False
    )
    labels = torch.arange(3)
    images = net.sample(labels, generator=rng(0, "z"))
    assert images.shape == (3, 3, 16, 24)
    judge = ProjectionDiscriminator(task, shape, width=4, label_input="learned", embedding_width=4, spectral=False)
    assert judge(images.float(), labels).shape == (3,)
    for name in ("sagan", "biggan"):
        with pytest.raises(ConfigError, match=f"gan.architecture={name} makes square images, got 16x24; use residual"):
            build_generator(task, shape, GanConfig(architecture=name), 0)


@pytest.mark.parametrize("size", [2, 3, 9, 30, 100, 512])
def test_sizes_that_cannot_be_halved_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"a power of two times 4 to 7 .*, not of {size}: set data.size"):
        start_side(size)


@pytest.mark.parametrize("size", [8, 12, 28, 32])
@pytest.mark.parametrize(("task", "label_input"), INPUTS)
def test_sizes_fit_together(task: Task, label_input: LabelInput, size: int) -> None:
    labels = some_labels(task, 3)
    images = generator(task, label_input, size)(noise(3, 6), labels)
    assert images.shape == (3, 3, size, size)
    assert images.abs().max() <= 1
    assert discriminator(task, label_input, size)(images, labels).shape == (3,)


# --- parts --------------------------------------------------------------------------------------------------


def test_conditional_norm_by_formula() -> None:
    x, embedded = noise(6, 3, 4, 4) * 5 + 2, torch.randn(6, 5, generator=rng(0, "e"))
    norm = ConditionalNorm(3, 5, batch_norm=True)
    assert norm.affine.bias.abs().max() == 0
    assert norm.affine.weight.std() < 0.05  # starts as plain normalisation
    nn.init.normal_(norm.affine.weight, generator=rng(0, "w"))
    gamma, beta = (embedded @ norm.affine.weight.T)[:, :, None, None].split(3, 1)
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    torch.testing.assert_close(norm(x, embedded), (x - mean) / (var + 1e-5).sqrt() * (1 + gamma) + beta)
    without = ConditionalNorm(3, 5, batch_norm=False)
    without.load_state_dict({name: value for name, value in norm.state_dict().items() if "affine" in name})
    torch.testing.assert_close(without(x, embedded), x * (1 + gamma) + beta)


def test_up_block_by_formula() -> None:
    block = UpBlock(4, 2, partial(ConditionalNorm, embedding_width=5, batch_norm=True)).eval()
    x, embedded = noise(3, 4, 4, 4), torch.randn(3, 5, generator=rng(0, "e"))

    def double(y: Tensor) -> Tensor:
        return y.repeat_interleave(2, 2).repeat_interleave(2, 3)

    out = block.conv1(double(block.norm1(x, embedded).relu()))
    out = block.conv2(block.norm2(out, embedded).relu())
    torch.testing.assert_close(block(x, embedded), out + block.shortcut(double(x)))  # either order


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("down", [True, False])
def test_down_block_by_formula(first: bool, down: bool) -> None:
    block = DownBlock(3, 4, down=down, first=first, spectral=False)
    x = noise(2, 3, 8, 8)

    def leak(y: Tensor) -> Tensor:
        return torch.where(y > 0, y, 0.2 * y)

    out = block.conv2(leak(block.conv1(x if first else leak(x)))) + block.shortcut(x)
    if down:
        out = out.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    torch.testing.assert_close(block(x), out, atol=1e-5, rtol=1e-4)


# --- the discriminator --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spectral", [True, False])
@pytest.mark.parametrize(("task", "label_input"), INPUTS)
def test_the_label_enters_as_a_projection(task: Task, label_input: LabelInput, spectral: bool) -> None:
    net = discriminator(task, label_input, spectral=spectral).eval()
    images = noise(5, 3, 8, 8)
    a, b = some_labels(task, 10).chunk(2)
    h = F.leaky_relu(net.blocks(images), 0.2).sum((2, 3)) / 8**0.5  # 8 channels at the coarsest map
    embedded = net.project(net.embedding(a)) - net.project(net.embedding(b))
    assert embedded.abs().max() > 0.01
    torch.testing.assert_close(net(images, a) - net(images, b), (h * embedded).sum(1), atol=1e-5, rtol=1e-4)
    score = net.score(h)[:, 0] + (h * net.project(net.embedding(a))).sum(1)
    torch.testing.assert_close(net(images, a), score, atol=1e-5, rtol=1e-4)


def test_scores_of_one_image_do_not_depend_on_the_others() -> None:
    net = discriminator().train()  # gradient penalties rest on it
    images, labels = noise(6, 3, 8, 8), some_labels(CLASSES, 6)
    with parametrize.cached():
        whole = net(images, labels)
        single = torch.cat([net(images[i : i + 1], labels[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(whole, single)


@pytest.mark.parametrize(("task", "label_input"), INPUTS)
def test_every_layer_of_the_discriminator_has_spectral_norm_one(task: Task, label_input: LabelInput) -> None:
    net = discriminator(task, label_input).train()
    labels = some_labels(task, 2)
    with torch.no_grad():
        for _ in range(100):  # power iterations
            net(noise(2, 3, 8, 8), labels)
    layers = [
        module
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "embedding" not in name
    ]
    assert len(layers) == 3 * len(net.blocks) + 2
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)
    plain = discriminator(task, label_input, spectral=False)
    assert not any(parametrize.is_parametrized(module) for module in plain.modules())


# --- the generator ------------------------------------------------------------------------------------------


def test_all_levels_survive_the_way_through_floats() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(levels)), levels)
    assert to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]
    # to the nearest level, not the next below; half a level is 1 / 255
    nudged = to_float(levels) + torch.tensor([[-0.98], [0.98]]) / 255
    assert torch.equal(to_uint8(nudged), levels.expand(2, -1))
    assert to_uint8(torch.tensor([-1.5, 1.5, 1.0], dtype=torch.bfloat16)).tolist() == [0, 255, 255]


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize(("task", "label_input"), INPUTS)
def test_a_sample_does_not_depend_on_its_batch(task: Task, label_input: LabelInput, batch_norm: bool) -> None:
    net = generator(task, label_input, batch_norm=batch_norm)
    labels, z = some_labels(task, 8), noise(8, 6)
    net.train()(noise(32, 6), some_labels(task, 32))  # some running statistics
    net.eval()
    whole = net(z, labels)
    order = torch.tensor([3, 0, 7])
    torch.testing.assert_close(net(z[order], labels[order]), whole[order])


def test_sampling_depends_on_the_generator_alone() -> None:
    net = generator().train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    labels = some_labels(CLASSES, 16)
    before = torch.get_rng_state()
    images = net.sample(labels, generator=rng(0, "z"))
    assert images.dtype == torch.uint8
    assert images.shape == (16, 3, 8, 8)
    assert not images.requires_grad
    assert net.training  # as it was
    assert torch.equal(images, net.sample(labels, generator=rng(0, "z")))
    assert not torch.equal(images, net.sample(labels, generator=rng(1, "z")))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())
    z = torch.randn(16, 6, generator=rng(0, "z"))
    with torch.no_grad():
        expected = ((net.eval()(z, labels) + 1) * 127.5).round()
    assert torch.equal(images.float(), expected)


@pytest.mark.parametrize(("task", "label_input"), INPUTS)
def test_label_and_latent_both_matter(task: Task, label_input: LabelInput) -> None:
    net = generator(task, label_input).eval()
    for norm in (block.norm1 for block in net.blocks):
        nn.init.normal_(norm.affine.weight, std=0.3, generator=rng(0, "w"))  # type: ignore[union-attr, arg-type]
    labels, z = some_labels(task, 8), noise(8, 6)
    base = net(z, labels)
    assert (net(z, labels.roll(1)) - base)[labels != labels.roll(1)].abs().amax((1, 2, 3)).min() > 1e-4
    assert (net(z.roll(1, 0), labels) - base).abs().amax((1, 2, 3)).min() > 1e-3


def test_images_are_made_in_passes_that_fit_the_cache_and_are_those_of_one_pass() -> None:
    net = generator(size=64).train()
    sizes: list[int] = []
    net.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    labels = torch.arange(200) % 4
    images = net.sample(labels, generator=rng(0, "z"))
    assert sum(sizes) == 200
    assert max(sizes) <= 64
    assert net.training
    with torch.no_grad():
        whole = to_uint8(net.eval()(torch.randn(200, net.z_dim, generator=rng(0, "z")), labels))
    assert (images.int() - whole.int()).abs().max() <= 1  # equal but for rounding, if kernels differ by batch size
