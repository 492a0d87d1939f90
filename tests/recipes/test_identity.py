"""What decides whether a student is trained again, and what its control learns from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gankd.config import from_dict, to_dict
from gankd.data.images import LabelledImages, Splits
from gankd.errors import GankdError
from gankd.recipes import Recipe, digits
from gankd.recipes.arms import ARMS
from gankd.recipes.cgan_kd import CganKd
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


def test_the_control_keeps_its_teacher_where_only_generated_images_should_have_one(tmp_path: Path) -> None:
    recipe = digits()
    method = CganKd(replace(recipe, student=replace(recipe.student, kd_on="fake")), Run(tmp_path))
    assert method.student_config(ARMS["kd_matched"]).kd_on == "both"
    assert method.student_config(ARMS["adjusted_kd"]).kd_on == "fake"


def test_editing_the_users_own_network_makes_another_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    method = CganKd(digits(), Run(tmp_path / "run"))
    (tmp_path / "own_net_of_mine.py").write_text(NET.format("relu()"))
    before = method.describe("own_net_of_mine:Own")
    assert method.describe("own_net_of_mine:Own") == before
    (tmp_path / "own_net_of_mine.py").write_text(NET.format("tanh()"))
    assert method.describe("own_net_of_mine:Own") != before


@pytest.mark.parametrize(("height", "width", "message"), [(16, 24, "square, got 16x24"), (36, 36, "got 36")])
def test_images_that_no_generator_can_make_are_refused_before_any_training(
    height: int, width: int, message: str, tmp_path: Path
) -> None:
    images = torch.zeros(4, 1, height, width, dtype=torch.uint8)
    data = LabelledImages(images, torch.tensor([0, 1, 0, 1]), Classification(num_classes=2))
    with pytest.raises(GankdError, match=message):
        _ = CganKd(digits(), Run(tmp_path), Splits(data, data, data, "odd")).splits


def test_whole_numbers_and_floats_name_the_same_stages(tmp_path: Path) -> None:
    """Workers read the recipe from JSON-like data, which turns 1 into 1.0 wherever a float is meant."""
    recipe = digits()
    whole = replace(recipe, teacher=replace(recipe.teacher, lr=1), student=replace(recipe.student, lr=1))
    given = from_dict(Recipe, to_dict(whole))
    stages = [
        (method.teacher_stage.fingerprint, method.student_stage("real", 0).fingerprint)
        for method in (CganKd(recipe, Run(tmp_path)) for recipe in (whole, given))
    ]
    assert stages[0] == stages[1]
