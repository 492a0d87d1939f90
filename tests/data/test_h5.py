import builtins
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from gankd.data import arrays
from gankd.data.h5 import load_h5, open_h5
from gankd.data.npz import load_npz
from gankd.errors import DataError

COUNT = 40
FOUR = np.arange(COUNT) % 4
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 3, 8, 8), dtype=np.uint8)


def stored(folder: Path, compression: str | None = None, **content: Any) -> Path:
    path = folder / "data.h5"
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            file.create_dataset(name.replace("__", "/"), data=values, compression=compression)
    return path


CONTENTS: dict[str, dict[str, Any]] = {
    "channels first": {"images": IMAGES, "label": FOUR},
    "channels last": {"images": IMAGES.transpose(0, 2, 3, 1), "label": FOUR},
    "grey": {"x": IMAGES[:, 0], "y": FOUR / 8},
    "floats": {"images": IMAGES / 255, "label": FOUR},
    "split": {"images": IMAGES, "label": FOUR, "split": (np.arange(COUNT) > 27) * 1},
    "two sets": {"x_train": IMAGES[:28], "y_train": FOUR[:28], "x_test": IMAGES[28:], "y_test": FOUR[28:]},
    "a column": {"images": IMAGES, "labels": FOUR[:, None]},
}


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("block", [1, 1000, 1 << 26])
@pytest.mark.parametrize("content", CONTENTS)
def test_as_npz(
    tmp_path: Path, content: str, block: int, compression: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "BLOCK_BYTES", block)
    np.savez(tmp_path / "data.npz", **CONTENTS[content])
    found, expected = load_h5(stored(tmp_path, compression, **CONTENTS[content])), load_npz(tmp_path / "data.npz")
    assert found.fingerprint() == expected.fingerprint()
    assert found.card["split"] == expected.card["split"]


def test_groups_and_text(tmp_path: Path) -> None:
    words = np.array([b"cat", "dögs".encode(), b"cow", b"elk"], object)[FOUR]
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["train/images"], file["notes"] = IMAGES, "nothing"
        file.create_dataset("train/label", data=words, dtype=h5py.string_dtype())
    assert load_h5(path).task.group_name(3) == "elk"
    assert {load_h5(path).task.group_name(number) for number in range(4)} == {"cat", "cow", "dögs", "elk"}


