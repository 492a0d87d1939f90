import gzip
import os
import shutil
import struct
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gankd.data import arrays, parquet, store
from gankd.data.arrays import Images
from gankd.data.folder import load_folder
from gankd.data.idx import load_idx
from gankd.data.images import Splits
from gankd.data.npz import load_npz
from gankd.data.store import arrange, build, cache_folder, source_key
from gankd.data.table import load_table
from gankd.errors import DataError
from gankd.tasks import Classification

SHAPE = (5, 3, 4, 4)


@pytest.fixture
def tiny_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, of a machine in whose memory nothing fits."""
    monkeypatch.setattr(store, "available_memory", lambda: 0)
    monkeypatch.setenv("GANKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def numbered(target: store.Pixels) -> None:
    target[:] = np.arange(len(target), dtype=np.uint8)[:, None, None, None]


def never(target: store.Pixels) -> None:
    raise AssertionError("decoded again")


def test_few_images_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANKD_CACHE", str(tmp_path / "cache"))
    assert build(SHAPE, lambda: "key", numbered)[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert not (tmp_path / "cache").exists()


def test_many_images_go_to_a_file_once(tiny_memory: Path) -> None:
    made = build(SHAPE, lambda: "key", numbered)
    assert (made.shape, made.dtype) == (SHAPE, torch.uint8)
    assert made[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert sorted(path.name for path in (tiny_memory / "key").iterdir()) == ["images.npy", "lock"]
    assert np.array_equal(np.load(tiny_memory / "key" / "images.npy"), made)
    assert torch.equal(build(SHAPE, lambda: "key", never), made)
    assert build((2, *SHAPE[1:]), lambda: "key", numbered).shape[0] == 2  # another shape is not taken for these


@pytest.mark.parametrize("kept", [0, 50, 200, -1])
def test_a_file_that_is_cut_off_is_made_anew(tiny_memory: Path, kept: int) -> None:
    build(SHAPE, lambda: "key", numbered)
    path = tiny_memory / "key" / "images.npy"
    path.write_bytes(path.read_bytes()[:kept])
    assert build(SHAPE, lambda: "key", numbered)[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_file_of_a_version_without_hashes_is_made_anew(tiny_memory: Path) -> None:
    (tiny_memory / "key").mkdir(parents=True)
    np.save(tiny_memory / "key" / "images.npy", np.full(SHAPE, 9, np.uint8))
    assert build(SHAPE, lambda: "key", numbered)[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    build(SHAPE, lambda: "key", never)


def test_an_interrupted_decoding_leaves_nothing(tiny_memory: Path) -> None:
    def breaks(target: store.Pixels) -> None:
        target[0] = 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(SHAPE, lambda: "key", breaks)
    assert [path.name for path in (tiny_memory / "key").iterdir()] == ["lock"]
    left = tiny_memory / "key" / ".images.npy.abcdefgh.part"  # of a process that was killed
    left.touch()
    build(SHAPE, lambda: "key", numbered)
    assert not left.exists()


def test_a_full_disk(tiny_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000, 800, 200))
    with pytest.raises(
        DataError, match=r"the images need 0.00 GB, .* 0.00 GB free; free some space, or set GANKD_CACHE"
    ):
        build(SHAPE, lambda: "key", never)
    monkeypatch.undo()
    monkeypatch.setattr(store, "available_memory", lambda: 0)
    tiny_memory.parent.joinpath("file").touch()
    monkeypatch.setenv("GANKD_CACHE", str(tiny_memory.parent / "file"))
    with pytest.raises(DataError, match=r"cannot be kept there \(Not a directory\); set GANKD_CACHE"):
        build(SHAPE, lambda: "key", never)


def test_splits_are_slices_of_one_block() -> None:
    index = {"train": torch.tensor([1, 4]), "val": torch.tensor([0]), "test": torch.tensor([2])}

    def fill(target: store.Pixels, row: np.ndarray) -> None:
        assert row.tolist() == [2, 0, 3, -1, 1]
        for image, place in enumerate(row):
            if place >= 0:
                target[place] = image

    labels = torch.tensor([0, 1, 0, 7, 1])  # that of image 3, which is not used, may be anything
    train, val, test = arrange(labels, Classification(num_classes=2), index, (1, 4, 4), lambda: "", fill)
    assert [part.images[:, 0, 0, 0].tolist() for part in (train, val, test)] == [[1, 4], [0], [2]]
    assert [part.labels.tolist() for part in (train, val, test)] == [[1, 1], [0], [0]]
    assert train.images.untyped_storage().data_ptr() == test.images.untyped_storage().data_ptr()


def test_keys_follow_files_and_settings(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    first = source_key([path], 32)
    assert source_key([path], 32) == first
    assert source_key([path], 64) != first
    path.write_bytes(b"2")
    os.utime(path, ns=(0, 0))
    assert source_key([path], 32) != first


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANKD_CACHE", "/elsewhere")
    assert cache_folder() == Path("/elsewhere")
    monkeypatch.delenv("GANKD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/gankd")


def test_memory_is_known() -> None:
    assert store.available_memory() > 1 << 20


def idx_set(folder: Path, images: np.ndarray, labels: np.ndarray) -> Splits:
    for role, array in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
        head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / f"train-{role}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes(), mtime=0))
        os.utime(folder / f"train-{role}-ubyte.gz", ns=(0, 0))
    return load_idx(folder)


def npz_set(folder: Path, images: np.ndarray, labels: np.ndarray) -> Splits:
    np.savez_compressed(folder / "x.npz", images=images, label=labels)
    os.utime(folder / "x.npz", ns=(0, 0))
    return load_npz(folder / "x.npz")


def parquet_set(folder: Path, images: np.ndarray, labels: np.ndarray) -> Splits:
    pq = pytest.importorskip("pyarrow.parquet")
    columns = {f"pixel{number}": levels for number, levels in enumerate(images.reshape(len(images), -1).T)}
    pq.write_table(pytest.importorskip("pyarrow").table({"label": labels, **columns}), folder / "train.parquet")
    os.utime(folder / "train.parquet", ns=(0, 0))
    return load_table(folder)


@pytest.mark.parametrize("made", [idx_set, npz_set, parquet_set])
def test_arrays_are_mapped_in_blocks_and_once(
    made: Callable[..., Splits], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8), np.arange(40) % 4
    (tmp_path / "set").mkdir()
    in_memory = made(tmp_path / "set", images, labels).fingerprint()
    monkeypatch.setattr(store, "available_memory", lambda: 0)
    monkeypatch.setenv("GANKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 640)
    monkeypatch.setattr(parquet, "BLOCK", 10)
    sizes: list[int] = []
    blocks = Images.blocks

    def counted(self: Images) -> Iterator[tuple[int, np.ndarray]]:
        for first, block in blocks(self):
            sizes.append(len(block))
            yield first, block

    monkeypatch.setattr(Images, "blocks", counted)
    assert made(tmp_path / "set", images, labels).fingerprint() == in_memory
    assert sizes == [10] * 4
    assert made(tmp_path / "set", images, labels).fingerprint() == in_memory
    assert sizes == [10] * 4  # not decoded again


def test_mapped_splits_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.random.default_rng([number, name == "b"]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{number}.png")

    def load() -> Splits:
        return load_folder(tmp_path / "set")

    in_memory = load().fingerprint()
    monkeypatch.setattr(store, "available_memory", lambda: 0)
    monkeypatch.setenv("GANKD_CACHE", str(tmp_path / "cache"))
    mapped = load()
    assert mapped.fingerprint() == in_memory
    assert len(list((tmp_path / "cache").iterdir())) == 1
    os.utime(tmp_path / "set" / "a" / "0.png", ns=(0, 0))
    assert load().fingerprint() == in_memory
    assert len(list((tmp_path / "cache").iterdir())) == 2
