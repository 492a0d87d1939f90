"""Students of a pack, in an empty folder, without the teacher and without a real image."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gankd.packs.student
from gankd.commands.pack import pack, student_from_pack
from gankd.config import override
from gankd.data.digits import load_digits
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import ConfigError, DataError
from gankd.models import new_model
from gankd.models.files import load_model
from gankd.packs.controls import evaluate_pack
from gankd.packs.file import Pack
from gankd.packs.real import read_other, read_test
from gankd.packs.student import divided, recorded
from gankd.recipes import Recipe
from gankd.recipes.config import StudentConfig
from gankd.recipes.experiment import Experiment
from gankd.runs import Run
from gankd.storage import read_card
from gankd.tasks import Classification
from gankd.training.distill import Feed, Teaching, distill
from gankd.training.lesson import DistillConfig, Fakes, Lesson
from gankd.training.wiring import connect

QUICK = ("student.updates=30", "student.model=cnn4")


@pytest.fixture(scope="module", params=["digits", "angles"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack in a folder of its own."""
    recipe, folder = request.getfixturevalue(f"{request.param}_run")
    made = tmp_path_factory.mktemp("pack") / f"{request.param}.safetensors"
    pack(recipe, folder, made)
    return made


@pytest.fixture(scope="module")
def digits_file(digits_run: tuple[Recipe, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pack") / "digits.safetensors"
    pack(*digits_run, made)
    return made


def test_a_student_in_an_empty_folder(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(file, tmp_path)
    (tmp_path / f"nets_of_{file.stem}.py").write_text(
        "from torch import nn\n\n"
        "class Tiny(nn.Sequential):\n"
        "    def __init__(self, num_outputs):\n"
        "        super().__init__(nn.Flatten(), nn.LazyLinear(num_outputs))\n"
    )
    monkeypatch.chdir(tmp_path)
    changes = ("student.updates=30", f"student.model=nets_of_{file.stem}:Tiny")
    found = student_from_pack(file.name, changes=changes)
    assert found.path == Path("runs") / file.stem / "student.safetensors"
    assert "agreement with the teacher, not accuracy" in found.text
    student, task = load_model(found.path, trust=True)
    assert task == Pack.load(file).task
    assert read_card(found.path)["agreement"] == found.val[0]
    again = student_from_pack(file.name, changes=changes)  # reused
    assert again.val == found.val
    recording, held = divided(Pack.load(file), Pack.load(file).images())
    outputs = student(held.images)
    assert task.metrics(outputs, held.labels)[task.metric] == pytest.approx(found.val[0][task.metric], rel=1e-3)
    blocks = Pack.load(file).blocks
    assert len(held) == int((blocks == blocks.max()).sum())  # of three blocks, the last
    assert len(held) + len(recording.images) == len(blocks)


def test_every_batch_is_generated_and_has_the_recorded_outputs(
    digits_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def noted(student: object, real: object, val: object, config: StudentConfig, *rest: object, **more: object) -> None:
        seen.update(more, config=config, real=real)
        distill(student, real, val, config, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(gankd.packs.student, "distill", noted)
    found = Pack.load(digits_file)
    recording, _ = divided(found, found.images())
    student_from_pack(digits_file, tmp_path, changes=QUICK)
    assert seen["config"].fake_share == 1.0
    assert torch.equal(seen["fakes"].images, recording.images)
    assert torch.equal(seen["fakes"].teacher_outputs, recording.outputs)
    assert torch.equal(seen["real"].images, recording.images[:4])  # generated, too: to try the losses on


@pytest.mark.parametrize("changes", [{}, {"augment": ("shift",)}, {"augment": ("shift",), "views": 3}])
def test_views_share_the_outputs_of_their_image(changes: dict[str, Any]) -> None:
    """No network is asked: the recorded outputs count for every view."""
    task, generator = Classification(num_classes=3), torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8, generator=generator)
    data = LabelledImages(images, torch.arange(50) % 3, task)
    outputs = torch.randn(50, 3, generator=generator)
    config = DistillConfig(fake_share=1.0, batch_size=16, **changes)
    engine, student = Engine.pick(8, "cpu"), new_model("cnn4", data, 0)
    fakes = Fakes(images, data.labels, outputs, every_view=True)
    feed = Feed(data.subset(torch.arange(4)), fakes, config, engine, 0)
    lesson = Lesson("KD", recorded(outputs[:4], data))
    with connect(student, lesson, data, config, engine, 0) as net:
        teaching = Teaching(net, feed, task, None)
        for step in range(4):
            batch = feed(step)
            assert batch.fake_index is not None
            (signal,) = teaching(batch).values()
            assert torch.equal(signal, outputs[batch.fake_index])


@pytest.mark.parametrize("loss", ["KD(T=2)", "DKD", "Label"])
def test_losses_of_outputs_train(digits_file: Path, tmp_path: Path, loss: str) -> None:
    assert student_from_pack(digits_file, tmp_path, changes=(*QUICK, f"student.loss={loss}")).val[0]["nll"] > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("student.loss=FitNet", "teacher_features, which only the teacher itself has"),
        ("student.loss=CRD", "which only the teacher itself has"),
        ("student.loss=KD@virtual", "this pack has none"),
        ("student.mix=mixup", "the teacher never saw"),
        ("student.fake_until=0.9", "a pack holds none"),
        ("student.fake_share=0.5", "means nothing for a pack"),
        ("gan.steps=3", "means nothing for a pack"),
        ("data.root=/etc", "means nothing for a pack"),
    ],
)
def test_what_needs_the_teacher_or_images_is_refused(
    digits_file: Path, tmp_path: Path, change: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        student_from_pack(digits_file, tmp_path, changes=(*QUICK, change))
    assert not list(tmp_path.iterdir())


def test_mixed_images_with_labels_only(digits_file: Path, tmp_path: Path) -> None:
    student_from_pack(digits_file, tmp_path, changes=(*QUICK, "student.mix=mixup", "student.loss=Label"))


# --- real images --------------------------------------------------------------------------------------------


def test_test_images_do_not_change_the_student(digits_file: Path, tmp_path: Path) -> None:
    without = student_from_pack(digits_file, tmp_path, changes=QUICK)
    found = student_from_pack(digits_file, tmp_path, changes=QUICK, test="digits")
    assert found.val == without.val
    assert found.tested == len(load_digits().test)
    assert len(list(tmp_path.glob("student-pack-*"))) == 1
    assert "539 real images" in found.text


def test_classes_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    images = np.arange(60, dtype=np.uint8).repeat(64).reshape(60, 8, 8)
    np.savez(tmp_path / "t.npz", images=images, label=np.array(["cat", "ape", "dog"] * 20))
    task = Classification(num_classes=4, class_names=("dog", "cat", "bat", "ape"))
    found = read_test(str(tmp_path / "t.npz"), task, (1, 8, 8))
    assert len(found) == 60
    for image, label in zip(found.images, found.labels, strict=True):
        assert task.label_names[label] == ["cat", "ape", "dog"][int(image[0, 0, 0]) % 3]
    with pytest.raises(DataError, match="class ape is not among the pack's"):
        read_test(str(tmp_path / "t.npz"), Classification(num_classes=2, class_names=("cat", "dog")), (1, 8, 8))


def test_other_images_take_the_shape_that_is_wanted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "o.npz", images=rng.integers(0, 255, (50, 32, 32, 3), np.uint8), label=rng.integers(0, 90, 50))
    assert read_other(str(tmp_path / "o.npz"), (1, 8, 8)).shape == (50, 1, 8, 8)
    assert read_other("rotated-digits", (3, 8, 8)).shape[1:] == (3, 8, 8)


# --- controls -----------------------------------------------------------------------------------------------


def test_controls_train_on_equal_terms(digits_run: tuple[Recipe, Path], digits_file: Path, tmp_path: Path) -> None:
    recipe, folder = digits_run
    folder = Path(shutil.copytree(folder, tmp_path / "run"))
    experiment, found = Experiment.open(override(recipe, QUICK[:1]), Run(folder)), Pack.load(digits_file)
    images = found.images()
    rows = evaluate_pack(experiment, found, images, [0, 1], images[:30])
    assert [row.name for row in rows] == ["pack", "real", "noise", "other"]
    recording, _ = divided(found, images)
    assert [row.images for row in rows] == [len(recording.images), 80, len(recording.images), 30]
    assert all(len(row.values) == 2 for row in rows)
    first = {path.name for path in folder.glob("student-packed-*")}
    assert evaluate_pack(experiment, found, images, [0, 1], images[:30]) == rows
    assert {path.name for path in folder.glob("student-packed-*")} == first


Outcome = tuple[int, str, str]


def test_the_command_line(
    digits_run: tuple[Recipe, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gankd: Callable[..., Outcome],
    refused: Callable[..., str],
) -> None:
    folder = Path(shutil.copytree(digits_run[1], tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    code, out, _ = gankd("pack", folder, "--evaluate", "--seeds", 1)
    assert code == 0
    assert "noise images, labelled by the teacher" in out
    file = folder / "pack.safetensors"
    assert "Against the controls" in file.with_suffix(".html").read_text()
    code, out, _ = gankd("pack", "inspect", file)
    assert code == 0
    assert "real images and labels, the ceiling" in out
    code, out, _ = gankd(
        "student", file, "--set", "student.updates=5", "--seeds", 2, "--loss", "Label", "--out", "here"
    )
    assert code == 0
    assert Path("here/student.safetensors").is_file()
    assert "--data means nothing for a pack" in refused("student", file, "--data", "x")
    assert "--arms means nothing for a pack" in refused("student", file, "--arms", "real")
    assert "--other and --seeds belong to --evaluate" in refused("pack", folder, "--other", "x")
    assert "takes the file of a pack" in refused("pack", "inspect")
    assert "--to x.safetensors" in refused("pack", folder, "x.safetensors")
    assert "must end in .safetensors" in refused("pack", folder, "--to", "x.pack")
    assert "no pack nowhere.safetensors" in refused("student", "nowhere.safetensors")
