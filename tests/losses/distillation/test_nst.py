"""Maximum mean discrepancy against a loop over pairs of channels, by hand, and what it is blind to."""

import math

import pytest
import torch
from torch import Tensor

from gankd.losses.distillation.nst import nst
from gankd.seeds import rng


def maps(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    return [torch.randn(shape, generator=rng(seed, "maps", n)) for n, shape in enumerate(shapes)]


def plain_kernel_mean(a: Tensor, b: Tensor) -> float:
    """Mean of (cosine of two channels)^2 over all pairs, maps (C, H, W) and (D, H, W)."""
    total = 0.0
    for x in a.flatten(1).tolist():
        for y in b.flatten(1).tolist():
            product = sum(u * v for u, v in zip(x, y, strict=True))
            total += product**2 / sum(u * u for u in x) / sum(v * v for v in y)
    return total / len(a) / len(b)


@pytest.mark.parametrize(("height", "width"), [(1, 2), (2, 2), (3, 4)], ids=["few", "between", "many"])
def test_a_plus_before_the_cross_term_misses_the_loop_over_the_formula(height: int, width: int) -> None:
    """+ 2 k(s, t) in place of - 2 k(s, t) (or a plus between the Gram matrices of positions) turns this red."""
    shapes = [(2, 3, height, width), (2, 2, height, width)]
    student, teacher = maps(*shapes), maps((2, 5, height, width), (2, 6, height, width), seed=1)
    expected = [0.0, 0.0]
    for s, t in zip(student, teacher, strict=True):
        for row in range(2):
            expected[row] += plain_kernel_mean(s[row], s[row]) + plain_kernel_mean(t[row], t[row])
            expected[row] -= 2 * plain_kernel_mean(s[row], t[row])
    torch.testing.assert_close(nst(student, teacher), torch.tensor(expected), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("copies", [1, 4])
@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2])
def test_one_pattern_each_by_hand(angle: float, copies: int) -> None:
    """1 + 1 - 2 cos^2; copies of a channel count as one (and make the matrices of positions the smaller ones)."""
    student = torch.tensor([[[[2.0, 0.0]]]]).repeat(1, copies, 1, 1)
    teacher = torch.tensor([[[[math.cos(angle), math.sin(angle)]]]])
    assert nst([student], [teacher]).item() == pytest.approx(2 - 2 * math.cos(angle) ** 2, abs=1e-6)


@pytest.mark.parametrize("side", [2, 5])
def test_blind_to_order_scale_and_sign_of_channels_but_not_to_place(side: int) -> None:
    (teacher,) = maps((3, 6, side, side))
    scales = torch.tensor([1.0, -2.0, 0.1, 5.0, -1.0, 30.0]).view(1, 6, 1, 1)
    torch.testing.assert_close(nst([(scales * teacher).flip(1)], [teacher]), torch.zeros(3), atol=1e-6, rtol=0)
    assert (nst([teacher.flip(2)], [teacher]) > 0.001).all()
