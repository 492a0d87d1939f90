"""Weights of classes: closed forms, the update of a student by formula, and neutral cases that must change nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import ConfigError
from gankd.models import build_net
from gankd.models.contract import ImageModel
from gankd.seeds import Batches, rng
from gankd.tasks import Classification, Regression
from gankd.training.class_weights import weights_of_classes, weights_of_images
from gankd.training.distill import distill
from gankd.training.lesson import DistillConfig, Fakes, Lesson
from gankd.training.supervised import SupervisedConfig, train_supervised

PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=False)
TASK = Classification(num_classes=3)
REAL = torch.tensor([0] * 24 + [1] * 12 + [2] * 4)
FAKE = torch.tensor([0, 1, 2] * 10)


def data(labels: Tensor, purpose: str = "real") -> LabelledImages:
    images = torch.randint(0, 256, (len(labels), 1, 8, 8), generator=rng(0, purpose), dtype=torch.uint8)
    return LabelledImages(images, labels, TASK)


def model(seed: int = 0) -> ImageModel:
    return ImageModel.for_data(build_net("cnn4", in_channels=1, image_size=8, num_outputs=3, seed=seed), data(REAL))


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    found = weights_of_classes("balanced", TASK, [(REAL, 1.0)])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=REAL.numpy())
    assert found is not None
    assert found.tolist() == pytest.approx(expected.tolist())
    assert weights_of_images(found, TASK, REAL).mean().item() == pytest.approx(1)


def test_every_class_has_the_same_part_of_a_batch_with_generated_images() -> None:
    soft = F.one_hot(FAKE, 3) * 0.7 + 0.1
    for fakes in (FAKE, soft):
        found = weights_of_classes("balanced", TASK, [(REAL, 0.25), (fakes, 0.75)])
        assert found is not None
        share = torch.tensor([0.6, 0.3, 0.1]) * 0.25 + 0.75 / 3
        assert found.tolist() == pytest.approx((1 / (3 * share)).tolist())
        parts = 0.25 * weights_of_images(found, TASK, REAL).mean() + 0.75 * weights_of_images(found, TASK, fakes).mean()
        assert parts.item() == pytest.approx(1)


def test_classes_that_do_not_occur_weigh_nothing() -> None:
    found = weights_of_classes("balanced", TASK, [(torch.tensor([0, 0, 0, 2]), 1.0)])
    assert found is not None
    assert found.tolist() == pytest.approx([2 / 3, 0, 2])


def test_a_soft_label_keeps_its_optimum() -> None:
    label, weights = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([1.0, 5.0, 20.0])
    logits = label.log().requires_grad_()
    (TASK.loss(logits, label) * weights_of_images(weights, TASK, label)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6
    assert weights_of_images(weights, TASK, label).item() == pytest.approx(0.7 + 1 + 2)


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"class_weights must be none, balanced or 3 numbers, got 2 numbers"):
        weights_of_classes((1.0, 2.0), TASK, [(REAL, 1.0)])
    with pytest.raises(ConfigError, match="class_weights is for classes, and the labels are values"):
        weights_of_classes("balanced", Regression(low=0, high=1), [(torch.rand(4), 1.0)], "student.")
    for wrong in ((1.0, 0.0, 1.0), (1.0, -1.0), (1.0, float("inf"))):
        with pytest.raises(ConfigError, match="class_weights must be positive numbers"):
            SupervisedConfig(class_weights=wrong)


def test_only_weights_that_are_set_enter_an_identity() -> None:
    assert "class_weights" not in SupervisedConfig().identity
    assert SupervisedConfig(class_weights="balanced").identity["class_weights"] == "balanced"


CONFIG: dict[str, Any] = {"updates": 1, "batch_size": 12, "lr": 0.1, "optimizer": "sgd", "weight_decay": 0.0}


def same(one: ImageModel, other: ImageModel) -> None:
    for first, second in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)


def plain_step(net: ImageModel, images: Tensor, loss: Any) -> ImageModel:
    """One update of SGD with Nesterov's momentum, at the first rate of the schedule."""
    net.train()
    loss(net(images)).backward()
    with torch.no_grad():
        for parameter in net.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.01 * 1.9 * parameter.grad)  # the first step of momentum counts twice, a tenth of the rate
    return net.eval()


def test_one_update_of_a_teacher_by_formula() -> None:
    real, weights = data(REAL), torch.tensor([0.5, 1.0, 4.0])
    index = Batches(40, 12, 3, "supervised")(0)
    found = train_supervised(
        model(), real, real, SupervisedConfig(**CONFIG, class_weights=(0.5, 1.0, 4.0)), PLAIN, seed=3
    )
    labels = REAL[index]

    def loss(logits: Tensor) -> Tensor:
        own = F.cross_entropy(logits, labels, weight=weights, reduction="none")
        return own.sum() / len(labels)

    same(found, plain_step(model(), real.images[index], loss))


@pytest.mark.parametrize("label", ["Label", "CE"])
def test_one_update_of_a_student_by_formula(label: str) -> None:
    real, fake = data(REAL), data(FAKE, "fake")
    teacher = model(7).eval()
    config = DistillConfig(**CONFIG, fake_share=0.5, class_weights="balanced")
    fakes = Fakes(fake.images, fake.labels)
    lesson = Lesson(f"0.3*{label} + 0.7*KD(T=2)", teacher)
    found = distill(model(), real, real, config, PLAIN, 3, lesson=lesson, fakes=fakes)
    rows, others = Batches(40, 6, 3, "student real")(0), Batches(30, 6, 3, "student fake")(0)
    images, labels = torch.cat([real.images[rows], fake.images[others]]), torch.cat([REAL[rows], FAKE[others]])
    share = 0.5 * torch.tensor([0.6, 0.3, 0.1]) + 0.5 / 3
    with torch.no_grad():
        taught = teacher(images)

    def loss(logits: Tensor) -> Tensor:
        own = (F.cross_entropy(logits, labels, reduction="none") * (1 / (3 * share))[labels]).mean()
        soft = F.kl_div((logits / 2).log_softmax(1), (taught / 2).softmax(1), reduction="batchmean") * 4
        return 0.3 * own + 0.7 * soft  # only the label loss is weighted

    same(found, plain_step(model(), images, loss))


def test_equal_weights_change_nothing_and_mixed_labels_work() -> None:
    real = data(REAL)
    for mix in ("none", "mixup"):
        config = DistillConfig(**CONFIG | {"updates": 3, "mix": mix})
        plain = distill(model(), real, real, config, PLAIN, 0)
        same(distill(model(), real, real, replace(config, class_weights=(1.0, 1.0, 1.0)), PLAIN, 0), plain)
        other = distill(model(), real, real, replace(config, class_weights="balanced"), PLAIN, 0)
        with pytest.raises(AssertionError):
            same(other, plain)


def test_rare_classes_gain() -> None:
    """Classes overlap, and one is rare: balanced weights find it, plain ones hardly do."""
    labels = (torch.arange(400) % 20 == 0).long() * 2
    level = 100 + 12 * labels + 14 * torch.randn(400, generator=rng(0, "level"))
    images = level[:, None, None, None].expand(400, 1, 8, 8).clamp(0, 255).to(torch.uint8)
    rare = LabelledImages(images, labels, TASK)
    found = {}
    for how in ("none", "balanced"):
        config = SupervisedConfig(updates=150, batch_size=64, lr=0.01, class_weights=how)
        net = train_supervised(model(), rare, rare, config, PLAIN, seed=0)
        found[how] = TASK.by_class(net(rare.images).detach(), labels)
    assert found["none"]["2"] < 40 < 60 < found["balanced"]["2"]
