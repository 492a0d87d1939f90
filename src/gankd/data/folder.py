"""The user's own folder of images: found, labelled, checked, split, and decoded to square uint8 tensors."""

import csv
import io
import math
import os
import re
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from gankd.config import require, suggest
from gankd.data.images import LabelledImages, Splits
from gankd.errors import DataError
from gankd.seeds import rng
from gankd.tasks import Classification, Regression, Task

TaskChoice = Literal["auto", "classification", "regression"]
ChannelChoice = Literal["auto", "grey", "rgb"]

TABLE = "labels.csv"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
IMAGE_COLUMNS = ("image", "file", "filename", "path")
LABEL_COLUMNS = ("label", "class", "target", "value", "angle", "age")
SPLIT_COLUMN = "split"
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SHARES = {"train": 7, "val": 1, "test": 2}
"""Weights of the splits that are drawn."""
SMALLEST_SIZE, LARGEST_SIZE = 8, 128
MOST_INTEGER_CLASSES = 20
"""Integer labels with more different values than this are numbers to regress, not names of classes."""

_JUNK = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information"}
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf|infinity)", re.ASCII | re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?\d{1,15}", re.ASCII)
_LARGEST_LABEL = 1e30  # differences and their normalisation must stay within float32

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class _Item:
    """One image file, before it is opened."""

    key: str
    """Path below the folder with forward slashes: the same on every machine, so the split is too."""
    path: Path
    label: str
    where: str
    """Where the label stands, for error messages."""
    part: str | None
    """The split that the user chose, if any."""


def load_folder(
    root: str | Path,
    *,
    task: TaskChoice = "auto",
    size: int | None = None,
    channels: ChannelChoice = "auto",
    low: float | None = None,
    high: float | None = None,
    seed: int = 0,
) -> Splits:
    """Read a folder of images with labels, in one of three layouts.

    1. `root/labels.csv` (UTF-8; comma, semicolon or tab): a header, then one row per image. Column `image`
       (or `file`, `filename`, `path`) is the path below `root`; the column `label` (or `class`, `target`,
       `value`, `angle`, `age`; the first of these that is there) the label; a column `split` (train, val,
       test) is optional. Images without a row are not used. Where there is a table, sub-folders mean nothing.
    2. `root/train/CLASS/*`, `root/val/CLASS/*`, `root/test/CLASS/*`.
    3. `root/CLASS/*`, deeper sub-folders included. Classes are sorted by name, by value if all are integers.

    Task: class folders and text labels are classes. Numbers are regressed, unless all are written as
    integers, at most 20 of them differ and each has 3 images on average: then they name classes. `task`
    overrides both; class folders named by numbers can be regressed too. The range of a regression runs from
    the least to the greatest label of all splits, unless `low` or `high` is given.

    Splits: what the user has split stays. A missing val or test is drawn from train, train : val : test =
    7 : 1 : 2, in each class or in each run of about ten neighbouring labels, at least one image each. The
    draw depends on `seed`, paths below `root` and labels alone. Images that belong together (a person, a
    video) need the user's own split.

    Pixels: first frame, turned as EXIF says, transparency on white, CMYK and palettes to RGB, 16 bits to 8 by
    65535 -> 255. `size=None` takes square images of one size as they are; with `size` the central square is
    resampled, bicubic and antialiased. `channels="auto"` goes by how the files store them: all grey or all
    colour.

    Args:
        root: the folder.
        task: what the labels are.
        size: height and width in pixels, a multiple of 4 from 8 to 128.
        channels: "grey" for one channel, "rgb" for three.
        low: lower end of the label range in user units; regression only.
        high: upper end.
        seed: draws the split.

    Returns:
        uint8 images (N, C, size, size), each split sorted by path. The card holds origin, licence, split and
        how the labels were read.

    Raises:
        ConfigError: a setting is out of range.
        DataError: the folder, the table, a label or an image cannot be used.
    """
    root = Path(root)
    _check_settings(task, size, channels, low, high)
    _check_root(root)
    tabular = os.path.lexists(root / TABLE)
    items, passed_over = (_read_table(root), "") if tabular else _read_class_folders(root)
    items.sort(key=lambda item: item.key)

    kind, why = _choose_task(items, task, tabular)
    if kind == "regression":
        labels, found_task = _values(root, items, low, high)
    else:
        require(
            low is None and high is None,
            f"low and high are for regression, but {_show(root)} has classes; add --task regression",
        )
        labels, found_task = _classes(root, items)
    index, split = _split(root, items, labels, found_task, seed)
    images, pixels = _read_images(root, items, size, channels)

    name = root.resolve().name or "root"
    card = {
        "origin": f"folder {_show(name)}: {_count(len(items), 'image file')}, {pixels}{passed_over}",
        "licence": "the user's own",
        "split": split,
        "labels": f"{kind}: {why}",
    }
    whole = LabelledImages(images, labels, found_task)
    train, val, test = (whole.subset(index[part]) for part in SHARES)
    return Splits(train, val, test, name, card)