def test_settings(tmp_path: Path) -> None:
    path = stored(tmp_path, images=IMAGES, label=FOUR)
    data = load_h5(path, task="regression", size=16, channels="grey", low=-1, high=4)
    assert (data.train.shape, data.task.kind) == ((1, 16, 16), "regression")
    assert not torch.equal(load_h5(path, seed=1).train.images, load_h5(path).train.images)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(tmp_path, images=IMAGES, label=FOUR)
    content = path.read_bytes()
    with pytest.raises(DataError, match="does not exist; expected an .h5 file"):
        load_h5(tmp_path / "absent.h5")
    with pytest.raises(DataError, match="is a folder"):
        load_h5(tmp_path)
    for kept in (0, 100, len(content) // 2):
        path.write_bytes(content[:kept])
        with pytest.raises(DataError, match="data.h5 is not an .h5 file, or a damaged one"):
            load_h5(path)
    path.write_bytes(b"image,label\n" * 100)
    with pytest.raises(DataError, match="is not an .h5 file"):
        load_h5(path)

    def absent(name: str, *rest: Any) -> Any:
        if name == "h5py":
            raise ImportError
        return imported(name, *rest)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(DataError, match="need h5py; pip install 'gankd\\[h5\\]'"):
        load_h5(path)


def test_a_damaged_block(tmp_path: Path) -> None:
    path = stored(tmp_path, "gzip", images=IMAGES, label=FOUR)
    with h5py.File(path) as file:
        where = file["images"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[where : where + 50] = bytes(50)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data.h5: images\[0\]: cannot be read \(.+\); the file is damaged"):
        load_h5(path)


def test_names_and_sizes(tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "got imgs, label; write it by file": {"imgs": IMAGES, "label": FOUR},
        "expected a label for each image": {"images": IMAGES, "label": FOUR[:9]},
        "expected images .N, H, W": {"images": FOUR, "label": FOUR},
        "expected floats in .0, 1., or uint8, got 0 to 255": {"images": IMAGES * 1.0, "label": FOUR},
        "got int64": {"images": IMAGES.astype(np.int64), "label": FOUR},
    }
    for said, content in cases.items():
        with pytest.raises(DataError, match=said):
            load_h5(stored(tmp_path, **content))


def test_other_files_are_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(IMAGES.tobytes())
    with h5py.File(tmp_path / "target.h5", "w") as file:
        file["images"] = IMAGES
    layout = h5py.VirtualLayout(shape=IMAGES.shape, dtype=np.uint8)
    layout[:] = h5py.VirtualSource(tmp_path / "target.h5", "images", shape=IMAGES.shape)
    for kind in ("external", "virtual", "labels"):
        path = tmp_path / f"{kind}.h5"
        with h5py.File(path, "w") as file:
            if kind == "external":
                file.create_dataset("images", IMAGES.shape, np.uint8, external=[(str(secret), 0, IMAGES.nbytes)])
            elif kind == "virtual":
                file.create_virtual_dataset("images", layout)
            else:
                file["images"] = IMAGES
                file.create_dataset("label", (COUNT,), np.uint8, external=[(str(secret), 0, COUNT)])
            if kind != "labels":
                file["label"] = FOUR
        with pytest.raises(
            DataError, match="(images|label) cannot be read .its data are in other files, which are not"
        ):
            load_h5(path)


def test_arrays_of_the_wrong_length_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    count = 1 << 50  # which no memory holds, and of which the file stores nothing
    for name, said in {
        "label": f"got 40 images in images and {count:,} labels in label",
        "split": "expected split .40,. of 0 .train. and 1",
        "class_names": "expected .K,. texts that differ in class_names",
    }.items():
        with h5py.File(path, "w") as file:
            file["images"], file["label"] = IMAGES, FOUR
            if name in file:
                del file[name]
            file.create_dataset(name, (count,), np.int64, chunks=(1024,))
        with pytest.raises(DataError, match=said):
            load_h5(path)
        with open_h5(path) as file:
            with pytest.raises(DataError, match=f"expected {name} .40,., a number for each image"):
                file.numbers(name, COUNT)
            with pytest.raises(DataError, match=f"expected positions .n,. in {name}"):
                file.index(name, COUNT)


def test_names_that_are_no_text_and_arrays_without_shape(tmp_path: Path) -> None:
    path = stored(tmp_path, images=IMAGES, label=FOUR, other=FOUR)
    path.write_bytes(path.read_bytes().replace(b"other", b"oth\x80r"))
    assert len(load_h5(path).train) == 28
    path = stored(tmp_path, images=IMAGES, label=h5py.Empty("f"))
    with pytest.raises(DataError, match="label cannot be read .it has no shape"):
        load_h5(path)


def test_arrays_of_published_files(tmp_path: Path) -> None:
    path = stored(tmp_path, y=np.array([0.5, np.nan]), wide=np.zeros((2, 2)), c=[0, 7], i=[1, 1, 0], far=[5], none=[])
    with open_h5(path) as file:
        assert file.index("i", 2).tolist() == [0, 1]
        assert file.classes("c", 2, 8).tolist() == [0, 7]
        for said, call in {
            "expected an array absent, got c, far, i": lambda: file.array("absent"),
            r"y\[1\]: expected a finite label, got nan": lambda: file.numbers("y", 2),
            r"expected y \(3,\), a number for each image": lambda: file.numbers("y", 3),
            r"expected wide \(2,\)": lambda: file.numbers("wide", 2),
            r"c\[1\]: expected a class from 0 to 4, got 7": lambda: file.classes("c", 2, 5),
            "expected positions from 0 to 4 in far": lambda: file.index("far", 5),
            r"expected positions \(n,\) in none": lambda: file.index("none", 5),
        }.items():
            with pytest.raises(DataError, match=said):
                call()
