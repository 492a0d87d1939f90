"""SoftTargets against loops, its minimum and gradient; what it and KD share: only the mean target counts."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gankd.errors import ConfigError
from gankd.losses.distillation.kd import kd
from gankd.losses.distillation.soft_targets import soft_targets
from gankd.seeds import rng

FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "SoftTargets": soft_targets,
    "KD": lambda student, teacher: kd(student, teacher, T=4.0),
}


def logits(seed: int, *shape: int) -> Tensor:
    return 3 * torch.randn(*shape, 5, generator=rng(seed, "logits"), dtype=torch.float64)


def plain(student: list[float], teacher: list[float], temperature: float) -> float:
    total = sum(math.exp(t / temperature) for t in teacher)
    log_norm = math.log(sum(math.exp(s) for s in student))
    return -sum(math.exp(t / temperature) / total * (s - log_norm) for s, t in zip(student, teacher, strict=True))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_it_follows_its_formula(temperature: float) -> None:
    """Softening the student as well, or a factor T^2, turns this red."""
    student, teacher = logits(0, 2, 6)
    expected = [plain(s, t, temperature) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    found = soft_targets(student, teacher, T=temperature)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(soft_targets(student + 7, teacher - 7, T=temperature), found)  # shifts are nothing


def test_it_is_least_where_the_student_is_as_soft_as_the_target() -> None:
    """Red when student and teacher change places: that gradient does not vanish there."""
    teacher = logits(1, 4)
    target = (teacher / 4).softmax(1)
    student = target.log().requires_grad_()
    least = soft_targets(student, teacher)
    torch.testing.assert_close(least.detach(), torch.special.entr(target).sum(1))
    (gradient,) = torch.autograd.grad(least.sum(), student)
    assert gradient.abs().max() < 1e-12
    assert (soft_targets(student.detach() + 0.1 * logits(2, 4), teacher) > least).all()


def test_its_gradient_is_the_difference_of_the_distributions() -> None:
    student, teacher = logits(3, 2, 4)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(soft_targets(student, teacher).sum(), student)
    torch.testing.assert_close(gradient, student.detach().softmax(1) - (teacher / 4).softmax(1))
    assert torch.autograd.gradcheck(lambda s: soft_targets(s, teacher), student)


@pytest.mark.parametrize("form", FORMS)
def test_draws_teach_on_average_what_their_mean_teaches(form: str) -> None:
    """T6, proposition P1: both are linear in the target. With student and target exchanged they are not: red."""
    student, draws = logits(4, 3).requires_grad_(), logits(5, 200, 3)
    loss = FORMS[form]
    gradients = [torch.autograd.grad(loss(student, draw).sum(), student)[0] for draw in draws]
    mean = 4 * (draws / 4).softmax(2).mean(0).log()  # logits whose softmax at T = 4 is the mean target
    (of_mean,) = torch.autograd.grad(loss(student, mean).sum(), student)
    torch.testing.assert_close(torch.stack(gradients).mean(0), of_mean, rtol=1e-12, atol=1e-13)
    assert (gradients[0] - of_mean).abs().max() > 0.01  # a single draw teaches something else


def test_a_temperature_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="^SoftTargets: T must be positive, got 0$"):
        soft_targets(torch.zeros(2, 5), torch.zeros(2, 5), T=0)
