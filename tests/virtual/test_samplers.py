"""Samplers: the smoothed label that is as soft as a table; `test_readers` tests their means and spreads."""

import math

import pytest
import torch

from gankd.virtual.samplers import matched_epsilon


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 0.9])
def test_epsilon_is_found_from_the_entropy(epsilon: float) -> None:
    table = torch.full((5, 5), epsilon / 5, dtype=torch.float64).fill_diagonal_(1 - epsilon + epsilon / 5)
    assert matched_epsilon(table) == pytest.approx(epsilon, abs=1e-12)


def test_epsilon_of_a_uniform_and_of_a_certain_table() -> None:
    assert matched_epsilon(torch.full((4, 4), 0.25)) > 0.99
    assert matched_epsilon(torch.eye(4)) == 1e-6
    above = torch.eye(4) * (1 + 1e-6)  # rounding, with an entropy below 0
    assert torch.special.entr(above).sum() < 0 < math.log(4)
    assert matched_epsilon(above) == 1e-6
