"""Limits for new images hold as often as they promise."""

import math

import pytest
import torch

from gankd.bench.conformal import RISK, conformal_limit, fewest_images
from gankd.tasks import Classification, Regression


@pytest.mark.parametrize(("count", "risk"), [(19, 0.05), (20, 0.05), (39, 0.05), (50, 0.1), (7, 0.2)])
def test_a_new_score_exceeds_the_limit_as_often_as_the_closed_form_says(count: int, risk: float) -> None:
    """Of uniform scores the k-th smallest of n is Beta(k, n + 1 - k), with mean k / (n + 1)."""
    draws = torch.rand(4000, count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    found = torch.tensor([conformal_limit(row, risk) for row in draws], dtype=torch.float64)
    rank = math.ceil((count + 1) * (1 - risk) - 1e-9)
    expected = 1 - rank / (count + 1)
    assert risk - 1 / (count + 1) <= expected <= risk + 1e-12
    spread = math.sqrt(rank * (count + 1 - rank) / ((count + 1) ** 2 * (count + 2)) / len(draws))
    assert (1 - found).mean().item() == pytest.approx(expected, abs=4 * spread)


def test_equal_scores_only_lower_the_risk() -> None:
    scores = torch.tensor([0.0] * 60 + [1.0] * 40)
    limit = conformal_limit(scores)
    assert limit is not None
    assert limit == 1.0
    assert (scores > limit).float().mean() <= RISK


def test_too_few_images_give_no_limit() -> None:
    assert fewest_images() == 19
    assert conformal_limit(torch.rand(18)) is None
    assert conformal_limit(torch.arange(19.0)) == 18


def test_scores_of_values_are_errors() -> None:
    outputs, labels = torch.tensor([1.0, 5.0, 2.0]), torch.tensor([3.0, 4.5, 2.0])
    assert Regression(low=0, high=9).doubt(outputs, labels).tolist() == [2.0, 0.5, 0.0]


def test_wrong_answers_are_rare_among_all_and_doubtful_images_get_none() -> None:
    """Of images that are right with the probability that the network gives, five in a hundred get a wrong answer."""
    task, random = Classification(num_classes=2), torch.Generator().manual_seed(3)
    sure = 0.5 + 0.5 * torch.rand(40_000, generator=random)
    outputs = torch.stack([sure, 1 - sure], 1)
    labels = (torch.rand(40_000, generator=random) > sure).long()
    assert task.doubt(outputs[:1], torch.tensor([0])).tolist() == [0.0]
    assert task.doubt(outputs[:1], torch.tensor([1])).tolist() == pytest.approx([sure[0].item()])
    limit = conformal_limit(task.doubt(outputs[:20_000], labels[:20_000]))
    assert limit is not None
    answered = sure[20_000:] > limit
    wrong = (answered & (labels[20_000:] == 1)).float().mean().item()
    assert wrong == pytest.approx(RISK, abs=0.006)
    # By integration: wrong answers above t have the share (1 - t)^2, so t = 1 - sqrt(0.05).
    assert limit == pytest.approx(1 - math.sqrt(RISK), abs=0.01)


def test_intervals_of_a_metric_over_images() -> None:
    """Wilson's interval solves |p - share| = 1.96 sqrt(p (1 - p) / n) for p; values have the normal one."""
    errors = torch.tensor([100.0] * 7 + [0.0] * 43)
    for bound in Classification(num_classes=2).metric_interval(errors):
        p = bound / 100
        assert abs(p - 0.86) == pytest.approx(1.96 * math.sqrt(p * (1 - p) / 50))
    low, high = Classification(num_classes=2).metric_interval(torch.zeros(30))
    assert 88 < low < 89
    assert high == pytest.approx(100)
    low, high = Regression(low=0, high=9).metric_interval(torch.tensor([1.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 1.96, 2 + 1.96))
