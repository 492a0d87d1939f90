"""Membership inference: how well the images of a pack tell training images from others that were never used."""

import math

from torch import Tensor

from gankd.generators.copies import Nearest
from gankd.packs.card import Auc

FLOOR = 1e-6
"""Smallest distance that counts in a density; far below one level of one pixel."""


def auc(members: Tensor, others: Tensor) -> Auc:
    """Chance that a member (n,) scores higher than one of the others (m,), ties counting half; n, m >= 2.

    Interval: normal, with DeLong's variance, var(a_i) / n + var(b_j) / m, where a_i is the share of the others that
    member i beats and b_j the share of members that beat j. DeLong, DeLong, Clarke-Pearson. Biometrics 44 (1988).
    """
    wins = (members[:, None] > others).double() + 0.5 * (members[:, None] == others).double()  # (n, m)
    value = wins.mean().item()
    variance = wins.mean(1).var() / len(members) + wins.mean(0).var() / len(others)
    half = 1.96 * math.sqrt(variance.item())
    return Auc(value=value, low=max(0.0, value - half), high=min(1.0, value + half))


def by_distance(members: Nearest, others: Nearest) -> Auc:
    """Attack by distance: an image that is near to a generated one is taken for a training image.

    Args:
        members, others: the generated images nearest to training images (n,) and to images that were not used (m,).
    """
    return auc(-members.first, -others.first)


def by_density(members: Nearest, others: Nearest, from_members: Nearest, from_others: Nearest) -> Auc:
    """Attack by density ratio: an image where the generator is denser than real images are is taken for a member.

    The ratio is that of nearest-neighbour estimates, log d_reference - log d_generated up to a constant factor: images
    that are easy to come near to, such as plain ones, no longer look like members.

    Args:
        members, others: as for `by_distance`.
        from_members, from_others: the nearest of reference images, real ones that are in neither group.

    Source: DOMIAS, van Breugel et al., AISTATS 2023, there with other density estimates.
    """
    return auc(_ratio(members, from_members), _ratio(others, from_others))


def _ratio(generated: Nearest, reference: Nearest) -> Tensor:
    return reference.first.clamp_min(FLOOR).log() - generated.first.clamp_min(FLOOR).log()
