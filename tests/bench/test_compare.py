"""Students side by side: the same numbers as one after the other, and what is compared."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gankd.recipes.teacher
import gankd.recipes.workers
from gankd.bench import compare as module
from gankd.bench.compare import chosen_by_validation, compare, student_of
from gankd.bench.results import Choice
from gankd.commands import run
from gankd.config import override
from gankd.console import Console
from gankd.errors import ConfigError, ModelError
from gankd.models.contract import ImageModel, evaluate, measured, predict
from gankd.recipes import RECIPES, Recipe
from gankd.recipes.arms import Arm, arm_named, chosen_arms, default_arms
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import declare
from gankd.recipes.students import restore_student
from gankd.runs import Run, Stage
from gankd.storage import read_json


def fails(*_: Any, **__: Any) -> None:
    raise AssertionError("nothing should be trained")


def test_students_are_all_arms_with_all_seeds(digits_run: tuple[Recipe, Path]) -> None:
    recipe, folder = digits_run
    experiment = Experiment.open(recipe, Run(folder))
    students = declare(experiment, chosen_arms(recipe, ["raw", "real", "raw"]), range(2)).students
    assert list(students) == [("raw", 0), ("real", 0), ("raw", 1), ("real", 1)]
    assert len({stage.fingerprint for stage in students.values()}) == 4
    assert len(chosen_arms(recipe, None)) == 8
    with pytest.raises(ConfigError, match="no arm 'row'; did you mean raw"):
        chosen_arms(recipe, ["real", "row"])


@pytest.mark.slow
def test_workers_find_the_same_numbers(
    digits_run: tuple[Recipe, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, finished = digits_run
    for pattern in ("teacher-*", "gan-*", "ratio-*", "synth-*"):
        for path in finished.glob(pattern):
            shutil.copytree(path, tmp_path / "run" / path.name)
    splits = Experiment.open(recipe, Run(finished)).splits  # workers must take these, and nothing else
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
    monkeypatch.setattr(gankd.recipes.teacher, "train_supervised", fails)
    recipe = override(RECIPES["digits"](), tiny)
    with pytest.raises(ModelError, match="student narrow:Net gives outputs of shape \\(2, 3\\) for 2 images"):
        run(override(recipe, ["student.model=narrow:Net"]), tmp_path / "run")
    with pytest.raises(ModelError, match="student narrow:Bad fails on images of shape .*: KeyError 'no'"):
        run(override(recipe, ["student.model=narrow:Bad"]), tmp_path / "run")


def test_only_finished_students_are_compared(
    digits_run: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, finished = digits_run
    for pattern in ("real_matched-0", "real_matched-1", "adjusted-1"):
        for path in finished.glob(f"student-{pattern}-*"):
            shutil.copytree(path, tmp_path / path.name)
    experiment, arms = Experiment.open(recipe, Run(tmp_path)), default_arms(recipe)
    found = compare(experiment, arms, range(2))
    control, arm = found.arms
    assert (control.name, control.seeds, arm.name, arm.seeds) == ("real_matched", (0, 1), "adjusted", (1,))
    stages, splits = declare(experiment, arms, range(2)), experiment.splits
    student = student_of(experiment, arm_named(recipe, "real_matched"), 1, stages)
    expected = evaluate(student, splits.test, experiment.engine)
    detail = measured(splits.task, predict(student, splits.test.images, experiment.engine), splits.test.labels)
    assert control.metrics[1] == {**expected, "balanced": detail["balanced"], "ece": detail["ece"]}
    by_class = splits.task.by_class(predict(student, splits.test.images, experiment.engine), splits.test.labels)
    assert control.metrics[1]["balanced"] == pytest.approx(sum(by_class.values()) / len(by_class))
    assert control.values[1] == control.metrics[1]["top1"]
    validation = compare(experiment, arms, range(2), "val")
    assert validation.split == "val"
    assert validation.result("real_matched").values[1] == pytest.approx(
        evaluate(student, splits.val, experiment.engine)["top1"]
    )
    assert arm.vs["real_matched"].diff == pytest.approx(arm.values[0] - control.values[1])  # of the same seed
    assert found.gain("adjusted", "real_matched") == arm.vs["real_matched"]
    # Nothing to do: neither is a worker started, nor anything made that these students rest on.
    monkeypatch.setattr(gankd.recipes.workers, "run_jobs", fails)
    for name, seeds in (("real_matched", [0, 1]), ("adjusted", [1])):
        cgan_kd(experiment, [arm_named(recipe, name)], seeds, workers=2)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith("student-")]


@pytest.mark.parametrize(
    ("run_name", "better"), [("digits_run", {"adjusted": 1.0}), ("angles_run", {"adjusted_kd": -1.0})]
)
def test_validation_chooses_the_headline(
    run_name: str, better: dict[str, float], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = request.getfixturevalue(run_name)
    experiment, arms = Experiment.open(recipe, Run(folder)), default_arms(recipe)
    asked: list[int] = []
    bonus: dict[str, float] = {}

    def scored(student: Any, images: Tensor, engine: Any) -> Tensor:
        asked.append(len(images))
        return torch.tensor(50.0 + bonus.get(student.arm, 0.0))

    def named(experiment: Experiment, arm: Arm, stage: Stage) -> ImageModel:
        loaded = restore_student(experiment, arm, stage)
        loaded.arm = arm.name  # type: ignore[assignment]
        return loaded

    task = type(experiment.splits.task)
    monkeypatch.setattr(module, "predict", scored)
    monkeypatch.setattr(task, "metrics", lambda task, outputs, _: {task.metric: outputs.item()})
    for name in ("detail", "by_class", "calibration"):
        monkeypatch.setattr(task, name, lambda *_: {})
    monkeypatch.setattr(module, "restore_student", named)
    bonus.update(better)
    method = next(iter(better))
    assert chosen_by_validation(experiment, arms) == Choice(method, method, "real_matched")
    assert set(asked) == {len(experiment.splits.val)}
    bonus["kd_matched"] = 0.1 * better[method]
    bonus["raw"] = 100.0 * better[method]  # not an arm of the whole method: never in the headline
    assert chosen_by_validation(experiment, arms) == Choice("raw", method, "kd_matched")
    bonus["kd_matched"] = 200.0 * better[method]
    assert chosen_by_validation(experiment, arms) == Choice("kd_matched", method, "kd_matched")
    some = chosen_arms(recipe, ["real", "raw"])
    assert chosen_by_validation(experiment, some) == Choice("raw", None, None)
