from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from gankd.data.imagenet100 import load_imagenet100
from gankd.errors import DataError

IDS = [f"n{2000000 + 7 * number:08d}" for number in range(100)]
LISTED = IDS[::-1]
"""The order of a list, which numbers the classes."""


def fill(folder: Path, count: int) -> None:
    """JPEG files of the kinds of the real set: not square, some grey, some CMYK; their level tells the class."""
    for level, wnid in enumerate(IDS):
        (folder / wnid).mkdir(parents=True)
        for number in range(count):
            image = Image.new("RGB", (24 + 4 * number, 20), (2 * level,) * 3)
            image = image.convert("L") if number == 1 else image.convert("CMYK") if number == 2 else image
            image.save(folder / wnid / f"{wnid}_{number}.JPEG", quality=95)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imagenet")
    fill(root / "train", 4)
    fill(root / "val", 1)
    (root / "train" / "n09999999").mkdir()  # one of the 900 others
    (root / "ids.txt").write_text("".join(f"{wnid} name {number}\n" for number, wnid in enumerate(LISTED)))
    return root


def levels(images: torch.Tensor) -> torch.Tensor:
    return images.float().mean((1, 2, 3))


def test_folder_and_list(imagenet: Path) -> None:
    data = load_imagenet100(imagenet, size=16, class_list=imagenet / "ids.txt")
    assert (len(data.train), len(data.val), len(data.test), data.train.shape) == (300, 100, 100, (3, 16, 16))
    assert data.task.group_name(3) == "name 3"
    for part in (data.train, data.val, data.test):
        assert part.labels.bincount().unique().numel() == 1
        assert (levels(part.images) - 2 * (99 - part.labels)).abs().max() < 4
    assert "test is the official validation split" in data.card["split"]


def test_published_pixels(tmp_path: Path) -> None:
    fill(tmp_path / "train", 2)
    fill(tmp_path / "val", 1)
    pixels = np.random.default_rng(0).integers(0, 256, (150, 201, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "train" / IDS[0] / "a.png")
    data = load_imagenet100(tmp_path)
    assert data.train.shape == (3, 128, 128)
    expected = Image.fromarray(pixels[:, 25:175]).resize((128, 128), Image.Resampling.BILINEAR)
    found = torch.from_numpy(np.asarray(expected).transpose(2, 0, 1).copy())
    assert any((part.images == found).flatten(1).all(1).any() for part in (data.train, data.val, data.test))


def test_held_out_images(tmp_path: Path) -> None:
    fill(tmp_path / "train", 8)
    data, again, other = (load_imagenet100(tmp_path, size=8, seed=seed) for seed in (0, 0, 1))
    assert (len(data.test), len(data.train) + len(data.val)) == (160, 640)  # one in five, where there are few
    assert data.fingerprint() == again.fingerprint() != other.fingerprint()
    assert "test: 160 images of train, seed 0" in data.card["split"]
    assert data.task.group_name(0) == IDS[0]  # of 100 folders, in their order


@pytest.mark.parametrize("name", ["imagenet100.txt", "classes.txt"])
def test_list_beside_the_folders(imagenet: Path, tmp_path: Path, name: str) -> None:
    for part in ("train", "val"):
        (tmp_path / part).symlink_to(imagenet / part)
    (tmp_path / name).write_text("\n".join(f"{wnid},goldfish; {number}" for number, wnid in enumerate(LISTED)))
    data = load_imagenet100(tmp_path, size=8)
    assert vars(data.task)["class_names"][:2] == ("goldfish; 0", "goldfish; 1")
    assert (levels(data.test.images) - 2 * (99 - data.test.labels)).abs().max() < 4


LISTS: dict[str, tuple[str, str]] = {
    "few": ("\n".join(IDS[:99]), "expected 100 ids, got 99; complete the list"),
    "twice": ("\n".join([*IDS[:99], IDS[3]]), f"line 100: {IDS[3]} is there already"),
    "no id": ("\n".join([*IDS[:99], "goldfish"]), "line 100: expected an id such as n02106662, got goldfish"),
    "absent": ("\n".join([*IDS[:99], "n01234567"]), "train: expected a folder n01234567, as the list"),
    "empty class": ("\n".join([*IDS[:99], "n09999999"]), "n09999999: expected images, got none"),
    "empty": ("", "ids.txt is empty"),
}


@pytest.mark.parametrize("case", LISTS)
def test_lists_that_cannot_be_used(imagenet: Path, tmp_path: Path, case: str) -> None:
    text, said = LISTS[case]
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        load_imagenet100(imagenet, class_list=tmp_path / "ids.txt")


def test_folders_that_cannot_be_used(imagenet: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected 100 class folders, or a list of 100 ids in .*, got 101 folders"):
        load_imagenet100(imagenet)
    with pytest.raises(DataError, match="expected a folder with train/ID"):
        load_imagenet100(tmp_path)
    with pytest.raises(DataError, match="cannot read .*absent.txt"):
        load_imagenet100(imagenet, class_list="absent.txt")
    (tmp_path / "train").symlink_to(imagenet / "train")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").touch()
    with pytest.raises(DataError, match="val: expected a folder .*; sort its images into class folders"):
        load_imagenet100(tmp_path, class_list=imagenet / "ids.txt")


def h5(path: Path, **changes: Any) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (400, 3, 16, 16), dtype=np.uint8)
    content = {"images_train": images[:300], "labels_train": np.arange(300) % 100, "images_valid": images[300:]}
    content |= {"labels_valid": np.arange(100), "raw_labels": np.arange(400)}
    with h5py.File(path, "w") as file:
        for name, values in (content | changes).items():
            if values is not None:
                file[name] = values
    return path


def test_authors_file(tmp_path: Path) -> None:
    path = h5(tmp_path / "ImageNet_128x128_100Class.h5")
    data = load_imagenet100(path, size=16)
    assert (len(data.train), len(data.val), len(data.test)) == (200, 100, 100)
    assert data.test.labels.tolist() == list(range(100))
    assert load_imagenet100(path).train.shape == (3, 128, 128)


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    for said, changes in {
        "expected an array labels_valid, got images_train": {"labels_valid": None},
        r"labels_train\[7\]: expected a class from 0 to 99, got 100": {
            "labels_train": np.r_[np.arange(7), [100] * 293]
        },
        r"expected labels_train \(300,\)": {"labels_train": np.arange(100)},
        "expected images of one shape": {"images_valid": np.zeros((100, 3, 8, 8), np.uint8)},
    }.items():
        with pytest.raises(DataError, match=said):
            load_imagenet100(h5(path, **changes), size=16)