# Settings, names, folders


def _check_settings(task: str, size: int | None, channels: str, low: float | None, high: float | None) -> None:
    for name, value, choice in (("task", task, TaskChoice), ("channels", channels, ChannelChoice)):
        known = get_args(choice)
        require(value in known, f"{name} must be {', '.join(known[:-1])} or {known[-1]}, got {value!r}")
    require(
        size is None or _size_fits(size),
        f"size must be a multiple of 4 from {SMALLEST_SIZE} to {LARGEST_SIZE} pixels, got {size}; "
        f"nearest: --size {_nearest_size(size or 0)}",
    )
    for name, bound in (("low", low), ("high", high)):
        require(bound is None or math.isfinite(bound), f"{name} must be a finite number, got {bound}")
    if low is not None and high is not None:
        require(low < high, f"low must be less than high, got low {low:g} and high {high:g}")


def _size_fits(size: int) -> bool:
    return SMALLEST_SIZE <= size <= LARGEST_SIZE and size % 4 == 0


def _nearest_size(size: int) -> int:
    return min(max(4 * round(size / 4), SMALLEST_SIZE), LARGEST_SIZE)


def _show(name: str | Path) -> str:
    """A name as it is, or escaped where it would break the line or the terminal."""
    text = str(name)
    return text if text.isprintable() else ascii(text)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _more(number: int, what: str) -> str:
    return f" (and {number:,} more {what})" if number else ""


def _check_root(root: Path) -> None:
    expected = f"expected a folder with one sub-folder of images per class, or with {TABLE}"
    if not os.path.exists(root):
        raise DataError(f"no folder {_show(root)}; {expected}; check the path")
    if not os.path.isdir(root):
        remedies = {
            ".csv": f"give the folder that holds it, and call it {TABLE}",
            ".npz": f"arrays have a recipe of their own: gankd run npz --data {_show(root)}",
        }
        remedy = remedies.get(root.suffix.lower(), "give a folder (unpack archives first)")
        raise DataError(f"{_show(root)} is a file; {expected}; {remedy}")


def _list(folder: str | Path) -> list[os.DirEntry[str]]:
    """Entries by name, without hidden ones and what file managers leave behind."""
    try:
        with os.scandir(folder) as entries:
            kept = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in _JUNK]
    except OSError as error:
        raise DataError(f"cannot read folder {_show(folder)}: {error.strerror}; check its permissions") from None
    return sorted(kept, key=lambda entry: entry.name)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _walk(folder: str | Path) -> tuple[list[Path], list[str]]:
    """Images and names of other files in `folder` and below, links followed.

    Each real folder is read once and none above `folder` at all, so loops of links end, and a link upwards
    does not pull other classes in.
    """
    above = Path(folder).parent.resolve()
    seen = {_identity(parent) for parent in (above, *above.parents)}
    images: list[Path] = []
    others: list[str] = []
    waiting = [os.fspath(folder)]
    while waiting:
        current = waiting.pop()
        if _identity(current) in seen:
            continue
        seen.add(_identity(current))
        for entry in _list(current):
            if os.path.isdir(entry.path):
                waiting.append(entry.path)
            elif _is_image(entry.name):
                images.append(Path(entry.path))
            else:
                others.append(entry.name)
    return images, others


