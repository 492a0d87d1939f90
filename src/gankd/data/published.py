"""Parts shared by the readers of published data sets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gankd.data.arrays import arrange_arrays
from gankd.data.files import Files, decode_into, list_folder
from gankd.data.h5 import open_h5
from gankd.data.images import LabelledImages
from gankd.data.own import VALIDATION_SHARES, Choices, Item, draw_split, shown
from gankd.data.store import arrange, source_key
from gankd.errors import DataError
from gankd.regular import require_regular
from gankd.tasks import Classification, Task

Parts = tuple[LabelledImages, LabelledImages, LabelledImages]
"""Train, validation and test."""
UNUSED = "unused"
"""Split of images in the file that belong to none."""


def side_of(size: int | None, published: int) -> int:
    """Chosen side, or else the published one.

    Raises:
        ConfigError: it is not a multiple of 4 from 8 to 256.
    """
    Choices(size=size)
    return size or published


def require_folder(path: Path, expected: str) -> None:
    """Raise DataError unless `path` is a folder."""
    if not path.is_dir():
        got = "it is a file" if path.exists() else "there is nothing"
        raise DataError(f"{shown(path)}: expected {expected}, but {got}; check the path (unpack archives first)")


def subfolder(root: Path, name: str, expected: str) -> Path:
    """A folder that must be there.

    Raises:
        DataError: it is not.
    """
    if not (root / name).is_dir():
        found = ", ".join(shown(entry.name) for entry in list_folder(root)[:8]) or "nothing"
        raise DataError(f"{shown(root)}: expected {expected}, got {found}; check the path, or fetch the set again")
    return root / name


def draw_splits(
    path: Path,
    labels: Tensor,
    task: Task,
    parts: Sequence[str | None],
    seed: int,
    shares: Mapping[str, int] = VALIDATION_SHARES,
) -> tuple[dict[str, Tensor], str]:
    """Ascending positions of train, val and test, and their origin in words: `draw_split` for images without a file.

    Args:
        path: path of the set, for error messages.
        labels: (N,) labels that stratify the drawn splits.
        task: task of these labels.
        parts: split of each image: train, val, test or UNUSED; if no image has val or test, it is drawn from train.
        seed: seed of the draw.
        shares: weights of the drawn splits.

    Raises:
        DataError: too few images.
    """
    used = [row for row, part in enumerate(parts) if part != UNUSED]
    items = [Item(f"image {row:09d}", path, "", shown(path), parts[row]) for row in used]
    index, how = draw_split(path, items, labels[used], task, seed, shares)
    places = torch.tensor(used)
    return {part: places[rows] for part, rows in index.items()}, how


def decode_splits(
    root: Path,
    paths: Sequence[Path],
    labels: Tensor,
    task: Task,
    index: Mapping[str, Tensor],
    side: int,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> Parts:
    """Train, val and test, RGB, from image files; files without a split are not opened.

    Raises:
        DataError: files that cannot be read.
    """
    pictures = Files(paths)
    items = [Item(path.relative_to(root).as_posix(), path, "", "", None) for path in paths]
    return arrange(
        labels,
        task,
        index,
        (3, side, side),
        lambda: source_key(paths, side, resample.name),
        lambda target, row: decode_into(target, row, root, items, pictures, resample),
    )


def read_h5_classes(
    path: Path, train: tuple[str, str], test: tuple[str, str], num_classes: int, side: int, seed: int
) -> tuple[Parts, str]:
    """Train, val and test, RGB, of a file that separates training and test images; and the origin of val in words.

    Args:
        path: the file.
        train: names of the arrays of images and of class numbers.
        test: names of those of the test split.
        num_classes: class numbers are below this.
        side: height and width to resample to.
        seed: draws the validation split.

    Raises:
        DataError: an array is missing, damaged, or of another set.
    """
    with open_h5(path) as file:
        sets = [file.images(images) for images, _ in (train, test)]
        labels = [
            file.classes(name, len(images), num_classes) for images, (_, name) in zip(sets, (train, test), strict=True)
        ]
        classes = torch.from_numpy(np.concatenate(labels))
        task = Classification(num_classes=num_classes)
        parts = ["train"] * len(sets[0]) + ["test"] * len(sets[1])
        index, split = draw_splits(path, classes, task, parts, seed)
        return arrange_arrays(path, sets, classes, task, index, side, "rgb"), split


def read_lines(path: Path) -> list[list[str]]:
    """Words of each line that is not empty.

    Raises:
        DataError: the file is missing or is not text.
    """
    try:
        require_regular(path)
        lines = [line.split() for line in path.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise DataError(f"{shown(path)}: expected text, got something else; fetch the set again") from None
    except OSError as error:
        raise DataError(f"cannot read {shown(path)}: {error.strerror}; fetch the set again") from None
    found = [line for line in lines if line]
    if not found:
        raise DataError(f"{shown(path)} is empty; fetch the set again")
    return found
