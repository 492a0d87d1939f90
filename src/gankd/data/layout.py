"""Levels of folders: sub-folders that are splits, or hold the classes, and not the classes that they seem."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from gankd.data.files import is_image, list_folder
from gankd.data.own import SPLIT_NAMES, shown
from gankd.errors import DataError

Layout = Literal["auto", "classes", "splits"]
"""Meaning of the sub-folders: found by their names and content, classes, or splits with class folders inside."""

Role = Literal["train", "val", "test", "dev", "eval", "fold"]

_ROLES: dict[Role, tuple[str, ...]] = {
    "train": ("train", "training", "trainval", "trn", "tr"),
    "val": ("val", "valid", "validation", "validate", "vld", "va"),
    "test": ("test", "testing", "tst", "ts", "te", "holdout", "heldout"),
    "dev": ("dev", "devel", "development"),
    "eval": ("eval", "evaluation"),
    "fold": ("fold", "folds", "kfold", "cv", "split", "subset", "partition"),
}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_SUFFIX = re.compile(r"(?<=[a-z]{2})(sets?|data|images?|imgs?)$")
_SHOWN = 4
"""Number of folders that a message names."""


def role_of(name: str) -> Role | None:
    """Split that a folder's name speaks of ("train2017", "seg_test", "ValSet"), or None."""
    words = {_SUFFIX.sub("", word.lower()) for word in _WORD.findall(name)}
    return next((role for role, known in _ROLES.items() if words & set(known)), None)


def part_of_each(root: Path, names: Sequence[str]) -> list[str]:
    """Split (train, val or test) of each folder, where all are splits.

    `dev` is train where no other folder is, otherwise val; `eval` is test where no other folder is, otherwise val.
    Folds, and folders whose names speak of no split, are train.

    Raises:
        DataError: some names speak of a split and others do not.
    """
    roles = [role_of(name) for name in names]
    if None in roles and set(roles) != {None}:
        raise DataError(
            f"{shown(root)}: expected every sub-folder to be a split, but the name of "
            f"{shown(names[roles.index(None)])} does not say which; call it train, val or test, or move it away"
        )
    return [part or "train" for part in _parts(roles)]


def _parts(roles: Sequence[Role | None]) -> list[str | None]:
    """Split of each role; None for folds and where there is no role."""
    as_part = {
        "dev": "val" if "train" in roles or "fold" in roles else "train",
        "eval": "val" if "test" in roles else "test",
    }
    return [role if role in ("train", "val", "test") else as_part.get(str(role)) for role in roles]


def parts_of_files(root: Path, paths: Sequence[Path]) -> list[str | None]:
    """Split of each file below `root` that its name or folder speaks of ("train-00000-of-00002", "test/0"), or None."""
    return _parts(
        [role_of(path.stem) or (role_of(path.parent.name) if path.parent != root else None) for path in paths]
    )


def given_splits(
    root: Path, folders: Sequence[os.DirEntry[str]], layout: Layout, grouped: bool = False
) -> list[str] | None:
    """Split of each sub-folder of `root`, or None where the sub-folders are classes.

    With `grouped`, folders below the classes are known to be groups of images.

    Raises:
        DataError: with layout auto, the sub-folders may be either.
    """
    names = [folder.name for folder in folders]
    if layout != "auto":
        return part_of_each(root, names) if layout == "splits" else None
    plain = [SPLIT_NAMES.get(name.lower()) for name in names]
    if "train" in plain and None not in plain:
        return [str(part) for part in plain]
    roles = [role_of(name) for name in names]
    if "train" in plain and len(set(plain) - {None}) > 1 and None in roles:
        raise DataError(
            f"{shown(root)}: some sub-folders are splits (train, val, test), but "
            f"{shown(names[roles.index(None)])} is not; rename it or move it away, or, if all are classes: "
            f"{_command(root, 'classes')}"
        )
    named = [role for role in roles if role]
    if len(named) * 2 > len(names) and (len(set(named)) > 1 or (named.count("fold") > 1 and len(named) == len(names))):
        _ask_about_splits(root, names, roles, folders)
    if not grouped:
        refuse_nested(root, folders)
    return None


