"""Errors by label, confusions, calibration and intervals: by hand, in the limit, against a plain version."""

import math

import pytest
import torch

from gankd.bench.answers import answers_of, confusions
from gankd.data.images import LabelledImages
from gankd.tasks import Classification, Regression, Task, VectorRegression
from gankd.tasks.calibration import calibration_error, reliability

CLASSES = Classification(num_classes=3)
DEGREES = Regression(low=0, high=12, unit="degrees")


def data(task: Task, labels: torch.Tensor) -> LabelledImages:
    return LabelledImages(torch.zeros((len(labels), 1, 4, 4), dtype=torch.uint8), labels, task)


def test_calibration_by_hand() -> None:
    """Two answers of 0.9, one of them right, and two of 0.6, both right: (2 * 0.4 + 2 * 0.4) / 4."""
    confidence, right = torch.tensor([0.9, 0.9, 0.6, 0.6]), torch.tensor([True, False, True, True])
    assert calibration_error(confidence, right) == pytest.approx(0.4, abs=1e-6)
    rows = reliability(confidence, right, bins=2)
    torch.testing.assert_close(rows, torch.tensor([[0, 0, 0], [4, 0.75, 0.75]], dtype=torch.float64))
    assert calibration_error(confidence, right, bins=1) == pytest.approx(0, abs=1e-6)


def test_calibration_of_a_plain_version_and_of_a_calibrated_network() -> None:
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(20_000, generator=generator)
    right = torch.rand(20_000, generator=generator) < confidence
    assert calibration_error(confidence, right) < 0.02
    half = torch.rand(500, generator=generator) < 0.5
    expected = 0.0
    for low in range(15):
        inside = (confidence[:500] >= low / 15) & (confidence[:500] < (low + 1) / 15)
        expected += abs(float(confidence[:500][inside].double().sum() - half[inside].sum())) / 500
    assert calibration_error(confidence[:500], half) == pytest.approx(expected, abs=1e-6)


def test_a_sure_network_that_is_always_wrong_has_the_largest_error() -> None:
    outputs, labels = 100 * torch.eye(3)[[0, 1, 2]], torch.tensor([1, 2, 0])
    assert CLASSES.calibration(outputs, labels) == {"ece": pytest.approx(100.0)}
    assert CLASSES.calibration(outputs, labels.roll(1)) == {"ece": pytest.approx(0.0)}
    assert DEGREES.calibration(torch.ones(3), torch.ones(3)) == {}


def test_confusions_by_hand() -> None:
    labels, chosen = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 1, 1, 0])
    outputs = torch.eye(3)[chosen]
    found = answers_of(outputs, data(CLASSES, labels), outputs, data(CLASSES, labels))
    assert found.confusion is not None
    assert found.confusion.tolist() == [[1, 2, 0], [1, 1, 0], [0, 0, 0]]
    assert confusions(found, 5) == [(0, 1, 2), (1, 0, 1)]
    assert found.by_group[:2].tolist() == pytest.approx([200 / 3, 50])
    assert math.isnan(found.by_group[2])  # no test image has this class
    assert found.limit is None
    assert found.reliability is not None
    assert found.reliability[:, 0].sum() == 5


def test_an_interval_of_values_by_hand() -> None:
    """Errors of 1 to 19 on 19 validation images: the limit is the 19th; test images of the first bin miss it."""
    truth = torch.zeros(19)
    val_outputs = torch.arange(1, 20) / 19.0
    test = data(DEGREES, torch.tensor([0.5, 0.5, 11.5, 11.5]))
    outputs = torch.tensor([2.5, 0.5, 11.0, 11.5])
    found = answers_of(outputs, test, val_outputs, data(DEGREES, truth))
    assert found.limit == pytest.approx(1.0)
    assert found.missed is not None
    assert found.missed[[0, 11]].tolist() == [50, 0]
    assert found.missed_in_all == 25
    assert found.by_group[[0, 11]].tolist() == pytest.approx([1.0, 0.25])
    assert found.confusion is None
    assert found.reliability is None


def test_too_few_validation_images_give_no_interval() -> None:
    few = data(DEGREES, torch.zeros(18))
    assert answers_of(torch.zeros(18), few, torch.zeros(18), few).limit is None


def test_several_values_have_errors_by_group() -> None:
    task = VectorRegression(names=("x", "y"), outputs=(DEGREES, DEGREES))
    labels = torch.rand((30, 2), generator=torch.Generator().manual_seed(0)) * 12
    found = answers_of(labels + 1.2, data(task, labels), labels, data(task, labels))
    assert found.by_group.nanmean() == pytest.approx(10.0, rel=1e-4)  # per cent of the range
    assert found.missed_in_all == 100
