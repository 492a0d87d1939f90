"""Splits that divide no group: all images of a patient, a video or an object are in one split."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from gankd.seeds import rng

RUNS = 10
"""Parts of equal size, in order of value, that stand for labels that hardly repeat."""


def share_groups(groups: Sequence[str], strata: Sequence[int], shares: Mapping[str, int], seed: int) -> list[str]:
    """Split of each of N images, so that no group is divided and splits have their shares of each stratum.

    The largest groups come first, those of one size in random order. Each goes to the split that misses most of what
    the group holds, in images as shares of their strata; where several miss as much, to the one that is least full.

    Args:
        groups: group of each image.
        strata: stratum (0 .. K - 1) of each image, such as its class.
        shares: weights of the splits.
        seed: draws the order of groups.

    Returns:
        Names of splits; each has a group if there are as many.
    """
    names = list(shares)
    kinds, member = np.unique(np.array(groups), return_inverse=True)
    stratum = np.array(strata)
    total = np.bincount(stratum).astype(float)
    weight = np.array([shares[name] for name in names], float) / sum(shares.values())
    wanted = weight[:, None] * total  # (P, K) images that each split still misses
    held = np.argsort(member, kind="stable")
    parts = np.split(stratum[held], np.cumsum(np.bincount(member))[:-1])
    shuffled = torch.randperm(len(kinds), generator=rng(seed, "folder", "groups")).numpy()
    order = shuffled[np.argsort([-len(parts[group]) for group in shuffled], kind="stable")]
    found = np.zeros(len(kinds), int)
    for group in order:
        values, counts = np.unique(parts[group], return_counts=True)
        missing = (wanted[:, values] * counts / total[values]).sum(1)
        room = wanted.sum(1) / weight
        found[group] = max(range(len(names)), key=lambda part: (round(missing[part], 9), round(room[part], 9)))
        wanted[found[group], values] -= counts
    for part in range(len(names)):  # of few groups a split without any takes the smallest that another can spare
        spare = [group for group in order if (found == found[group]).sum() > 1]
        if part not in found and spare:
            found[spare[-1]] = part
    return [names[part] for part in found[member]]


def group_strata(labels: torch.Tensor) -> list[int]:
    """Stratum of each label (N,): the label itself or, if labels hardly repeat, one of `RUNS` in order of value."""
    values, stratum = labels.unique(return_inverse=True)
    if len(labels) < 3 * len(values):
        stratum = labels.argsort(stable=True).argsort() * RUNS // len(labels)
    return [int(number) for number in stratum]
