import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.npyio import NpzFile
from PIL import Image

from gankd.data import arrays as arrays_module
from gankd.data.folder import load_folder
from gankd.data.images import LabelledImages, Splits
from gankd.data.npz import load_npz
from gankd.errors import ConfigError, DataError, GankdError
from gankd.tasks import Classification, Regression

COUNT = 40
FOUR = np.arange(COUNT) % 4
"""Classes of 10 images each."""


def numbered(count: int = COUNT, *shape: int, first: int = 0) -> Any:
    """Random images, (count, *shape), that bear their number in their first pixel."""
    images = np.random.default_rng(0).integers(0, 256, (count, *(shape or (8, 8))), dtype=np.uint8)
    images.reshape(count, -1)[:, 0] = np.arange(first, first + count)
    return images


def stored(folder: Path, **arrays: Any) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def numbers(data: LabelledImages) -> list[int]:
    """Which images these are."""
    return data.images[:, 0, 0, 0].tolist()


def rows(data: Splits) -> list[list[int]]:
    return [numbers(part) for part in (data.train, data.val, data.test)]


def whole(data: Splits) -> torch.Tensor:
    """Images of all splits, by their number."""
    images = torch.cat([data.train.images, data.val.images, data.test.images])
    return images[images[:, 0, 0, 0].argsort()]


def refused(folder: Path, error: type[GankdError] = DataError, options: Any = None, **arrays: Any) -> str:
    """The one line that loading ends in."""
    path = stored(folder, **arrays)
    with pytest.raises(error) as caught:
        load_npz(path, **(options or {}))
    line = str(caught.value)
    assert line.isprintable()
    return line


# Round trips


LAYOUTS = {
    "N,H,W": lambda pixels: pixels[:, 0],
    "N,H,W,1": lambda pixels: pixels.transpose(0, 2, 3, 1)[..., :1],
    "N,1,H,W": lambda pixels: pixels[:, :1],
    "N,H,W,3": lambda pixels: pixels.transpose(0, 2, 3, 1),
    "N,3,H,W": lambda pixels: pixels,
}


