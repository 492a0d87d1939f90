"""Tables with a label column: CSV with image files or with a column per pixel, and Parquet."""

import csv
import io
import itertools
import math
import os
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gankd.config import suggest
from gankd.data.arrays import Array, Images, Stream, splits_of_arrays
from gankd.data.files import Files, is_image, splits_of_pictures, walk
from gankd.data.images import Splits
from gankd.data.own import SPLIT_NAMES, ChannelChoice, Choices, Item, TaskChoice, and_more, counted, shown
from gankd.errors import DataError

TABLE = "labels.csv"
IMAGE_COLUMNS = ("image", "file", "filename", "path")
LABEL_COLUMNS = ("label", "class", "target", "value", "angle", "age")
SPLIT_COLUMN = "split"
PIXEL = re.compile(r"(?:pixel|px|p)?[ _.]?(\d+)(?:x(\d+))?", re.IGNORECASE | re.ASCII)
LEVEL = re.compile(r"\d{1,3}", re.ASCII)
BLOCK = 4096
"""Rows of pixels that are text in memory at once."""


def load_table(
    path: str | Path,
    *,
    task: TaskChoice = "auto",
    size: int | None = None,
    channels: ChannelChoice = "auto",
    low: float | None = None,
    high: float | None = None,
    seed: int = 0,
    skip: Collection[Path] = (),
) -> Splits:
    """Read a table with one row per image, and a column `label` (or `class`, `target`, `value`, `angle`, `age`).

    1. CSV with a column `image` (or `file`, `filename`, `path`): paths of image files below the table's folder.
    2. CSV with a column for each pixel of square grey images, row by row, levels 0 .. 255: `pixel0`, `pixel1`, ... or
       `1x1`, `1x2`, ...; also without a header, the label first (MNIST as CSV).
    3. Parquet with such paths or pixels, or with image files inside: a binary column, or a struct with `bytes` and
       `path` as Hugging Face writes it, whose class names are read, too. A folder is read as one set; its files then
       are named by their split, as in `train-00000-of-00001.parquet`.

    All is read in blocks, but the pixels of a CSV file stay in memory, a byte each, until it is read.

    A column `split` (train, val, test) is optional. Separators, task, splits, size and colours are as in
    `load_folder`.

    Args:
        path: the file, or a folder of Parquet files.
        task: what the labels are.
        size: height and width in pixels, a multiple of 4 from 8 to 128.
        channels: "grey" for one channel, "rgb" for three.
        low: lower end of the label range in user units; regression only.
        high: upper end.
        seed: draws the split.
        skip: image files to leave out, such as those that cannot be read.

    Raises:
        ConfigError: a setting is out of range. DataError: the table, a label or an image cannot be used, or Parquet
            is not installed.
    """
    path = Path(path)
    choices = Choices(task=task, size=size, channels=channels, low=low, high=high, seed=seed)
    if not path.exists():
        raise DataError(f"no file {shown(path)}; expected a .csv or .parquet file; check the path")
    if path.is_dir() or path.suffix.lower() == ".parquet":
        from gankd.data.parquet import load_parquet

        return load_parquet(path, choices, skip)
    if columns := _pixel_columns(path):
        items, pixels = _read_pixels(path, columns)
        return splits_of_arrays(path, items, [pixels], choices)
    items = sorted((item for item in read_table(path) if item.path not in skip), key=lambda item: item.key)
    return splits_of_pictures(path, items, Files([item.path for item in items]), choices, what="table")


def holds_paths(table: Path) -> bool:
    """Does a table name image files? Otherwise it holds pixels, or is Parquet."""
    return table.suffix.lower() != ".parquet" and _pixel_columns(table) is None


class Row(NamedTuple):
    """What a table says about an image, as text."""

    place: str
    """As in "line 3"."""
    image: str
    """Path of the file, as written."""
    label: str
    split: str | None


# CSV with image files


def read_table(table: Path) -> list[Item]:
    """Items of a CSV file whose rows name image files.

    Raises:
        DataError: the table or a row cannot be used, or a file is missing.
    """
    where = shown(table)
    lines = _table_lines(table)
    if not lines:
        raise DataError(f"{where} is empty; expected a header such as image,label and one line per image")
    header = [cell.lower() for cell in lines[0][1]]
    image, label = find_column(header, IMAGE_COLUMNS, where), find_column(header, LABEL_COLUMNS, where)
    split = header.index(SPLIT_COLUMN) if SPLIT_COLUMN in header else None
    if len(lines) == 1:
        raise DataError(f"{where} has a header but no rows; add one line per image")
    rows = []
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise DataError(
                f"{where} line {number}: expected {counted(len(header), 'cell')} as in the header, got {len(cells)}; "
                f"fill the row, and quote cells that hold the separator"
            )
        rows.append(Row(f"line {number}", cells[image], cells[label], None if split is None else cells[split]))
    return items_of_rows(table, rows)


