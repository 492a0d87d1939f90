"""A pair's own teacher beside the one that filters: what depends on which of the two."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gankd.config import override
from gankd.errors import ModelError
from gankd.models.contract import predict
from gankd.recipes import RECIPES, Recipe
from gankd.recipes import cgan_kd as module
from gankd.recipes.arms import ARMS
from gankd.recipes.cgan_kd import CganKd
from gankd.runs import Run
from gankd.tasks import Classification
from gankd.training.distill import distill
from gankd.training.lesson import Fakes


def with_teacher(recipe: Recipe, name: str | None, *changes: str) -> Recipe:
    recipe = override(recipe, changes)
    return replace(recipe, student=replace(recipe.student, teacher=name))


def fingerprints(recipe: Recipe, folder: Path, arms: Sequence[str] = tuple(ARMS)) -> dict[str, str]:
    method = CganKd(recipe, Run(folder))
    return {arm: method.student_stage(arm, 0).fingerprint for arm in arms}


def test_only_arms_whose_losses_read_a_teacher_depend_on_the_pair_s(tiny: tuple[str, ...], tmp_path: Path) -> None:
    recipe = override(RECIPES["digits"](), tiny)
    plain, other = fingerprints(recipe, tmp_path), fingerprints(with_teacher(recipe, "cnn4"), tmp_path)
    assert {arm: plain[arm] == other[arm] for arm in ARMS} == {name: not arm.kd for name, arm in ARMS.items()}
    same = fingerprints(with_teacher(recipe, recipe.teacher.model), tmp_path)
    assert same == plain  # the very network that filters
    methods = [CganKd(each, Run(tmp_path)) for each in (recipe, with_teacher(recipe, "cnn4"))]
    for stage in ("teacher_stage", "gan_stage", "ratio_stage", "synth_stage"):
        assert len({getattr(method, stage).fingerprint for method in methods}) == 1
    assisted = with_teacher(recipe, "cnn4", "student.assistants=resnet8")
    plainly = replace(assisted, student=replace(assisted.student, teacher=None))
    first = [CganKd(each, Run(tmp_path)).assistant_stages(ARMS["kd_matched"])[0] for each in (assisted, plainly)]
    assert first[0].fingerprint != first[1].fingerprint


def test_students_learn_from_the_pair_s_teacher_on_images_that_the_other_chose(
    digits_run: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, finished = digits_run
    for pattern in ("teacher-*", "gan-*", "ratio-*", "synth-*"):
        for path in finished.glob(pattern):
            shutil.copytree(path, tmp_path / path.name)
    seen: dict[str, Any] = {}

    def spy(*args: Any, **settings: Any) -> Any:
        seen.update(settings)
        return distill(*args, **settings)

    monkeypatch.setattr(module, "distill", spy)
    with Run(tmp_path) as run:
        method = CganKd(with_teacher(recipe, "cnn4"), run)
        method.student("adjusted_kd", 0)
        fakes: Fakes = seen["fakes"]
        assert fakes.teacher_outputs is None  # those of the pool are the other teacher's
        assert seen["lesson"].teacher is method.tutor.teacher
        assert seen["lesson"].folder == method.tutor.teacher_stage.folder != method.teacher_stage.folder
        images = method.splits.test.images[:8]
        assert isinstance(method.splits.task, Classification)
        assert not torch.allclose(
            predict(method.tutor.teacher, images, method.engine), predict(method.teacher, images, method.engine)
        )
        own = CganKd(recipe, run)
        own.student("adjusted_kd", 0)
        assert seen["fakes"].teacher_outputs is not None
        assert seen["lesson"].teacher is own.teacher
    assert len(list(tmp_path.glob("teacher-*"))) == 2


def test_a_pair_s_teacher_is_trained_as_the_other_is(tiny: tuple[str, ...], tmp_path: Path) -> None:
    recipe = override(RECIPES["rotated-digits"](), [*tiny, "teacher.members=2"])
    tutor = CganKd(with_teacher(recipe, "cnn4"), Run(tmp_path)).tutor
    assert tutor.recipe.teacher == replace(recipe.teacher, model="cnn4")
    given = replace(recipe, teacher=replace(recipe.teacher, members=1, weights="theirs.pt", mean=(0.5,), std=(0.5,)))
    tutor = CganKd(with_teacher(given, "cnn4"), Run(tmp_path)).tutor
    assert (tutor.recipe.teacher.weights, tutor.recipe.teacher.mean, tutor.recipe.teacher.std) == (None, None, None)


def test_a_pair_s_teacher_that_does_not_exist_is_refused_at_once(tiny: tuple[str, ...], tmp_path: Path) -> None:
    method = CganKd(with_teacher(override(RECIPES["digits"](), tiny), "cnn5"), Run(tmp_path))
    with pytest.raises(ModelError, match="no model 'cnn5'"):
        method.check_students([ARMS["kd_matched"]])
