"""The virtual teacher as a stage: trained with the teacher or after it, reused, brought from elsewhere."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gankd.recipes.teacher
import gankd.virtual.training
from gankd.config import override
from gankd.data.images import Splits
from gankd.errors import CheckpointError, ConfigError, DataError
from gankd.models.contract import ImageModel
from gankd.recipes import Recipe, students
from gankd.recipes.arms import Arm, arm_named
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import declare
from gankd.recipes.students import check_students
from gankd.recipes.teacher import teacher_stage
from gankd.recipes.virtual import given_virtual, make_virtual, output_reader, trained_alongside, virtual_stage
from gankd.runs import Run, Stage
from gankd.storage import load_state
from gankd.tasks import Classification
from gankd.training.distill import distill
from gankd.training.supervised import train_supervised
from gankd.virtual import VirtualTeacher

Trained = Callable[[Experiment, str | Arm, int], ImageModel]
VIRTUAL = ("virtual.warmup=10", "virtual.every=2", "virtual.polish=15", "virtual.batch_size=32", "virtual.bins=12")


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make training loops fail."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("this should have been reused")

    def call(*loops: str) -> None:
        for name in loops:
            module = gankd.virtual.training if name == "polish" else gankd.recipes.teacher
            monkeypatch.setattr(module, name, fail)

    return call


def opened(recipe: Recipe, folder: Path, *settings: str) -> Experiment:
    return Experiment.open(override(recipe, (*VIRTUAL, *settings)), Run(folder))


def stages_of(experiment: Experiment) -> tuple[Stage, Stage]:
    """Teacher and virtual teacher."""
    teacher = teacher_stage(experiment, experiment.recipe.teacher)
    return teacher, virtual_stage(experiment, experiment.recipe.virtual, teacher)


def virtual_of(experiment: Experiment) -> VirtualTeacher:
    """The run's own virtual teacher, made if it is not finished."""
    return make_virtual(experiment, experiment.recipe.virtual, *stages_of(experiment))


