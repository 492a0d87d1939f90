"""Images from a generator's file: labels as people write them, grids and folders."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from gankd.commands.sample import parse_labels, sample
from gankd.errors import CheckpointError, ConfigError
from gankd.generators.external import open_external
from gankd.recipes import Recipe
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import load_generator, save_generator
from gankd.runs import Run
from gankd.tasks import Classification, Regression

PETS = Classification(num_classes=3, class_names=("cat", "dog", "black, cat"))
ANGLES = Regression(low=-60.0, high=60.0, unit="degrees")
Outcome = tuple[int, str, str]


def test_classes_by_number_and_name() -> None:
    assert parse_labels("0, dog,2,black, cat,", PETS).tolist() == [0, 1, 2, 2]
    with pytest.raises(ConfigError, match="--labels: no class 'dgo'; did you mean dog?"):
        parse_labels("dgo", PETS)
    with pytest.raises(ConfigError, match="--labels: no class 'horse'; known: black, cat, cat, dog"):
        parse_labels("horse", PETS)
    with pytest.raises(ConfigError, match="--labels: no class '3'; numbers go up to 2"):
        parse_labels("3", PETS)


@pytest.mark.parametrize("text", ["black, cat,dog", "black,cat, dog", '"black, cat",dog', '"black,cat" , "dog"', "2,1"])
def test_names_with_commas(text: str) -> None:
    assert parse_labels(text, PETS).tolist() == [2, 1]


def test_a_name_with_commas_whose_parts_are_classes_is_quoted() -> None:
    task = Classification(num_classes=4, class_names=("a", "b", "a, b", "a, b, c"))
    assert parse_labels('"a, b", b, a', task).tolist() == [2, 1, 0]
    assert parse_labels("a, b, c", task).tolist() == [3]
    with pytest.raises(ConfigError, match="'a, b' is one class, but each part is one, too; quote the name, or reorder"):
        parse_labels("a, b", task)


@pytest.mark.parametrize("names", [("1", "2", "3"), ("1", "2", "other"), ("-1", "x", "5"), ("07", "8", "9")])
def test_numbers_are_names_where_classes_are_called_by_numbers(names: tuple[str, ...]) -> None:
    task = Classification(num_classes=3, class_names=names)
    assert parse_labels(f"{names[2]},{names[0]}", task).tolist() == [2, 0]
    with pytest.raises(ConfigError, match=f"no class '0'; numbers are names here, (known: .*{names[1]}|did you mean)"):
        parse_labels("0", task)


def test_values_and_ranges() -> None:
    assert parse_labels("-60, 10.5", ANGLES).tolist() == [-60.0, 10.5]
    assert parse_labels("-60:60:30", ANGLES).tolist() == [-60, -30, 0, 30, 60]
    assert parse_labels("0:1:0.1,5", ANGLES).tolist() == pytest.approx([*np.arange(11) / 10, 5])
    assert parse_labels("0:0.95:0.5", ANGLES).tolist() == [0, 0.5]
    assert parse_labels("5", ANGLES).dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs at least one label, got none"),
        (" , ", "needs at least one label, got none"),
        ("61", "61 is outside \\[-60, 60\\] degrees"),
        ("0:90:45", "90 is outside"),
        ("ten", "'ten' is not a number or a range"),
        ("nan", "'nan' is not a number"),
        ("0:inf:1", "'0:inf:1' is not a number"),
        ("0:10", "a range is start:stop:step with a positive step, got '0:10'"),
        ("0:10:0", "with a positive step"),
        ("10:0:-1", "with a positive step"),
        ("0:10:1e-9", "is more than 10,000 labels"),
    ],
)
def test_labels_that_are_none(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_labels(text, ANGLES)


@pytest.fixture
def generator(digits_run: tuple[Recipe, Path]) -> Path:
    (path,) = digits_run[1].glob("gan-*/generator.safetensors")
    return path


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_a_grid_has_a_row_per_label(generator: Path, tmp_path: Path) -> None:
    path = sample(generator, "3,5,8", count=4, out=tmp_path / "deep" / "grid.PNG")
    assert pixels(path).shape == (2 + 3 * (64 + 2), 2 + 4 * (64 + 2))
    again = sample(generator, "3,5,8", count=4, out=tmp_path / "again.png")
    other = sample(generator, "3,5,8", count=4, out=tmp_path / "other.png", seed=1)
    assert again.read_bytes() == path.read_bytes()
    assert other.read_bytes() != path.read_bytes()


def test_a_folder_has_a_folder_per_label(angles_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    out = sample(angles_run[1], "-60:60:60", count=2, out=tmp_path / "images")
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert files == ["-60/00000.png", "-60/00001.png", "0/00002.png", "0/00003.png", "60/00004.png", "60/00005.png"]
    grid = sample(angles_run[1], "-60:60:60", count=2, out=tmp_path / "grid.png")
    large = np.kron(pixels(out / "0" / "00003.png"), np.ones((4, 4)))
    assert np.array_equal(large, pixels(grid)[2 + 66 :, 2 + 66 :][:64, :64])


def test_labels_of_like_names_do_not_overwrite_each_other(angles_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    out = sample(angles_run[1], "10.0001,10.0002,10.0001", count=2, out=tmp_path / "images")
    assert len(list(out.rglob("*.png"))) == 6


def test_class_names_lead_nowhere_else(generator: Path, digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, folder = digits_run
    train = Experiment.open(recipe, Run(folder)).splits.train
    names = ("..", "../../up", "/root", ".", "", "a\\b", "plain", "ü 1", "a.b", "nine")
    train = replace(train, task=Classification(num_classes=10, class_names=names))
    save_generator(tmp_path / "in" / "g", load_generator(generator), train, recipe.gan)
    out = sample(tmp_path / "in" / "g", ",".join(map(str, range(10))), count=1, out=tmp_path / "in" / "out")
    folders = sorted(path.name for path in out.iterdir())
    assert folders == sorted([*(f"label {number}" for number in range(6)), "plain", "ü 1", "a.b", "nine"])
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["g", "out"]


def test_a_generator_is_found(
    digits_run: tuple[Recipe, Path], generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(digits_run[1], "runs/digits")
    pictures = [
        sample(Path(source), "1", count=1, out=tmp_path / "x.png").read_bytes()
        for source in (generator, generator.parent, digits_run[1], "runs/digits", "digits")
    ]
    assert len(set(pictures)) == 1
    with pytest.raises(CheckpointError, match="no generator.safetensors in digit; train one with: gankd gan"):
        sample(Path("digit"), "1", count=1, out=tmp_path / "x.png")


def test_the_command_line(
    digits_run: tuple[Recipe, Path],
    angles_run: tuple[Recipe, Path],
    tmp_path: Path,
    gankd: Callable[..., Outcome],
    refused: Callable[..., str],
) -> None:
    out = tmp_path / "a b ü.png"
    assert gankd("sample", angles_run[1], "--labels", "-30,0,30", "--out", out) == (0, f"{out}\n", "")
    assert gankd("sample", angles_run[1], "--labels", "-30:30:10", "--count", 1, "--out", out)[0] == 0
    said = [
        refused("sample", digits_run[1], "--labels", labels, "--count", count, "--out", out)
        for labels, count in (("10", 1), ("3", 0), ("3", -2), ("3,4", 5001), ("", 1))
    ]
    assert said[0] == "--labels: no class '10'; numbers go up to 9"
    assert said[1] == "--count must be at least 1, got 0"
    assert said[2] == "--count must be at least 1, got -2"
    assert said[3] == "--count 5001 for 2 labels is more than 10,000 images"
    assert said[4] == "--labels needs at least one label, got none"
    (tmp_path / "folder.png").mkdir()
    assert "folder.png: Is a directory; " in refused(
        "sample", digits_run[1], "--labels", 1, "--out", tmp_path / "folder.png"
    )
    assert ".png: Not a directory; " in refused("sample", digits_run[1], "--labels", 1, "--out", out / "out")


def test_code_that_a_generator_file_names_runs_only_if_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits_run: tuple[Recipe, Path], gankd: Callable[..., Outcome]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "makers_of_a_stranger.py").write_text(
        "from pathlib import Path\nimport torch\nPath('ran').touch()\n"
        "def make(labels, generator):\n    return torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8)\n"
    )
    recipe, folder = digits_run
    train = Experiment.open(recipe, Run(folder)).splits.train
    source = "makers_of_a_stranger:make"
    made = open_external(source, train.task, train.shape, torch.device("cpu"))
    (tmp_path / "ran").unlink()
    monkeypatch.delitem(sys.modules, "makers_of_a_stranger")
    path = tmp_path / "generator.safetensors"
    save_generator(path, made, train, replace(recipe.gan, external=source))
    code, _, err = gankd("sample", path, "--labels", 1)
    assert code == 2
    assert f"{path} names the generator '{source}', code that is not part of gankd" in err
    assert not (tmp_path / "ran").exists()
    assert gankd("sample", path, "--labels", 1, "--trust")[0] == 0
    assert (tmp_path / "ran").exists()
