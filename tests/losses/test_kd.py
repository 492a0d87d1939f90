"""Distillation losses against a plain reference, their zero, invariances and limit of high temperature."""

import math

import pytest
import torch

from gankd.losses.kd import kd_loss, regression_kd_loss
from gankd.seeds import rng


def plain_kd(student: list[float], teacher: list[float], temperature: float) -> float:
    """T^2 sum_k p_k ln(p_k / q_k) from the definition."""

    def softmax(logits: list[float]) -> list[float]:
        powers = [math.exp(logit / temperature) for logit in logits]
        return [power / sum(powers) for power in powers]

    p, q = softmax(teacher), softmax(student)
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kd_loss_follows_its_definition_per_sample(temperature: float) -> None:
    student, teacher = 2 * torch.randn(2, 6, 5, generator=rng(0, "logits"))
    expected = [plain_kd(s, t, temperature) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    torch.testing.assert_close(kd_loss(student, teacher, temperature), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_kd_loss_is_zero_at_the_teacher_and_ignores_a_shift_of_either() -> None:
    student, teacher = torch.randn(2, 8, 10, generator=rng(1, "logits"))
    torch.testing.assert_close(kd_loss(teacher, teacher, 4.0), torch.zeros(8), atol=1e-6, rtol=0)
    loss = kd_loss(student, teacher, 4.0)
    assert (loss > 0).all()
    shift = torch.randn(8, 1, generator=rng(1, "shift"))
    torch.testing.assert_close(kd_loss(student + shift, teacher - 3 * shift, 4.0), loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_kd_gradient_is_the_difference_of_soft_outputs(temperature: float) -> None:
    student, teacher = torch.randn(2, 4, 7, generator=rng(2, "logits"))
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(kd_loss(student, teacher, temperature).sum(), student)
    softened = (student / temperature).softmax(1) - (teacher / temperature).softmax(1)
    torch.testing.assert_close(gradient, temperature * softened.detach())


def test_at_high_temperature_kd_matches_centred_logits() -> None:
    student, teacher = torch.randn(2, 5, 10, generator=rng(3, "logits"))
    student.requires_grad_()
    loss = kd_loss(student, teacher, 200.0)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    difference = student.detach() - teacher
    difference = difference - difference.mean(1, keepdim=True)
    torch.testing.assert_close(gradient, difference / 10, rtol=0, atol=5e-3)  # Hinton et al. 2015, eq. 4
    torch.testing.assert_close(loss.detach(), difference.square().sum(1) / 20, rtol=0.03, atol=0)


def test_kd_loss_survives_extreme_and_half_precision_logits() -> None:
    student = torch.tensor([[300.0, 0.0, -300.0]]).bfloat16()
    loss = kd_loss(student, -student, 1.0)  # all mass on class 2, where the student puts e^-600
    torch.testing.assert_close(loss, torch.tensor([600.0]))


def test_regression_kd_is_the_squared_difference_in_label_spans() -> None:
    student, teacher = torch.tensor([20.0, 60.0, -5.0]), torch.tensor([30.0, 60.0, 55.0])
    loss = regression_kd_loss(student, teacher, span=60.0)
    torch.testing.assert_close(loss, torch.tensor([1 / 36, 0.0, 1.0]))
    torch.testing.assert_close(regression_kd_loss(10 * student, 10 * teacher, span=600.0), loss)  # unit-free
    torch.testing.assert_close(regression_kd_loss(student.bfloat16(), teacher.bfloat16(), span=60.0), loss)
