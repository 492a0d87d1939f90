"""Pairs of real and generated samples whose labels have several values: the nearest generated ones of the same box."""

import torch
from torch import Tensor

from gankd.bench.bound import label_distance
from gankd.data.blobs import PLACE, draw_places
from gankd.generators.external import ImagePool
from gankd.seeds import rng
from gankd.training.ratio_pairs import NEAREST, Pairs


def nearest_of_group(real: Tensor, fake: Tensor) -> list[set[int]]:
    """Slow search: the nearest generated samples of each real one, among those of its own group."""
    found = []
    for label, group in zip(real, PLACE.groups(real), strict=True):
        mine = (PLACE.groups(fake) == group).nonzero()[:, 0].tolist()
        far = (PLACE.normalise(fake) - PLACE.normalise(label[None])).norm(dim=1)
        found.append(set(sorted(mine, key=lambda place: far[place].item())[:NEAREST]))
    return found


def test_pairs_are_the_nearest_of_the_same_box() -> None:
    real, fake = draw_places(60, rng(0, "real")), draw_places(400, rng(1, "fake"))
    use_real, use_fake = torch.arange(60) % 3 > 0, torch.arange(400) % 5 > 0
    pairs = Pairs(PLACE, real, fake, use_real, use_fake)
    known = nearest_of_group(real, torch.where(use_fake[:, None], fake, torch.nan).nan_to_num(1e6))
    left, right = pairs.draw(20000, rng(2, "draw"))
    assert use_real[left].all()
    assert use_fake[right].all()
    groups = PLACE.groups(real)[use_real]
    drawn: dict[int, set[int]] = {}
    for one, two in zip(left.tolist(), right.tolist(), strict=True):
        assert two in known[one]
        drawn.setdefault(one, set()).add(two)
    assert pairs.groups == len(set(groups.tolist()) & set(PLACE.groups(fake[use_fake]).tolist()))
    assert sum(len(found) == min(NEAREST, len(known[one])) for one, found in drawn.items()) > 0.9 * len(drawn)


def test_an_external_pool_gives_each_image_once_and_the_nearest_first() -> None:
    pool = ImagePool.__new__(ImagePool)
    pool.task, pool.labels, pool._exact, pool.what = PLACE, draw_places(50, rng(3, "pool")), False, "pool"
    wanted = pool.labels[torch.randperm(50, generator=rng(4, "order"))]
    index = pool.take(wanted, generator=rng(5, "take"))
    assert pool.labels[index].equal(wanted)  # each is its own nearest, and none is given twice
    more = pool.take(torch.cat([wanted, wanted[:10]]), generator=rng(6, "take"))
    assert sorted(more.tolist()) == list(range(50))


def test_label_distance_is_a_mean_over_outputs() -> None:
    labels = torch.tensor([[4.0, 4.0, 1.0], [12.0, 8.0, 3.5]])
    other = torch.tensor([[8.0, 4.0, 1.0], [12.0, 12.0, 1.0]])
    torch.testing.assert_close(label_distance(labels, other, PLACE), torch.tensor([0.5, 1.5]) / 3)
