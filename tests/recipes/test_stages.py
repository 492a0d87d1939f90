"""Stages are declared before anything is computed: a run makes what its plan lists, and nothing else."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import gankd.virtual.training
from gankd.bench.prices import Prices, StepTime, Timer
from gankd.commands import run, student
from gankd.commands.plan import plan, shared_rows, students_row
from gankd.config import override
from gankd.recipes import RECIPES, Recipe, generated, students, teacher
from gankd.recipes.arms import DEFAULT_ARMS, Arm, chosen_arms, default_arms
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import declare
from gankd.runs import Run
from gankd.storage import load_state

VIRTUAL = ("virtual.warmup=10", "virtual.every=2", "virtual.polish=15")
CHAIN = 'student.assistants=["cnn16","cnn8"]'
RUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "all": ((), tuple(DEFAULT_ARMS), ("teacher", "gan", "ratio", "synth")),
    "real images": ((), ("real", "real_matched"), ()),
    "a loss without a teacher": (("student.loss=LS + DML",), ("kd_matched",), ()),
    "a teacher only": ((), ("kd_matched",), ("teacher",)),
    "generated images": ((), ("raw",), ("teacher", "gan", "ratio", "synth")),
    "another teacher": (
        ("student.teacher=cnn4",),
        ("adjusted_kd",),
        ("teacher", "gan", "ratio", "synth", "teacher"),
    ),
    "another teacher only": (("student.teacher=cnn4",), ("kd_matched",), ("teacher",)),
    "assistants": ((CHAIN,), ("kd_matched",), ("teacher", "assistant-1-kd_matched", "assistant-2-kd_matched")),
    "a virtual teacher": ((*VIRTUAL, "student.loss=SoftTargets@virtual"), ("kd_matched",), ("teacher", "virtual")),
    "a virtual teacher afterwards": (
        (*VIRTUAL, "virtual.when=after", "student.loss=KD + SoftTargets@virtual"),
        ("adjusted_kd",),
        ("teacher", "virtual", "gan", "ratio", "synth"),
    ),
    "fine-tuning": (("student.init=finetune",), ("raw", "kd_matched"), ("teacher", "gan", "ratio", "synth")),
}
"""Settings, arms, and the stages that students rest on."""
EVERY = pytest.mark.parametrize("name", RUNS)


class Free(Timer):
    """Times nothing."""

    def __call__(self, what: str, work: Callable[[int], None], operations: Callable[[], float]) -> StepTime:
        return StepTime(1.0)


def experiment_of(name: str, tiny: tuple[str, ...], folder: Path) -> tuple[Experiment, tuple[Arm, ...]]:
    settings, names, _ = RUNS[name]
    recipe = override(RECIPES["digits"](), (*tiny, *settings))
    return Experiment.open(recipe, Run(folder)), chosen_arms(recipe, names)


def folders(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()


def planned(experiment: Experiment, arms: Sequence[Arm]) -> tuple[set[str], int]:
    """Folders before the students that a plan says will be made, and the number of students."""
    stages, prices = declare(experiment, arms, range(2)), Prices(Free())
    rows = shared_rows(experiment, arms, stages, prices)
    names = {stage.fingerprint: stage.path("").name for stage in stages.shared}
    left = {names[key] for key, row in rows.items() if row.status != "reuse"}
    return left, students_row(experiment, arms, stages, prices, 1).count


def made(experiment: Experiment, arms: Sequence[Arm]) -> set[str]:
    """Folders that the method makes."""
    before = folders(experiment.run.folder)
    with experiment.run:
        stages = cgan_kd(experiment, arms, range(2))
    assert all(stage.done for stage in stages.students.values())
    return folders(experiment.run.folder) - before


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is to be computed")

    for module, loops in (
        (teacher, ("train_supervised", "predict", "restore")),
        (
            generated,
            ("train_supervised", "train_gan", "train_autoencoder", "train_ratio", "generate", "load_generator"),
        ),
        (students, ("distill", "evaluate", "restore")),
        (gankd.virtual.training, ("polish",)),
    ):
        for name in loops:
            monkeypatch.setattr(module, name, fail)


@EVERY
def test_declaring_computes_and_writes_nothing(
    name: str, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch)
    experiment, arms = experiment_of(name, tiny, tmp_path / "run")
    stages = declare(experiment, arms, range(2))
    assert not any(stage.done for stage in stages)
    assert stages.unfinished(arms) == list(arms)
    assert [stage.name for stage in stages.shared] == list(RUNS[name][2])
    assert set(stages.students) == {(arm.name, seed) for arm in arms for seed in (0, 1)}
    assert stages.seconds == 0
    assert list(declare(experiment, arms).students) == []
    assert list(tmp_path.iterdir()) == []
    assert all(key.startswith("structure of") for key in experiment.memory)


@EVERY
def test_a_run_makes_what_its_plan_lists(name: str, tiny: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    experiment, arms = experiment_of(name, tiny, folder)
    names = [arm.name for arm in arms]
    stages = list(declare(experiment, arms, range(2)))
    rows = plan(experiment.recipe, folder, arms=names, timer=Free())
    assert {row.status for row in rows} == {"run"}
    assert len(rows) == len(RUNS[name][2]) + 1
    assert not folder.exists()
    left, count = planned(experiment, arms)

    found = made(experiment, arms)
    assert found == {stage.path("").name for stage in stages}
    assert {path for path in found if not path.startswith("student-")} == left
    assert sum(path.startswith("student-") for path in found) == count == rows[-1].count

    again = plan(experiment.recipe, folder, arms=names, timer=Free())
    assert [row.stage for row in again] == [row.stage for row in rows]
    assert {(row.status, row.count, row.seconds, row.megabytes) for row in again} == {("reuse", 0, 0.0, 0.0)}
    opened = Experiment.open(experiment.recipe, Run(folder))
    assert made(opened, arms) == set()
    stages = list(declare(opened, arms, range(2)))
    assert all(stage.done for stage in stages)
    assert declare(opened, arms, range(2)).seconds == pytest.approx(sum(stage.seconds for stage in stages))
    assert declare(opened, arms, range(2)).unfinished(arms) == []


GONE = {
    "all": (
        ("student-*",),
        ("student-raw-0-*",),
        ("student-kd_matched-1-*",),
        ("teacher-*",),
        ("gan-*", "ratio-*", "synth-*"),
        ("teacher-*", "student-kd_matched-1-*"),
        ("teacher-*", "student-real-1-*"),
        ("synth-*", "student-raw-0-*"),
        ("ratio-*", "synth-*", "student-raw-0-*"),
        ("gan-*", "student-raw-0-*"),
        ("gan-*", "ratio-*", "student-raw-0-*"),
        ("gan-*", "ratio-*", "synth-*", "student-kd_matched-0-*"),
    ),
    "another teacher": (("teacher-*",), ("teacher-*", "student-*-1-*")),
    "assistants": (
        ("assistant-*",),
        ("assistant-2-*", "student-*-1-*"),
        ("assistant-1-*", "student-*-1-*"),
        ("teacher-*", "student-*-1-*"),
        ("teacher-*", "assistant-1-*", "student-*-1-*"),
    ),
    "a virtual teacher": (
        ("virtual-*",),
        ("teacher-*", "student-*-1-*"),
        ("virtual-*", "student-*-1-*"),
        ("teacher-*", "virtual-*", "student-*-1-*"),
    ),
    "fine-tuning": (
        ("student-real-*",),
        ("student-real-0-*", "student-raw-0-*"),
        ("student-raw-1-*",),
        ("student-real-1-*", "student-raw-0-*"),
    ),
}
"""Folders that are deleted from finished runs."""


@pytest.fixture(scope="module")
def finished(tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a finished run, made when it is first asked for."""
    parent = tmp_path_factory.mktemp("stages")

    def folder(name: str) -> Path:
        if not (parent / name).is_dir():
            made(*experiment_of(name, tiny, parent / name))
        return parent / name

    return folder


