"""Tables: image paths, pixels, Parquet as Hugging Face writes it; and what is wrong with them, in one line."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gankd.data import store
from gankd.data.folder import load_folder
from gankd.data.images import Splits
from gankd.data.table import load_table
from gankd.errors import ConfigError, DataError
from gankd.tasks import Classification, Regression

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

COUNT, SIDE = 40, 8
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE * SIDE), dtype=np.uint8)
LABELS = np.arange(COUNT) % 4


def whole(data: Splits) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of all splits, in the order of PIXELS."""
    images = torch.cat([part.images for part in (data.train, data.val, data.test)])
    labels = torch.cat([part.labels for part in (data.train, data.val, data.test)])
    first = {tuple(row[:4].tolist()): number for number, row in enumerate(PIXELS)}
    order = torch.tensor([first[tuple(image[0].flatten()[:4].tolist())] for image in images]).argsort()
    return images[order], labels[order]


def check(data: Splits) -> None:
    images, labels = whole(data)
    assert torch.equal(images[:, 0].flatten(1), torch.from_numpy(PIXELS))
    assert labels.tolist() == LABELS.tolist()


def png(row: int, mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[row].reshape(SIDE, SIDE)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_table(path, **options)
    line = str(caught.value)
    assert line.isprintable()
    return line


# CSV


def pictures(root: Path, header: str = "image,label", name: str = "faces.csv", column: Any = LABELS) -> Path:
    root.mkdir(exist_ok=True)
    for row in range(COUNT):
        (root / f"{row:02d}.png").write_bytes(png(row))
    lines = [f"{row:02d}.png,{column[row]}" for row in range(COUNT)]
    (root / name).write_text("\n".join([header, *lines]) + "\n")
    return root / name


def test_a_table_of_paths_is_a_folder_with_its_table_named_otherwise(tmp_path: Path) -> None:
    other = pictures(tmp_path / "a")
    pictures(tmp_path / "b", name="labels.csv")
    data, folder = load_table(other), load_folder(tmp_path / "b")
    check(data)
    assert data.fingerprint() == folder.fingerprint()
    assert data.card["split"] == folder.card["split"]
    assert (data.name, data.task.kind) == ("faces", "classification")
    (tmp_path / "a" / "00.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 40 images cannot be read, first 00.png: an empty file .* --skip-broken"):
        load_table(other)
    fewer = load_table(other, skip_broken=True)
    assert sum(map(len, (fewer.train, fewer.val, fewer.test))) == COUNT - 1
    assert fewer.card["warnings"] == ["1 image left out that cannot be read: 00.png: an empty file (0 bytes)"]


def pixel_table(path: Path, names: list[str] | None, order: Any = range(SIDE * SIDE), labels: Any = LABELS) -> Path:
    lines = [] if names is None else [",".join(["label", *names])]
    lines += [",".join(map(str, [labels[row], *PIXELS[row][list(order)]])) for row in range(COUNT)]
    path.write_text("\r\n".join(lines) + "\r\n")
    return path


@pytest.mark.parametrize(
    "names",
    [
        [f"pixel{index}" for index in range(64)],
        [f"{row}x{column}" for row in range(1, 9) for column in range(1, 9)],
        list(map(str, range(64))),
        None,
    ],
)
def test_a_column_per_pixel(tmp_path: Path, names: list[str] | None) -> None:
    check(load_table(pixel_table(tmp_path / "digits.csv", names)))


def test_pixels_are_ordered_by_their_numbers(tmp_path: Path) -> None:
    order = sorted(range(64), key=str)  # 0, 1, 10, 11, ...
    check(load_table(pixel_table(tmp_path / "digits.csv", [f"pixel{index}" for index in order], order)))


def test_blocks_of_lines_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gankd.data.table.BLOCK", 7)
    path = pixel_table(tmp_path / "digits.csv", None)
    check(load_table(path))
    lines = path.read_text().splitlines()
    lines[10] = lines[10].rpartition(",")[0] + ",256"
    path.write_text("\n".join(lines))
    assert "line 11: expected a grey level from 0 to 255, got '256'" in refused(path)


def test_values_and_a_given_split(tmp_path: Path) -> None:
    path = tmp_path / "angles.csv"
    names = ",".join(f"pixel{index}" for index in range(64))
    rows = [
        f"{'test' if row % 4 == 3 else 'train'},{row / 8},{','.join(map(str, PIXELS[row]))}" for row in range(COUNT)
    ]
    path.write_text("\n".join([f"split,angle,{names}", *rows]))
    data = load_table(path, low=-1, high=5, channels="rgb", size=16)
    assert data.task == Regression(low=-1, high=5)
    assert sorted(data.test.labels.tolist()) == [row / 8 for row in range(3, COUNT, 4)]
    assert data.train.shape == (3, 16, 16)


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    names = [f"pixel{index}" for index in range(64)]

    def content(*lines: str) -> Path:
        path.write_text("\n".join(lines))
        return path

    row = ",".join(["1"] * 64)
    assert "no file" in refused(tmp_path / "none.csv")
    assert "expected pixel columns of a square grey image, 784 for one of 28x28, got 63" in refused(
        content(",".join(["label", *names[:63]]), "0," + row[2:])
    )
    assert "expected a column label (or class" in refused(content(",".join(names), row))
    head = ",".join(["label", *names])
    assert "line 3: expected 65 cells, got 64" in refused(content(head, f"0,{row}", row))
    assert "line 2: expected a grey level from 0 to 255, got '-1'" in refused(content(head, f"0,{row[:-1]}-1"))
    assert "line 2: expected a grey level from 0 to 255, got '0.5'" in refused(content(head, f"0,{row[:-1]}0.5"))
    assert "line 2: no label for image 1, got ''" in refused(content(head, f",{row}"))
    assert "header but no rows" in refused(content(head))
    assert "expected a column image" in refused(content("picture,label", "a.png,3"))
    assert "no image file a.png" in refused(content("image,label", "a.png,3"))
    with pytest.raises(ConfigError, match="size must be a multiple of 4"):
        load_table(path, size=7)


# Parquet


def parquet(path: Path, rows: Any = range(COUNT), metadata: Any = None, **columns: Any) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    table = pa.table({name: [values[row] for row in rows] for name, values in columns.items()})
    if metadata is not None:
        table = table.replace_schema_metadata({b"huggingface": json.dumps(metadata).encode()})
    pq.write_table(table, path)
    return path


NAMES = {"info": {"features": {"label": {"names": ["cat", "dog", "eel", "fox"], "_type": "ClassLabel"}}}}


@pytest.mark.parametrize("column", ["image", "img"])
def test_hugging_faces_layout(tmp_path: Path, column: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gankd.data.parquet.BLOCK", 7)
    cells = [{"bytes": png(row), "path": f"{row}.png"} for row in range(COUNT)]
    data = load_table(parquet(tmp_path / "x.parquet", metadata=NAMES, **{column: cells, "label": LABELS.tolist()}))
    check(data)
    assert data.task == Classification(num_classes=4, class_names=("cat", "dog", "eel", "fox"))


def test_shards_are_split_by_their_names(tmp_path: Path) -> None:
    content = {"image": [png(row) for row in range(COUNT)], "label": [f"kind {label}" for label in LABELS]}
    for number, rows in enumerate((range(16), range(16, 32))):
        parquet(tmp_path / "set" / "data" / f"train-0000{number}-of-00002.parquet", rows, **content)
    parquet(tmp_path / "set" / "data" / "test-00000-of-00001.parquet", range(32, 40), **content)
    data = load_table(tmp_path / "set")
    check(data)
    assert len(data.test) == 8
    assert len(data.train) + len(data.val) == 32
    assert {tuple(image[0, 0, :4].tolist()) for image in data.test.images} == {tuple(row[:4]) for row in PIXELS[32:]}


def test_paths_and_pixels_in_parquet(tmp_path: Path) -> None:
    pictures(tmp_path)
    paths = [f"{row:02d}.png" for row in range(COUNT)]
    check(load_table(parquet(tmp_path / "paths.parquet", file=paths, label=LABELS.tolist())))
    columns = {f"pixel{index}": PIXELS[:, index] for index in range(64)}
    check(load_table(parquet(tmp_path / "pixels.parquet", label=LABELS, **columns)))
    cells = [{"bytes": None, "path": path} for path in paths]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, kind), "label": LABELS}), tmp_path / "named.parquet")
    check(load_table(tmp_path / "named.parquet"))


