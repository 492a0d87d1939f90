"""Units of a regressor that does not answer in those of the labels, recognised by a linear fit."""

import math

from torch import Tensor

FACTORS = {
    180 / math.pi: "radians instead of degrees",
    math.pi / 180: "degrees instead of radians",
    360.0: "whole turns instead of degrees",
    100.0: "shares instead of per cent",
    0.01: "per cent instead of shares",
    10.0: "tenfold units",
    0.1: "tenth units",
    1000.0: "thousandfold units",
    0.001: "thousandth units",
    12.0: "years instead of months",
    1 / 12: "months instead of years",
}
"""Label over output, where one unit was taken for another."""


def likely_unit(outputs: Tensor, labels: Tensor, low: float, high: float) -> tuple[float, float, str]:
    """Offset and factor from outputs (N,) to labels (N,), and their likely cause in words.

    A usual cause is taken if it leaves little more error than the best line (least squares) or 2 % of the range.
    """
    x, y = outputs.double(), labels.double()
    mean, spread = y.mean().item(), y.std().item()
    variance = (x - x.mean()).square().mean().item()
    factor = ((x - x.mean()) * (y - y.mean())).mean().item() / variance if variance > 0 else 0.0
    offset = mean - factor * x.mean().item()

    def error(offset: float, factor: float) -> float:
        return (offset + factor * x - y).abs().mean().item()

    usual = [
        (low, high - low, "the unit scale: [0, 1] instead of the label range"),
        ((low + high) / 2, (high - low) / 2, "the scale [-1, 1] instead of the label range"),
        (mean, spread, "standardised labels: mean 0 and standard deviation 1"),
        (0.0, max(high, -low), "labels divided by the largest"),
        *((0.0, each, cause) for each, cause in FACTORS.items()),
        (32.0, 1.8, "Celsius instead of Fahrenheit"),
        (-32 / 1.8, 1 / 1.8, "Fahrenheit instead of Celsius"),
        (0.0, -1.0, "the opposite sign"),
        (offset, 1.0, "another zero"),
    ]
    best = error(offset, factor)
    close = [each for each in usual if error(*each[:2]) <= 1.25 * best + 0.02 * (high - low)]
    return min(close, key=lambda each: error(*each[:2])) if close else (offset, factor, "a linear change fits them")
