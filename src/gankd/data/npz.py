"""The user's own images and labels as arrays in one `.npz` file: found by name, checked, split."""

from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.npyio import NpzFile
from PIL import Image

from gankd.config import require
from gankd.data.images import LabelledImages, Splits
from gankd.data.own import (
    SHARES,
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
from gankd.tasks import Classification

ROLES = {
    "images": ("images", "image", "x", "data"),
    "labels": ("label", "labels", "y", "class", "target", "targets", "value", "values", "angle", "age"),
    "split": ("split",),
    "class_names": ("class_names", "label_names"),
}
"""What arrays may be called, in small or capital letters; of several names the first that is there is read."""
SPLIT_NUMBERS = {"0": "train", "1": "test"}
EXAMPLE = "np.savez(file, images=images, label=label)"

Array = npt.NDArray[Any]
Arrays = dict[tuple[str, str], tuple[str, Array]]
"""(role, split or "") to the name in the file and the array."""


def load_npz(
    path: str | Path,
    *,
    task: TaskChoice = "auto",
    size: int | None = None,
    channels: ChannelChoice = "auto",
    low: float | None = None,
    high: float | None = None,
    seed: int = 0,
) -> Splits:
    """Read images and labels from a numpy archive, in one of two layouts; what arrays are called is in `ROLES`.

    1. `images` and `label`; `split` (0 train and 1 test, or train, val and test as text) is optional.
    2. `x_train` and `y_train`, or `train_images` and `train_labels`; the same for val and test is optional.

    Images: (N, H, W), (N, H, W, C) or (N, C, H, W) with one or three channels, uint8, or floats in [0, 1], which
    are rounded to 255ths. Labels: (N,) or (N, 1), numbers or text. `class_names` (K,) is optional and says what
    the labels 0 .. K - 1 are called. Nothing is unpickled, and arrays with other names are not read.

    Task: text is classes, and so are integers with `class_names`, or few different ones (see `load_folder`); other
    numbers are regressed. `task` overrides this. The range of a regression, and what becomes of a missing
    val or test, are as in `load_folder`.

    Args:
        path: the file.
        task: what the labels are.
        size: height and width in pixels, a multiple of 4 from 8 to 128, to which the central square is resampled,
            bicubic and antialiased; None takes square images as they are.
        channels: "grey" for one channel, "rgb" for three, "auto" for those in the file.
        low: lower end of the label range in user units; regression only.
        high: upper end.
        seed: draws the split.

    Returns:
        uint8 images (N, C, size, size), each split in the order of the file. The card holds origin, licence,
        split and how the labels were read.

    Raises:
        ConfigError: a setting is out of range.
        DataError: the file, an array or a label cannot be used.
    """
    path = Path(path)
    check_settings(task, size, channels, low, high)
    arrays = _read(path)
    sets = [_read_set(path, arrays, part, task) for role, part in arrays if role == "images"]
    items = [item for _, found in sets for item in found]
    if len({pixels.shape[1:] for pixels, _ in sets}) > 1:
        shapes = ", ".join(str(pixels.shape[1:]) for pixels, _ in sets)
        raise DataError(f"{shown(path)}: expected images of one shape in all splits, got {shapes}; bring them to one")
    if len({item.label for item in items}) < 2:
        raise DataError(f"{shown(path)}: expected at least 2 different labels, got only {shown(items[0].label)}")

    class_names = _class_names(path, arrays, items) if task != "regression" else ()
    kind, why = choose_task(items, task, tabular=True)
    if class_names:
        kind, why = "classification", "class_names tells what the integers are called"
    if kind == "regression":
        labels, found_task = read_values(path, items, low, high)
    else:
        require(
            low is None and high is None,
            f"low and high are for regression, but {shown(path)} has classes; add --task regression",
        )
        labels, found_task = read_classes(path, items)
        if class_names and isinstance(found_task, Classification):
            found_task = replace(found_task, class_names=tuple(class_names[int(n)] for n in found_task.class_names))
    index, split = draw_split(path, items, labels, found_task, seed)

    pixels = np.concatenate([pixels for pixels, _ in sets])
    height, width = pixels.shape[1:3]
    side = size or common_size(path, items[:1], [(width, height)])
    images = torch.from_numpy(_fit(pixels, side, channels))
    colour = "grey" if images.shape[1] == 1 else "RGB"
    card = {
        "origin": f"file {shown(path.name)}: {counted(len(items), 'image')}, {width}x{height} pixels, "
        f"used as {colour} {side}x{side}",
        "licence": "the user's own",
        "split": split,
        "labels": f"{kind}: {why}",
    }
    whole = LabelledImages(images, labels, found_task)
    train, val, test = (whole.subset(index[part]) for part in SHARES)
    return Splits(train, val, test, path.stem, card)


# The file


def _read(path: Path) -> Arrays:
    """The arrays that play a role, images with their labels."""
    where = shown(path)
    if path.is_dir():
        raise DataError(f"{where} is a folder; for a folder of images: gankd run folder --data {where}")
    if not path.is_file():
        raise DataError(f"no file {where}; expected an .npz file with images and labels; check the path")
    try:
        with path.open("rb") as file, _archive(where, file) as stored:
            return {key: (name, _array(where, stored, name)) for key, name in _roles(where, stored.files).items()}
    except OSError as error:
        raise DataError(f"cannot read {where}: {error.strerror}; check its permissions") from None


def _archive(where: str, file: BinaryIO) -> NpzFile:
    try:
        stored = np.load(file, allow_pickle=False)
    except Exception as error:  # whatever a broken file makes of zip and numpy
        reason = _reason(error).partition(" If you trust")[0]  # numpy would tell how to run what is in the file
        raise DataError(f"{where} is no .npz file, or a damaged one ({reason}); write it by {EXAMPLE}") from None
    if not isinstance(stored, NpzFile):
        raise DataError(f"{where} holds one array and no name; expected images and labels; write it by {EXAMPLE}")
    return stored


def _roles(where: str, names: list[str]) -> dict[tuple[str, str], str]:
    """(role, split or "") to the name of the array that plays it."""
    known: dict[tuple[str, str], str] = {}
    for name in names:
        first, _, last = name.lower().partition("_")
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
    if ("images", "") in roles:  # then arrays of single splits are something else
        roles = {(role, part): name for (role, part), name in roles.items() if part == ""}
    got = f"got {', '.join(map(shown, names[:20])) or 'no arrays'}{and_more(len(names[20:]), 'arrays')}"
    if not {("images", ""), ("images", "train")} & set(roles):
        others = ", ".join(ROLES["images"][1:])
        raise DataError(f"{where}: expected an array images (or {others}, or x_train), {got}; write it by {EXAMPLE}")
    for role, part in roles:
        if role == "images" and ("labels", part) not in roles:
            first, *rest = (f"{word}_{part}" if part else word for word in ROLES["labels"])
            raise DataError(f"{where}: expected an array {first} (or {', '.join(rest)}), {got}; write it by {EXAMPLE}")
    return roles


def _array(where: str, stored: NpzFile, name: str) -> Array:
    try:
        array: Any = stored[name]
        if isinstance(array, np.ndarray):  # bytes, where a member of the archive is no .npy file
            return array
        reason = "no array"
    except MemoryError:
        raise
    except Exception as error:  # whatever a broken file makes of zip and numpy
        reason = _reason(error)
    if "allow_pickle" in reason:
        raise DataError(
            f"{where}: {shown(name)} is an array of Python objects, which is a pickle and could run code when read; "
            "save images as one uint8 array (N, H, W, C), and labels as numbers or text"
        )
    raise DataError(f"{where}: {shown(name)} cannot be read ({reason}); write it by {EXAMPLE}")


def _reason(error: Exception) -> str:
    return shown(" ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__)


def _read_set(path: Path, arrays: Arrays, part: str, task: TaskChoice) -> tuple[Array, list[Item]]:
    """Images uint8 (N, H, W, C) of a split (of all if "") and what is known of each."""
    (images, pixels), (label, values) = arrays["images", part], arrays["labels", part]
    pixels = _pixels(f"{shown(path)}: {shown(images)}", pixels)
    texts = _label_texts(f"{shown(path)}: {shown(label)}", values, task)
    if len(pixels) != len(texts):
        raise DataError(
            f"{shown(path)}: expected a label for each image, got {counted(len(pixels), 'image')} in {shown(images)} "
            f"and {counted(len(texts), 'label')} in {shown(label)}; leave out what has no partner"
        )
    parts: list[str | None] = [part or None] * len(texts)
    if part == "" and ("split", "") in arrays:
        parts = _parts(path, *arrays["split", ""], len(texts))
    where = f"{shown(path)}: {shown(label)}"
    return pixels, [
        Item(f"{images}[{row}]", path, text, f"{where}[{row}]", chosen)
        for row, (text, chosen) in enumerate(zip(texts, parts, strict=True))
    ]


# Labels


def _texts(array: Array) -> list[str]:
    """Integers or text (N,), as text."""
    text = np.char.decode(array, errors="replace") if array.dtype.kind == "S" else array.astype(str)
    found: list[str] = text.tolist()
    return found


def _label_texts(where: str, values: Array, task: TaskChoice) -> list[str]:
    """Labels as they would stand in a table: integers without a point, other numbers so that they read back exactly."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    kind = values.dtype.kind
    if values.ndim != 1 or kind not in "biufSU":
        remedy = "save labels.argmax(1)" if values.ndim == 2 else "save one number or word per image"
        raise DataError(f"{where}: expected labels (N,), got {values.dtype} {values.shape}; {remedy}")
    if kind == "f":
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise DataError(
                f"{where}[{bad[0]}]: expected a finite label, got {values[bad[0]]}"
                f"{and_more(len(bad) - 1, 'such labels')}; leave the image out"
            )
    # Classes stored as floats are called 3, not 3.0.
    if kind == "b" or (kind == "f" and task == "classification" and (values == np.rint(values)).all()):
        values = values.astype(np.int64)
    texts = _texts(values)
    if "" in texts:
        raise DataError(f"{where}[{texts.index('')}]: no label; fill it in or leave the image out")
    return texts


def _class_names(path: Path, arrays: Arrays, items: list[Item]) -> tuple[str, ...]:
    """What classes 0 .. K - 1 are called; nothing if the file does not say."""
    if ("class_names", "") not in arrays:
        return ()
    name, array = arrays["class_names", ""]
    names = _texts(array) if array.ndim == 1 and array.dtype.kind in "SU" else []
    if not names or len(set(names)) < len(names):
        raise DataError(
            f"{shown(path)}: expected (K,) texts that differ in {shown(name)}, got {array.dtype} {array.shape}; "
            "save one name per class"
        )
    known = set(map(str, range(len(names))))
    strange = [item for item in items if item.label not in known]
    if strange:
        raise DataError(
            f"{strange[0].where}: expected an integer from 0 to {len(names) - 1}, as {shown(name)} has "
            f"{counted(len(names), 'name')}, got {shown(strange[0].label)}; correct it, or leave {shown(name)} out"
        )
    return tuple(map(shown, names))


def _parts(path: Path, name: str, array: Array, count: int) -> list[str | None]:
    """The split that the user chose for each image."""
    if array.shape != (count,) or array.dtype.kind not in "biuSU":
        raise DataError(
            f"{shown(path)}: expected {shown(name)} ({count},) of 0 (train) and 1 (test), or of train, val and test, "
            f"got {array.dtype} {array.shape}; save one entry per image"
        )
    texts = _texts(array.astype(np.int64) if array.dtype.kind == "b" else array)
    parts = [SPLIT_NUMBERS.get(text) or SPLIT_NAMES.get(text.lower()) for text in texts]
    if None in parts:
        row = parts.index(None)
        raise DataError(
            f"{shown(path)}: {shown(name)}[{row}]: expected 0 (train) or 1 (test), or train, val or test, "
            f"got {shown(texts[row])}; correct it"
        )
    return parts


# Pixels


def _pixels(where: str, array: Array) -> Array:
    """uint8 (N, H, W, C) of images as they may be stored."""
    stored, channels = array, (1, 3)
    if array.ndim == 3:
        array = array[..., None]
    elif array.ndim == 4 and array.shape[3] not in channels:
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[3] not in channels or array.size == 0:
        raise DataError(
            f"{where}: expected images (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, "
            f"got {stored.shape}; reshape them"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise DataError(
            f"{where}: expected uint8, or floats in [0, 1], got {array.dtype}; save levels from 0 to 255 by "
            "images.astype(np.uint8)"
        )
    least, most = array.min(), array.max()
    if not (least >= 0 and most <= 1):  # true of nan, too
        raise DataError(
            f"{where}: expected floats in [0, 1], or uint8, got {least:g} to {most:g}; "
            "save levels from 0 to 255 by np.rint(images).astype(np.uint8)"
        )
    levels: Array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    return levels


def _fit(pixels: Array, side: int, channels: ChannelChoice) -> Array:
    """uint8 (N, H, W, C) to (N, C, side, side): the central square resampled, colours as chosen."""
    count, height, width, depth = pixels.shape
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    pixels = pixels[:, top : top + short, left : left + short]
    grey = depth == 1 if channels == "auto" else channels == "grey"
    if short != side or (grey and depth == 3):
        fitted = np.empty((count, side, side, 1 if grey else depth), np.uint8)
        for row, picture in enumerate(pixels):
            image = Image.fromarray(picture if depth == 3 else picture[..., 0])
            image = (image.convert("L") if grey else image).resize((side, side), Image.Resampling.BICUBIC)
            fitted[row] = np.asarray(image).reshape(side, side, -1)
        pixels = fitted
    pixels = np.broadcast_to(pixels, (count, side, side, 1 if grey else 3))
    return np.array(pixels.transpose(0, 3, 1, 2), order="C")
