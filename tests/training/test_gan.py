"""GAN training: each update against its formula, the averaged generator, collapse, and toys that must be learned."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import ConfigError, DataError, TrainingError
from gankd.generators.label_embedding import LabelToEmbedding
from gankd.generators.networks import LatentGenerator, to_float
from gankd.losses.adversarial import discriminator_loss, generator_loss, gradient_penalty
from gankd.models import build_net
from gankd.models.contract import ImageModel
from gankd.recipes.generated import load_generator, save_generator
from gankd.runs import Stage
from gankd.seeds import BLOCK, rng
from gankd.tasks import Classification, Regression, Task
from gankd.training import gan as module
from gankd.training.gan import (
    GanConfig,
    GanTrainer,
    build_discriminator,
    build_generator,
    fitted_vicinity,
    float32_spectral_norm,
    logistic,
    relativistic,
    train_gan,
)
from gankd.training.gan_batches import ClassBatches, VicinalBatches
from gankd.training.gan_health import HealthCheck
from gankd.training.gan_published import (
    biggan_cifar,
    biggan_deep_imagenet100,
    biggan_tiny_imagenet,
    sagan_steering,
    sagan_utkface,
    sngan_rc49,
)
from gankd.training.supervised import SupervisedConfig, train_supervised

PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=False)
CLASSES = Classification(num_classes=2)
AGES = Regression(low=20.0, high=60.0, unit="years")
SMALL = GanConfig(
    steps=10,
    batch_size=8,
    width_g=4,
    width_d=4,
    z_dim=4,
    embedding_width=4,
    health_checks=0,
    ili_updates=20,
)


def brightness(task: Task, labels: Tensor) -> Tensor:
    """Grey level in [0, 1] of the toy's images."""
    return 0.1 + 0.8 * task.normalise(labels) if isinstance(task, Regression) else 0.25 + 0.5 * labels


def toy(task: Task, count: int = 64) -> LabelledImages:
    """Almost constant images, whose brightness tells the label."""
    number = torch.arange(count)
    labels = task.denormalise(number / (count - 1)) if isinstance(task, Regression) else number % 2
    noise = 0.1 * torch.rand((count, 1, 8, 8), generator=rng(0, "toy")) - 0.05
    images = (255 * (brightness(task, labels)[:, None, None, None] + noise)).round().to(torch.uint8)
    return LabelledImages(images, labels, task)


CLASS_TOY, AGE_TOY = toy(CLASSES), toy(AGES)


def judge(data: LabelledImages) -> ImageModel:
    net = build_net("cnn4", in_channels=1, image_size=8, num_outputs=data.task.head_size, seed=0)
    return ImageModel.for_data(net, data)


def trainer(data: LabelledImages, config: GanConfig = SMALL, ili: LabelToEmbedding | None = None) -> GanTrainer:
    return GanTrainer(data, config, PLAIN, 0, ili)


