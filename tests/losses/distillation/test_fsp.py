"""FSP matrices against a loop, by hand, and blindness to place."""

import pytest
import torch
from torch import Tensor, nn

from gankd.losses.distillation.fsp import FSP
from gankd.seeds import rng


def maps(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    return [torch.randn(shape, generator=rng(seed, "maps", n)) for n, shape in enumerate(shapes)]


def plain_flow(here: Tensor, there: Tensor) -> list[list[float]]:
    """(C, C') mean over positions of the product of two channels, maps (C, H, W) of one size."""
    return [
        [sum(a * b for a, b in zip(c.flatten().tolist(), d.flatten().tolist(), strict=True)) / c.numel() for d in there]
        for c in here
    ]


def test_a_plus_between_the_flows_misses_the_loop_over_the_formula() -> None:
    """G_S + G_T in place of G_S - G_T turns this red; so does a sum over positions in place of the mean."""
    student = maps((2, 3, 2, 2), (2, 4, 2, 2), (2, 2, 2, 2))
    teacher = maps((2, 3, 3, 2), (2, 4, 3, 2), (2, 2, 3, 2), seed=1)  # as wide, of another size
    expected = [0.0, 0.0]
    for row in range(2):
        for level in range(2):
            g = plain_flow(student[level][row], student[level + 1][row])
            h = plain_flow(teacher[level][row], teacher[level + 1][row])
            squares = [(a - b) ** 2 for u, v in zip(g, h, strict=True) for a, b in zip(u, v, strict=True)]
            expected[row] += sum(squares) / len(squares)
    torch.testing.assert_close(FSP(student, teacher)(student, teacher), torch.tensor(expected))


def test_a_case_by_hand() -> None:
    first, second = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, -4.0]]]])
    teacher = [first, torch.tensor([[[[2.0]]]])]  # the first map is averaged to one position: 1.5 * 2 = 3
    flow = (1 * 3 - 2 * 4) / 2
    assert FSP([first, second], teacher)([first, second], teacher).item() == (flow - 3) ** 2


def test_zero_at_the_teacher_and_for_positions_in_another_order() -> None:
    teacher = maps((3, 4, 2, 2), (3, 5, 2, 2))
    part = FSP(teacher, teacher)
    assert (part(teacher, teacher) == 0).all()
    moved = [m.flip(2, 3) for m in teacher]
    torch.testing.assert_close(part(moved, teacher), torch.zeros(3), atol=1e-10, rtol=0)
    assert (part([moved[0], teacher[1]], teacher) > 0.01).all()


def test_widths_are_adapted_only_where_they_differ() -> None:
    student, teacher = maps((4, 3, 2, 2), (4, 5, 1, 1)), maps((4, 3, 2, 2), (4, 8, 1, 1))
    same, other = FSP(student, teacher).adapters
    assert isinstance(same, nn.Identity)
    assert other(student[1]).shape == (4, 8, 1, 1)


@pytest.mark.parametrize("first", [0.0, 0.125, 0.5])
def test_the_phase_in_which_it_is_alone_is_a_setting(first: float) -> None:
    example = maps((4, 3, 2, 2), (4, 3, 2, 2))
    assert FSP(example, example).first == 0.125
    assert FSP(example, example, first=first).first == first
