"""Columns of a table, whatever its file format: names, rows as items, a column per pixel."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gankd.config import require, suggest
from gankd.data.files import is_image, walk
from gankd.data.own import SPLIT_NAMES, Choices, Item, and_more, shown
from gankd.errors import DataError

IMAGE_COLUMNS = ("image", "file", "filename", "path")
LABEL_COLUMNS = ("label", "class", "target", "value", "angle", "age")
SPLIT_COLUMN = "split"
PIXEL = re.compile(r"(?:pixel|px|p)?[ _.]?(\d+)(?:x(\d+))?", re.IGNORECASE | re.ASCII)


def label_columns(
    header: list[str], chosen: tuple[str, ...], where: str, usual: tuple[str, ...] = LABEL_COLUMNS
) -> list[int]:
    """Indices of the columns of the label: the `chosen` ones, or the first that has a usual name."""
    if not chosen:
        return [find_column(header, usual, where)]
    for name in chosen:
        if header.count(name.lower()) != 1:
            got = ", ".join(map(shown, header))
            raise DataError(
                f"{where}: expected one column {shown(name)} for the label, got {got}; {suggest(name.lower(), header)}"
            )
    return [header.index(name.lower()) for name in chosen]


def find_column(header: list[str], wanted: tuple[str, ...], where: str) -> int:
    """Index of the first of the `wanted` columns in `header`."""
    name = next((name for name in wanted if name in header), None)
    if name is None:
        hints = [(cell, suggest(cell, wanted)) for cell in header if cell not in IMAGE_COLUMNS + LABEL_COLUMNS]
        remedy = f"call it {wanted[0]}" + ", or name it: --label NAME" * (wanted[0] == LABEL_COLUMNS[0])
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


def group_column(header: list[str], group: str | None, where: str) -> int | None:
    """Index of the column that names groups, if the user names one.

    Raises:
        DataError: there is no such column.
    """
    if group is None:
        return None
    if group.lower() not in header:
        raise DataError(f"{where}: data.group: no column {shown(group)}; {suggest(group.lower(), header)}")
    return header.index(group.lower())


class Row(NamedTuple):
    """Row of a table about one image, as text."""

    place: str
    """Place for messages, such as "line 3"."""
    image: str
    """Path of the file, as written."""
    label: str
    split: str | None
    group: str | None = None


def items_of_rows(table: Path, rows: Sequence[Row]) -> list[Item]:
    """Items of rows that name image files below the folder of `table`.

    Raises:
        DataError: a row cannot be used, or a file is missing.
    """
    base = Path(os.path.abspath(table.parent))
    items: list[Item] = []
    place_of: dict[str, str] = {}
    for place, image, label, split, group in rows:
        at = f"{shown(table)} {place}"
        path = _path_below(base, image, at)
        key = path.relative_to(base).as_posix()
        if key in place_of:
            raise DataError(f"{at}: {shown(key)} has a label already, in {place_of[key]}; keep one row")
        place_of[key] = place
        items.append(labelled(key, path, label, split, at, group))
    missing = [item for item in items if not os.path.isfile(item.path)]
    if missing:
        raise DataError(
            f"{missing[0].where}: no image file {shown(missing[0].key)} in {shown(table.parent)}"
            f"{and_more(len(missing) - 1, 'rows without a file')}; {_where_it_lies(table, missing[0].key)}"
        )
    refuse_half_split(items)
    return items


def labelled(key: str, path: Path, label: str, split: str | None, at: str, group: str | None = None) -> Item:
    """Item of a row.

    Raises:
        DataError: no such split.
    """
    return Item(key, path, label, at, None if split is None else _part(split, at), group)


def _part(cell: str, at: str) -> str | None:
    if cell and cell.lower() not in SPLIT_NAMES:
        raise DataError(f"{at}: split must be train, val or test, got {cell!r}; {suggest(cell, SPLIT_NAMES)}")
    return SPLIT_NAMES.get(cell.lower())


def refuse_half_split(items: Sequence[Item]) -> None:
    """Raise DataError if some rows have a split and others do not."""
    unsplit = [item for item in items if item.part is None]
    if 0 < len(unsplit) < len(items):
        raise DataError(f"{unsplit[0].where}: no split, but other rows have one; write train, val or test")


def refuse_other_paths(path: Path, choices: Choices) -> None:
    """Raise ConfigError if other files are splits of a table with a column per pixel."""
    part = next(iter(choices.other_paths), None)
    require(
        part is None,
        f"data.{part} is for image files, but {shown(path)} has a column per pixel; add a column split to it",
    )


def _path_below(base: Path, cell: str, at: str) -> Path:
    """File that a row names, never outside the folder; Windows separators are understood."""
    # normpath resolves ".." in the text only, and its result is opened: no detour through a link.
    path = Path(os.path.normpath(base / cell.replace("\\", "/")))
    if path == base:
        raise DataError(f"{at}: expected the name of an image, got {cell!r}; fill it in or remove the row")
    if not path.is_relative_to(base):
        raise DataError(f"{at}: {shown(cell)} is outside the folder; expected a path below it; move the image there")
    return path


def _where_it_lies(table: Path, key: str) -> str:
    """Remedy for a missing file: the place of a file of that name, with or without suffix."""
    name = Path(key).name.lower()
    for path in sorted(walk(table.parent)[0]):
        if name in (path.name.lower(), path.stem.lower()) and path.is_file():
            return f"write {shown(path.relative_to(table.parent).as_posix())}"
    return f"paths are relative to the folder of {shown(table.name)}; correct or remove the row"


# --- a column per pixel


class PixelColumns(NamedTuple):
    """Columns of a table that has one column per pixel."""

    pixels: list[int]
    """Columns of the pixels, row by row of the image."""
    labels: list[int]
    """Columns of the label's values; one, in general."""
    split: int | None
    side: int

    @property
    def text(self) -> list[int]:
        """Columns that are not pixels."""
        return self.labels if self.split is None else [*self.labels, self.split]


def pixel_columns(names: Sequence[str], where: str, chosen: tuple[str, ...] = ()) -> PixelColumns | None:
    """Find pixels and label among the names of columns; None if there are other columns too.

    Args:
        names: of the columns, in small letters.
        where: the file, for error messages.
        chosen: names of the columns of the label; default: as it is usually called.

    Raises:
        DataError: the pixels do not make a square image.
    """
    known = (*map(str.lower, chosen or LABEL_COLUMNS), SPLIT_COLUMN)
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
    labels = label_columns(list(names), chosen, where)
    return PixelColumns(sorted(place, key=place.__getitem__), labels, split, side)