# Class folders


def _read_class_folders(root: Path) -> tuple[list[_Item], str]:
    """Items of layouts 2 and 3, and a note on files that were passed over."""
    entries = _list(root)
    folders = [entry for entry in entries if os.path.isdir(entry.path)]
    parts = [SPLIT_NAMES.get(entry.name.lower()) for entry in folders]
    if "train" in parts and None in parts and len(set(parts)) > 2:
        raise DataError(
            f"{_show(root)}: some sub-folders are splits (train, val, test), but "
            f"{_show(folders[parts.index(None)].name)} is not; rename it or move it away"
        )
    if "train" in parts and None not in parts:
        _refuse_loose_images(root, entries)
        found = [_read_classes(root, Path(e.path), part) for e, part in zip(folders, parts, strict=True)]
    else:
        found = [_read_classes(root, root, None)]
    others = [name for _, names in found for name in names]
    kinds = sorted({Path(name).suffix.lower() or "no suffix" for name in others})
    note = f"; {_count(len(others), 'other file')} passed over ({', '.join(map(_show, kinds))})"
    return [item for items, _ in found for item in items], note if others else ""


def _read_classes(root: Path, folder: Path, part: str | None) -> tuple[list[_Item], list[str]]:
    """Items of one folder of class folders, and names of other files there."""
    entries = _list(folder)
    classes = [entry for entry in entries if os.path.isdir(entry.path)]
    if not classes:
        images = [entry.name for entry in entries if _is_image(entry.name)]
        raise DataError(
            f"{_show(folder)}: expected a sub-folder of images per class or {TABLE} (columns image,label), "
            + (f"got {_count(len(images), 'image')} without a class" if images else "got no images")
            + (_table_hint(root) or "; sort the images into class folders or add the table")
        )
    _refuse_loose_images(folder, entries)
    items: list[_Item] = []
    others: list[str] = []
    for entry in classes:
        paths, rest = _walk(entry.path)
        if not paths:
            raise DataError(
                f"no images in class folder {_show(entry.path)}: expected {', '.join(IMAGE_SUFFIXES)}, "
                + (f"got {_count(len(rest), 'other file')}, as {_show(rest[0])}" if rest else "it is empty")
                + "; add images or remove the folder"
            )
        others += rest
        where = f"class folder {_show(entry.path)}"
        items += [_Item(p.relative_to(root).as_posix(), p, entry.name, where, part) for p in paths]
    return items, others


def _refuse_loose_images(folder: Path, entries: Iterable[os.DirEntry[str]]) -> None:
    loose = [entry.name for entry in entries if _is_image(entry.name) and not os.path.isdir(entry.path)]
    if loose:
        raise DataError(
            f"{_show(folder)}: {_count(len(loose), 'image')} beside the sub-folders, without a class "
            f"(first: {_show(loose[0])}); move into a class folder, or away"
        )


def _table_hint(root: Path) -> str:
    """For who gave the table another name."""
    tables = [entry.name for entry in _list(root) if entry.name.lower().endswith((".csv", ".tsv"))]
    return f"; if {_show(tables[0])} holds the labels, call it {TABLE}" if tables else ""


# The table


