"""QueueKD against a plain list and loops; where it is zero; what the queue keeps; what has a gradient."""

import math

import pytest
import torch
from torch import Tensor

from gankd.errors import ConfigError
from gankd.losses.distillation.queue_kd import QueueKD
from gankd.seeds import rng

M = 10


def randn(what: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng(0, what), dtype=torch.float64)


def built(size: int = 4096, students: int = 3, tau: float = 0.5) -> QueueKD:
    torch.manual_seed(0)
    made = QueueKD(randn("s", 2, students), randn("t", 2, 5), torch.zeros(M), size=size, tau=tau)
    return made.double()


def unit(row: list[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in row))
    return [value / length for value in row]


def plain(student: Tensor, teacher: Tensor, queue: list[list[float]], tau: float) -> list[float]:
    """The loss of each image by loops; `student` is projected already."""
    teachers = [unit(row) for row in teacher.tolist()]
    keys = queue + teachers

    def softmax(row: list[float]) -> list[float]:
        powers = [math.exp(sum(a * b for a, b in zip(row, key, strict=True)) / tau) for key in keys]
        return [power / sum(powers) for power in powers]

    found = []
    for own, row in zip(student.tolist(), teachers, strict=True):
        p, q = softmax(row), softmax(unit(own))
        found.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return found


@pytest.mark.parametrize("size", [2, 5, 7, 100])
def test_against_a_list(size: int) -> None:
    made, queue = built(size), list[list[float]]()
    for step, count in enumerate((3, 4, 3, 1, 6)):
        student, teacher = randn(f"s{step}", count, 3), randn(f"t{step}", count, 5)
        expected = plain(made.project(student).detach(), teacher, queue, 0.5)
        assert made(student, teacher).tolist() == pytest.approx(expected, rel=1e-9)
        queue = [*queue, *(unit(row) for row in teacher.tolist())][-min(size, M) :]
        kept = torch.tensor(sorted(made.queue[: int(made.filled)].tolist()), dtype=torch.float64)
        torch.testing.assert_close(kept, torch.tensor(sorted(queue), dtype=torch.float64))


def test_zero_where_the_angles_agree() -> None:
    made = built(students=5)
    with torch.no_grad():
        made.project.weight.copy_(torch.eye(5))
        made.project.bias.zero_()
    for step in range(3):
        teacher = randn(f"t{step}", 4, 5)
        assert made(3 * teacher, teacher).abs().max() < 1e-12
        assert (made(-teacher, teacher) > 0.1).all()


def test_it_is_never_negative_and_reads_the_student() -> None:
    made, student, teacher = built(), randn("s", 6, 3).requires_grad_(), randn("t", 6, 5).requires_grad_()
    made(randn("s0", 6, 3), randn("t0", 6, 5))
    found = made(student, teacher.detach())
    assert (found > 0).all()
    found.sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 0
    assert made.project.weight.grad is not None


def test_only_training_changes_the_queue() -> None:
    made = built()
    made.eval()(randn("s", 4, 3), randn("t", 4, 5))
    assert made.filled == 0
    made.train()(randn("s", 4, 3), randn("t", 4, 5))
    assert made.filled == 4
    again = built()
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(randn("a", 3, 3), randn("b", 3, 5)), made(randn("a", 3, 3), randn("b", 3, 5)))
    assert torch.equal(again.queue, made.queue)


def test_the_queue_is_not_longer_than_the_data() -> None:
    assert built(4096).queue.shape == (M, 5)
    assert built(3).queue.shape == (3, 5)


def test_absurd_settings() -> None:
    with pytest.raises(ConfigError, match="QueueKD: size must be at least 1, got 0"):
        built(0)
    with pytest.raises(ConfigError, match="QueueKD: tau must be positive, got 0"):
        built(tau=0.0)
