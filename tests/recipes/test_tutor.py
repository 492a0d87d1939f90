"""A pair's own teacher beside the one that filters: what depends on which of the two."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gankd.config import override
from gankd.errors import ModelError
from gankd.models.contract import ImageModel, predict
from gankd.recipes import RECIPES, Recipe, students
from gankd.recipes.arms import DEFAULT_ARMS, Arm, arm_named, default_arms
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import Stages, declare
from gankd.recipes.students import check_students
from gankd.recipes.teacher import make_teacher, other_teacher
from gankd.runs import Run
from gankd.tasks import Classification
from gankd.training.distill import distill
from gankd.training.lesson import Fakes

Trained = Callable[[Experiment, str | Arm, int], ImageModel]


def with_teacher(recipe: Recipe, name: str | None, *changes: str) -> Recipe:
    recipe = override(recipe, changes)
    return replace(recipe, student=replace(recipe.student, teacher=name))


def declared(recipe: Recipe, folder: Path) -> Stages:
    """All default arms with the first seed."""
    return declare(Experiment.open(recipe, Run(folder)), default_arms(recipe), [0])


def fingerprints(recipe: Recipe, folder: Path) -> dict[str, str]:
    return {name: stage.fingerprint for (name, _), stage in declared(recipe, folder).students.items()}


def test_only_arms_whose_losses_read_a_teacher_depend_on_the_pair_s(tiny: tuple[str, ...], tmp_path: Path) -> None:
    recipe = override(RECIPES["digits"](), tiny)
    plain, other = fingerprints(recipe, tmp_path), fingerprints(with_teacher(recipe, "cnn4"), tmp_path)
    same = {name: plain[name] == other[name] for name in plain}
    assert same == {name: arm.loss is None for name, arm in DEFAULT_ARMS.items()}
    # the very network that filters
    assert fingerprints(with_teacher(recipe, recipe.teacher.model), tmp_path) == plain
    found = [declared(each, tmp_path) for each in (recipe, with_teacher(recipe, "cnn4"))]
    for stage in ("teacher", "gan", "ratio", "synth"):
        assert len({getattr(stages, stage).fingerprint for stages in found}) == 1
    assert [stages.lessons["kd_matched"].fingerprint == stages.teacher.fingerprint for stages in found] == [True, False]
    assisted = with_teacher(recipe, "cnn4", "student.assistants=resnet8")
    plainly = replace(assisted, student=replace(assisted.student, teacher=None))
    first = [declared(each, tmp_path).assistants["kd_matched"][0] for each in (assisted, plainly)]
    assert first[0].fingerprint != first[1].fingerprint


def test_students_learn_from_the_pair_s_teacher_on_images_that_the_other_chose(
    digits_run: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Trained
) -> None:
    recipe, finished = digits_run
    for pattern in ("teacher-*", "gan-*", "ratio-*", "synth-*"):
        for path in finished.glob(pattern):
            shutil.copytree(path, tmp_path / path.name)
    seen: dict[str, Any] = {}

    def spy(*args: Any, **settings: Any) -> Any:
        seen.update(settings)
        return distill(*args, **settings)

    monkeypatch.setattr(students, "distill", spy)
    own = Experiment.open(recipe, Run(tmp_path))
    experiment = own.with_recipe(with_teacher(recipe, "cnn4"))
    trained(experiment, "adjusted_kd", 0)
    fakes: Fakes = seen["fakes"]
    assert fakes.teacher_outputs is None  # those of the pool are the other teacher's
    stages = declare(experiment, [arm_named(recipe, "adjusted_kd")])
    lesson = stages.lessons["adjusted_kd"]
    tutor = make_teacher(experiment, other_teacher(recipe, "cnn4"), lesson)
    teacher = make_teacher(experiment, recipe.teacher, stages.teacher)
    assert seen["lesson"].teacher is tutor is not teacher
    assert seen["lesson"].folder == lesson.folder != stages.teacher.folder
    images = experiment.splits.test.images[:8]
    assert isinstance(experiment.splits.task, Classification)
    assert not torch.allclose(predict(tutor, images, experiment.engine), predict(teacher, images, experiment.engine))
    trained(own, "adjusted_kd", 0)
    assert seen["fakes"].teacher_outputs is not None
    assert seen["lesson"].teacher is teacher
    assert seen["lesson"].folder == stages.teacher.folder
    assert len(list(tmp_path.glob("teacher-*"))) == 2


def test_a_pair_s_teacher_is_trained_as_the_other_is(tiny: tuple[str, ...]) -> None:
    recipe = override(RECIPES["rotated-digits"](), [*tiny, "teacher.members=2"])
    assert other_teacher(recipe, "cnn4") == replace(recipe.teacher, model="cnn4")
    assert other_teacher(recipe, None) == recipe.teacher
    given = replace(recipe, teacher=replace(recipe.teacher, members=1, weights="theirs.pt", mean=(0.5,), std=(0.5,)))
    tutor = other_teacher(given, "cnn4")
    assert (tutor.weights, tutor.mean, tutor.std, tutor.input_size) == (None, None, None, None)
    assert other_teacher(given, None) == given.teacher


def test_a_pair_s_teacher_that_does_not_exist_is_refused_at_once(tiny: tuple[str, ...], tmp_path: Path) -> None:
    experiment = Experiment.open(with_teacher(override(RECIPES["digits"](), tiny), "cnn5"), Run(tmp_path))
    arm = arm_named(experiment.recipe, "kd_matched")
    with pytest.raises(ModelError, match="no model 'cnn5'"):
        check_students(experiment, [arm])
    with pytest.raises(ModelError, match="no model 'cnn5'"):
        declare(experiment, [arm])
    assert not list(tmp_path.iterdir())
