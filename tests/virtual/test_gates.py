"""Gates as a person and a program read them: bounds in words, the table, plain data."""

import json
import math

import pytest
import torch

from gankd.virtual.failures import Failure
from gankd.virtual.gates import Gate, Gates

GATES = (
    Gate("mean", "class means, total variation", 0.05, 0.01, high=0.03),
    Gate("spread", "spread, as a share of the teacher's", 1.0, 1.0, 0.85, 1.15),
    Gate("rank", "order of wrong classes, rank correlation", 0.97, 1.0, low=0.97),
)
FOUND = Gates(GATES, (Failure("F1", "a text " * 20, "a remedy"),), {"mean_p": torch.tensor([[1 / 3, math.pi]])})


def test_bounds_are_inclusive_and_in_words() -> None:
    assert [gate.passed for gate in GATES] == [False, True, True]
    assert [gate.bound for gate in GATES] == ["at most 0.0300", "0.85 to 1.15", "at least 0.9700"]
    assert (FOUND.passed, FOUND.num_passed) == (False, 2)


def test_the_table_fits_its_width_and_marks_what_is_missed() -> None:
    lines = FOUND.table.splitlines()
    assert max(map(len, lines)) <= 120
    assert [line.endswith("missed") for line in lines[2:5]] == [True, False, False]
    assert lines[6] == "2 of 3 passed"
    assert lines[7].startswith("F1 a text")
    assert lines[-1].endswith("; a remedy")


def test_plain_data_has_four_digits() -> None:
    plain = json.loads(json.dumps(FOUND.to_dict()))
    assert plain["passed"] is False
    assert [one["name"] for one in plain["gates"]] == ["mean", "spread", "rank"]
    assert plain["warnings"][0]["remedy"] == "a remedy"
    assert plain["facts"]["mean_p"] == [[pytest.approx(0.3333, abs=0), pytest.approx(3.142, abs=0)]]
