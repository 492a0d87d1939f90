"""SetMatch against loops, its expectation over all samples of small laws, and what it sees that KD cannot."""

from itertools import product

import pytest
import torch
from torch import Tensor

from gankd.errors import ConfigError
from gankd.losses.distillation.kd import kd_loss
from gankd.losses.distillation.set_match import set_match
from gankd.seeds import rng

LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 1, 1])


def logits(seed: int, count: int = 8) -> tuple[Tensor, Tensor]:
    student, teacher = 3 * torch.randn(2, count, 4, generator=rng(seed, "logits"), dtype=torch.float64)
    return student, teacher


def plain(student: Tensor, teacher: Tensor, labels: list[int], temperature: float) -> float:
    """Number of rows times T times the unbiased energy distance of each class, over all rows."""
    p, q = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    total = 0.0
    for label in set(labels):
        rows = [row for row, own in enumerate(labels) if own == label]
        n = len(rows)
        if n == 1:
            continue
        between = sum((p[i] - q[j]).norm().item() for i in rows for j in rows) / n**2
        pairs = [(i, j) for i in rows for j in rows if i != j]
        within = sum(((p[i] - p[j]).norm() + (q[i] - q[j]).norm()).item() for i, j in pairs) / (n * (n - 1))
        total += n * temperature * (2 * between - within)
    return total / len(labels)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_it_follows_its_formula(temperature: float) -> None:
    """A plus before either mean within a set, one `between` instead of two, or n for n - 1 turns this red."""
    student, teacher = logits(0)
    found = set_match(student, teacher, LABELS, T=temperature)
    assert found.shape == (8,)
    assert found.mean().item() == pytest.approx(plain(student, teacher, LABELS.tolist(), temperature), abs=1e-12)
    assert found[3] == 0  # the one row of class 2


def test_it_is_unbiased_zero_for_equal_laws_and_positive_for_others() -> None:
    """The mean over all samples of 2 + 2 rows from laws on three points is the distance of the laws; a V-statistic,
    which keeps i = j, is above 0 for equal ones and turns this red.
    """
    points = torch.tensor([[3.0, 0, 0, 0], [0, 2.0, 1.0, 0], [0, 0, 0, 4.0]], dtype=torch.float64)

    def expected(students: list[int], teachers: list[int]) -> float:
        samples = list(product(students, students, teachers, teachers))
        rows = torch.tensor(samples)  # each sample is a class of its own
        labels = torch.arange(len(samples)).repeat_interleave(2)
        return set_match(points[rows[:, :2].flatten()], points[rows[:, 2:].flatten()], labels).mean().item()

    p = (points / 4).softmax(1)
    apart = torch.cdist(p, p)
    assert expected([0, 1, 2], [0, 1, 2]) == pytest.approx(0, abs=1e-12)
    # the same mean? the uniform law against one that leaves out a point: 2 E|X-Y| - E|X-X'| - E|Y-Y'|, by hand
    by_hand = 4 * (2 * apart[:, :2].mean() - apart.mean() - apart[:2, :2].mean()).item()
    assert by_hand > 0.01
    assert expected([0, 1, 2], [0, 1]) == pytest.approx(by_hand)


def test_who_got_which_target_within_a_class_means_nothing() -> None:
    student, teacher = logits(1)
    student.requires_grad_()
    swapped = teacher.clone()
    swapped[[0, 2, 5]] = teacher[[5, 0, 2]]  # class 0
    losses = [set_match(student, rows, LABELS).mean() for rows in (teacher, swapped)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in losses))
    swapped[[0, 1]] = teacher[[1, 0]]  # but not across classes
    assert (set_match(student, swapped, LABELS).mean() - losses[0]).abs() > 1e-3


def test_it_sees_the_spread_that_class_means_have_not() -> None:
    """KD's gradient against draws is on average that against their mean (P1); here the two differ in direction."""
    student, teacher = logits(2, 12)
    labels = torch.arange(12) % 2
    student.requires_grad_()
    means = torch.stack([(teacher[labels == k] / 4).softmax(1).mean(0) for k in (0, 1)])
    table = 4 * means.log()[labels]

    def gradients(to: Tensor) -> tuple[Tensor, Tensor]:
        """Of KD over all pairings of images and rows of their class, and of SetMatch, which is over all already."""
        shifts = [to.roll(2 * k, 0) for k in range(6)]
        by_kd = sum(kd_loss(student, rows, 4.0).mean() for rows in shifts) / 6
        return tuple(torch.autograd.grad(x, student)[0] for x in (by_kd, set_match(student, to, labels).mean()))  # type: ignore[return-value, arg-type]

    (kd_rows, set_rows), (kd_table, set_table) = gradients(teacher), gradients(table)
    torch.testing.assert_close(kd_rows, kd_table)
    assert torch.cosine_similarity(set_rows.flatten(), set_table.flatten(), dim=0) < 0.9


def test_it_spreads_a_student_that_gives_its_class_mean_every_time() -> None:
    """Red when the distances within the student's set are added: rows then stay together."""
    _, teacher = logits(3, 16)
    labels = torch.zeros(16, dtype=torch.int64)
    mean = 4 * (teacher / 4).softmax(1).mean(0).log()
    student = (mean + 0.01 * logits(4, 16)[0]).requires_grad_()
    optimizer = torch.optim.Adam([student], 0.1)
    for _ in range(200):
        optimizer.zero_grad()
        set_match(student, teacher, labels).mean().backward()
        optimizer.step()
    spread, wanted = ((x / 4).softmax(1).var(0).sum().item() for x in (student.detach(), teacher))
    assert spread == pytest.approx(wanted, rel=0.2)
    assert set_match(student, teacher, labels).mean() < 0.01


def test_gradients_are_checked_and_finite_among_equals() -> None:
    student, teacher = logits(5)
    assert torch.autograd.gradcheck(lambda s: set_match(s, teacher, LABELS), student.requires_grad_())
    same = torch.zeros(4, 3, requires_grad=True)
    set_match(same, torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)).sum().backward()
    assert same.grad is not None
    assert same.grad.eq(0).all()
    alone = set_match(student, teacher, torch.arange(8))  # one row in every class
    assert alone.eq(0).all()
    assert alone.requires_grad


def test_rows_and_their_order() -> None:
    student, teacher = logits(6)
    order = torch.randperm(8, generator=rng(6, "order"))
    found = set_match(student, teacher, LABELS)
    torch.testing.assert_close(set_match(student[order], teacher[order], LABELS[order]), found[order])
    with pytest.raises(ConfigError, match="^SetMatch: T must be positive, got -1$"):
        set_match(student, teacher, LABELS, T=-1)
