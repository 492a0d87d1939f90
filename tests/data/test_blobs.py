"""Discs with a known place and size: what a picture shows is what its label says."""

import torch
from torch import Tensor

from gankd.data.blobs import PLACE, SIZE, draw_places, load_blobs, render
from gankd.seeds import rng


def read_off(images: Tensor) -> Tensor:
    """Place and radius (N, 3) of the disc in each image (N, 1, 16, 16): centroid and area of what is bright."""
    levels = images[:, 0].float()
    dark = levels.flatten(1).quantile(0.25, dim=1)[:, None, None]
    bright = (levels - dark - 25).clamp_min(0)
    share = (bright / bright.flatten(1).quantile(0.97, dim=1).clamp_min(1)[:, None, None]).clamp_max(1)
    area, pixel = share.sum((1, 2)).clamp_min(1e-3), torch.arange(SIZE) + 0.5
    x, y = ((share.sum(axis) * pixel).sum(1) / area for axis in (1, 2))
    return torch.stack([x, y, (area / torch.pi).sqrt()], 1)


def test_labels_are_what_the_pictures_show() -> None:
    labels = draw_places(1000, rng(1, "places"))
    found = PLACE.metrics(read_off(render(labels, rng(2, "pixels"))), labels)
    assert found["mae_x"] < 0.1
    assert found["mae_y"] < 0.1
    assert found["mae_size"] < 0.3
    assert found["mae"] < 0.2 * PLACE.chance(labels)


def test_values_vary_together_and_the_set_is_fixed() -> None:
    splits = load_blobs()
    assert splits.fingerprint() == load_blobs().fingerprint()
    assert (len(splits.train), len(splits.val), len(splits.test)) == (1000, 400, 600)
    correlation = torch.corrcoef(splits.train.labels.T)
    assert correlation[1, 2] > 0.9
    assert 0.2 < correlation[0, 1] < 0.6
