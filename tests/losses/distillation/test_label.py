"""Losses on labels alone: by hand, against plain loops, and where they are least."""

import math

import pytest
import torch

from gankd.errors import ConfigError
from gankd.losses.distillation.label import cross_entropy, label, label_smoothing, squared_error
from gankd.seeds import rng
from gankd.tasks import Classification, Regression
from gankd.training.losses import find_loss

LOGITS = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log() + torch.tensor([[3.0], [-2.0]])


def test_by_hand() -> None:
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.0, 0.5]])
    expected = torch.tensor([math.log(2), 0.5 * math.log(10) + 0.5 * math.log(1.25)])
    torch.testing.assert_close(cross_entropy(LOGITS, targets), expected)
    # epsilon 0.3 of (1, 0, 0) is (0.8, 0.1, 0.1): spreading it over the other classes alone turns this red
    smooth = label_smoothing(LOGITS, targets, epsilon=0.3)[0].item()
    assert smooth == pytest.approx(0.8 * math.log(2) + 0.2 * math.log(4))
    assert label_smoothing(LOGITS, targets, epsilon=1.0)[0].item() == pytest.approx(math.log(2) / 3 + math.log(4) / 1.5)
    values = squared_error(torch.tensor([0.2, 1.5]), torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(values, torch.tensor([0.09, 0.25]))


def test_the_named_ones_are_what_the_tasks_minimise() -> None:
    classes, ages = Classification(num_classes=3), Regression(low=20.0, high=60.0)
    labels = torch.tensor([2, 0])
    torch.testing.assert_close(cross_entropy(LOGITS, classes.targets(labels)), classes.loss(LOGITS, labels))
    outputs, years = torch.tensor([25.0, 61.0]), torch.tensor([30.0, 59.0])
    found = squared_error(ages.on_unit_scale(outputs), ages.targets(years))
    torch.testing.assert_close(found, ages.loss(outputs, years))
    assert torch.equal(label(found), found)
    assert find_loss("Label").tasks == ("classification", "regression")
    assert all(find_loss(name).is_label_loss for name in ("Label", "CE", "MSE", "LS"))


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.7])
def test_label_smoothing_follows_its_definition(epsilon: float) -> None:
    logits = torch.randn(6, 4, generator=rng(0, "logits"))
    targets = torch.rand(6, 4, generator=rng(0, "targets")).softmax(1)
    expected = []
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        total = sum(math.exp(z) for z in row)
        mixed = [(1 - epsilon) * t + epsilon / 4 for t in target]  # a minus between the two turns this red
        expected.append(-sum(m * math.log(math.exp(z) / total) for m, z in zip(mixed, row, strict=True)))
    torch.testing.assert_close(label_smoothing(logits, targets, epsilon=epsilon), torch.tensor(expected))
    order = torch.randperm(6, generator=rng(0, "order"))
    shifted = logits[order] + torch.randn(6, 1, generator=rng(0, "shift"))
    torch.testing.assert_close(
        label_smoothing(shifted, targets[order], epsilon=epsilon), torch.tensor(expected)[order], rtol=1e-5, atol=1e-5
    )


def test_label_smoothing_is_least_at_the_mixed_labels() -> None:
    targets = torch.eye(4, dtype=torch.float64)[:2]
    logits = (0.9 * targets + 0.025).log().requires_grad_()
    least = label_smoothing(logits, targets)
    (gradient,) = torch.autograd.grad(least.sum(), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))
    torch.testing.assert_close(least, -(logits.exp() * logits).sum(1))  # the entropy of the mixed labels


def test_gradient_check() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64, generator=rng(1, "logits"), requires_grad=True)
    targets = torch.eye(4)[:3]  # float32, as labels are
    assert torch.autograd.gradcheck(lambda z: label_smoothing(z, targets), logits)
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, targets), logits)
    assert torch.autograd.gradcheck(lambda z: squared_error(z, targets[:, 0]), logits[:, 0])


def test_an_epsilon_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^LS: epsilon must lie in \[0, 1\], got 1.5$"):
        label_smoothing(LOGITS, LOGITS, epsilon=1.5)
