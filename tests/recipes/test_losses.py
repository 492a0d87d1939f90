"""Losses and assistants within the recipe: what is trained again, from whom, and what is stored."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gankd.commands import run
from gankd.config import override
from gankd.models.contract import ImageModel
from gankd.recipes import RECIPES, Recipe
from gankd.recipes import cgan_kd as module
from gankd.recipes.arms import ARMS, arm_title
from gankd.recipes.cgan_kd import CganKd
from gankd.runs import Run, Stage
from gankd.storage import load_state
from gankd.training.distill import distill
from gankd.training.lesson import Fakes, Lesson
from gankd.training.objective import Objective


def small(name: str, tiny: tuple[str, ...], *changes: str) -> Recipe:
    return override(RECIPES[name](), [*tiny, "seeds=1", *changes])


def with_loss(recipe: Recipe, loss: str) -> Recipe:
    return replace(recipe, student=replace(recipe.student, loss=loss))


def test_only_arms_with_a_teacher_depend_on_the_loss(tiny: tuple[str, ...], tmp_path: Path) -> None:
    recipe = small("digits", tiny)
    one, two = CganKd(recipe, Run(tmp_path)), CganKd(with_loss(recipe, "AT"), Run(tmp_path))
    same = {name: one.student_stage(name, 0).fingerprint == two.student_stage(name, 0).fingerprint for name in ARMS}
    assert same == {name: not arm.kd for name, arm in ARMS.items()}


def test_editing_a_loss_of_your_own_makes_another_student(
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    source = (
        "from gankd.losses.distillation import loss\n"
        "@loss('Mine')\n"
        "def mine(student_outputs, teacher_outputs):\n"
        "    return {} * (student_outputs - teacher_outputs).square().mean()\n"
    )
    path = tmp_path / "loss_of_mine.py"
    path.write_text(source.format(1))
    method = CganKd(with_loss(small("digits", tiny), "loss_of_mine:Mine"), Run(tmp_path / "run"))
    before = method.student_stage("kd_matched", 0).fingerprint
    assert method.student_stage("kd_matched", 0).fingerprint == before
    path.write_text(source.format(2))
    assert method.student_stage("kd_matched", 0).fingerprint != before


def test_titles_name_the_loss() -> None:
    objective = Objective.parse("Label + KD(T=2) + 3*CRD")
    assert arm_title(ARMS["kd_matched"], objective) == "KD+CRD, equal updates"
    assert arm_title(ARMS["adjusted_kd"], objective) == "cGAN-KD + KD+CRD"
    assert arm_title(ARMS["adjusted"], objective) == ARMS["adjusted"].title
    assert arm_title(ARMS["kd_matched"], Objective.parse("KD")) == ARMS["kd_matched"].title


@pytest.mark.parametrize("name", ["digits", "rotated-digits"])
def test_a_sum_of_losses_runs_end_to_end_and_resumes(name: str, tiny: tuple[str, ...], tmp_path: Path) -> None:
    recipe = with_loss(small(name, tiny), "0.5*Label + 0.5*KD + 0.8*CRD(negatives=64) + FT + AB")
    result = run(recipe, tmp_path, arms=["real_matched", "kd_matched", "adjusted_kd"])
    assert "KD+CRD+FT+AB, equal updates" in result.table
    assert "cGAN-KD + KD+CRD+FT+AB" in result.table
    assert "KD+CRD+FT+AB" in (tmp_path / "report.html").read_text()
    (folder,) = tmp_path.glob("student-adjusted_kd-0-*")
    weights = load_state(folder / "model.safetensors")
    for file in folder.rglob("*"):
        if file.name in ("done.json", "model.safetensors"):
            file.unlink()
    resumed = run(recipe, tmp_path, arms=["real_matched", "kd_matched", "adjusted_kd"])
    assert [arm.values for arm in resumed.arms] == [arm.values for arm in result.arms]
    again = load_state(folder / "model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in weights.items())


def test_each_assistant_learns_from_the_one_before(
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TAKD: teacher -> cnn8 -> cnn4 -> student; the teacher's stored outputs never stand in for an assistant's."""
    lessons: list[tuple[str, int | None]] = []

    def watch(student: ImageModel, *args: Any, lesson: Lesson, fakes: Fakes, stage: Stage) -> ImageModel:
        teacher = lesson.teacher
        assert isinstance(teacher, ImageModel)
        size = sum(p.numel() for p in teacher.parameters())
        lessons.append(
            (f"{sum(p.numel() for p in student.parameters())} from {size}", fakes.teacher_outputs is not None)
        )
        return distill(student, *args, lesson=lesson, fakes=fakes, stage=stage)

    monkeypatch.setattr(module, "distill", watch)
    recipe = small("digits-takd", tiny, 'student.assistants=["cnn16","cnn8"]', "teacher.model=resnet8")
    with Run(tmp_path) as opened:
        method = CganKd(recipe, opened)
        sizes = {
            name: sum(p.numel() for p in method.net(name, 0).parameters())
            for name in ("resnet8", "cnn16", "cnn8", "cnn4")
        }
        method.student("adjusted_kd", 0)
    assert lessons == [
        (f"{sizes['cnn16']} from {sizes['resnet8']}", True),
        (f"{sizes['cnn8']} from {sizes['cnn16']}", False),
        (f"{sizes['cnn4']} from {sizes['cnn8']}", False),
    ]
    stages = [stage.name for stage in method.assistant_stages(ARMS["adjusted_kd"])]
    assert stages == ["assistant-1-adjusted_kd", "assistant-2-adjusted_kd"]
    assert all(stage.done for stage in method.assistant_stages(ARMS["adjusted_kd"]))
    lessons.clear()
    with Run(tmp_path) as opened:
        first = CganKd(recipe, opened).student("adjusted_kd", 0)
    assert lessons == []  # all of it is reused
    assert torch.equal(next(first.parameters()), next(method.student("adjusted_kd", 0).parameters()))


def test_a_loss_without_a_teacher_trains_none(tiny: tuple[str, ...], tmp_path: Path) -> None:
    recipe = with_loss(small("digits", tiny), "LS + DML")
    run(recipe, tmp_path, arms=["real_matched", "kd_matched"])
    assert not list(tmp_path.glob("gan-*"))
    assert len(list(tmp_path.glob("student-kd_matched-*"))) == 1
