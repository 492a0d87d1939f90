"""Every loss for values on labels of several: it works, or says in one line why not."""

import pytest
import torch

from gankd.data.blobs import PLACE, draw_places, render
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import ConfigError
from gankd.models import new_model
from gankd.models.contract import ImageModel
from gankd.seeds import rng
from gankd.training.lesson import DistillConfig, Lesson
from gankd.training.losses import all_losses
from gankd.training.objective import Objective
from gankd.training.wiring import connect

PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=False)
LABELS = draw_places(8, rng(0, "labels"))
DATA = LabelledImages(render(LABELS, rng(1, "pixels")), LABELS, PLACE)


def networks(name: str, seed: int) -> ImageModel:
    return new_model(name or "cnn8", DATA, seed)


@pytest.mark.parametrize("name", [name for name, found in all_losses().items() if PLACE.kind in found.tasks])
def test_every_loss_works_or_is_refused(name: str) -> None:
    found = all_losses()[name]
    lesson = Lesson(Objective.parse(name), networks("cnn16", 1), None, networks)
    if found.needs_source or found.needs:
        with pytest.raises(ConfigError):
            connect(networks("cnn8", 0), lesson, DATA, DistillConfig(), PLAIN, 0)
        return
    with connect(networks("cnn8", 0), lesson, DATA, DistillConfig(), PLAIN, 0) as connection:
        assert connection.criterion.losses  # the dry run has tried them
