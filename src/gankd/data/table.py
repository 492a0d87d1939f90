"""Tables with a label column: CSV with image files or with a column per pixel, and Parquet."""

import csv
import io
import itertools
import re
import warnings
from pathlib import Path
from typing import Unpack

import numpy as np

from gankd.data.arrays import Array, Images, Stream, splits_of_arrays
from gankd.data.columns import (
    IMAGE_COLUMNS,
    SPLIT_COLUMN,
    PixelColumns,
    Row,
    find_column,
    group_column,
    items_of_rows,
    label_columns,
    labelled,
    pixel_columns,
    refuse_half_split,
    refuse_other_paths,
)
from gankd.data.files import Files, splits_of_pictures
from gankd.data.images import Splits
from gankd.data.own import JOINED, Choices, FileSettings, Item, counted, shown, with_part
from gankd.data.parquet import load_parquet
from gankd.errors import DataError
from gankd.regular import require_regular

TABLE = "labels.csv"
LEVEL = re.compile(r"\d{1,3}", re.ASCII)
BLOCK = 4096
"""Rows of pixels in memory as text at once."""


def load_table(
    path: str | Path,
    **settings: Unpack[FileSettings],
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
        settings: those of `Choices`.

    Raises:
        ConfigError: a setting is out of range. DataError: the table, a label or an image cannot be used, or Parquet
            is not installed.
    """
    path = Path(path)
    choices = Choices(**settings)
    if not path.exists():
        raise DataError(f"no file {shown(path)}; expected a .csv or .parquet file; check the path")
    if path.is_dir() or path.suffix.lower() == ".parquet":
        return load_parquet(path, choices)
    if columns := _pixel_columns(path, choices.label):
        refuse_other_paths(path, choices)
        items, pixels = _read_pixels(path, columns)
        return splits_of_arrays(path, items, [pixels], choices)
    items = read_table(path, choices.label, choices.group_name)
    for part, other in choices.other_paths.items():
        items = with_part(items, read_table(other, choices.label, choices.group_name), part, other)
    items = sorted(items, key=lambda item: item.key)
    return splits_of_pictures(path, items, Files([item.path for item in items]), choices, what="table")


def holds_paths(table: Path) -> bool:
    """True if a table names image files; otherwise it holds pixels, or is Parquet."""
    return table.suffix.lower() != ".parquet" and _pixel_columns(table) is None


# CSV with image files


def read_table(table: Path, chosen: tuple[str, ...] = (), group: str | None = None) -> list[Item]:
    """Items of a CSV file whose rows name image files.

    Args:
        table: the file.
        chosen: names of the columns of the label; default: as it is usually called.
        group: name of the column of the groups.

    Raises:
        DataError: the table or a row cannot be used, or a file is missing.
    """
    where = shown(table)
    lines = _table_lines(table)
    if not lines:
        raise DataError(f"{where} is empty; expected a header such as image,label and one line per image")
    header = [cell.lower() for cell in lines[0][1]]
    image, labels = find_column(header, IMAGE_COLUMNS, where), label_columns(header, chosen, where)
    split = header.index(SPLIT_COLUMN) if SPLIT_COLUMN in header else None
    grouped = group_column(header, group, where)
    if len(lines) == 1:
        raise DataError(f"{where} has a header but no rows; add one line per image")
    rows = []
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise DataError(
                f"{where} line {number}: expected {counted(len(header), 'cell')} as in the header, got {len(cells)}; "
                f"fill the row, and quote cells that hold the separator"
            )
        label = JOINED.join(cells[column] for column in labels)
        part, own = (None if column is None else cells[column] for column in (split, grouped))
        rows.append(Row(f"line {number}", cells[image], label, part, own))
    return items_of_rows(table, rows)


def _table_lines(table: Path) -> list[tuple[int, list[str]]]:
    """Lines that are not empty: (number in the file, stripped cells)."""
    where = shown(table)
    try:
        require_regular(table)
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


# A column per pixel


def _first_line(table: Path) -> tuple[str, list[str]]:
    """Separator and cells of the first line."""
    try:
        require_regular(table)
        with table.open(encoding="utf-8-sig", errors="replace") as file:
            line = file.readline(1 << 20)
    except OSError as error:
        raise DataError(f"cannot read {shown(table)}: {error.strerror}; expected a text file") from None
    separator = max(",;\t", key=line.count)
    return separator, [cell.strip().strip('"').lower() for cell in line.split(separator)]


def _pixel_columns(table: Path, chosen: tuple[str, ...] = ()) -> PixelColumns | None:
    _, cells = _first_line(table)
    if len(cells) > 1 and all(map(LEVEL.fullmatch, cells)):  # no header: the label, then pixels
        cells = ["label", *map(str, range(len(cells) - 1))]
    return pixel_columns(cells, shown(table), chosen)


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
    start, width = number - len(texts), len(columns.labels)
    items = [
        labelled(
            f"image {row + 1}",
            table,
            JOINED.join(cells[:width]),
            cells[width] if len(cells) > width else None,
            f"{where} line {start + row}",
        )
        for row, cells in enumerate(texts)
    ]
    refuse_half_split(items)
    pixels = Stream((len(texts), *blocks[0].shape[1:]), np.dtype(np.uint8), lambda: iter(blocks))
    return items, Images(f"{where}: pixels", pixels, table)


def _cells(lines: list[str], separator: str, columns: list[int], kind: type) -> Array:
    return np.loadtxt(lines, dtype=kind, delimiter=separator, quotechar='"', comments=None, usecols=columns, ndmin=2)


def _bad_cell(lines: list[str], number: int, separator: str, width: int, columns: PixelColumns) -> str:
    """Message on the first bad cell of a block of lines."""
    for row, line in enumerate(lines, number):
        cells = [cell.strip().strip('"') for cell in line.rstrip("\r\n").split(separator)]
        if len(cells) != width:
            return f"line {row}: expected {counted(width, 'cell')}, got {len(cells)}; write one line per image"
        for index in columns.pixels:
            if not LEVEL.fullmatch(cells[index]) or int(cells[index]) > 255:
                return f"line {row}: expected a grey level from 0 to 255, got {cells[index]!r}; correct it"
    return f"line {number}: cells that cannot be read; write the table as plain CSV"
