"""SSKD against loops over views, its zero, which views it keeps, its gradient, and the first phase."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gankd.errors import ConfigError
from gankd.losses.distillation.sskd import SSKD, _kept_divergence
from gankd.seeds import rng

N = 4


def randn(what: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng(0, what), dtype=torch.float64)


def batch(num_outputs: int = 5) -> dict[str, Tensor]:
    outputs = (num_outputs,) if num_outputs > 1 else ()
    classes = torch.randint(num_outputs, (N,), generator=rng(0, "labels"))
    return {
        "student_embedding": randn("s", N, 3),
        "teacher_embedding": randn("t", N, 4),
        "rotated_student_embedding": randn("rs", 3 * N, 3),
        "rotated_teacher_embedding": randn("rt", 3 * N, 4),
        "rotated_student_outputs": randn("so", 3 * N, *outputs),
        "rotated_teacher_outputs": randn("to", 3 * N, *outputs),
        "labels": classes if num_outputs > 1 else torch.rand(N, dtype=torch.float64),
    }


def built(inputs: dict[str, Tensor], **settings: Any) -> SSKD:
    torch.manual_seed(0)
    return SSKD(inputs["student_embedding"], inputs["teacher_embedding"], **settings).double()


def plain_part(
    student: list[list[float]], teacher: list[list[float]], target: list[int], temperature: float, ratio: float
) -> float:
    """T^2 KL averaged over all right views and the `ratio` of wrong ones of best rank."""

    def softmax(scores: list[float]) -> list[float]:
        powers = [math.exp(score / temperature) for score in scores]
        return [power / sum(powers) for power in powers]

    ranks = [sorted(row, reverse=True).index(row[own]) for row, own in zip(teacher, target, strict=True)]
    order = sorted(range(len(ranks)), key=lambda view: ranks[view])
    right = sum(rank == 0 for rank in ranks)
    kept = order[: right + math.floor(ratio * (len(ranks) - right))]
    total = 0.0
    for view in kept:
        for p, q in zip(softmax(teacher[view]), softmax(student[view]), strict=True):
            total += temperature**2 * p * math.log(p / q)
    return total / len(kept)


def plain_cosines(upright: Tensor, rotated: Tensor) -> list[list[float]]:
    return [
        [
            sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)
            for y in upright.detach().tolist()
        ]
        for x in rotated.detach().tolist()
    ]


@pytest.mark.parametrize("ratio", [0.0, 0.75, 1.0])
def test_sskd_follows_its_formula(ratio: float) -> None:
    # Red when student and teacher change places in the divergence, when T^2 is dropped, when wrong views are kept from
    # the worst rank, and when the views of an image are taken to be neighbours.
    inputs = batch()
    sskd = built(inputs, ratio_tf=ratio, ratio_ss=ratio)
    cosines = [
        plain_cosines(head(inputs[f"{side}_embedding"]), head(inputs[f"rotated_{side}_embedding"]))
        for side, head in (("student", sskd.student), ("teacher", sskd.pretrained))
    ]
    ss = plain_part(cosines[0], cosines[1], [view % N for view in range(3 * N)], 0.5, ratio)
    outputs = inputs["rotated_student_outputs"].tolist(), inputs["rotated_teacher_outputs"].tolist()
    tf = plain_part(*outputs, inputs["labels"].tolist() * 3, 4.0, ratio)
    loss = sskd(**inputs)
    assert loss.shape == (N,)
    torch.testing.assert_close(loss.mean().item(), 2.7 * tf + 10 * ss)


def test_values_leave_self_supervision_alone() -> None:
    classes, values = batch(), batch(num_outputs=1)
    torch.testing.assert_close(built(values)(**values), built(classes, tf=0.0)(**classes))


def test_which_views_are_kept_by_hand() -> None:
    # One image, three views; class 0 ranks first, second and third in them. Divergences of the kept: ln 2, if any.
    teacher = torch.tensor([[0.0, -90, -90], [0, 90, -90], [0, 90, 45]])
    student = torch.tensor([[0.0, 0, -90], [90, 90, -90], [0, 90, 90]])
    target, ln2 = torch.zeros(3, dtype=torch.int64), math.log(2)
    for ratio, kept in ((0.0, 1), (0.49, 1), (0.5, 2), (1.0, 3)):
        part = _kept_divergence(student, teacher, target, 1.0, ratio)
        torch.testing.assert_close(part, torch.tensor([ln2]))  # the mean over the kept
        student_off = student.clone()
        student_off[kept:] = 1e3 * torch.rand(3 - kept, 3, generator=rng(0, "off"))
        torch.testing.assert_close(_kept_divergence(student_off, teacher, target, 1.0, ratio), part)
    none_right = _kept_divergence(student, teacher, target + 1, 1.0, 0.0)  # class 1 ranks first in two
    torch.testing.assert_close(none_right, torch.tensor([ln2]))
    torch.testing.assert_close(_kept_divergence(student, teacher, target + 2, 1.0, 0.0), torch.zeros(1))


def test_sskd_is_zero_at_the_teacher_and_ignores_a_shift_of_logits() -> None:
    inputs = batch()
    sskd = built(inputs)
    shifted = {**inputs, "rotated_student_outputs": inputs["rotated_student_outputs"] + randn("shift", 3 * N, 1)}
    torch.testing.assert_close(sskd(**shifted), sskd(**inputs))
    same = {**inputs}
    for name in ("embedding", "rotated_embedding", "rotated_outputs"):
        prefix, _, kind = name.rpartition("_")
        prefix = prefix and prefix + "_"
        same[f"{prefix}student_{kind}"] = inputs[f"{prefix}teacher_{kind}"]
    sskd = built(same)
    sskd.student = sskd.pretrained
    torch.testing.assert_close(sskd(**same), torch.zeros(N, dtype=torch.float64), atol=1e-12, rtol=0)


def test_sskd_follows_the_order_of_the_batch() -> None:
    inputs, order = batch(), torch.tensor([2, 0, 3, 1])
    sskd = built(inputs, ratio_ss=1.0)  # no ties to break
    rotated = torch.cat([order + turn * N for turn in range(3)])
    moved = {name: value[rotated if name.startswith("rotated_") else order] for name, value in inputs.items()}
    torch.testing.assert_close(sskd(**moved), sskd(**inputs)[order])


def test_sskd_gradient_leaves_the_teachers_projection_alone() -> None:
    inputs = batch()
    sskd = built(inputs)
    names = ("student_embedding", "rotated_student_embedding", "rotated_student_outputs")
    student = tuple(inputs[name].requires_grad_() for name in names)
    assert torch.autograd.gradcheck(
        lambda *values: sskd(**{**inputs, **dict(zip(names, values, strict=True))}), student, fast_mode=True
    )
    sskd(**inputs).mean().backward()
    assert all(parameter.grad is not None for parameter in sskd.student.parameters())
    assert all(parameter.grad is None for parameter in sskd.pretrained.parameters())


def test_the_first_phase_starts_near_chance_and_learns_which_view_belongs_to_which_image() -> None:
    upright = randn("up", 8, 6)
    rotated = upright.repeat(3, 1) + 0.1 * randn("noise", 24, 6)
    torch.manual_seed(0)
    sskd = SSKD(randn("s", 8, 3), upright).double()
    assert sskd.pretrain == 0.25
    # the best cosines can do without temperature: 1 with the own image, -1 / 7 with the others
    least = math.log(1 + 7 * math.exp(-8 / 7))
    optimizer = torch.optim.SGD(sskd.pretrained.parameters(), 0.2, momentum=0.9)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = sskd.pretraining(upright, rotated)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    assert least < losses[-1] < losses[0] - 0.5 * (losses[0] - least)
    assert all(parameter.grad is None for parameter in sskd.student.parameters())


def test_the_first_phase_at_chance_by_hand() -> None:
    sskd = built(batch())
    loss = sskd.pretraining(torch.ones(N, 4, dtype=torch.float64), randn("rt", 3 * N, 4))
    assert loss.item() == pytest.approx(math.log(N))


@pytest.mark.parametrize(
    ("setting", "rule"),
    [({"tf": -1.0}, "must not be negative"), ({"ss_T": 0.0}, "must be positive"), ({"ratio_ss": 1.5}, "must lie in")],
)
def test_settings_out_of_range_are_refused(setting: dict[str, float], rule: str) -> None:
    with pytest.raises(ConfigError, match=f"SSKD: {next(iter(setting))} {rule}"):
        built(batch(), **setting)
