"""Inspect a data set before training: its format, its labels and its faults."""

import hashlib
import itertools
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.data.files import in_threads, is_image, list_folder, probe, walk
from gankd.data.idx import is_idx
from gankd.data.images import LabelledImages, Splits
from gankd.data.own import SHARES, nearest_size, shown, size_fits
from gankd.data.sets import DATA_SETS
from gankd.data.table import TABLE, holds_paths, read_table
from gankd.errors import DataError
from gankd.sizes import sides

BINS = 10
"""Bars of the histogram of values."""
COLUMNS, MOST_ROWS = 12, 10
"""Size of the contact sheet."""
BLOCK = 2048
"""Images hashed at once."""

FACE = re.compile(r"\d{1,3}_[01]_\d_\d+.*", re.ASCII)
"""UTKFace: age_gender_race_date."""
SYNSET = re.compile(r"n\d{8}", re.ASCII)
"""A class of ImageNet."""


# Formats


@dataclass(frozen=True)
class Found:
    """A recognised data set."""

    name: str
    """Name for `data.name`."""
    path: Path | None
    """Path that its reader takes; None for an embedded set."""
    what: str
    """Format in words."""


def detect(path: Path) -> Found:
    """Recognise the format by names of files and folders.

    Raises:
        DataError: the path is missing, or its format is not known.
    """
    found = _file(path) if path.is_file() else _folder(path) if path.is_dir() else None
    if found is None:
        there = "got something else; name the set by --name" if path.exists() else "but there is nothing; check it"
        entries = list_folder(path) if path.is_dir() else []
        if path.is_dir() and not entries:
            there = "but the folder is empty"
        elif any(is_image(entry.name) for entry in entries):
            there = f"got images without labels; sort them into a folder per class, or add {TABLE}"
        elif entries and all(entry.is_dir() for entry in entries):
            there = "got folders without images"
        elif path.is_file() and path.stat().st_size == 0:
            there = "but the file is empty"
        raise DataError(
            f"{shown(path)}: expected class folders, {TABLE}, .csv, .parquet, .tar, .npz, .h5, IDX files, or a "
            f"published set, {there}"
        )
    return found


def _file(path: Path) -> Found | None:
    if is_idx(path.name):
        return Found("idx", path.parent, "IDX files")
    for name, known in DATA_SETS.items():
        for marker, what in known.markers:
            if path.name == marker:
                return Found(name, path.parent, what)
    for name, known in DATA_SETS.items():
        for pattern, what in known.files:
            if re.fullmatch(pattern, path.name, re.IGNORECASE):
                return Found(name, path, what)
    return None


def _folder(path: Path, deep: bool = True) -> Found | None:
    entries = list_folder(path)
    names = {entry.name for entry in entries}
    for name, known_set in DATA_SETS.items():
        for marker, what in known_set.markers:
            if marker in names:
                return Found(name, path, what)
    # The rest is recognised by more than the name of one entry.
    files = [path / entry.name for entry in entries if entry.is_file()]
    folders = [path / entry.name for entry in entries if entry.is_dir()]
    if any(is_idx(file.name) for file in files):
        return Found("idx", path, "IDX files")
    if any(file.suffix.lower() == ".parquet" for file in files) or any((path / "data").glob("*.parquet")):
        return Found("table", path, "Parquet tables")
    if any(file.suffix.lower() == ".tar" for file in files):
        return Found("webdataset", path, "WebDataset shards")
    known = [found for found in map(_file, files) if found]
    if len(known) == 1:
        return known[0]
    pictures = [file.name for file in files if is_image(file.name)]
    if pictures and 2 * sum(map(bool, map(FACE.fullmatch, pictures))) > len(pictures):
        return Found("utkface", path, "faces named age_gender_race_date, as in UTKFace")
    classes = [path / "train"] if path / "train" in folders else [path]
    synsets = sum(SYNSET.fullmatch(entry.name) is not None for folder in classes for entry in list_folder(folder))
    if synsets >= 900 or (synsets >= 100 and "classes.txt" in names):
        return Found("imagenet100", path, "class folders of ImageNet")
    if deep and len(folders) == 1 and not known:
        inside = _folder(folders[0], deep=False)
        if inside is not None and inside.name != "folder":
            return inside
    if any(is_image(entry.name) or entry.is_dir() for folder in folders for entry in list_folder(folder)):
        return Found("folder", path, "class folders")
    return None


# Files


@dataclass(frozen=True)
class Scan:
    """Sizes, colours and faults of the image files of a set."""

    sizes: dict[tuple[int, int], int]
    """(width, height) to the number of files."""
    grey: int
    """Number of greyscale files."""
    unreadable: list[tuple[Path, str]]
    """Files that cannot be decoded, with the reason."""

    @property
    def count(self) -> int:
        """Number of all files."""
        return sum(self.sizes.values()) + len(self.unreadable)

    @property
    def side(self) -> int | None:
        """Recommended side to resize to; None if images can stay as they are."""
        if not self.sizes or (len(self.sizes) == 1 and all(w == h and size_fits(w) for w, h in self.sizes)):
            return None
        return min(32, sides(nearest_size(min(map(min, self.sizes))))[0])

    @property
    def mixed(self) -> bool:
        """True if some files are grey and others are not."""
        return 0 < self.grey < sum(self.sizes.values())


