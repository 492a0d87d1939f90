"""Hierarchical context against a loop, fusion by hand, and the warm-up."""

import math

import pytest
import torch
from torch import Tensor, nn

from gankd.losses.distillation.reviewkd import Fusion, ReviewKD, hierarchical_context
from gankd.seeds import rng


def maps(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    return [torch.randn(shape, generator=rng(seed, "maps", n)) for n, shape in enumerate(shapes)]


@pytest.mark.parametrize(("side", "scales"), [(8, [8, 4, 2, 1]), (4, [4, 2, 1]), (2, [2, 1]), (1, [1])])
def test_a_plus_between_the_maps_misses_the_loop_over_the_formula(side: int, scales: list[int]) -> None:
    """S + T in place of S - T turns this red; so do weights that double, or that are not divided by their sum."""
    (student,), (teacher,) = maps((2, 3, side, side)), maps((2, 3, side, side), seed=1)
    expected = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        total = weights = 0.0
        for place, scale in enumerate(scales):
            step = side // scale
            squares = []
            for c in range(3):
                for y in range(0, side, step):
                    for x in range(0, side, step):
                        block = [(v, u) for v in range(y, y + step) for u in range(x, x + step)]
                        mean = sum(s[c][v][u] - t[c][v][u] for v, u in block) / step**2
                        squares.append(mean**2)
            total += 0.5**place * sum(squares) / len(squares)
            weights += 0.5**place
        expected.append(total / weights)
    torch.testing.assert_close(hierarchical_context(student, teacher), torch.tensor(expected))


def test_hierarchical_context_is_zero_at_the_teacher_and_the_square_of_a_constant_shift() -> None:
    (teacher,) = maps((3, 4, 5, 7))
    assert (hierarchical_context(teacher, teacher) == 0).all()
    torch.testing.assert_close(hierarchical_context(teacher - 3, teacher), torch.full((3,), 9.0))


def plain(part: ReviewKD, own: float) -> None:
    """Take all convolutions out, and give a level's own map this share of the fused one."""
    for level in part.levels:
        assert isinstance(level, Fusion)
        level.inward, level.outward = nn.Identity(), nn.Sequential()
        if level.attention is not None:
            assert level.attention.bias is not None
            level.attention.weight.data.zero_()
            level.attention.bias.data = torch.tensor([math.log(own / (1 - own)), math.log((1 - own) / own)])


def test_swapped_attention_misses_the_fusion_by_hand() -> None:
    """The weights of the own and of the deeper map swapped turns this red; so does shallow before deep."""
    student = [torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[[[6.0]]]])]
    teacher = [torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 1, 1)]  # the first is larger than the student's
    embedding = torch.tensor([[10.0]])
    part = ReviewKD(student, embedding, teacher, torch.zeros(1, 1))
    plain(part, own=0.75)
    middle = 0.75 * 6 + 0.25 * 10
    values = [0.75 * v + 0.25 * middle for v in (1, 2, 3, 4)]  # each at two positions of the teacher's map
    mean = sum(values) / 4
    columns = [(values[0] + values[2]) / 2, (values[1] + values[3]) / 2]
    assert columns[0] + columns[1] == 2 * mean
    squares = sum(v**2 for v in values) / 4
    # scales 4x2, 2x2 and 1x1: halving the height of the doubled map gives the four values back
    shallow = (squares + squares / 2 + mean**2 / 4) / 1.75
    loss = part(student, embedding, teacher, torch.zeros(1, 1), progress=1.0)
    assert loss.item() == pytest.approx(shallow + middle**2 + 10**2)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_zero_where_the_fused_maps_are_the_teachers(levels: int) -> None:
    teacher = maps(*[(2, 3, 8 // 2**n, 8 // 2**n) for n in range(levels)])
    (embedding,) = maps((2, 3))
    part = ReviewKD(teacher, embedding, teacher, embedding)
    plain(part, own=1 - 1e-7)
    torch.testing.assert_close(
        part(teacher, embedding, teacher, embedding, progress=0.5), torch.zeros(2), atol=1e-10, rtol=0
    )


def test_the_weight_rises_in_the_first_twelfth_of_the_updates() -> None:
    student, teacher, embedding = maps((2, 3, 4, 4)), maps((2, 5, 4, 4)), maps((2, 6))[0]
    part = ReviewKD(student, embedding, teacher, embedding)
    full = part(student, embedding, teacher, embedding, 1.0)
    for progress, share in [(0.0, 0.0), (1 / 24, 0.5), (1 / 12, 1.0), (0.9, 1.0)]:
        torch.testing.assert_close(part(student, embedding, teacher, embedding, progress), share * full)
    part.warmup = 0.0
    torch.testing.assert_close(part(student, embedding, teacher, embedding, 0.0), full)


@pytest.mark.parametrize(("width", "expected"), [(512, 6), (4, 4)])
def test_fused_maps_are_no_wider_than_the_embedding_or_the_setting(width: int, expected: int) -> None:
    student, embedding = maps((2, 3, 4, 4)), maps((2, 6))[0]
    for level in ReviewKD(student, embedding, student, embedding, width=width).levels:
        assert isinstance(level, Fusion)
        assert level.outward[0].in_channels == expected
