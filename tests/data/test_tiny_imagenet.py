from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from gankd.data.tiny_imagenet import load_tiny_imagenet
from gankd.errors import DataError

IDS = ["n03444034", "n01443537", "n02124075"]
"""As in the real wnids.txt, not sorted."""


def picture(path: Path, red: int, mode: str = "RGB") -> None:
    image = Image.new("RGB", (64, 64), (red, 40, 240)).convert(mode)
    image.save(path, "JPEG", quality=95)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes with ten images each, whose red level is 100, 150 or 200 by the id; one is grey."""
    root = tmp_path / "tiny-imagenet-200"
    for level, wnid in enumerate(sorted(IDS)):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for number in range(10):
            picture(folder / f"{wnid}_{number}.JPEG", 100 + 50 * level, "L" if (level, number) == (0, 3) else "RGB")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    (root / "val" / "images").mkdir(parents=True)
    (root / "test" / "images").mkdir(parents=True)
    lines = []
    for number in range(6):
        picture(root / "val" / "images" / f"val_{number}.JPEG", 100 + 50 * (number % 3))
        lines.append(f"val_{number}.JPEG\t{sorted(IDS)[number % 3]}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(IDS))
    words = (
        f"{IDS[0]}\tgo-kart\n{IDS[1]}\tgoldfish, Carassius auratus\n{IDS[2]}\tgoldfish, another\nn00001740\tentity\n"
    )
    (root / "words.txt").write_text(words)
    return root


def test_official_folder(root: Path) -> None:
    data = load_tiny_imagenet(root)
    assert (len(data.train), len(data.val), len(data.test)) == (27, 3, 6)
    assert data.train.shape == (3, 64, 64)
    # Two classes are called goldfish, so their ids tell them apart.
    assert vars(data.task)["class_names"] == ("n01443537", "n02124075", "go-kart")
    assert data.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    for part in (data.train, data.val, data.test):
        red, blue = part.images[:, 0].float().mean((1, 2)), part.images[:, 2].float().mean((1, 2))
        coloured = blue - red > 1e-3
        assert (red[coloured] - (100 + 50 * part.labels[coloured])).abs().max() < 6
    grey = [(part.images[:, 0] == part.images[:, 2]).all((1, 2)).sum().item() for part in (data.train, data.val)]
    assert sum(grey) == 1
    assert load_tiny_imagenet(root.parent).fingerprint() == data.fingerprint()
    assert "test is the official validation split" in data.card["split"]


def test_authors_file(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (400, 3, 64, 64), dtype=np.uint8)
    with h5py.File(tmp_path / "tiny-imagenet-200.h5", "w") as file:
        file["imgs"], file["labels"] = images, np.arange(400) % 200
        file["imgs_val"], file["labels_val"] = images[:200], np.arange(200)
    data = load_tiny_imagenet(tmp_path / "tiny-imagenet-200.h5", size=32)
    assert (len(data.train), len(data.val), len(data.test), data.train.shape) == (200, 200, 200, (3, 32, 32))
    whole = load_tiny_imagenet(tmp_path / "tiny-imagenet-200.h5")
    assert torch.equal(whole.test.images, torch.from_numpy(images[:200]))


def write(name: str, text: str) -> Callable[[Path], Any]:
    return lambda root: (root / name).write_text(text)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no list": (lambda root: (root / "wnids.txt").unlink(), "cannot read .*wnids.txt"),
    "empty list": (write("wnids.txt", "\n"), "wnids.txt is empty"),
    "class": (write("wnids.txt", "\n".join([*IDS, "n09999999"])), "a folder n09999999, which wnids.txt lists"),
    "no annotations": (lambda root: (root / "val/val_annotations.txt").unlink(), "cannot read .*val_annotations.txt"),
    "one column": (write("val/val_annotations.txt", "val_0.JPEG\n"), "line 1: expected a file and an id"),
    "other class": (write("val/val_annotations.txt", "val_0.JPEG\tn09999999\t0"), "got val_0.JPEG n09999999"),
    "no image": (lambda root: (root / "val/images/val_2.JPEG").unlink(), "no image val_2.JPEG in"),
    "truncated": (
        lambda root: (root / "val/images/val_2.JPEG").write_bytes((root / "val/images/val_2.JPEG").read_bytes()[:400]),
        "1 of 36 images cannot be read, first val/images/val_2.JPEG",
    ),
    "no val": (
        lambda root: (root / "val").rename(root / "v"),
        "expected the folder tiny-imagenet-200 .*, got test, tr",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_folders(root: Path, case: str) -> None:
    damage, said = BROKEN[case]
    damage(root)
    with pytest.raises(DataError, match=said):
        load_tiny_imagenet(root)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: expected the folder tiny-imagenet-200 .*, but there is nothing"):
        load_tiny_imagenet(tmp_path / "absent")
