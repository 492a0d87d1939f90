"""Matching values: by hand, against plain loops, and when the teacher's bound lets the student off."""

import pytest
import torch

from gankd.errors import ConfigError
from gankd.losses.distillation.prediction import absolute_distance, squared_distance, teacher_bounded
from gankd.seeds import rng

VALUES = torch.rand(3, 40, generator=rng(0, "values"))


def test_distances_by_hand() -> None:
    student, teacher = torch.tensor([0.2, 1.0, -0.5]), torch.tensor([0.5, 1.0, 0.0])
    torch.testing.assert_close(absolute_distance(student, teacher), torch.tensor([0.3, 0.0, 0.5]))
    torch.testing.assert_close(squared_distance(student, teacher), torch.tensor([0.09, 0.0, 0.25]))
    for distance in (absolute_distance, squared_distance):  # a plus between the two turns this red
        assert distance(teacher, teacher).eq(0).all()
        torch.testing.assert_close(distance(student + 3, teacher + 3), distance(student, teacher))
        torch.testing.assert_close(distance(-student, -teacher), distance(student, teacher))


def test_the_bound_by_hand() -> None:
    # target 0.5, teacher off by 0.2: students off by 0.3 (either way), 0.2, 0.1 and 0
    # swapping > for <, or student for teacher, turns this red, as does subtracting the margin
    student, target = torch.tensor([0.8, 0.2, 0.7, 0.4, 0.5]), torch.full((5,), 0.5)
    teacher = torch.full((5,), 0.3)
    torch.testing.assert_close(
        teacher_bounded(student, teacher, target), torch.tensor([0.09, 0.09, 0.0, 0.0, 0.0]), atol=0.0, rtol=1e-5
    )
    wary = teacher_bounded(student, teacher, target, margin=0.035)  # has to be within sqrt(0.04 - 0.035) = 0.07
    torch.testing.assert_close(wary, torch.tensor([0.09, 0.09, 0.04, 0.01, 0.0]))


@pytest.mark.parametrize("margin", [0.0, 0.05, 1.0])
def test_the_bound_follows_its_definition(margin: float) -> None:
    expected = []
    for student, teacher, target in VALUES.T.tolist():
        own = (student - target) ** 2
        expected.append(own if own + margin > (teacher - target) ** 2 else 0.0)
    assert 0 < expected.count(0.0) < 40 or margin == 1.0
    torch.testing.assert_close(teacher_bounded(*VALUES, margin=margin), torch.tensor(expected))
    order = torch.randperm(40, generator=rng(1, "order"))
    torch.testing.assert_close(teacher_bounded(*VALUES[:, order], margin=margin), torch.tensor(expected)[order])


def test_at_the_teacher_the_bound_is_met() -> None:
    assert teacher_bounded(VALUES[1], VALUES[1], VALUES[2]).eq(0).all()


def test_gradient_check() -> None:
    student, teacher, target = VALUES[:, :6].double()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: absolute_distance(s, teacher), student)
    assert torch.autograd.gradcheck(lambda s: squared_distance(s, teacher), student)
    assert torch.autograd.gradcheck(lambda s: teacher_bounded(s, teacher, target), student)


def test_a_negative_margin_is_refused() -> None:
    with pytest.raises(ConfigError, match="^TeacherBounded: margin must be at least 0, got -1$"):
        teacher_bounded(*VALUES, margin=-1)
