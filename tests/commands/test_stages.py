"""The single commands: each goes on from the folder that the earlier one left, with its settings."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import gankd.recipes.generated
import gankd.recipes.students
import gankd.recipes.teacher
from gankd import commands
from gankd.commands import stages
from gankd.commands.stages import find_recipe, find_run, stored_run
from gankd.config import override
from gankd.errors import CheckpointError, ConfigError
from gankd.recipes import RECIPES, Recipe
from gankd.recipes.arms import DEFAULT_ARMS
from gankd.recipes.experiment import Experiment
from gankd.runs import Run
from gankd.storage import read_json, write_json

LOOPS = {
    "train_supervised": gankd.recipes.teacher,
    "train_gan": gankd.recipes.generated,
    "train_ratio": gankd.recipes.generated,
    "generate": gankd.recipes.generated,
    "distill": gankd.recipes.students,
}
Outcome = tuple[int, str, str]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the training loops that have run."""
    made: list[str] = []

    def watched(module: Any, name: str) -> Callable[..., Any]:
        loop = getattr(module, name)

        def call(*args: Any, **options: Any) -> Any:
            made.append(name)
            return loop(*args, **options)

        return call

    for name, module in LOOPS.items():
        monkeypatch.setattr(module, name, watched(module, name))
    return made


