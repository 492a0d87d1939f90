"""Distances of weighted samples against slow references and closed forms."""

import math

import pytest
import scipy.stats
import torch
from torch import Tensor

from gankd.seeds import rng
from gankd.virtual.distances import (
    cells,
    compare_spread,
    energy_distance,
    likeliest,
    rank_correlation,
    value_distances,
    wasserstein,
    wrong_classes,
)


def samples() -> tuple[Tensor, Tensor, Tensor]:
    """Two groups, of five and of three samples on each side; padded, with weights."""
    a, b = (torch.rand(2, 5, 4, generator=rng(n, "x"), dtype=torch.float64) for n in (0, 1))
    weight = torch.tensor([[0.2] * 5, [1 / 3] * 3 + [0.0] * 2], dtype=torch.float64)
    return a, b, weight


def test_energy_distance_against_loops() -> None:
    a, b, weight = samples()

    def mean_distance(x: Tensor, y: Tensor) -> float:
        return sum(math.dist(s, t) for s in x.tolist() for t in y.tolist()) / len(x) / len(y)

    for group, size in enumerate((5, 3)):
        x, y = a[group, :size], b[group, :size]
        expected = 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)
        assert energy_distance(a, b, weight)[group].item() == pytest.approx(expected)
    torch.testing.assert_close(energy_distance(a, a, weight), torch.zeros(2).double(), atol=1e-7, rtol=0)


def test_spread_is_compared_as_covariances_are() -> None:
    a, b, weight = samples()
    gap, size, log_ratio = compare_spread(a, b, weight)
    for group, count in enumerate((5, 3)):
        x, y = torch.cov(a[group, :count].T), torch.cov(b[group, :count].T)
        torch.testing.assert_close(gap[group], (x - y).norm())
        torch.testing.assert_close(size[group], x.norm())
        torch.testing.assert_close(log_ratio[group], (y.trace() / x.trace()).sqrt().log(), rtol=1e-6, atol=1e-7)


def test_rank_correlation_is_spearmans_with_ties() -> None:
    a = torch.tensor([[0.1, 0.4, 0.4, 0.05, 0.05], [0.5, 0.1, 0.2, 0.15, 0.05]])
    b = torch.tensor([[0.2, 0.3, 0.1, 0.2, 0.2], [0.6, 0.1, 0.2, 0.06, 0.04]])
    found = rank_correlation(a, b)
    for group in range(2):
        assert found[group].item() == pytest.approx(scipy.stats.spearmanr(a[group], b[group]).statistic)
    flat = torch.full((2, 5), 0.2)
    assert rank_correlation(flat, flat).tolist() == [1, 1]  # no order to lose
    assert rank_correlation(a, flat).tolist() == [0, 0]


def test_wasserstein_against_scipy() -> None:
    a, b, weight = samples()
    found = wasserstein(a[..., 0], b[..., 0], weight)
    for group, size in enumerate((5, 3)):
        expected = scipy.stats.wasserstein_distance(a[group, :size, 0], b[group, :size, 0])
        assert found[group].item() == pytest.approx(expected)


def test_likeliest_wrong_classes_by_hand() -> None:
    probs = torch.tensor([[[0.6, 0.1, 0.25, 0.05], [0.2, 0.5, 0.2, 0.1]]]).repeat(2, 1, 1)
    wrong = wrong_classes(probs, torch.tensor([0, 2]))  # columns 1 2 3, and 3 0 1
    torch.testing.assert_close(wrong[0], torch.tensor([[0.1, 0.25, 0.05], [0.5, 0.2, 0.1]]))
    torch.testing.assert_close(wrong[1], torch.tensor([[0.05, 0.6, 0.1], [0.1, 0.2, 0.5]]))
    share = likeliest(wrong, torch.full((2, 2), 0.5))
    torch.testing.assert_close(share, torch.tensor([[0.5, 0.5, 0], [0, 0.5, 0.5]]))


def test_place_among_draws_by_hand() -> None:
    draws = torch.arange(20, dtype=torch.float64)[None]
    weight = torch.full((1, 20), 0.05, dtype=torch.float64)
    even = cells(draws, draws, weight)  # each falls in the middle of its own step
    torch.testing.assert_close(even, torch.full((1, 10), 0.1).double())
    above = cells(draws + 100, draws, weight)
    torch.testing.assert_close(above, torch.tensor([[0.0] * 9 + [1.0]]).double())


def test_crps_of_normal_draws_is_the_closed_form() -> None:
    """sigma / sqrt(pi) for samples of the teacher's law, sigma sqrt(2 / pi) for only its mean."""
    labels, bins = torch.full((1, 1500), 0.5, dtype=torch.float64), 200
    centres = (torch.arange(bins).double() + 0.5) / bins

    def normal(seed: int) -> Tensor:
        value = 0.5 + 0.1 * torch.randn(1, 1500, generator=rng(seed), dtype=torch.float64)
        low = ((value - centres[0]) * bins).floor()
        share = (value - centres[0]) * bins - low
        near = torch.arange(bins) - low[..., None]
        probs = torch.where(near == 0, 1 - share[..., None], torch.where(near == 1, share[..., None], 0.0))
        return torch.cat([probs, labels[..., None]], 2)

    weight = torch.full((1, 1500), 1 / 1500, dtype=torch.float64)
    found = value_distances(normal(1), normal(2), weight, torch.zeros(1))
    assert found["crps"].item() == pytest.approx(0.1 / math.sqrt(math.pi), rel=0.05)
    assert found["table"].item() == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.05)
