"""Relations of singular vectors against an SVD and a loop, by hand, and where singular values coincide."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from gankd.losses.distillation.kdsvd import KDSVD
from gankd.seeds import rng


def spectral_maps(*shapes: tuple[int, int, int, int], seed: int = 0) -> list[Tensor]:
    """Maps with singular values 1, 1/3, 1/9, ... and random vectors, of which the teacher's and the student's agree
    in part.
    """
    maps = []
    for n, (rows, channels, height, width) in enumerate(shapes):
        left = torch.linalg.qr(
            torch.randn(rows, channels, channels, generator=rng(0, "left", n), dtype=torch.float64)
            + 0.3 * torch.randn(rows, channels, channels, generator=rng(seed, "left", n), dtype=torch.float64)
        )[0]
        rank = min(channels, height * width)
        right = torch.randn(rows, height * width, rank, generator=rng(seed, "right", n), dtype=torch.float64)
        values = 3.0 ** -torch.arange(rank, dtype=torch.float64)
        maps.append((left[:, :, :rank] * values @ torch.linalg.qr(right)[0].mT).unflatten(2, (height, width)))
    return maps


def plain_vectors(m: Tensor, k: int) -> tuple[list[list[float]], list[float]]:
    """k leading vectors over channels of a map (C, H, W), and their singular values scaled to norm 1.

    Each is positive in the channel with the most energy of what the vectors before it leave.
    """
    left, values, _ = torch.linalg.svd(m.flatten(1), full_matrices=False)
    vectors = []
    for j in range(k):
        energy = (left[:, j:] * values[j:]).square().sum(1)
        vectors.append((left[:, j] * left[energy.argmax(), j].sign()).tolist())
    return vectors, (values[:k] / values[:k].norm()).tolist()


@pytest.mark.parametrize(
    "shapes",
    [[(2, 4, 3, 2), (2, 3, 2, 2), (2, 2, 2, 1)], [(2, 4, 3, 1), (2, 3, 2, 2), (2, 6, 2, 1)]],
    ids=["more positions than channels", "fewer in the first and last map"],
)
@pytest.mark.parametrize("k", [1, 2])
def test_a_plus_in_the_exponent_misses_the_loop_over_the_formula(
    k: int, shapes: list[tuple[int, int, int, int]]
) -> None:
    """exp(+(.)^2 / 8), w v + w' v' in place of the difference, R_S + R_T, a plus in deflation, or student's vectors
    that do not start at the teacher's, each turn this red.
    """
    student, teacher = spectral_maps(*shapes), spectral_maps(*shapes, seed=1)
    expected = [0.0, 0.0]
    for row in range(2):
        levels = []
        for s, t in zip(student, teacher, strict=True):
            (own, _), (other, weights) = plain_vectors(s[row], k), plain_vectors(t[row], k)
            for j in range(k):  # the student's sign is the teacher's
                sign = math.copysign(1, sum(a * b for a, b in zip(own[j], other[j], strict=True)))
                own[j] = [sign * weights[j] * a for a in own[j]]
                other[j] = [weights[j] * b for b in other[j]]
            levels.append((own, other))
        for (own, other), (next_own, next_other) in pairwise(levels):
            for j in range(k):
                for a, b in zip(own[j], other[j], strict=True):
                    for c, d in zip(next_own[j], next_other[j], strict=True):
                        expected[row] += (math.exp(-((a - c) ** 2) / 8) - math.exp(-((b - d) ** 2) / 8)) ** 2
    part = KDSVD(student, teacher, k=k, iterations=40).double()
    torch.testing.assert_close(part(student, teacher), torch.tensor(expected, dtype=torch.float64))


def test_a_case_by_hand() -> None:
    pattern = torch.tensor([[[[1.0, -2.0, 0.5]]]])
    on_first = torch.cat([pattern, 0 * pattern], 1)  # v = (1, 0)
    turned = torch.cat([0.6 * pattern, 0.8 * pattern], 1)  # v = (0.6, 0.8)
    teacher, student = [on_first, on_first], [turned, on_first]
    apart = math.exp(-1 / 8)
    relations = [(1, math.exp(-(0.4**2) / 8)), (apart, math.exp(-(0.6**2) / 8))]
    relations += [(apart, math.exp(-(0.2**2) / 8)), (1, math.exp(-(0.8**2) / 8))]
    expected = sum((a - b) ** 2 for a, b in relations)
    assert KDSVD(student, teacher)(student, teacher).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_zero_at_the_teacher_and_blind_to_scale_sign_and_place(k: int) -> None:
    teacher = spectral_maps((3, 4, 3, 3), (3, 3, 2, 2))
    part = KDSVD(teacher, teacher, k=k, iterations=20).double()
    zero = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(part(teacher, teacher), zero, atol=1e-12, rtol=0)
    moved = [-5 * teacher[0].flip(2), 0.1 * teacher[1].flip(3)]
    torch.testing.assert_close(part(moved, teacher), zero, atol=1e-12, rtol=0)
    assert (part([teacher[0].flip(1), teacher[1]], teacher) > 1e-4).all()


def test_gradients_stay_finite_where_singular_values_coincide_and_beyond_the_rank() -> None:
    same = torch.eye(4).view(1, 4, 2, 2).repeat(2, 1, 1, 1)  # four equal singular values
    single = torch.arange(1.0, 4).view(1, 3, 1, 1) / torch.arange(3.0, 11).view(2, 1, 2, 2)  # rank 1
    for maps in ([same, single], [single, same]):
        student = [m.clone().requires_grad_() for m in maps]
        teacher = [m + 0.1 * torch.randn(m.shape, generator=rng(0, "teacher", n)) for n, m in enumerate(maps)]
        part = KDSVD(student, teacher, k=3)
        loss = part(student, teacher)
        loss.sum().backward()
        assert loss.isfinite().all()
        assert all(m.grad is not None and m.grad.isfinite().all() and m.grad.abs().max() < 100 for m in student)
