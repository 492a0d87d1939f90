"""Distances between feature sets: closed forms, a slow reference, and limits."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from gankd.generators.health import PrincipalAxes, frechet_distance, variance_ratio
from gankd.seeds import rng


def normal(count: int, width: int, purpose: str = "x") -> Tensor:
    return torch.randn(count, width, generator=rng(0, purpose), dtype=torch.float64)


def whitened(count: int, width: int, purpose: str = "x") -> Tensor:
    """Samples whose mean is exactly 0 and whose covariance is exactly the identity."""
    x = normal(count, width, purpose)
    x = x - x.mean(0)
    factor = torch.linalg.cholesky(x.T @ x / (count - 1))
    return torch.linalg.solve_triangular(factor, x.T, upper=False).T


def test_frechet_of_shifted_and_scaled_normals() -> None:
    a, shift = whitened(50, 4), torch.tensor([1.0, -2.0, 0.5, 0.0])
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, whitened(70, 4, "y") + shift) == pytest.approx(5.25)  # |m|^2
    # commuting covariances: sum (sigma_a - sigma_b)^2
    scale = torch.tensor([3.0, 1.0, 0.5, 0.0])
    assert frechet_distance(a, whitened(70, 4, "y") * scale) == pytest.approx(4 + 0 + 0.25 + 1)


def test_frechet_is_symmetric_and_sees_rotation() -> None:
    a = whitened(60, 3) * torch.tensor([3.0, 1.0, 0.2])
    turn, _ = torch.linalg.qr(normal(3, 3, "turn"))
    b = a @ turn
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    assert frechet_distance(a, b) > 0.1
    assert frechet_distance(a @ turn, b) == pytest.approx(0, abs=1e-6)


def test_frechet_against_a_matrix_square_root() -> None:
    a, b = normal(40, 6, "a") @ normal(6, 6, "mix a"), normal(90, 6, "b") @ normal(6, 6, "mix b") + 0.3
    cov_a, cov_b = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    gap = a.mean(0).numpy() - b.mean(0).numpy()
    assert frechet_distance(a, b) == pytest.approx(gap @ gap + np.trace(cov_a + cov_b - 2 * root))


def test_frechet_of_one_feature_and_of_dead_features() -> None:
    a, b = whitened(30, 1), 3 * whitened(40, 1, "b") + 2
    assert frechet_distance(a, b) == pytest.approx(4 + 4)
    dead = torch.cat([whitened(30, 2), torch.zeros(30, 5, dtype=torch.float64)], 1)
    assert frechet_distance(dead, dead) == pytest.approx(0, abs=1e-6)
    few = normal(4, 20)  # fewer images than features: a singular covariance
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-4)


def test_variance_ratio_by_hand() -> None:
    real = torch.tensor([[0.0, 0.0], [2.0, 4.0], [10.0, 10.0], [12.0, 10.0], [5.0, 5.0]])
    real_groups = torch.tensor([0, 0, 1, 1, 2])
    fake = torch.tensor([[1.0, 1.0], [1.0, 3.0], [0.0, 0.0], [4.0, 0.0], [9.0, 9.0], [8.0, 8.0]])
    fake_groups = torch.tensor([0, 0, 1, 1, 2, 3])
    # group 0: 2 / (2 + 8); group 1: 8 / 2; groups 2 and 3 have too few on one side
    assert variance_ratio(fake, fake_groups, real, real_groups) == pytest.approx((0.2 + 4) / 2)


def test_variance_ratio_in_the_limits() -> None:
    x, groups = normal(60, 3), torch.arange(60) % 3
    offset = groups[:, None] * 100.0  # between labels, which does not count
    assert variance_ratio(x + offset, groups, x, groups) == pytest.approx(1)
    copies = offset.expand(-1, 3)
    assert variance_ratio(copies, groups, x, groups) == 0
    assert np.isnan(variance_ratio(x[:1], groups[:1], x, groups))


def test_principal_axes_keep_the_directions_of_most_variance() -> None:
    turn, _ = torch.linalg.qr(normal(5, 5, "turn"))
    spread = torch.tensor([5.0, 3.0, 1e-3, 1e-3, 1e-3], dtype=torch.float64)
    x = ((whitened(100, 5) * spread) @ turn + 7).float()
    axes = PrincipalAxes(x, 2)
    kept = axes(x)
    assert kept.shape == (100, 2)
    torch.testing.assert_close(torch.cov(kept.T), torch.diag(torch.tensor([25.0, 9.0])), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(axes.axes.T @ axes.axes, torch.eye(2), atol=1e-5, rtol=0)
    # no direction with variance is lost, so distances stay
    other = x + 2 * turn[0].float()
    assert frechet_distance(kept, axes(other)) == pytest.approx(4, rel=1e-3)
    assert PrincipalAxes(x, 32)(x).shape == (100, 5)