def _ask_about_splits(
    root: Path, names: list[str], roles: list[Role | None], folders: Sequence[os.DirEntry[str]]
) -> None:
    like = [name for name, role in zip(names, roles, strict=True) if role]
    start = f"{shown(root)}: the sub-folders {_listed(like)} look like splits, not like classes"
    if len(like) < len(names):
        start += f", but {shown(names[roles.index(None)])} does not: rename it or move it away if they are splits"
    elif any(os.path.isdir(entry.path) for folder in folders for entry in list_folder(folder.path)):
        parts = ", ".join(f"{shown(n)} as {p}" for n, p in zip(names, part_of_each(root, names), strict=True))
        start += f"; if they are splits ({parts}): {_command(root, 'splits')}"
    else:
        start += ", and hold no class folders: sort their images into class folders, or add labels.csv"
    raise DataError(f"{start}; if they are classes: {_command(root, 'classes')}")


def refuse_nested(root: Path, folders: Sequence[os.DirEntry[str]], *, part: bool = False) -> None:
    """Raise DataError where the sub-folders hold the same sub-folders, which then may be the classes.

    Args:
        root: folder of `folders`.
        folders: its sub-folders, taken for classes.
        part: `root` is a split.
    """
    if len(folders) == 1:
        below = folder_of_classes(root)
        if part and below != root:
            raise DataError(
                f"{shown(root)}: expected at least 2 classes, got one sub-folder; move what {shown(below)} holds to "
                f"{shown(root)}"
            )
        return
    inside: list[set[str]] = []
    for folder in folders:
        entries = list_folder(folder.path)
        inner = {entry.name for entry in entries if os.path.isdir(entry.path)}
        if not inner or any(is_image(entry.name) for entry in entries if entry.name not in inner):
            return
        inside.append(inner)
    common = sorted(set.intersection(*inside)) if inside else []
    if len(common) < 2 or 2 * len(common) < min(map(len, inside)):
        return
    names = [folder.name for folder in folders]
    classes = _command(root, "classes")
    start = f"{shown(root)}: the sub-folders {_listed(names)} hold the same sub-folders {_listed(common)}"
    if part:
        remedy = f"make {_listed(common)} the sub-folders of {shown(root.name)} if they are the classes"
        classes = _command(root.parent, "splits")  # which settles that there are no more splits further down
    elif len({role_of(name) for name in common} - {None}) > 1:
        remedy = (
            "splits are expected above classes, as in "
            f"{shown(root / common[0] / names[0])}; move the folders, or else mix these splits"
        )
        raise DataError(f"{start}; {remedy}: {classes}")
    else:
        remedy = f"if {_listed(common)} are the classes: {_command(root, 'splits')}"
    raise DataError(f"{start}; {remedy}; if {_listed(names)} are the classes: {classes}")


def folder_of_classes(root: Path) -> Path:
    """Folder that holds the class folders, the splits or the table: `root`, or the only folder in it, and so on."""
    folder = root
    while True:
        entries = list_folder(folder)
        inner = [entry for entry in entries if os.path.isdir(entry.path)]
        if any(entry.name == "labels.csv" for entry in entries):
            return folder
        if not inner or any(is_image(entry.name) for entry in entries if entry not in inner):
            return root
        if len(inner) > 1 or SPLIT_NAMES.get(inner[0].name.lower()) == "train":
            return folder
        folder = Path(inner[0].path)


def _command(root: Path, layout: Layout) -> str:
    return f"gankd run folder --data {_quoted(root)} --set data.layout={layout}"


def _quoted(path: Path) -> str:
    return shown(shlex.quote(str(path)))


def _listed(names: Sequence[str]) -> str:
    more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    *first, last = [*map(shown, names[:_SHOWN]), *more]
    return f"{', '.join(first)} and {last}" if first else last
