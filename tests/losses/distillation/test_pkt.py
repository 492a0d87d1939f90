"""PKT against loops, a pair solved by hand, what it does not see, and its gradient."""

import math

import torch
from torch import Tensor

from gankd.losses.distillation.pkt import pkt
from gankd.seeds import rng


def embedding(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng(seed, "embedding"), dtype=torch.float64)


def plain(student: list[list[float]], teacher: list[list[float]]) -> list[float]:
    def neighbours(rows: list[list[float]]) -> list[list[float]]:
        def cosine(x: list[float], y: list[float]) -> float:
            return sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)

        near = [[1 + cosine(x, y) for y in rows] for x in rows]
        return [[value / sum(row) for value in row] for row in near]

    pairs = zip(neighbours(student), neighbours(teacher), strict=True)
    return [sum(b * math.log(b / a) for a, b in zip(s, t, strict=True)) / len(student) for s, t in pairs]


def test_pkt_follows_its_formula() -> None:
    # Red when student and teacher change places in the divergence, when a logarithm changes its sign, and when cosines
    # are not shifted by 1.
    student, teacher = embedding(0, 6, 3), embedding(1, 6, 5)
    expected = torch.tensor(plain(student.tolist(), teacher.tolist()), dtype=torch.float64)
    torch.testing.assert_close(pkt(student, teacher), expected, rtol=1e-5, atol=0)


def test_pkt_of_two_images_by_hand() -> None:
    teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # 1 + cosine: 2, 1
    student = torch.tensor([[1.0], [3.0]])  # 2, 2
    value = (2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)) / 2
    torch.testing.assert_close(pkt(student, teacher), torch.tensor([value, value]))


def test_pkt_is_zero_for_turned_and_scaled_rows_and_follows_the_order_of_the_batch() -> None:
    teacher = embedding(2, 6, 4)
    turned = teacher @ torch.linalg.qr(embedding(3, 4, 4)).Q * torch.arange(1, 7)[:, None]
    torch.testing.assert_close(pkt(turned, teacher), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    student = embedding(4, 6, 2)
    loss = pkt(student, teacher)
    assert (loss > 0).all()
    torch.testing.assert_close(pkt(student[order], teacher[order]), loss[order])


def test_pkt_gradient_also_for_opposite_rows() -> None:
    student, teacher = embedding(5, 4, 2).requires_grad_(), embedding(6, 4, 3)
    assert torch.autograd.gradcheck(lambda s: pkt(s, teacher), student)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = pkt(opposite, torch.ones(2, 2)).sum()
    loss.backward()
    assert opposite.grad is not None
    assert loss.isfinite()
    assert opposite.grad.isfinite().all()
