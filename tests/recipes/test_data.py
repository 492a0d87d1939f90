import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import h5py
import numpy as np
import pytest
import torch

import gankd.data
from gankd.commands.stages import stored_run
from gankd.config import override
from gankd.data.images import Splits
from gankd.data.sets import DATA_SETS
from gankd.errors import ConfigError, DataError
from gankd.recipes import RECIPES
from gankd.recipes.config import DataConfig
from gankd.recipes.data import choices, load_splits, reader_of
from gankd.recipes.experiment import Experiment
from gankd.recipes.teacher import seen_images
from gankd.runs import Run
from gankd.tasks import Classification


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """120 images of six classes, the brighter the higher the class; the first pixel is the number."""
    brightness = 40 * (np.arange(120, dtype=np.uint8) % 6)[:, None, None]
    images = brightness + np.random.default_rng(0).integers(0, 40, (120, 16, 16), dtype=np.uint8)
    images[:, 0, 0] = np.arange(120)
    names = np.array(list("abcdef"))
    np.savez(tmp_path / "data.npz", images=images, label=np.arange(120) % 6, class_names=names)
    return tmp_path / "data.npz"


def load(path: Path | None, *settings: str, recipe: str = "npz") -> Splits:
    root = [] if path is None else [f"data.root={path}"]
    return load_splits(override(RECIPES[recipe](), [*root, *settings]).data)


def test_settings_reach_the_reader(arrays: Path) -> None:
    assert load(arrays).train.shape == (1, 16, 16)
    assert load(arrays, "data.size=8", "data.channels=rgb").train.shape == (3, 8, 8)
    task = load(arrays, "data.task=regression", "data.low=-1", "data.high=7").task
    assert (task.kind, vars(task)["low"], vars(task)["high"]) == ("regression", -1, 7)


def test_scarce_arrays(arrays: Path) -> None:
    full = load(arrays)
    few = load(arrays, "data.num_train=30", "data.label_noise=0.2")
    assert (len(few.train), len(few.val), len(few.test)) == (30, len(full.val), len(full.test))
    wrong = few.train.labels != few.train.images[:, 0, 0, 0] % 6
    assert wrong.sum() == 6
    assert load(arrays, "data.per_label=2").train.labels.bincount().tolist() == [2] * 6
    assert torch.equal(few.test.images, full.test.images)


def test_first_classes_in_all_splits(arrays: Path) -> None:
    full, few = load(arrays), load(arrays, "data.classes=4")
    assert few.task == Classification(num_classes=4, class_names=("a", "b", "c", "d"))
    for all_of, part in ((full.train, few.train), (full.val, few.val), (full.test, few.test)):
        assert part.task == few.task
        assert torch.equal(part.images, all_of.images[all_of.labels < 4])
        assert torch.equal(part.labels, all_of.labels[all_of.labels < 4])
    assert few.card["classes"] == "the first 4 of 6"
    assert load(arrays, "data.classes=6").train.images.equal(full.train.images)


def test_first_classes_come_before_thinning() -> None:
    few = load(None, "data.classes=3", "data.num_train=90", recipe="digits")
    assert few.train.labels.bincount().tolist() == [30, 30, 30]
    assert few.test.labels.unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("count", [-1, 0, 1, 7])
def test_number_of_classes(arrays: Path, count: int) -> None:
    with pytest.raises(ConfigError, match=f"data.classes must lie in 2..6, the classes of data, got {count}"):
        load(arrays, f"data.classes={count}")


def test_values_have_no_classes(arrays: Path) -> None:
    with pytest.raises(ConfigError, match="the labels of data are values; .* add --task classification"):
        load(arrays, "data.classes=3", "data.task=regression")


