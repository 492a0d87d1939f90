"""Tiny-ImageNet-200: the official folder, or the authors' h5."""

from pathlib import Path

import torch

from gankd.data.files import is_image, list_folder
from gankd.data.h5 import is_h5
from gankd.data.images import Splits
from gankd.data.own import and_more, shown
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
from gankd.tasks import Classification

SIDE = 64
NUM_CLASSES = 200
EXPECTED = "the folder tiny-imagenet-200 (with wnids.txt, words.txt, train and val), or tiny-imagenet-200.h5"
LICENCE = "none stated; that of ImageNet: non-commercial research"


def load_tiny_imagenet(path: str | Path, *, size: int | None = None, seed: int = 0) -> Splits:
    """`tiny-imagenet`: 200 classes, 64x64 RGB, 500 training images each; the 10,000 official validation images test.

    Folder: `wnids.txt` with an id per line, `words.txt` with ids and names, `train/ID/images/*.JPEG`, `val/images/*`
    and `val/val_annotations.txt` with a file and an id per line. Grey images are read as RGB. The unlabelled `test` is
    not read. The authors' h5: imgs, labels, imgs_val, labels_val; they left out the grey images, which makes 98,179.
    Classes are numbered by id, in alphabetical order. One image in ten of each class is drawn from train to validate.

    Args:
        path: the folder or file.
        size: resample to this height and width, a multiple of 4 from 8 to 256.
        seed: draws the validation split.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a file is missing, damaged, or of another set.
    """
    path, side = Path(path), side_of(size, SIDE)
    if is_h5(path):
        parts, split = read_h5_classes(path, ("imgs", "labels"), ("imgs_val", "labels_val"), NUM_CLASSES, side, seed)
    else:
        parts, split = _read_folder(path, side, seed)
    card = {
        "origin": f"Tiny-ImageNet-200: {sum(map(len, parts)):,} images",
        "licence": LICENCE,
        "split": f"{split}; test is the official validation split",
    }
    return Splits(*parts, "tiny-imagenet", card)


def _read_folder(root: Path, side: int, seed: int) -> tuple[Parts, str]:
    require_folder(root, EXPECTED)
    if not (root / "wnids.txt").is_file() and (root / "tiny-imagenet-200").is_dir():
        root = root / "tiny-imagenet-200"
    train, val = subfolder(root, "train", EXPECTED), subfolder(root, "val", EXPECTED)
    ids = sorted(line[0] for line in read_lines(root / "wnids.txt"))
    number = {wnid: index for index, wnid in enumerate(ids)}
    paths, labels = list[Path](), list[int]()
    for wnid in ids:
        folder = subfolder(
            subfolder(train, wnid, f"a folder {wnid}, which wnids.txt lists"), "images", "a folder images"
        )
        found = [Path(entry.path) for entry in list_folder(folder) if is_image(entry.name)]
        paths += found
        labels += [number[wnid]] * len(found)
    num_train = len(paths)
    annotations = val / "val_annotations.txt"
    for row, line in enumerate(read_lines(annotations), start=1):
        if len(line) < 2 or line[1] not in number:
            raise DataError(
                f"{shown(annotations)} line {row}: expected a file and an id of wnids.txt, got "
                f"{shown(' '.join(line[:2]))}; fetch the set again"
            )
        paths.append(val / "images" / Path(line[0]).name)
        labels.append(number[line[1]])
    missing = [path for path in paths[num_train:] if not path.is_file()]
    if missing:
        raise DataError(
            f"{shown(annotations)}: no image {shown(missing[0].name)} in {shown(val / 'images')}"
            f"{and_more(len(missing) - 1, 'images')}; fetch the set again"
        )
    task = Classification(num_classes=len(ids), class_names=_names(root, ids))
    classes = torch.tensor(labels)
    parts = ["train"] * num_train + ["test"] * (len(paths) - num_train)
    index, split = draw_splits(root, classes, task, parts, seed)
    return decode_splits(root, paths, classes, task, index, side), split


def _names(root: Path, ids: list[str]) -> tuple[str, ...]:
    """Names of classes: the first word of an id, or the id itself where that is not unique."""
    words = {line[0]: " ".join(line[1:]).split(",")[0] for line in read_lines(root / "words.txt")}
    names = [words.get(wnid, wnid) for wnid in ids]
    return tuple(shown(name if names.count(name) == 1 else wnid) for name, wnid in zip(names, ids, strict=True))
