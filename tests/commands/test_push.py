"""`gankd push`: what is pushed is what a run trained, and gankd reads it again under its name on the hub."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from gankd.bench.trained import Trained
from gankd.commands.push import push
from gankd.config import override
from gankd.errors import ConfigError, DataError
from gankd.models.exported import open_exported
from gankd.models.files import load_model
from gankd.recipes import RECIPES, Recipe
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import external_generator
from gankd.recipes.teacher import new_teacher
from gankd.runs import Run
from gankd.tasks import Regression

Outcome = tuple[int, str, str]


@pytest.fixture(scope="module")
def digits_run(digits_run: tuple[Recipe, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A copy: what is pushed is written into the folder first."""
    return digits_run[0], shutil.copytree(digits_run[1], tmp_path_factory.mktemp("pushed") / "digits")


@pytest.fixture(scope="module")
def angles_run(angles_run: tuple[Recipe, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A copy, too."""
    return angles_run[0], shutil.copytree(angles_run[1], tmp_path_factory.mktemp("pushed") / "angles")


def test_a_student_is_used_under_its_name(
    angles_run: tuple[Recipe, Path], local_hub: Path, gankd: Callable[..., Outcome], tmp_path: Path
) -> None:
    recipe, folder = angles_run
    code, out, err = gankd("push", folder, "hf:me/small", "--arm", "real", "--seed", 0, "--licence", "mit")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == [
        "https://hub/me/small: README.md, model.safetensors",
        "to use it: gankd predict hf:me/small PHOTO...",
    ]
    page = (local_hub / "me/small/README.md").read_text()
    assert page.startswith(
        '---\nlibrary_name: "gankd"\ntags: ["gankd", "knowledge-distillation"]\nlicense: "mit"\n---\n#'
    )
    assert "gankd predict hf:me/small PHOTO..." in page
    assert "Licence:" in page
    assert (local_hub / "me/small.private").exists()

    images = Experiment.open(recipe, Run(folder)).splits.test.images
    student, task = load_model("hf:me/small")
    assert task == Experiment.open(recipe, Run(folder)).splits.task
    with torch.no_grad():
        expected = student(images[:3])
    torch.testing.assert_close(torch.from_numpy(open_exported("hf:me/small").run(images[:3].numpy())), expected)
    Image.fromarray(images[0, 0].numpy()).save(tmp_path / "photo.png")
    assert "photo.png" in gankd("predict", "hf:me/small", tmp_path / "photo.png")[1]


def test_a_teacher_teaches_another_run(digits_run: tuple[Recipe, Path], local_hub: Path, tmp_path: Path) -> None:
    recipe, folder = digits_run
    found = push(recipe, folder, "hf:me/teacher", part="teacher", public=True)
    assert found.use == "gankd run folder --data photos --set teacher.model=hf:me/teacher"
    assert not (local_hub / "me/teacher.private").exists()
    first = Experiment.open(recipe, Run(folder))
    other = Experiment.open(
        override(recipe, ["teacher.model=hf:me/teacher", "data.num_train=500"]), Run(tmp_path / "o")
    )
    assert other.recipe.teacher.weights == str(local_hub / "me/teacher/model.safetensors")
    assert other.recipe.teacher.model == recipe.teacher.model
    images = first.splits.test.images
    with torch.no_grad():
        torch.testing.assert_close(
            new_teacher(other, other.recipe.teacher)(images), Trained(first, ()).teacher.cpu()(images)
        )
    with pytest.raises(ConfigError, match="the teacher was given to this run"):
        push(other.recipe, tmp_path / "o", "hf:me/again", part="teacher")


def test_a_generator_serves_another_run(
    angles_run: tuple[Recipe, Path], local_hub: Path, gankd: Callable[..., Outcome], tmp_path: Path
) -> None:
    recipe, folder = angles_run
    push(recipe, folder, "hf:me/angles", part="generator")
    card = (local_hub / "me/angles/README.md").read_text()
    assert "gankd sample hf:me/angles" in card
    assert "share it only if you could share those" in " ".join(card.split())
    other = Experiment.open(override(recipe, ["gan.external=hf:me/angles"]), Run(tmp_path / "other"))
    source = str(other.recipe.gan.external)
    assert source == str(local_hub / "me/angles/generator.safetensors")
    labels = torch.tensor([-20.0, 30.0])
    own = Trained(Experiment.open(recipe, Run(folder)), ()).generator
    random = torch.Generator
    expected = own.sample(labels, generator=random().manual_seed(1))
    assert torch.equal(external_generator(other, source).sample(labels, generator=random().manual_seed(1)), expected)
    with pytest.raises(ConfigError, match="which this run did not train; push that"):
        push(other.recipe, tmp_path / "other", str(tmp_path / "copy"), part="generator")
    code, _, err = gankd("sample", "hf:me/angles", "--labels", "10", "--count", 2, "--out", tmp_path / "two.png")
    assert (code, err) == (0, "")
    digits = override(RECIPES["digits"](), ["gan.external=hf:me/angles"])
    classes = Experiment.open(digits, Run(tmp_path / "classes"))
    with pytest.raises(DataError, match="is for values in .* and the data have .*; the labels must be the same"):
        external_generator(classes, str(classes.recipe.gan.external))
    task = other.splits.task
    assert isinstance(task, Regression)
    narrow = replace(task, low=-500.0, high=500.0)
    wider = replace(other, splits=replace(other.splits, train=replace(other.splits.train, task=narrow)), memory={})
    with pytest.raises(DataError, match="the labels must be the same"):
        external_generator(wider, source)


def test_a_folder_stands_in_for_the_hub(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, folder = digits_run
    found = push(recipe, folder, str(tmp_path / "out"), arm="real", seed=0)
    assert found.files == ("README.md", "model.safetensors")
    page = (tmp_path / "out/README.md").read_text()
    assert 'pipeline_tag: "image-classification"' in page
    assert "hf:" not in page
    assert found.use == f"gankd predict {tmp_path / 'out/model.safetensors'} PHOTO..."
    assert open_exported(tmp_path / "out/model.safetensors").task.has_classes


def test_what_cannot_be_pushed(
    digits_run: tuple[Recipe, Path], local_hub: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    _, folder = digits_run
    assert "write hf:user/name" in refused("push", folder, "hf:me")
    assert "give hf:me/net" in refused("push", folder, "hf:me/net@v2")
    assert "choose a student, not the teacher" in refused("push", folder, "hf:me/net", "--part", "teacher", "--seed", 1)
    (tmp_path / "file").touch()
    assert "is a file; give a folder, or hf:user/name" in refused("push", folder, tmp_path / "file")
    assert not local_hub.exists()