@pytest.mark.parametrize(("name", "gone"), [(name, gone) for name, cases in GONE.items() for gone in cases])
def test_a_plan_of_what_is_left_is_what_is_made(
    name: str, gone: tuple[str, ...], tiny: tuple[str, ...], tmp_path: Path, finished: Callable[[str], Path]
) -> None:
    """Folders may be deleted, to save space or because they are damaged: plan and run agree on what is missing."""
    folder = Path(shutil.copytree(finished(name), tmp_path / "run"))
    for path in {path for pattern in gone for path in folder.glob(pattern)}:
        shutil.rmtree(path)
    experiment, arms = experiment_of(name, tiny, folder)
    left, count = planned(experiment, arms)
    nothing = all(stage.done for stage in declare(experiment, arms, range(2)).students.values())
    found = made(experiment, arms)
    assert not (nothing and found)  # what only finished students rest on is not made again
    own = {path for path in found if path.startswith("student-")}
    assert (found - own, len(own)) == (left, count)


def test_a_run_of_real_images_makes_no_teacher(
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = override(RECIPES["digits"](), (*tiny, "seeds=1"))
    for module, loop in ((teacher, "train_supervised"), (generated, "train_gan")):
        monkeypatch.setattr(module, loop, None)
    own = Arm(name="wide", augment=("shift",), role="control")
    assert [arm.name for arm in run(recipe, tmp_path, arms=["real", "real_matched", own]).arms] == [
        "real",
        "real_matched",
        "wide",
    ]
    assert {path.rpartition("-")[0] for path in folders(tmp_path)} == {"student-real-0", "student-real_matched-0"}
    assert len(folders(tmp_path)) == 3


def test_no_seeds_make_all_up_to_the_students(
    digits_run: tuple[Recipe, Path], tiny: tuple[str, ...], tmp_path: Path
) -> None:
    settings, _, names = RUNS["assistants"]
    recipe = override(RECIPES["digits"](), (*tiny, *settings))
    with Run(tmp_path) as opened:
        stages = cgan_kd(Experiment.open(recipe, opened), chosen_arms(recipe, ["kd_matched"]))
    assert [stage.name for stage in stages] == list(names)
    assert all(stage.done for stage in stages)
    recipe, folder = digits_run
    experiment = Experiment.open(recipe, Run(folder))
    assert all(stage.done for stage in cgan_kd(experiment, default_arms(recipe)))


def test_results_in_memory_are_those_on_disk(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    """Students trained by the process that made teacher and pool are those of a process that restores them."""
    recipe, finished = digits_run
    for pattern in ("teacher-*", "gan-*", "ratio-*", "synth-*"):
        for path in finished.glob(pattern):
            shutil.copytree(path, tmp_path / "restored" / path.name)
    names = ["adjusted_kd", "raw"]
    at_once, restored = (student(recipe, tmp_path / name, arms=names) for name in ("at once", "restored"))
    assert [arm.values for arm in at_once.arms] == [arm.values for arm in restored.arms]
    assert folders(tmp_path / "at once") == folders(tmp_path / "restored")
    for path in (tmp_path / "restored").glob("student-*"):
        one, other = (load_state(tmp_path / name / path.name / "model.safetensors") for name in ("at once", "restored"))
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())
