"""`gankd student --search`: augmentation and length are chosen for the labels only, and the run folder keeps them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gankd.commands import run, search
from gankd.commands.search import SearchResult, best, settings
from gankd.commands.stages import stored_run
from gankd.config import override
from gankd.recipes import RECIPES, Recipe
from gankd.tasks import Classification, Regression

Outcome = tuple[int, str, str]


def test_six_settings_are_tried_cheap_ones_first() -> None:
    recipe = override(RECIPES["digits"](), ["student.updates=10"])
    found = settings(recipe, Classification(num_classes=2))
    assert [one.updates for one in found] == [10, 10, 10, 40, 40, 40]
    assert [one.augment for one in found[:3]] == [(), ("teacher",), ("teacher", "trivial", "erase")]
    assert [one.augment for one in found[3:]] == [one.augment for one in found[:3]]
    values = settings(recipe, Regression(low=0.0, high=1.0))
    assert values[2].augment == ("teacher", "colour", "erase")  # nothing that could change a value
    assert best({"a": 1.0, "b": 2.0, "c": 2.0}, Classification(num_classes=2)) == "b"
    assert best({"a": 1.0, "b": 2.0, "c": 1.0}, Regression(low=0.0, high=1.0)) == "a"


def test_a_search_is_kept_and_counted_on_the_page(
    digits_run: tuple[Recipe, Path], tmp_path: Path, gankd: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = digits_run[0], Path(shutil.copytree(digits_run[1], tmp_path / "run"))
    code, out, err = gankd("student", folder, "--search", "--arms", "kd_matched", "--workers", 1, "--quiet")
    assert (code, err) == (0, "")
    assert "at its own best" in out
    assert "chosen for the labels only, among 6 settings: " in out
    kept = json.loads((folder / "search.json").read_text())
    assert list(kept["values"]) == ["real, equal updates", "KD, equal updates"]
    assert [len(values) for values in kept["values"].values()] == [6, 6]
    labels = kept["values"]["real, equal updates"]
    assert labels[kept["choice"]["setting"]] == max(labels.values())

    chosen = stored_run(folder)[0]
    assert [list(chosen.student.augment), chosen.student.updates] == [
        kept["choice"]["augment"],
        kept["choice"]["updates"],
    ]
    found = run(chosen, folder, arms=["real_matched"])  # as gankd run FOLDER: the student of the search is reused
    assert found.report is not None
    words = "were chosen for the labels only, on validation images, among 6 settings: "
    assert words + kept["choice"]["setting"] in found.report.read_text().replace("&#39;", "'")
    assert words not in str(run(recipe, folder, arms=["real_matched"]).report.read_text())  # type: ignore[union-attr]


def test_each_arm_is_shown_at_the_choice_and_at_its_own_best() -> None:
    recipe, task = override(RECIPES["digits"](), ["student.updates=10"]), Classification(num_classes=2)
    values = {"real": {"plain, x1": 90.0, "plain, x4": 91.0}, "KD": {"plain, x1": 95.0, "plain, x4": 94.0}}
    found = SearchResult(recipe, "plain, x4", values, task, 3)
    lines = found.text.splitlines()
    assert any(line.split() == ["KD", "94.00", "95.00", "plain,", "x1"] for line in lines)
    assert any(line.split() == ["real", "91.00", "91.00", "plain,", "x4"] for line in lines)
    assert found.to_dict()["seeds"] == 3
    assert search is not None