def gradients(net: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def weights(net: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in net.parameters()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# --- batches ------------------------------------------------------------------------------------------------


def test_class_batches_pair_real_images_with_fakes_of_their_classes() -> None:
    batches = ClassBatches(CLASS_TOY, 16, seed=0)
    draws = [batches.draw(number, rng(0, "d", number)) for number in range(4)]
    for draw in draws:
        assert torch.equal(draw.target, CLASS_TOY.labels[draw.real_index])
        assert torch.equal(draw.fake_labels, draw.target)
        assert draw.real_weight is draw.fake_weight is None
    assert torch.equal(torch.cat([draw.real_index for draw in draws]).sort().values, torch.arange(64))
    rare = ClassBatches(CLASS_TOY.subset(CLASS_TOY.labels.cumsum(0) <= 8), 16, seed=0)
    share = rare.targets(4000, rng(0, "t")).double().mean().item()
    assert share == pytest.approx(8 / 17, abs=0.03)  # as often as they occur


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_vicinal_batches_are_in_label_units(kind: str) -> None:
    config = replace(SMALL, vicinity=kind, sigma=0.02, kappa=0.05, batch_size=500)  # type: ignore[arg-type]
    assert isinstance(AGE_TOY.task, Regression)
    batches = VicinalBatches(AGE_TOY.task, fitted_vicinity(AGE_TOY, config), config.batch_size)
    draw = batches.draw(0, rng(0, "d"))
    assert draw.real_weight is not None
    assert draw.fake_weight is not None
    radius = 0.05 * 40 * (1 if kind == "hard" else math.sqrt(math.log(1000)))
    for labels, found in (
        (AGE_TOY.labels[draw.real_index], draw.real_weight),
        (draw.fake_labels, draw.fake_weight),
    ):
        gap = labels - draw.target
        assert 0.9 * radius < gap.abs().max() <= radius + 1e-3
        expected = torch.ones(500) if kind == "hard" else torch.exp(-((gap / 40 / 0.05) ** 2))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    noise = batches.targets(5000, rng(0, "t"))
    nearest = (noise[:, None] - AGE_TOY.labels).abs().amin(1)
    assert 20 - 5 < noise.min() < 21
    assert nearest.max() < 5 * 0.02 * 40


# --- one update ---------------------------------------------------------------------------------------------


def d_gradients(train: GanTrainer, draw: int) -> list[Tensor]:
    """Gradients of the discriminator step, by its formula, from real and fake images apart."""
    config = train.config
    random = rng(train.seed, "gan d", draw)
    batch = train.batches.draw(draw, random)
    real = to_float(train.train_set.images[batch.real_index]).requires_grad_()
    z = torch.randn(len(real), config.z_dim, generator=random)
    with torch.no_grad():
        fake = copy.deepcopy(train.generator)(z, batch.fake_labels)
    fake.requires_grad_()
    net = copy.deepcopy(train.discriminator)
    net.zero_grad()
    with parametrize.cached():
        real_scores, fake_scores = net(real, batch.target), net(fake, batch.target)
        total = discriminator_loss(config.loss, real_scores, fake_scores, batch.real_weight, batch.fake_weight)
        if config.penalty != "none" and draw % config.penalty_every == 0:
            penalty = gradient_penalty(real_scores, real)
            if config.penalty == "r1r2":
                penalty = penalty + gradient_penalty(fake_scores, fake)
            assert config.penalty_weight is not None
            total = total + config.penalty_weight * config.penalty_every * penalty
        total.backward()
    return [p.grad if p.grad is not None else torch.zeros_like(p) for p in net.parameters()]


PENALTIES = {
    "hinge": SMALL,
    "logistic, r1": replace(logistic(SMALL), penalty_weight=3.0, penalty_every=1),
    "logistic, lazy r1": replace(logistic(SMALL), penalty_weight=0.5, penalty_every=4),
    "relativistic, r1 and r2": replace(relativistic(SMALL), penalty_weight=2.0),
    "spectral norm and r1": replace(SMALL, penalty="r1", penalty_weight=2.0),
}


@pytest.mark.parametrize("data", [CLASS_TOY, AGE_TOY], ids=["class", "age"])
@pytest.mark.parametrize("name", PENALTIES)
def test_the_discriminator_step_by_formula(data: LabelledImages, name: str) -> None:
    train = trainer(data, PENALTIES[name])
    train.discriminator_step(1)  # away from the initial weights
    for draw in (4, 5):  # with and without the lazy penalty
        expected = d_gradients(train, draw)
        before = weights(train.generator), weights(train.discriminator)
        train.discriminator_step(draw)
        for found, gradient in zip(train.discriminator.parameters(), expected, strict=True):
            assert found.grad is not None
            torch.testing.assert_close(found.grad, gradient, atol=1e-5, rtol=1e-3)
        assert equal(before[0], weights(train.generator))  # the generator stays as it is
        assert all(gradient is None for gradient in gradients(train.generator))
        assert not equal(before[1], weights(train.discriminator))


def test_penalties_by_hand() -> None:
    # D(x) = a sum(x) has the gradient a everywhere: R1 and R2 are each 64 a^2 / 2, whatever the batch size
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.tensor(0.5))

        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            return self.a * images.sum((1, 2, 3))

    found = {}
    for batch_size in (8, 32):
        for penalty in ("none", "r1", "r1r2"):
            config = replace(logistic(SMALL), penalty=penalty, penalty_weight=1.0, penalty_every=1)
            train = trainer(CLASS_TOY, replace(config, batch_size=batch_size))
            train.discriminator = Linear()
            train.optimizer_d = torch.optim.Adam(train.discriminator.parameters())
            train.discriminator_step(0)
            gradient = train.discriminator.a.grad
            assert isinstance(gradient, Tensor)
            found[penalty, batch_size] = gradient.item()
        base = found["none", batch_size]
        assert found["r1", batch_size] - base == pytest.approx(64 * 0.5, rel=1e-3)  # d/da 64 a^2 / 2
        assert found["r1r2", batch_size] - base == pytest.approx(2 * 64 * 0.5, rel=1e-3)


@pytest.mark.parametrize("data", [CLASS_TOY, AGE_TOY], ids=["class", "age"])
@pytest.mark.parametrize("name", ["hinge", "logistic, r1", "relativistic, r1 and r2"])
def test_the_generator_step_by_formula(data: LabelledImages, name: str) -> None:
    train = trainer(data, replace(PENALTIES[name], d_steps=3))
    train.discriminator_step(0)
    state = {key: value.clone() for key, value in train.discriminator.named_parameters()}
    d_before = gradients(train.discriminator)

    random = rng(0, "gan g", 4)
    g, d = copy.deepcopy(train.generator), copy.deepcopy(train.discriminator)
    real = None
    with parametrize.cached():
        if train.config.loss == "relativistic":
            batch = train.batches.draw(10 * 3 + 4, random)  # after all draws of the discriminator
            target = batch.target
            real = d(to_float(data.images[batch.real_index]), target)
        else:
            target = train.batches.targets(8, random)
        fake = g(torch.randn(8, 4, generator=random), target)
        generator_loss(train.config.loss, d(fake, target), real).backward()

    before = weights(train.generator)
    loss = train.generator_step(4)
    assert loss.isfinite()
    for found, expected in zip(train.generator.parameters(), g.parameters(), strict=True):
        assert found.grad is not None
        assert expected.grad is not None
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-6, rtol=1e-3)
    assert not equal(before, weights(train.generator))
    # the discriminator stays as it is, and trainable
    assert all(torch.equal(value, state[key]) for key, value in train.discriminator.named_parameters())
    assert all(parameter.requires_grad for parameter in train.discriminator.parameters())
    for old, new in zip(d_before, gradients(train.discriminator), strict=True):
        assert old is not None
        assert new is not None
        assert torch.equal(old, new)