@pytest.mark.parametrize("name", DATA_SETS)
def test_readers_take_what_they_are_given(name: str) -> None:
    found = DATA_SETS[name]
    parameters = inspect.signature(reader_of(name)).parameters
    known = list(parameters)
    if "settings" in known:
        known += get_args(parameters["settings"].annotation)[0].__annotations__
    if not found.embedded:
        assert known.pop(0) in {"path", "root"}
    assert set(found.takes) <= set(known)
    assert set(known) & choices() <= set(found.takes)
    if found.embedded:
        with pytest.raises(ConfigError, match=f"--data is for recipes that read files; {name} is embedded"):
            load_splits(DataConfig(name=name, root="/absent"))
        return
    with pytest.raises(DataError, match="absent"):
        load_splits(DataConfig(name=name, root="/absent"))
    with pytest.raises(ConfigError, match=f"the recipe {name} needs --data PATH, the "):
        load_splits(DataConfig(name=name))


def test_every_set_has_a_recipe() -> None:
    assert {make().data.name for make in RECIPES.values()} == set(DATA_SETS)
    assert {make().name for make in RECIPES.values()} >= set(DATA_SETS)


def test_an_unknown_set_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="^data.name: no data set 'cifra10'; did you mean cifar10") as caught:
        override(RECIPES["digits"](), ["data.name=cifra10"])
    assert "\n" not in str(caught.value)


A_READER = """
import torch
from gankd.data.images import LabelledImages, Splits
from gankd.tasks import Classification


def load_stripes(path: str, *, size: int | None = None) -> Splits:
    levels = torch.tensor([int(level) for level in open(path).read().split()], dtype=torch.uint8)
    images = levels[:, None, None, None].expand(-1, 1, size or 8, size or 8).contiguous()
    part = LabelledImages(images, (levels > 127).long(), Classification(num_classes=2))
    return Splits(part, part, part, "stripes")
"""
A_LINE = """
DataSet("stripes:load_stripes", "Stripes: dark, light", "the .stripes file", files=((".*[.]stripes", "stripes"),))
""".strip()
ADDING = f"""
import sys, types
module = types.ModuleType("gankd.data.stripes")
exec({A_READER!r}, vars(module))
sys.modules["gankd.data.stripes"] = module
from gankd.data.sets import DATA_SETS, DataSet
DATA_SETS["stripes"] = {A_LINE}

from gankd.cli import main
from gankd.config import override
from gankd.recipes.data import load_splits
from gankd.recipes.ready import RECIPES, recipe_summary
recipe = override(RECIPES["stripes"](), ["data.root=a.stripes", "data.classes=2"])
print(recipe.name, recipe.data.name, load_splits(recipe.data).train.shape, recipe_summary("stripes"))
sys.exit(main(["data", "show", "a.stripes", "--size", "16"]))
"""


def test_a_reader_and_one_line_add_a_set(tmp_path: Path) -> None:
    (tmp_path / "a.stripes").write_text("10 20 30 200 220 240\n")
    source = str(Path(gankd.data.__path__[0]).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", ADDING],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "stripes stripes (1, 8, 8) Stripes: dark, light" in done.stdout
    assert "stripes (stripes)" in done.stdout
    assert "grey 16x16" in done.stdout
    assert "gankd run stripes --data a.stripes --size 16" in done.stdout


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("digits", "task=regression"),
        ("turntable", "low=1"),
        ("cifar10", "coarse=true"),
        ("cifar100", "class_list=a"),
        ("utkface", "high=50"),
        ("imagenet100", "channels=grey"),
        ("steering", "task=classification"),
        ("npz", "coarse=true"),
    ],
)
def test_settings_that_mean_nothing(arrays: Path, name: str, setting: str) -> None:
    root = [] if name in {"digits", "turntable"} else [f"data.root={arrays}"]
    recipe = override(RECIPES["digits"](), [f"data.name={name}", f"data.{setting}", *root])
    with pytest.raises(
        ConfigError, match=f"data.{setting.partition('=')[0]} means nothing to {name}, got .*; leave it"
    ):
        load_splits(recipe.data)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """UTKFace as the authors keep it: 20 faces of each of three ages; the first pixel is the age."""
    ages = np.repeat([10, 20, 30], 20)
    with h5py.File(tmp_path / "faces.h5", "w") as file:
        file["images"] = np.zeros((60, 3, 8, 8), np.uint8) + ages.astype(np.uint8)[:, None, None, None]
        file["labels"] = ages
    return tmp_path / "faces.h5"


