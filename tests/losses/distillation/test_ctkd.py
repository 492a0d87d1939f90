"""Curriculum temperature: what it is of KD, the curriculum, and a temperature that climbs."""

import math

import pytest
import torch
from torch import Tensor

from gankd.losses.distillation.ctkd import Ctkd
from gankd.losses.distillation.kd import kd_loss
from gankd.seeds import rng


def draw(seed: int) -> tuple[Tensor, Tensor]:
    student, teacher = 2 * torch.randn(2, 6, 5, generator=rng(seed, "logits"), dtype=torch.float64)
    return student, teacher


def slope(student: Tensor, teacher: Tensor, theta: float, step: float = 1e-5) -> float:
    """d loss / d theta by a difference quotient of plain KD."""
    high, low = (kd_loss(student, teacher, 1 + 20 / (1 + math.exp(-theta - d))).mean().item() for d in (step, -step))
    return (high - low) / (2 * step)


def test_is_kd_at_its_temperature_and_zero_at_the_teacher() -> None:
    student, teacher = draw(0)
    temperature = 1 + 20 / (1 + math.exp(-1))  # 15.6
    for progress in (0.0, 0.02, 0.5):  # the curriculum changes gradients alone
        found = Ctkd().double()(student, teacher, progress)
        torch.testing.assert_close(found, kd_loss(student, teacher, temperature))
    assert Ctkd(start=3.0, width=0.0).double()(student, teacher, 0.0).equal(kd_loss(student, teacher, 3.0))
    torch.testing.assert_close(Ctkd().double()(teacher, teacher, 0.5), torch.zeros(6, dtype=torch.float64))
    standardised = Ctkd(standardise=True).double()(student, teacher, 0.5)
    torch.testing.assert_close(standardised, kd_loss(student, teacher, temperature, True))


@pytest.mark.parametrize(
    ("progress", "strength"), [(0.0, 0.0), (1 / 96, (1 - math.sqrt(0.5)) / 2), (1 / 48, 0.5), (1 / 24, 1.0), (0.9, 1.0)]
)
def test_the_temperature_gets_its_gradient_reversed_and_as_strong_as_the_curriculum(
    progress: float, strength: float
) -> None:
    """Swapping the two signs that reverse the gradient, or that of the cosine, turns this red."""
    student, teacher = draw(1)
    loss = Ctkd().double()
    loss(student, teacher, progress).mean().backward()
    assert loss.theta.grad is not None
    assert loss.theta.grad.item() == pytest.approx(-strength * slope(student, teacher, 1.0), rel=1e-5, abs=1e-9)


def test_three_steps_make_the_loss_harder() -> None:
    student, teacher = draw(2)
    loss = Ctkd(warmup=0.5).double()
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    theta, losses = 1.0, []
    for progress in (0.1, 0.2, 0.6):
        theta += 0.5 * (1 - math.cos(math.pi * min(2 * progress, 1.0))) / 2 * slope(student, teacher, theta)
        value = loss(student, teacher, progress).mean()
        losses.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        assert loss.theta.item() == pytest.approx(theta, rel=1e-6)
    assert losses[0] < losses[1] < losses[2]


def test_without_a_curriculum_it_is_adverse_at_once() -> None:
    student, teacher = draw(3)
    loss = Ctkd(warmup=0.0).double()
    loss(student, teacher, 0.0).mean().backward()
    assert loss.theta.grad is not None
    assert loss.theta.grad.item() == pytest.approx(-slope(student, teacher, 1.0), rel=1e-5)


def test_gradient_check_of_the_student() -> None:
    student, teacher = draw(4)
    loss = Ctkd().double().requires_grad_(False)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, 0.5), student.requires_grad_())
