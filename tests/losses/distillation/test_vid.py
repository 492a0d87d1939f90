"""Gaussian likelihood against a loop, by hand, at its minimum over the variance, and over three steps."""

import math

import pytest
import torch
from torch import Tensor

from gankd.losses.distillation.vid import VID
from gankd.seeds import rng


def maps(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    return [torch.randn(shape, generator=rng(seed, "maps", n)) for n, shape in enumerate(shapes)]


def test_a_minus_before_the_log_variance_misses_the_loop_over_the_formula() -> None:
    """-log v in place of + log v turns this red; so does multiplying by v in place of dividing."""
    student, teacher = maps((2, 3, 2, 2), (2, 2, 1, 1)), maps((2, 4, 2, 2), (2, 3, 1, 1), seed=1)
    torch.manual_seed(0)
    vid = VID(student, teacher)
    expected = [0.0, 0.0]
    for s, t, mean, alpha in zip(student, teacher, vid.means, vid.alphas, strict=True):
        alpha.data.uniform_(-1, 1)
        predicted = mean(s).tolist()
        count = t[0].numel()
        for row in range(2):
            for c in range(t.shape[1]):
                variance = math.log1p(math.exp(alpha[c].item())) + 1e-5
                for y in range(t.shape[2]):
                    for x in range(t.shape[3]):
                        error = predicted[row][c][y][x] - t[row, c, y, x].item()
                        expected[row] += (error**2 / variance + math.log(variance)) / 2 / count
    torch.testing.assert_close(vid(student, teacher), torch.tensor(expected))


@pytest.mark.parametrize("variance", [0.01, 5.0, 2000.0])
def test_a_case_by_hand_at_the_initial_variance(variance: float) -> None:
    student, teacher = [torch.full((1, 1, 1, 1), 3.0)], [torch.full((1, 1, 1, 1), 1.0)]
    vid = VID(student, teacher, variance=variance)
    for parameter in vid.means.parameters():
        parameter.data.fill_(1)
    expected = (2**2 / variance + math.log(variance)) / 2
    assert vid(student, teacher).item() == pytest.approx(expected, rel=1e-4)


def test_least_where_the_variance_is_the_mean_squared_error() -> None:
    """And not at student = teacher: the variance goes on falling there."""
    student, teacher = maps((8, 2, 3, 3)), maps((8, 3, 3, 3), seed=1)
    vid = VID(student, teacher, eps=1e-9).double()
    student, teacher = [student[0].double()], [teacher[0].double()]
    error = (vid.means[0](student[0]) - teacher[0]).square().mean((0, 2, 3)).detach()
    vid.alphas[0].data = error.expm1().log()[:, None, None]
    least = vid(student, teacher).mean()
    (gradient,) = torch.autograd.grad(least, [vid.alphas[0]])
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-7, rtol=0)
    for nudge in (-0.1, 0.1):
        vid.alphas[0].data += nudge
        assert vid(student, teacher).mean() > least
        vid.alphas[0].data -= nudge


def test_three_steps_on_a_batch_make_it_likelier_and_the_variance_smaller() -> None:
    student, teacher = maps((8, 4, 4, 4)), maps((8, 6, 2, 2), seed=1)
    torch.manual_seed(0)
    vid = VID(student, teacher)
    optimizer = torch.optim.SGD(vid.parameters(), 0.5)
    losses = []
    for _ in range(4):
        loss = vid(student, teacher).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses == sorted(losses, reverse=True)
    assert (torch.nn.functional.softplus(vid.alphas[0]) < 5).all()
