from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from gankd.data.images import LabelledImages
from gankd.data.utkface import load_utkface
from gankd.errors import DataError
from gankd.tasks import Regression


def face(folder: Path, name: str, age: int) -> None:
    Image.new("RGB", (20, 20), (4 * age, sum(name.encode()) % 256, 99)).save(
        folder / name, "PNG"
    )  # exact, whatever it is called


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ages 1, 30, 60 and 61 with 20 faces each, named as the real ones are."""
    part = tmp_path / "UTKFace" / "part2"
    part.mkdir(parents=True)
    for age in (1, 30, 60, 61):
        for number in range(20):
            suffix = (".jpg", ".jpg.chip.jpg", "_face.jpg.chip.jpg", " .jpg")[number % 4]
            folder = part if number % 2 else part.parent
            face(folder, f"{age}_{number % 2}_{number % 5}_201701{number:02d}153053{number:03d}{suffix}", age)
    return tmp_path / "UTKFace"


def ages(data: LabelledImages) -> list[int]:
    assert torch.equal(data.images[:, 0].flatten(1)[:, 0], (4 * data.labels).to(torch.uint8))
    return data.labels.unique(return_counts=True)[1].tolist()


def test_official_folder(root: Path) -> None:
    data = load_utkface(root)
    assert data.task == Regression(low=1, high=60, unit="years")
    assert data.train.labels.dtype == torch.float32
    assert (data.train.shape, data.train.labels.unique().tolist()) == ((3, 64, 64), [1, 30, 60])
    assert [ages(part) for part in (data.train, data.val, data.test)] == [[14] * 3, [2] * 3, [4] * 3]  # 0.8 of each age
    assert data.card["origin"] == "UTKFace: 60 faces of 1 to 60 years; 20 skipped because of their age"
    assert "non-commercial" in data.card["licence"]
    assert load_utkface(root, seed=1).fingerprint() != data.fingerprint()


def test_names_that_lack_a_field(root: Path) -> None:
    expected = load_utkface(root)
    for name in (
        "39_1_20170116174525125.jpg",
        "61_3_20170109150557335.jpg.chip.jpg",
        "53__0_20170116184028385.jpg",
        "_1_0_20170116184028385.jpg",
        "face.jpg",
    ):
        face(root, name, 30)
    (root / "notes.txt").touch()
    data = load_utkface(root)
    assert data.fingerprint() == expected.fingerprint()
    assert "; 5 files skipped whose name lacks a field" in data.card["origin"]


def test_a_file_in_two_folders_is_one_image(root: Path) -> None:
    expected = load_utkface(root)
    (root / "crop_part1").mkdir()
    for path in sorted(root.glob("30_*")):
        (root / "crop_part1" / path.name).write_bytes(path.read_bytes())
    data = load_utkface(root)
    assert data.fingerprint() == expected.fingerprint()
    assert "; 10 further files of the same names skipped" in data.card["origin"]


def test_broken_folders(root: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="expected a folder of UTKFace .*, got 0 images; check"):
        load_utkface(tmp_path / "other")
    face(tmp_path / "other", "cat.jpg", 3)
    with pytest.raises(DataError, match=r"got 1 image, as cat.jpg; check"):
        load_utkface(tmp_path / "other")
    face(tmp_path / "other", "3_1_0_20170116184028385.jpg", 3)
    with pytest.raises(DataError, match="expected faces of different ages, got only 3 years"):
        load_utkface(tmp_path / "other")
    face(tmp_path / "other", "4_1_0_20170116184028385.jpg", 3)
    with pytest.raises(DataError, match="expected at least 3 images of class 3 years to share among train, val, test"):
        load_utkface(tmp_path / "other")
    with pytest.raises(DataError, match="absent: expected a folder of UTKFace .*, but there is nothing"):
        load_utkface(tmp_path / "absent")
    victim = next(root.glob("30_*"))
    victim.write_bytes(victim.read_bytes()[:40])
    with pytest.raises(DataError, match="1 of 60 images cannot be read, first 30_"):
        load_utkface(root)


def stored(path: Path, **content: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            file[name] = values
    return path


LABELS = np.repeat([1, 30, 60, 61], 20)
IMAGES = np.zeros((80, 3, 8, 8), np.uint8) + (4 * LABELS.astype(np.uint8))[:, None, None, None]


def test_authors_files(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(80)
    images, labels = IMAGES[order], LABELS[order]
    five = stored(
        tmp_path / "UTKFace_64x64_prop_0.8.h5",
        images_train=np.repeat(IMAGES, 2, 0), labels_train=np.repeat(LABELS, 2),
        images_test=images, labels_test=labels,
    )  # fmt: skip
    data = load_utkface(five, size=8)
    assert [ages(part) for part in (data.train, data.val, data.test)] == [[35] * 3, [5] * 3, [20] * 3]
    assert torch.equal(data.test.labels, torch.from_numpy(labels[labels < 61]).float())

    plain = load_utkface(stored(tmp_path / "a.h5", images=images, labels=labels / 1.0), size=8)
    assert [ages(part) for part in (plain.train, plain.val, plain.test)] == [[14] * 3, [2] * 3, [4] * 3]

    index = np.arange(80)
    copied = np.r_[index[index % 5 < 3], 0, 0, 0]  # of rare ages, to 200 each
    two = stored(
        tmp_path / "b.h5", images=IMAGES, labels=LABELS, indx_train=index[index % 5 < 4],
        indx_subtrain=copied, indx_subvalid=index[index % 5 == 3], indx_test=index[index % 5 == 4],
    )  # fmt: skip
    given = load_utkface(two, size=8)
    assert [ages(part) for part in (given.train, given.val, given.test)] == [[12] * 3, [4] * 3, [4] * 3]


def test_fractions_of_years_stay(tmp_path: Path) -> None:
    labels = LABELS[:60] - np.tile([0, 0.5], 30) * (LABELS[:60] > 1)
    data = load_utkface(stored(tmp_path / "a.h5", images=IMAGES[:60], labels=labels), size=8)
    assert data.train.labels.unique().tolist() == [1, 29.5, 30, 59.5, 60]


def test_broken_files(tmp_path: Path) -> None:
    for said, content in {
        "expected an array images": {"labels": LABELS},
        "expected ages from 1 to 60 years, got none": {"images": IMAGES, "labels": LABELS + 100},
        r"expected labels \(80,\)": {"images": IMAGES, "labels": LABELS[:9]},
        "expected an array labels_test": {"images_train": IMAGES, "labels_train": LABELS, "images_test": IMAGES},
    }.items():
        with pytest.raises(DataError, match=said):
            load_utkface(stored(tmp_path / "a.h5", **content), size=8)