def _read_table(root: Path) -> list[_Item]:
    """Items of layout 1."""
    table = root / TABLE
    where = _show(table)
    lines = _table_lines(table)
    if not lines:
        raise DataError(f"{where} is empty; expected a header such as image,label and one line per image")
    header = [cell.lower() for cell in lines[0][1]]
    image, label = _column(header, IMAGE_COLUMNS, where), _column(header, LABEL_COLUMNS, where)
    split = header.index(SPLIT_COLUMN) if SPLIT_COLUMN in header else None
    if len(lines) == 1:
        raise DataError(f"{where} has a header but no rows; add one line per image")

    base = Path(os.path.abspath(root))
    items: list[_Item] = []
    line_of: dict[str, int] = {}
    for number, cells in lines[1:]:
        at = f"{where} line {number}"
        if len(cells) != len(header):
            raise DataError(
                f"{at}: expected {_count(len(header), 'cell')} as in the header, got {len(cells)}; "
                f"fill the row, and quote cells that hold the separator"
            )
        path = _path_below(base, cells[image], at)
        key = path.relative_to(base).as_posix()
        if key in line_of:
            raise DataError(f"{at}: {_show(key)} has a label already, in line {line_of[key]}; keep one row")
        line_of[key] = number
        if cells[label].lower() in {"", "nan"}:
            raise DataError(f"{at}: no label for {_show(key)}, got {cells[label]!r}; fill it in or remove the row")
        part = _part(cells[split], at) if split is not None else None
        items.append(_Item(key, path, cells[label], at, part))

    missing = [item for item in items if not os.path.isfile(item.path)]
    if missing:
        raise DataError(
            f"{missing[0].where}: no image file {_show(missing[0].key)} in {_show(root)}"
            f"{_more(len(missing) - 1, 'rows without a file')}; {_where_it_lies(root, missing[0].key)}"
        )
    unsplit = [item for item in items if item.part is None]
    if split is not None and 0 < len(unsplit) < len(items):
        raise DataError(f"{unsplit[0].where}: no split, but other rows have one; write train, val or test")
    return items


def _table_lines(table: Path) -> list[tuple[int, list[str]]]:
    """Lines that hold something: (number in the file, stripped cells)."""
    where = _show(table)
    try:
        raw = table.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {where}: {error.strerror}; expected a text file") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{where} line {number}: expected UTF-8, got byte 0x{raw[error.start]:02x}; save it as CSV UTF-8"
        ) from None
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            while lines and len(cells) > len(lines[0][1]) and not cells[-1]:
                cells.pop()  # spreadsheets end rows with separators
            if any(cells):
                lines.append((reader.line_num, cells))
    except csv.Error as error:
        raise DataError(f"{where} line {reader.line_num}: {error}; save the table as CSV again") from None
    return lines


def _column(header: list[str], wanted: tuple[str, ...], where: str) -> int:
    """Number of the first of the `wanted` columns that is there."""
    name = next((name for name in wanted if name in header), None)
    if name is None:
        hints = [(cell, suggest(cell, wanted)) for cell in header if cell not in IMAGE_COLUMNS + LABEL_COLUMNS]
        remedy = f"call it {wanted[0]}"
        if any(map(_is_image, header)):
            remedy = "the first line is an image already: put the line image,label above it"
        elif close := [(cell, hint) for cell, hint in hints if hint.startswith("did you mean")]:
            remedy = f"{_show(close[0][0])}: {close[0][1]}"
        raise DataError(
            f"{where}: expected a column {wanted[0]} (or {', '.join(wanted[1:])}), "
            f"got {', '.join(map(_show, header))}; {remedy}"
        )
    if header.count(name) > 1:
        raise DataError(f"{where}: expected one column {name}, got {header.count(name)}; rename the others")
    return header.index(name)


def _path_below(base: Path, cell: str, at: str) -> Path:
    """The file a row names, never outside the folder; Windows separators are understood."""
    # normpath resolves ".." by the text alone, and its result is what gets opened: no detour through a link.
    path = Path(os.path.normpath(base / cell.replace("\\", "/")))
    if path == base:
        raise DataError(f"{at}: expected the name of an image, got {cell!r}; fill it in or remove the row")
    if not path.is_relative_to(base):
        raise DataError(f"{at}: {_show(cell)} is outside the folder; expected a path below it; move the image there")
    return path


def _part(cell: str, at: str) -> str | None:
    if cell and cell.lower() not in SPLIT_NAMES:
        raise DataError(f"{at}: split must be train, val or test, got {cell!r}; {suggest(cell, SPLIT_NAMES)}")
    return SPLIT_NAMES.get(cell.lower())


def _where_it_lies(root: Path, key: str) -> str:
    """Remedy for a missing file: where one of that name, with or without suffix, is."""
    name = Path(key).name.lower()
    for path in sorted(_walk(root)[0]):
        if name in (path.name.lower(), path.stem.lower()) and path.is_file():
            return f"write {_show(path.relative_to(root).as_posix())}"
    return f"paths are relative to the folder of {TABLE}; correct or remove the row"


