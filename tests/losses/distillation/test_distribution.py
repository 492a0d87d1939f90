"""A distribution over values: its formula, its limits in `a`, and that the student's own value is left alone."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from gankd.errors import ConfigError
from gankd.losses.distillation.distribution import Distribution
from gankd.seeds import rng
from gankd.tasks import Regression


def draw(seed: int, bins: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Embedding, log-probabilities and labels."""
    embedding = torch.randn(5, 4, generator=rng(seed, "embedding"), dtype=torch.float64)
    logits = torch.randn(5, bins, generator=rng(seed, "teacher"), dtype=torch.float64)
    return embedding, logits.log_softmax(1), torch.rand(5, generator=rng(seed, "labels"), dtype=torch.float64)


def built(seed: int, a: float, bins: int = 6) -> Distribution:
    loss = Distribution(torch.zeros(4, 4), torch.zeros(4, bins), a=a).double()
    for parameter in loss.parameters():
        parameter.data.normal_(generator=rng(seed, str(parameter.shape)))
    return loss


def smoothed(label: float, bins: int) -> list[float]:
    """Normal mass of each bin about the label, rescaled."""
    below = [0.5 * (1 + math.erf((k / bins - label) * bins / math.sqrt(2))) for k in range(bins + 1)]
    return [(high - low) / (below[-1] - below[0]) for low, high in pairwise(below)]


@pytest.mark.parametrize("a", [0.0, 0.3, 1.0])
def test_it_follows_its_formula(a: float) -> None:
    """The KL the other way round, the shares exchanged, or a label twice as wide turns this red."""
    embedding, teacher, labels = draw(0)
    loss = built(0, a)
    expected = []
    for logits, log_t, label in zip(loss.head(embedding).tolist(), teacher.tolist(), labels.tolist(), strict=True):
        norm = math.log(sum(math.exp(z) for z in logits))
        log_s = [z - norm for z in logits]
        likelihood = -sum(h * s for h, s in zip(smoothed(label, 6), log_s, strict=True))
        divergence = sum(math.exp(t) * (t - s) for t, s in zip(log_t, log_s, strict=True))
        expected.append((1 - a) * likelihood + a * divergence)
    torch.testing.assert_close(loss(embedding, teacher, labels), torch.tensor(expected, dtype=torch.float64))


def test_two_bins_by_hand() -> None:
    # a head of zeros fills both bins alike: ln 2 from the label wherever it is, and KL of (1/4, 3/4) to (1/2, 1/2)
    loss = Distribution(torch.zeros(4, 4), torch.zeros(4, 2), a=0.25)
    nn.init.zeros_(loss.head.weight)
    nn.init.zeros_(loss.head.bias)
    teacher = torch.tensor([[0.25, 0.75]]).log()
    divergence = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    for label in (0.0, 0.4, 1.0):
        found = loss(torch.ones(1, 4), teacher, torch.tensor([label]))
        assert found.item() == pytest.approx(0.75 * math.log(2) + 0.25 * divergence, rel=1e-5)


def test_the_head_ends_at_the_blend_of_label_and_teacher() -> None:
    """The minimum of cross-entropy to h and KL to the teacher: s = (1 - a) h + a teacher."""
    _, teacher, labels = draw(1)
    loss = Distribution(torch.zeros(4, 6), torch.zeros(4, 6), a=0.3).double()
    nn.init.eye_(loss.head.weight)
    nn.init.zeros_(loss.head.bias)
    blend = torch.tensor([smoothed(label, 6) for label in labels.tolist()], dtype=torch.float64) * 0.7
    embedding = (blend + 0.3 * teacher.exp()).log().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(embedding, teacher, labels).sum(), embedding)
    assert gradient.abs().max() < 1e-6  # the edges are made in float32


def test_labels_beyond_the_range_count_as_its_ends() -> None:
    embedding, teacher, _ = draw(2)
    loss = built(2, 0.0)
    found = loss(embedding[:2], teacher[:2], torch.tensor([-8.0, 9.0], dtype=torch.float64))
    torch.testing.assert_close(found, loss(embedding[:2], teacher[:2], torch.tensor([0.0, 1.0], dtype=torch.float64)))


def test_three_steps_train_the_head_and_gradients_are_checked() -> None:
    embedding, teacher, labels = draw(3)
    loss = built(3, 0.5)
    embedding.requires_grad_()
    assert torch.autograd.gradcheck(lambda e, *_: loss(e, teacher, labels), (embedding, *loss.parameters()))
    optimizer = torch.optim.SGD(loss.parameters(), 0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        value = loss(embedding, teacher, labels).mean()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[0] > losses[1] > losses[2]


def test_it_is_for_values_reads_no_prediction_and_weighs_a_hundredth() -> None:
    """The point read-out stays with the label loss: the mean of draws for a label is shrunk towards the mean label."""
    found = Distribution.gankd_loss  # type: ignore[attr-defined]
    found.check()
    assert found.tasks == ("regression",)
    assert found.inputs == ("student_embedding", "teacher_distribution", "labels")
    assert found.weight_for(Regression.weight_divisor) == pytest.approx(0.001)
    with pytest.raises(ConfigError, match=r"^Distribution: a must lie in \[0, 1\], got 1.5$"):
        Distribution(torch.zeros(4, 4), torch.zeros(4, 6), a=1.5)