def test_float_labels_of_parquet_are_values(tmp_path: Path) -> None:
    images = [png(row, "RGB") for row in range(COUNT)]
    path = parquet(tmp_path / "x.parquet", image=images, angle=[row / 3 for row in range(COUNT)])
    data = load_table(path)
    assert data.train.shape == (3, SIDE, SIDE)
    assert whole(data)[1].tolist() == pytest.approx([row / 3 for row in range(COUNT)])


def test_parquet_that_cannot_be_read(tmp_path: Path) -> None:
    good = [png(row) for row in range(COUNT)]
    labels = LABELS.tolist()
    path = tmp_path / "x.parquet"

    assert "expected numbers or text in label, got list" in refused(parquet(path, image=good, label=[[1]] * COUNT))
    assert "image, got int64" in refused(parquet(path, image=labels, label=labels))
    assert "label[3]: no label" in refused(parquet(path, image=good, label=[*labels[:3], None, *labels[4:]]))
    bad = [b"no image", b"", *good[2:]]
    assert "2 of 40 images cannot be read, first x.parquet[0]: not an image" in refused(
        parquet(path, image=bad, label=labels)
    )
    (tmp_path / "outside.png").write_bytes(good[0])
    outside = [{"bytes": good[0], "path": ""}, *[{"bytes": None, "path": "../outside.png"}] * 39]
    assert "39 of 40 images cannot be read, first inner.parquet[1]: a path outside the folder" in refused(
        parquet(tmp_path / "deep" / "inner.parquet", image=outside, label=labels)
    )
    assert "got 4; correct it, or leave its list of classes out" in refused(
        parquet(path, metadata=NAMES, image=good, label=[*labels[:-1], 4])
    )
    wide = {f"pixel{index}": PIXELS[:, index].astype(int) + 1 for index in range(64)}
    assert "expected integers from 0 to 255 in the pixel columns, got int64 1 to 256" in refused(
        parquet(path, label=labels, **wide)
    )
    content = parquet(path, image=good, label=labels).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "not a Parquet file, or a damaged one" in refused(path)
    (tmp_path / "empty").mkdir()
    assert "no .parquet files" in refused(tmp_path / "empty")


