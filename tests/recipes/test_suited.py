"""Students are augmented as their teacher was: in a recipe, and for a teacher that comes as weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gankd.config import override
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import ConfigError
from gankd.models.contract import ImageModel
from gankd.recipes import RECIPES, Recipe
from gankd.recipes.arms import Arm, default_arms
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import declare
from gankd.recipes.suited import clearly_smaller, suited_kinds
from gankd.recipes.teacher import make_teacher, teacher_stage, with_suited_augmentation
from gankd.runs import Run
from gankd.tasks import Classification
from gankd.training.lesson import DistillConfig

TEACHERS = ("shift", "rotate", "scale")


def test_students_have_the_kinds_of_their_teacher() -> None:
    recipe = RECIPES["digits"]()
    assert recipe.student.augment == ("teacher",)
    assert recipe.teacher.augment == TEACHERS
    assert {arm.recipe(recipe).student.augment for arm in default_arms(recipe)} == {TEACHERS}
    for wanted, kinds in (("[]", ()), ("flip", ("flip",)), ("erase,teacher,shift", ("erase", *TEACHERS))):
        changed = override(recipe, [f"student.augment={wanted}"])
        assert Arm(name="own").recipe(changed).student.augment == kinds
    assert Arm(name="own", augment=("teacher", "colour")).recipe(recipe).student.augment == (*TEACHERS, "colour")
    without = override(recipe, ["teacher.augment=[]", "student.views=3"])
    assert Arm(name="own").recipe(without).student.augment == ()
    assert Arm(name="own").recipe(without).student.views == "online"
    with pytest.raises(ConfigError, match="teacher.augment=teacher is for students in a recipe"):
        override(recipe, ["teacher.augment=teacher"])
    with pytest.raises(ConfigError, match="augment=teacher is for students in a recipe"):
        DistillConfig(augment=("teacher",))


def test_kinds_that_are_written_out_are_the_same_student(tmp_path: Path) -> None:
    found = []
    for augment in ("teacher", "shift,rotate,scale", "[]"):
        recipe = override(RECIPES["digits"](), [f"student.augment={augment}"])
        stages = declare(Experiment.open(recipe, Run(tmp_path)), default_arms(recipe), [0])
        found.append([stage.fingerprint for stage in stages.students.values()])
    assert found[0] == found[1]
    assert not set(found[0]) & set(found[2])


def test_clearly_smaller_is_paired() -> None:
    torch.manual_seed(0)
    hard = 10 * torch.rand(200)  # images differ much more than the two networks
    assert clearly_smaller(hard, hard + 0.1 + 0.05 * torch.randn(200))
    assert not clearly_smaller(hard, hard + 0.05 * torch.randn(200))
    assert not clearly_smaller(hard + 0.1, hard)
    assert not clearly_smaller(hard, hard)
    gain = torch.tensor([3.0, 1.0])  # mean 2, standard error 1: two of them, where 1.645 are needed
    assert clearly_smaller(torch.zeros(2), gain)
    assert not clearly_smaller(torch.zeros(2), torch.tensor([3.3, 0.7]) - 0.1)


class Side(nn.Module):
    """Tells whether the brighter side is the left one (class 0) or the right one."""

    def forward(self, images: Tensor) -> Tensor:
        left, right = images.chunk(2, dim=3)
        return torch.stack([left.mean((1, 2, 3)), right.mean((1, 2, 3))], 1)


def sides() -> LabelledImages:
    images = torch.zeros(60, 1, 8, 8, dtype=torch.uint8)
    labels = torch.arange(60) % 2
    images[labels == 0, :, :, :4] = 200
    images[labels == 1, :, :, 4:] = 200
    return LabelledImages(images, labels, Classification(num_classes=2))


def test_what_a_given_teacher_cannot_read_is_left_out() -> None:
    val = sides()
    teacher = ImageModel(Side(), size=8, mean=torch.zeros(1), std=torch.ones(1)).eval()
    said: list[str] = []
    engine = Engine.pick(8, "cpu", "fp32")
    kinds = suited_kinds(teacher, ("flip", "colour", "shift"), val, engine, lambda what, text: said.append(text))
    assert kinds == ["colour", "shift"]
    assert len(said) == 1
    assert said[0].startswith("flip raises its error from 0 to ")


def test_the_kinds_of_a_given_teacher_are_tried_once(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, folder = digits_run
    trained = Experiment.open(recipe, Run(folder))
    teacher = make_teacher(trained, recipe.teacher, teacher_stage(trained, recipe.teacher))
    torch.save(teacher.net.state_dict(), tmp_path / "net.pt")
    given = override(recipe, [f"teacher.weights={tmp_path / 'net.pt'}", "teacher.augment=flip,colour"])
    experiment = Experiment.open(given, Run(tmp_path / "run"))
    assert with_suited_augmentation(experiment).recipe.student.augment == ("teacher",)  # not tried yet
    found = with_suited_augmentation(experiment, make=True).recipe.student.augment
    assert set(found) <= {"flip", "colour"}
    stored = (teacher_stage(experiment, given.teacher).result or {})["suited"]
    assert tuple(stored) == found == with_suited_augmentation(experiment).recipe.student.augment
    fixed = experiment.with_recipe(override(given, ["student.augment=shift"]))
    assert with_suited_augmentation(fixed) is fixed
