"""`gankd tune`: trials on validation images, as many for each arm, kept, continued, and counted on the page."""

import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gankd.bench.compare import compare
from gankd.bench.results import Comparison
from gankd.commands import run, tune
from gankd.config import override
from gankd.errors import ConfigError, TrainingError
from gankd.recipes import Recipe
from gankd.recipes.arms import arms_from_file
from gankd.recipes.students import make_student

optuna = pytest.importorskip("optuna")
Outcome = tuple[int, str, str]
VARY = ("--vary", "student.lr=0.001..0.02", "--vary", "student.mix=none,mixup", "--vary", "student.fake_share=0.3..0.6")


@pytest.fixture
def copied(digits_run: tuple[Recipe, Path], tmp_path: Path) -> tuple[Recipe, Path]:
    recipe = override(digits_run[0], ["student.updates=6", "seeds=1"])
    return recipe, Path(shutil.copytree(digits_run[1], tmp_path / "run"))


def trials(folder: Path) -> list[tuple[str, str]]:
    """Arm and state of every trial, in their order."""
    with closing(sqlite3.connect(folder / "tune.db")) as database:
        rows = database.execute(
            "SELECT study_name, state FROM trials JOIN studies USING (study_id) ORDER BY trial_id"
        ).fetchall()
    return [(name.split()[0], state) for name, state in rows]


def test_a_search_is_kept_continued_and_counted(copied: tuple[Recipe, Path], gankd: Callable[..., Outcome]) -> None:
    recipe, folder = copied
    words = ["tune", folder, "--seeds", 1, "--set", "student.updates=6", *VARY, "--workers", 1, "--quiet"]
    code, out, err = gankd(*words, "--trials", 2)
    assert (code, err) == (0, "")
    assert trials(folder) == [("kd_matched", "COMPLETE"), ("adjusted_kd", "COMPLETE")] * 2
    assert f"on test images: gankd run {folder} --arms {folder / 'tuned.toml'}" in out
    before = (folder / "tune.json").read_text()
    assert gankd(*words, "--trials", 2)[1] == out  # nothing left to try
    assert (folder / "tune.json").read_text() == before

    code, out, _ = gankd(*words, "--trials", 4)
    assert [arm for arm, _ in trials(folder)] == ["kd_matched", "adjusted_kd"] * 4
    found = json.loads((folder / "tune.json").read_text())["arms"]
    assert {name: each["tried"] for name, each in found.items()} == {"kd_matched": 4, "adjusted_kd": 4}
    assert all(each["best"] >= each["recipe"] for each in found.values())
    assert set(found["kd_matched"]["settings"]) <= {"student.lr", "student.mix"}  # the third is for generated images
    assert "KD, equal updates   " in out

    arms = arms_from_file(folder / "tuned.toml")
    better = [each["title"] for each in found.values() if each["settings"]]
    assert [arm.title for arm in arms if arm.title.endswith(" (tuned)")] == [f"{title} (tuned)" for title in better]
    assert better  # six updates at the recipe's settings are easily beaten
    page = run(recipe, folder, arms=[str(folder / "tuned.toml")]).report
    assert page is not None
    assert f"{better[0]} (tuned): the best of 4 settings on validation images." in page.read_text()


def test_test_images_are_not_read(copied: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    module, read = sys.modules["gankd.commands.tune"], []

    def watched(experiment: Any, arms: Any, seeds: Any, split: Any) -> Comparison:
        read.append(split)
        return compare(experiment, arms, seeds, split)

    monkeypatch.setattr(module, "compare", watched)
    tune(copied[0], copied[1], trials=1, arms=["kd_matched"], vary=["student.lr=0.001..0.01"])
    assert read == ["val"]


def test_a_search_that_is_stopped_keeps_what_it_has(
    copied: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = copied

    def settings(number: int) -> None:
        tune(recipe, folder, trials=number, arms=["kd_matched"], vary=["student.lr=0.001..0.02"])

    settings(2)
    calls = []

    def interrupted(*args: object, **more: object) -> object:
        calls.append(1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["gankd.recipes.cgan_kd"], "make_student", interrupted)
        with pytest.raises(KeyboardInterrupt):
            settings(3)
    assert calls == [1]
    assert [state for _, state in trials(folder)] == ["COMPLETE", "COMPLETE", "RUNNING"]
    asked = optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'tune.db'}").trials[2].params
    settings(3)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'tune.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]
    assert study.trials[3].params == asked  # the same settings are tried to their end


def test_settings_that_fail_are_counted_and_the_recipes_own_end_it(
    copied: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = copied
    bad = ["#1"]

    def failing(experiment: Any, arm: Any, *args: Any, **more: Any) -> Any:
        if arm.name.endswith(bad[0]):
            raise TrainingError("the loss is not finite")
        return make_student(experiment, arm, *args, **more)

    monkeypatch.setattr(sys.modules["gankd.recipes.cgan_kd"], "make_student", failing)
    found = tune(recipe, folder, trials=3, arms=["kd_matched"], vary=["student.lr=0.001..0.02"])
    assert (found.arms[0].tried, found.arms[0].failed, len(found.arms[0].values)) == (3, 1, 2)
    assert "1 of 3 settings failed in training" in found.text
    bad[0] = "#0"
    with pytest.raises(TrainingError):
        tune(
            override(recipe, ["student.updates=7"]),
            folder,
            trials=1,
            arms=["adjusted_kd"],
            vary=["student.lr=0.001..0.02"],
        )


def test_what_is_refused(copied: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, folder = copied
    for given, words in (
        ({"trials": 0}, "--trials must be at least 1"),
        ({"vary": ["gan.steps=1..2"]}, "all students share"),
        ({"vary": ["select.rho=0.5..1"], "arms": ["kd_matched"]}, "has none of the settings to vary: select.rho"),
    ):
        with pytest.raises(ConfigError, match=words):
            tune(recipe, folder, **given)
    (folder / "tune.db").write_bytes(b"not a database" * 100)
    with pytest.raises(Exception, match="delete it to search anew"):
        tune(recipe, folder, trials=1)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'gankd\[tune\]'"):
        tune(recipe, folder)
