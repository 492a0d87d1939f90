"""Students side by side: the same numbers as one after the other, and what is compared."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gankd.recipes.taught
from gankd.bench import compare as module
from gankd.bench.compare import cells, chosen_by_validation, compare, train_students
from gankd.commands import run
from gankd.config import override
from gankd.console import Console
from gankd.errors import ConfigError, ModelError
from gankd.models.contract import evaluate
from gankd.recipes import RECIPES, Recipe
from gankd.recipes.arms import ARMS
from gankd.recipes.cgan_kd import CganKd
from gankd.runs import Run
from gankd.storage import read_json


def test_cells_are_all_arms_with_all_seeds() -> None:
    recipe = override(RECIPES["digits"](), ["seeds=2"])
    assert cells(recipe, ["raw", "real", "raw"]) == [("raw", 0), ("real", 0), ("raw", 1), ("real", 1)]
    assert len(cells(recipe)) == 2 * len(ARMS)
    with pytest.raises(ConfigError, match="no arm 'row'; did you mean raw"):
        cells(recipe, ["real", "row"])


@pytest.mark.slow
def test_workers_find_the_same_numbers(
    digits_run: tuple[Recipe, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, finished = digits_run
    for pattern in ("teacher-*", "gan-*", "ratio-*", "synth-*"):
        for path in finished.glob(pattern):
            shutil.copytree(path, tmp_path / "run" / path.name)
    splits = CganKd(recipe, Run(finished)).splits  # workers must take these, and nothing else
    elsewhere = override(recipe, ["data.num_train=50"])
    run(elsewhere, tmp_path / "run", workers=2, console=Console("plain"), splits=splits)
    assert read_json(tmp_path / "run" / "results.json")["arms"] == read_json(finished / "results.json")["arms"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "students           16 to train, 2 at a time"
    assert lines[-1].startswith("students           16 trained in ")


def test_a_student_that_does_not_fit_is_refused_before_anything_is_trained(
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "narrow.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self): super().__init__()\n"
        "    def forward(self, x): return x.flatten(1)[:, :3]\n"
        "class Bad(Net):\n"
        "    def forward(self, x): raise KeyError('no')\n"
    )
    monkeypatch.chdir(tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing should be trained")

    monkeypatch.setattr(gankd.recipes.taught, "train_supervised", fail)
    recipe = override(RECIPES["digits"](), tiny)
    with pytest.raises(ModelError, match="student narrow:Net gives outputs of shape \\(2, 3\\) for 2 images"):
        run(override(recipe, ["student.model=narrow:Net"]), tmp_path / "run")
    with pytest.raises(ModelError, match="student narrow:Bad fails on images of shape .*: KeyError 'no'"):
        run(override(recipe, ["student.model=narrow:Bad"]), tmp_path / "run")


def test_only_finished_students_are_compared(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, finished = digits_run
    for pattern in ("real_matched-0", "real_matched-1", "adjusted-1"):
        for path in finished.glob(f"student-{pattern}-*"):
            shutil.copytree(path, tmp_path / path.name)
    method = CganKd(recipe, Run(tmp_path))
    control, arm = compare(method, cells(recipe))
    assert (control.arm, control.seeds, arm.arm, arm.seeds) == ("real_matched", (0, 1), "adjusted", (1,))
    test, val = method.splits.test, method.splits.val
    assert control.values[1] == evaluate(method.student("real_matched", 1), test, method.engine)["top1"]
    assert compare(method, cells(recipe), "val")[0].values[1] == pytest.approx(
        evaluate(method.student("real_matched", 1), val, method.engine)["top1"]
    )
    assert arm.vs["real_matched"].diff == pytest.approx(arm.values[0] - control.values[1])  # of the same seed
    train_students(method, [("real_matched", 0), ("adjusted", 1)], 2)  # nothing to do, and no worker to wait for


@pytest.mark.parametrize(
    ("run_name", "better"), [("digits_run", {"adjusted": 1.0}), ("angles_run", {"adjusted_kd": -1.0})]
)
def test_validation_chooses_the_headline(
    run_name: str, better: dict[str, float], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = request.getfixturevalue(run_name)
    method = CganKd(recipe, Run(folder))
    asked: list[int] = []
    bonus: dict[str, float] = {}

    def scored(student: Any, data: Any, engine: Any) -> dict[str, float]:
        asked.append(len(data))
        return {data.task.metric: 50.0 + bonus.get(student.arm, 0.0)}

    load: Callable[..., Any] = method.student

    def student(name: str, seed: int) -> Any:
        loaded = load(name, seed)
        loaded.arm = name
        return loaded

    monkeypatch.setattr(module, "evaluate", scored)
    monkeypatch.setattr(method, "student", student)
    bonus.update(better)
    assert chosen_by_validation(method, cells(recipe)) == next(iter(better))
    assert set(asked) == {len(method.splits.val)}
    bonus["raw"] = 100.0 * next(iter(better.values()))  # no arm of the whole method: never in the headline
    assert chosen_by_validation(method, cells(recipe)) == next(iter(better))
    assert chosen_by_validation(method, cells(recipe, ["real", "raw"])) is None
