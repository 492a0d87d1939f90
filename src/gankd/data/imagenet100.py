"""ImageNet-100: a list of 100 classes over an ImageNet folder, or the authors' h5."""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gankd.data.files import is_image, list_folder
from gankd.data.h5 import is_h5
from gankd.data.images import Splits
from gankd.data.own import counted, shown
from gankd.data.published import (
    Parts,
    decode_splits,
    draw_splits,
    read_h5_classes,
    read_lines,
    require_folder,
    side_of,
    subfolder,
)
from gankd.errors import DataError
from gankd.seeds import rng
from gankd.tasks import Classification

SIDE = 128
NUM_CLASSES = 100
HELD_OUT = 10_000
"""Number of test images if there is no folder val (Ding et al. 2023)."""
LISTS = ("imagenet100.txt", "classes.txt")
LICENCE = "ImageNet: non-commercial research and education"
EXPECTED = "a folder with train/ID/*.JPEG, as of ImageNet, or ImageNet_128x128_100Class.h5"


def load_imagenet100(
    path: str | Path, *, size: int | None = None, class_list: str | Path | None = None, seed: int = 0
) -> Splits:
    """`imagenet100`: 100 classes of ImageNet, 128x128 RGB.

    Folder: `train/ID/*.JPEG`, and `val/ID/*.JPEG`, which tests. Where there is no `val`, 10,000 images of train test
    (at most one in five), as the authors did, drawn by `seed`. One in ten of what train has left validates. The list
    has an id such as n02106662 first in each line; its order numbers the classes, and what else a line says is the
    class's name. Pixels: the central square, resampled bilinear and antialiased. The authors' h5: images_train,
    labels_train, images_valid, labels_valid; valid tests.

    Args:
        path: the folder or file.
        size: height and width instead of 128, a multiple of 4 from 8 to 256.
        class_list: file with the ids; default: imagenet100.txt or classes.txt in the folder, or the class folders of
            train if there are 100.
        seed: draws the splits that are not given.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a file or class is missing, damaged, or of another set.
    """
    path, side = Path(path), side_of(size, SIDE)
    if is_h5(path):
        train, test = ("images_train", "labels_train"), ("images_valid", "labels_valid")
        parts, split = read_h5_classes(path, train, test, NUM_CLASSES, side, seed)
    else:
        parts, split = _read_folder(path, side, None if class_list is None else Path(class_list), seed)
    card = {
        "origin": f"ImageNet-100: {sum(map(len, parts)):,} images",
        "licence": LICENCE,
        "split": split,
    }
    return Splits(*parts, "imagenet100", card)


def _read_folder(root: Path, side: int, class_list: Path | None, seed: int) -> tuple[Parts, str]:
    require_folder(root, EXPECTED)
    train = subfolder(root, "train", EXPECTED)
    names = _classes(root, train, class_list)
    found = [_images(train, wnid) for wnid in names]
    tests = [_images(root / "val", wnid) for wnid in names] if (root / "val").is_dir() else []
    paths = [path for images in (*found, *tests) for path in images]
    labels = torch.tensor([label for part in (found, tests) for label, images in enumerate(part) for _ in images])
    num_train = sum(map(len, found))
    parts = np.array(["train"] * num_train + ["test"] * (len(paths) - num_train), object)
    note = "test is the official validation split"
    if not tests:
        held_out = min(HELD_OUT, num_train // 5)
        parts[torch.randperm(num_train, generator=rng(seed, "imagenet100", "test"))[:held_out].numpy()] = "test"
        note = f"test: {held_out:,} images of train, seed {seed}"
    task = Classification(num_classes=len(names), class_names=tuple(names.values()))
    index, split = draw_splits(root, labels, task, parts.tolist(), seed)
    images = decode_splits(root, paths, labels, task, index, side, Image.Resampling.BILINEAR)
    return images, f"{split}; {note}"


def _classes(root: Path, train: Path, class_list: Path | None) -> dict[str, str]:
    """Ids in their order, with their names."""
    file = class_list or next((root / name for name in LISTS if (root / name).is_file()), None)
    if file is None:
        folders = [entry.name for entry in list_folder(train) if entry.is_dir()]
        if len(folders) != NUM_CLASSES:
            raise DataError(
                f"{shown(train)}: expected {NUM_CLASSES} class folders, or a list of {NUM_CLASSES} ids in "
                f"{shown(root / LISTS[0])}, got {counted(len(folders), 'folder')}; write the list, an id per line, or "
                "data.class_list=FILE"
            )
        return {name: shown(name) for name in folders}
    names: dict[str, str] = {}
    for row, words in enumerate(read_lines(file), start=1):
        wnid, *rest = re.split(r"[\s,;]+", " ".join(words), maxsplit=1)
        if not re.fullmatch(r"n\d{8}", wnid):
            raise DataError(
                f"{shown(file)} line {row}: expected an id such as n02106662, got {shown(wnid)}; correct it"
            )
        if wnid in names:
            raise DataError(f"{shown(file)} line {row}: {wnid} is there already; expected each id once; remove it")
        names[wnid] = shown(rest[0]) if rest and rest[0] else wnid
    if len(names) != NUM_CLASSES:
        raise DataError(f"{shown(file)}: expected {NUM_CLASSES} ids, got {len(names)}; complete the list")
    return names


def _images(folder: Path, wnid: str) -> list[Path]:
    if not (folder / wnid).is_dir():
        loose = any(is_image(entry.name) for entry in list_folder(folder))
        remedy = "sort its images into class folders" if loose else "unpack that class"
        raise DataError(f"{shown(folder)}: expected a folder {wnid}, as the list of classes has it; {remedy}")
    found = [Path(entry.path) for entry in list_folder(folder / wnid) if is_image(entry.name)]
    if not found:
        raise DataError(f"{shown(folder / wnid)}: expected images, got none; unpack that class")
    return found
