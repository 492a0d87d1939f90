"""Factors against a loop, by hand, and the auto-encoder: what trains it and what it reaches."""

import math

import pytest
import torch
from torch import Tensor, nn

from gankd.losses.distillation.ft import FT
from gankd.seeds import rng


def maps(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    return [torch.randn(shape, generator=rng(seed, "maps", n)) for n, shape in enumerate(shapes)]


def direct(student: list[Tensor], teacher: list[Tensor], p: int = 1) -> FT:
    """With the maps themselves as factors."""
    part = FT(student, teacher, p=p)
    part.pretrained["paraphraser"], part.translator = nn.Identity(), nn.Sequential()
    return part


@pytest.mark.parametrize("p", [1, 2])
def test_a_plus_between_the_factors_misses_the_loop_over_the_formula(p: int) -> None:
    """A sum in place of the difference turns this red; so does the first pair in place of the last."""
    student, teacher = maps((2, 1, 4, 4), (2, 3, 2, 2)), maps((2, 1, 4, 4), (2, 3, 2, 2), seed=1)
    expected = []
    for s, t in zip(student[-1].flatten(1).tolist(), teacher[-1].flatten(1).tolist(), strict=True):
        lengths = math.sqrt(sum(a * a for a in s)), math.sqrt(sum(b * b for b in t))
        expected.append(sum(abs(a / lengths[0] - b / lengths[1]) ** p for a, b in zip(s, t, strict=True)) / 12)
    torch.testing.assert_close(direct(student, teacher, p)(student, teacher), torch.tensor(expected))


def test_attention_compares_where_the_factors_are_strong() -> None:
    """By hand: mean squares over two channels are (5, 0) and (4.5, 8), normalised (1, 0) and (9, 16) / sqrt(337)."""
    student, teacher = [torch.tensor([[[[1.0, 0.0]], [[3.0, 0.0]]]])], [torch.tensor([[[[3.0, 0.0]], [[0.0, 4.0]]]])]
    part = FT(student, teacher, attention=True)
    part.pretrained["paraphraser"], part.translator = nn.Identity(), nn.Sequential()
    length = math.sqrt(9**2 + 16**2)
    assert part(student, teacher).item() == pytest.approx((1 - 9 / length + 16 / length) / 2)


def test_a_case_by_hand_and_the_zero_of_equal_directions() -> None:
    student, teacher = [torch.tensor([[[[3.0, 4.0]]]])], [torch.tensor([[[[0.5, 0.0]]]])]
    assert direct(student, teacher)(student, teacher).item() == pytest.approx((0.4 + 0.8) / 2)
    assert direct(student, teacher, p=2)(student, teacher).item() == pytest.approx((0.4**2 + 0.8**2) / 2)
    assert direct(student, student)(student, [7 * student[0]]).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(("k", "factors"), [(0.5, 4), (1.5, 12), (0.01, 1)])
def test_the_factors_have_a_share_of_the_teachers_channels(k: float, factors: int) -> None:
    student, teacher = maps((2, 3, 4, 4)), maps((2, 8, 4, 4))
    part = FT(student, teacher, k=k)
    assert part.translator(student[0]).shape == part.pretrained["paraphraser"](teacher[0]).shape == (2, factors, 4, 4)


def test_pretraining_is_the_squared_error_of_the_auto_encoder_and_learns_to_rebuild_the_teachers_map() -> None:
    teacher = [maps((8, 4, 3, 3))[0].relu()]
    torch.manual_seed(0)
    part = FT(maps((8, 2, 3, 3)), teacher)
    decoded = part.pretrained["decoder"](part.pretrained["paraphraser"](teacher[0]))
    errors = [a - b for a, b in zip(decoded.flatten().tolist(), teacher[0].flatten().tolist(), strict=True)]
    expected = sum(error**2 for error in errors) / len(errors)
    assert part.pretraining(teacher).item() == pytest.approx(expected, rel=1e-5)
    optimizer = torch.optim.Adam(part.pretrained.parameters(), 0.01)
    losses = []
    for _ in range(80):
        loss = part.pretraining(teacher)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is None for p in part.translator.parameters())
    assert all(p.grad is not None for p in part.pretrained.parameters())


def test_the_translator_learns_and_the_scale_of_the_factors_does_not_matter() -> None:
    student, teacher = maps((8, 3, 4, 4)), maps((8, 6, 2, 2), seed=1)
    torch.manual_seed(0)
    part = FT(student, teacher)
    optimizer = torch.optim.SGD(part.translator.parameters(), 5.0)
    losses = []
    for _ in range(4):
        loss = part(student, teacher).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses == sorted(losses, reverse=True)
    loss = part(student, teacher)
    *_, weight, bias = part.pretrained["paraphraser"].parameters()
    weight.data *= 3
    bias.data *= 3
    torch.testing.assert_close(part(student, teacher), loss)


def test_the_length_of_the_pretraining_is_a_setting() -> None:
    example = maps((4, 3, 2, 2))
    assert FT(example, example).pretrain == 30 / 240
    assert FT(example, example, pretrain=0.5).pretrain == 0.5