def test_authors_rounding(faces: Path) -> None:
    plain = DataConfig(name="utkface", root=str(faces), size=8, label_noise=0.1)
    exact, cut = load_splits(plain), load_splits(replace(plain, authors_rounding=True))
    assert not torch.equal(exact.train.labels, exact.train.labels.round())
    assert torch.equal(cut.train.labels, exact.train.labels.floor())
    assert cut.card["rounding"].startswith("labels cut off")
    assert torch.equal(cut.train.images, exact.train.images)
    assert torch.equal(cut.test.labels, exact.test.labels)
    with pytest.raises(ConfigError, match="a defect of the authors' UTKFace code; leave it out with digits"):
        load_splits(DataConfig(authors_rounding=True))


def test_published_sets_are_made_scarce(faces: Path) -> None:
    full = load_splits(DataConfig(name="utkface", root=str(faces), size=8))
    few = load_splits(DataConfig(name="utkface", root=str(faces), size=8, per_label=3))
    assert few.train.labels.unique(return_counts=True)[1].tolist() == [3, 3, 3]
    assert torch.equal(few.test.images, full.test.images)
    six = load_splits(DataConfig(name="utkface", root=str(faces), size=8, num_train=6))
    assert six.train.labels.unique(return_counts=True)[1].tolist() == [2, 2, 2]


def test_images_per_angle_go_to_the_reader(tmp_path: Path) -> None:
    tenths = np.repeat(np.arange(1, 900), 3)
    with h5py.File(tmp_path / "rc49.h5", "w") as file:
        file["images"], file["labels"] = np.zeros((len(tenths), 3, 8, 8), np.uint8), tenths / 10
    data = load_splits(DataConfig(name="rc49", root=str(tmp_path / "rc49.h5"), size=8, per_label=2))
    assert (len(data.train) + len(data.val), len(data.test)) == (900, 3 * 899 - 900)


def test_data_belongs_to_the_users_own_recipes(arrays: Path) -> None:
    with pytest.raises(ConfigError, match=r"the recipe npz needs --data PATH, the \.npz file of your arrays"):
        load(None)
    with pytest.raises(ConfigError, match="--data is for recipes that read files; digits is embedded"):
        load(arrays, recipe="digits")


def test_arrays_on_the_command_line(
    arrays: Path, tiny: tuple[str, ...], gankd: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(arrays.parent)
    settings = [word for setting in tiny for word in ("--set", setting)]
    words = ("--data", "data.npz", "--size", "8", "--task", "regression", "--out", "run", *settings, "--quiet")
    assert gankd("teach", "npz", *words)[0] == 0
    recipe, _ = stored_run(Path("run"))
    assert recipe.data.root == str(arrays)  # in full, so that resume finds it from anywhere
    assert (recipe.data.size, recipe.data.task) == (8, "regression")


def test_a_given_teacher_may_have_seen_splits_that_were_drawn(arrays: Path, tmp_path: Path) -> None:
    splits = load(arrays)
    experiment = Experiment.open(RECIPES["digits"](), Run(tmp_path / "run"), splits)
    given = replace(experiment.recipe.teacher, weights="big.safetensors")
    assert seen_images(experiment, given) == (
        "gankd drew the validation and test images from yours: the given teacher may have been trained on some of "
        "them, and its score on them may be too good; give images that it has not seen by --val PATH and --test PATH"
    )
    assert seen_images(experiment, experiment.recipe.teacher) == ""
    whole = replace(experiment, splits=replace(splits, card=splits.card | {"drawn": []}))
    assert seen_images(whole, given) == ""