# Labels


def _choose_task(items: list[_Item], task: TaskChoice, tabular: bool) -> tuple[str, str]:
    """The kind of task, and why."""
    if task != "auto":
        return task, "as --task says"
    if not tabular:
        return "classification", "one class per folder"
    labels = [item.label for item in items]
    if 2 * sum(_NUMBER.fullmatch(label) is not None for label in labels) <= len(labels):
        return "classification", "the labels are text"
    different = len(set(labels))
    few = different <= MOST_INTEGER_CLASSES and len(labels) >= 3 * different
    if few and all(map(_INTEGER.fullmatch, labels)):
        return (
            "classification",
            "the labels are few different integers (--task regression to read as numbers)",
        )
    return "regression", "the labels are numbers (--task classification to read as names of classes)"


def _classes(root: Path, items: list[_Item]) -> tuple[Tensor, Task]:
    """Class numbers (N,) and their task."""
    names = sorted({item.label for item in items})
    if all(map(_INTEGER.fullmatch, names)):
        names.sort(key=int)
    if len(names) < 2:
        raise DataError(
            f"{_show(root)}: expected at least 2 classes, got only {_show(names[0])}"
            f"{_table_hint(root) or '; add images of another class'}"
        )
    number = {name: index for index, name in enumerate(names)}
    task = Classification(num_classes=len(names), class_names=tuple(map(_show, names)))
    return torch.tensor([number[item.label] for item in items]), task


def _values(root: Path, items: list[_Item], low: float | None, high: float | None) -> tuple[Tensor, Task]:
    """Labels (N,) in user units and their task."""
    least, most = -math.inf if low is None else low, math.inf if high is None else high
    values: list[float] = []
    for item in items:
        if not _NUMBER.fullmatch(item.label):
            comma = re.fullmatch(r"[+-]?\d+,\d+", item.label)
            raise DataError(
                f"{item.where}: expected a number as label, got {item.label!r}; "
                f"{'write a decimal point' if comma else 'correct it'}, or add --task classification"
            )
        values.append(float(item.label))
        if not abs(values[-1]) <= _LARGEST_LABEL:
            raise DataError(
                f"{item.where}: expected a finite label of at most {_LARGEST_LABEL:g}, got {item.label}; "
                f"correct it or remove the image"
            )
        if not least <= values[-1] <= most:
            raise DataError(
                f"{item.where}: expected a label within the range that was set, [{least:g}, {most:g}], "
                f"got {item.label}; correct it, or widen --low and --high"
            )
    labels = torch.tensor(values, dtype=torch.float32)
    if labels.min() == labels.max():
        raise DataError(
            f"{_show(root)}: expected different labels, got {values[0]:g} for all of "
            f"{_count(len(items), 'image')}; check the label column"
        )
    # Ends as rounded to float32, so that the extreme labels lie within them.
    ends = (labels.min().item() if low is None else low, labels.max().item() if high is None else high)
    return labels, Regression(low=ends[0], high=ends[1])


# Splits


def _split(root: Path, items: list[_Item], labels: Tensor, task: Task, seed: int) -> tuple[dict[str, Tensor], str]:
    """Ascending indices of train, val and test, and how they came about."""
    parts = [item.part or "train" for item in items]
    given = {item.part for item in items} - {None}
    if "train" not in parts:
        raise DataError(f"{_show(root)}: expected images in the split train, got none; mark some as train")
    drawn = [part for part in SHARES if part == "train" or part not in given]
    if len(drawn) > 1:
        pool = [index for index, part in enumerate(parts) if part == "train"]
        for name, members in _strata(root, items, labels, task, pool, drawn):
            order = torch.randperm(len(members), generator=rng(seed, "folder", "split", name)).tolist()
            for position, part in zip(order, _allot(len(members), drawn), strict=True):
                parts[members[position]] = part
    index = {part: torch.tensor([i for i, p in enumerate(parts) if p == part]) for part in SHARES}
    _check_train(root, items, labels, task, index["train"])
    how = [f"{', '.join(part for part in SHARES if part not in drawn[1:])} given"] if given else []
    if len(drawn) > 1:
        shares = " : ".join(str(SHARES[part]) for part in drawn)
        how.append(f"{', '.join(drawn)} drawn {shares}, stratified by label, seed {seed}")
    sizes = ", ".join(f"{len(index[part]):,} {part}" for part in SHARES)
    return index, f"{'; '.join(how)}: {sizes}"


