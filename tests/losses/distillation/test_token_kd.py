"""TokenKD against loops, what it does not see, and its gradient."""

import math

import pytest
import torch
from torch import Tensor

from gankd.errors import ConfigError
from gankd.losses.distillation.token_kd import token_kd
from gankd.seeds import rng


def maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng(seed, "maps"), dtype=torch.float64)


def plain(student: Tensor, teacher: Tensor, tau: float) -> list[float]:
    def rows(image: Tensor) -> list[list[float]]:
        places = [column / column.norm() for column in image.flatten(1).T]
        found = []
        for own in places:
            powers = [math.exp(float(own @ other) / tau) for other in places]
            found.append([power / sum(powers) for power in powers])
        return found

    losses = []
    for s, t in zip(student, teacher, strict=True):
        terms = [
            sum(p * math.log(p / q) for p, q in zip(large, small, strict=True))
            for small, large in zip(rows(s), rows(t), strict=True)
        ]
        losses.append(sum(terms) / len(terms))
    return losses


def test_token_kd_follows_its_formula_on_the_last_pair_of_maps() -> None:
    # Red when the two networks change places, when rows are summed instead of averaged, and without the temperature.
    student, teacher = maps(0, 3, 2, 2, 3), maps(1, 3, 5, 2, 3)
    got = token_kd([maps(2, 3, 1, 1, 1), student], [teacher, teacher], tau=0.5)
    torch.testing.assert_close(got, torch.tensor(plain(student, teacher, 0.5), dtype=torch.float64))


def test_token_kd_is_zero_for_turned_and_scaled_features() -> None:
    teacher = maps(3, 4, 3, 2, 2)
    turn = torch.linalg.qr(maps(4, 7, 7)).Q[:, :3]
    scale = maps(5, 4, 1, 2, 2).abs() + 0.1
    student = torch.einsum("fc,nchw->nfhw", turn, teacher) * scale
    torch.testing.assert_close(token_kd([student], [teacher]), torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)


def test_a_larger_map_is_averaged() -> None:
    student, teacher = maps(6, 2, 3, 4, 4), maps(7, 2, 4, 2, 2)
    halved = torch.nn.functional.avg_pool2d(student, 2)
    torch.testing.assert_close(token_kd([student], [teacher]), token_kd([halved], [teacher]))


def test_token_kd_gradient() -> None:
    student, teacher = maps(8, 2, 2, 2, 1).requires_grad_(), maps(9, 2, 3, 2, 1)
    assert torch.autograd.gradcheck(lambda s: token_kd([s], [teacher], tau=0.5), student)
    empty = torch.zeros(1, 2, 2, 1, requires_grad=True)
    token_kd([empty], [torch.ones(1, 2, 2, 1)]).sum().backward()
    assert empty.grad is not None
    assert empty.grad.isfinite().all()


def test_a_wrong_temperature() -> None:
    with pytest.raises(ConfigError, match="TokenKD: tau must be positive, got 0"):
        token_kd([maps(0, 1, 1, 1, 1)], [maps(0, 1, 1, 1, 1)], tau=0)
