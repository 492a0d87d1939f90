"""Images without labels in a run: labelled by the teacher, filtered, alone and together with generated images."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gankd.commands import plan
from gankd.data.digits import load_digits
from gankd.data.rotated_digits import load_rotated_digits
from gankd.errors import ConfigError
from gankd.models.contract import predict
from gankd.recipes import Recipe
from gankd.recipes.arms import Arm, arm_named, default_arms
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import open_pool
from gankd.recipes.stages import declare
from gankd.recipes.teacher import make_teacher
from gankd.recipes.unlabelled import select_unlabelled
from gankd.runs import Run
from gankd.storage import read_json

NAMES = ("unlabelled", "unlabelled_kd", "adjusted_unlabelled", "adjusted_unlabelled_kd")


def more(recipe: Recipe) -> Tensor:
    """Training images of the whole set, without their labels."""
    load = load_digits if recipe.data.name == "digits" else load_rotated_digits
    return load().train.images[:200]


@pytest.mark.parametrize("name", ["digits_run", "angles_run"])
def test_the_teacher_labels_them_and_students_see_them(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    recipe, finished = request.getfixturevalue(name)
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    before = {path.name for path in folder.iterdir()}
    experiment = Experiment.open(recipe, Run(folder), unlabelled=more(recipe))
    arms = [arm_named(experiment.recipe, each) for each in ("unlabelled", "adjusted_unlabelled_kd")]
    with experiment.run:
        stages = cgan_kd(experiment, arms, [0])
    made = {path.name.rpartition("-")[0] for path in folder.iterdir() if path.name not in before}
    cells = [f"student-{kind}-0" for kind in ("unlabelled", "adjusted_unlabelled_kd")]
    assert made == {"unlabelled", *cells}  # teacher and generator are there already
    assert all(stage.done for stage in stages)
    teacher, task = make_teacher(experiment, recipe.teacher, stages.teacher), experiment.splits.task
    assert stages.unlabelled is not None
    pool = open_pool(experiment, stages.unlabelled)
    outputs = predict(teacher, more(recipe), experiment.engine).cpu()
    assert torch.equal(pool.images(), more(recipe))
    torch.testing.assert_close(pool.labels, task.adjust(outputs, outputs, "prediction").to(task.label_dtype))
    config = arms[0].unlabelled_selection(recipe.select)
    assert config is not None
    chosen = select_unlabelled(experiment, teacher, config, stages.unlabelled)
    assert chosen.accepted.all()  # no density ratio
    if task.has_classes:  # of each class the least certain are left out
        for label in pool.labels.unique():
            own = pool.labels == label
            kept, dropped = pool.disagreement[own & chosen.consistent], pool.disagreement[own & ~chosen.consistent]
            assert not len(dropped) or kept.max() <= dropped.min()
        assert 0.8 < chosen.consistent.float().mean() < 1
    else:  # a value is as it is
        assert len(chosen) == 200


def test_other_images_change_only_what_sees_them(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, _ = digits_run

    def of(images: Tensor) -> dict[str, str]:
        experiment = Experiment.open(recipe, Run(tmp_path), unlabelled=images)
        arms = default_arms(experiment.recipe)
        stages = declare(experiment, arms, [0])
        assert stages.unlabelled is not None
        return {name: stage.fingerprint for (name, _), stage in stages.students.items()} | {
            "teacher": stages.teacher.fingerprint,
            "pool": stages.unlabelled.fingerprint,
        }

    one, other = of(more(recipe)), of(more(recipe)[:150])
    assert {name for name in one if one[name] != other[name]} == {*NAMES, "pool"}
    assert len({one[name] for name in NAMES}) == 4


def test_arms_join_where_there_are_images(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, folder = digits_run
    experiment = Experiment.open(recipe, Run(folder), unlabelled=more(recipe))
    arms = default_arms(experiment.recipe)
    assert {arm.name: arm.role for arm in arms if arm.unlabelled} == dict(
        zip(NAMES, ("control", "control", "method", "method"), strict=True)
    )
    rows = [row.stage for row in plan(recipe, folder, unlabelled=more(recipe))]
    assert "unlabelled" in rows
    with pytest.raises(ConfigError, match="arm unlabelled shows images without labels; name some: --set data.unlabel"):
        arm_named(recipe, "unlabelled")
    own = Arm(name="own", unlabelled=True)
    with pytest.raises(ConfigError, match="an arm shows images without labels; name some"):
        declare(Experiment.open(recipe, Run(tmp_path)), [own], [0])


def test_a_run_without_a_generator(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    """Distillation on images without labels needs a teacher only."""
    recipe, _ = digits_run
    experiment = Experiment.open(recipe, Run(tmp_path), unlabelled=more(recipe))
    with experiment.run:
        cgan_kd(experiment, [Arm(name="queue", unlabelled=True, loss="QueueKD")], [0])
    names = {path.name.rpartition("-")[0] for path in tmp_path.iterdir() if path.is_dir()}
    assert names == {"teacher", "unlabelled", "student-unlabelled_kd-0"}


def test_a_run_from_a_file(
    digits_run: tuple[Recipe, Path], tmp_path: Path, gankd: Callable[..., tuple[int, str, str]]
) -> None:
    recipe, finished = digits_run
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    np.savez(tmp_path / "more.npz", images=more(recipe)[:, 0].numpy())
    settings = ("--set", f"data.unlabelled={tmp_path / 'more.npz'}", "--set", "seeds=1")
    code, out, err = gankd("run", folder, "--arms", "unlabelled", *settings, "--workers", "2")
    assert code == 0, err
    assert "unlabelled" in out
    results = read_json(folder / "results.json")
    assert [arm["arm"] for arm in results["arms"]] == ["unlabelled"]
    assert "+ unlabelled images" in (folder / "report.html").read_text()
    code, out, err = gankd("eval", folder)  # the setting is stored
    assert code == 0, err
    assert "+ unlabelled images" in out