def _strata(
    root: Path, items: list[_Item], labels: Tensor, task: Task, pool: list[int], drawn: list[str]
) -> list[tuple[str, list[int]]]:
    """Groups of images with like labels, by name; each is shared among the `drawn` splits on its own."""
    values = labels.tolist()
    if isinstance(task, Classification):
        groups: dict[str, list[int]] = {}
        for index in pool:
            groups.setdefault(task.group_name(values[index]), []).append(index)
    else:
        ranked = sorted(pool, key=lambda index: (values[index], items[index].key))
        length = sum(SHARES[part] for part in drawn)
        starts = range(0, max(len(ranked) - length, 0) + 1, length)
        ends = [*starts[1:], len(ranked)]  # the last run takes the remainder
        groups = {f"run {i}": ranked[start:end] for i, (start, end) in enumerate(zip(starts, ends, strict=True))}
    few = [name for name, members in groups.items() if len(members) < len(drawn)]
    if few:
        classes = isinstance(task, Classification)
        raise DataError(
            f"{_show(root)}: expected at least {len(drawn)} images{f' of class {few[0]}' if classes else ''} "
            f"to share among {', '.join(drawn)}, got {len(groups[few[0]])}"
            f"{_more(len(few) - 1, 'such classes')}; add images{' or remove the class' if classes else ''}"
        )
    return list(groups.items())


def _allot(count: int, drawn: list[str]) -> list[str]:
    """Splits of `count` images, at least one in each and train the rest."""
    total = sum(SHARES[part] for part in drawn)
    places = [p for p in drawn[1:] for _ in range(max(1, math.floor(count * SHARES[p] / total + 0.5)))]
    return ["train"] * (count - len(places)) + places


def _check_train(root: Path, items: list[_Item], labels: Tensor, task: Task, train: Tensor) -> None:
    """A split can leave nothing to learn from."""
    if isinstance(task, Classification):
        absent = (labels[train].bincount(minlength=task.num_classes) == 0).nonzero()[:, 0].tolist()
        if absent:
            example = items[int((labels == absent[0]).nonzero()[0, 0])].key
            raise DataError(
                f"{_show(root)}: expected every class in train, got no image of {task.group_name(absent[0])} "
                f"there (but {_show(example)} elsewhere); add some or remove the class"
            )
    elif labels[train].min() == labels[train].max():
        raise DataError(
            f"{_show(root)}: expected different labels in train, got {labels[train[0]].item():g} for all of "
            f"{_count(len(train), 'image')}; add images to train"
        )


# Pixels


def _read_images(root: Path, items: list[_Item], size: int | None, channels: ChannelChoice) -> tuple[Tensor, str]:
    """uint8 (N, C, size, size), and a description of the files."""
    paths = [item.path for item in items]
    outcomes = _in_threads(_header, paths)
    headers = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    if len(headers) < len(items):
        # Count all bad files at once: some show only when decoded.
        _refuse_unreadable(root, items, _in_threads(lambda p: (_header(p), _decode(p, SMALLEST_SIZE, True)), paths))
    sizes = [(width, height) for width, height, _ in headers]
    side = size or _common_size(root, items, sizes)
    grey = _common_channels(root, items, [is_grey for *_, is_grey in headers], channels)

    pixels = np.empty((len(items), 1 if grey else 3, side, side), dtype=np.uint8)

    def read(index: int) -> None:
        pixels[index] = _decode(paths[index], side, grey)

    _refuse_unreadable(root, items, _in_threads(read, range(len(items))))
    least, most = min(sizes, key=math.prod), max(sizes, key=math.prod)
    span = f"{least[0]}x{least[1]}" + ("" if least == most else f" to {most[0]}x{most[1]}")
    return torch.from_numpy(pixels), f"{span} pixels, used as {'grey' if grey else 'RGB'} {side}x{side}"


