import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from gankd.data import files
from gankd.data.folder import load_folder
from gankd.data.idx import load_idx
from gankd.data.images import LabelledImages
from gankd.data.table import load_table
from gankd.errors import ConfigError, DataError, GankdError
from gankd.tasks import Classification, Regression


def paint(path: Path, level: int | tuple[int, ...] = 0, size: tuple[int, int] = (8, 8), mode: str = "L") -> None:
    """Write an image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, level).save(path)


def class_folders(root: Path, **counts: int) -> Path:
    """Folders of classes; image k has grey level k, so that images can be told apart."""
    for name, count in counts.items():
        for k in range(count):
            paint(root / name / f"{k:03d}.png", k)
    return root


def table(root: Path, rows: list[str], header: str = "image,label") -> Path:
    """labels.csv, and an image of level k for the k-th row."""
    for k, row in enumerate(rows):
        paint(root / row.split(",")[0], k)
    (root / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    return root


def numbers(root: Path, labels: list[Any]) -> Path:
    return table(root, [f"{k:03d}.png,{label}" for k, label in enumerate(labels)])


def levels(data: LabelledImages) -> list[int]:
    """The level of each image, by its first pixel."""
    return data.images[:, 0, 0, 0].tolist()


def refused(root: Path, error: type[GankdError] = DataError, **options: Any) -> str:
    """The one line that loading ends in."""
    with pytest.raises(error) as caught:
        load_folder(root, **options)
    line = str(caught.value)
    assert line.isprintable()
    return line


# What is read


def test_class_folders(tmp_path: Path) -> None:
    data = load_folder(class_folders(tmp_path / "pets", dog=20, cat=10))
    assert data.task == Classification(num_classes=2, class_names=("cat", "dog"))
    assert [part.labels.bincount().tolist() for part in (data.train, data.val, data.test)] == [
        [7, 14],
        [1, 2],
        [2, 4],
    ]
    for name, number in (("cat", 0), ("dog", 1)):
        found = [level for part in (data.train, data.val, data.test) for level in levels_of(part, number)]
        assert sorted(found) == list(range({"cat": 10, "dog": 20}[name]))  # each image once
    assert data.name == "pets"
    assert data.card["licence"] == "the user's own"
    assert "pets: 30 image files, 8x8 pixels" in data.card["origin"]
    assert data.card["split"].endswith("21 train, 3 val, 6 test")


def levels_of(data: LabelledImages, label: int) -> list[int]:
    return levels(data.subset(data.labels == label))


def test_integer_class_names_are_sorted_by_value(tmp_path: Path) -> None:
    data = load_folder(class_folders(tmp_path, **{"10": 3, "9": 3, "2": 3}))
    assert data.task.class_names == ("2", "9", "10")  # type: ignore[union-attr]


def test_class_folders_named_by_numbers_can_be_regressed(tmp_path: Path) -> None:
    data = load_folder(class_folders(tmp_path, **{"-7.5": 5, "20": 5}), task="regression")
    assert data.task == Regression(low=-7.5, high=20.0)
    assert set(data.train.labels.tolist()) == {-7.5, 20.0}
    assert "'cat'" in refused(class_folders(tmp_path, cat=3), task="regression")


def test_given_splits_are_kept(tmp_path: Path) -> None:
    for part, level in (("train", 1), ("validation", 2), ("Test", 3)):
        for name in "ab":
            paint(tmp_path / part / name / "x.png", level)
    data = load_folder(tmp_path)
    assert [levels(part) for part in (data.train, data.val, data.test)] == [[1, 1], [2, 2], [3, 3]]
    assert "given" in data.card["split"]


@pytest.mark.parametrize(
    ("given", "sizes"),
    [("val", (28, 5, 8)), ("test", (31, 5, 5)), ("", (25, 4, 7))],
    ids=["val", "test", "none"],
)
def test_missing_splits_come_out_of_train(tmp_path: Path, given: str, sizes: tuple[int, ...]) -> None:
    class_folders(tmp_path / "train", a=36)
    class_folders(tmp_path / "train", b=36)
    if given:
        class_folders(tmp_path / given, a=5, b=5)
    data = load_folder(tmp_path)
    for number in (0, 1):
        assert tuple(int((p.labels == number).sum()) for p in (data.train, data.val, data.test)) == sizes


def test_regression_from_a_table(tmp_path: Path) -> None:
    labels = [7 * k % 40 / 4 - 3 for k in range(40)]  # 40 values, a quarter apart, in no order
    data = load_folder(numbers(tmp_path, labels))
    assert data.task == Regression(low=-3.0, high=6.75)
    assert [len(part) for part in (data.train, data.val, data.test)] == [28, 4, 8]
    for part in (data.train, data.val, data.test):  # labels still belong to their images
        assert part.labels.tolist() == [labels[level] for level in levels(part)]
    for start in range(0, 40, 10):  # each run of ten neighbours is cut 7 : 1 : 2
        run = {k / 4 - 3 for k in range(start, start + 10)}
        assert [len(run & set(p.labels.tolist())) for p in (data.train, data.val, data.test)] == [7, 1, 2]


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["cat", "dog"] * 6, "classification"),
        (["1", "2"] * 3, "classification"),
        (["0.5", "1.5"] * 6, "regression"),  # written with a point
        ([str(k % 20) for k in range(60)], "classification"),
        ([str(5 + k % 21) for k in range(63)], "regression"),  # too many values for classes
        ([str(k % 20) for k in range(59)], "regression"),  # fewer than 3 images each
        (["1e2", "-3", "+.5"] * 4, "regression"),
        (["7up", "cola", "3", "3", "cola", "7up"] * 3, "classification"),  # mostly text
    ],
)
def test_task_is_inferred(tmp_path: Path, labels: list[str], kind: str) -> None:
    data = load_folder(numbers(tmp_path, labels))
    assert data.task.kind == kind
    assert data.card["labels"].startswith(kind)


def test_task_can_be_set(tmp_path: Path) -> None:
    root = numbers(tmp_path, ["10", "9"] * 6)
    assert load_folder(root, task="regression").task == Regression(low=9.0, high=10.0)
    data = load_folder(root, task="classification")
    assert data.task == Classification(num_classes=2, class_names=("9", "10"))
    assert all(label == 1 - level % 2 for label, level in zip(data.train.labels, levels(data.train), strict=True))


def test_range_can_be_set(tmp_path: Path) -> None:
    root = numbers(tmp_path, [k + 0.1 for k in range(10)])
    assert load_folder(root, low=0, high=90).task == Regression(low=0, high=90)
    assert load_folder(root, low=-1).task == Regression(low=-1, high=torch.tensor(9.1).item())
    line = refused(root, high=8.5)
    assert "labels.csv line 11" in line
    assert "got 9.1" in line
    assert "line 2" in refused(root, low=0.5)


def test_table_layouts(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    for k in range(12):
        paint(tmp_path / "img" / f"é {k:02d}.png", k)
    rows = [f'img\\é {k:02d}.png; "{k / 2}" ;x;' for k in range(12)]
    text = "\ufeffFile;Angle ;note\r\n\r\n" + "\r\n".join(rows)  # as a spreadsheet on Windows writes it
    (tmp_path / "labels.csv").write_bytes(text.encode())
    data = load_folder(tmp_path)
    assert data.task == Regression(low=0.0, high=5.5)
    assert data.train.labels.tolist() == [level / 2 for level in levels(data.train)]


def test_split_column(tmp_path: Path) -> None:
    parts = ["train", "Test", "valid", "train", "test", "val"]
    root = table(tmp_path, [f"{k}.png,{k}.5,{part}" for k, part in enumerate(parts)], "path,age,split")
    data = load_folder(root)
    assert [levels(part) for part in (data.train, data.val, data.test)] == [[0, 3], [2, 5], [1, 4]]


def test_an_empty_split_column_says_nothing(tmp_path: Path) -> None:
    root = table(tmp_path, [f"{k}.png,{k}.5," for k in range(10)], "path,age,split")
    assert len(load_folder(root).train) == 7


def test_split_depends_on_paths_labels_and_seed_alone(tmp_path: Path) -> None:
    labels = {f"{k:02d}.png": k / 8 for k in range(50)}
    prints = []
    for turn in (1, -1):
        root = tmp_path / str(turn)
        for name in list(labels)[::turn]:  # another order on disk and in the table, at another place
            paint(root / name, int(name[:2]))
        rows = [f"{name},{label}" for name, label in list(labels.items())[::turn]]
        (root / "labels.csv").write_text("\n".join(["image,label", *rows]))
        prints.append(load_folder(root).fingerprint())
    assert prints[0] == prints[1]
    assert load_folder(root, seed=1).fingerprint() != prints[0]


def test_a_new_class_leaves_the_split_of_the_others(tmp_path: Path) -> None:
    before = load_folder(class_folders(tmp_path, b=20, c=20))
    after = load_folder(class_folders(tmp_path, a=20))
    assert levels_of(before.test, 0) == levels_of(after.test, 1)
    assert levels_of(before.test, 0) != levels_of(before.test, 1)  # each class has its own draw


def test_junk_is_ignored(tmp_path: Path) -> None:
    class_folders(tmp_path, a=4, b=4)
    for junk in (".DS_Store", "a/Thumbs.db", "a/._001.png", "a/.x.jpg", "b/desktop.ini", "a/notes.txt"):
        (tmp_path / junk).write_bytes(b"junk")
    class_folders(tmp_path / ".git", x=1)
    paint(tmp_path / "__MACOSX" / "a.png")
    data = load_folder(tmp_path)
    assert data.task.class_names == ("a", "b")  # type: ignore[union-attr]
    assert "8 image files" in data.card["origin"]
    assert "1 other file passed over (.txt)" in data.card["origin"]


@pytest.mark.timeout(20)
def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    class_folders(tmp_path / "elsewhere", more=2)
    root = class_folders(tmp_path / "root", a=4, b=4)
    (root / "a" / "self").symlink_to("self")
    (root / "a" / "loop").symlink_to(root / "a")
    (root / "a" / "up").symlink_to(root)  # must not make the images of b an a
    (root / "a" / "top").symlink_to("/")
    (root / "a" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (root / "b" / "deep").mkdir()
    (root / "b" / "deep" / "x.png").symlink_to(root / "b" / "000.png")
    data = load_folder(root)
    assert Counter(torch.cat([p.labels for p in (data.train, data.val, data.test)]).tolist()) == {0: 6, 1: 5}


# Pixels


def one(tmp_path: Path, name: str, image: Image.Image, extra: dict[str, Any] | None = None, **options: Any) -> Any:
    """An image as it comes back, (C, H, W)."""
    for folder in "ab":
        (tmp_path / folder).mkdir(exist_ok=True)
        for k in range(3):
            image.save(tmp_path / folder / f"{k}{name}", **(extra or {}))
    return load_folder(tmp_path, duplicates="allow", **options).train.images[0]


def noise(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".PNG", ".tiff", ".ppm"])
def test_colour_pixels_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    pixels = noise(12, 12, 3)
    found = one(tmp_path, suffix, Image.fromarray(pixels))
    assert torch.equal(found, torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".pgm"])
def test_grey_pixels_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    pixels = noise(8, 8)
    options: dict[str, Any] = {"channels": "grey"} if suffix == ".gif" else {}
    assert torch.equal(one(tmp_path, suffix, Image.fromarray(pixels), **options)[0], torch.from_numpy(pixels))


def test_webp_and_jpeg(tmp_path: Path) -> None:
    for suffix in (".webp", ".jpg"):
        (tmp_path / suffix).mkdir()
        found = one(tmp_path / suffix, suffix, Image.new("RGB", (16, 16), (200, 100, 50)))
        assert (found.int() - torch.tensor([200, 100, 50])[:, None, None]).abs().max() <= 4


@pytest.mark.parametrize("suffix", [".jfif", ".JFIF", ".avif"])
def test_other_endings(tmp_path: Path, suffix: str) -> None:
    if suffix == ".avif" and "avif" not in features.get_supported():
        pytest.skip("this Pillow has no AVIF")
    image = Image.new("RGB", (16, 16), (200, 100, 50))
    found = one(tmp_path, suffix, image, {"format": "avif" if suffix == ".avif" else "jpeg"})
    assert (found.int() - torch.tensor([200, 100, 50])[:, None, None]).abs().max() <= 4


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".jpg"])
def test_heic_as_phones_write_it(tmp_path: Path, suffix: str) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (64, 64), (200, 100, 50))
    for name in ("a/0", "a/1", "a/2", "b/0", "b/1", "b/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pillow_heif.from_pillow(image).save(f"{tmp_path / name}.heic", quality=90)
        Path(f"{tmp_path / name}.heic").rename(f"{tmp_path / name}{suffix}")
    found = load_folder(tmp_path, size=8, duplicates="allow").train.images[0]
    assert (found.int() - torch.tensor([200, 100, 50])[:, None, None]).abs().max() <= 6


def test_heic_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, a=4, b=4)
    (tmp_path / "a" / "x.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert "first a/x.heic: " in refused(tmp_path)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert 'first a/x.heic: a HEIC image, which needs pillow-heif; pip install "gankd[heic]"' in refused(tmp_path)


def test_an_unknown_format_is_counted_and_not_passed_over(tmp_path: Path) -> None:
    class_folders(tmp_path, a=4, b=4)
    (tmp_path / "a" / "x.avif").write_bytes(b"no pixels")
    assert "1 of 9 images cannot be read, first a/x.avif: not an image in a known format" in refused(tmp_path)


def test_sixteen_bits(tmp_path: Path) -> None:
    values = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    values[-1, -1] = 65535
    found = one(tmp_path, ".png", Image.fromarray(values))
    assert torch.equal(found[0], torch.from_numpy(np.rint(values / 257).astype(np.uint8)))


def test_black_and_white(tmp_path: Path) -> None:
    bits = noise(8, 8) > 127
    found = one(tmp_path, ".png", Image.fromarray(bits))
    assert torch.equal(found[0], 255 * torch.from_numpy(bits).byte())


@pytest.mark.parametrize("alpha", [0, 64, 255])
def test_alpha_shows_white(tmp_path: Path, alpha: int) -> None:
    found = one(tmp_path, ".png", Image.new("RGBA", (8, 8), (200, 100, 0, alpha)))
    expected = torch.tensor([c * alpha / 255 + 255 * (1 - alpha / 255) for c in (200, 100, 0)])
    assert found.shape == (3, 8, 8)
    assert (found[:, 0, 0] - expected).abs().max() <= 1
    grey = one(tmp_path, ".png", Image.new("LA", (8, 8), (100, alpha)))
    assert grey.shape == (1, 8, 8)
    assert abs(grey[0, 0, 0].item() - (100 * alpha / 255 + 255 - alpha)) <= 1


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([10, 20, 30, 250, 0, 5])
    image.putpixel((0, 0), 0)
    found = one(tmp_path, ".png", image, {"transparency": 0})
    assert found[:, 0, 0].tolist() == [255, 255, 255]
    assert found[:, 0, 1].tolist() == [250, 0, 5]


def test_cmyk(tmp_path: Path) -> None:
    found = one(tmp_path, ".tiff", Image.new("CMYK", (8, 8), (255, 0, 0, 0)))  # pure cyan
    assert found[:, 0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_exif_orientation(tmp_path: Path, orientation: int, turns: int) -> None:
    pixels = noise(8, 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = one(tmp_path, ".png", Image.fromarray(pixels), {"exif": exif})
    assert torch.equal(found[0], torch.from_numpy(np.rot90(pixels, turns).copy()))  # EXIF 6: turn clockwise


def test_size_takes_the_central_square(tmp_path: Path) -> None:
    pixels = np.zeros((12, 20), np.uint8)
    pixels[:, 4:16] = noise(12, 12)
    assert torch.equal(one(tmp_path, ".png", Image.fromarray(pixels), size=12)[0], torch.from_numpy(pixels[:, 4:16]))
    (tmp_path / "high").mkdir()
    found = one(tmp_path / "high", ".png", Image.fromarray(pixels.T), size=12)
    assert torch.equal(found[0], torch.from_numpy(pixels[:, 4:16].T.copy()))


def test_resizing_is_antialiased(tmp_path: Path) -> None:
    board = np.indices((64, 64)).sum(0) % 2 * 255  # without a filter a chessboard turns black or white
    found = one(tmp_path, ".png", Image.fromarray(board.astype(np.uint8)), size=8)
    assert (found.float() - 127.5).abs().max() <= 2


@pytest.mark.parametrize("size", [16, 128])
def test_large_jpegs_are_decoded_small_without_loss(tmp_path: Path, size: int) -> None:
    wave = 60 * np.sin(np.arange(640) * 2 * np.pi / 20)  # four pixels long at 128
    image = Image.fromarray((np.add.outer(wave, wave) + 127.5).astype(np.uint8))
    found = one(tmp_path, ".jpg", image, {"quality": 95}, size=size)
    expected = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    assert np.abs(found[0].numpy() - expected.astype(float)).max() <= 12


def test_channels_can_be_set(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "0.png", (255, 0, 0), mode="RGB")
    for name in ("a/1.png", "a/2.png", "b/0.png", "b/1.png", "b/2.png"):
        paint(tmp_path / name, 80)
    rgb = load_folder(tmp_path, channels="rgb")
    assert rgb.train.shape == (3, 8, 8)
    whole = torch.cat([part.images for part in (rgb.train, rgb.val, rgb.test)])
    assert sorted(map(tuple, whole[:, :, 0, 0].tolist())) == [(80, 80, 80)] * 5 + [(255, 0, 0)]
    assert load_folder(tmp_path, channels="grey").train.shape == (1, 8, 8)


# What is refused


def test_missing_path(tmp_path: Path) -> None:
    assert f"no folder {tmp_path}/none" in refused(tmp_path / "none")
    assert "\\n" in refused(tmp_path / "no\nne")


def test_path_is_a_file(tmp_path: Path) -> None:
    root = table(tmp_path, ["a.png,1"])
    assert "is a file" in refused(root / "a.png")
    assert "give the folder that holds it" in refused(root / "labels.csv")


def test_empty_folder(tmp_path: Path) -> None:
    assert "got no images" in refused(tmp_path)
    (tmp_path / "angles.csv").write_text("image,label\n")
    assert "if angles.csv holds the labels, call it labels.csv" in refused(tmp_path)


def test_images_without_labels(tmp_path: Path) -> None:
    paint(tmp_path / "x.png")
    assert "1 image without a class" in refused(tmp_path)
    class_folders(tmp_path, a=3, b=3)
    assert "next to the sub-folders" in refused(tmp_path)


def test_no_images_in_a_class_folder(tmp_path: Path) -> None:
    class_folders(tmp_path, a=3, b=3)
    (tmp_path / "c").mkdir()
    assert f"no images in class folder {tmp_path}/c" in refused(tmp_path)
    (tmp_path / "c" / "x.psd").touch()
    assert "1 other file, as x.psd" in refused(tmp_path)


def test_no_images_in_a_given_split(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", a=3, b=3)
    (tmp_path / "test").mkdir()
    assert f"{tmp_path}/test: " in refused(tmp_path)


def test_a_stray_folder_beside_splits(tmp_path: Path) -> None:
    for part in ("train", "test", "extra"):
        class_folders(tmp_path / part, a=3, b=3)
    assert "but extra is not" in refused(tmp_path)


def test_unreadable_images(tmp_path: Path) -> None:
    class_folders(tmp_path, a=4, b=6)
    (tmp_path / "a" / "001.png").write_text("not an image")
    assert "1 of 10 images cannot be read, first a/001.png: not an image in a known format" in refused(tmp_path)
    (tmp_path / "a" / "000.png").write_bytes(b"")
    (tmp_path / "a" / "002.png").unlink()
    (tmp_path / "a" / "002.png").symlink_to("nowhere.png")
    Image.fromarray(noise(64, 64)).save(tmp_path / "b" / "000.png")
    cut = (tmp_path / "b" / "000.png").read_bytes()[:1000]
    (tmp_path / "b" / "000.png").write_bytes(cut)  # header whole: shows when decoded
    assert "4 of 10 images cannot be read, first a/000.png: an empty file (0 bytes)" in refused(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_truncated_images(tmp_path: Path, suffix: str) -> None:
    for name in ("a/0", "a/1", "a/2", "b/0", "b/1", "b/2"):
        paint(tmp_path / (name + suffix), (1, 2, 3), mode="RGB")
    bad = tmp_path / f"b/1{suffix}"
    Image.fromarray(noise(8, 8, 3)).save(bad)
    bad.write_bytes(bad.read_bytes()[:-30])
    line = refused(tmp_path)
    assert f"1 of 6 images cannot be read, first b/1{suffix}: " in line
    assert line.endswith("; replace or remove it, or add --skip-broken")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_no_file_starts_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would hand an EPS to Ghostscript, whatever the file is called."""
    programs, mark = tmp_path / "bin", tmp_path / "started"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {mark}\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # looked up again
    pets = class_folders(tmp_path / "pets", a=3, b=3)
    (pets / "a" / "000.png").write_bytes(EPS)
    assert "a/000.png: not an image in a known format (PNG, JPEG, " in refused(pets)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".gif", ".tif", ".ppm"])