def scan(found: Found, label: tuple[str, ...] = ()) -> Scan | None:
    """Decode every image file once; None for a format without image files.

    Args:
        found: the data set.
        label: columns of the label, see `Choices`.

    Raises:
        DataError: a table cannot be used.
    """
    assert found.path is not None
    pictures = DATA_SETS[found.name].pictures
    if pictures == "in table" and found.path.is_file() and holds_paths(found.path):
        paths = [item.path for item in read_table(found.path, label)]
    elif pictures == "in folder" and found.path.is_dir():
        paths = sorted(walk(found.path)[0])
    else:
        return None
    outcomes = in_threads(probe, paths, "read images", len(paths))
    read = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    bad = [(path, outcome) for path, outcome in zip(paths, outcomes, strict=True) if isinstance(outcome, str)]
    return Scan(Counter((width, height) for width, height, _ in read), sum(grey for *_, grey in read), bad)


# Labels


def histogram(splits: Splits) -> list[tuple[str, dict[str, int]]]:
    """(class, or range of values; images in each split)."""
    counts = {part: splits.task.histogram(data.labels, BINS) for part, data in _parts(splits).items()}
    names = [name for name, _ in counts["train"]]
    return [(name, {part: found[row][1] for part, found in counts.items()}) for row, name in enumerate(names)]


def _parts(splits: Splits) -> dict[str, LabelledImages]:
    return dict(zip(SHARES, (splits.train, splits.val, splits.test), strict=True))


# Duplicates


@dataclass(frozen=True)
class Shared:
    """Images of one split that are also in another, or more than once in the same."""

    first: str
    second: str
    same: int
    """Number of images of `first` whose pixels are in `second`."""
    relabelled: int
    """Number of these that have another label there."""
    alike: int
    """Number of further images of `first` with the average and difference hash of one in `second`; 0 within a split."""


def duplicates(splits: Splits) -> list[Shared]:
    """Find repeated images: pixel for pixel, and across splits also by their coarse hash."""
    parts = _parts(splits)
    exact = {part: _digests(data.images) for part, data in parts.items()}
    coarse = {part: _coarse(data.images) for part, data in parts.items()}
    labels = {part: data.labels.tolist() for part, data in parts.items()}
    found = []
    for second, first in itertools.combinations(SHARES, 2):
        label_of = dict(zip(exact[second], labels[second], strict=True))
        own = [
            (label_of[key], label) for key, label in zip(exact[first], labels[first], strict=True) if key in label_of
        ]
        known = set(coarse[second])
        alike = sum(
            close in known and key not in label_of for key, close in zip(exact[first], coarse[first], strict=True)
        )
        found.append(Shared(first, second, len(own), sum(there != here for there, here in own), alike))
    for part, keys in exact.items():
        label_of = dict(zip(keys, labels[part], strict=True))
        other = sum(label_of[key] != label for key, label in zip(keys, labels[part], strict=True))
        found.append(Shared(part, part, len(keys) - len(label_of), other, 0))
    return [each for each in found if each.same or each.alike]


def _digests(images: Tensor) -> list[bytes]:
    return [hashlib.blake2b(image.data, digest_size=16).digest() for image in images.cpu().contiguous().numpy()]


def _coarse(images: Tensor) -> list[bytes]:
    """128 bits per image, in grey: which of 8x8 cells are above their mean, and which of 8x9 cells are brighter than
    their right neighbour.
    """
    found: list[bytes] = []
    for block in images.split(BLOCK):
        grey = block.float().mean(1, keepdim=True)
        cells, wide = F.adaptive_avg_pool2d(grey, (8, 8)).flatten(1), F.adaptive_avg_pool2d(grey, (8, 9))[:, 0]
        bits = torch.cat([cells > cells.mean(1, keepdim=True), (wide[..., :-1] > wide[..., 1:]).flatten(1)], 1)
        found += [row.tobytes() for row in np.packbits(bits.cpu().numpy(), axis=1)]
    return found


# Contact sheet


def contact_images(data: LabelledImages) -> tuple[Tensor, int]:
    """Images from the lowest to the highest label, evenly spaced, and the number of images in a row.

    With few classes each has a row of its own, if all are equally frequent.
    """
    rows = min(data.task.num_groups, MOST_ROWS)
    # Several values have no order of their own: box by box.
    order = (data.task.groups(data.labels) if data.task.label_shape else data.labels).cpu().argsort(stable=True)
    count = min(rows * COLUMNS, len(data))
    places = ((torch.arange(count) + 0.5) * len(data) / count).long()
    return data.images[order[places]], COLUMNS
