"""Partial distances against a loop and by hand, and the running mean that is the margin."""

import pytest
import torch
from torch import Tensor, nn

from gankd.losses.distillation.ofd import OFD, NegativeMean
from gankd.seeds import rng


def maps(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    return [torch.randn(shape, generator=rng(seed, "maps", n)) for n, shape in enumerate(shapes)]


def direct(student: list[Tensor], teacher: list[Tensor]) -> OFD:
    """Without connectors."""
    part = OFD(student, teacher)
    part.connectors = nn.ModuleList(nn.Identity() for _ in student)
    return part


def test_a_freed_side_of_the_teacher_misses_the_loop_over_the_formula() -> None:
    """s >= t in place of s <= t, t >= 0 in place of t <= 0, s + t in place of s - t, a minimum in place of the maximum
    with the margin, or weights that fall with depth, each turn this red.
    """
    shapes = [(3, 2, 2, 2), (3, 4, 2, 1), (3, 3, 1, 1)]
    student, teacher = maps(*shapes), maps(*shapes, seed=1)
    expected = [0.0] * 3
    for level, (s, t) in enumerate(zip(student, teacher, strict=True)):
        for c in range(t.shape[1]):
            negative = [v for v in t[:, c].flatten().tolist() if v < 0]
            margin = sum(negative) / len(negative) if negative else 0.0
            for row in range(3):
                for a, b in zip(s[row, c].flatten().tolist(), t[row, c].flatten().tolist(), strict=True):
                    target = max(b, margin)
                    if not a <= target <= 0:
                        expected[row] += 2 ** (level - 2) * (a - target) ** 2
    torch.testing.assert_close(direct(student, teacher)(student, teacher), torch.tensor(expected))


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [(0.0, 1.0, 1.0), (3.0, 1.0, 4.0), (-9.0, 1.0, 100.0), (-3.0, -1.0, 0.0), (0.5, -1.0, 2.25), (-1.0, -5.0, 1.0),
     (-2.5, -5.0, 0.0)],
)  # fmt: skip
def test_cases_by_hand_with_a_margin_of_two(student: float, teacher: float, expected: float) -> None:
    s, t = [torch.full((1, 1, 1, 1), student)], [torch.full((1, 1, 1, 1), teacher)]
    part = direct(s, t).eval()
    margin = part.margins[0]
    assert isinstance(margin, NegativeMean)
    margin.negative.fill_(-0.5)
    margin.share.fill_(0.25)
    assert part(s, t).item() == expected


def test_zero_at_the_teacher_and_without_gradient_below_what_it_suppresses() -> None:
    teacher = maps((4, 3, 2, 2))
    part = direct(teacher, teacher)
    assert (part(teacher, teacher) == 0).all()
    below = [(teacher[0] - 1).where(teacher[0] < 0, teacher[0]).requires_grad_()]
    part.eval()
    loss = part(below, teacher)
    loss.sum().backward()
    assert below[0].grad is not None
    assert (loss == 0).all()
    assert (below[0].grad == 0).all()


def test_three_batches_give_the_mean_of_all_negative_values_and_evaluation_adds_none() -> None:
    margin = NegativeMean(2)
    batches = [torch.randn(4, 2, 3, 3, generator=rng(n, "batch")) for n in range(3)]
    batches = [torch.cat([b[:, :1], b[:, 1:].abs()], 1) for b in batches]  # the second channel is never negative
    margin.eval()
    assert (margin(batches[0]) == 0).all()
    margin.train()
    for n, batch in enumerate(batches):
        seen = torch.cat(batches[: n + 1])[:, 0]
        expected = torch.stack([seen[seen < 0].mean(), torch.tensor(0.0)]).view(2, 1, 1)
        torch.testing.assert_close(margin(batch), expected)
    margin.eval()
    state = {name: value.clone() for name, value in margin.state_dict().items()}
    torch.testing.assert_close(margin(batches[0]), expected)
    assert all(torch.equal(value, state[name]) for name, value in margin.state_dict().items())