def test_commands_in_turn_read_the_folder_of_the_earlier_one(
    tiny: tuple[str, ...],
    digits_run: tuple[Recipe, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    calls: list[str],
    gankd: Callable[..., Outcome],
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [word for setting in tiny for word in ("--set", setting)]

    def done(*words: str) -> dict[str, Any]:
        calls.clear()
        code, out, err = gankd(*words, "--json")
        assert code == 0, err
        result: dict[str, Any] = json.loads(out.splitlines()[-1])
        assert result.pop("event") == "result"
        return result

    assert done("teach", "digits", *settings)["top1"] > 15
    assert calls == ["train_supervised"]
    assert done("gan", "runs/digits")["stage"] == "gan"  # the folder carries the settings
    assert calls == ["train_gan"]
    assert done("ratio", "runs/digits")["epoch"] >= 1
    assert calls == ["train_ratio"]
    made = done("synth", "runs/digits")
    assert made["generated"] == 768
    assert 0 < made["T.stddev consistent"] != made["T.stddev generated"]
    assert calls == ["generate"]
    found = done("student", "runs/digits", "--arms", "real,adjusted", "--workers", "1")
    assert calls == ["distill"] * 4
    assert [arm["arm"] for arm in found["arms"]] == ["real", "adjusted"]
    assert done("eval", "runs/digits") != done("eval", "digits", "--split", "val")
    assert [row["status"] for row in done("plan", "runs/digits")["stages"]] == ["reuse"] * 4 + ["run"]
    page = Path(done("report", "digits")["report"])
    assert page == Path("runs/digits/report.html")
    assert page.is_file()
    assert calls == []
    written = done("sample", "runs/digits", "--labels", "3,5", "--count", "2")["written"]
    assert Path(written).is_file()

    found = done("resume", "digits", "--workers", "1")
    assert calls == ["distill"] * 12  # two of eight arms were there
    expected = read_json(digits_run[1] / "results.json")
    assert found["arms"] == expected["arms"]
    assert [row["diff"] for row in found["rows"]] == [row["diff"] for row in expected["rows"]]


def test_resume_keeps_settings_seeds_and_arms(
    digits_run: tuple[Recipe, Path], tmp_path: Path, gankd: Callable[..., Outcome]
) -> None:
    folder = Path(shutil.copytree(digits_run[1], tmp_path / "a folder, with spaces ü"))
    code, *_ = gankd("run", folder, "--arms", "raw,real", "--seeds", 1, "--quiet")
    assert code == 0
    assert stored_run(folder)[1] == ["raw", "real"]
    assert gankd("teach", folder, "--quiet")[0] == 0  # a single stage leaves the arms as they are
    code, out, _ = gankd("resume", folder, "--json", "--workers", 1)
    arms = json.loads(out.splitlines()[-1])["arms"]
    assert [(arm["arm"], arm["seeds"]) for arm in arms] == [("raw", [0]), ("real", [0])]
    assert commands.resume(folder).arms[0].seeds == (0,)


def test_a_run_killed_as_soon_as_its_settings_are_stored_resumes_with_its_arms(
    digits_run: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, store = Path(shutil.copytree(digits_run[1], tmp_path / "run")), stages.store_run

    def killed(*given: Any) -> None:
        store(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "store_run", killed)
    with pytest.raises(KeyboardInterrupt):
        commands.run(digits_run[0], folder, arms=["raw", "real"])
    assert stored_run(folder)[1] == ["raw", "real"]
    with pytest.raises(KeyboardInterrupt):
        commands.run(digits_run[0], folder)
    assert stored_run(folder)[1] is None


def test_changed_settings_are_said_once(
    digits_run: tuple[Recipe, Path], tmp_path: Path, gankd: Callable[..., Outcome]
) -> None:
    folder = Path(shutil.copytree(digits_run[1], tmp_path / "run"))
    _, _, err = gankd("teach", folder, "--set", "select.rho=0.5")
    assert err == (
        f"settings           changed since the last use of {folder}: select.rho 0.5 (was None); "
        "name the folder instead of the recipe to keep them\n"
    )
    assert gankd("teach", folder)[2] == ""
    assert stored_run(folder)[0].select.rho == 0.5


def test_recipes_and_folders_are_found(
    digits_run: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe, folder = digits_run
    assert find_recipe("digits") == (RECIPES["digits"](), Path("runs/digits"))
    assert find_recipe("digits", Path("x")) == (RECIPES["digits"](), Path("x"))
    assert find_recipe(str(folder)) == (recipe, folder)
    assert find_recipe(str(folder), Path("x")) == (recipe, Path("x"))
    with pytest.raises(ConfigError, match="no recipe and no run folder 'digit'; did you mean digits"):
        find_recipe("digit")
    with pytest.raises(ConfigError, match="for your own images: gankd run folder --data \\."):
        find_recipe(".")

    with pytest.raises(ConfigError, match="no run in digits .*; start one with: gankd run RECIPE"):
        find_run("digits")
    write_json(tmp_path / "runs" / "digits" / "run.json", {})
    assert find_run("digits") == Path("runs/digits")
    with pytest.raises(ConfigError, match="no run in digit .*; did you mean runs/digits?"):
        find_run("digit")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"recipe": 3, "arms": null}', '{"recipe": {}, "arms": 5}'])
def test_a_damaged_record_is_named_and_can_be_written_anew(
    text: str, digits_run: tuple[Recipe, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match="run.json is damaged: .*; give them again with: gankd run RECIPE --out"):
        commands.resume(folder)
    shutil.copytree(next(digits_run[1].glob("teacher-*")), folder / next(digits_run[1].glob("teacher-*")).name)
    commands.teach(digits_run[0], folder)
    assert stored_run(folder) == (digits_run[0], None)


def test_a_record_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"recipe": {"gan": {"stepps": 3}}, "arms": None})
    with pytest.raises(ConfigError, match="run.json: no setting gan.stepps; did you mean steps"):
        commands.resume(tmp_path)
    write_json(tmp_path / "run.json", {"recipe": {}, "arms": ["raw", "new"]})
    with pytest.raises(ConfigError, match="no arm 'new'; "):
        commands.resume(tmp_path)


def test_images_in_memory_are_not_mixed_up_with_those_of_the_recipe(
    digits_run: tuple[Recipe, Path], tmp_path: Path, refused: Callable[..., str]
) -> None:
    recipe, finished = digits_run
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    splits = Experiment.open(recipe, Run(finished)).splits
    commands.run(recipe, folder, splits=splits, arms=["real"])
    for command in ("resume", "eval", "run"):
        assert refused(command, folder) == (
            f"{folder} was given splits in memory; resume in Python: run(recipe, folder, splits=...)"
        )
    commands.student(recipe, folder, arms=["real"])  # now with the recipe's
    assert stored_run(folder)[0] == recipe


def test_a_partial_run_gives_a_partial_report(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, folder = digits_run
    part = tmp_path / "run"
    part.mkdir()
    with pytest.raises(ConfigError, match="no finished student in .*; run: gankd student "):
        commands.evaluate(recipe, part)
    pages = [commands.report(recipe, part).read_text()]
    for patterns in (("teacher-*", "gan-*"), ("ratio-*", "synth-*", "student-real-0-*")):
        for path in (path for pattern in patterns for path in folder.glob(pattern)):
            shutil.copytree(path, part / path.name)
        pages.append(commands.report(recipe, part).read_text())
    assert all(len(page) < len(more) for page, more in pairwise(pages))
    (arm,) = commands.evaluate(recipe, part).arms
    assert (arm.name, arm.seeds) == ("real", (0,))
    assert all(DEFAULT_ARMS[name].title not in pages[0] for name in ("raw", "adjusted_kd"))


def test_bad_images_leave_no_folder(tmp_path: Path) -> None:
    recipe = override(RECIPES["folder"](), [f"data.root={tmp_path / 'absent'}"])
    for command in (commands.run, commands.teach):
        with pytest.raises(Exception, match="no folder"):
            command(recipe, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
