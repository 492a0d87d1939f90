"""Limits that hold for new images, from images on which nothing was trained: split conformal prediction.

Vovk, Gammerman, Shafer. Algorithmic learning in a random world (2005), chapter 4.
"""

import math

from torch import Tensor

RISK = 0.05
"""Share of new images for which the limit may fail."""


def conformal_limit(scores: Tensor, risk: float = RISK) -> float | None:
    """Limit that the score of a new image exceeds with a probability of at most `risk`.

    It is the k-th smallest of the scores (n,), k = ceil((n + 1)(1 - risk)). If the n + 1 images are exchangeable and
    no two scores are equal, a new score is above it with probability 1 - k / (n + 1), which lies between
    risk - 1 / (n + 1) and risk; equal scores only lower it. This is a mean over choices of the n images.

    Returns:
        None where k > n: so few images allow no limit.
    """
    count = len(scores)
    rank = math.ceil(round((count + 1) * (1 - risk), 9))  # 20 * 0.95 is 19, not a little more
    if rank > count:
        return None
    return scores.double().sort().values[rank - 1].item()


def fewest_images(risk: float = RISK) -> int:
    """Number of images from which on there is a limit."""
    return math.ceil(round(1 / risk, 9)) - 1
