"""Distillation losses against a plain reference, their zero, invariances and limit of high temperature."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from gankd.errors import ConfigError
from gankd.losses.distillation.ctkd import Ctkd
from gankd.losses.distillation.dist import dist
from gankd.losses.distillation.dkd import dkd
from gankd.losses.distillation.kd import kd, kd_loss, regression_kd_loss
from gankd.losses.distillation.mlkd import mlkd
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


def test_kd_takes_logits_and_values() -> None:
    student, teacher = torch.randn(2, 6, 5, generator=rng(4, "logits"))
    assert torch.equal(kd(student, teacher), kd_loss(student, teacher, 4.0))
    assert torch.equal(kd(student, teacher, T=1.5), kd_loss(student, teacher, 1.5))
    assert torch.equal(kd(student, teacher, standardise=True), kd_loss(student, teacher, 4.0, True))
    values, truth = torch.tensor([0.1, 1.2]), torch.tensor([0.4, 1.0])  # on the [0, 1] scale, whatever the label range
    torch.testing.assert_close(kd(values, truth), torch.tensor([0.09, 0.04]))


def test_kd_by_hand() -> None:
    # T = 1: KL(teacher || student) of (1/2, 1/4, 1/4) against the uniform distribution is ln 3 - H
    uniform, teacher = torch.zeros(1, 3), torch.tensor([[2.0, 1.0, 1.0]]).log()
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    torch.testing.assert_close(kd(uniform, teacher, T=1.0), torch.tensor([math.log(3) - entropy]))
    # T = 2: the softened teacher is sqrt(p) normalised, and the loss is 4 times its KL
    softened = torch.tensor([0.5, 0.25, 0.25]).sqrt()
    softened = softened / softened.sum()
    expected = 4 * (softened * (softened * 3).log()).sum()
    torch.testing.assert_close(kd(uniform, teacher, T=2.0)[0], expected)


def test_standardised_logits_by_hand() -> None:
    # (1, 3) and (5, 4) have mean 2 and 4.5, spread 1 and 0.5: z-scores (-1, 1) and (1, -1); leaving the division by the
    # spread out turns this red
    student, teacher = torch.tensor([[1.0, 3.0]]), torch.tensor([[5.0, 4.0]])
    p = 1 / (1 + math.exp(-1))  # softmax of (1, -1) / 2
    expected = 4 * (p - (1 - p)) * math.log(p / (1 - p))
    torch.testing.assert_close(kd_loss(student, teacher, 2.0, True), torch.tensor([expected]), rtol=1e-4, atol=0)


def test_standardised_logits_follow_their_definition() -> None:
    """z-scores of the wrong sign turn this red."""
    student, teacher = torch.randn(2, 6, 5, generator=rng(8, "logits"))

    def z(row: list[float]) -> list[float]:
        mean = sum(row) / 5
        return [(x - mean) / math.sqrt(sum((y - mean) ** 2 for y in row) / 5) for x in row]

    expected = [plain_kd(z(s), z(t), 2.0) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    torch.testing.assert_close(kd_loss(student, teacher, 2.0, True), torch.tensor(expected), rtol=1e-3, atol=1e-5)


CTKD = Ctkd(standardise=True)
STANDARDISED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "KD": partial(kd, standardise=True),
    "DKD": lambda s, t: dkd(s, t, torch.arange(8) % 5, 0.5, standardise=True),
    "DIST": partial(dist, standardise=True),
    "CTKD": lambda s, t: CTKD(s, t, 0.5),
}


@pytest.mark.parametrize("name", STANDARDISED)
def test_standardised_losses_ignore_shift_and_size_of_each_row(name: str) -> None:
    """Leaving `standardise` out of either call of `scaled` turns the loss of that name red."""
    student, teacher = torch.randn(2, 8, 5, dtype=torch.float64, generator=rng(5, "logits"))
    shift, size = torch.randn(8, 1, generator=rng(5, "shift")), 0.5 + torch.rand(8, 1, generator=rng(5, "size"))
    loss = STANDARDISED[name](student, teacher)
    torch.testing.assert_close(
        STANDARDISED[name](shift + size * student, teacher / size - shift), loss, rtol=1e-4, atol=1e-5
    )
    assert (STANDARDISED[name](-student, teacher) - loss).abs().max() > 0.1  # but not the order


@pytest.mark.parametrize("name", STANDARDISED)
def test_equal_logits_have_a_bounded_gradient_when_standardised(name: str) -> None:
    student = torch.full((8, 5), 0.1, requires_grad=True)
    STANDARDISED[name](student, torch.randn(8, 5, generator=rng(6, "logits"))).sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e4


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_gradient_check(temperature: float, standardise: bool) -> None:
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64, generator=rng(7, "logits"))
    assert torch.autograd.gradcheck(lambda s: kd_loss(s, teacher, temperature, standardise), student.requires_grad_())
    values, truth = torch.rand(2, 5, dtype=torch.float64, generator=rng(7, "values"))
    assert torch.autograd.gradcheck(lambda v: kd(v, truth), values.requires_grad_())


def test_settings_out_of_range_are_refused() -> None:
    logits, labels = torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ConfigError, match="^KD: T must be positive, got 0$"):
        kd(logits, logits, T=0)
    with pytest.raises(ConfigError, match="^KD: standardise is for logits, of which a regression has none"):
        kd(logits[:, 0], logits[:, 0], standardise=True)
    with pytest.raises(ConfigError, match="^DKD: T must be positive, got -1$"):
        dkd(logits, logits, labels, 0.0, T=-1)
    with pytest.raises(ConfigError, match="^DKD: alpha and beta must be at least 0, got 1.0 and -8$"):
        dkd(logits, logits, labels, 0.0, beta=-8)
    with pytest.raises(ConfigError, match=r"^DKD: warmup must lie in \[0, 1\], got 20$"):
        dkd(logits, logits, labels, 0.0, warmup=20)
    with pytest.raises(ConfigError, match="^DIST: T must be positive, got 0$"):
        dist(logits, logits, T=0)
    with pytest.raises(ConfigError, match="^DIST: beta and gamma must be at least 0, got -1 and 1.0$"):
        dist(logits, logits, beta=-1)
    with pytest.raises(ConfigError, match=r"^MLKD: temperatures must be one or more positive numbers, got \(2, 0\)$"):
        mlkd(logits, logits, temperatures=(2, 0))
    for settings in ({"start": 0.0}, {"width": -1.0}, {"warmup": 2.0}):
        with pytest.raises(ConfigError, match=f"^CTKD: {next(iter(settings))} must"):
            Ctkd(**settings)  # type: ignore[arg-type]
