"""The audit of a pack: which training images it gives away, as far as two tests can tell."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gankd.config import require
from gankd.data.images import Splits
from gankd.engine import Engine
from gankd.generators.copies import nearest
from gankd.packs.card import Audit
from gankd.packs.membership import by_density, by_distance
from gankd.seeds import rng

MOST = 1000
"""Training images and other images, each, whose membership is guessed."""
REFERENCES = 4000
"""Further real images that the density is compared with, at most."""
PAIRS = 8


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The generated images that are most like a copy, each with its training image; one pair per training image."""

    generated: Tensor
    """(P, C, H, W) uint8."""
    real: Tensor
    """(P, C, H, W) uint8."""
    ratio: tuple[float, ...]
    """Distance to that training image over the distance to the next; a copy is below a third."""


def audit(images: Tensor, splits: Splits, engine: Engine, seed: int) -> tuple[Audit, Pairs]:
    """Look for training images in the generated ones.

    Args:
        images: (M, C, H, W) uint8, those of the pack.
        splits: the real images; the generator was trained on those of `train`.
        engine: its device computes the distances.
        seed: of the choice of images.

    Raises:
        ConfigError: fewer than four validation and test images.
    """
    device = engine.device
    own, train, test = (part.to(device) for part in (images, splits.train.images, splits.test.images))
    others = torch.cat([splits.val.images.to(device), test])
    require(len(others) >= 4, f"an audit needs at least 4 validation and test images together, got {len(others)}")

    # --- copies
    to_train = nearest(own, train)
    ratio = to_train.first / to_train.second.clamp_min(1e-9)  # (M,)
    shown: list[int] = []
    for place in ratio.argsort(stable=True)[: 100 * PAIRS].tolist():
        if len(shown) < PAIRS and to_train.index[place] not in to_train.index[shown]:
            shown.append(place)

    # --- membership: others are divided into those that are judged and those that say how dense real images are
    members = train[torch.randperm(len(train), generator=rng(seed, "audit", "members"))[:MOST].to(device)]
    mixed = others[torch.randperm(len(others), generator=rng(seed, "audit", "others")).to(device)]
    half = min(MOST, len(mixed) // 2)
    judged, reference = mixed[:half], mixed[half : half + REFERENCES]
    of_members, of_others = nearest(members, own), nearest(judged, own)
    density = by_density(of_members, of_others, nearest(members, reference), nearest(judged, reference))
    found = Audit(
        generated=len(own),
        copies_of_train=to_train.percent,
        copies_of_test=nearest(own, test).percent,
        members=len(members),
        others=len(judged),
        references=len(reference),
        distance=by_distance(of_members, of_others),
        density=density,
    )
    pairs = Pairs(
        generated=own[shown].cpu(),
        real=train[to_train.index[shown]].cpu(),
        ratio=tuple(round(value, 3) for value in ratio[shown].tolist()),
    )
    return found, pairs
