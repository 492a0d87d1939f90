"""Nothing grows with the data where it need not: elements that operations read and write, counted, not timed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.seeds import rng
from gankd.synthetic import SelectConfig, generate, select
from gankd.tasks import Classification
from gankd.training.distill import Feed
from gankd.training.gan_batches import ClassBatches
from gankd.training.lesson import DistillConfig, Fakes

Count = Callable[[Callable[[], object]], int]
SIZES = (1_000, 100_000)


def images(count: int) -> LabelledImages:
    labels = torch.randint(10, (count,), generator=rng(0, "labels"))
    return LabelledImages(torch.zeros(count, 1, 8, 8, dtype=torch.uint8), labels, Classification(num_classes=10))


@pytest.mark.parametrize("settings", [{}, {"augment": ("crop", "flip")}, {"augment": ("crop",), "views": 2}])
def test_a_students_batch_costs_the_same_for_any_number_of_images(settings: dict[str, object], written: Count) -> None:
    costs = []
    for count in SIZES:
        data, config = images(count), DistillConfig(**settings)  # type: ignore[arg-type]
        fakes = Fakes(data.images, data.labels, torch.zeros(count, 10))
        feed = Feed(data, fakes, config, Engine(torch.device("cpu"), False, False), 0)
        feed(0)  # shuffles the pass
        costs.append(written(lambda feed=feed: feed.stored_outputs(feed(1))))  # type: ignore[misc]
    assert costs[0] == costs[1]


def test_a_gan_batch_costs_the_same_for_any_number_of_images(written: Count) -> None:
    costs = []
    for count in SIZES:
        batches = ClassBatches(images(count), 64, 0)
        batches.draw(0, rng(0, "gan"))
        costs.append(written(lambda batches=batches: batches.draw(1, rng(0, "gan"))))  # type: ignore[misc]
    assert costs[0] == costs[1]


@pytest.mark.parametrize("subsample", ["budget", "running_max"])
def test_selection_costs_the_same_per_image_for_any_pool(subsample: str, work: Count, tmp_path: Path) -> None:
    task, costs = Classification(num_classes=10), []

    def sample(labels: Tensor, *, generator: torch.Generator) -> Tensor:
        return torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8)

    def score(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        random = rng(0, "scores", len(labels))
        return torch.randn(len(labels), 10, generator=random), torch.randn(len(labels), generator=random)

    for count in (2_000, 20_000):
        labels = torch.arange(count) % 10
        pool = generate(tmp_path / str(count), sample, score, task, labels, 0, {})
        config = SelectConfig(subsample=subsample, burn_in=50, count=count // 10)  # type: ignore[arg-type]
        costs.append(work(lambda pool=pool, config=config: select(pool, config, 0)) / count)  # type: ignore[misc]
    assert costs[1] <= 1.2 * costs[0]
