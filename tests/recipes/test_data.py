from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gankd.commands.stages import stored_run
from gankd.config import override
from gankd.data.images import Splits
from gankd.errors import ConfigError
from gankd.recipes import RECIPES
from gankd.recipes.data import load_splits
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


def test_data_belongs_to_the_users_own_recipes(arrays: Path) -> None:
    with pytest.raises(ConfigError, match=r"the recipe npz needs --data PATH, the \.npz file of your arrays"):
        load(None)
    with pytest.raises(ConfigError, match="--data is for the recipes folder and npz; digits is embedded"):
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
