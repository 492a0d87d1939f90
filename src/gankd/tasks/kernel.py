"""Gaussian kernel of labels with several values: noise that keeps them near those that occur together."""

import torch
from torch import Tensor

from gankd.config import require


def kernel_root(labels01: Tensor, sigma: float | None = None) -> Tensor:
    """Symmetric matrix (n, n) float64 that turns standard normal rows into label noise.

    By default H = 1.06 N^(-1 / (n + 4)) C^(1/2), C the covariance of the labels: Scott's rule, which for one value is
    1.06 std N^(-1/5). Outputs that vary together are disturbed together, so noisy labels stay plausible.

    Args:
        labels01: (N, n) labels on the [0, 1] scale.
        sigma: standard deviation of independent noise on each output, in place of the rule.

    Raises:
        ConfigError: sigma is out of range.
    """
    count, width = labels01.shape
    if sigma is not None:
        require(0 <= sigma <= 1, f"sigma must lie in [0, 1] (labels do), got {sigma}")
        return sigma * torch.eye(width, dtype=torch.float64)
    centred = labels01.detach().cpu().double()
    centred = centred - centred.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / count)
    # The symmetric root: whatever the order or rotation of the outputs, the noise is ordered or rotated like them.
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    return 1.06 * count ** (-1 / (width + 4)) * root
