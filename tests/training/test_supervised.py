"""Training from labels: the learning rate by formula, one step by hand, and toys that must be learned."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gankd.data.augment import augment
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import ConfigError, ModelError
from gankd.models import build_net
from gankd.models.contract import ImageModel, evaluate
from gankd.runs import Stage
from gankd.seeds import Batches, rng
from gankd.tasks import Classification, Regression, Task
from gankd.training import supervised
from gankd.training.supervised import SupervisedConfig, make_optimizer, train_supervised

PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=False)
CLASSES = Classification(num_classes=3)
AGES = Regression(low=20.0, high=60.0)


def toy(task: Task, count: int = 60) -> LabelledImages:
    """Brightness of a noisy image tells the label."""
    share = torch.rand(count, generator=rng(0, "toy"))
    noise = torch.rand((count, 1, 8, 8), generator=rng(0, "toy noise"))
    images = (255 * (0.6 * share[:, None, None, None] + 0.4 * noise)).to(torch.uint8)
    labels = task.denormalise(share) if isinstance(task, Regression) else (share * 3).long()
    return LabelledImages(images, labels, task)


def test_the_learning_rate_falls_to_a_tenth_after_each_share() -> None:
    found = rates(SupervisedConfig(updates=240, lr=0.05, optimizer="sgd", schedule="steps"))
    for step, rate in enumerate(found):  # an update is an epoch of the published 240
        assert rate == pytest.approx(0.05 * 0.1 ** sum(step >= drop for drop in (150, 180, 210)))
    found = rates(SupervisedConfig(updates=7, lr=1.0, schedule="steps", decay_at=(0.5,)))
    assert found == pytest.approx([1.0] * 4 + [0.1] * 4)
    assert rates(SupervisedConfig(updates=7, lr=1.0, schedule="steps", decay_at=())) == [1.0] * 8


def test_shares_mean_nothing_to_the_cosine() -> None:
    assert rates(SupervisedConfig(updates=50, decay_at=(0.1,))) == rates(SupervisedConfig(updates=50))


def test_steps_of_the_learning_rate_survive_a_checkpoint(tmp_path: Path) -> None:
    data = toy(CLASSES)
    config = SupervisedConfig(updates=8, batch_size=8, optimizer="sgd", lr=0.1, schedule="steps", decay_at=(0.25, 0.5))
    whole = train_supervised(model(data), data, data, config, PLAIN, 0)

    class Stopped(Exception):
        pass

    def stop(self: Stage, images: int, **terms: Any) -> None:
        self.checkpoint_seconds = 0.0
        if self._step == 5:
            raise Stopped

    stage = Stage("teacher", tmp_path / "teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "report", stop)
        with pytest.raises(Stopped):
            train_supervised(model(data), data, data, config, PLAIN, 0, stage)
    again = train_supervised(model(data), data, data, config, PLAIN, 0, Stage("teacher", tmp_path / "teacher"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def model(data: LabelledImages) -> ImageModel:
    net = build_net("cnn4", in_channels=1, image_size=8, num_outputs=data.task.head_size, seed=0)
    return ImageModel.for_data(net, data)


def rates(config: SupervisedConfig) -> list[float]:
    layer = nn.Linear(2, 2)
    optimizer, schedule = make_optimizer(layer, config)
    found = []
    for _ in range(config.updates):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*found, optimizer.param_groups[0]["lr"]]


def test_the_learning_rate_warms_up_and_falls_as_a_cosine_to_zero() -> None:
    found = rates(SupervisedConfig(updates=400, lr=0.5))
    peak = max(range(401), key=lambda step: found[step])
    assert found[0] == pytest.approx(0.05)
    assert 18 <= peak <= 20  # 5 % of the updates
    assert found[peak] == pytest.approx(0.5, rel=0.01)
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[-1] < 1e-4 * 0.5
    for share in (0.25, 0.5, 0.75):
        step = peak + round(share * (400 - peak))
        assert found[step] == pytest.approx(0.25 * (1 + math.cos(math.pi * share)), abs=0.01)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_any_number_of_updates_has_a_learning_rate(optimizer: str) -> None:
    for updates in range(1, 60):
        found = rates(SupervisedConfig(updates=updates, lr=0.5, optimizer=optimizer))  # type: ignore[arg-type]
        assert all(0 <= rate <= 0.5 + 1e-9 for rate in found)
        assert updates < 2 or max(found[:-1]) == pytest.approx(0.5, rel=0.2)


def test_frozen_weights_stay_out_of_the_optimizer() -> None:
    net = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 3))
    optimizer, _ = make_optimizer(net, SupervisedConfig())
    assert [p.shape for p in optimizer.param_groups[0]["params"]] == [(3, 2), (3,)]


@pytest.mark.parametrize("task", [CLASSES, AGES])
@pytest.mark.parametrize("kinds", [(), ("shift", "colour")])
def test_one_step_by_hand(task: Task, kinds: Any) -> None:
    data = toy(task)
    config = SupervisedConfig(updates=1, batch_size=16, optimizer="sgd", lr=0.1, weight_decay=0.0, augment=kinds)
    found, expected = model(data), model(data).train()
    stage = Stage("s")
    train_supervised(found, data, data, config, PLAIN, 7, stage)

    index = Batches(60, 16, 7, "supervised")(0)
    images = augment(data.images[index], kinds, rng(7, "augment", 0)) if kinds else data.images[index]
    loss = task.loss(expected(images), data.labels[index]).mean()
    loss.backward()
    rate = 0.1 / 10
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        assert b.grad is not None
        # Nesterov's first step is (1 + momentum) times the gradient
        torch.testing.assert_close(a, b - rate * 1.9 * b.grad, atol=1e-6, rtol=1e-4)
    assert stage.history[0] == {"step": 1, "loss": pytest.approx(loss.item(), rel=1e-5)}
    metrics = evaluate(found, data, PLAIN)
    assert stage.history[1] == {"step": 1} | {f"val_{name}": value for name, value in metrics.items()}


@pytest.mark.parametrize("task", [CLASSES, AGES])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_toys_are_learned(task: Task, optimizer: str) -> None:
    data = toy(task)
    lr = 0.02 if optimizer == "adamw" else 0.1
    config = SupervisedConfig(updates=60, batch_size=32, optimizer=optimizer, lr=lr)  # type: ignore[arg-type]
    trained = train_supervised(model(data), data, data, config, PLAIN, 0)
    assert not trained.training
    found, chance = evaluate(trained, data, PLAIN), task.chance(data.labels)
    if isinstance(task, Classification):
        assert found["top1"] > chance + 30
    else:
        assert found["mae"] < chance / 2


def test_the_seed_alone_decides() -> None:
    data, config = toy(CLASSES), SupervisedConfig(updates=4, batch_size=16, augment=("rotate",))
    before = torch.get_rng_state()
    nets = [train_supervised(model(data), data, data, config, PLAIN, seed) for seed in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    a, b, c = ([p.detach() for p in net.parameters()] for net in nets)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a[0], c[0])


def test_validation_images_are_measured_on_the_way_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data, config, nets, steps = toy(CLASSES), SupervisedConfig(updates=20, batch_size=16, augment=("shift",)), [], []
    for points in (1, 8):
        monkeypatch.setattr(supervised, "CURVE_POINTS", points)
        stage = Stage("s")
        nets.append(train_supervised(model(data), data, data, config, PLAIN, 1, stage))
        steps.append([line["step"] for line in stage.history if "val_top1" in line])
    once, along = ([value.clone() for value in net.state_dict().values()] for net in nets)
    assert all(torch.equal(x, y) for x, y in zip(once, along, strict=True))
    assert steps == [[20], [3, 5, 8, 10, 13, 15, 18, 20]]


def test_a_network_that_does_not_fit_is_named_before_training() -> None:
    data = toy(CLASSES)
    stage = Stage("teacher")
    with pytest.raises(ModelError, match="teacher gives outputs of shape"):
        train_supervised(model(toy(AGES)), data, data, SupervisedConfig(), PLAIN, 0, stage)
    assert stage.history == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"updates": 0}, "updates must be at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"lr": 0.0}, r"lr must lie in \(0, 10\], got 0.0"),
        ({"weight_decay": 1.0}, r"weight_decay must lie in \[0, 1\), got 1.0"),
        ({"decay_at": (0.5, 1.0)}, r"decay_at must lie in \(0, 1\), got 1.0"),
        ({"decay_at": (0.7, 0.5)}, r"decay_at must be rising shares within \(0, 1\), got \[0.7, 0.5\]"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SupervisedConfig(), **settings)
