"""A generator of labels of several values: it makes what each of them says."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.data.blobs import PLACE, draw_places, render
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import ConfigError
from gankd.generators.label_embedding import FourierEmbedding, LabelToEmbedding, NaiveLabelInput
from gankd.models import new_model
from gankd.runs import Stage
from gankd.seeds import rng
from gankd.tasks import Regression, VectorRegression
from gankd.training.gan import GanConfig, fitted_vicinity, train_gan
from gankd.training.label_embedding import train_label_embedding

PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=False)
SMALL = GanConfig(batch_size=32, width_g=8, width_d=8, z_dim=8, lr_g=2e-3, lr_d=4e-3, health_checks=0)


def halved(labels: Tensor, seed: int) -> Tensor:
    """uint8 images (N, 1, 8, 8) of discs, every four pixels as one."""
    return F.avg_pool2d(render(labels, rng(seed, "pixels")).float(), 2).round().to(torch.uint8)


def place_in(images: Tensor) -> Tensor:
    """Centre x, y (N, 2) in pixels of a disc at 16x16, from its image at half the size."""
    levels = images[:, 0].float()
    bright = (levels - levels.flatten(1).quantile(0.25, dim=1)[:, None, None] - 25).clamp_min(0)
    total, pixel = bright.sum((1, 2)).clamp_min(1e-3), 2 * torch.arange(8) + 1
    return torch.stack([(bright.sum(axis) * pixel).sum(1) / total for axis in (1, 2)], 1)


def error(labels: Tensor, steps: int) -> float:
    """Mean distance in pixels between asked and made centres, of a generator trained with these labels."""
    config = replace(SMALL, steps=steps)
    train = LabelledImages(halved(TRUE, 1), labels, PLACE)
    generator = train_gan(train, train.subset(torch.arange(20)), new_model("cnn8", train, 0), config, PLAIN, 0)
    wanted = draw_places(256, rng(2, "wanted"))
    made = place_in(generator.sample(wanted, generator=rng(3, "sample")))
    return (made - wanted[:, :2]).norm(dim=1).mean().item()


TRUE = draw_places(400, rng(0, "places"))


@pytest.mark.slow
def test_true_labels_teach_and_shuffled_ones_do_not() -> None:
    """Each value shuffled by itself: the same values, but none of the combinations that the images show."""
    shuffled = torch.stack(
        [column[torch.randperm(len(TRUE), generator=rng(4, place))] for place, column in enumerate(TRUE.unbind(1))], 1
    )
    wanted = draw_places(256, rng(2, "wanted"))[:, :2]
    blind = (wanted - wanted.median(0).values).norm(dim=1).mean().item()
    right = error(TRUE, 300)
    assert right < 0.7 * blind
    assert right < 0.6 * error(shuffled, 300)


@pytest.mark.parametrize(
    "settings", [{"label_input": "nli"}, {"label_input": "ili", "ili_updates": 3}, {"vicinity": "hard"}]
)
def test_every_label_input_and_vicinity_runs(settings: dict[str, Any]) -> None:
    config = replace(SMALL, steps=3, **settings)
    train = LabelledImages(halved(TRUE[:40], 1), TRUE[:40], PLACE)
    generator = train_gan(train, train, new_model("cnn8", train, 0), config, PLAIN, 0)
    assert generator.sample(TRUE[:5], generator=rng(0, "sample")).shape == (5, 1, 8, 8)


def test_embeddings_of_one_value_are_those_of_a_scalar() -> None:
    one = Regression(low=20.0, high=60.0)
    column = VectorRegression(names=("age",), outputs=(one,))
    ages = torch.linspace(20, 60, 7)
    for make in (lambda task: FourierEmbedding(task, 16), NaiveLabelInput, LabelToEmbedding):
        found = []
        for task, labels in ((one, ages), (column, ages[:, None])):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                found.append(make(task)(labels))
        torch.testing.assert_close(*found)


def test_ili_reads_every_value_back() -> None:
    train = LabelledImages(halved(TRUE[:64], 1), TRUE[:64], PLACE)
    t2 = train_label_embedding(train, train, 3, PLAIN, 0, Stage("ili"))
    assert t2 is not None
    assert t2(TRUE[:5]).shape == (5, 128)


def test_a_radius_is_refused() -> None:
    train = LabelledImages(halved(TRUE[:40], 1), TRUE[:40], PLACE)
    with pytest.raises(ConfigError, match=r"gan.kappa is the radius around one value.*leave it out, got 0.1"):
        fitted_vicinity(train, GanConfig(kappa=0.1))