def items_of_rows(table: Path, rows: Sequence[Row]) -> list[Item]:
    """Items of rows that name image files below the folder of `table`.

    Raises:
        DataError: a row cannot be used, or a file is missing.
    """
    base = Path(os.path.abspath(table.parent))
    items: list[Item] = []
    place_of: dict[str, str] = {}
    for place, image, label, split in rows:
        at = f"{shown(table)} {place}"
        path = _path_below(base, image, at)
        key = path.relative_to(base).as_posix()
        if key in place_of:
            raise DataError(f"{at}: {shown(key)} has a label already, in {place_of[key]}; keep one row")
        place_of[key] = place
        items.append(labelled(key, path, label, split, at))
    missing = [item for item in items if not os.path.isfile(item.path)]
    if missing:
        raise DataError(
            f"{missing[0].where}: no image file {shown(missing[0].key)} in {shown(table.parent)}"
            f"{and_more(len(missing) - 1, 'rows without a file')}; {_where_it_lies(table, missing[0].key)}"
        )
    refuse_half_split(items)
    return items


def labelled(key: str, path: Path, label: str, split: str | None, at: str) -> Item:
    """The item of a row.

    Raises:
        DataError: no label, or no such split.
    """
    if label.lower() in {"", "nan"}:
        raise DataError(f"{at}: no label for {shown(key)}, got {label!r}; fill it in or remove the row")
    return Item(key, path, label, at, None if split is None else _part(split, at))


def refuse_half_split(items: Sequence[Item]) -> None:
    """Raise DataError where some rows have a split and others have none."""
    unsplit = [item for item in items if item.part is None]
    if 0 < len(unsplit) < len(items):
        raise DataError(f"{unsplit[0].where}: no split, but other rows have one; write train, val or test")


def _table_lines(table: Path) -> list[tuple[int, list[str]]]:
    """Lines that hold something: (number in the file, stripped cells)."""
    where = shown(table)
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


