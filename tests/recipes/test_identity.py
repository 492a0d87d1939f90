"""What decides whether a student is trained again, and what its control learns from."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gankd.config import from_dict, override, to_dict
from gankd.data.images import LabelledImages, Splits
from gankd.errors import ConfigError, GankdError
from gankd.recipes import Recipe, digits
from gankd.recipes.arms import default_arms
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import declare
from gankd.runs import Run
from gankd.tasks import Classification

NET = """from torch import nn
class Own(nn.Module):
    def __init__(self, num_outputs):
        super().__init__()
        self.head = nn.Linear(64, num_outputs)
    def forward(self, x):
        return self.head(x.flatten(1).{})
"""


def test_the_control_keeps_its_teacher_where_only_generated_images_should_have_one() -> None:
    recipe = override(digits(), ["student.kd_on=fake"])
    kd_on = {arm.name: arm.recipe(recipe).student.kd_on for arm in default_arms(recipe)}
    assert kd_on["kd_matched"] == "both"
    assert kd_on["adjusted_kd"] == "fake"


def test_editing_the_users_own_network_makes_another_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    experiment = Experiment.open(digits(), Run(tmp_path / "run"))
    (tmp_path / "own_net_of_mine.py").write_text(NET.format("relu()"))
    before = experiment.describe("own_net_of_mine:Own")
    assert experiment.describe("own_net_of_mine:Own") == before
    (tmp_path / "own_net_of_mine.py").write_text(NET.format("tanh()"))
    with pytest.raises(ConfigError, match=r"own_net_of_mine.py has changed since this process imported it.*reload"):
        experiment.describe("own_net_of_mine:Own")  # the old class would be trained under the new name
    monkeypatch.delitem(sys.modules, "own_net_of_mine")  # as in another process
    assert experiment.describe("own_net_of_mine:Own") != before


def test_precision_is_part_of_a_network_only_where_its_head_depends_on_it(tmp_path: Path) -> None:
    def described(name: str, precision: str) -> str:
        recipe = override(digits(), [f"precision={precision}", "device=cpu"])
        return Experiment.open(recipe, Run(tmp_path / "run")).describe(name)

    assert described("cnn4", "fp32") == described("cnn4", "bf16")
    assert described("cnn4+mlp", "fp32") != described("cnn4+mlp", "bf16")  # 0.1 ran its hidden layers under autocast


@pytest.mark.parametrize(("height", "width", "message"), [(32, 36, "a multiple of 8"), (36, 36, "not of 36")])
def test_images_that_no_generator_can_make_are_refused_before_any_training(
    height: int, width: int, message: str, tmp_path: Path
) -> None:
    images = torch.zeros(4, 1, height, width, dtype=torch.uint8)
    data = LabelledImages(images, torch.tensor([0, 1, 0, 1]), Classification(num_classes=2))
    with pytest.raises(GankdError, match=message):
        Experiment.open(digits(), Run(tmp_path), Splits(data, data, data, "odd"))
    assert not list(tmp_path.iterdir())


def test_whole_numbers_and_floats_name_the_same_stages(tmp_path: Path) -> None:
    """Workers read the recipe from JSON-like data, which turns 1 into 1.0 wherever a float is meant."""
    recipe = digits()
    whole = replace(recipe, teacher=replace(recipe.teacher, lr=1), student=replace(recipe.student, lr=1))
    given = from_dict(Recipe, to_dict(whole))
    opened = Experiment.open(recipe, Run(tmp_path))
    experiments = [Experiment.open(each, opened.run, opened.splits) for each in (whole, given)]
    experiments += [opened.with_recipe(each) for each in (whole, given)]  # a grid changes settings that way
    stages = [[stage.fingerprint for stage in declare(each, default_arms(each.recipe), [0])] for each in experiments]
    assert all(each == stages[0] for each in stages)


def test_a_fresh_pool_follows_the_length_of_the_students_and_equals_one_of_that_size(tmp_path: Path) -> None:
    recipe = override(override(digits(), ["synth.fresh=true"]), ["student.updates=100", "select.rho=0.8"])
    assert recipe.select.count == 100 * 32
    assert recipe.synth.pool == 100 * 32 / (0.5 * 0.8)
    assert from_dict(Recipe, to_dict(recipe)) == recipe

    by_hand = override(digits(), ["student.updates=100", "select.rho=0.8", "select.count=3200", "synth.pool=8000"])
    made = []
    for same in (recipe, by_hand):
        with Run(tmp_path) as run:
            stages = declare(Experiment.open(same, run), default_arms(same), [0])
            made.append({stage.fingerprint for stage in stages})
    assert made[0] == made[1]
