"""Membership inference: the curve against plain counts, and generators that memorise or do not."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from gankd.data.images import LabelledImages, Splits
from gankd.engine import Engine
from gankd.errors import ConfigError
from gankd.packs.audit import audit
from gankd.packs.membership import auc
from gankd.tasks import Classification

TASK = Classification(num_classes=2)
ENGINE = Engine.pick(8, "cpu")


def test_the_area_is_that_of_scikit_learn_with_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    members, others = torch.randint(0, 9, (40,), generator=generator), torch.randint(2, 8, (30,), generator=generator)
    truth = [1] * 40 + [0] * 30
    assert auc(members, others).value == pytest.approx(roc_auc_score(truth, torch.cat([members, others])))


def test_the_variance_is_delongs() -> None:
    """Placements by plain loops."""
    members, others = [3.0, 1.0, 4.0, 1.5], [2.0, 0.5, 1.0]
    beats = [[1.0 if a > b else 0.5 if a == b else 0.0 for b in others] for a in members]
    rows = [sum(row) / 3 for row in beats]
    columns = [sum(row[j] for row in beats) / 4 for j in range(3)]

    def variance(values: list[float]) -> float:
        mean = sum(values) / len(values)
        return sum((value - mean) ** 2 for value in values) / (len(values) - 1)

    value = sum(rows) / 4
    half = 1.96 * math.sqrt(variance(rows) / 4 + variance(columns) / 3)
    found = auc(torch.tensor(members), torch.tensor(others))
    assert (found.value, found.low, found.high) == pytest.approx((value, max(0, value - half), min(1, value + half)))


def test_the_interval_covers_a_half_for_equal_groups() -> None:
    """95 times in 100; 200 repetitions leave little to chance."""
    generator = torch.Generator().manual_seed(1)
    covered = 0
    for _ in range(200):
        found = auc(torch.randn(60, generator=generator), torch.randn(40, generator=generator))
        covered += found.low <= 0.5 <= found.high
    assert 180 <= covered <= 198


def blobs(count: int, seed: int) -> Tensor:
    """Smooth random images of one distribution, (count, 1, 8, 8)."""
    coarse = torch.rand(count, 1, 3, 3, generator=torch.Generator().manual_seed(seed))
    return (255 * torch.nn.functional.interpolate(coarse, (8, 8), mode="bilinear")).to(torch.uint8)


def splits() -> Splits:
    def part(count: int, seed: int) -> LabelledImages:
        return LabelledImages(blobs(count, seed), torch.arange(count) % 2, TASK)

    return Splits(part(200, 1), part(150, 2), part(250, 3), "blobs")


def test_a_generator_that_memorises_is_found_out() -> None:
    """The positive control: images of the training set with a little noise."""
    real = splits()
    noise = torch.randint(-6, 7, (800, 1, 8, 8), generator=torch.Generator().manual_seed(4))
    copied = (real.train.images[torch.arange(800) % 200].int() + noise).clamp(0, 255).to(torch.uint8)
    found, pairs = audit(copied, real, ENGINE, 0)
    assert found.distance.value > 0.9
    assert found.density.value > 0.9
    assert found.leaks
    assert found.copies_of_train > 90
    assert found.copies_of_test < 5
    assert "gives away" in found.sentences[2]
    assert max(pairs.ratio) < 1 / 3
    assert (pairs.generated.int() - pairs.real.int()).abs().max() <= 6
    assert len(pairs.real.flatten(1).unique(dim=0)) == 8  # each training image once


def test_a_generator_of_new_images_is_not() -> None:
    """The negative control: further images of the same distribution."""
    found, _ = audit(blobs(800, 5), splits(), ENGINE, 0)
    assert found.distance.low <= 0.5 <= found.distance.high
    assert found.density.low <= 0.5 <= found.density.high
    assert not found.leaks
    assert found.copies_of_train < 2
    assert "neither test" in found.sentences[2]
    assert "differential privacy is not promised" in found.sentences[2]
    assert (found.generated, found.members, found.others, found.references) == (800, 200, 200, 200)


def test_too_few_other_images_are_refused() -> None:
    real = splits()
    few = Splits(real.train, real.val.subset(torch.arange(1)), real.test.subset(torch.arange(2)), "few")
    with pytest.raises(ConfigError, match="at least 4 validation and test images together, got 3"):
        audit(blobs(50, 5), few, ENGINE, 0)
