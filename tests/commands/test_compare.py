"""`gankd compare`: every loss alone and with generated images, against one update-matched control."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gankd.bench.stats import paired_interval
from gankd.commands import compare_losses
from gankd.storage import NOTES, read_json

Outcome = tuple[int, str, str]


@pytest.mark.parametrize("recipe", ["digits", "rotated-digits"])
def test_every_loss_meets_the_same_control(recipe: str, tiny: tuple[str, ...], tmp_path: Path) -> None:
    workers = 2 if recipe == "digits" else 1
    found = compare_losses([recipe], tmp_path, losses=["KD", "0.5*RKD + AT"], changes=tiny, seeds=2, workers=workers)
    labels, kd, sum_ = found.rows
    weight = 1000 if recipe == "digits" else 10
    assert [row["loss"] for row in found.rows] == ["labels only", "KD", f"0.5*RKD + {weight}*AT"]
    for row in (kd, sum_):
        interval = paired_interval(row["alone_values"], labels["alone_values"], higher_is_better=recipe == "digits")
        assert row["alone_gain"] == f"{interval.diff:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"
        assert row["alone_worse"] == (interval.high < 0)
        assert row["alone_values"] != labels["alone_values"]
        assert row["fakes_values"] != labels["fakes_values"]
    assert len(list(tmp_path.glob(f"{recipe}/student-*"))) == 2 * 2 * 3  # arms, seeds, rows
    assert len({row["updates"] for row in found.rows}) == 1
    spent = [read_json(path)["seconds"] for path in tmp_path.glob(f"{recipe}/*/done.json")]
    assert found.seconds == pytest.approx(sum(spent))  # whichever process trained a student
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("done.json")}
    again = compare_losses([recipe], tmp_path, losses=["KD"], changes=tiny, seeds=2)
    assert again.rows[1] == kd
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("done.json")}


def test_the_page_is_written_with_its_notes_kept(
    tiny: tuple[str, ...], tmp_path: Path, gankd: Callable[..., Outcome]
) -> None:
    page = tmp_path / "docs" / "losses.md"
    words = [word for change in tiny for word in ("--set", change)]
    line = ["compare", "digits", "--out", tmp_path / "runs", "--page", page, "--seeds", "2", "--loss", "KD", "--quiet"]
    code, out, err = gankd(*line, *words, "--workers", 2)
    assert (code, err) == (0, "")
    alone = compare_losses(["digits"], tmp_path / "alone", losses=["KD"], changes=tiny, seeds=2)
    rows = json.loads(page.with_suffix(".json").read_text())
    for side_by_side, one_by_one in zip(rows, alone.rows, strict=True):
        assert side_by_side["alone_values"] == one_by_one["alone_values"]
        assert side_by_side["fakes_values"] == one_by_one["fakes_values"]
    assert "labels only" in out
    assert "| KD |" in page.read_text()
    assert rows[1]["loss"] == "KD"
    page.write_text(page.read_text().rstrip() + "\nWhy so.\n")
    code, _, _ = gankd(*line, *words)
    assert code == 0
    assert page.read_text().endswith(f"{NOTES}\nWhy so.\n")
    assert page.read_text().count("| KD |") == 1
