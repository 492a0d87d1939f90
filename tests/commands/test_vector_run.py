"""A whole run on labels of three values, from a table on the command line to generated images."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from gankd.data.blobs import PLACE, draw_places, render
from gankd.models.files import load_model
from gankd.seeds import rng
from gankd.tasks import VectorRegression

Gankd = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 200 discs with labels.csv."""
    root = tmp_path_factory.mktemp("discs")
    labels = draw_places(200, rng(0, "discs"))
    lines = ["image,x,y,size"]
    for number, (image, row) in enumerate(zip(render(labels, rng(1, "discs")), labels.tolist(), strict=True)):
        Image.fromarray(image[0].numpy()).save(root / f"{number:03d}.png")
        lines.append(f"{number:03d}.png," + ",".join(f"{value:.3f}" for value in row))
    (root / "labels.csv").write_text("\n".join(lines))
    return root


def test_show_prints_the_range_of_each_output(discs: Path, tmp_path: Path, gankd: Gankd) -> None:
    code, out, err = gankd("data", "show", discs, "--label", "x,y,size", "--sheet", tmp_path / "sheet.png")
    assert code == 0, err
    for text in ("3 values: x: values from 4", "y: values from 4", "size: values from 1", "--label x,y,size"):
        assert text in out


@pytest.mark.slow
def test_a_run_beats_chance_and_its_generator_takes_vectors(
    discs: Path, tmp_path: Path, gankd: Gankd, tiny: tuple[str, ...]
) -> None:
    folder = tmp_path / "run"
    settings = (
        *(*tiny, "seeds=1", "data.num_train=none", "teacher.updates=150", "teacher.mix=mixup"),
        *("student.model=cnn8", "student.updates=150", "student.lr=0.01"),
    )
    sets = [word for setting in settings for word in ("--set", setting)]
    words = ("--data", discs, "--label", "x,y,size", "--out", folder, "--arms", "real_matched,adjusted_kd")
    code, _, err = gankd("run", "folder", *words, *sets)
    assert code == 0, err
    test = draw_places(500, rng(2, "discs"))
    chance = PLACE.chance(test)
    for arm in json.loads((folder / "results.json").read_text())["arms"]:
        assert arm["values"][0] < 0.8 * chance, arm
    page = (folder / "report.html").read_text()
    assert "Error by output" in page
    assert "mae_size" in page

    grid = tmp_path / "grid.png"
    code, _, err = gankd("sample", folder, "--labels", "6,6,50", "--count", "2", "--out", grid)
    assert (code, "50 is outside [1" in err) == (2, True), err
    code, _, err = gankd("sample", folder, "--labels", "6,5:11:3,2,8,8,2", "--count", "2", "--out", grid)
    assert code == 0, err
    with Image.open(grid) as picture:
        assert picture.height > 4 * 16  # four labels

    student = tmp_path / "student.safetensors"
    code, _, err = gankd("export", folder, "--to", student)
    assert code == 0, err
    model, task = load_model(student)
    assert isinstance(task, VectorRegression)
    assert task.names == ("x", "y", "size")
    assert PLACE.metrics(model(render(test, rng(3, "discs"))).detach(), test)["mae"] < 0.8 * chance


def test_what_learns_one_value_is_refused_before_any_training(
    discs: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    folder = tmp_path / "run"
    data = ("--data", discs, "--label", "x,y,size", "--out", folder)
    for command in (("run", "folder", "--loss", "Label + Distribution@virtual"), ("vkd", "student", "folder")):
        said = refused(*command, *data)
        assert "virtual teachers give distributions of one value, and the labels are 3 (x, y, size)" in said
        assert not list(folder.glob("teacher*/metrics.jsonl"))