def test_default_training_is_bit_for_bit_the_plain_one() -> None:
    # trainings with default settings go on after an update of the package
    config = replace(SMALL, d_steps=2)
    g, d = build_generator(CLASSES, (1, 8, 8), config, 0), build_discriminator(CLASSES, (1, 8, 8), config, 0)
    averaged = copy.deepcopy(g)
    adam_g = torch.optim.Adam(g.parameters(), config.lr_g, betas=config.betas, fused=True)
    adam_d = torch.optim.Adam(d.parameters(), config.lr_d, betas=config.betas, fused=True)
    batches = ClassBatches(CLASS_TOY, config.batch_size, 0)
    train = trainer(CLASS_TOY, config)
    for step in range(4):
        for draw in (2 * step, 2 * step + 1):
            train.discriminator_step(draw)
            random = rng(0, "gan d", draw)
            batch = batches.draw(draw, random)
            with torch.no_grad():
                fake = g(torch.randn(8, 4, generator=random), batch.fake_labels)
            with parametrize.cached():
                both = torch.cat([to_float(CLASS_TOY.images[batch.real_index]), fake])
                real_scores, fake_scores = d(both, torch.cat([batch.target, batch.target])).chunk(2)
                adam_d.zero_grad()
                discriminator_loss("hinge", real_scores, fake_scores, None, None).backward()
            adam_d.step()
        train.generator_step(step)
        random = rng(0, "gan g", step)
        target = batches.targets(8, random)
        with parametrize.cached():
            loss = generator_loss("hinge", d(g(torch.randn(8, 4, generator=random), target), target), None)
            adam_g.zero_grad()
            loss.backward()
        adam_g.step()
        keep = min(0.5 ** (1 / max(0.05 * 10, 1)), (1 + step) / (10 + step)) if step else 0.0
        for old, new in zip(averaged.parameters(), g.parameters(), strict=True):
            torch._foreach_lerp_([old.data], [new.data], 1 - keep)
    assert equal(weights(train.generator), weights(g))
    assert equal(weights(train.discriminator), weights(d))
    assert equal(weights(train.ema.module), weights(averaged))


@pytest.mark.parametrize("data", [CLASS_TOY, AGE_TOY], ids=["class", "age"])
@pytest.mark.parametrize("name", ["hinge", "logistic, r1"])
def test_accumulated_halves_are_one_whole_batch(data: LabelledImages, name: str) -> None:
    base = replace(PENALTIES[name], spectral_norm=False, batch_norm=False)
    train = trainer(data, replace(base, accumulate=2))
    for draw in (0, 3):
        halves = [train.batches.draw(2 * draw + part, rng(0, "gan d", 2 * draw + part)) for part in (0, 1)]
        if data is CLASS_TOY:  # as many passes over the data as with whole batches
            order = torch.cat([half.real_index for half in halves])
            assert torch.equal(order, ClassBatches(data, 16, 0).draw(draw, rng(0, "x")).real_index)
        whole: list[list[Tensor]] = [[], [], [], []]
        for part in (0, 1):
            random = rng(0, "gan d", 2 * draw + part)
            batch = train.batches.draw(2 * draw + part, random)
            z = torch.randn(8, 4, generator=random)
            with torch.no_grad():
                fake = train.generator(z, batch.fake_labels)
            ones = torch.ones(8)
            pairs = (batch.real_weight, batch.fake_weight)
            whole[0].append(to_float(data.images[batch.real_index]))
            whole[1].append(fake)
            whole[2].append(batch.target)
            whole[3].append(torch.stack([ones if weight is None else weight for weight in pairs]))
        real, fake, target = (torch.cat(parts).requires_grad_(parts[0].is_floating_point()) for parts in whole[:3])
        weight = torch.cat(whole[3], 1)
        net = copy.deepcopy(train.discriminator)
        net.zero_grad()
        real_scores, fake_scores = net(real, target), net(fake, target)
        total = discriminator_loss(base.loss, real_scores, fake_scores, weight[0], weight[1])
        if base.penalty != "none":
            assert base.penalty_weight is not None
            total = total + base.penalty_weight * gradient_penalty(real_scores, real)
        total.backward()
        loss = train.discriminator_step(draw)
        for found, expected in zip(train.discriminator.parameters(), net.parameters(), strict=True):
            assert found.grad is not None
            gradient = torch.zeros_like(found) if expected.grad is None else expected.grad
            torch.testing.assert_close(found.grad, gradient, atol=1e-5, rtol=1e-3)
        if base.penalty == "none":
            torch.testing.assert_close(loss, total.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["hinge", "relativistic, r1 and r2"])
