"""The user's own folder of images: found, labelled, checked, split, and decoded to square uint8 tensors."""

import csv
import io
import math
import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from gankd.config import require, suggest
from gankd.data.images import LabelledImages, Splits
from gankd.data.own import (
    SHARES,
    SMALLEST_SIZE,
    SPLIT_NAMES,
    ChannelChoice,
    Item,
    TaskChoice,
    and_more,
    check_settings,
    choose_task,
    common_size,
    counted,
    draw_split,
    read_classes,
    read_values,
    shown,
)
from gankd.errors import DataError

TABLE = "labels.csv"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
IMAGE_COLUMNS = ("image", "file", "filename", "path")
LABEL_COLUMNS = ("label", "class", "target", "value", "angle", "age")
SPLIT_COLUMN = "split"

_JUNK = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information"}

T = TypeVar("T")
R = TypeVar("R")


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
    check_settings(task, size, channels, low, high)
    _check_root(root)
    tabular = os.path.lexists(root / TABLE)
    items, passed_over = (_read_table(root), "") if tabular else _read_class_folders(root)
    items.sort(key=lambda item: item.key)

    kind, why = choose_task(items, task, tabular)
    if kind == "regression":
        labels, found_task = read_values(root, items, low, high)
    else:
        require(
            low is None and high is None,
            f"low and high are for regression, but {shown(root)} has classes; add --task regression",
        )
        labels, found_task = read_classes(root, items, _table_hint(root))
    index, split = draw_split(root, items, labels, found_task, seed)
    images, pixels = _read_images(root, items, size, channels)

    name = root.resolve().name or "root"
    card = {
        "origin": f"folder {shown(name)}: {counted(len(items), 'image file')}, {pixels}{passed_over}",
        "licence": "the user's own",
        "split": split,
        "labels": f"{kind}: {why}",
    }
    whole = LabelledImages(images, labels, found_task)
    train, val, test = (whole.subset(index[part]) for part in SHARES)
    return Splits(train, val, test, name, card)


# Settings, names, folders


def _check_root(root: Path) -> None:
    expected = f"expected a folder with one sub-folder of images per class, or with {TABLE}"
    if not os.path.exists(root):
        raise DataError(f"no folder {shown(root)}; {expected}; check the path")
    if not os.path.isdir(root):
        remedies = {
            ".csv": f"give the folder that holds it, and call it {TABLE}",
            ".npz": f"arrays have a recipe of their own: gankd run npz --data {shown(root)}",
        }
        remedy = remedies.get(root.suffix.lower(), "give a folder (unpack archives first)")
        raise DataError(f"{shown(root)} is a file; {expected}; {remedy}")


def _list(folder: str | Path) -> list[os.DirEntry[str]]:
    """Entries by name, without hidden ones and what file managers leave behind."""
    try:
        with os.scandir(folder) as entries:
            kept = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in _JUNK]
    except OSError as error:
        raise DataError(f"cannot read folder {shown(folder)}: {error.strerror}; check its permissions") from None
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


def _read_class_folders(root: Path) -> tuple[list[Item], str]:
    """Items of layouts 2 and 3, and a note on files that were passed over."""
    entries = _list(root)
    folders = [entry for entry in entries if os.path.isdir(entry.path)]
    parts = [SPLIT_NAMES.get(entry.name.lower()) for entry in folders]
    if "train" in parts and None in parts and len(set(parts)) > 2:
        raise DataError(
            f"{shown(root)}: some sub-folders are splits (train, val, test), but "
            f"{shown(folders[parts.index(None)].name)} is not; rename it or move it away"
        )
    if "train" in parts and None not in parts:
        _refuse_loose_images(root, entries)
        found = [_read_classes(root, Path(e.path), part) for e, part in zip(folders, parts, strict=True)]
    else:
        found = [_read_classes(root, root, None)]
    others = [name for _, names in found for name in names]
    kinds = sorted({Path(name).suffix.lower() or "no suffix" for name in others})
    note = f"; {counted(len(others), 'other file')} passed over ({', '.join(map(shown, kinds))})"
    return [item for items, _ in found for item in items], note if others else ""


def _read_classes(root: Path, folder: Path, part: str | None) -> tuple[list[Item], list[str]]:
    """Items of one folder of class folders, and names of other files there."""
    entries = _list(folder)
    classes = [entry for entry in entries if os.path.isdir(entry.path)]
    if not classes:
        images = [entry.name for entry in entries if _is_image(entry.name)]
        raise DataError(
            f"{shown(folder)}: expected a sub-folder of images per class or {TABLE} (columns image,label), "
            + (f"got {counted(len(images), 'image')} without a class" if images else "got no images")
            + (_table_hint(root) or "; sort the images into class folders or add the table")
        )
    _refuse_loose_images(folder, entries)
    items: list[Item] = []
    others: list[str] = []
    for entry in classes:
        paths, rest = _walk(entry.path)
        if not paths:
            raise DataError(
                f"no images in class folder {shown(entry.path)}: expected {', '.join(IMAGE_SUFFIXES)}, "
                + (f"got {counted(len(rest), 'other file')}, as {shown(rest[0])}" if rest else "it is empty")
                + "; add images or remove the folder"
            )
        others += rest
        where = f"class folder {shown(entry.path)}"
        items += [Item(p.relative_to(root).as_posix(), p, entry.name, where, part) for p in paths]
    return items, others


