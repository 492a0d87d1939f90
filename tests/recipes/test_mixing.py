"""Mixed images in a run: arms that differ in it, and what is refused before anything is trained."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gankd.config import override
from gankd.errors import ConfigError
from gankd.models.contract import ImageModel
from gankd.recipes import Recipe
from gankd.recipes.arms import Arm, arm_named
from gankd.recipes.experiment import Experiment
from gankd.recipes.students import check_students
from gankd.runs import Run


def test_an_arm_of_mixed_images_trains_on_the_run_of_others(
    digits_run: tuple[Recipe, Path],
    tmp_path: Path,
    trained: Callable[[Experiment, str | Arm, int], ImageModel],
) -> None:
    recipe, finished = digits_run
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    experiment = Experiment.open(recipe, Run(folder))
    before = {path.name for path in folder.iterdir()}
    arm = Arm(
        name="mixed", images="adjusted", loss="Label + KD", settings=("student.mix=both", "student.mix_alpha=0.5")
    )
    check_students(experiment, [arm])
    trained(experiment, arm, 0)
    new = {path.name.partition("-")[0] for path in folder.iterdir() if path.name not in before}
    assert new == {"student"}


@pytest.mark.parametrize(
    ("which", "arm", "settings", "message"),
    [
        ("angles_run", "real_matched", ("student.mix=cutmix",), "student.mix=cutmix is not for regression"),
        ("angles_run", "raw", ("student.mix=both",), "student.mix=both is not for regression"),
        ("digits_run", "adjusted_kd", ("student.mix=mixup", "student.loss=CRD"), "CRD reads index .* student.mix=none"),
        ("digits_run", "kd_matched", ("student.mix=cutmix", "student.loss=KD@virtual"), "leave @virtual out"),
    ],
)
def test_what_mixing_excludes_is_refused_before_training(
    which: str, arm: str, settings: tuple[str, ...], message: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    recipe = override(request.getfixturevalue(which)[0], settings)
    experiment = Experiment.open(recipe, Run(tmp_path))
    with pytest.raises(ConfigError, match=message):
        check_students(experiment, [arm_named(recipe, arm)])
    assert not list(tmp_path.iterdir())