def test_the_generator_accumulates_too(name: str) -> None:
    train = trainer(CLASS_TOY, replace(PENALTIES[name], accumulate=2, batch_norm=False, spectral_norm=False))
    single = trainer(CLASS_TOY, replace(PENALTIES[name], steps=20, batch_norm=False, spectral_norm=False))
    expected = []
    for number in (6, 7):  # the batches of update 3
        single.optimizer_g.zero_grad()
        single._generator_gradient(number)
        expected.append([gradient for gradient in gradients(single.generator) if gradient is not None])
    train.generator_step(3)
    for found, a, b in zip(train.generator.parameters(), *expected, strict=True):
        assert found.grad is not None
        torch.testing.assert_close(found.grad, (a + b) / 2, atol=1e-6, rtol=1e-4)


def test_adam_gets_its_epsilon() -> None:
    train = trainer(CLASS_TOY, replace(SMALL, adam_eps=1e-6))
    assert [o.param_groups[0]["eps"] for o in (train.optimizer_g, train.optimizer_d)] == [1e-6, 1e-6]


def test_learning_rates_can_stay() -> None:
    config = replace(SMALL, lr_decay=False)
    assert {config.learning_rate_factor(step) for step in range(SMALL.steps + 1)} == {1.0}


@pytest.mark.parametrize("init", ["normal", "orthogonal", "xavier"])
def test_networks_start_as_set(init: Any) -> None:
    drawn = [build_generator(AGES, (1, 8, 8), replace(SMALL, init=init), seed) for seed in (0, 0, 1)]
    assert equal(weights(drawn[0]), weights(drawn[1]))
    assert not equal(weights(drawn[0]), weights(drawn[2]))
    assert not equal(weights(drawn[0]), weights(build_generator(AGES, (1, 8, 8), SMALL, 0)))
    net = build_discriminator(AGES, (1, 8, 8), replace(SMALL, init=init), 0)
    plain = build_discriminator(AGES, (1, 8, 8), SMALL, 0)
    assert net.state_dict().keys() == plain.state_dict().keys()


def test_ili_stays_frozen() -> None:
    ili = LabelToEmbedding(AGES)
    before = weights(ili)
    train = trainer(AGE_TOY, replace(SMALL, label_input="ili"), ili)
    assert train.generator.embedding is ili
    assert train.discriminator.embedding is ili
    for step in range(3):
        train.discriminator_step(step)
        train.generator_step(step)
    assert equal(before, weights(ili))
    assert not any(parameter.requires_grad for parameter in ili.parameters())
    for owner in (train.generator.get_submodule("input"), train.discriminator.get_submodule("score")):
        assert all(parameter.requires_grad for parameter in owner.parameters())


def test_flip_mirrors_every_second_real_image() -> None:
    ramp = torch.arange(8, dtype=torch.uint8).expand(64, 1, 8, 8).contiguous()
    data = LabelledImages(ramp, CLASS_TOY.labels, CLASSES)
    index = torch.arange(64)
    images = trainer(data, replace(SMALL, flip=True))._real(index, rng(0, "x"))
    upright = (images == to_float(ramp)).flatten(1).all(1)
    mirrored = (images == to_float(ramp.flip(3))).flatten(1).all(1)
    assert (upright ^ mirrored).all()
    assert 20 < int(mirrored.sum()) < 44
    assert torch.equal(trainer(data)._real(index, rng(0, "x")), to_float(ramp))


def test_the_learning_rate_is_constant_and_then_falls_to_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[float, float]] = []

    def generator_step(train: GanTrainer, step: int) -> Tensor:
        for optimizer in (train.optimizer_g, train.optimizer_d):
            optimizer.step()
        found.append((train.optimizer_g.param_groups[0]["lr"], train.optimizer_d.param_groups[0]["lr"]))
        return torch.zeros(())

    monkeypatch.setattr(GanTrainer, "generator_step", generator_step)
    monkeypatch.setattr(GanTrainer, "discriminator_step", lambda train, draw: torch.zeros(()))
    config = replace(SMALL, steps=101, lr_g=0.1, lr_d=0.4, health_checks=0)
    train_gan(CLASS_TOY, CLASS_TOY, judge(CLASS_TOY), config, PLAIN, 0)
    factors = [min(1.0, 1.9 - 1.8 * step / 101) for step in range(101)]
    assert found == [(0.1 * factor, 0.4 * factor) for factor in factors]  # bit for bit
    assert [factors[step] for step in (0, 30, 50, 100)] == pytest.approx([1, 1, 1, 0.1], abs=0.02)