def test_a_format_goes_by_its_content(tmp_path: Path, suffix: str) -> None:
    for name in ("a/0", "a/1", "a/2", "b/0", "b/1", "b/2"):
        paint(tmp_path / (name + suffix), (1, 2, 3), mode="RGB")
        (tmp_path / (name + suffix)).rename(tmp_path / f"{name}.png")
    assert load_folder(tmp_path).train.shape == (3, 8, 8)


def test_pictures_with_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, a=3, b=3)
    paint(tmp_path / "b" / "000.png", size=(10_001, 10_000))  # Pillow only warns
    line = refused(tmp_path)
    assert "1 of 6 images cannot be read, first b/000.png: 10,001 x 10,000 pixels, expected at most 100,000,000" in line
    paint(tmp_path / "b" / "000.png", size=(9, 8))
    monkeypatch.setattr(files, "MAX_PIXELS", 72)
    load_folder(tmp_path, size=8)


def test_threads_share_a_budget_of_decoded_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image of 8 x 8 takes 768 bytes: two at a time fit into 2,000, and one into 100."""
    class_folders(tmp_path, a=12, b=12)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    lock, now, most = threading.Lock(), 0, 0
    plain = files.pixels_of

    def watched(*arguments: Any) -> Any:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1
        return plain(*arguments)

    monkeypatch.setattr(files, "pixels_of", watched)
    for budget, expected in ((2000, 2), (100, 1)):
        most = 0
        monkeypatch.setattr(files, "_decoded", files.Budget(budget))
        load_folder(tmp_path)
        assert most == expected


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_the_same_in_bands(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.fromarray(noise(21, 9, 4)).convert(mode)
    if mode == "P":
        picture.info["transparency"] = 3
    whole = picture.convert("RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    monkeypatch.setattr(files, "_BAND", 4)  # the last band is shorter
    assert np.array_equal(np.asarray(files.flatten(picture)), np.asarray(expected))


def test_a_budget_is_given_back_after_an_error() -> None:
    budget = files.Budget(10)
    with pytest.raises(ValueError, match="broken"), budget.hold(100):
        raise ValueError("broken")
    with budget.hold(10):
        assert budget.held == 10
    assert budget.held == 0


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["labels.csv", "train-images-idx3-ubyte.gz", "train.parquet"])
@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_pipes_and_devices_are_not_read_as_tables(tmp_path: Path, name: str, kind: str) -> None:
    if kind == "a pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    if name.endswith(".csv"):
        paint(tmp_path / "0.png")
        assert f"not a regular file but {kind}" in refused(tmp_path)
    elif name.endswith(".gz"):
        os.link(tmp_path / name, tmp_path / "train-labels-idx1-ubyte.gz", follow_symlinks=False)
        with pytest.raises(DataError, match=f"not a regular file but {kind}"):
            load_idx(tmp_path)
    else:
        pytest.importorskip("pyarrow")
        with pytest.raises(DataError, match=f"not a regular file but {kind}"):
            load_table(tmp_path)


@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    class_folders(tmp_path, a=3, b=3)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    assert "a/pipe.png: not a regular file" in refused(tmp_path)


def test_floating_point_pixels(tmp_path: Path) -> None:
    class_folders(tmp_path, a=3, b=3)
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "a" / "x.tiff")
    assert "a/x.tiff: floating-point pixels" in refused(tmp_path)


def test_mixed_sizes(tmp_path: Path) -> None:
    class_folders(tmp_path, a=3, b=3)
    paint(tmp_path / "b" / "wide.png", size=(40, 36))
    line = refused(tmp_path)
    assert "a/000.png of 8x8 and b/wide.png of 40x36 pixels; add --size 8" in line
    assert load_folder(tmp_path, size=8).train.shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("size", "remedy"),
    [((40, 36), "--size 32"), ((30, 30), "--size 32"), ((400, 400), "--size 256"), ((4, 4), "--size 8")],
)
def test_unusable_sizes(tmp_path: Path, size: tuple[int, int], remedy: str) -> None:
    for name in ("a/0.png", "b/0.png"):
        for k in range(3):
            paint(tmp_path / name.replace("0", str(k)), size=size)
    assert remedy in refused(tmp_path)


def test_mixed_channels(tmp_path: Path) -> None:
    class_folders(tmp_path, a=3, b=3)
    paint(tmp_path / "b" / "red.png", (255, 0, 0), mode="RGB")
    line = refused(tmp_path)
    assert "a/000.png in grey and b/red.png in colour (6 and 1 images)" in line
    assert "--channels rgb" in line


@pytest.mark.parametrize(
    "options",
    [
        {"size": 30},
        {"size": 4},
        {"size": 260},
        {"size": -8},
        {"size": 0},
        {"task": "classify"},
        {"channels": "gray"},
        {"low": 1.0, "high": 1.0},
        {"low": float("nan")},
        {"high": float("inf")},
        {"low": 0.0},  # these are classes
    ],
)
def test_absurd_settings(tmp_path: Path, options: dict[str, Any]) -> None:
    refused(class_folders(tmp_path, a=3, b=3), ConfigError, **options)


@pytest.mark.parametrize(("count", "more"), [(1, "got 1;"), (2, "got 2;")])
def test_a_class_with_too_few_images(tmp_path: Path, count: int, more: str) -> None:
    line = refused(class_folders(tmp_path, cats=count, dogs=9))
    assert "at least 3 images of class cats" in line
    assert more in line


def test_classes_of_given_splits_need_training_images(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", a=1, b=1)
    class_folders(tmp_path / "val", a=1)
    class_folders(tmp_path / "test", b=1)
    assert len(load_folder(tmp_path).train) == 2
    class_folders(tmp_path / "test", c=1)
    line = refused(tmp_path)
    assert "no image of c there" in line
    assert "test/c/000.png" in line


def test_only_one_class(tmp_path: Path) -> None:
    class_folders(tmp_path, images=5)
    assert "got only images; add images of another class" in refused(tmp_path)
    (tmp_path / "data.csv").touch()
    assert "if data.csv holds the labels, call it labels.csv" in refused(tmp_path)
    assert "got only x" in refused(table(tmp_path / "t", [f"{k}.png,x" for k in range(5)]))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("image,label\n", "no rows"),
        ("image,lable\na.png,1\n", "lable: did you mean label"),
        ("imgae,label\na.png,1\n", "imgae: did you mean image"),
        ("a,b\na.png,1\n", "expected a column image (or file, filename, path), got a, b"),
        ("a.png,3\nb.png,4\n", "the first line is an image already"),
        ("image,label,label\na.png,1,2\n", "expected one column label, got 2"),
        ("image,label\na.png\n", "line 2: expected 2 cells"),
        ("image,label\na.png,3,5\n", "line 2: expected 2 cells"),
        ("image,label\n,3\n", "line 2: expected the name of an image"),
        ("image,label\n.,3\n", "line 2: expected the name of an image"),
        ("image,label\na.png,1\n\nb.png,2\na.png,1\n", "line 5: a.png has a label already, in line 2"),
        ("image,label\na.png,1\n./x/../a.png,1\n", "line 3: a.png has a label already"),
        ("image,label\na.png,1\nc.png,2\nd.png,2\n", "line 3: no image file c.png"),
        ("image,label\na.png,1\nc.png,2\nd.png,2\n", "(and 1 more rows without a file)"),
        ("image,label\na,1\n", "write a.png"),
        ("image,label\nin.png,1\n", "write sub/in.png"),
        ("image,label\na.png,\n", "line 2: no label for a.png"),
        ("image,label\na.png,cat\nb.png,NaN\n", "line 3: no label for b.png"),
        (
            "image,label\na.png,1.5\nb.png,two\nsub/in.png,3\n",
            "line 3: expected a number as label, got 'two'",
        ),
        ('image,label\na.png,1.5\nb.png,"2,5"\nsub/in.png,3\n', "write a decimal point"),
        ("image;label\na.png;1,5\nb.png;2,5\nsub/in.png;3,0\n", "write a decimal point"),
        ("image,label\na.png,1.5\nb.png,-inf\n", "line 3: expected a finite label"),
        ("image,label\na.png,1.5\nb.png,1e40\n", "line 3: expected a finite label"),
        ("image,label\na.png,2.5\nb.png,2.5\n", "got 2.5 for all of 2 images"),
        ("image,label,split\na.png,2.5,train\nb.png,3.5,tset\n", "line 3: split must be"),
        ("image,label,split\na.png,2.5,train\nb.png,3.5,\n", "line 3: no split"),
        ("image,label,split\na.png,2.5,val\nb.png,3.5,test\n", "expected images in the split train"),
        ("image,label\na.png,2.5\nb.png,3.5\n", "at least 3 images to share"),
        (
            "image,label,split\na.png,1.5,train\nb.png,2.5,test\nsub/in.png,3.5,val\n",
            "different labels in train",
        ),
        ("image,label\n../out.png,1\n", "line 2: ../out.png is outside the folder"),
        ("image,label\nsub/../../out.png,1\n", "is outside the folder"),
        ("image,label\n..\\out.png,1\n", "is outside the folder"),
        ("image,label\n/etc/passwd,1\n", "is outside the folder"),
        ("image,label\nlink/../out.png,1\n", "no image file out.png"),  # by text, not by way of the link
        ("image,label\na\0.png,1\n", "no image file"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, part: str) -> None:
    root = tmp_path / "root"
    for name in ("a.png", "b.png", "sub/in.png", "../out.png", "../far/x.png"):
        paint(root / name)
    (root / "link").symlink_to(tmp_path / "far")
    (root / "labels.csv").write_text(text)
    line = refused(root)
    assert part in line
    assert str(root) in line


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        (b"image,label\na.png,1\nb.png,caf\xe9\n", "line 3: expected UTF-8, got byte 0xe9"),
        ("image,label\n".encode("utf-16"), "line 1: expected UTF-8, got byte 0xff"),
        (b"image,label\na.png," + b"x" * 200_000, "field larger than field limit"),
    ],
)
def test_tables_that_are_no_csv(tmp_path: Path, raw: bytes, part: str) -> None:
    (tmp_path / "labels.csv").write_bytes(raw)
    assert part in refused(tmp_path)


def test_table_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").mkdir()
    assert "cannot read" in refused(tmp_path)


def test_text_labels_that_should_be_numbers(tmp_path: Path) -> None:
    root = numbers(tmp_path, ["cat", "dog"] * 3)
    assert "line 2: expected a number as label, got 'cat'" in refused(root, task="regression")


def test_threads_keep_the_order_and_take_files_as_they_come() -> None:
    taken, most = [0], [0]

    def arguments() -> Iterator[int]:
        for number in range(5000):
            taken[0] += 1
            yield number

    def read(number: int) -> int:
        most[0] = max(most[0], taken[0] - number)
        if number % 7 == 0:
            raise ValueError(f"bad {number}")
        return number

    found = files.in_threads(read, arguments())
    assert found == [f"bad {number}" if number % 7 == 0 else number for number in range(5000)]
    assert most[0] < 3000  # 16 threads with 16 files each, and four times as many waiting
