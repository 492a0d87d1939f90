"""Activation boundaries against a loop, by hand, and blindness to how strongly the teacher fires."""

import pytest
import torch
from torch import Tensor, nn

from gankd.losses.distillation.ab import AB
from gankd.seeds import rng


def maps(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    return [torch.randn(shape, generator=rng(seed, "maps", n)) for n, shape in enumerate(shapes)]


def direct(student: list[Tensor], teacher: list[Tensor], margin: float = 1.0) -> AB:
    """Without connectors."""
    part = AB(student, teacher, margin=margin)
    part.connectors = nn.ModuleList(nn.Identity() for _ in student)
    return part


@pytest.mark.parametrize("margin", [0.5, 1.0, 2.0])
def test_a_flipped_side_of_the_boundary_misses_the_loop_over_the_formula(margin: float) -> None:
    """t < 0 in place of t > 0, m + in place of m -, or weights that fall with depth, each turn this red."""
    shapes = [(2, 3, 2, 2), (2, 4, 2, 1), (2, 2, 1, 1)]
    student, teacher = maps(*shapes), maps(*shapes, seed=1)
    expected = [0.0, 0.0]
    for level, (s, t) in enumerate(zip(student, teacher, strict=True)):
        for row in range(2):
            for a, b in zip(s[row].flatten().tolist(), t[row].flatten().tolist(), strict=True):
                if b > 0 and a <= margin:
                    expected[row] += 3 / 1000 * 2 ** (level - 2) * (a - margin) ** 2
                elif b <= 0 and a > -margin:
                    expected[row] += 3 / 1000 * 2 ** (level - 2) * (a + margin) ** 2
    torch.testing.assert_close(direct(student, teacher, margin)(student, teacher), torch.tensor(expected))


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [(0.5, 9.0, 0.25), (0.5, -9.0, 2.25), (2.0, 0.1, 0.0), (-2.0, -0.1, 0.0), (2.0, 0.0, 9.0), (-3.0, 1.0, 16.0)],
)
def test_cases_by_hand(student: float, teacher: float, expected: float) -> None:
    s, t = [torch.full((1, 1, 1, 1), student)], [torch.full((1, 1, 1, 1), teacher)]
    assert direct(s, t)(s, t).item() == pytest.approx(0.003 * expected)


def test_zero_on_the_right_side_by_the_margin_however_strongly_the_teacher_fires() -> None:
    student, teacher = maps((3, 4, 2, 2)), maps((3, 4, 2, 2), seed=1)
    part = direct(student, teacher)
    loss = part(student, teacher)
    assert (loss > 0).all()
    torch.testing.assert_close(part(student, [1e-3 * teacher[0].sign()]), loss)
    assert (part([1.001 * teacher[0].sign()], teacher) == 0).all()


def test_the_phase_in_which_it_is_alone_is_a_setting() -> None:
    example = maps((4, 3, 2, 2))
    assert AB(example, example).first == 30 / 240
    assert AB(example, example, first=0.5).first == 0.5
