"""Networks that read another size than the generator makes: trained, restored, exported, and told apart."""

from pathlib import Path

from gankd.config import override
from gankd.recipes import RECIPES
from gankd.recipes.arms import arm_named
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import declare
from gankd.recipes.students import restore_student
from gankd.recipes.teacher import make_teacher, other_teacher
from gankd.runs import Run


def test_a_run_whose_networks_read_larger_images_than_the_generator_makes(
    tiny: tuple[str, ...], tmp_path: Path
) -> None:
    sizes = ("teacher.input_size=12", "student.input_size=16", "student.loss=KD + FitNet", "seeds=1")
    recipe = override(RECIPES["digits"](), (*tiny, *sizes))
    (tmp_path / "run").mkdir()
    experiment = Experiment.open(recipe, Run(tmp_path / "run"))
    arms = [arm_named(recipe, "real_matched"), arm_named(recipe, "adjusted_kd")]
    stages = cgan_kd(experiment, arms, [0])
    teacher = make_teacher(experiment, recipe.teacher, stages.teacher)
    assert teacher.size == 12
    again = Experiment.open(recipe, Run(tmp_path / "run"))
    student = restore_student(again, arms[1], declare(again, arms, [0]).students["adjusted_kd", 0])
    assert student.size == 16
    assert student(again.splits.test.images[:2]).shape == (2, 10)  # 8x8 pixels


def test_the_size_is_part_of_a_student_only_where_it_is_set(tiny: tuple[str, ...], tmp_path: Path) -> None:
    recipe = override(RECIPES["digits"](), tiny)
    assert "input_size" not in recipe.student.identity
    other = override(recipe, ["student.input_size=16"])
    assert other.student.identity == {**recipe.student.identity, "input_size": 16}
    assert other_teacher(override(recipe, ["teacher.input_size=12"]), "cnn4").input_size == 12