def test_the_teacher_is_the_same_with_and_without(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    """Made with its virtual teacher at once, it is the teacher that a run without one has: A14."""
    recipe, finished = digits_run
    made = opened(recipe, tmp_path / "run")
    virtual = virtual_of(made)
    teacher, stage = stages_of(made)
    assert teacher.done
    (alone,) = finished.glob("teacher-*")
    assert teacher.folder is not None
    assert teacher.folder.name == alone.name
    state = load_state(teacher.path("model.safetensors"))
    expected = load_state(alone / "model.safetensors")
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    lines = [path.joinpath("metrics.jsonl").read_text() for path in (teacher.folder, alone)]
    assert lines[0] == lines[1]
    assert (virtual.generator.training, virtual.means.shape) == (False, (10, 10))
    assert stage.result is not None
    assert 0 < stage.result["kilobytes"] < 100
    assert len(list(stage.path("snapshots").iterdir())) == 9  # of ten; the first falls into the warm-up


def test_it_is_made_once_and_told_from_its_settings(
    digits_run: tuple[Recipe, Path], tmp_path: Path, forbid: Callable[..., None]
) -> None:
    recipe, finished = digits_run
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    # the teacher is there: it is trained again, for the generator to watch
    first = virtual_of(opened(recipe, folder))
    forbid("train_supervised", "polish")
    again = virtual_of(opened(recipe, folder))
    z, labels = torch.randn(4, first.generator.z_dim), torch.arange(4)
    assert torch.equal(first.draw(labels, z), again.draw(labels, z))
    other = stages_of(opened(recipe, folder, "virtual.polish=16"))[1]
    assert not other.done
    after = stages_of(opened(recipe, folder, "virtual.when=after"))[1]
    assert after.fingerprint not in (other.fingerprint, stages_of(opened(recipe, folder))[1].fingerprint)


def kd_matched(experiment: Experiment) -> Stage:
    """The first student of this arm."""
    return declare(experiment, [arm_named(experiment.recipe, "kd_matched")], [0]).students["kd_matched", 0]


def test_students_rest_on_what_they_read(digits_run: tuple[Recipe, Path], tmp_path: Path, trained: Trained) -> None:
    recipe, finished = digits_run
    folder = Path(shutil.copytree(finished, tmp_path / "run"))

    def stage(*settings: str) -> str:
        return kd_matched(opened(recipe, folder, *settings)).fingerprint

    plain, read = stage(), stage("student.loss=SoftTargets@virtual")
    assert read != stage("student.loss=SoftTargets@table")
    assert read != stage("student.loss=SoftTargets@virtual", "virtual.polish=16")
    assert plain == stage("virtual.polish=16")
    tf = stage("student.loss=SoftTargets@tf")
    assert tf == stage("student.loss=SoftTargets@tf", "virtual.polish=16")
    made = opened(recipe, folder, "student.loss=0.1*Label + 0.9*SoftTargets@virtual")
    student = trained(made, "kd_matched", 0)
    assert kd_matched(made).result is not None
    assert student.net.state_dict()["head.weight"].any()


def test_a_virtual_teacher_s_targets_may_be_the_outputs_stored_with_generated_images(
    digits_run: tuple[Recipe, Path], tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KD@virtual(stored=True) reads the real teacher's outputs for generated images, which the pool holds."""
    recipe, finished = digits_run
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    seen: list[Any] = []

    def spy(*args: Any, **settings: Any) -> Any:
        seen.append(settings["fakes"].teacher_outputs)
        return distill(*args, **settings)

    monkeypatch.setattr(students, "distill", spy)
    found = {}
    for stored in (True, False):
        made = opened(recipe, folder, f"student.loss=Label + KD@virtual(stored={stored})")
        check_students(made, [arm_named(made.recipe, "adjusted_kd")])
        found[stored] = trained(made, "adjusted_kd", 0).state_dict()["net.head.weight"]
    assert all(outputs is not None for outputs in seen)
    assert not torch.equal(found[True], found[False])


def test_values_have_a_distribution_read_off_the_teacher(
    angles_run: tuple[Recipe, Path], tmp_path: Path, forbid: Callable[..., None], trained: Trained
) -> None:
    recipe, finished = angles_run
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    forbid("train_supervised")  # after the teacher, which is left alone
    made = opened(recipe, folder, "student.loss=Label + Distribution@virtual")
    assert not trained_alongside(made.recipe, made.splits)
    virtual = virtual_of(made)
    assert virtual.bank is not None
    assert virtual.bank.logits.shape[1] == virtual.num_outputs == 12
    assert ((virtual.bank.labels >= 0) & (virtual.bank.labels <= 1)).all()
    trained(made, "kd_matched", 0)
    images = made.splits.val.images
    read = [output_reader(each, *stages_of(each))(images) for each in (made, opened(recipe, folder))]
    assert torch.equal(*read)


def test_a_file_from_elsewhere_needs_no_teacher(
    digits_run: tuple[Recipe, Path], tmp_path: Path, forbid: Callable[..., None], trained: Trained
) -> None:
    recipe, _ = digits_run
    elsewhere = opened(recipe, tmp_path / "a")
    virtual_of(elsewhere)
    file = Path(shutil.copy(stages_of(elsewhere)[1].path("virtual.safetensors"), tmp_path / "virtual.safetensors"))
    forbid("train_supervised", "polish")
    settings = (f"student.virtual={file}", "student.loss=SoftTargets@virtual")
    made = opened(recipe, tmp_path / "b", *settings)
    before = kd_matched(made).fingerprint
    trained(made, "kd_matched", 0)
    assert [path.name for path in (tmp_path / "b").iterdir()] == [f"student-kd_matched-0-{before[:8]}"]
    moved = Path(shutil.copy(file, tmp_path / "moved.safetensors"))  # its content counts, not its name
    same = opened(recipe, tmp_path / "b", f"student.virtual={moved}", settings[1])
    assert kd_matched(same).fingerprint == before
    with pytest.raises(ConfigError, match="@bank needs stored outputs"):
        trained(opened(recipe, tmp_path / "b", settings[0], "student.loss=KD@bank"), "kd_matched", 0)
    with pytest.raises(CheckpointError, match=r"no virtual teacher .*gone \(student.virtual\)"):
        kd_matched(opened(recipe, tmp_path / "b", "student.virtual=gone", settings[1]))
    assert kd_matched(opened(recipe, tmp_path / "b", "student.virtual=gone", "student.loss=KD"))  # nobody reads it
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        trained(opened(recipe, tmp_path / "b", *settings), "kd_matched", 0)


def test_classes_in_another_order_are_refused(
    digits_run: tuple[Recipe, Path], tmp_path: Path, trained: Trained
) -> None:
    """F12."""
    recipe, _ = digits_run
    made = opened(recipe, tmp_path / "a")
    splits = made.splits

    def named(*names: str) -> Splits:
        task = Classification(num_classes=10, class_names=names)
        parts = {part: replace(getattr(splits, part), task=task) for part in ("train", "val", "test")}
        return replace(splits, **parts)

    names = tuple("abcdefghij")
    first = Experiment.open(made.recipe, Run(tmp_path / "named"), named(*names))
    virtual_of(first)
    file = stages_of(first)[1].path("virtual.safetensors")
    reads = override(made.recipe, [f"student.virtual={file}", "student.loss=SoftTargets@virtual"])
    other = Experiment.open(reads, Run(tmp_path / "x"), named(*names[::-1]))
    for ask in (given_virtual, lambda *_: check_students(other, [arm_named(reads, "kd_matched")])):
        with pytest.raises(DataError, match=r"class 0 is 'a' for the virtual teacher and 'j' in these data.*\(F12\)"):
            ask(other, reads.student)
    with pytest.raises(DataError, match=r"\(F12\)"):
        trained(other, "kd_matched", 0)
    VirtualTeacher.load(file).check_task(Classification(num_classes=10), "file")  # classes without names fit any


def alongside(recipe: Recipe, *settings: str) -> bool:
    """Is the virtual teacher trained alongside the teacher?"""
    experiment = opened(recipe, Path("none"), *settings)
    return trained_alongside(experiment.recipe, experiment.splits)


def test_beside_is_refused_where_it_cannot_be(digits_run: tuple[Recipe, Path], angles_run: tuple[Recipe, Path]) -> None:
    classes, values = digits_run[0], angles_run[0]
    for recipe, setting in (
        (values, "teacher.members=1"),
        (classes, "teacher.members=2"),
        (classes, "teacher.mix=mixup"),
    ):
        with pytest.raises(ConfigError, match=r"virtual.when=beside needs a teacher for classes that is one network"):
            alongside(recipe, setting, "virtual.when=beside")
    with pytest.raises(ConfigError, match=r"virtual.polish must be at least 1"):
        alongside(values, "virtual.polish=0")
    assert alongside(classes)
    assert not alongside(classes, "virtual.when=after")
    assert not alongside(classes, "teacher.mix=mixup")  # outputs for two images at once teach it nothing


def test_a_teacher_too_short_for_the_warm_up(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    settings = ("virtual.warmup=60", "virtual.polish=0", "student.loss=SoftTargets@virtual")
    made = opened(digits_run[0], tmp_path, *settings)
    with pytest.raises(ConfigError, match=r"would not begin: teacher.updates=60 .* set virtual.polish"):
        declare(made, [arm_named(made.recipe, "kd_matched")], [0])
    assert not list(tmp_path.iterdir())


def test_a_run_trains_teacher_and_virtual_teacher_once(
    digits_run: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one learns alongside the other, also where arms need the teacher for generated images."""
    runs: list[Stage] = []

    def spy(*args: Any, **options: Any) -> Any:
        runs.append(args[6])
        return train_supervised(*args, **options)

    monkeypatch.setattr(gankd.recipes.teacher, "train_supervised", spy)
    with Run(tmp_path) as run:
        settings = (*VIRTUAL, "student.loss=Label + KD + SoftTargets@virtual")
        experiment = Experiment.open(override(digits_run[0], settings), run)
        names = ("adjusted", "kd_matched", "adjusted_kd")
        stages = cgan_kd(experiment, [arm_named(experiment.recipe, name) for name in names])
    assert all(stage.done for stage in stages)
    assert len(runs) == 1
    assert [stage.name for stage in stages] == ["teacher", "virtual", "gan", "ratio", "synth"]
