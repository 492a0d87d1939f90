"""The user's own test images in another folder, table or shard: they are the test split, whole, and nothing else is."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gankd.data.folder import load_folder
from gankd.data.images import Splits
from gankd.data.shards import load_shards
from gankd.data.table import load_table
from gankd.errors import ConfigError, DataError

MORE = 100
"""Number of the first image of the other place."""


def png(k: int) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(k).integers(0, 256, (8, 8), dtype=np.uint8)
    pixels[0, 0] = k
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def class_folders(root: Path, first: int, count: int) -> Path:
    for k in range(first, first + count):
        path = root / "ab"[k % 2] / f"{k - first}.png"  # the same names in both places
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(k))
    return root


def numbers(splits: Splits) -> list[list[int]]:
    return [sorted(part.images[:, 0, 0, 0].tolist()) for part in (splits.train, splits.val, splits.test)]


def check(splits: Splits) -> None:
    train, val, test = numbers(splits)
    assert sorted(train + val) == list(range(40))
    assert len(val) == 4 or len(val) == 6
    assert test == list(range(MORE, MORE + 12))
    for part in (splits.train, splits.val, splits.test):
        assert (part.labels == part.images[:, 0, 0, 0] % 2).all()
    assert splits.card["drawn"] == ["val"]
    assert "train, test given" in splits.card["split"]


def test_a_folder_of_test_images(tmp_path: Path) -> None:
    root, other = class_folders(tmp_path / "a", 0, 40), class_folders(tmp_path / "b", MORE, 12)
    check(load_folder(root, test=str(other)))
    three = load_folder(root, test=str(other), val=str(class_folders(tmp_path / "c", 200, 8)))
    assert list(map(len, numbers(three))) == [40, 8, 12]
    assert three.card["drawn"] == []


def table(root: Path, first: int, count: int, name: str) -> Path:
    root.mkdir(exist_ok=True)
    lines = ["image,label"]
    for k in range(first, first + count):
        (root / f"{k - first}.png").write_bytes(png(k))
        lines.append(f"{k - first}.png,{'ab'[k % 2]}")
    (root / name).write_text("\n".join(lines))
    return root / name


def test_tables(tmp_path: Path) -> None:
    root, other = table(tmp_path / "a", 0, 40, "x.csv"), table(tmp_path / "b", MORE, 12, "y.csv")
    check(load_table(root, test=str(other)))
    table(tmp_path / "a", 0, 40, "labels.csv")
    check(load_folder(tmp_path / "a", test=str(class_folders(tmp_path / "c", MORE, 12))))


def test_parquet(tmp_path: Path) -> None:
    for name, first, count in (("a", 0, 40), ("test", MORE, 12)):
        rows = range(first, first + count)
        columns = {"image": [png(k) for k in rows], "label": ["ab"[k % 2] for k in rows]}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    check(load_table(tmp_path / "a.parquet", test=str(tmp_path / "test.parquet")))


def test_shards(tmp_path: Path) -> None:
    for name, first, count in (("a", 0, 40), ("train", MORE, 12)):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            for k in range(first, first + count):
                for ending, content in (("png", png(k)), ("cls", b"%d" % (k % 2))):
                    header = tarfile.TarInfo(f"{k - first}.{ending}")
                    header.size = len(content)
                    archive.addfile(header, io.BytesIO(content))
    check(load_shards(tmp_path / "a.tar", test=str(tmp_path / "train.tar")))


def test_what_is_refused(tmp_path: Path) -> None:
    root, other = class_folders(tmp_path / "a", 0, 40), class_folders(tmp_path / "b", MORE, 12)

    def refused(kind: Any, root: Path, **settings: Any) -> str:
        with pytest.raises(kind) as caught:
            load_folder(root, **settings)
        return str(caught.value)

    assert f"no folder {tmp_path}/none" in refused(DataError, root, test=str(tmp_path / "none"))
    split = tmp_path / "c"
    class_folders(split / "train", 0, 40)
    class_folders(split / "test", 50, 12)
    assert f"data.test names {other}, but there is a split test already" in refused(ConfigError, split, test=str(other))
    assert f"data.test names {split}, which has splits itself" in refused(ConfigError, root, test=str(split))
    copies = class_folders(tmp_path / "d", 38, 4)  # two of them are in a
    assert "test images are equal to train images" in refused(DataError, root, test=str(copies)).replace(
        "image is equal", "images are equal"
    )
    (class_folders(tmp_path / "e", MORE, 12) / "a").rename(tmp_path / "e" / "owl")
    assert "expected every class in train, got no image of owl" in refused(DataError, root, test=str(tmp_path / "e"))
