"""Attention maps against a loop, a case by hand, and what they are blind to."""

import math

import pytest
import torch
from torch import Tensor

from gankd.losses.distillation.at import at
from gankd.seeds import rng


def maps(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    return [torch.randn(shape, generator=rng(seed, "maps", n)) for n, shape in enumerate(shapes)]


def plain_attention(m: list[list[list[float]]], p: float) -> list[float]:
    """Mean of |F|^p over channels at each position, scaled to norm 1."""
    energy = [sum(abs(c[y][x]) ** p for c in m) / len(m) for y in range(len(m[0])) for x in range(len(m[0][0]))]
    norm = math.sqrt(sum(e * e for e in energy))
    return [e / norm for e in energy]


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_a_plus_between_the_attentions_misses_the_loop_over_the_formula(p: float) -> None:
    """a(S) + a(T) in place of a(S) - a(T) turns this red; so does a mean over pairs in place of the sum."""
    student, teacher = maps((2, 3, 2, 3), (2, 5, 1, 2)), maps((2, 4, 2, 3), (2, 2, 1, 2), seed=1)
    expected = [0.0, 0.0]
    for s, t in zip(student, teacher, strict=True):
        for row in range(2):
            a, b = plain_attention(s[row].tolist(), p), plain_attention(t[row].tolist(), p)
            expected[row] += sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)
    torch.testing.assert_close(at(student, teacher, p=p), torch.tensor(expected))


def test_a_case_by_hand() -> None:
    student, teacher = [torch.tensor([[[[3.0, -4.0]]]])], [torch.tensor([[[[0.5, 0.0]]]])]
    assert at(student, teacher, p=1).item() == pytest.approx(((0.6 - 1) ** 2 + 0.8**2) / 2)
    norm = math.hypot(9, 16)
    assert at(student, teacher).item() == pytest.approx(((9 / norm - 1) ** 2 + (16 / norm) ** 2) / 2)


def test_blind_to_scale_and_to_number_order_and_signs_of_channels_but_not_to_place() -> None:
    student, teacher = maps((3, 4, 3, 3)), maps((3, 4, 3, 3), seed=1)
    loss = at(student, teacher)
    assert (loss > 0.01).all()
    torch.testing.assert_close(at([-7 * student[0]], [0.1 * teacher[0].flip(1)]), loss)
    torch.testing.assert_close(at([torch.cat([student[0], -student[0]], 1)], teacher), loss)
    assert (at(teacher, teacher) == 0).all()
    assert (at([teacher[0].flip(3)], teacher) > 0.001).all()


def test_the_larger_map_is_averaged_and_one_position_says_nothing() -> None:
    small = maps((2, 3, 2, 2))
    large = [small[0].repeat_interleave(2, 2).repeat_interleave(2, 3)]
    torch.testing.assert_close(at(large, small), torch.zeros(2))
    torch.testing.assert_close(at(small, maps((2, 8, 1, 1))), torch.zeros(2))
