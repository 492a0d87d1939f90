"""Grey discs at 16x16 with a known place and size: regression with three values that vary together; no download."""

import torch
from torch import Tensor

from gankd.data.images import LabelledImages, Splits
from gankd.seeds import rng
from gankd.tasks import Regression, VectorRegression

SIZE, COUNT = 16, 2000
PLACE = VectorRegression(
    names=("x", "y", "size"),
    outputs=(
        Regression(low=4.0, high=12.0, unit="px"),
        Regression(low=4.0, high=12.0, unit="px"),
        Regression(low=1.0, high=3.5, unit="px"),
    ),
)
CARD = {
    "origin": "2,000 discs rendered by code, 16x16 grey, of random brightness on a random background",
    "licence": "no rights reserved",
    "split": "fixed: 50 % train, 20 % validation, 30 % test",
}


def draw_places(count: int, generator: torch.Generator) -> Tensor:
    """Labels (count, 3): x to the right and y downwards from the top left corner, and the radius, in pixels.

    The lower a disc, the nearer and larger it is, as on a floor seen from above; x leans towards the right with y.
    """
    u, v, w = torch.rand(3, count, generator=generator)
    y = v
    x = 0.7 * u + 0.3 * y
    size = 0.8 * y + 0.2 * w
    return PLACE.denormalise(torch.stack([x, y, size], 1))


def render(labels: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 images (N, 1, 16, 16) of discs with soft edges; brightness, background and noise are random."""
    x, y, size = labels[:, :, None, None].unbind(1)  # (N, 1, 1) each
    pixel = torch.arange(SIZE) + 0.5
    distance = ((pixel - x) ** 2 + (pixel[:, None] - y) ** 2).sqrt()  # (N, 16, 16)
    inside = ((size - distance) / 0.4).sigmoid()
    bright, dark = torch.rand(2, len(labels), 1, 1, generator=generator)
    noise = 8 * torch.randn(inside.shape, generator=generator)
    levels = 70 * dark + (110 + 70 * bright) * inside + noise
    return levels.round().clamp(0, 255).to(torch.uint8)[:, None]


def load_blobs() -> Splits:
    """`blobs`: place and size of a disc at 16x16."""
    labels = draw_places(COUNT, rng(0, "blobs", "places"))
    whole = LabelledImages(render(labels, rng(0, "blobs", "pixels")), labels, PLACE)
    parts = torch.arange(COUNT).split([COUNT // 2, COUNT // 5, COUNT - COUNT // 2 - COUNT // 5])
    train, val, test = map(whole.subset, parts)
    return Splits(train, val, test, "blobs", CARD)
