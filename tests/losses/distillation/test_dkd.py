"""Decoupled KD: by hand, against plain loops, and that its two parts make up KD."""

import math

import pytest
import torch

from gankd.losses.distillation.dkd import dkd
from gankd.losses.distillation.kd import kd_loss
from gankd.seeds import rng

LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    student, teacher = 2 * torch.randn(2, 6, 5, generator=rng(seed, "logits"))
    return student, teacher


def plain(student: list[float], teacher: list[float], label: int, t: float) -> tuple[float, float]:
    """TCKD and NCKD from the definition."""

    def softmax(logits: list[float]) -> list[float]:
        powers = [math.exp(z / t) for z in logits]
        return [power / sum(powers) for power in powers]

    def kl(p: list[float], q: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

    p, q = softmax(teacher), softmax(student)
    others_p = [x / (1 - p[label]) for k, x in enumerate(p) if k != label]
    others_q = [x / (1 - q[label]) for k, x in enumerate(q) if k != label]
    return kl([p[label], 1 - p[label]], [q[label], 1 - q[label]]), kl(others_p, others_q)


def test_by_hand() -> None:
    # teacher (0.5, 0.4, 0.1), student uniform, label 0, T = 1; KL the other way round turns this red
    teacher, student = torch.tensor([[0.5, 0.4, 0.1]]).log(), torch.zeros(1, 3)
    tckd = 0.5 * math.log(0.5 * 3) + 0.5 * math.log(0.5 * 3 / 2)
    nckd = 0.8 * math.log(0.8 * 2) + 0.2 * math.log(0.2 * 2)
    found = [dkd(student, teacher, torch.tensor([0]), 1.0, alpha=a, beta=b, T=1.0).item() for a, b in ((1, 0), (0, 1))]
    assert found == pytest.approx([tckd, nckd], rel=1e-5)


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_follows_its_definition(t: float) -> None:
    """A minus between the two parts, T in place of T^2, or labels off by one turn this red."""
    student, teacher = draw(0)
    expected = []
    for s, p, label in zip(student.tolist(), teacher.tolist(), LABELS.tolist(), strict=True):
        tckd, nckd = plain(s, p, label, t)
        expected.append(t**2 * (0.7 * tckd + 3 * nckd))
    found = dkd(student, teacher, LABELS, 0.5, alpha=0.7, beta=3.0, T=t)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_its_parts_weighted_by_the_teachers_doubt_are_kd() -> None:
    """Eq. 6 of the paper; the label's own column among the others turns this red."""
    student, teacher = draw(1)
    tckd = dkd(student, teacher, LABELS, 1.0, alpha=1.0, beta=0.0)
    nckd = dkd(student, teacher, LABELS, 1.0, alpha=0.0, beta=1.0)
    doubt = 1 - (teacher / 4).softmax(1).gather(1, LABELS[:, None])[:, 0]
    torch.testing.assert_close(tckd + doubt * nckd, kd_loss(student, teacher, 4.0), rtol=1e-4, atol=1e-5)


def test_is_zero_at_the_teacher_and_ignores_shifts_and_the_order_of_the_batch() -> None:
    student, teacher = draw(2)
    torch.testing.assert_close(dkd(teacher + 3, teacher, LABELS, 1.0), torch.zeros(6), atol=1e-4, rtol=0)
    found = dkd(student, teacher, LABELS, 1.0)
    assert (found > 0).all()
    order = torch.randperm(6, generator=rng(2, "order"))
    torch.testing.assert_close(dkd(student[order] - 2, teacher[order], LABELS[order], 1.0), found[order])


def test_two_classes_have_no_others_to_compare() -> None:
    student, teacher = draw(3)
    student, teacher, labels = student[:, :2], teacher[:, :2], LABELS % 2
    found = dkd(student, teacher, labels, 1.0, beta=100.0)
    torch.testing.assert_close(found, kd_loss(student, teacher, 4.0), rtol=1e-4, atol=1e-5)


def test_a_sure_teacher_still_teaches_about_the_others() -> None:
    student, teacher = draw(4)
    teacher = teacher.scatter_add(1, LABELS[:, None], torch.full((6, 1), 200.0))  # p_label is 1 in float32
    student.requires_grad_()
    (plain_gradient,) = torch.autograd.grad(dkd(student, teacher, LABELS, 1.0, beta=0.0).sum(), student)
    (gradient,) = torch.autograd.grad(dkd(student, teacher, LABELS, 1.0).sum(), student)
    assert gradient.isfinite().all()
    assert ((gradient - plain_gradient).abs().amax(1) > 0.1).all()


def test_grows_linearly_over_the_warm_up() -> None:
    student, teacher = draw(5)
    full = dkd(student, teacher, LABELS, 0.9)
    for progress, share in ((0.0, 0.0), (0.05, 0.6), (1 / 12, 1.0), (0.5, 1.0)):
        torch.testing.assert_close(dkd(student, teacher, LABELS, progress), share * full)
    assert torch.equal(dkd(student, teacher, LABELS, 0.0, warmup=0.0), full)


@pytest.mark.parametrize("standardise", [False, True])
def test_gradient_check(standardise: bool) -> None:
    student, teacher = draw(6)
    assert torch.autograd.gradcheck(
        lambda s: dkd(s, teacher.double(), LABELS, 1.0, standardise=standardise), student.double().requires_grad_()
    )
