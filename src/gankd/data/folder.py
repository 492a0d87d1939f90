"""Read the user's own folder of images: find, label, check, split, and decode to square uint8 tensors."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Unpack, get_args

from gankd.config import require
from gankd.data.files import IMAGE_SUFFIXES, Files, is_image, list_folder, splits_of_pictures, walk
from gankd.data.images import Splits
from gankd.data.layout import Layout, folder_of_classes, given_splits, refuse_nested
from gankd.data.own import Choices, FileSettings, Item, counted, shown, with_part
from gankd.data.table import TABLE, read_table
from gankd.errors import DataError


def load_folder(
    root: str | Path,
    *,
    layout: Layout = "auto",
    **settings: Unpack[FileSettings],
) -> Splits:
    """Read a folder of images with labels, in one of three layouts.

    1. `root/labels.csv` (UTF-8; comma, semicolon or tab): a header, then one row per image. Column `image`
       (or `file`, `filename`, `path`) is the path below `root`; the column `label` (or `class`, `target`,
       `value`, `angle`, `age`; the first of these that is there) the label; a column `split` (train, val,
       test) is optional. Images without a row are not used. With a table, names of sub-folders mean nothing.
    2. `root/train/CLASS/*`, `root/val/CLASS/*`, `root/test/CLASS/*`.
    3. `root/CLASS/*`, deeper sub-folders included. Classes are sorted by name, by value if all are integers.

    All this may lie in the only sub-folder of `root`, or deeper. Sub-folders that may be splits (training_set, val2017,
    fold1; or all hold the same sub-folders) are refused unless `layout` says what they are. As splits, names tell
    which: see `part_of_each`.

    Task: class folders and text labels are classes. Numbers are regressed, unless all are written as
    integers, at most 20 of them differ and each has 3 images on average: then they name classes. `task`
    overrides both; class folders named by numbers can be regressed too. The range of a regression runs from
    the least to the greatest label of all splits, unless `low` or `high` is given.

    Splits: the user's own splits stay. A missing val or test is drawn from train, train : val : test =
    7 : 1 : 2, in each class or in each run of about ten neighbouring labels, at least one image each. The
    draw depends only on `seed`, paths below `root` and labels. Images that belong together (a person, a
    video) need the user's own split.

    Pixels: first frame, turned as EXIF says, transparency on white, CMYK and palettes to RGB, 16 bits to 8 by
    65535 -> 255. `size=None` takes square images of one size as they are; with `size` the central square is
    resampled, bicubic and antialiased. `channels="auto"` goes by how the files store them: all grey or all
    colour.

    Args:
        root: the folder.
        layout: what the sub-folders are: classes, or splits with class folders inside; auto: by their names.
        settings: those of `Choices`.

    Returns:
        uint8 images (N, C, size, size), each split sorted by path. The card holds origin, licence, split and
        how the labels were read.

    Raises:
        ConfigError: a setting is out of range, or a layout for a table.
        DataError: the folder, the table, a label or an image cannot be used.
    """
    root = Path(root)
    choices = Choices(**settings)
    _check_root(root)
    require(layout in get_args(Layout), f"layout must be auto, classes or splits, got {layout!r}")
    given = root
    root, items, passed_over = _items(given, layout, choices)
    for part, path in choices.other_paths.items():
        _check_root(path)
        items = with_part(items, _items(path, layout, choices)[1], part, path)
    tabular = os.path.lexists(root / TABLE)
    items = sorted(items, key=lambda item: item.key)
    pictures = Files([item.path for item in items])
    splits = splits_of_pictures(root, items, pictures, choices, what="folder", tabular=tabular, hint=_table_hint(root))
    inside = f", in {shown(root.relative_to(given).as_posix())}" if root != given else ""
    return replace(splits, card=splits.card | {"origin": splits.card["origin"] + inside + passed_over})


def _items(root: Path, layout: Layout, choices: Choices) -> tuple[Path, list[Item], str]:
    """The folder that holds class folders or the table, its items, and a note on other files."""
    if layout == "auto":
        root = folder_of_classes(root)
    if os.path.lexists(root / TABLE):
        require(layout == "auto", f"layout is for class folders, but {shown(root)} has {TABLE}; leave it out")
        return root, read_table(root / TABLE, choices.label, choices.group_name), ""
    require(
        not choices.label,
        f"label names columns of {TABLE}, but the labels of {shown(root)} are its class folders; leave it out",
    )
    items, passed_over = _read_class_folders(root, layout, grouped=choices.group_name is not None)
    if choices.group_name is not None:
        items = [replace(item, group=_folder_level(root, item, choices.group_name)) for item in items]
    return root, items, passed_over


def _folder_level(root: Path, item: Item, level: str) -> str | None:
    """Folders of an image down to `level` below its class; None if it is less deep."""
    require(
        level.isdecimal() and int(level) > 0,
        f"data.group is a level of folders below the class folders, 1, 2, ..., got {level!r} (or a column of {TABLE})",
    )
    below = item.key.partition(f"{item.label}/")[2].split("/")[:-1]
    return "/".join(below[: int(level)]) if len(below) >= int(level) else None


# Settings, names, folders


def _check_root(root: Path) -> None:
    expected = f"expected a folder with one sub-folder of images per class, or with {TABLE}"
    if not os.path.exists(root):
        raise DataError(f"no folder {shown(root)}; {expected}; check the path")
    if not os.path.isdir(root):
        remedies = {
            ".csv": f"give the folder that holds it, and call it {TABLE}, or: gankd run table --data {shown(root)}",
            ".npz": f"arrays have a recipe of their own: gankd run npz --data {shown(root)}",
        }
        remedy = remedies.get(root.suffix.lower(), "give a folder (unpack archives first)")
        raise DataError(f"{shown(root)} is a file; {expected}; {remedy}")


# Class folders


def _read_class_folders(root: Path, layout: Layout, grouped: bool) -> tuple[list[Item], str]:
    """Items of layouts 2 and 3, and a note on other files."""
    entries = list_folder(root)
    folders = [entry for entry in entries if os.path.isdir(entry.path)]
    parts = given_splits(root, folders, layout, grouped) if folders else None
    if parts is None:
        found = [_read_classes(root, root, None)]
    else:
        _refuse_loose_images(root, entries)
        below: Layout = "classes" if grouped else layout
        found = [_read_classes(root, Path(e.path), part, below) for e, part in zip(folders, parts, strict=True)]
    others = [name for _, names in found for name in names]
    kinds = sorted({Path(name).suffix.lower() or "no suffix" for name in others})
    note = f"; {counted(len(others), 'other file')} passed over ({', '.join(map(shown, kinds))})"
    return [item for items, _ in found for item in items], note if others else ""


def _read_classes(
    root: Path, folder: Path, part: str | None, layout: Layout = "classes"
) -> tuple[list[Item], list[str]]:
    """Items of one folder of class folders, and names of other files there."""
    entries = list_folder(folder)
    classes = [entry for entry in entries if os.path.isdir(entry.path)]
    if not classes:
        images = [entry.name for entry in entries if is_image(entry.name)]
        raise DataError(
            f"{shown(folder)}: expected a sub-folder of images per class or {TABLE} (columns image,label), "
            + (f"got {counted(len(images), 'image')} without a class" if images else "got no images")
            + (_table_hint(root) or "; sort the images into class folders or add the table")
        )
    _refuse_loose_images(folder, entries)
    if layout == "auto":
        refuse_nested(folder, classes, part=True)
    items: list[Item] = []
    others: list[str] = []
    for entry in classes:
        paths, rest = walk(entry.path)
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
    loose = [entry.name for entry in entries if is_image(entry.name) and not os.path.isdir(entry.path)]
    if loose:
        raise DataError(
            f"{shown(folder)}: {counted(len(loose), 'image')} next to the sub-folders, without a class "
            f"(first: {shown(loose[0])}); move into a class folder, or away"
        )


def _table_hint(root: Path) -> str:
    """Remedy for a table with another name."""
    tables = [entry.name for entry in list_folder(root) if entry.name.lower().endswith((".csv", ".tsv"))]
    if not tables:
        return ""
    return (
        f"; if {shown(tables[0])} holds the labels, call it {TABLE}, or: "
        f"gankd run table --data {shown(root / tables[0])}"
    )
