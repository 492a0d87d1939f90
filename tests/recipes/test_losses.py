"""Losses and assistants within the recipe: what is trained again, from whom, and what is stored."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gankd.commands import run
from gankd.config import override
from gankd.models.contract import ImageModel
from gankd.recipes import RECIPES, Recipe, students
from gankd.recipes.arms import DEFAULT_ARMS, Arm, arm_named, default_arms
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import declare
from gankd.runs import Run, Stage
from gankd.storage import load_state
from gankd.training.distill import distill
from gankd.training.lesson import Fakes, Lesson

Trained = Callable[[Experiment, str | Arm, int], ImageModel]


def small(name: str, tiny: tuple[str, ...], *changes: str) -> Recipe:
    return override(RECIPES[name](), [*tiny, "seeds=1", *changes])


def with_loss(recipe: Recipe, loss: str) -> Recipe:
    return replace(recipe, student=replace(recipe.student, loss=loss))


def fingerprints(recipe: Recipe, folder: Path) -> dict[str, str]:
    """Of the first student of each default arm."""
    stages = declare(Experiment.open(recipe, Run(folder)), default_arms(recipe), [0])
    return {name: stage.fingerprint for (name, _), stage in stages.students.items()}


def test_only_arms_with_a_teacher_depend_on_the_loss(tiny: tuple[str, ...], tmp_path: Path) -> None:
    recipe = small("digits", tiny)
    one, two = fingerprints(recipe, tmp_path), fingerprints(with_loss(recipe, "AT"), tmp_path)
    same = {name: one[name] == two[name] for name in one}
    assert same == {name: arm.loss is None for name, arm in DEFAULT_ARMS.items()}


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
    recipe = with_loss(small("digits", tiny), "loss_of_mine:Mine")
    before = fingerprints(recipe, tmp_path / "run")
    assert fingerprints(recipe, tmp_path / "run") == before
    path.write_text(source.format(2))
    monkeypatch.delitem(sys.modules, "loss_of_mine")  # as in another process
    after = fingerprints(recipe, tmp_path / "run")
    assert {name for name in before if after[name] != before[name]} == {"kd_matched", "adjusted_kd"}


def test_titles_name_the_loss() -> None:
    recipe = Recipe(time_cap=1)
    titles = {arm.name: arm.title for arm in default_arms(with_loss(recipe, "Label + KD(T=2) + 3*CRD"))}
    known = {name: arm.title for name, arm in DEFAULT_ARMS.items()}
    assert titles.pop("kd_matched") == "KD+CRD, equal updates"
    assert titles.pop("adjusted_kd") == "cGAN-KD + KD+CRD"
    assert titles == {name: known[name] for name in titles}  # the others do not learn by it
    assert {arm.name: arm.title for arm in default_arms(with_loss(recipe, "KD"))} == known
    assert known["kd_matched"] == "KD, equal updates"
    assert arm_named(with_loss(recipe, "Label"), "kd_matched").title == "labels, equal updates"


@pytest.mark.parametrize("name", ["digits", "rotated-digits"])
def test_a_sum_of_losses_runs_end_to_end_and_resumes(name: str, tiny: tuple[str, ...], tmp_path: Path) -> None:
    recipe = with_loss(small(name, tiny), "0.5*Label + 0.5*KD + 0.8*CRD(negatives=64) + FT + AB")
    result = run(recipe, tmp_path, arms=["real_matched", "kd_matched", "adjusted_kd"])
    titles = ["real, equal updates", "KD+CRD+FT+AB, equal updates", "cGAN-KD + KD+CRD+FT+AB"]
    assert [arm.title for arm in result.arms] == titles
    assert f"vs {titles[1]}" in result.table
    assert all(word in result.table for title in titles for word in title.split())  # titles may be wrapped
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
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Trained
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

    monkeypatch.setattr(students, "distill", watch)
    recipe = small("digits-takd", tiny, 'student.assistants=["cnn16","cnn8"]', "teacher.model=resnet8")
    experiment = Experiment.open(recipe, Run(tmp_path))
    sizes = {
        name: sum(p.numel() for p in experiment.net(name, 0).parameters())
        for name in ("resnet8", "cnn16", "cnn8", "cnn4")
    }
    student = trained(experiment, "adjusted_kd", 0)
    assert lessons == [
        (f"{sizes['cnn16']} from {sizes['resnet8']}", True),
        (f"{sizes['cnn8']} from {sizes['cnn16']}", False),
        (f"{sizes['cnn4']} from {sizes['cnn8']}", False),
    ]
    stages = declare(experiment, [arm_named(recipe, "adjusted_kd")], [0]).assistants["adjusted_kd"]
    assert [stage.name for stage in stages] == ["assistant-1-adjusted_kd", "assistant-2-adjusted_kd"]
    assert all(stage.done for stage in stages)
    lessons.clear()
    again = trained(Experiment.open(recipe, Run(tmp_path)), "adjusted_kd", 0)
    assert lessons == []  # all of it is reused
    assert torch.equal(next(again.parameters()), next(student.parameters()))
    trained(Experiment.open(recipe, Run(tmp_path)), "adjusted_kd", 1)
    assert lessons == [(f"{sizes['cnn4']} from {sizes['cnn8']}", False)]  # another seed has the same assistants


def test_a_loss_without_a_teacher_trains_none(tiny: tuple[str, ...], tmp_path: Path) -> None:
    recipe = with_loss(small("digits", tiny), "LS + DML")
    run(recipe, tmp_path, arms=["real_matched", "kd_matched"])
    assert not list(tmp_path.glob("gan-*"))
    assert not list(tmp_path.glob("teacher-*"))
    assert len(list(tmp_path.glob("student-kd_matched-*"))) == 1
