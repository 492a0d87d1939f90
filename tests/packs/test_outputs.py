"""Teacher outputs in bytes: how far they move, and what is refused."""

import pytest
import torch
from torch import Tensor

from gankd.errors import ConfigError
from gankd.packs.outputs import DEEPEST, TOP, decode, encode
from gankd.tasks import Classification, Regression, VectorRegression

ANGLES = Regression(low=-40, high=90, unit="degrees")


def logits(count: int, classes: int, scale: float) -> Tensor:
    return scale * torch.randn(count, classes, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("classes", [2, 10, 20])
def test_a_byte_per_class_is_off_by_half_a_step(classes: int, scale: float) -> None:
    task, outputs = Classification(num_classes=classes), logits(200, classes, scale)
    stored = encode(outputs, task)
    assert stored["codes"].shape == (200, classes)
    expected = outputs.log_softmax(1)
    moved = (decode(stored, task, 200) - expected).abs()
    # Half a step of rounding, and at most as much again from the normalisation of the rounded numbers.
    assert moved[expected > -DEEPEST].max() <= stored["step"] + 1e-5
    assert stored["step"] <= max(-expected.min().item(), 1) / 255 + 1e-6


def test_shift_of_logits_is_not_kept() -> None:
    """A softmax does not see it."""
    task, outputs = Classification(num_classes=4), logits(5, 4, 2.0)
    assert torch.equal(encode(outputs, task)["codes"], encode(outputs + 7, task)["codes"])


def test_many_classes_keep_the_likeliest_and_the_rest_as_one_number() -> None:
    task, outputs = Classification(num_classes=300), logits(50, 300, 3.0)
    stored = encode(outputs, task)
    assert stored["codes"].shape == (50, TOP + 1)
    assert stored["classes"].shape == (50, TOP)
    found, expected = decode(stored, task, 50).exp(), outputs.softmax(1)
    top = expected.topk(TOP, 1).indices
    torch.testing.assert_close(found.gather(1, top), expected.gather(1, top), rtol=0.1, atol=1e-4)
    torch.testing.assert_close(found.sum(1), torch.ones(50))
    others = torch.ones_like(found, dtype=torch.bool).scatter(1, top, False)
    assert all(len(row[mask].unique()) == 1 for row, mask in zip(found, others, strict=True))


def test_certain_outputs_survive() -> None:
    task = Classification(num_classes=30)
    outputs = torch.zeros(2, 30)
    outputs[0, 7], outputs[1, 3] = 1000.0, 40.0
    found = decode(encode(outputs, task), task, 2)
    assert found.isfinite().all()
    assert found.argmax(1).tolist() == [7, 3]


def test_values_are_within_a_four_thousandth_of_the_range() -> None:
    values = torch.linspace(-45, 95, 1001)  # a teacher may leave the range
    found = decode(encode(values, ANGLES), ANGLES, 1001)
    assert (found - values).abs().max() <= 130 / 4000
    assert encode(values, ANGLES)["values"].dtype == torch.float16


def test_several_values_have_a_range_each() -> None:
    ranges = (Regression(low=0, high=1), Regression(low=-90, high=90))
    task = VectorRegression(names=("x", "angle"), outputs=ranges)
    values = torch.stack([torch.linspace(0, 1, 50), torch.linspace(90, -90, 50)], 1)
    found = decode(encode(values, task), task, 50)
    assert ((found - values).abs().amax(0) <= torch.tensor([1, 180]) / 4000).all()


@pytest.mark.parametrize(
    ("classes", "change"),
    [
        (10, {"codes": torch.zeros(5, 10)}),
        (10, {"codes": torch.zeros((5, 9), dtype=torch.uint8)}),
        (10, {"codes": torch.zeros((4, 10), dtype=torch.uint8)}),
        (10, {"codes": None}),
        (10, {"step": float("nan")}),
        (10, {"step": 0.0}),
        (10, {"step": 1e9}),
        (10, {"step": "1"}),
        (30, {"classes": torch.zeros((5, TOP), dtype=torch.int32)}),
        (30, {"classes": torch.arange(TOP, dtype=torch.int32).repeat(5, 1) + 20}),
        (30, {"classes": torch.arange(TOP, dtype=torch.int32).repeat(5, 1) - 1}),
        (30, {"classes": None}),
        (0, {"values": torch.full((5,), torch.inf).half()}),
        (0, {"values": torch.zeros(5)}),
        (0, {"values": torch.zeros(6).half()}),
    ],
)
def test_other_numbers_are_refused(classes: int, change: dict[str, object]) -> None:
    task = Classification(num_classes=classes) if classes else ANGLES
    stored = encode(logits(5, classes, 1.0) if classes else torch.zeros(5), task)
    decode(stored, task, 5)
    with pytest.raises(ConfigError, match="outputs"):
        decode(stored | change, task, 5)
