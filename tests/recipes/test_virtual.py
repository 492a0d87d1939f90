"""The virtual teacher as a stage: trained with the teacher or after it, reused, brought from elsewhere."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gankd.recipes.taught
import gankd.virtual.training
from gankd.config import override
from gankd.data.images import Splits
from gankd.errors import CheckpointError, ConfigError, DataError
from gankd.recipes import Recipe
from gankd.recipes.arms import ARMS
from gankd.recipes.cgan_kd import CganKd
from gankd.runs import Run
from gankd.storage import load_state
from gankd.tasks import Classification
from gankd.virtual import VirtualTeacher

VIRTUAL = ("virtual.warmup=10", "virtual.every=2", "virtual.polish=15", "virtual.batch_size=32", "virtual.bins=12")


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make training loops fail."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("this should have been reused")

    def call(*loops: str) -> None:
        for name in loops:
            module = gankd.virtual.training if name == "polish" else gankd.recipes.taught
            monkeypatch.setattr(module, name, fail)

    return call


def method(recipe: Recipe, folder: Path, *settings: str) -> CganKd:
    return CganKd(override(recipe, (*VIRTUAL, *settings)), Run(folder))


def test_the_teacher_is_the_same_with_and_without(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    """Made with its virtual teacher at once, it is the teacher that a run without one has: A14."""
    recipe, finished = digits_run
    made = method(recipe, tmp_path / "run")
    virtual = made.virtual
    assert made.teacher_stage.done
    (alone,) = finished.glob("teacher-*")
    assert made.teacher_stage.folder is not None
    assert made.teacher_stage.folder.name == alone.name
    state = load_state(made.teacher_stage.path("model.safetensors"))
    expected = load_state(alone / "model.safetensors")
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    lines = [path.joinpath("metrics.jsonl").read_text() for path in (made.teacher_stage.folder, alone)]
    assert lines[0] == lines[1]
    assert (virtual.generator.training, virtual.means.shape) == (False, (10, 10))
    assert made.virtual_stage.result is not None
    assert 0 < made.virtual_stage.result["kilobytes"] < 100
    assert len(list(made.virtual_stage.path("snapshots").iterdir())) == 9  # of ten; the first falls into the warm-up


def test_it_is_made_once_and_told_from_its_settings(
    digits_run: tuple[Recipe, Path], tmp_path: Path, forbid: Callable[..., None]
) -> None:
    recipe, finished = digits_run
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    first = method(recipe, folder).virtual  # the teacher is there: it is trained again, for the generator to watch
    forbid("train_supervised", "polish")
    again = method(recipe, folder).virtual
    z, labels = torch.randn(4, first.generator.z_dim), torch.arange(4)
    assert torch.equal(first.draw(labels, z), again.draw(labels, z))
    other = method(recipe, folder, "virtual.polish=16").virtual_stage
    assert not other.done
    after = method(recipe, folder, "virtual.when=after").virtual_stage
    assert after.fingerprint not in (other.fingerprint, method(recipe, folder).virtual_stage.fingerprint)


def test_students_rest_on_what_they_read(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, finished = digits_run
    folder = Path(shutil.copytree(finished, tmp_path / "run"))

    def stage(*settings: str) -> str:
        return method(recipe, folder, *settings).student_stage("kd_matched", 0).fingerprint

    plain, read = stage(), stage("student.loss=SoftTargets@virtual")
    assert read != stage("student.loss=SoftTargets@table")
    assert read != stage("student.loss=SoftTargets@virtual", "virtual.polish=16")
    assert plain == stage("virtual.polish=16")
    tf = stage("student.loss=SoftTargets@tf")
    assert tf == stage("student.loss=SoftTargets@tf", "virtual.polish=16")
    made = method(recipe, folder, "student.loss=0.1*Label + 0.9*SoftTargets@virtual")
    student = made.student("kd_matched", 0)
    assert made.student_stage("kd_matched", 0).result is not None
    assert not torch.equal(student.net.state_dict()["head.weight"], torch.zeros(1))
    fakes = method(recipe, folder, "student.loss=Label + KD@virtual(stored=True)")
    fakes.check_students([ARMS["adjusted_kd"]])
    fakes.student("adjusted_kd", 0)


def test_values_have_a_distribution_read_off_the_teacher(
    angles_run: tuple[Recipe, Path], tmp_path: Path, forbid: Callable[..., None]
) -> None:
    recipe, finished = angles_run
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    forbid("train_supervised")  # after the teacher, which is left alone
    made = method(recipe, folder, "student.loss=Label + Distribution@virtual")
    assert not made.beside
    virtual = made.virtual
    assert virtual.bank is not None
    assert virtual.bank.logits.shape[1] == virtual.num_outputs == 12
    assert ((virtual.bank.labels >= 0) & (virtual.bank.labels <= 1)).all()
    made.student("kd_matched", 0)
    again = method(recipe, folder)
    images = made.splits.val.images
    assert torch.equal(again.output_reader(images), made.output_reader(images))


def test_a_file_from_elsewhere_needs_no_teacher(
    digits_run: tuple[Recipe, Path], tmp_path: Path, forbid: Callable[..., None]
) -> None:
    recipe, _ = digits_run
    elsewhere = method(recipe, tmp_path / "a")
    _ = elsewhere.virtual
    file = Path(shutil.copy(elsewhere.virtual_stage.path("virtual.safetensors"), tmp_path / "virtual.safetensors"))
    forbid("train_supervised", "polish")
    settings = (f"student.virtual={file}", "student.loss=SoftTargets@virtual")
    made = method(recipe, tmp_path / "b", *settings)
    before = made.student_stage("kd_matched", 0).fingerprint
    made.student("kd_matched", 0)
    assert [path.name for path in (tmp_path / "b").iterdir()] == [f"student-kd_matched-0-{before[:8]}"]
    moved = Path(shutil.copy(file, tmp_path / "moved.safetensors"))  # its content counts, not its name
    same = method(recipe, tmp_path / "b", f"student.virtual={moved}", settings[1])
    assert same.student_stage("kd_matched", 0).fingerprint == before
    with pytest.raises(ConfigError, match="@bank needs stored outputs"):
        method(recipe, tmp_path / "b", settings[0], "student.loss=KD@bank").student("kd_matched", 0)
    with pytest.raises(CheckpointError, match=r"no virtual teacher .*gone \(student.virtual\)"):
        _ = method(recipe, tmp_path / "b", "student.virtual=gone").virtual_fingerprint
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        _ = method(recipe, tmp_path / "b", settings[0]).virtual


def test_classes_in_another_order_are_refused(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    """F12."""
    recipe, _ = digits_run
    made = method(recipe, tmp_path / "a")
    splits = made.splits

    def named(*names: str) -> Splits:
        task = Classification(num_classes=10, class_names=names)
        parts = {part: replace(getattr(splits, part), task=task) for part in ("train", "val", "test")}
        return replace(splits, **parts)

    names = tuple("abcdefghij")
    first = CganKd(made.recipe, Run(tmp_path / "named"), named(*names))
    _ = first.virtual
    file = first.virtual_stage.path("virtual.safetensors")
    other = CganKd(override(made.recipe, [f"student.virtual={file}"]), Run(tmp_path / "x"), named(*names[::-1]))
    with pytest.raises(DataError, match=r"class 0 is 'a' for the virtual teacher and 'j' in these data.*\(F12\)"):
        _ = other.virtual
    VirtualTeacher.load(file).check_task(Classification(num_classes=10), "file")  # classes without names fit any


def test_beside_is_refused_where_it_cannot_be(digits_run: tuple[Recipe, Path], angles_run: tuple[Recipe, Path]) -> None:
    classes, values = digits_run[0], angles_run[0]
    for recipe, setting in ((values, "teacher.members=1"), (classes, "teacher.members=2")):
        with pytest.raises(ConfigError, match=r"virtual.when=beside needs a teacher for classes that is one network"):
            _ = method(recipe, Path("none"), setting, "virtual.when=beside").beside
    with pytest.raises(ConfigError, match=r"virtual.polish must be at least 1"):
        _ = method(values, Path("none"), "virtual.polish=0").beside
    assert method(classes, Path("none")).beside
    assert not method(classes, Path("none"), "virtual.when=after").beside


def test_a_teacher_too_short_for_the_warm_up(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    made = method(digits_run[0], tmp_path, "virtual.warmup=60", "virtual.polish=0")
    with pytest.raises(ConfigError, match=r"would not begin: teacher.updates=60 .* set virtual.polish"):
        _ = made.virtual
