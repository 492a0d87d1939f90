"""Correlation of predictions: by hand, against plain loops, what leaves it unchanged, and constant rows."""

import math

import pytest
import torch
from torch import Tensor

from gankd.losses.distillation.dist import dist, pearson
from gankd.seeds import rng


def plain_pearson(x: list[float], y: list[float]) -> float:
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    spread = sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y)
    return covariance / math.sqrt(spread)


def draw(seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    student, teacher = 2 * torch.randn(2, 6, 5, generator=rng(seed, "logits"), dtype=dtype)
    return student, teacher


def test_by_hand() -> None:
    # each row of the student is the other row of the teacher: r = -13/14 by image, and -1, nothing (equal numbers)
    # and -1 by class; 1 + r in place of 1 - r turns this red, as does leaving the mean in
    teacher = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]).log()
    assert dist(teacher.flip(0), teacher, gamma=0.0).item() == pytest.approx(1 + 13 / 14)
    assert dist(teacher.flip(0), teacher, beta=0.0).item() == pytest.approx(1 + 2 / 3)
    assert dist(teacher.flip(0), teacher, beta=2.0).item() == pytest.approx(2 * 27 / 14 + 5 / 3)


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_follows_its_definition(t: float) -> None:
    """T in place of T^2, or the same relation twice, turns this red."""
    student, teacher = draw(0)
    p, q = (student / t).softmax(1), (teacher / t).softmax(1)
    by_image = [1 - plain_pearson(a, b) for a, b in zip(p.tolist(), q.tolist(), strict=True)]
    by_class = [1 - plain_pearson(a, b) for a, b in zip(p.T.tolist(), q.T.tolist(), strict=True)]
    expected = t**2 * (0.5 * sum(by_image) / 6 + 3 * sum(by_class) / 5)
    assert dist(student, teacher, beta=0.5, gamma=3.0, T=t).item() == pytest.approx(expected, rel=1e-4)


def test_is_zero_at_the_teacher_and_ignores_shifts_and_orders() -> None:
    student, teacher = draw(1)
    assert dist(teacher + 3, teacher).item() == pytest.approx(0, abs=1e-5)
    found = dist(student, teacher)
    assert found > 0.1
    rows, columns = torch.randperm(6, generator=rng(1, "rows")), torch.randperm(5, generator=rng(1, "columns"))
    torch.testing.assert_close(dist(student[rows][:, columns] - 1, teacher[rows][:, columns]), found)


def test_correlation_ignores_shift_and_size() -> None:
    """What the paper is about: a student need not be as sure as a stronger teacher."""
    x, y = torch.randn(2, 4, 7, generator=rng(2, "rows"))
    size = torch.tensor([[0.1], [1.0], [3.0], [20.0]])
    torch.testing.assert_close(pearson(size * x + 2, y / size - 1), pearson(x, y), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(pearson(-x, y), -pearson(x, y))


def test_what_does_not_vary_has_no_correlation_and_no_gradient() -> None:
    student = torch.full((6, 5), 0.1, requires_grad=True)  # a new network's logits may be equal
    found = dist(student, draw(3)[1])
    assert found.item() == pytest.approx(2.0)
    found.backward()
    assert student.grad is not None
    assert student.grad.eq(0).all()


@pytest.mark.parametrize("standardise", [False, True])
def test_gradient_check(standardise: bool) -> None:
    student, teacher = draw(4, torch.float64)
    assert torch.autograd.gradcheck(
        lambda s: dist(s, teacher, T=2.0, standardise=standardise), student.requires_grad_()
    )