def find_column(header: list[str], wanted: tuple[str, ...], where: str) -> int:
    """Number of the first of the `wanted` columns that is there."""
    name = next((name for name in wanted if name in header), None)
    if name is None:
        hints = [(cell, suggest(cell, wanted)) for cell in header if cell not in IMAGE_COLUMNS + LABEL_COLUMNS]
        remedy = f"call it {wanted[0]}"
        if any(map(is_image, header)):
            remedy = "the first line is an image already: put the line image,label above it"
        elif close := [(cell, hint) for cell, hint in hints if hint.startswith("did you mean")]:
            remedy = f"{shown(close[0][0])}: {close[0][1]}"
        raise DataError(
            f"{where}: expected a column {wanted[0]} (or {', '.join(wanted[1:])}), "
            f"got {', '.join(map(shown, header))}; {remedy}"
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
        raise DataError(f"{at}: {shown(cell)} is outside the folder; expected a path below it; move the image there")
    return path


def _part(cell: str, at: str) -> str | None:
    if cell and cell.lower() not in SPLIT_NAMES:
        raise DataError(f"{at}: split must be train, val or test, got {cell!r}; {suggest(cell, SPLIT_NAMES)}")
    return SPLIT_NAMES.get(cell.lower())


def _where_it_lies(table: Path, key: str) -> str:
    """Remedy for a missing file: where one of that name, with or without suffix, is."""
    name = Path(key).name.lower()
    for path in sorted(walk(table.parent)[0]):
        if name in (path.name.lower(), path.stem.lower()) and path.is_file():
            return f"write {shown(path.relative_to(table.parent).as_posix())}"
    return f"paths are relative to the folder of {shown(table.name)}; correct or remove the row"


# A column per pixel


class PixelColumns(NamedTuple):
    """Where a table has what."""

    pixels: list[int]
    """Columns of the pixels, row by row of the image."""
    label: int
    split: int | None
    side: int

    @property
    def text(self) -> list[int]:
        """Columns that are no pixels."""
        return [self.label] if self.split is None else [self.label, self.split]


def pixel_columns(names: Sequence[str], where: str) -> PixelColumns | None:
    """Find pixels and label among the names of columns; None where other columns, too, are there.

    Raises:
        DataError: pixels, but not those of a square image.
    """
    known = (*LABEL_COLUMNS, SPLIT_COLUMN)
    found = {index: PIXEL.fullmatch(name) for index, name in enumerate(names) if name not in known}
    if not found or None in found.values():
        return None
    place = {index: tuple(int(part or 0) for part in match.groups()) for index, match in found.items() if match}
    side = math.isqrt(len(place))
    if side * side != len(place) or len(set(place.values())) < len(place):
        raise DataError(
            f"{where}: expected pixel columns of a square grey image, 784 for one of 28x28, got {len(place)}; "
            "write one column per pixel, and colour images as files or .npz"
        )
    split = list(names).index(SPLIT_COLUMN) if SPLIT_COLUMN in names else None
    label = find_column(list(names), LABEL_COLUMNS, where)
    return PixelColumns(sorted(place, key=place.__getitem__), label, split, side)


def _first_line(table: Path) -> tuple[str, list[str]]:
    """Separator and cells of the first line."""
    try:
        with table.open(encoding="utf-8-sig", errors="replace") as file:
            line = file.readline(1 << 20)
    except OSError as error:
        raise DataError(f"cannot read {shown(table)}: {error.strerror}; expected a text file") from None
    separator = max(",;\t", key=line.count)
    return separator, [cell.strip().strip('"').lower() for cell in line.split(separator)]


def _pixel_columns(table: Path) -> PixelColumns | None:
    _, cells = _first_line(table)
    if len(cells) > 1 and all(map(LEVEL.fullmatch, cells)):  # no header: the label, then pixels
        cells = ["label", *map(str, range(len(cells) - 1))]
    return pixel_columns(cells, shown(table))


def _read_pixels(table: Path, columns: PixelColumns) -> tuple[list[Item], Images]:
    """Items and pixels uint8 (N, H, W, 1), a block of lines at a time."""
    separator, first = _first_line(table)
    where, texts, blocks = shown(table), [], []
    number = 1  # of the first line of the block
    with table.open(encoding="utf-8-sig", errors="replace") as file:
        if not all(map(LEVEL.fullmatch, first)):
            next(file)
            number += 1
        while lines := list(itertools.islice(file, BLOCK)):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    levels = _cells(lines, separator, columns.pixels, np.int16)
                    texts += _cells(lines, separator, columns.text, str).tolist()
            except (ValueError, Warning):
                levels = np.array([[-1]], np.int16)
            if len(levels) != len(lines) or levels.min() < 0 or levels.max() > 255:
                raise DataError(f"{where} {_bad_cell(lines, number, separator, len(first), columns)}")
            blocks.append(levels.astype(np.uint8).reshape(-1, columns.side, columns.side, 1))
            number += len(lines)
    if not blocks:
        raise DataError(f"{where} has a header but no rows; add one line per image")
    start = number - len(texts)
    items = [
        labelled(
            f"image {row + 1}", table, cells[0], cells[1] if len(cells) > 1 else None, f"{where} line {start + row}"
        )
        for row, cells in enumerate(texts)
    ]
    refuse_half_split(items)
    pixels = Stream((len(texts), *blocks[0].shape[1:]), np.dtype(np.uint8), lambda: iter(blocks))
    return items, Images(f"{where}: pixels", pixels, table)


def _cells(lines: list[str], separator: str, columns: list[int], kind: type) -> Array:
    return np.loadtxt(lines, dtype=kind, delimiter=separator, quotechar='"', comments=None, usecols=columns, ndmin=2)


def _bad_cell(lines: list[str], number: int, separator: str, width: int, columns: PixelColumns) -> str:
    """What is wrong with a block of lines, and where."""
    for row, line in enumerate(lines, number):
        cells = [cell.strip().strip('"') for cell in line.rstrip("\r\n").split(separator)]
        if len(cells) != width:
            return f"line {row}: expected {counted(width, 'cell')}, got {len(cells)}; write one line per image"
        for index in columns.pixels:
            if not LEVEL.fullmatch(cells[index]) or int(cells[index]) > 255:
                return f"line {row}: expected a grey level from 0 to 255, got {cells[index]!r}; correct it"
    return f"line {number}: cells that cannot be read; write the table as plain CSV"
