"""Multi-level logits: by hand, level by level against plain loops, and what leaves them unchanged."""

import math

import pytest
import torch
from torch import Tensor

from gankd.losses.distillation.kd import kd_loss
from gankd.losses.distillation.mlkd import mlkd
from gankd.seeds import rng


def draw(seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    student, teacher = 2 * torch.randn(2, 6, 5, generator=rng(seed, "logits"), dtype=dtype)
    return student, teacher


def likeness(rows: list[list[float]]) -> list[list[float]]:
    return [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]


def gap(p: Tensor, q: Tensor) -> float:
    """Squared distance of two tables of likeness, per row."""
    pairs = zip(likeness(p.tolist()), likeness(q.tolist()), strict=True)
    return sum((a - b) ** 2 for x, y in pairs for a, b in zip(x, y, strict=True)) / len(p)


def test_by_hand() -> None:
    # T = 1, teacher (3/4, 1/4) and (1/4, 3/4), student uniform. Likeness of images and of classes: 5/8 and 3/8 for the
    # teacher, 1/2 for the student, so 4 (1/8)^2 / 2 each; subtracting either level turns this red
    teacher, student = torch.tensor([[3.0, 1.0], [1.0, 3.0]]).log(), torch.zeros(2, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5) + 1 / 32 + 1 / 32
    assert mlkd(student, teacher, temperatures=(1.0,)).item() == pytest.approx(expected)


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("temperatures", [(1.0,), (2.0, 3.0, 4.0, 5.0, 6.0)])
def test_follows_its_definition(temperatures: tuple[float, ...], standardise: bool) -> None:
    """N and K swapped, or the sum over temperatures made a mean, turn this red."""
    student, teacher = draw(0)
    expected = 0.0
    for t in temperatures:
        p, q = (student / t).softmax(1), (teacher / t).softmax(1)
        instance = kd_loss(student, teacher, t, standardise).mean().item()  # LSKD concerns this level alone
        expected += instance + gap(p, q) + gap(p.T, q.T)
    found = mlkd(student, teacher, temperatures=temperatures, standardise=standardise)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_is_zero_at_the_teacher_and_ignores_shifts_and_orders() -> None:
    student, teacher = draw(1)
    assert mlkd(teacher - 2, teacher).item() == pytest.approx(0, abs=1e-4)
    found = mlkd(student, teacher)
    assert found > 0.1
    rows, columns = torch.randperm(6, generator=rng(1, "rows")), torch.randperm(5, generator=rng(1, "columns"))
    torch.testing.assert_close(mlkd(student[rows][:, columns] - 1, teacher[rows][:, columns]), found)


def test_gradient_check() -> None:
    student, teacher = draw(2, torch.float64)
    assert torch.autograd.gradcheck(lambda s: mlkd(s, teacher, temperatures=(1.0, 3.0)), student.requires_grad_())
