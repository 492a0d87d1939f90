"""`gankd export`: the file is the student, for this package and for any other program."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gankd.commands.export import export
from gankd.config import override
from gankd.errors import CheckpointError, ConfigError, TrustError
from gankd.models import build_net
from gankd.models.contract import ImageModel
from gankd.models.files import load_model, save_model
from gankd.recipes import Recipe
from gankd.recipes.arms import Arm, default_arms
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import declare
from gankd.recipes.teacher import new_teacher
from gankd.runs import Run
from gankd.storage import read_card
from gankd.tasks import Classification

Outcome = tuple[int, str, str]
Trained = Callable[[Experiment, str | Arm, int], ImageModel]


def opened(recipe: Recipe, folder: Path) -> Experiment:
    return Experiment.open(recipe, Run(folder))


@pytest.mark.parametrize("kind", ["digits", "angles"])
def test_the_file_is_the_student(kind: str, request: pytest.FixtureRequest, tmp_path: Path, trained: Trained) -> None:
    recipe, folder = request.getfixturevalue(f"{kind}_run")
    found = export(recipe, folder, tmp_path / "small.safetensors")
    experiment = opened(recipe, folder)
    images = experiment.splits.test.images
    with torch.no_grad():
        expected = trained(experiment, found.arm, found.seed)(images)
        student, task = load_model(found.path)
        torch.testing.assert_close(student(images), expected, rtol=1e-6, atol=1e-5)  # sums in another order
        assert task == experiment.splits.task

        # As a program without gankd does it: the weights under their own names, and what the card says.
        card = read_card(found.path)
        side, outputs = card["size"], task.head_size
        net = build_net(card["model"], in_channels=card["channels"], image_size=side, num_outputs=outputs, seed=9)
        net.load_state_dict(load_file(found.path))
        mean, std = (torch.tensor(card[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
        plain = card["offset"] + card["factor"] * net.eval()((images / 255 - mean) / std)
        plain = plain if isinstance(task, Classification) else plain[:, 0]
        torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-4)


def test_the_student_is_chosen_on_validation_images(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, folder = digits_run
    path = tmp_path / "s.safetensors"
    found = export(recipe, folder, path)
    students = declare(opened(recipe, folder), default_arms(recipe), range(recipe.seeds)).students
    top1 = {cell: (stage.result or {})["val"]["top1"] for cell, stage in students.items()}
    means = {arm: sum(top1[arm, seed] for seed in range(recipe.seeds)) for arm, _ in students}
    assert means[found.arm] == max(means.values())  # of all arms, controls included
    assert found.val["top1"] == max(top1[found.arm, seed] for seed in range(recipe.seeds))
    named = export(recipe, folder, path, arm="real", seed=recipe.seeds - 1)
    assert (named.arm, named.seed) == ("real", recipe.seeds - 1)
    assert read_card(path)["arm"] == "real"
    assert (
        "arm kd_matched (a control: no generated images), seed" in export(recipe, folder, path, arm="kd_matched").text
    )


def test_an_exported_student_is_a_teacher_with_its_own_normalisation(
    angles_run: tuple[Recipe, Path], tmp_path: Path
) -> None:
    recipe, folder = angles_run
    found = export(recipe, folder, tmp_path / "s.safetensors")
    changes = [f"teacher.model={found.model}", f"teacher.weights={found.path}", "teacher.members=1"]
    changes.append("data.num_train=60")  # whose mean and spread are others
    other = opened(override(recipe, changes), tmp_path / "other")
    images = other.splits.test.images
    with torch.no_grad():
        teacher = new_teacher(other, other.recipe.teacher)
        torch.testing.assert_close(teacher(images), load_model(found.path)[0](images))


def test_what_cannot_be_exported_or_loaded(
    digits_run: tuple[Recipe, Path], gankd: Callable[..., Outcome], refused: Callable[..., str], tmp_path: Path
) -> None:
    recipe, folder = digits_run
    code, out, err = gankd("export", folder, "--to", tmp_path / "a.safetensors", "--arm", "real", "--seed", 0)
    assert (code, err) == (0, "")
    what = f"{recipe.student.model}, arm real, seed 0; on validation images"
    assert out.startswith(f"{tmp_path / 'a.safetensors'}: {what}")
    assert "no arm 'best'" in refused("export", folder, "--arm", "best")
    assert "must end in .safetensors" in refused("export", folder, "--to", tmp_path / "a.pt")
    assert "no finished student of arm real with seed 99" in refused("export", folder, "--seed", 99, "--arm", "real")
    with pytest.raises(ConfigError, match="no finished student in"):
        export(recipe, tmp_path / "empty")
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="was not written by gankd export"):
        load_model(tmp_path / "foreign.safetensors")
    own = next(folder.glob("teacher-*/model.safetensors"))
    with pytest.raises(CheckpointError, match="gankd export RUN"):
        other = opened(override(recipe, [f"teacher.weights={own}"]), tmp_path / "other")
        new_teacher(other, other.recipe.teacher)


def test_code_that_a_card_names_runs_only_for_files_that_are_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "from pathlib import Path\nfrom torch import nn\nPath('ran').touch()\ndef Net():\n    return nn.Flatten()\n"
    (tmp_path / "nets_of_a_stranger.py").write_text(code)
    model = ImageModel(torch.nn.Flatten(), size=8, mean=torch.zeros(1), std=torch.ones(1))
    path = tmp_path / "student.safetensors"
    save_model(path, model, "nets_of_a_stranger:Net", Classification(num_classes=64))
    with pytest.raises(TrustError, match="'nets_of_a_stranger:Net', code that is not part of gankd .*trust=True"):
        load_model(path)
    assert not (tmp_path / "ran").exists()
    assert load_model(path, trust=True)[0](torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 64)
    assert (tmp_path / "ran").exists()
