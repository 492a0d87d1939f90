"""RKD against loops over pairs and triples, triangles solved by hand, similarity transforms, coincident rows."""

import math

import pytest
import torch
from torch import Tensor

from gankd.errors import ConfigError
from gankd.losses.distillation.rkd import cosines, distances, rkd
from gankd.seeds import rng


def embedding(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng(seed, "embedding"), dtype=torch.float64)


def plain(student: list[list[float]], teacher: list[list[float]], by_distance: float, by_angle: float) -> list[float]:
    n = range(len(student))

    def huber(a: float, b: float) -> float:
        return (a - b) ** 2 / 2 if abs(a - b) < 1 else abs(a - b) - 0.5

    def distance(rows: list[list[float]]) -> list[list[float]]:
        plain = [[math.dist(x, y) for y in rows] for x in rows]
        positive = [value for row in plain for value in row if value > 0]
        return [[value / (sum(positive) / len(positive)) for value in row] for row in plain]

    def cosine(rows: list[list[float]], i: int, j: int, k: int) -> float:
        x = [a - b for a, b in zip(rows[i], rows[j], strict=True)]
        y = [a - b for a, b in zip(rows[k], rows[j], strict=True)]
        norm = math.hypot(*x) * math.hypot(*y)
        return sum(a * b for a, b in zip(x, y, strict=True)) / norm if norm else 0.0

    d_s, d_t = distance(student), distance(teacher)
    return [
        by_distance * sum(huber(d_s[j][i], d_t[j][i]) for i in n) / len(n)
        + by_angle * sum(huber(cosine(student, i, j, k), cosine(teacher, i, j, k)) for i in n for k in n) / len(n) ** 2
        for j in n
    ]


@pytest.mark.parametrize("weights", [(25.0, 50.0), (1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("copies", [0, 2])
def test_rkd_follows_its_formula(weights: tuple[float, float], copies: int) -> None:
    # Red when the square of the opposite side is added instead of subtracted, when the 1/2 of the law of cosines is
    # dropped, when the vertex changes place with a leg, and when the mean counts pairs at distance zero.
    student, teacher = embedding(0, 6, 3), embedding(1, 6, 5)
    student[:copies] = student[3]
    expected = plain(student.tolist(), teacher.tolist(), *weights)
    got = rkd(student, teacher, distance=weights[0], angle=weights[1])
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


def test_a_right_triangle_by_hand() -> None:
    distance = distances(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]))
    torch.testing.assert_close(distance, torch.tensor([[0.0, 3, 4], [3, 0, 5], [4, 5, 0]]) / 4)  # mean of 3, 4, 5
    cosine = cosines(distance)
    torch.testing.assert_close(cosine[0], torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 1]]))
    torch.testing.assert_close(cosine[1], torch.tensor([[1, 0, 0.6], [0, 0, 0], [0.6, 0, 1]]))
    torch.testing.assert_close(cosine[2], torch.tensor([[1, 0.8, 0], [0.8, 1, 0], [0, 0, 0]]))


def test_rkd_is_zero_up_to_a_similarity_transform_and_follows_the_order_of_the_batch() -> None:
    teacher = embedding(2, 6, 4)
    moved = 3 * teacher @ torch.linalg.qr(embedding(3, 4, 4)).Q + embedding(4, 1, 4)
    torch.testing.assert_close(rkd(moved, teacher), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)
    student, order = embedding(5, 6, 2), torch.tensor([3, 1, 5, 0, 2, 4])
    loss = rkd(student, teacher)
    assert (loss > 0.1).all()
    torch.testing.assert_close(rkd(student[order], teacher[order]), loss[order])


def test_rkd_gradient() -> None:
    student, teacher = embedding(6, 4, 2).requires_grad_(), embedding(7, 4, 3)
    assert torch.autograd.gradcheck(lambda s: rkd(s, teacher), student)


@pytest.mark.parametrize("rows", [[[1.0, 2.0]] * 3, [[1.0, 2.0], [1.0, 2.0], [5.0, 0.0]], [[0.0], [1e-30], [1.0]]])
def test_coincident_rows_have_a_finite_loss_and_gradient(rows: list[list[float]]) -> None:
    # Red when cosines divide by the distances as they are.
    student = torch.tensor(rows, requires_grad=True)
    loss = rkd(student, torch.tensor([[0.0], [1.0], [3.0]])).sum()
    loss.backward()
    assert student.grad is not None
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_a_common_offset_costs_no_digits_in_float32() -> None:
    """Distances from a Gram matrix would be off by about 0.1 here."""
    teacher = embedding(8, 6, 4)
    far = (teacher + 1000).float()
    torch.testing.assert_close(rkd(far, teacher.float()), torch.zeros(6), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["distance", "angle"])
def test_negative_weights_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"RKD: {name} must not be negative, got -1"):
        rkd(torch.zeros(2, 2), torch.zeros(2, 2), **{name: -1})