def _in_threads(function: Callable[[T], R], arguments: Iterable[T]) -> list[R | str]:
    """Results, or in place of a result what is wrong with the file; Pillow decodes without Python's lock."""

    def attempt(argument: T) -> R | str:
        try:
            return function(argument)
        except UnidentifiedImageError:
            return "not an image in a known format"
        except Exception as error:  # decoders raise whatever a broken file makes of their arithmetic
            text = " ".join(str(getattr(error, "strerror", None) or error).split())
            return text or type(error).__name__

    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
    try:
        return list(pool.map(attempt, arguments))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C drops what has not begun


def _refuse_unreadable(root: Path, items: list[_Item], outcomes: list[object | str]) -> None:
    bad = [(_show(item.key), _show(what)) for item, what in zip(items, outcomes, strict=True) if isinstance(what, str)]
    if bad:
        raise DataError(
            f"{_show(root)}: {len(bad):,} of {_count(len(items), 'image')} cannot be read, first "
            f"{bad[0][0]}: {bad[0][1]}; replace or remove {'it' if len(bad) == 1 else 'them'}"
        )


def _header(path: Path) -> tuple[int, int, bool]:
    """Width, height and whether an image is grey, without decoding it."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise ValueError("not a regular file")
    if status.st_size == 0:
        raise ValueError("an empty file (0 bytes)")
    with Image.open(path) as image:
        return image.width, image.height, _is_grey(image)


def _is_grey(image: Image.Image) -> bool:
    return image.mode in {"1", "L", "LA", "La", "F"} or image.mode.startswith("I")


def _common_size(root: Path, items: list[_Item], sizes: list[tuple[int, int]]) -> int:
    """The side of square images that all have one usable size."""
    width, height = sizes[0]
    smallest = min(map(min, sizes))
    remedy = f"add --size {32 if smallest >= 32 else _nearest_size(smallest)} to crop and resize"
    for item, (other_width, other_height) in zip(items, sizes, strict=True):
        if (other_width, other_height) != (width, height):
            raise DataError(
                f"{_show(root)}: expected images of one size, got {_show(items[0].key)} of {width}x{height} "
                f"and {_show(item.key)} of {other_width}x{other_height} pixels; {remedy}"
            )
    if width != height:
        raise DataError(f"{_show(root)}: expected square images, got {width}x{height} pixels; {remedy}")
    if not _size_fits(width):
        raise DataError(
            f"{_show(root)}: expected a multiple of 4 from {SMALLEST_SIZE} to {LARGEST_SIZE} pixels, "
            f"got images of {width}x{width}; add --size {_nearest_size(width)} to resize"
        )
    return width


def _common_channels(root: Path, items: list[_Item], grey: list[bool], channels: ChannelChoice) -> bool:
    """Whether to read grey levels; `grey` says how each file stores them."""
    if channels != "auto":
        return channels == "grey"
    if len(set(grey)) > 1:
        one, other = _show(items[grey.index(True)].key), _show(items[grey.index(False)].key)
        raise DataError(
            f"{_show(root)}: expected all grey or all colour, got {one} in grey and {other} in colour "
            f"({sum(grey):,} and {len(grey) - sum(grey):,} images); add --channels rgb or --channels grey"
        )
    return grey[0]


def _decode(path: Path, side: int, grey: bool) -> npt.NDArray[np.uint8]:
    """uint8 (C, side, side): upright, opaque, the central square resampled."""
    with Image.open(path) as opened:
        # A JPEG much larger than needed is decoded at a half, quarter or eighth, never below twice the side.
        opened.draft(None, (2 * side, 2 * side))
        image = _flatten(ImageOps.exif_transpose(opened)).convert("L" if grey else "RGB")
    if image.size != (side, side):
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        square = image.crop((left, top, left + short, top + short))
        image = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(side, side, -1).transpose(2, 0, 1)


def _flatten(image: Image.Image) -> Image.Image:
    """The same picture with 8 bits and no transparency."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range, save with 8 or 16 bits")
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("pixels beyond 16 bits, save with 8 or 16 bits")
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return image
