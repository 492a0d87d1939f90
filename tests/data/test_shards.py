"""WebDataset shards: samples found by name, labels of every kind, and nothing but plain members."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gankd.data.images import Splits
from gankd.data.inspection import detect
from gankd.data.shards import load_shards
from gankd.errors import DataError
from gankd.tasks import Regression

COUNT = 30


def png(level: int) -> bytes:
    content = io.BytesIO()
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) + np.uint8(level)
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


def samples(first: int = 0, count: int = COUNT) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for k in range(first, first + count):
        members |= {f"a/{k:04d}.png": png(k), f"a/{k:04d}.cls": str(k % 3).encode()}
    return members


def levels(splits: Splits) -> dict[int, float]:
    """Label by the level of the first pixel."""
    parts = (splits.train, splits.val, splits.test)
    return {int(i): float(n) for part in parts for i, n in zip(part.images[:, 0, 0, 0], part.labels, strict=True)}


def refused(path: Path, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_shards(path, **settings)
    line = str(caught.value)
    assert line.isprintable()
    return line


def test_classes_of_one_shard(tmp_path: Path) -> None:
    splits = load_shards(shard(tmp_path / "x.tar", samples()))
    assert splits.task.label_names == ("0", "1", "2")
    assert levels(splits) == {k: k % 3 for k in range(COUNT)}
    assert splits.card["labels"].startswith("classification")
    assert detect(tmp_path / "x.tar").name == detect(tmp_path).name == "webdataset"


def test_classes_stay_classes_however_many(tmp_path: Path) -> None:
    members = {f"{k:04d}.png": png(k) for k in range(75)} | {f"{k:04d}.cls": b"%d" % (k % 25) for k in range(75)}
    assert len(load_shards(shard(tmp_path / "x.tar", members)).task.label_names) == 25


def test_several_shards_are_one_set_or_splits(tmp_path: Path) -> None:
    shard(tmp_path / "a" / "x-000.tar", samples(0, 15))
    shard(tmp_path / "a" / "x-001.tar", samples(15, 15))
    assert levels(load_shards(tmp_path / "a")) == {k: k % 3 for k in range(COUNT)}
    for number, name in enumerate(("train-00", "train-01", "val-00", "pets-test-0")):
        shard(tmp_path / "b" / f"{name}.tar", samples(9 * number, 9))
    splits = load_shards(tmp_path / "b")
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [18, 9, 9]
    assert splits.card["split"] == "train, val, test given: 18 train, 9 val, 9 test"
    shard(tmp_path / "c" / "train" / "0.tar", samples(0, 20))
    shard(tmp_path / "c" / "test" / "0.tar", samples(20, 9))
    assert len(load_shards(tmp_path / "c").test) == 9


def test_labels_as_text_and_as_json(tmp_path: Path) -> None:
    images = {f"{k}.png": png(k) for k in range(COUNT)}
    text = images | {f"{k}.txt": ["cat\n", "dog\n"][k % 2].encode() for k in range(COUNT)}
    assert load_shards(shard(tmp_path / "text.tar", text)).task.label_names == ("cat", "dog")
    facts = images | {f"{k}.json": json.dumps({"width": 8, "age": k / 2}).encode() for k in range(COUNT)}
    splits = load_shards(shard(tmp_path / "json.tar", facts))
    assert splits.task == Regression(low=0.0, high=14.5)
    assert levels(splits) == {k: k / 2 for k in range(COUNT)}
    plain = images | {f"{k}.json": b"%d.5" % k for k in range(COUNT)}
    assert load_shards(shard(tmp_path / "plain.tar", plain)).task == Regression(low=0.5, high=29.5)


def test_names_end_at_their_first_dot(tmp_path: Path) -> None:
    members = {f"a.b/{k}.PNG": png(k) for k in range(COUNT)} | {f"a.b/{k}.cls": b"%d" % (k % 2) for k in range(COUNT)}
    members |= {f"a.b/{k}.left.png": b"another camera" for k in range(COUNT)} | {"readme.md": b"hello"}
    assert levels(load_shards(shard(tmp_path / "x.tar", members))) == {k: k % 2 for k in range(COUNT)}


def test_broken_images(tmp_path: Path) -> None:
    path = shard(tmp_path / "x.tar", samples() | {"a/0003.png": b"", "a/0005.png": png(5)[:50]})
    assert "2 of 30 images cannot be read, first x.tar/a/0003.png: an empty file (0 bytes)" in refused(path)
    splits = load_shards(path, skip_broken=True)
    assert levels(splits) == {k: k % 3 for k in range(COUNT) if k not in (3, 5)}
    assert [line.partition(":")[0] for line in splits.card["left_out"]] == ["x.tar/a/0003.png", "x.tar/a/0005.png"]


def test_links_and_devices_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(200))
    path = shard(tmp_path / "x.tar", samples())
    with tarfile.open(path, "a") as archive:
        for name, kind in (("l.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("d.png", tarfile.CHRTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, str(tmp_path / "secret.png")
            archive.addfile(header)
    assert levels(load_shards(path)) == {k: k % 3 for k in range(COUNT)}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["secret.png", "x.tar"]


def test_bad_shards(tmp_path: Path) -> None:
    two = {**samples(), "a/0001.jpg": b"x"}
    assert "two images of one sample, a/0001.png and a/0001.jpg" in refused(shard(tmp_path / "two.tar", two))
    bare = {name: content for name, content in samples().items() if name != "a/0004.cls"}
    assert "bare.tar a/0004.png: no label" in refused(shard(tmp_path / "bare.tar", bare))
    assert "no label for bad.tar/a/0004.png" in refused(shard(tmp_path / "bad.tar", samples() | {"a/0004.cls": b" "}))
    odd = {name: content for name, content in samples().items() if name.endswith("png")}
    odd |= {f"a/{k:04d}.json": b"[1" for k in range(COUNT)}
    assert "no label can be read" in refused(shard(tmp_path / "odd.tar", odd))
    empty = shard(tmp_path / "empty.tar", {"readme.md": b"x"})
    assert "expected images in the shards" in refused(empty)
    content = (tmp_path / "two.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: len(content) // 2])
    assert "cut.tar" in refused(tmp_path / "cut.tar")
    content = shard(tmp_path / "whole.tar", samples()).read_bytes()
    (tmp_path / "last.tar").write_bytes(content.rstrip(b"\0") + bytes(-len(content.rstrip(b"\0")) % 512))
    assert "last.tar is not a plain .tar file, or a damaged one (it ends without" in refused(tmp_path / "last.tar")
    (tmp_path / "text.tar").write_text("no archive")
    assert "text.tar is not a plain .tar file, or a damaged one" in refused(tmp_path / "text.tar")
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    assert "decompress it" in refused(tmp_path / "packed.tar")
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "a.tar.gz").touch()
    assert "no .tar files in" in refused(tmp_path / "z")


def test_members_that_hold_code_or_arrays_are_passed_over(tmp_path: Path) -> None:
    odd = {f"a/0003.{suffix}": b"\x80\x04cos\nsystem\n" for suffix in ("pyd", "pickle", "pth", "npy", "ten", "mp")}
    assert levels(load_shards(shard(tmp_path / "x.tar", samples() | odd))) == {k: k % 3 for k in range(COUNT)}


def test_images_are_decoded_as_in_a_folder(tmp_path: Path) -> None:
    splits = load_shards(shard(tmp_path / "x.tar", samples()))
    first = torch.from_numpy(np.arange(64, dtype=np.uint8).reshape(8, 8))
    assert all(torch.equal(image[0] - image[0, 0, 0], first) for image in splits.train.images)