def test_spectral_norms_are_computed_once_and_in_float32() -> None:
    net = build_discriminator(CLASSES, (1, 8, 8), SMALL, 0).train()
    seen: list[Tensor] = []

    def watch(layer: nn.Module, *_: object) -> None:
        seen.append(layer.weight)  # type: ignore[arg-type]

    net.get_submodule("score").register_forward_pre_hook(watch)
    vectors = [buffer.clone() for buffer in net.buffers()]
    images, labels = to_float(CLASS_TOY.images[:4]), CLASS_TOY.labels[:4]
    with float32_spectral_norm(net), torch.autocast("cpu", torch.bfloat16):
        once = [buffer.clone() for buffer in net.buffers()]
        net(images, labels)
        net(images, labels)
        assert equal(once, list(net.buffers()))  # one power iteration, not three
    assert not equal(once, vectors)
    assert seen[0] is seen[1]
    assert seen[0].dtype == torch.float32


# --- the average --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("half_life", "steps"), [(0.05, 10), (0.5, 400)])
def test_the_average_is_a_ramped_exponential_one(half_life: float, steps: int) -> None:
    train = trainer(CLASS_TOY, replace(SMALL, ema_half_life=half_life, steps=steps))
    cap = 0.5 ** (1 / max(half_life * steps, 1))
    expected: list[Tensor] = []
    for step in range(8):
        train.generator_step(step)
        now = weights(train.generator)
        keep = min(cap, (1 + step) / (10 + step)) if expected else 0.0  # the first weights are taken over
        old = expected or now
        expected = [keep * a + (1 - keep) * b for a, b in zip(old, now, strict=True)]
        for found, value in zip(train.ema.module.parameters(), expected, strict=True):
            torch.testing.assert_close(found, value)
    if steps == 400:
        assert keep == 8 / 17  # still on the ramp
        train.generator_step(100_000)  # and far past it
        assert train._keep**200 == pytest.approx(0.5)  # after half of the run, half of the weight


def test_the_average_is_a_copy_before_its_start_and_then_keeps_what_is_set() -> None:
    train = trainer(CLASS_TOY, replace(SMALL, ema_decay=0.9, ema_start=3))
    expected: list[Tensor] = []
    for step in range(6):
        train.generator_step(step)
        now = weights(train.generator)
        keep = 0.0 if step < 3 else 0.9  # without a ramp, as BigGAN does
        expected = [keep * a + (1 - keep) * b for a, b in zip(expected or now, now, strict=True)]
        for found, value in zip(train.ema.module.parameters(), expected, strict=True):
            torch.testing.assert_close(found, value)
    without = trainer(CLASS_TOY, replace(SMALL, ema_decay=0.0))
    for step in range(3):
        without.generator_step(step)
    assert equal(weights(without.ema.module), weights(without.generator))


def test_batch_statistics_of_the_average_are_measured_on_its_own_samples() -> None:
    train = trainer(CLASS_TOY, replace(SMALL, steps=6))
    for step in range(6):
        train.discriminator_step(step)
        train.generator_step(step)
    ema = train.ema.module
    norms = [part for part in ema.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == 3
    before = weights(ema)
    inputs: dict[nn.Module, list[Tensor]] = {norm: [] for norm in norms}
    hooks = [norm.register_forward_pre_hook(lambda n, x: inputs[n].append(x[0])) for norm in norms]
    generator = train.averaged()
    for hook in hooks:
        hook.remove()
    assert generator is ema
    assert not generator.training
    assert equal(before, weights(generator))
    for norm in norms:
        x = torch.cat(inputs[norm])
        assert len(x) == 4096
        assert norm.running_mean is not None
        assert norm.running_var is not None
        torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(norm.running_var, x.var((0, 2, 3)), atol=0, rtol=0.03)
    # a second measurement starts from nothing, and finds the same
    state = {name: value.clone() for name, value in generator.state_dict().items()}
    again = train.averaged().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in state.items())
    # with these, one image in eval mode looks as it does in a large batch
    labels, z = CLASS_TOY.labels.repeat(16), torch.randn(1024, 4, generator=rng(0, "z"))
    with torch.no_grad():
        alone, batch = generator.eval()(z, labels), generator.train()(z, labels)
    assert (alone - batch).abs().mean() < 0.02


def test_networks_come_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    g = [build_generator(CLASSES, (1, 8, 8), SMALL, seed) for seed in (3, 3, 4)]
    d = [build_discriminator(CLASSES, (1, 8, 8), SMALL, seed) for seed in (3, 3, 4)]
    assert torch.equal(before, torch.get_rng_state())
    for nets in (g, d):
        assert equal(weights(nets[0]), weights(nets[1]))
        assert not equal(weights(nets[0]), weights(nets[2]))


# --- published networks -------------------------------------------------------------------------------------