def cells_with_paths(path: Path, names: list[str]) -> Path:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": None, "path": name} for name in names], kind)
    pq.write_table(pa.table({"image": cells, "label": LABELS}), path)
    return path


def test_paths_in_parquet_stay_below_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside.png").write_bytes(png(0))
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    cells_with_paths(Path("inner.parquet"), ["../outside.png"] * COUNT)
    for name in ("inner.parquet", "./inner.parquet", "../deep/inner.parquet"):
        said = "40 of 40 images cannot be read, first inner.parquet[0]: a path outside the folder"
        assert said in refused(Path(name))
    for row in range(COUNT):
        Path(f"{row}.png").write_bytes(png(row))
    check(load_table(cells_with_paths(Path("inner.parquet"), [f"{row}.png" for row in range(COUNT)])))


def test_a_mapped_set_follows_the_files_that_parquet_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "available_memory", lambda: 0)
    monkeypatch.setenv("GANKD_CACHE", str(tmp_path / "cache"))
    for row in range(COUNT):
        (tmp_path / f"{row}.png").write_bytes(png(row))
    path = cells_with_paths(tmp_path / "x.parquet", [f"{row}.png" for row in range(COUNT)])
    before = load_table(path).fingerprint()
    assert load_table(path).fingerprint() == before
    Image.fromarray(255 - PIXELS[3].reshape(SIDE, SIDE)).save(tmp_path / "3.png")
    os.utime(tmp_path / "3.png", ns=(0, 0))
    assert load_table(path).fingerprint() != before


def test_text_that_is_no_utf8_in_parquet(tmp_path: Path) -> None:
    words = [f"kind {label}" for label in LABELS]
    path = tmp_path / "x.parquet"
    table = pa.table({"image": [png(row) for row in range(COUNT)], "label": words})
    pq.write_table(table, path, compression="none")
    path.write_bytes(path.read_bytes().replace(b"kind 1", b"kin\x80 1"))
    assert "not a Parquet file, or a damaged one ('utf-8' codec can't decode" in refused(path)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "x.parquet", label=LABELS.tolist())
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert refused(path).endswith('needs pyarrow; pip install "gankd[parquet]"')
