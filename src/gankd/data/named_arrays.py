"""Images and labels found by the names of arrays, as in .npz and .h5 files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gankd.data.arrays import Array, Images, check_label_shape, label_texts, refuse_strange, splits_of_arrays, texts_of
from gankd.data.images import Splits
from gankd.data.own import SHARES, SPLIT_NAMES, Choices, Item, TaskChoice, and_more, counted, several, shown
from gankd.errors import DataError

ROLES = {
    "images": ("images", "image", "x", "data", "fake_images"),
    "labels": ("label", "labels", "y", "class", "target", "targets", "value", "values", "angle", "age", "fake_labels"),
    "split": ("split",),
    "class_names": ("class_names", "label_names"),
}
"""Names that arrays may have, in small or capital letters; the first name found is read. `fake_images`
and `fake_labels` are the generated images of the authors of cGAN-KD."""
SPLIT_NUMBERS = {"0": "train", "1": "test"}

MOST_CLASSES = 1 << 20
"""Names of classes that are read."""

Read = Callable[[str, bool], Any]
"""(name, whole) to an array: in memory if `whole`, otherwise one that has its shape and type and is read in blocks."""
Roles = dict[tuple[str, str], str]
"""(role, split or "") to the name of the array in that role."""


def load_named(path: Path, names: Sequence[str], read: Read, choices: Choices, example: str) -> Splits:
    """Splits of arrays named as in `ROLES`, in one of the two layouts of `load_npz`.

    Args:
        path: the file.
        names: names of all its arrays; those without a role are not read.
        read: returns arrays; into memory only those whose shape is right.
        choices: the user's settings.
        example: code that writes such a file, for error messages.

    Raises:
        ConfigError: a range of classes. DataError: an array or a label cannot be used.
    """
    roles = _roles(shown(path), names, example)
    groups = choices.group_name and _group_arrays(path, names, choices.group_name)
    sets = [_read_set(path, roles, read, part, choices.task, groups or {}) for role, part in roles if role == "images"]
    items = [item for _, found in sets for item in found]
    if len({item.label for item in items}) < 2:
        raise DataError(f"{shown(path)}: expected at least 2 different labels, got only {shown(items[0].label)}")
    class_names = _class_names(path, roles, read, items) if choices.task != "regression" else ()
    return splits_of_arrays(path, items, [images for images, _ in sets], choices, class_names=class_names)


def unlabelled_sets(path: Path, names: Sequence[str], read: Read, example: str) -> list[Images]:
    """All arrays of images, whether they have labels or not.

    Raises:
        DataError: there is none, or one cannot be used.
    """
    roles = _roles(shown(path), names, example, labelled=False)
    return [
        Images(f"{shown(path)}: {shown(name)}", read(name, False), path)
        for (role, _), name in roles.items()
        if role == "images"
    ]


def _roles(where: str, names: Sequence[str], example: str, *, labelled: bool = True) -> Roles:
    """Role of each array; `labelled` asks for labels of all images."""
    known: dict[tuple[str, str], str] = {}
    for name in names:
        first, _, last = name.lower().replace("/", "_").partition("_")
        word, part = (last, first) if first in SPLIT_NAMES else (first, last)
        key = (word, SPLIT_NAMES[part]) if part in SPLIT_NAMES else (name.lower(), "")
        known.setdefault(key, name)
    roles = {
        (role, part): known[word, part]
        for role, words in ROLES.items()
        for part in ("", *SHARES)
        for word in reversed(words)
        if (word, part) in known
    }
    if ("images", "") in roles:  # then arrays of single splits have another purpose
        roles = {(role, part): name for (role, part), name in roles.items() if part == ""}
    got = f"got {', '.join(map(shown, names[:20])) or 'no arrays'}{and_more(len(names[20:]), 'arrays')}"
    found = {part for role, part in roles if role == "images"}
    if not (found & {"", "train"} if labelled else found):
        others = ", ".join(ROLES["images"][1:])
        raise DataError(f"{where}: expected an array images (or {others}, or x_train), {got}; write it by {example}")
    for role, part in roles:
        if labelled and role == "images" and ("labels", part) not in roles:
            first, *rest = (f"{word}_{part}" if part else word for word in ROLES["labels"])
            raise DataError(f"{where}: expected an array {first} (or {', '.join(rest)}), {got}; write it by {example}")
    return roles


def _read_set(
    path: Path, roles: Roles, read: Read, part: str, task: TaskChoice, groups: dict[str, str]
) -> tuple[Images, list[Item]]:
    """Images of a split (of all if "") and an item for each, with its group from the array that `groups` names."""
    images, label = roles["images", part], roles["labels", part]
    where = f"{shown(path)}: {shown(label)}"
    pixels = Images(f"{shown(path)}: {shown(images)}", read(images, False), path)
    stored = read(label, False)
    check_label_shape(where, stored)
    if len(pixels) != stored.shape[0]:
        raise DataError(
            f"{shown(path)}: expected a label for each image, got {counted(len(pixels), 'image')} in {shown(images)} "
            f"and {counted(stored.shape[0], 'label')} in {shown(label)}; leave out what has no partner"
        )
    texts = label_texts(where, read(label, True), task)
    parts: list[str | None] = [part or None] * len(texts)
    if part == "" and ("split", "") in roles:
        parts = _parts(path, roles["split", ""], read, len(texts))
    own: Sequence[str | None] = [None] * len(texts)
    if part in groups:
        own = _groups(path, groups[part], read, len(texts))
    return pixels, [
        Item(f"{images}[{row}]", path, text, f"{where}[{row}]", chosen, group)
        for row, (text, chosen, group) in enumerate(zip(texts, parts, own, strict=True))
    ]


def _group_arrays(path: Path, names: Sequence[str], group: str) -> dict[str, str]:
    """Array of groups of each split, or of all under "".

    Raises:
        DataError: there is none.
    """
    found = {}
    for name in names:
        first, _, last = name.lower().replace("/", "_").partition("_")
        known = {name.lower(): "", **({last: first} if first in SPLIT_NAMES else {first: last})}
        part = known.get(group.lower())
        if part == "" or part in SPLIT_NAMES:
            found["" if part == "" else SPLIT_NAMES[part]] = name
    if not found:
        got = f"{', '.join(map(shown, names[:20]))}{and_more(len(names[20:]), 'arrays')}"
        raise DataError(
            f"{shown(path)}: no array {shown(group)} of groups, got {got}; name one, or leave data.group out"
        )
    return found


def _groups(path: Path, name: str, read: Read, count: int) -> list[str]:
    """The group of each image."""
    array: Array = read(name, False)
    if tuple(array.shape) in ((count,), (count, 1)):
        array = read(name, True)
    if tuple(array.shape) not in ((count,), (count, 1)) or array.dtype.kind not in "biuSU":
        raise DataError(
            f"{shown(path)}: expected {shown(name)} ({count},), a group for each image as a whole number or text, got "
            f"{array.dtype} {tuple(array.shape)}; save one entry per image"
        )
    return texts_of(array.reshape(-1))


# Labels


def _class_names(path: Path, roles: Roles, read: Read, items: list[Item]) -> tuple[str, ...]:
    """Names of classes 0 .. K - 1; empty if the file does not say."""
    if ("class_names", "") not in roles:
        return ()
    name = roles["class_names", ""]
    array = read(name, False)
    if len(array.shape) == 1 and array.shape[0] <= MOST_CLASSES:
        array = read(name, True)
    names = texts_of(array) if isinstance(array, np.ndarray) and array.dtype.kind in "SU" else []
    if not names or len(set(names)) < len(names):
        raise DataError(
            f"{shown(path)}: expected (K,) texts that differ in {shown(name)}, got {array.dtype} {array.shape}; "
            "save one name per class"
        )
    if not several(items):
        refuse_strange(items, len(names), shown(name))
    return tuple(map(shown, names))


def _parts(path: Path, name: str, read: Read, count: int) -> list[str | None]:
    """The user's split of each image."""
    array: Array = read(name, False)
    if array.shape == (count,):
        array = read(name, True)
    if array.shape != (count,) or array.dtype.kind not in "biuSU":
        raise DataError(
            f"{shown(path)}: expected {shown(name)} ({count},) of 0 (train) and 1 (test), or of train, val and test, "
            f"got {array.dtype} {array.shape}; save one entry per image"
        )
    texts = texts_of(array.astype(np.int64) if array.dtype.kind == "b" else array)
    parts = [SPLIT_NUMBERS.get(text) or SPLIT_NAMES.get(text.lower()) for text in texts]
    if None in parts:
        row = parts.index(None)
        raise DataError(
            f"{shown(path)}: {shown(name)}[{row}]: expected 0 (train) or 1 (test), or train, val or test, "
            f"got {shown(texts[row])}; correct it"
        )
    return parts