@pytest.mark.parametrize("kind", ["uint8", "float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixels_come_back_exactly(tmp_path: Path, layout: str, kind: str) -> None:
    pixels = numbered(COUNT, 3, 8, 8)
    kept = LAYOUTS[layout](pixels)
    # Truncated instead of rounded, half of the floats lose a level.
    data = load_npz(stored(tmp_path, images=kept if kind == "uint8" else (kept / 255).astype(kind), label=FOUR))
    assert torch.equal(whole(data), torch.from_numpy(pixels[:, : 3 if "3" in layout else 1]))
    assert sorted(number for part in rows(data) for number in part) == list(range(COUNT))


def test_images_can_be_written_to(tmp_path: Path) -> None:
    data = load_npz(stored(tmp_path, images=numbered(), label=FOUR))
    data.train.images.add_(1)  # a view of a read-only array would warn


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_labels_stay_with_their_images(tmp_path: Path, write: Any) -> None:
    labels = np.random.default_rng(1).permutation(FOUR)
    write(tmp_path / "ü.npz", images=numbered(), label=labels)
    data = load_npz(tmp_path / "ü.npz")
    assert data.task == Classification(num_classes=4, class_names=("0", "1", "2", "3"))
    for part in (data.train, data.val, data.test):
        assert part.labels.tolist() == labels[numbers(part)].tolist()
        assert numbers(part) == sorted(numbers(part))
    assert data.name == "ü"
    assert data.card["licence"] == "the user's own"
    assert data.card["origin"] == "file ü.npz: 40 images, 8x8 pixels, used as grey 8x8"


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_values_come_back_exactly(tmp_path: Path, kind: str) -> None:
    labels = np.random.default_rng(1).normal(size=COUNT).astype(kind)
    data = load_npz(stored(tmp_path, images=numbered(), angle=labels))
    assert data.task == Regression(low=float(np.float32(labels.min())), high=float(np.float32(labels.max())))
    for part in (data.train, data.val, data.test):
        assert part.labels.tolist() == labels.astype(np.float32)[numbers(part)].tolist()


# What is read


@pytest.mark.parametrize("image", ["images", "Image", "x", "X", "data"])
@pytest.mark.parametrize("label", ["label", "labels", "Y", "target", "age"])
def test_names(tmp_path: Path, image: str, label: str) -> None:
    data = load_npz(stored(tmp_path, **{"other": np.zeros(3), image: numbered(), label: FOUR}))
    assert data.task.num_groups == 4


def test_the_first_known_name_is_read(tmp_path: Path) -> None:
    data = load_npz(stored(tmp_path, data=np.zeros(3), x=numbered(), target=FOUR / 3, label=FOUR))
    assert data.task.kind == "classification"


def test_arrays_of_all_images_come_before_those_of_a_split(tmp_path: Path) -> None:
    data = load_npz(stored(tmp_path, x_train=np.zeros(3), y_train=np.zeros(3), images=numbered(), label=FOUR))
    assert sorted(number for part in rows(data) for number in part) == list(range(COUNT))


@pytest.mark.parametrize("names", ["x_{}:y_{}", "{}_images:{}_labels", "X_{}:target_{}"])
def test_one_pair_of_arrays_per_split(tmp_path: Path, names: str) -> None:
    image, label = names.split(":")
    arrays = {}
    for part, first in (("test", 30), ("val", 20), ("train", 0)):
        count = 20 if part == "train" else 10
        arrays[image.format(part)] = numbered(count, first=first)
        arrays[label.format(part)] = FOUR[:count, None]  # a column, as some archives have it
    data = load_npz(stored(tmp_path, **arrays))
    assert rows(data) == [list(range(20)), list(range(20, 30)), list(range(30, 40))]
    assert data.test.labels.tolist() == FOUR[:10].tolist()
    for name in (image, label):
        del arrays[name.format("val")]
    assert [len(part) for part in rows(load_npz(stored(tmp_path, **arrays)))] == [16, 4, 10]


@pytest.mark.parametrize(
    "names",
    [np.array([0, 1]), np.array([False, True]), np.array(["train", "Test"]), np.array([b"training", b"testing"])],
    ids=["numbers", "flags", "text", "bytes"],
)
def test_given_split(tmp_path: Path, names: Any) -> None:
    data = load_npz(stored(tmp_path, images=numbered(), label=FOUR, split=names[(np.arange(COUNT) >= 24).astype(int)]))
    assert rows(data)[2] == list(range(24, 40))
    assert data.val.labels.bincount().tolist() == [1, 1, 1, 1]  # an eighth of train, in each class
    assert data.train.labels.bincount().tolist() == [5, 5, 5, 5]


def test_all_three_splits_given(tmp_path: Path) -> None:
    split = np.array(["train", "val", "test", "train"])[np.arange(COUNT) // 4 % 4]
    found = rows(load_npz(stored(tmp_path, images=numbered(), label=FOUR, split=split)))
    assert found == [[k for k in range(COUNT) if split[k] == part] for part in ("train", "val", "test")]


def test_missing_splits_are_drawn_in_each_class(tmp_path: Path) -> None:
    path = stored(tmp_path, images=numbered(), label=FOUR)
    data = load_npz(path)
    shares = [part.labels.bincount().tolist() for part in (data.train, data.val, data.test)]
    assert shares == [[7] * 4, [1] * 4, [2] * 4]
    assert load_npz(path).fingerprint() == data.fingerprint() != load_npz(path, seed=1).fingerprint()


def test_missing_splits_are_drawn_along_the_values(tmp_path: Path) -> None:
    data = load_npz(stored(tmp_path, images=numbered(), label=np.arange(COUNT) / 4))
    for start in range(0, COUNT, 10):
        run = set(range(start, start + 10))
        assert [len(run & set(part)) for part in rows(data)] == [7, 1, 2]


# Task and classes


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (FOUR, "classification"),
        (FOUR.astype(np.uint8), "classification"),
        (FOUR == 3, "classification"),
        (FOUR.astype(float), "regression"),
        (np.arange(COUNT), "regression"),  # too many for classes
        (np.array(["cat", "dog"])[FOUR % 2], "classification"),
        (np.array([b"3", b"1"])[FOUR % 2], "classification"),
    ],
)
def test_task_is_inferred(tmp_path: Path, labels: Any, kind: str) -> None:
    data = load_npz(stored(tmp_path, images=numbered(), label=labels))
    assert data.task.kind == kind
    assert data.card["labels"].startswith(kind)


def test_task_can_be_set(tmp_path: Path) -> None:
    path = stored(tmp_path, images=numbered(), label=FOUR, class_names=np.array(list("abcd")))
    assert load_npz(path, task="regression").task == Regression(low=0.0, high=3.0)
    assert load_npz(path, task="regression", low=-1, high=9).task == Regression(low=-1, high=9)
    for labels, names in ((FOUR * 5.0, ("0", "5", "10", "15")), (FOUR / 2, ("0.0", "0.5", "1.0", "1.5"))):
        path = stored(tmp_path, images=numbered(), label=labels)
        assert load_npz(path, task="classification").task == Classification(num_classes=4, class_names=names)


@pytest.mark.parametrize("kind", ["U", "S"])
def test_class_names(tmp_path: Path, kind: str) -> None:
    names = np.array([f"n{k}" for k in range(30)]).astype(kind)
    labels = 3 * FOUR + 20  # the other classes have no images
    data = load_npz(stored(tmp_path, images=numbered(), label=labels, class_names=names))
    assert data.task == Classification(num_classes=4, class_names=("n20", "n23", "n26", "n29"))
    assert all(data.train.labels.numpy() == FOUR[numbers(data.train)])


def test_many_named_integers_are_classes(tmp_path: Path) -> None:
    arrays = {"images": numbered(75), "label": np.arange(75) % 25}
    with pytest.raises(
        DataError, match="the labels are the integers from 0 to 24, which may be class numbers or values"
    ):
        load_npz(stored(tmp_path, **arrays))
    assert load_npz(stored(tmp_path, **arrays), task="regression").task.kind == "regression"
    data = load_npz(stored(tmp_path, **arrays, class_names=np.array([f"n{k}" for k in range(25)])))
    assert data.task.num_groups == 25


def test_text_is_sorted(tmp_path: Path) -> None:
    data = load_npz(stored(tmp_path, images=numbered(), label=np.array(["10", "9"])[FOUR % 2]))
    assert data.task == Classification(num_classes=2, class_names=("9", "10"))
    assert all(data.train.labels.numpy() == 1 - FOUR[numbers(data.train)] % 2)


# Pixels


@pytest.mark.parametrize(("height", "width"), [(16, 24), (20, 12), (6, 8)])
@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("channels", ["auto", "grey", "rgb"])
def test_size_and_channels_as_in_a_folder(tmp_path: Path, height: int, width: int, colour: bool, channels: Any) -> None:
    pixels = numbered(6, height, width, *([3] if colour else []))
    for row, picture in enumerate(pixels):
        folder = tmp_path / "folder" / str(row % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{row}.png")
    expected = load_folder(tmp_path / "folder", size=12, channels=channels)
    found = load_npz(stored(tmp_path, x=pixels, y=np.arange(6) % 2), size=12, channels=channels)
    assert found.train.shape == (3 if channels == "rgb" or (channels == "auto" and colour) else 1, 12, 12)
    assert pictures(found) == pictures(expected)


def pictures(data: Splits) -> list[bytes]:
    """All images, in an order of their own."""
    return sorted(image.numpy().tobytes() for part in (data.train, data.val, data.test) for image in part.images)


# What is refused


class Run:
    """What a pickle can make of being read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("was read", "w")


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objects = np.array([Run() for _ in range(COUNT)], dtype=object)
    for arrays in ({"x": objects, "y": FOUR}, {"x": numbered(), "y": objects}):
        line = refused(tmp_path, **arrays)
        assert "is an array of Python objects, which is a pickle and could run code when read; save images as" in line
    np.array(objects).dump(tmp_path / "data.npz")
    with pytest.raises(DataError, match=r"is not an .npz file, or a damaged one \([^=]*pickle[^=]*\); write it"):
        load_npz("data.npz")
    # What is not needed is not read.
    assert len(load_npz(stored(tmp_path, x=numbered(), y=FOUR, notes=objects)).train) == 28
    assert not Path("was read").exists()


@pytest.mark.parametrize("kept", [0, 3, 500, 2500, -30])
def test_damaged_files(tmp_path: Path, kept: int) -> None:
    path = stored(tmp_path, images=numbered(), label=FOUR)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"data.npz is not an .npz file, or a damaged one \(.+\); write it by np.savez"):
        load_npz(path)


def test_arrays_that_do_not_fit_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    whole = NpzFile.__getitem__

    def noted(self: NpzFile, name: str) -> Any:
        read.append(name)
        return whole(self, name)

    monkeypatch.setattr(NpzFile, "__getitem__", noted)
    assert "got 40 images in images and 41 labels" in refused(tmp_path, images=numbered(), label=np.arange(41))
    assert read == []
    load_npz(stored(tmp_path, images=numbered(), label=FOUR))
    assert read == ["label"]  # images come in blocks


def test_a_header_that_lies(tmp_path: Path) -> None:
    path = stored(tmp_path, images=numbered(), label=FOUR)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content["label.npy"] = content["label.npy"].replace(b"(40,), }    ", b"(400000,), }")
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in content.items():
            archive.writestr(name, member)
    with pytest.raises(DataError, match=r"label cannot be read \(an array int64 \(400000,\) has another size\)"):
        load_npz(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("block", [1, 1000])
def test_blocks_and_orders(tmp_path: Path, save: Any, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).random((COUNT, 8, 8, 3))
    expected = load_npz(stored(tmp_path, images=images, label=FOUR)).fingerprint()
    monkeypatch.setattr(arrays_module, "BLOCK_BYTES", block)
    for order in ("C", "F"):
        save(tmp_path / "x.npz", images=np.array(images, order=order), label=FOUR)
        assert load_npz(tmp_path / "x.npz").fingerprint() == expected


def test_damaged_images_behind_the_first_block(tmp_path: Path) -> None:
    path = stored(tmp_path, images=numbered(COUNT, 32, 32), label=FOUR)
    content = bytearray(path.read_bytes())
    content[30_000] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data.npz: images\[\d+\]: cannot be read \(Bad CRC"):
        load_npz(path)


def test_damaged_array(tmp_path: Path) -> None:
    path = stored(tmp_path, images=numbered(), label=FOUR)
    content = bytearray(path.read_bytes())
    content[1000] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data.npz: images cannot be read \(Bad CRC"):
        load_npz(path)


def test_files_of_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*absent.npz; .*; check the path"):
        load_npz(tmp_path / "absent.npz")
    with pytest.raises(DataError, match="is a folder; for a folder of images: gankd run folder --data "):
        load_npz(tmp_path)
    (tmp_path / "text.npz").write_text("image,label\n")
    with pytest.raises(DataError, match="is not an .npz file"):
        load_npz(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", numbered())
    with pytest.raises(DataError, match="holds one array and no name"):
        load_npz(tmp_path / "one.npy")
    np.savez(tmp_path / "nameless.npz", numbered(), FOUR)
    with pytest.raises(DataError, match="got arr_0, arr_1; write it by np.savez\\(file, images=images, label=label\\)"):
        load_npz(tmp_path / "nameless.npz")


IMAGES: dict[str, tuple[Any, str]] = {
    "none": (np.zeros((0, 8, 8), np.uint8), "expected images (N, H, W)"),
    "flat": (np.zeros((COUNT, 64), np.uint8), "expected images (N, H, W), .* got (40, 64); reshape them"),
    "channels": (np.zeros((COUNT, 8, 8, 4), np.uint8), "with 1 or 3 channels, got (40, 8, 8, 4)"),
    "integers": (np.zeros((COUNT, 8, 8), np.int64), "expected uint8, or floats in [0, 1], got int64"),
    "levels": (numbered() / 1.0, "expected floats in [0, 1], or uint8, got 0 to 255; save levels"),
    "signed": (numbered() / 127.5 - 1, "got -1 to 1"),
    "bright": (numbered() / 204, "expected floats in [0, 1], or uint8, got 0 to 1.25"),
    "nan": (np.full((COUNT, 8, 8), np.nan), "got nan to nan"),
    "fewer": (numbered(39), "expected a label for each image, got 39 images in images and 40 labels in label"),
    "oblong": (numbered(COUNT, 8, 12), "expected square images, got 12x8 pixels; add --size 8 to crop and resize"),
    "small": (numbered(COUNT, 4, 4), "expected a multiple of 4 from 8 to 256 pixels, got images of 4x4; add --size 8"),
    "odd": (numbered(COUNT, 30, 30), "got images of 30x30; add --size 32"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_images_that_cannot_be_used(tmp_path: Path, case: str) -> None:
    images, said = IMAGES[case]
    assert matches(said, refused(tmp_path, images=images, label=FOUR))


def matches(said: str, line: str) -> bool:
    return all(part in line for part in said.split(".*"))


def with_nan(*at: int) -> Any:
    labels = FOUR / 2
    labels[list(at)] = np.nan
    return labels


LABELS: dict[str, tuple[Any, str]] = {
    "nan": (with_nan(5, 7), "data.npz: label[5]: expected a finite label, got nan (and 1 more such labels)"),
    "infinite": (np.where(FOUR == 3, np.inf, 0.0), "label[3]: expected a finite label, got inf"),
    "large": (np.where(FOUR == 3, 1e40, 0.5), "label[3]: expected a finite label of at most 1e+30"),
    "one class": (FOUR * 0, "expected at least 2 different labels, got only 0"),
    "one value": (FOUR * 0 + 0.5, "expected at least 2 different labels, got only 0.5"),
    "one-hot": (np.eye(4)[FOUR], "got float64 (40, 4); save labels.argmax(1)"),
    "complex": (FOUR + 1j, "expected labels (N,), got complex128 (40,)"),
    "scalar": (np.array(3), "expected labels (N,), or (N, n) numbers, got int64 ()"),
    "empty text": (np.where(FOUR == 3, "", "cat"), "label[3]: no label"),
    "few": (np.where(np.arange(COUNT) < 2, 1, 0), "expected at least 3 images of class 1 to share among"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_cannot_be_used(tmp_path: Path, case: str) -> None:
    labels, said = LABELS[case]
    assert said in refused(tmp_path, images=numbered(), label=labels)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "no images": (
        {"imgs": FOUR, "label": FOUR},
        "expected an array images (or image, x, data, fake_images, or x_train), got imgs,",
    ),
    "only a test": ({"x_test": numbered(), "y_test": FOUR}, "or x_train), got x_test, y_test"),
    "no labels": ({"x": numbered(), "Lable": FOUR}, "expected an array label (or labels, y, .*), got x, Lable"),
    "no test labels": (
        {"x_train": numbered(), "y_train": FOUR, "x_test": numbered()},
        "expected an array label_test (or labels_test, .*got x_train, y_train, x_test",
    ),
    "shapes": (
        {"x_train": numbered(), "y_train": FOUR, "x_test": numbered(COUNT, 12, 12), "y_test": FOUR},
        "expected images of one shape in all splits, got (8, 8, 1), (12, 12, 1)",
    ),
    "split number": ({"split": FOUR}, "split[2]: expected 0 (train) or 1 (test), or train, val or test, got 2"),
    "split text": ({"split": np.where(FOUR == 1, "tset", "train")}, "split[1]: .* got tset"),
    "split length": ({"split": FOUR[:9]}, "expected split (40,) of 0 (train) and 1 (test), .* got int64 (9,)"),
    "split floats": ({"split": FOUR * 1.0}, "got float64 (40,)"),
    "no train": ({"split": FOUR * 0 + 1}, "expected images in the split train"),
    "class not trained": ({"split": (FOUR == 2) * 1}, "no image of 2 there (but images[2] elsewhere)"),
    "too few names": ({"class_names": np.array(["a", "b", "c"])}, "label[3]: expected an integer from 0 to 2"),
    "names twice": ({"class_names": np.array(list("abca"))}, "expected (K,) texts that differ in class_names"),
    "names of numbers": ({"class_names": np.arange(4)}, "got int64 (4,)"),
    "named text": (
        {"label": np.where(FOUR == 1, "b", "a"), "class_names": np.array(["a", "b"])},
        "label[0]: expected an integer from 0 to 1, as class_names has 2 names, got a; correct it, or leave",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_arrays_that_do_not_belong_together(tmp_path: Path, case: str) -> None:
    arrays, said = OTHERS[case]
    if {"split", "class_names"} & set(arrays):
        arrays = {"images": numbered(), "label": FOUR} | arrays
    assert matches(said, refused(tmp_path, **arrays))


@pytest.mark.parametrize("options", [{"size": 30}, {"task": "classify"}, {"channels": "gray"}, {"low": 0.0}])
def test_absurd_settings(tmp_path: Path, options: dict[str, Any]) -> None:
    refused(tmp_path, ConfigError, options, images=numbered(), label=FOUR)


def test_a_folder_is_asked_for_and_arrays_are_given(tmp_path: Path) -> None:
    path = stored(tmp_path, images=numbered(), label=FOUR)
    with pytest.raises(DataError, match="arrays have a recipe of their own: gankd run npz --data .*data.npz"):
        load_folder(path)
