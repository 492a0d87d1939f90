"""Tables for other programs: as the option prints them, and as a data frame."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gankd.bench.stats import mean_stderr
from gankd.commands.compare import LossComparison
from gankd.commands.stages import evaluate
from gankd.errors import ConfigError
from gankd.recipes import Recipe

Outcome = tuple[int, str, str]


def test_the_table_of_a_run(gankd: Callable[..., Outcome], digits_run: tuple[Recipe, Path]) -> None:
    folder = digits_run[1]
    facts = json.loads(gankd("eval", folder, "--json")[1])
    code, text, _ = gankd("eval", folder, "--table", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert code == 0
    assert [row["arm"] for row in rows] == [arm["arm"] for arm in facts["arms"]]
    for row, arm in zip(rows, facts["arms"], strict=True):
        assert (float(row["top1"]), float(row["top1 stderr"])) == mean_stderr(arm["values"])
        assert float(row["ece"]) >= 0
    gains = {(row["arm"], row["control"]): row["diff"] for row in facts["rows"]}
    for row in rows:
        found = row["gain over real_matched"]
        assert (float(found) if found else None) == gains.get((row["arm"], "real_matched"))
    latex = gankd("eval", folder, "--table", "latex")[1]
    assert latex.startswith("\\begin{table}")
    assert latex.count(r"\\") == len(rows) + 1
    assert gankd("eval", folder, "--table", "markdown")[1].count("| ") > len(rows)


def test_only_one_form_is_printed(refused: Callable[..., str], digits_run: tuple[Recipe, Path]) -> None:
    assert "give one of them" in refused("eval", digits_run[1], "--table", "csv", "--json")


def test_run_folders_as_a_table(gankd: Callable[..., Outcome], digits_run: tuple[Recipe, Path]) -> None:
    (row,) = csv.DictReader(io.StringIO(gankd("runs", digits_run[1], "--table", "csv")[1]))
    assert (row["recipe"], row["state"]) == ("digits", "finished")


def test_losses_of_several_recipes_are_one_table() -> None:
    row = {"loss": "KD", "metric": "top1 %", "alone": "1.0", "alone_gain": "+1", "fakes": "2.0", "fakes_gain": "+2"}
    found = LossComparison([{"recipe": name, **row} for name in ("digits", "turntable")], 3, 1.0)
    rows = list(csv.reader(io.StringIO(found.table_as("csv"))))
    assert rows[0] == ["recipe", "loss", "real images only", "gain", "with cGAN-KD", "gain"]
    assert [line[:3] for line in rows[1:]] == [["digits", "KD", "1.0"], ["turntable", "KD", "1.0"]]


def test_a_data_frame_has_a_row_per_student(digits_run: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    result = evaluate(*digits_run)
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"to_pandas needs pandas .*: pip install 'gankd\[pandas\]'"):
        result.to_pandas()
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    rows: Any = result.to_pandas()
    assert len(rows) == sum(len(arm.seeds) for arm in result.arms)
    first, arm = rows[0], result.arms[0]
    assert (first["recipe"], first["split"], first["arm"], first["seed"]) == ("digits", "test", arm.name, 0)
    assert {name: first[name] for name in arm.metrics[0]} == arm.metrics[0]


@pytest.mark.compat
def test_a_data_frame_of_pandas(digits_run: tuple[Recipe, Path]) -> None:
    pytest.importorskip("pandas")
    result = evaluate(*digits_run)
    frame = result.to_pandas()
    means = frame.groupby("arm")["top1"].mean()
    assert {arm.name: means[arm.name] for arm in result.arms} == pytest.approx(
        {arm.name: sum(arm.values) / len(arm.values) for arm in result.arms}
    )