PUBLISHED = (biggan_cifar, biggan_tiny_imagenet, biggan_deep_imagenet100, sagan_steering, sagan_utkface, sngan_rc49)


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_train_at_small_widths(preset: Callable[[], GanConfig], tmp_path: Path) -> None:
    classes = preset().label_input != "ili"
    labels = torch.arange(12) % 2 if classes else AGES.denormalise(torch.linspace(0, 1, 12))
    images = torch.randint(0, 256, (12, 3, 32, 32), generator=rng(0, "x")).to(torch.uint8)
    data = LabelledImages(images, labels, CLASSES if classes else AGES)
    config = replace(
        preset(), steps=2, batch_size=4, width_g=2, width_d=2, z_dim=12, ili_updates=2, health_checks=0, ema_start=1
    )
    config = replace(config, accumulate=min(config.accumulate, 2))
    ili = None if classes else LabelToEmbedding(AGES).requires_grad_(False)
    train = GanTrainer(data, config, Engine(torch.device("cpu"), bf16=True, channels_last=True), 0, ili)
    before = weights(train.generator), weights(train.discriminator)
    for step in range(config.steps):
        for number in range(config.d_steps):
            assert train.discriminator_step(step * config.d_steps + number).isfinite()
        assert train.generator_step(step).isfinite()
    assert not equal(before[0], weights(train.generator))
    assert not equal(before[1], weights(train.discriminator))
    generator = train.ema.module.eval()
    assert isinstance(generator, LatentGenerator)
    save_generator(tmp_path / "g", generator, data, config)
    kept = load_generator(tmp_path / "g")
    assert isinstance(kept, LatentGenerator)
    train.engine.place(kept)  # the same memory format rounds the same way
    images = generator.sample(labels, generator=rng(0, "s"))
    assert images.shape == (12, 3, 32, 32)
    assert torch.equal(kept.sample(labels, generator=rng(0, "s")), images)


def test_the_average_of_a_spectrally_normalised_generator_can_be_measured() -> None:
    images = torch.randint(0, 256, (12, 1, 16, 16), generator=rng(0, "x")).to(torch.uint8)
    data = LabelledImages(images, torch.arange(12) % 2, CLASSES)
    train = trainer(data, replace(SMALL, architecture="sagan", width_g=1, width_d=1))
    for step in range(3):
        train.discriminator_step(step)
        train.generator_step(step)
    before = weights(train.ema.module)
    generator = train.averaged()
    assert equal(before, weights(generator))
    labels = torch.arange(512) % 2
    z = torch.randn(512, generator.z_dim, generator=rng(0, "z"))
    with torch.no_grad():
        alone, batch = generator.eval()(z, labels), generator.train()(z, labels)
    assert (alone - batch).abs().mean() < 0.02


def test_settings_that_do_not_fit_are_refused() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"accumulate": 0}, "gan.accumulate must be at least 1, got 0"),
        ({"ema_decay": 1.0}, r"gan.ema_decay must lie in \[0, 1\) or be none, got 1.0"),
        ({"ema_start": -1}, "gan.ema_start must be at least 0, got -1"),
        ({"adam_eps": 0.0}, r"gan.adam_eps must lie in \(0, 1\], got 0.0"),
        ({"architecture": "sagan", "batch_norm": False}, "gan.batch_norm=false is for gan.architecture=residual"),
    ]
    for settings, message in wrong:
        with pytest.raises(ConfigError, match=message):
            GanConfig(**settings)


# --- health -------------------------------------------------------------------------------------------------


