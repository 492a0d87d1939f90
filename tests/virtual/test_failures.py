"""Rules for failures at their limits; `test_measurement` trips each one with outputs."""

import math

import torch

from gankd.virtual.failures import (
    Failure,
    by_number,
    class_ignored,
    label_noise,
    memorised,
    sharpness_failures,
    spread_failures,
    training_failures,
    value_ignored,
)


def codes(found: list[Failure]) -> list[str]:
    return [one.code for one in found]


def test_spread_limits() -> None:
    assert codes(spread_failures(0.7, 0.5, 0.5)) == []
    assert codes(spread_failures(0.69, 0.5, 0.5)) == ["F1"]
    assert codes(spread_failures(0.05, 0.5, 0.96)) == ["F1", "F4"]  # almost all variance is the label's
    assert codes(spread_failures(1.15, 0.5, 0.5)) == []
    assert codes(spread_failures(1.16, 0.5, 0.5)) == ["F9b"]


def test_sharpness_limits() -> None:
    def peak(value: float) -> torch.Tensor:
        return torch.tensor([[value, 1 - value]], dtype=torch.float64).expand(5, 2)

    assert codes(sharpness_failures(peak(0.6), peak(0.64))) == []
    assert codes(sharpness_failures(peak(0.6), peak(0.66))) == ["F2"]
    assert codes(sharpness_failures(peak(0.91), peak(0.6))) == ["F6"]


def test_training_limits() -> None:
    def found(*, before: float = math.inf, raw: float = 0.01, passed: bool = False) -> list[str]:
        distances = {"samples": {"energy": 0.01}, "earlier": {"energy": before}, "raw": {"energy": raw}}
        return codes(training_failures(distances, energy=0.01, passed=passed))

    assert found() == []
    assert found(before=0.006) == ["F5"]
    assert found(before=0.006, passed=True) == []
    assert found(before=0.007) == []
    assert found(raw=0.031) == ["F10"]
    assert codes(training_failures({"samples": {}, "earlier": {}, "raw": {}}, energy=1.0, passed=False)) == []


def test_other_limits() -> None:
    assert codes(memorised(0.7, passed=False, count=49)) == ["F8"]
    assert memorised(0.7, passed=False, count=50) == []
    assert memorised(0.5, passed=True, count=10) == []
    assert codes(class_ignored((0.5, 0.4), (2.0, 1.7), 0.3)) == ["F3"]
    assert class_ignored((0.5, 0.4), (2.0, 1.9), 0.3) == []  # wider, but the classes are as far apart
    assert codes(value_ignored(0.9, 0.8)) == ["F3"]
    assert value_ignored(0.9, 0.82) == []
    assert codes(label_noise(0.05, 0.02)) == ["F7"]
    assert label_noise(0.04, 0.02) == []


def test_order_of_codes() -> None:
    found = [Failure(code, "", "") for code in ("F10", "F9b", "F2", "F1")]
    assert [one.code for one in by_number(found)] == ["F1", "F2", "F9b", "F10"]
