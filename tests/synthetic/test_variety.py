"""T.stddev against a plain version and its expectation."""

import math

import pytest
import torch

from gankd.synthetic.variety import teacher_stddev
from gankd.tasks import Classification, Regression

CLASSES = Classification(num_classes=3)
ANGLES = Regression(low=0, high=90)


def test_plain_version() -> None:
    logits = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    means = [logits[start : start + 10].double().softmax(1).mean(0) for start in range(0, 40, 10)]
    total = 0.0
    for k in range(3):
        values = [mean[k].item() for mean in means]
        middle = sum(values) / 4
        total += math.sqrt(sum((value - middle) ** 2 for value in values) / 3)
    assert teacher_stddev(CLASSES, logits, 10) == pytest.approx(total / 3, rel=1e-5)


@pytest.mark.parametrize("sharpness", [1.0, 4.0])
def test_its_size_is_that_of_a_mean_of_independent_outputs(sharpness: float) -> None:
    logits = sharpness * torch.randn(200 * 50, 3, generator=torch.Generator().manual_seed(1))
    expected = (logits.softmax(1).var(0) / 50).sqrt().mean().item()
    assert teacher_stddev(CLASSES, logits, 50) == pytest.approx(expected, rel=0.1)


def test_soft_outputs_score_better_than_confident_ones() -> None:
    logits = torch.randn(2000, 3, generator=torch.Generator().manual_seed(2))
    assert teacher_stddev(CLASSES, logits, 100) < teacher_stddev(CLASSES, 10 * logits, 100)
    assert teacher_stddev(CLASSES, torch.zeros(2000, 3), 100) == 0.0


def test_values_are_counted_in_twentieths_of_their_range() -> None:
    assert ANGLES.shares(torch.tensor([-5.0, 0.0, 4.4, 4.6, 90.0, 99.0])).argmax(1).tolist() == [0, 0, 0, 1, 19, 19]
    values = torch.tensor([1.0, 1.0, 89.0, 89.0])  # two groups that share nothing: two bins of 20 differ, by 1
    assert teacher_stddev(ANGLES, values, 2) == pytest.approx(2 * math.sqrt(0.5) / 20)
