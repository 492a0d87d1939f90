"""Labels of several values in every format that holds labels: read alike, in order, with names, ranges and units."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gankd.data.dataset import splits_from_dataset
from gankd.data.folder import load_folder
from gankd.data.images import Splits
from gankd.data.npz import load_npz
from gankd.data.table import load_table
from gankd.errors import ConfigError, DataError
from gankd.recipes.config import DataConfig
from gankd.recipes.data import load_splits
from gankd.tasks import VectorRegression

COUNT = 40


def values() -> np.ndarray[Any, np.dtype[np.float64]]:
    place = np.random.default_rng(0).uniform(0, 8, (COUNT, 2))
    return np.column_stack([place, place.sum(1) / 4]).round(3)


def images() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """8x8 images whose first pixel is their number."""
    found = np.zeros((COUNT, 8, 8), np.uint8)
    found[:, 0, 0] = np.arange(COUNT)
    return found


def folder(root: Path, unit: str = "") -> Path:
    lines = ["image,x,y,size"]
    for number, (image, (x, y, size)) in enumerate(zip(images(), values().tolist(), strict=True)):
        Image.fromarray(image).save(root / f"{number}.png")
        lines.append(f"{number}.png,{x}{unit},{y},{size}")
    (root / "labels.csv").write_text("\n".join(lines))
    return root


def check(splits: Splits, names: tuple[str, ...] = ("x", "y", "size")) -> None:
    """Every image has its own label, and ranges are those of the values."""
    task = splits.task
    assert isinstance(task, VectorRegression)
    assert task.names == names
    known = torch.from_numpy(values()).float()
    for part in (splits.train, splits.val, splits.test):
        assert part.labels.equal(known[part.images[:, 0, 0, 0].long()])
    assert [out.low for out in task.outputs] == known.min(0).values.tolist()
    assert [out.high for out in task.outputs] == known.max(0).values.tolist()
    assert (len(splits.train), len(splits.val), len(splits.test)) == (28, 4, 8)
    assert splits.card["labels"] == "regression: several values per image"


def test_tables_of_files(tmp_path: Path) -> None:
    check(load_folder(folder(tmp_path), label=("x", "y", "size")))
    check(load_table(tmp_path / "labels.csv", label=("X", "y", "Size")), ("X", "y", "Size"))
    one = load_folder(tmp_path, label=("size",))
    assert one.train.labels.ndim == 1
    with pytest.raises(DataError, match=r"expected one column z for the label, got image, x, y, size"):
        load_folder(tmp_path, label=("x", "z"))
    with pytest.raises(DataError, match=r"expected a column label .*--label NAME"):
        load_folder(tmp_path)


def test_units_are_kept(tmp_path: Path) -> None:
    task = load_folder(folder(tmp_path, unit=" px"), label=("x", "y")).task
    assert isinstance(task, VectorRegression)
    assert [out.unit for out in task.outputs] == ["px", ""]


def test_a_value_that_is_no_number_is_named(tmp_path: Path) -> None:
    table = folder(tmp_path) / "labels.csv"
    table.write_text(table.read_text().replace("3.png,", "3.png,left ", 1))
    with pytest.raises(DataError, match=r"value x: .*labels.csv line 5: expected a number as label, got 'left"):
        load_folder(tmp_path, label=("x", "y"))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_of_pixels(tmp_path: Path, suffix: str) -> None:
    names = ["x", *(f"pixel{number}" for number in range(64)), "y", "size"]
    rows = [[x, *image.flatten().tolist(), y, s] for image, (x, y, s) in zip(images(), values().tolist(), strict=True)]
    path = tmp_path / f"set.{suffix}"
    if suffix == "csv":
        path.write_text("\n".join(",".join(map(str, row)) for row in [names, *rows]))
    else:
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = [list(column) for column in zip(*rows, strict=True)]
        arrays = [pa.array(column, pa.uint8() if "pixel" in name else None) for name, column in zip(names, columns)]  # noqa: B905
        parquet.write_table(pa.table(arrays, names), path)
    check(load_table(path, label=("x", "y", "size")))


def test_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=images(), label=values())
    check(load_npz(path), ("y1", "y2", "y3"))
    check(load_npz(path, label=("x", "y", "size")))
    np.savez(path, images=images(), label=values().astype(np.float32), label_names=np.array(["x", "y", "size"]))
    check(load_npz(path))
    with pytest.raises(ConfigError, match=r"each of the 3 values of a label, got 2: x, y"):
        load_npz(path, label=("x", "y"))
    with pytest.raises(DataError, match=r"expected a class, or several values, per image"):
        load_npz(path, task="classification")


def test_one_hot_labels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=images(), label=np.eye(10)[np.arange(COUNT) % 10])
    with pytest.raises(DataError, match=r"save labels.argmax\(1\) where they are one-hot"):
        load_npz(path)


@pytest.mark.parametrize("kind", [tuple, torch.tensor, np.array])
def test_pairs(kind: Any) -> None:
    pairs = [(image, kind(row)) for image, row in zip(images(), values().tolist(), strict=True)]
    splits = splits_from_dataset(pairs, label=("x", "y", "size"))
    task = splits.task
    assert isinstance(task, VectorRegression)
    torch.testing.assert_close(
        splits.train.labels, torch.from_numpy(values()).float()[splits.train.images[:, 0, 0, 0].long()]
    )
    with pytest.raises(DataError, match="expected a label of 3 values as before, got 2"):
        splits_from_dataset([*pairs, (images()[0], (1.0, 2.0))])


def test_class_folders_have_no_columns(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(images()[0]).save(tmp_path / name / "0.png")
    with pytest.raises(ConfigError, match="label names columns of labels.csv"):
        load_folder(tmp_path, label=("x",))


def test_a_value_that_never_changes_is_refused(tmp_path: Path) -> None:
    path, labels = tmp_path / "a.npz", values()
    labels[:, 1] = 3
    np.savez(path, images=images(), label=labels)
    with pytest.raises(DataError, match="value y2: .*expected different labels, got 3 for all of 40 images"):
        load_npz(path)


def test_settings_reach_the_reader_and_are_stored(tmp_path: Path) -> None:
    config = DataConfig(name="folder", root=str(folder(tmp_path)), label=("x", "y", "size"))
    check(load_splits(config))
    with pytest.raises(ConfigError, match="data.label means nothing to digits"):
        load_splits(DataConfig(name="digits", label=("x",)))


def test_splits_are_drawn_over_all_of_the_plane(tmp_path: Path) -> None:
    path, corner = tmp_path / "a.npz", np.random.default_rng(1).uniform(0, 1, (400, 2))
    numbers = np.arange(400)
    pictures = np.zeros((400, 8, 8), np.uint8)
    pictures[:, 0, 0], pictures[:, 0, 1] = numbers % 20, numbers // 20
    np.savez(path, images=pictures, label=corner)
    splits = load_npz(path)
    shares = splits.task.groups(splits.test.labels).bincount(minlength=9).double()
    whole: Tensor = splits.task.groups(torch.from_numpy(corner).float()).bincount(minlength=9).double()
    assert (shares - 0.2 * whole).abs().max() <= 2


def test_groups_stay_whole(tmp_path: Path) -> None:
    table = folder(tmp_path) / "labels.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0] + ",film", *(f"{line},f{row // 4}" for row, line in enumerate(lines[1:]))]))
    splits = load_folder(tmp_path, label=("x", "y"), group="film")
    films = [set((part.images[:, 0, 0, 0] // 4).tolist()) for part in (splits.train, splits.val, splits.test)]
    assert sum(map(len, films)) == len(set.union(*films)) == 10


def test_json_members_of_shards(tmp_path: Path) -> None:
    import io
    import tarfile

    from gankd.data.shards import load_shards

    with tarfile.open(tmp_path / "set.tar", "w") as shard:
        for number, (image, row) in enumerate(zip(images(), values().tolist(), strict=True)):
            picture = io.BytesIO()
            Image.fromarray(image).save(picture, format="png")
            stored = json.dumps(dict(zip(("x", "y", "size"), row, strict=True))).encode()
            for suffix, content in (("png", picture.getvalue()), ("json", stored)):
                member = tarfile.TarInfo(f"{number:03d}.{suffix}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    check(load_shards(tmp_path / "set.tar", label=("x", "y", "size")))
