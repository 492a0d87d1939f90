"""Health of a generator: distances between real and generated images in the teacher's features."""

import torch
from torch import Tensor


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Frechet distance between the Gaussians fitted to features (N, F) and (M, F); 0 for equal sets.

        |mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))

    (Heusel et al., NeurIPS 2017, eq. 6, there on Inception features.) In float64; squared mean gap.
    """
    a, b = a.double(), b.double()
    gap = (a.mean(0) - b.mean(0)).square().sum()
    cov_a, cov_b = (torch.atleast_2d(torch.cov(x.T)) for x in (a, b))
    # tr (C_a C_b)^(1/2) = sum of the roots of the eigenvalues of C_a C_b, which are real and >= 0.
    roots = torch.linalg.eigvals(cov_a @ cov_b).real.clamp_min(0).sqrt().sum()
    return float(gap + cov_a.trace() + cov_b.trace() - 2 * roots)


def variance_ratio(fake: Tensor, fake_groups: Tensor, real: Tensor, real_groups: Tensor) -> float:
    """Mean over groups of (variance of fake features / variance of real features) within the group.

    1 for a faithful generator, near 0 if it makes one image per label. Groups with fewer than two images on either
    side are left out; nan if none is left.
    """
    ratios = []
    for group in real_groups.unique():
        a, b = fake[fake_groups == group], real[real_groups == group]
        if len(a) > 1 and len(b) > 1:
            ratios.append(a.double().var(0).sum() / b.double().var(0).sum().clamp_min(1e-12))
    return float(torch.stack(ratios).mean()) if ratios else float("nan")


class PrincipalAxes:
    """Projection onto the `count` directions in which real features vary most, so that Frechet distances of few images
    stay meaningful.
    """

    def __init__(self, real: Tensor, count: int = 32) -> None:
        self.mean = real.mean(0)
        _, _, axes = torch.linalg.svd((real - self.mean).double(), full_matrices=False)
        self.axes = axes[:count].T.float()

    def __call__(self, features: Tensor) -> Tensor:
        """Features (N, F) to (N, count)."""
        return (features - self.mean) @ self.axes
