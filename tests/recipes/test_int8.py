"""Students that are trained on in int8: what they start from, what they are, and that nothing else changes."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gankd.bench.compare import compare
from gankd.commands.export import export
from gankd.config import from_dict, override, to_dict
from gankd.models.contract import ImageModel, evaluate
from gankd.models.exported import open_exported
from gankd.models.rounded import rounded_to_int8
from gankd.recipes import Recipe
from gankd.recipes.arms import Arm, arm_named
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import declare
from gankd.recipes.students import as_used, restore_student
from gankd.recipes.teacher import make_teacher
from gankd.runs import Run
from gankd.training.distill import distill
from gankd.training.lesson import Lesson


def in_int8(arm: Arm) -> Arm:
    return replace(arm, name=f"{arm.name}_int8", int8=True)


@pytest.fixture
def experiment(digits_run: tuple[Recipe, Path], tmp_path: Path) -> Experiment:
    recipe, folder = digits_run
    longer = override(recipe, ["student.updates=40"])
    return Experiment.open(longer, Run(Path(shutil.copytree(folder, tmp_path / "run"))))


def test_a_tenth_more_by_the_same_losses(experiment: Experiment) -> None:
    """Like a plain loop over the same images from where the arm without int8 ended."""
    plain = arm_named(experiment.recipe, "kd_matched")
    arm = in_int8(plain)
    before = declare(experiment, [plain], [0]).students[plain.name, 0]
    stages = cgan_kd(experiment, [arm], [0])
    own, start = stages.students[arm.name, 0], stages.starts[arm.name, 0]
    assert start.fingerprint == before.fingerprint  # the same student, which int8 leaves as it is
    assert own.folder is not None
    assert own.folder.name.startswith("student-kd_matched_int8-0-")
    config, exact = (each.recipe(experiment.recipe).student for each in (arm, plain))
    assert (config.updates, config.lr) == (4, exact.lr / 10)
    assert (own.result or {})["updates"] == 4

    found = restore_student(experiment, arm, own)
    expected = restore_student(experiment, plain, start)
    teacher = restored_teacher(experiment, plain)
    splits, engine = experiment.splits, experiment.engine
    with rounded_to_int8(expected):
        distill(expected, splits.train, splits.val, config, engine, 0, lesson=Lesson(config.objective, teacher=teacher))
        val = evaluate(expected, splits.val, engine)
    torch.testing.assert_close(found.state_dict(), expected.state_dict())
    assert (own.result or {})["val"] == pytest.approx(val)  # measured as it will be used


def restored_teacher(experiment: Experiment, arm: Arm) -> ImageModel:
    return make_teacher(experiment, experiment.recipe.teacher, declare(experiment, [arm], [0]).lessons[arm.name])


def test_it_is_compared_in_int8(experiment: Experiment) -> None:
    arm = in_int8(arm_named(experiment.recipe, "real_matched"))
    stages = cgan_kd(experiment, [arm], [0])
    student = restore_student(experiment, arm, stages.students[arm.name, 0])
    with as_used(student, arm):
        expected = evaluate(student, experiment.splits.test, experiment.engine)
    found = compare(experiment, [arm], [0]).arms[0].metrics[0]
    assert found["nll"] == pytest.approx(expected["nll"])
    assert found["nll"] != pytest.approx(evaluate(student, experiment.splits.test, experiment.engine)["nll"], abs=1e-6)


def test_assistants_are_those_of_the_exact_student(experiment: Experiment) -> None:
    recipe = override(experiment.recipe, ['student.assistants=["cnn8"]'])
    plain = arm_named(recipe, "kd_matched")
    arms = [plain, in_int8(plain)]
    one, two = declare(experiment.with_recipe(recipe), arms, [0]).assistants.values()
    assert [stage.fingerprint for stage in one] == [stage.fingerprint for stage in two]


def test_stored_lengths_do_not_depend_on_the_field() -> None:
    arm = Arm(name="a", seconds=3.0)
    assert "int8" not in arm.identity
    assert in_int8(arm).identity["int8"] is True
    stored = to_dict(arm)
    del stored["int8"]  # as an earlier version wrote it
    assert from_dict(Arm, stored) == arm


@pytest.mark.slow
def test_an_int8_file_says_what_it_costs(
    digits_run: tuple[Recipe, Path], tmp_path: Path, gankd: Callable[..., tuple[int, str, str]]
) -> None:
    pytest.importorskip("onnxruntime")
    run = Path(shutil.copytree(digits_run[1], tmp_path / "run"))
    found = export(digits_run[0], run, tmp_path / "a.onnx", int8=True, arm="real")
    assert open_exported(found.path).card["int8"] is True
    assert "times as fast as float32" in found.text
    assert "times as fast as float32" in found.page.read_text()
    code, out, _ = gankd("export", run, "--train-int8", "--arm", "adjusted", "--to", tmp_path / "b.onnx")
    assert code == 0
    assert "arm adjusted_int8, seed" in out
    page = (run / "report.html").read_text()
    section = page[page.index('<section id="exports">') :].partition("</section>")[0]
    assert section.count("onnx, int8") == 2
    assert found.check.speedup is not None
    assert f">{found.check.speedup:.2f}</td>" in section
    assert f"{found.check.metrics['top1']:.2f} [" in section
    assert "adjusted: cGAN-KD, trained in int8, seed" in section
