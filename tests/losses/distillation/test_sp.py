"""SP against loops, what it does not see, and its gradient."""

import math

import torch
from torch import Tensor

from gankd.losses.distillation.sp import sp
from gankd.seeds import rng


def maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng(seed, "maps"), dtype=torch.float64)


def plain(student: list[list[float]], teacher: list[list[float]]) -> list[float]:
    def rows(flat: list[list[float]]) -> list[list[float]]:
        gram = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in flat] for x in flat]
        return [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in gram]

    pairs = zip(rows(student), rows(teacher), strict=True)
    return [sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(student) for s, t in pairs]


def test_sp_follows_its_formula_on_the_last_pair_of_maps() -> None:
    # Red when the Gram matrix is normalised by columns, when rows are summed instead of averaged, and when the minus
    # between the matrices becomes a plus.
    student, teacher = maps(0, 5, 3, 2, 2), maps(1, 5, 4, 3, 1)
    expected = plain(student.flatten(1).tolist(), teacher.flatten(1).tolist())
    got = sp([maps(2, 5, 1, 1, 1), student], [teacher, teacher])
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


def test_sp_of_two_images_by_hand() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 2, 1, 1)  # Gram: identity
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).view(2, 2, 1, 1)  # Gram: all one, rows over sqrt 2
    row = ((1 - 0.5**0.5) ** 2 + 0.5) / 2
    torch.testing.assert_close(sp([student], [teacher]), torch.tensor([row, row]))


def test_sp_is_zero_for_turned_and_scaled_maps_and_follows_the_order_of_the_batch() -> None:
    teacher = maps(3, 6, 4, 2, 1)
    turn = torch.linalg.qr(maps(4, 8, 8)).Q
    turned = (3 * teacher.flatten(1) @ turn).view(6, 8, 1, 1)
    torch.testing.assert_close(sp([turned], [teacher]), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    student = maps(5, 6, 2, 2, 2)
    torch.testing.assert_close(sp([student[order]], [teacher[order]]), sp([student], [teacher])[order])


def test_sp_gradient() -> None:
    student, teacher = maps(6, 3, 2, 2, 1).requires_grad_(), maps(7, 3, 3, 1, 1)
    assert torch.autograd.gradcheck(lambda s: sp([s], [teacher]), student)


def test_an_image_that_excites_nothing_has_a_finite_gradient() -> None:
    student = torch.zeros(2, 2, 1, 1, requires_grad=True)
    sp([student], [torch.ones(2, 2, 1, 1)]).sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
