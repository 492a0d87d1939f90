"""Formats by what lies in a folder, duplicates that were planted, histograms that add up."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gankd.data.images import LabelledImages, Splits
from gankd.data.inspection import Found, Shared, contact_images, detect, duplicates, histogram, scan
from gankd.errors import DataError
from gankd.seeds import rng
from gankd.tasks import Classification, Regression, Task

FORMATS = {
    "npz": ["a.npz"],
    "h5": ["mine.h5"],
    "rc49": ["RC-49_64x64.h5"],
    "utkface": ["UTKFace_64x64_prop_0.8.h5"],
    "steering": ["SteeringAngle_64x64_prop_0.8.h5"],
    "imagenet100": ["ImageNet_128x128_100Class.h5"],
    "cifar10": ["cifar-10-binary.tar.gz"],
    "cifar100": ["cifar-100-python.tar.gz"],
    "table": ["mine.csv"],
}


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.mark.parametrize("name", FORMATS)
def test_files_alone_and_in_a_folder(tmp_path: Path, name: str) -> None:
    (file,) = FORMATS[name]
    found = detect(touch(tmp_path, file) / file)
    assert (found.name, found.path) == (name, tmp_path / file)
    assert detect(tmp_path) == found


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("folder", ["labels.csv", "a.png"]),
        ("folder", ["cat/a.png", "dog/b.png"]),
        ("folder", ["train/cat/a.png", "test/cat/b.png"]),
        ("cifar10", ["data_batch_1.bin", "batches.meta.txt"]),
        ("cifar10", ["cifar-10-batches-py/data_batch_1"]),
        ("cifar100", ["train.bin", "test.bin"]),
        ("cifar100", ["cifar-100-python/train", "cifar-100-python.tar.gz"]),
        ("tiny-imagenet", ["wnids.txt", "train/n01443537/images/a.JPEG"]),
        ("steering", ["data.txt", "0.jpg"]),
        ("utkface", ["26_0_1_2017.jpg.chip.jpg", "1_1_0_2016.jpg", "notes.txt"]),
        ("imagenet100", ["imagenet100.txt", "train/n01443537/a.JPEG", "val/n01443537/b.JPEG"]),
        ("imagenet100", ["classes.txt", *(f"train/n{number:08d}/a.JPEG" for number in range(101))]),
        ("folder", ["classes.txt", "train/cat/a.JPEG", "train/dog/a.JPEG"]),
        ("imagenet100", [f"train/n{number:08d}/a.JPEG" for number in range(1000)]),
        ("idx", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]),
        ("table", ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]),
        ("table", ["data/train-00000-of-00001.parquet"]),
    ],
)
def test_folders(tmp_path: Path, name: str, files: list[str]) -> None:
    found = detect(touch(tmp_path, *files))
    assert (found.name, found.path) == (name, tmp_path)


def test_a_set_in_the_only_folder(tmp_path: Path) -> None:
    touch(tmp_path, "tiny-imagenet-200.zip", "tiny-imagenet-200/wnids.txt", "tiny-imagenet-200/train/n01443537/a.JPEG")
    assert detect(tmp_path).path == tmp_path / "tiny-imagenet-200"


def test_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="but the folder is empty"):
        detect(tmp_path)
    touch(tmp_path, "notes.txt")
    with pytest.raises(DataError, match="but the file is empty"):
        detect(tmp_path / "notes.txt")
    (tmp_path / "notes.txt").write_text("to be read")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(DataError, match="got something else; name the set by --name"):
            detect(path)
    touch(tmp_path, "flat/a.jpg", "flat/b.jpg", "hollow/cat/notes.txt")
    with pytest.raises(DataError, match="got images without labels; sort them into a folder per class"):
        detect(tmp_path / "flat")
    (tmp_path / "hollow" / "cat" / "notes.txt").unlink()
    with pytest.raises(DataError, match="got folders without images"):
        detect(tmp_path / "hollow")
    with pytest.raises(DataError, match="but there is nothing"):
        detect(tmp_path / "none")


def test_a_scan_goes_on_behind_broken_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number, (mode, size) in enumerate([("L", (8, 8)), ("RGB", (12, 8)), ("RGB", (40, 36))]):
        Image.new(mode, size).save(tmp_path / "a" / f"{number}.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "a" / "cut.jpg")
    content = (tmp_path / "a" / "cut.jpg").read_bytes()
    (tmp_path / "a" / "cut.jpg").write_bytes(content[: len(content) - 100])
    touch(tmp_path, "a/empty.png")
    found = scan(Found("folder", tmp_path, ""))
    assert found is not None
    assert found.sizes == {(8, 8): 1, (12, 8): 1, (40, 36): 1}
    assert [path.name for path, _ in found.unreadable] == ["cut.jpg", "empty.png"]
    assert (found.count, found.grey, found.mixed, found.side) == (5, 1, True, 8)
    assert scan(Found("npz", tmp_path / "a.npz", "")) is None


def splits(task: Task, *labels: list[float], seed: int = 0) -> Splits:
    """Random images with these labels in train, val and test."""
    train, val, test = (
        LabelledImages(
            torch.randint(256, (len(some), 3, 16, 16), dtype=torch.uint8, generator=rng(seed, "test", part)),
            torch.tensor(some, dtype=task.label_dtype),
            task,
        )
        for part, some in enumerate(labels)
    )
    return Splits(train, val, test, "toy", {})


TWO = Classification(num_classes=2, class_names=("cat", "dog"))


def test_no_duplicates_among_random_images() -> None:
    assert duplicates(splits(TWO, [0, 1] * 500, [0, 1] * 50, [0, 1] * 100)) == []


def test_planted_duplicates() -> None:
    data = splits(TWO, [0, 1] * 10, [0] * 6, [1] * 8)
    train, val, test = data.train.images, data.val.images, data.test.images
    test[0], test[1] = train[3], train[4]  # labels 1 and 1; in train 1 and 0
    val[2] = train[0]  # 0 and 0
    train[7] = train[5]
    test[5] = (train[9].float() * 0.9 + 10).round().byte()  # darker, with less contrast
    assert duplicates(data) == [
        Shared("val", "train", 1, 0, 0),
        Shared("test", "train", 2, 1, 1),
        Shared("train", "train", 1, 0, 0),
    ]


def test_the_same_image_with_two_labels_within_a_split() -> None:
    data = splits(TWO, [0, 1, 0, 1], [0], [1])
    data.train.images[1] = data.train.images[0]
    assert duplicates(data) == [Shared("train", "train", 1, 1, 0)]


def test_histograms() -> None:
    assert histogram(splits(TWO, [0, 0, 1], [1], [0])) == [
        ("cat", {"train": 2, "val": 0, "test": 1}),
        ("dog", {"train": 1, "val": 1, "test": 0}),
    ]
    # 0.1 as float32 is a little more than 0.1: the greatest label lies outside its range by rounding.
    rows = histogram(splits(Regression(low=-0.1, high=np.float32(0.1).item()), [-0.1, 0.01, 0.099, 0.1], [0.1], [-0.1]))
    assert len(rows) == 10
    assert [counts["train"] for _, counts in rows] == [1, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    assert (rows[0][1]["test"], rows[-1][1]["val"]) == (1, 1)


def test_contact_images_run_from_the_lowest_to_the_highest_label() -> None:
    data = splits(Regression(low=0, high=1000), [float(number) for number in reversed(range(1000))], [0], [1000]).train
    images, columns = contact_images(data)
    place = {image.numpy().tobytes(): label for image, label in zip(data.images, data.labels.tolist(), strict=True)}
    labels = [place[image.numpy().tobytes()] for image in images]
    assert (len(images), columns) == (120, 12)
    assert labels == sorted(labels)
    assert np.diff(labels) == pytest.approx(1000 / 120, abs=1)
    few = splits(TWO, [0, 1] * 40, [0], [1]).train
    images, columns = contact_images(few)
    place = {image.numpy().tobytes(): label for image, label in zip(few.images, few.labels.tolist(), strict=True)}
    assert [place[image.numpy().tobytes()] for image in images] == [0] * 12 + [1] * 12
    assert len(contact_images(splits(TWO, [0, 1, 0], [0], [1]).train)[0]) == 3
