"""MNIST's format: written byte by byte as it is defined, read back, and broken in every way that files break."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gankd.data.idx import is_idx, load_idx
from gankd.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8)
LABELS = (np.arange(60) % 6).astype(np.uint8)


def idx(array: Any) -> bytes:
    """Two zeros, 8 for unsigned bytes, the number of dimensions, the dimensions big-endian, the bytes."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist(folder: Path, *, dots: bool = False, packed: bool = True, test: bool = True) -> Path:
    between = "." if dots else "-"
    rows = {"train": slice(0, 40), "t10k": slice(40, 60)} if test else {"train": slice(0, 60)}
    for part, row in rows.items():
        for role, array, dims in (("images", IMAGES[row], 3), ("labels", LABELS[row], 1)):
            name, content = f"{part}-{role}{between}idx{dims}-ubyte", idx(array)
            path = folder / (name + ".gz" * packed)
            path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    return folder


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_idx(path, **options)
    line = str(caught.value)
    assert line.isprintable()
    return line


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dots", [True, False])
def test_the_four_files(tmp_path: Path, dots: bool, packed: bool) -> None:
    data = load_idx(mnist(tmp_path, dots=dots, packed=packed))
    assert torch.equal(data.test.images[:, 0], torch.from_numpy(IMAGES[40:]))
    assert data.test.labels.tolist() == LABELS[40:].tolist()
    known = {image.tobytes(): label for image, label in zip(IMAGES[:40], LABELS, strict=False)}
    for part in (data.train, data.val):
        assert [known[image.numpy().tobytes()] for image in part.images[:, 0]] == part.labels.tolist()
    assert len(data.train) + len(data.val) == 40
    assert data.train.shape == (1, 28, 28)
    (one,) = tmp_path.glob("t10k-labels*")
    assert load_idx(one).fingerprint() == data.fingerprint()


def test_training_files_alone(tmp_path: Path) -> None:
    data = load_idx(mnist(tmp_path, test=False), size=32, channels="rgb")
    assert sum(map(len, (data.train, data.val, data.test))) == 60
    assert data.train.shape == (3, 32, 32)
    assert len(data.test) == 12


def test_bytes_are_classes_however_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "LABELS", (np.arange(60) % 4 * 40).astype(np.uint8))
    data = load_idx(mnist(tmp_path))
    assert vars(data.task)["class_names"] == ("0", "40", "80", "120")
    monkeypatch.setitem(globals(), "LABELS", np.arange(60).astype(np.uint8))
    mnist(tmp_path)
    assert load_idx(tmp_path, task="regression").task.kind == "regression"


def test_names() -> None:
    assert is_idx("train-images-idx3-ubyte")
    assert is_idx("emnist-balanced-test-labels-idx1-ubyte.gz")
    assert not is_idx("train-images.npz")


def broken(folder: Path, content: bytes, role: str = "images", packed: bool = False) -> str:
    dims = {"images": 3, "labels": 1}[role]
    folder.mkdir(exist_ok=True)
    mnist(folder, packed=packed)
    (folder / f"train-{role}-idx{dims}-ubyte{'.gz' * packed}").write_bytes(content)
    return refused(folder)


def test_broken_files(tmp_path: Path) -> None:
    images, labels = idx(IMAGES[:40]), idx(LABELS[:40])
    assert "expected the magic number 2051 of images, got 2049; the file is damaged" in broken(tmp_path, labels)
    assert "expected the magic number 2049 of labels, got 2051" in broken(tmp_path, images, "labels")
    assert "expected the magic number 2051 of images, got 0 bytes" in broken(tmp_path, b"")
    assert "it is compressed: name it .gz" in broken(tmp_path, gzip.compress(images))
    assert "expected 31,360 bytes after the header, got 31,359" in broken(tmp_path, images[:-1])
    assert "expected 31,360 bytes after the header, got 31,361" in broken(tmp_path, images + b"x")
    for content, got in ((images[:-1], "31,359"), (images + b"x", "more")):
        said = f"expected 31,360 bytes after the header, got {got}; the file is damaged"
        assert said in broken(tmp_path / "packed", gzip.compress(content), packed=True)
    assert "expected the sizes of 3 dimensions, got 5 bytes" in broken(tmp_path, images[:9])
    assert "got 41 labels and 40 images" in broken(tmp_path, idx(LABELS[:41]), "labels")
    huge = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1)
    assert "after the header, got 4" in broken(tmp_path, huge + b"abcd")
    assert "got 40 labels and 4,294,967,295 images" in broken(tmp_path / "packed", gzip.compress(huge), packed=True)


def test_broken_gzip(tmp_path: Path) -> None:
    packed = gzip.compress(idx(IMAGES[:40]), mtime=0)
    assert "truncated" in broken(tmp_path, packed[:-9], packed=True)
    assert "not a gzip file" in broken(tmp_path, idx(IMAGES[:40]), packed=True)
    middle = len(packed) // 2
    damaged = packed[:middle] + bytes(byte ^ 255 for byte in packed[middle : middle + 40]) + packed[middle + 40 :]
    assert "gzip" in broken(tmp_path, damaged, packed=True)


def test_missing_and_doubled_files(tmp_path: Path) -> None:
    assert "no folder" in refused(tmp_path / "none")
    assert "expected train-images-idx3-ubyte and train-labels-idx1-ubyte" in refused(tmp_path)
    mnist(tmp_path)
    mnist(tmp_path, packed=False)  # the same, unpacked
    assert len(load_idx(tmp_path).test) == 20
    mnist(tmp_path, dots=True)
    assert "expected one file of" in refused(tmp_path)
    for path in tmp_path.iterdir():
        if path.name != "train-images-idx3-ubyte":
            path.unlink()
    assert "train-images-idx3-ubyte has no file of labels" in refused(tmp_path)
