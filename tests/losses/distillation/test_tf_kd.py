"""The virtual teacher: by hand, against a plain loop, and where the loss is least."""

import math

import pytest
import torch

from gankd.errors import ConfigError
from gankd.losses.distillation.tf_kd import tf_kd
from gankd.seeds import rng


def plain(logits: list[float], label: int, a: float, temperature: float) -> float:
    count = len(logits)
    powers = [math.exp((a if k == label else (1 - a) / (count - 1)) / temperature) for k in range(count)]
    teacher = [power / sum(powers) for power in powers]
    total = sum(math.exp(z) for z in logits)
    return sum(t * math.log(t * total / math.exp(z)) for t, z in zip(teacher, logits, strict=True))


def test_by_hand() -> None:
    # a = 0.5 of 2 classes says nothing: KL of (1/2, 1/2) to (1/4, 3/4); KL the other way round turns this red
    logits = torch.tensor([[1.0, 3.0]]).log()
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    torch.testing.assert_close(tf_kd(logits, torch.tensor([0]), a=0.5), torch.tensor([expected]))
    # T = 1, a = 0.75: odds of e^(1/2) for the label, against a student that puts even odds
    p = 1 / (1 + math.exp(-0.5))
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    torch.testing.assert_close(tf_kd(0 * logits, torch.tensor([1]), a=0.75, T=1.0), torch.tensor([expected]))


@pytest.mark.parametrize(("a", "temperature"), [(0.99, 20.0), (0.9, 1.0), (0.3, 0.1)])
def test_follows_its_definition(a: float, temperature: float) -> None:
    """Multiplying by T in place of dividing, or 1 - a in place of a at the label, turns this red."""
    logits, labels = 2 * torch.randn(6, 5, generator=rng(0, "logits")), torch.tensor([0, 4, 2, 2, 1, 3])
    found = tf_kd(logits, labels, a=a, T=temperature)
    expected = [plain(row, k, a, temperature) for row, k in zip(logits.tolist(), labels.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tf_kd(logits + 7, labels, a=a, T=temperature), found, rtol=1e-4, atol=1e-5)


def test_is_zero_at_the_softened_teacher_and_positive_elsewhere() -> None:
    labels = torch.tensor([1, 0, 2])
    teacher = (torch.eye(4)[labels] * (0.97 - 0.01) + 0.01) / 2
    torch.testing.assert_close(tf_kd(teacher, labels, a=0.97, T=2.0), torch.zeros(3), atol=1e-6, rtol=0)
    assert (tf_kd(teacher + 0.3 * torch.randn(3, 4, generator=rng(1, "z")), labels, a=0.97, T=2.0) > 1e-3).all()


def test_gradient_check() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64, generator=rng(2, "logits"), requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: tf_kd(z, torch.tensor([0, 3, 1])), logits)


def test_settings_out_of_range_are_refused() -> None:
    logits, labels = torch.zeros(1, 2), torch.tensor([0])
    with pytest.raises(ConfigError, match=r"^TfKD: a must lie in \(0, 1\), got 1$"):
        tf_kd(logits, labels, a=1)
    with pytest.raises(ConfigError, match="^TfKD: T must be positive, got 0$"):
        tf_kd(logits, labels, T=0)
