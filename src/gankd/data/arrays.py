"""Images and labels in arrays, whatever file or object these come from."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from gankd.data.copies import check_copies
from gankd.data.images import LabelledImages, Splits
from gankd.data.labels import settle
from gankd.data.own import (
    ChannelChoice,
    Choices,
    FitChoice,
    Item,
    TaskChoice,
    and_more,
    common_size,
    counted,
    fitted,
    joined,
    shown,
)
from gankd.data.store import Fill, Key, arrange, source_key
from gankd.errors import DataError
from gankd.sizes import sides
from gankd.tasks import Task

BLOCK_BYTES = 1 << 26
"""Bytes read at a time."""

Array = npt.NDArray[Any]


class Readable(Protocol):
    """An open file, or the like."""

    def read(self, count: int, /) -> bytes:
        """Read as a binary file does."""


@dataclass(frozen=True)
class Stream:
    """An array (N, ...) that can only be read from its beginning, as often as needed, in blocks (n, ...)."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[], Iterator[Array]]


def read_blocks(file: Readable, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[Array]:
    """Blocks (n, ...) of an array (N, ...) in C order, whose bytes are the rest of `file`.

    Raises:
        EOFError: fewer or more bytes.
    """
    size = math.prod(shape[1:]) * dtype.itemsize
    expected, got = size * shape[0], 0
    # A wrong shape must not fill the memory: each block has to arrive before the next is asked for.
    while got < expected:
        content = file.read(min(_rows(shape, dtype) * size, expected - got))
        got += len(content)
        if not content or len(content) % size:
            raise EOFError(f"expected {expected:,} bytes after the header, got {got:,}")
        yield np.frombuffer(content, dtype).reshape(-1, *shape[1:])
    if file.read(1):  # at the end of the file, archives compare checksums
        raise EOFError(f"expected {expected:,} bytes after the header, got more")


def _rows(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return max(1, BLOCK_BYTES // max(1, math.prod(shape[1:]) * dtype.itemsize))


class Images:
    """Images as an array holds them, (N, H, W), (N, H, W, C) or (N, C, H, W), read as uint8 (N, H, W, C) in blocks.

    Args:
        where: file and name of the array.
        stored: uint8, or floats in [0, 1], with one or three channels; an array, an object that is sliced like
            one, or a stream.
        file: file that holds the pixels, if any; `key` then need not read them.

    Raises:
        DataError: another shape or type, or floats beyond [0, 1].
    """

    def __init__(self, where: str, stored: Any, file: Path | None = None) -> None:
        self.where, self._stored, self._file = where, stored, file
        shape, channels = tuple(stored.shape), (1, 3)
        self._transposed = len(shape) == 4 and shape[3] not in channels
        if len(shape) == 3:
            shape = (*shape, 1)
        elif self._transposed:
            shape = (shape[0], *shape[2:], shape[1])
        if len(shape) != 4 or shape[3] not in channels or 0 in shape:
            raise DataError(
                f"{where}: expected images (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, "
                f"got {tuple(stored.shape)}; reshape them"
            )
        self.shape: tuple[int, int, int, int] = shape
        if stored.dtype == np.uint8:
            return
        if stored.dtype.kind != "f":
            raise DataError(
                f"{where}: expected uint8, or floats in [0, 1], got {stored.dtype}; save levels from 0 to 255 by "
                "images.astype(np.uint8)"
            )
        ends = np.array([(block.min(), block.max()) for _, block in self._read()])
        least, most = ends[:, 0].min(), ends[:, 1].max()
        if not (least >= 0 and most <= 1):  # true of nan, too
            raise DataError(
                f"{where}: expected floats in [0, 1], or uint8, got {least:g} to {most:g}; "
                "save levels from 0 to 255 by np.rint(images).astype(np.uint8)"
            )

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """Pixels uint8 (n, H, W, C) and the index of the first."""
        for first, block in self._read():
            if block.dtype.kind == "f":
                block = np.rint(block.astype(np.float32) * 255).astype(np.uint8)
            block = block.transpose(0, 2, 3, 1) if self._transposed else block.reshape(len(block), *self.shape[1:])
            yield first, block

    def key(self) -> str:
        """Hash of the state of the file and the array's name in it, or of all pixels."""
        if self._file is not None:
            return source_key([self._file], self.where)
        digest = hashlib.blake2b(repr(self.shape).encode(), digest_size=16)
        for _, block in self.blocks():
            digest.update(np.ascontiguousarray(block).data)
        return digest.hexdigest()

    def _read(self) -> Iterator[tuple[int, Array]]:
        first = 0
        try:
            for block in self._stored.blocks() if isinstance(self._stored, Stream) else self._slices():
                yield first, block
                first += len(block)
        except DataError:
            raise
        except Exception as error:  # the library may raise anything on a broken file
            reason = shown(" ".join(str(error).split()) or type(error).__name__)
            raise DataError(
                f"{self.where}[{first}]: cannot be read ({reason}); the file is damaged, fetch or write it again"
            ) from None

    def _slices(self) -> Iterator[Array]:
        size = _rows(self._stored.shape, self._stored.dtype)
        return (self._stored[first : first + size] for first in range(0, len(self), size))


def splits_of_arrays(
    path: Path,
    items: list[Item],
    sets: Sequence[Images],
    choices: Choices,
    *,
    what: str = "file",
    class_names: tuple[str, ...] = (),
) -> Splits:
    """Splits of arrays that hold N images in all, described by N items.

    Args:
        path: file or folder that they come from.
        items: label and split of each image.
        sets: the images, of one shape.
        choices: the user's settings.
        what: word for `path` in the card.
        class_names: names of the labels 0 .. K - 1.

    Raises:
        ConfigError: a range of classes. DataError: the labels or the size cannot be used.
    """
    labels, task, index, how = settle(path, items, choices, class_names=class_names)
    _, height, width, _ = sets[0].shape
    side = choices.size or common_size(path, items[:1], [(width, height)])
    train, val, test = arrange_arrays(path, sets, labels, task, index, side, choices.channels, choices.fit)
    colour = "grey" if train.shape[0] == 1 else "RGB"
    card = {
        "origin": f"{what} {shown(path.name)}: {counted(len(items), 'image')}, {width}x{height} pixels, "
        f"used as {colour} {train.shape[2]}x{train.shape[1]}",
        "licence": "the user's own",
        **how,
    }
    warnings = check_copies(path, items, index, (train, val, test), allowed=choices.duplicates == "allow")
    if warnings:
        card["warnings"] = warnings
    return Splits(train, val, test, path.stem, card)


def arrange_arrays(
    path: Path,
    sets: Sequence[Images],
    labels: Tensor,
    task: Task,
    index: Mapping[str, Tensor],
    side: int | str,
    channels: ChannelChoice = "auto",
    how: FitChoice = "crop",
) -> tuple[LabelledImages, LabelledImages, LabelledImages]:
    """Train, validation and test: `index` counts through all sets, in their order.

    Raises:
        DataError: the sets differ in shape, or a block of the file cannot be read.
    """
    grey, key, fill = decoder(path, sets, side, channels, how)
    return arrange(labels, task, index, (1 if grey else 3, *sides(side)), key, fill)


def decoder(
    path: Path, sets: Sequence[Images], side: int | str, channels: ChannelChoice, how: FitChoice
) -> tuple[bool, Key, Fill]:
    """True if images become grey, and their identity and decoding as `arrange` takes them.

    Raises:
        DataError: the sets differ in shape.
    """
    shapes = [images.shape[1:] for images in sets]
    if len(set(shapes)) > 1:
        raise DataError(
            f"{shown(path)}: expected images of one shape in all splits, got {', '.join(map(str, shapes))}; "
            "bring them to one"
        )
    grey = shapes[0][2] == 1 if channels == "auto" else channels == "grey"

    def key() -> str:
        return source_key([], *(images.key() for images in sets), side, grey, *([how] if how != "crop" else []))

    def fill(target: npt.NDArray[np.uint8], row: npt.NDArray[np.int64]) -> None:
        passed = 0
        for images in sets:
            for first, block in images.blocks():
                rows = row[passed + first :][: len(block)]
                used = rows >= 0
                target[rows[used]] = fit(block[used], side, channels, how)
            passed += len(images)

    return grey, key, fill


# Labels


def texts_of(array: Array) -> list[str]:
    """Integers or text (N,), as text."""
    text = np.char.decode(array, errors="replace") if array.dtype.kind == "S" else array.astype(str)
    found: list[str] = text.tolist()
    return found


def check_label_shape(where: str, stored: Any) -> None:
    """Raise DataError unless labels are (N,) or (N, 1), of any type, or (N, n) numbers."""
    shape = tuple(stored.shape)
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1 and stored.dtype.kind not in "iuf"):
        raise DataError(
            f"{where}: expected labels (N,), or (N, n) numbers, got {stored.dtype} {shape}; save one number or "
            "word, or n numbers, per image"
        )


def label_texts(where: str, values: Array, task: TaskChoice) -> list[str]:
    """Labels as text, as in a table: integers without a point, other numbers so that they read back exactly."""
    check_label_shape(where, values)
    if values.ndim == 2 and values.shape[1] > 1:
        _refuse_one_hot(where, values, task)
        return joined([label_texts(where, column, task) for column in values.T])
    values = values.reshape(-1)
    kind = values.dtype.kind
    if kind not in "biufSU":
        raise DataError(
            f"{where}: expected labels (N,), got {values.dtype} {values.shape}; save one number or word per image"
        )
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
    texts = texts_of(values)
    if "" in texts:
        raise DataError(f"{where}[{texts.index('')}]: no label; fill it in or leave the image out")
    return texts


def _refuse_one_hot(where: str, values: Array, task: TaskChoice) -> None:
    """Raise DataError if labels (N, n) are classes and not n values."""
    if task == "classification" or np.isin(values, (0, 1)).all():
        raise DataError(
            f"{where}: expected a class, or several values, per image, got {values.dtype} {values.shape}; "
            "save labels.argmax(1) where they are one-hot"
        )


def refuse_strange(items: list[Item], count: int, where: str) -> None:
    """Raise DataError unless labels are numbers of `count` classes, whose names are at `where`."""
    known = set(map(str, range(count)))
    strange = [item for item in items if item.label not in known]
    if strange:
        raise DataError(
            f"{strange[0].where}: expected an integer from 0 to {count - 1}, as {where} has "
            f"{counted(count, 'name')}, got {shown(strange[0].label)}; correct it, or leave {where} out"
        )


# Pixels


def fit(pixels: Array, size: int | str, channels: ChannelChoice, how: FitChoice = "crop") -> Array:
    """uint8 (N, H, W, C) to (N, C, height, width): resampled by `fitted`, colours as chosen."""
    count, high, wide, depth = pixels.shape
    grey = depth == 1 if channels == "auto" else channels == "grey"
    height, width = sides(size)
    if (high, wide) != (height, width) or (grey and depth == 3):
        resampled = np.empty((count, height, width, 1 if grey else depth), np.uint8)
        for row, picture in enumerate(pixels):
            image = Image.fromarray(picture if depth == 3 else picture[..., 0])
            image = fitted(image.convert("L") if grey else image, size, how)
            resampled[row] = np.asarray(image).reshape(height, width, -1)
        pixels = resampled
    pixels = np.broadcast_to(pixels, (count, height, width, 1 if grey else 3))
    return np.array(pixels.transpose(0, 3, 1, 2), order="C")
