"""Forecasts from finished cells: they find what is there, and say how little few cells know."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gankd.bench.advice import FEWEST, Forecaster, probe_of
from gankd.bench.map_results import MapArm, MapResult


def cell(number: int, per_label: int, share: float, name: str = "digits", **changes: Any) -> MapResult:
    """A finished cell whose method lowers the error of 10 % of the strongest control by a share of it."""

    def arm(role: str, error: float, updates: int = 100) -> MapArm:
        values = (100 - error, 100 - error - 0.1)
        return MapArm(title=role, role=role, updates=updates, val=values, test=values)  # type: ignore[arg-type]

    facts = {
        "teacher": 95.0,
        "distance": 0.0,
        "imbalance": 1.0,
        "on_train": 99.0,
        "first": {"teacher": 80.0, "variance_ratio": 0.5},
    }
    found = MapResult(
        recipe=name,
        factor="images per label",
        level=f"{per_label} ({number})",
        settings=(),
        task="classification",
        metric="top1",
        unit="points",
        higher_is_better=True,
        images=10 * per_label,
        labels=10,
        arms={
            "real_matched": arm("control", 10.0),
            "real_time": arm("control", 9.0, 800),
            "kd_matched": arm("control", 10.0),
            "adjusted": arm("method", 10.0 * (1 - share)),
        },
        method="adjusted",
        control="kd_matched",
        facts=(facts, facts),
        seconds=1.0,
        version="1",
    )
    return replace(found, **changes)


def cells(count: int, noise: float = 0.0) -> list[MapResult]:
    """Cells of two sets whose gain falls with the images per label and is negative from 32 on."""
    draw = np.random.default_rng(0)
    return [
        cell(number, 2**power, 0.04 * (5 - power) - 0.005 + noise * draw.normal(), ("digits", "blobs")[number % 2])
        for number, power in enumerate((place % 8 + 1 for place in range(count)), 1)
    ]


def test_a_probe_of_a_cell_has_no_unit() -> None:
    probe = probe_of(cell(0, 8, 0.1))
    assert [probe.error, probe.longer, probe.length] == pytest.approx([10.05, 9.05, 8])
    features = probe.features
    assert features["images per label"] == 3
    assert features["fall of the error with every doubling of the updates"] == pytest.approx(1 / 10.05 / 3)
    assert features["gain of KD"] == 0
    assert features["lead of the teacher"] == pytest.approx(1 - 5 / 10.05)
    assert probe_of(replace(cell(0, 8, 0.1), higher_is_better=False)).error == pytest.approx(89.95)


def test_what_is_there_is_found_in_cells_that_were_left_out() -> None:
    forecaster = Forecaster(cells(16))
    assert forecaster.knows
    known, sets, rule = forecaster.scores
    assert known.signs == sets.signs == 1.0
    assert min(known.rank, sets.rank) > 0.95
    assert rule.what == "rule: images per label below 100"
    assert rule.rank == pytest.approx(1.0)
    assert rule.signs == 12 / 16  # it takes 32 and 64 images for few
    few, many = (forecaster(probe_of(cell(0, count, 0.0))) for count in (2, 256))
    assert few.low > 0 > many.high
    assert few.reasons[0] == "images per label (for)"
    assert many.reasons[0] == "images per label (against)"
    nearest = forecaster.nearest(probe_of(cell(0, 8, 0.0)))
    assert nearest is not None
    assert nearest.images == 80


def test_noise_makes_the_interval_wide() -> None:
    sharp, noisy = (Forecaster(cells(16, noise))(probe_of(cell(0, 8, 0.0))) for noise in (0.01, 0.2))
    assert noisy.high - noisy.low > 5 * (sharp.high - sharp.low)


def test_few_cells_know_little() -> None:
    nothing = Forecaster([])(probe_of(cell(0, 8, 0.0)))
    assert (nothing.gain, nothing.low, nothing.high) == (0.0, -0.5, 0.5)
    some = Forecaster(cells(FEWEST - 1))
    assert (some.knows, some.scores) == (False, [])
    found = some(probe_of(cell(0, 8, 0.0)))
    assert found.gain == pytest.approx(some.gains.mean())
    assert found.high - found.low >= 1.0
    without_real = [replace(one, factor="real images") for one in cells(12)]
    assert Forecaster(without_real).results == []
    assert math.isnan(Forecaster([cell(number, 8, 0.1) for number in range(12)]).scores[-1].rank)