def _refuse_loose_images(folder: Path, entries: Iterable[os.DirEntry[str]]) -> None:
    loose = [entry.name for entry in entries if _is_image(entry.name) and not os.path.isdir(entry.path)]
    if loose:
        raise DataError(
            f"{shown(folder)}: {counted(len(loose), 'image')} beside the sub-folders, without a class "
            f"(first: {shown(loose[0])}); move into a class folder, or away"
        )


def _table_hint(root: Path) -> str:
    """For who gave the table another name."""
    tables = [entry.name for entry in _list(root) if entry.name.lower().endswith((".csv", ".tsv"))]
    return f"; if {shown(tables[0])} holds the labels, call it {TABLE}" if tables else ""


# The table


def _read_table(root: Path) -> list[Item]:
    """Items of layout 1."""
    table = root / TABLE
    where = shown(table)
    lines = _table_lines(table)
    if not lines:
        raise DataError(f"{where} is empty; expected a header such as image,label and one line per image")
    header = [cell.lower() for cell in lines[0][1]]
    image, label = _column(header, IMAGE_COLUMNS, where), _column(header, LABEL_COLUMNS, where)
    split = header.index(SPLIT_COLUMN) if SPLIT_COLUMN in header else None
    if len(lines) == 1:
        raise DataError(f"{where} has a header but no rows; add one line per image")

    base = Path(os.path.abspath(root))
    items: list[Item] = []
    line_of: dict[str, int] = {}
    for number, cells in lines[1:]:
        at = f"{where} line {number}"
        if len(cells) != len(header):
            raise DataError(
                f"{at}: expected {counted(len(header), 'cell')} as in the header, got {len(cells)}; "
                f"fill the row, and quote cells that hold the separator"
            )
        path = _path_below(base, cells[image], at)
        key = path.relative_to(base).as_posix()
        if key in line_of:
            raise DataError(f"{at}: {shown(key)} has a label already, in line {line_of[key]}; keep one row")
        line_of[key] = number
        if cells[label].lower() in {"", "nan"}:
            raise DataError(f"{at}: no label for {shown(key)}, got {cells[label]!r}; fill it in or remove the row")
        part = _part(cells[split], at) if split is not None else None
        items.append(Item(key, path, cells[label], at, part))

    missing = [item for item in items if not os.path.isfile(item.path)]
    if missing:
        raise DataError(
            f"{missing[0].where}: no image file {shown(missing[0].key)} in {shown(root)}"
            f"{and_more(len(missing) - 1, 'rows without a file')}; {_where_it_lies(root, missing[0].key)}"
        )
    unsplit = [item for item in items if item.part is None]
    if split is not None and 0 < len(unsplit) < len(items):
        raise DataError(f"{unsplit[0].where}: no split, but other rows have one; write train, val or test")
    return items


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


def _column(header: list[str], wanted: tuple[str, ...], where: str) -> int:
    """Number of the first of the `wanted` columns that is there."""
    name = next((name for name in wanted if name in header), None)
    if name is None:
        hints = [(cell, suggest(cell, wanted)) for cell in header if cell not in IMAGE_COLUMNS + LABEL_COLUMNS]
        remedy = f"call it {wanted[0]}"
        if any(map(_is_image, header)):
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


def _where_it_lies(root: Path, key: str) -> str:
    """Remedy for a missing file: where one of that name, with or without suffix, is."""
    name = Path(key).name.lower()
    for path in sorted(_walk(root)[0]):
        if name in (path.name.lower(), path.stem.lower()) and path.is_file():
            return f"write {shown(path.relative_to(root).as_posix())}"
    return f"paths are relative to the folder of {TABLE}; correct or remove the row"


# Labels


# Splits


# Pixels


def _read_images(root: Path, items: list[Item], size: int | None, channels: ChannelChoice) -> tuple[Tensor, str]:
    """uint8 (N, C, size, size), and a description of the files."""
    paths = [item.path for item in items]
    outcomes = _in_threads(_header, paths)
    headers = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    if len(headers) < len(items):
        # Count all bad files at once: some show only when decoded.
        _refuse_unreadable(root, items, _in_threads(lambda p: (_header(p), _decode(p, SMALLEST_SIZE, True)), paths))
    sizes = [(width, height) for width, height, _ in headers]
    side = size or common_size(root, items, sizes)
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


def _refuse_unreadable(root: Path, items: list[Item], outcomes: list[object | str]) -> None:
    bad = [(shown(item.key), shown(what)) for item, what in zip(items, outcomes, strict=True) if isinstance(what, str)]
    if bad:
        raise DataError(
            f"{shown(root)}: {len(bad):,} of {counted(len(items), 'image')} cannot be read, first "
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


def _common_channels(root: Path, items: list[Item], grey: list[bool], channels: ChannelChoice) -> bool:
    """Whether to read grey levels; `grey` says how each file stores them."""
    if channels != "auto":
        return channels == "grey"
    if len(set(grey)) > 1:
        one, other = shown(items[grey.index(True)].key), shown(items[grey.index(False)].key)
        raise DataError(
            f"{shown(root)}: expected all grey or all colour, got {one} in grey and {other} in colour "
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