class Copies:
    """Hands out real images: of the label asked for (right), of the other (wrong), always the same, or darkened."""

    def __init__(self, data: LabelledImages, how: str) -> None:
        self.data, self.how = data, how

    def sample(self, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        images = []
        for label in labels if self.how != "wrong" else 1 - labels:
            choices = self.data.images[self.data.labels == label]
            pick = torch.randint(len(choices), (), generator=generator) if self.how != "one" else 0
            images.append(choices[pick])
        return torch.stack(images) // (4 if self.how == "dark" else 1)


def test_health_tells_good_generators_from_bad_ones() -> None:
    teacher = train_supervised(
        judge(CLASS_TOY), CLASS_TOY, CLASS_TOY, SupervisedConfig(updates=20, batch_size=32), PLAIN, 0
    )
    check = HealthCheck(teacher, CLASS_TOY, PLAIN, 0, count=300)
    assert check.real_score == 100.0
    found = {how: check(Copies(CLASS_TOY, how)) for how in ("right", "wrong", "one", "dark")}  # type: ignore[arg-type]
    assert found["right"]["teacher"] == 100.0
    assert found["right"]["variance_ratio"] == pytest.approx(1, abs=0.15)
    assert found["wrong"]["teacher"] == 0.0
    assert found["one"]["teacher"] == 100.0
    assert found["one"]["variance_ratio"] == pytest.approx(0, abs=1e-6)
    assert 0 <= found["right"]["frechet"] < 0.05 * found["dark"]["frechet"]
    assert check(Copies(CLASS_TOY, "right")) == found["right"]  # type: ignore[arg-type]


def run_with_ratios(ratios: list[float], monkeypatch: pytest.MonkeyPatch) -> Stage:
    class Scripted:
        real_score = 100.0

        def __init__(self, *_: object) -> None:
            self.ratios: Iterator[float] = iter(ratios)

        def __call__(self, generator: LatentGenerator) -> dict[str, float]:
            assert not generator.training
            return {"teacher": 50.0, "variance_ratio": next(self.ratios), "frechet": 1.0}

    monkeypatch.setattr(module, "HealthCheck", Scripted)
    monkeypatch.setattr(GanTrainer, "averaged", lambda self: self.ema.module.eval())
    stage = Stage("gan")
    config = replace(SMALL, steps=len(ratios), health_checks=len(ratios))
    train_gan(CLASS_TOY, CLASS_TOY, judge(CLASS_TOY), config, PLAIN, 0, stage)
    return stage


@pytest.mark.parametrize(
    ("ratios", "stops_at"),
    [
        ([1.0] * 3 + [0.05, 0.09] + [1.0] * 5, 5),
        ([1.0] * 8 + [0.05, 0.05], 10),
        ([0.05] * 3 + [1.0] * 7, 3),
        ([0.05, 0.05] + [1.0] * 8, None),  # the first fifth of a run is not judged
        ([1.0, 0.05] * 5, None),
        ([1.0] * 3 + [0.05, float("nan"), 0.05] + [1.0] * 4, None),
        ([0.11] * 10, None),
    ],
)
def test_collapse_stops_the_run(ratios: list[float], stops_at: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if stops_at is None:
        stage = run_with_ratios(ratios, monkeypatch)
        found = [line["variance_ratio"] for line in stage.history if "variance_ratio" in line]
        assert found == pytest.approx(ratios, nan_ok=True)
        assert stage.history[-1]["real_teacher"] == 100.0
        return
    with pytest.raises(TrainingError, match="the generator collapsed") as error:
        run_with_ratios(ratios, monkeypatch)
    assert "\n" not in str(error.value)
    assert f"vary {ratios[stops_at - 1]:.2f} times as much" in str(error.value)


# --- toys ---------------------------------------------------------------------------------------------------

PRESETS: dict[str, Callable[[GanConfig], GanConfig]] = {
    "hinge": lambda config: config,
    "logistic": logistic,
    "relativistic": relativistic,
}
LARGER: dict[str, Any] = {"batch_size": 32, "width_g": 8, "width_d": 8, "embedding_width": 8}


def level(generator: LatentGenerator, labels: Tensor) -> Tensor:
    return generator.sample(labels, generator=rng(0, "sample")).float().mean((1, 2, 3)) / 255


@pytest.mark.parametrize("preset", PRESETS)
def test_classes_are_learned(preset: str) -> None:
    config = PRESETS[preset](replace(SMALL, steps=40, **LARGER))
    generator = train_gan(CLASS_TOY, CLASS_TOY, judge(CLASS_TOY), config, PLAIN, 0)
    assert not generator.training
    labels = torch.arange(BLOCK) % 2
    found = level(generator, labels)
    assert ((found > 0.5) == labels.bool()).double().mean() > 0.95  # 0.5 by chance
    assert (found - brightness(CLASSES, labels)).abs().mean() < 0.15


@pytest.mark.parametrize(
    ("preset", "label_input", "vicinity"),
    [
        ("hinge", "ili", "soft"),
        ("logistic", "nli", "hard"),
        ("relativistic", "learned", "soft"),
        ("hinge", "learned", "hard"),
    ],
)
def test_scalar_labels_are_learned(preset: str, label_input: str, vicinity: str) -> None:
    settings: dict[str, Any] = {"label_input": label_input, "vicinity": vicinity, **LARGER}
    config = PRESETS[preset](replace(SMALL, steps=70, lr_g=2e-3, **settings))
    generator = train_gan(AGE_TOY, AGE_TOY, judge(AGE_TOY), config, PLAIN, 0)
    labels = AGES.sample_labels(BLOCK, AGE_TOY.labels, "uniform", rng(0, "labels"))
    found, truth = level(generator, labels), brightness(AGES, labels)
    assert (found - truth).abs().mean() < 0.6 * (truth - truth.median()).abs().mean()
    assert torch.corrcoef(torch.stack([found, truth]))[0, 1] > 0.7


def test_equal_labels_are_refused() -> None:
    data = LabelledImages(AGE_TOY.images, torch.full_like(AGE_TOY.labels, 30.0), AGES)
    with pytest.raises(DataError, match="training labels are equal"):
        train_gan(data, data, judge(data), SMALL, PLAIN, 0)


def test_presets() -> None:
    config = replace(SMALL, lr_g=0.01, lr_d=0.02)
    assert logistic(config).penalty == "r1"
    assert relativistic(config).penalty == "r1r2"
    for preset in (logistic(config), relativistic(config)):
        assert not preset.spectral_norm
        assert preset.lr_d == preset.lr_g == 0.01
        assert preset.steps == config.steps
        net = build_discriminator(CLASSES, (1, 8, 8), preset, 0)
        assert not any(parametrize.is_parametrized(part) for part in net.modules())
    norms = build_generator(CLASSES, (1, 8, 8), relativistic(config), 0).modules()
    assert not any(isinstance(part, nn.BatchNorm2d) for part in norms)  # R1 and R2 in place of normalisation


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "gan.steps must be at least 1, got 0"),
        ({"batch_size": 3}, "gan.batch_size must be at least 4, got 3"),
        ({"lr_d": 0.0}, r"gan.lr_d must lie in \(0, 1\], got 0.0"),
        ({"ema_half_life": 1.5}, r"gan.ema_half_life must lie in \(0, 1\], got 1.5"),
        ({"penalty_weight": -1.0}, "gan.penalty_weight must be at least 0 or be none, got -1.0"),
        ({"vicinity_m": 0.0}, "gan.vicinity_m must be positive, got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **settings)


@pytest.mark.parametrize(("side", "weight"), [(8, 0.25), (16, 1.0), (32, 4.0)])
def test_the_penalty_grows_with_the_number_of_pixels_unless_set(side: int, weight: float) -> None:
    images = torch.zeros(4, 1, side, side, dtype=torch.uint8)
    data = LabelledImages(images, torch.tensor([0, 1, 0, 1]), Classification(num_classes=2))
    engine = Engine.pick(side, "cpu", "fp32")
    assert GanTrainer(data, logistic(SMALL), engine, 0, None).penalty_weight == weight
    assert GanTrainer(data, replace(logistic(SMALL), penalty_weight=3.0), engine, 0, None).penalty_weight == 3.0


SEES_FEATURES = replace(SMALL, teacher_features=True)


def seeing(data: LabelledImages) -> GanTrainer:
    return GanTrainer(data, SEES_FEATURES, PLAIN, 0, None, judge(data))


@pytest.mark.parametrize("data", [CLASS_TOY, AGE_TOY], ids=["class", "age"])
def test_the_discriminator_of_features_steps_by_formula(data: LabelledImages) -> None:
    """mean over images and maps of w relu(1 - s_real) + w relu(1 + s_fake); the teacher gets no gradient."""
    train = seeing(data)
    assert train.critic is not None
    assert train.teacher is not None
    random = rng(0, "gan d", 3)
    batch = train.batches.draw(3, random)
    real = to_float(data.images[batch.real_index])
    with torch.no_grad():
        fake = copy.deepcopy(train.generator)(torch.randn(8, 4, generator=random), batch.fake_labels)
        maps = [train.teacher((images + 1) / 2).features for images in (real, fake)]
    critic = copy.deepcopy(train.critic)
    with parametrize.cached():
        # one call, as spectral norms are estimated anew at each
        scores = critic([torch.cat(pair) for pair in zip(*maps, strict=True)], torch.cat([batch.target] * 2))
        weight = [torch.ones(8) if w is None else w for w in (batch.real_weight, batch.fake_weight)]
        loss = torch.zeros(())
        for number in range(8):
            for place in range(2):
                loss = loss + weight[0][number] * (1 - scores[number, place]).relu() / 16
                loss = loss + weight[1][number] * (1 + scores[8 + number, place]).relu() / 16
        loss.backward()
    pixels = d_gradients(train, 3)
    train.discriminator_step(3)
    for found, expected in zip(train.critic.parameters(), critic.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-6, rtol=1e-3)
    for found, want in zip(train.discriminator.parameters(), pixels, strict=True):
        torch.testing.assert_close(found.grad, want, atol=1e-5, rtol=1e-3)
    assert all(parameter.grad is None for parameter in train.teacher.parameters())


def test_both_discriminators_teach_the_generator() -> None:
    """L_G = -mean s_pixels - mean over images and maps of s_features; teacher and discriminators stay as they are."""
    train = seeing(CLASS_TOY)
    assert train.critic is not None
    assert train.teacher is not None
    random = rng(0, "gan g", 0)
    g, d, critic = (copy.deepcopy(net) for net in (train.generator, train.discriminator, train.critic))
    with parametrize.cached():
        target = train.batches.targets(8, random)
        fake = g(torch.randn(8, 4, generator=random), target)
        scores = critic(train.teacher((fake + 1) / 2).features, target)
        (-d(fake, target).mean() - scores.mean()).backward()
    train.teacher.zero_grad()
    frozen = [weights(net) for net in (train.discriminators, train.teacher)]
    train.generator_step(0)
    for found, expected in zip(train.generator.parameters(), g.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-6, rtol=1e-3)
    assert all(equal(*pair) for pair in zip(frozen, map(weights, (train.discriminators, train.teacher)), strict=True))
    assert all(parameter.grad is None for parameter in train.teacher.parameters())
    assert all(
        parameter.requires_grad for net in (train.discriminators, train.teacher) for parameter in net.parameters()
    )


def test_a_run_that_reads_features_resumes_where_it_was(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    class Mortal(Stage):
        def report(self, images: int, **terms: Tensor) -> None:
            super().report(images, **terms)
            if self._step == 6:
                raise Killed

    def train(stage: Stage | None = None) -> list[Tensor]:
        return weights(train_gan(CLASS_TOY, CLASS_TOY, judge(CLASS_TOY), SEES_FEATURES, PLAIN, 0, stage))

    with pytest.raises(Killed):
        train(Mortal("gan", tmp_path, checkpoint_seconds=0))
    assert equal(train(), train(Stage("gan", tmp_path)))
