"""Each ratio loss is least at the true ratio of a four-point problem, whatever the sample sizes."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gankd.losses.density_ratio import logistic_ratio_loss, softplus_ratio_loss, ulsif_ratio_loss

RatioLoss = Callable[[Tensor, Tensor], Tensor]

REAL = torch.tensor([0, 1, 1, 2, 2, 2, 3, 3, 3, 3])  # four points: p_real = .1 .2 .3 .4
FAKE = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])  # and p_fake = .4 .3 .2 .1
RATIO = torch.tensor([1 / 4, 2 / 3, 3 / 2, 4 / 1])

CASES: dict[str, tuple[RatioLoss, Tensor]] = {
    "logistic": (logistic_ratio_loss, RATIO.log()),
    "softplus": (softplus_ratio_loss, RATIO),
    "softplus, penalty 0.01": (lambda fake, real: softplus_ratio_loss(fake, real, 0.01), RATIO),
    "softplus, penalty 10": (lambda fake, real: softplus_ratio_loss(fake, real, 10.0), RATIO),
    "ulsif": (ulsif_ratio_loss, RATIO),
    "ulsif, penalty 10": (lambda fake, real: ulsif_ratio_loss(fake, real, 10.0), RATIO),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("repeat_real", [1, 3])
def test_true_ratio_is_the_minimum(name: str, repeat_real: int) -> None:
    loss, truth = CASES[name]
    real = REAL.repeat(repeat_real)  # more real than fake samples: the class prior must not enter
    estimate = truth.clone().requires_grad_()
    least = loss(estimate[FAKE], estimate[real])
    (gradient,) = torch.autograd.grad(least, estimate)
    torch.testing.assert_close(gradient, torch.zeros(4), atol=2e-6, rtol=0)  # a stationary point ...
    for nudge in 0.1 * torch.cat([torch.eye(4), -torch.eye(4)]):
        assert loss((truth + nudge)[FAKE], (truth + nudge)[real]) > least  # ... and a minimum


@pytest.mark.parametrize("name", CASES)
def test_descent_from_an_ignorant_start_finds_the_true_ratio(name: str) -> None:
    loss, truth = CASES[name]
    estimate = torch.full((4,), 0.5, requires_grad=True)
    optimizer = torch.optim.LBFGS([estimate], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        value = loss(estimate[FAKE], estimate[REAL])
        value.backward()
        return value.item()

    optimizer.step(closure)
    torch.testing.assert_close(estimate.detach(), truth, rtol=0.02, atol=0.01)


def test_softplus_loss_of_a_constant_ratio() -> None:
    # L(c) = sigmoid(c) c - softplus(c) - sigmoid(c) + penalty (c - 1)^2; at c = 1: -ln(1 + e)
    one = softplus_ratio_loss(torch.ones(5), torch.ones(7), penalty=0.3)
    assert one.item() == pytest.approx(-math.log(1 + math.e), abs=1e-6)
    two = softplus_ratio_loss(torch.full((5,), 2.0), torch.full((7,), 2.0), penalty=0.3)
    sigmoid = 1 / (1 + math.exp(-2))
    assert two.item() == pytest.approx(2 * sigmoid - math.log(1 + math.e**2) - sigmoid + 0.3, abs=1e-6)


def test_softplus_derivative_at_a_constant_ratio() -> None:
    constant = torch.tensor(1.7, requires_grad=True)
    (slope,) = torch.autograd.grad(softplus_ratio_loss(constant.expand(5), constant.expand(5)), constant)
    sigmoid = 1 / (1 + math.exp(-1.7))
    assert slope.item() == pytest.approx(sigmoid * (1 - sigmoid) * (1.7 - 1), rel=1e-4)


def test_logistic_loss_is_ln_2_at_ratio_one_and_bce_for_equal_counts() -> None:
    assert logistic_ratio_loss(torch.zeros(3), torch.zeros(8)).item() == pytest.approx(math.log(2))
    fake, real = torch.tensor([-3.0, 0.2, 40.0]), torch.tensor([1.0, -60.0, 2.5])
    answers = torch.tensor([0.0, 0, 0, 1, 1, 1])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(torch.cat([fake, real]), answers)
    torch.testing.assert_close(logistic_ratio_loss(fake, real), expected)


def test_ulsif_by_hand() -> None:
    loss = ulsif_ratio_loss(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0, 5.0]))
    assert loss.item() == pytest.approx((1 + 9) / 4 - 3)
    loss = ulsif_ratio_loss(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0, 5.0]), 0.5)
    assert loss.item() == pytest.approx((1 + 9) / 4 - 3 + 0.5 * (2 - 1) ** 2)


@pytest.mark.parametrize("name", CASES)
def test_half_precision_inputs_give_float32(name: str) -> None:
    loss, truth = CASES[name]
    estimate = truth.bfloat16()
    value = loss(estimate[FAKE], estimate[REAL])
    torch.testing.assert_close(value, loss(estimate[FAKE].float(), estimate[REAL].float()))
