"""Read the user's own images and labels from one `.npz` file: find arrays by name, check and split them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Unpack

import numpy as np
from numpy.lib.npyio import NpzFile

from gankd.data.arrays import Array, Stream, read_blocks
from gankd.data.images import Splits
from gankd.data.named_arrays import Read, load_named
from gankd.data.own import ArraySettings, Choices, shown
from gankd.errors import DataError

EXAMPLE = "np.savez(file, images=images, label=label)"


def load_npz(path: str | Path, **settings: Unpack[ArraySettings]) -> Splits:
    """Read images and labels from a numpy archive, in one of two layouts; `named_arrays.ROLES` has the names
    of arrays.

    1. `images` and `label`; `split` (0 train and 1 test, or train, val and test as text) is optional.
    2. `x_train` and `y_train`, or `train_images` and `train_labels`; the same for val and test is optional.

    Images: (N, H, W), (N, H, W, C) or (N, C, H, W) with one or three channels, uint8, or floats in [0, 1], which
    are rounded to 255ths. Labels: (N,) or (N, 1), numbers or text, or (N, n), n values each. `class_names` (K,) is
    optional and names the labels 0 .. K - 1, or the n values. Nothing is unpickled, arrays with other names are not
    read, and images are read in blocks unless they are in Fortran order.

    Task: text is classes, and so are integers with `class_names`, or few different ones (see `load_folder`); other
    numbers are regressed. `task` overrides this. The range of a regression and a missing val or
    test are handled as in `load_folder`.

    Args:
        path: the file.
        settings: task, size, channels, low, high and seed; see `Choices`.

    Returns:
        uint8 images (N, C, size, size), each split in the order of the file. The card holds origin, licence,
        split and how the labels were read.

    Raises:
        ConfigError: a setting is out of range.
        DataError: the file, an array or a label cannot be used.
    """
    choices = Choices(**settings)
    with open_npz(Path(path)) as (names, read):
        return load_named(Path(path), names, read, choices, EXAMPLE)


@contextmanager
def open_npz(path: Path) -> Iterator[tuple[list[str], Read]]:
    """Names of the arrays of a file, and how to read them while it is open.

    Raises:
        DataError: it cannot be read.
    """
    where = shown(path)
    if path.is_dir():
        raise DataError(f"{where} is a folder; for a folder of images: gankd run folder --data {where}")
    if not path.is_file():
        raise DataError(f"no file {where}; expected an .npz file with images and labels; check the path")
    try:
        with path.open("rb") as file, _archive(where, file) as stored:

            def read(name: str, whole: bool) -> Array | Stream:
                return _array(where, stored, name, whole)

            yield stored.files, read
    except OSError as error:
        raise DataError(f"cannot read {where}: {error.strerror}; check its permissions") from None


def _archive(where: str, file: BinaryIO) -> NpzFile:
    try:
        stored = np.load(file, allow_pickle=False)
    except Exception as error:  # zip and numpy may raise anything on a broken file
        reason = _reason(error).partition(" If you trust")[0]  # numpy's own message says how to run code from the file
        raise DataError(f"{where} is not an .npz file, or a damaged one ({reason}); write it by {EXAMPLE}") from None
    if not isinstance(stored, NpzFile):
        raise DataError(f"{where} holds one array and no name; expected images and labels; write it by {EXAMPLE}")
    return stored


def _array(where: str, stored: NpzFile, name: str, whole: bool) -> Array | Stream:
    """An array in memory, or one that is read in blocks unless `whole`."""
    try:
        stream, fortran = _stream(stored, name)
        if not stream.dtype.hasobject:
            return stored[name] if whole or fortran else stream
        reason = ""
    except Exception as error:  # zip and numpy may raise anything on a broken file
        reason = _reason(error)
    if not reason:
        raise DataError(
            f"{where}: {shown(name)} is an array of Python objects, which is a pickle and could run code when read; "
            "save images as one uint8 array (N, H, W, C), and labels as numbers or text"
        )
    raise DataError(f"{where}: {shown(name)} cannot be read ({reason}); write it by {EXAMPLE}")


def _stream(stored: NpzFile, name: str) -> tuple[Stream, bool]:
    """A member of the archive as its header describes it, and True if it is in Fortran order.

    Raises:
        ValueError: not an .npy file, or one whose size differs from its header.
    """
    member, archive = f"{name}.npy", stored.zip
    assert archive is not None
    with archive.open(member) as file:
        shape, fortran, dtype = _header(file)
        start = file.tell()
    if start + math.prod(shape) * dtype.itemsize != archive.getinfo(member).file_size and not dtype.hasobject:
        raise ValueError(f"an array {dtype} {shape} has another size")

    def blocks() -> Iterator[Array]:
        with archive.open(member) as file:
            file.read(start)
            yield from read_blocks(file, shape, dtype)

    return Stream(shape, dtype, blocks), fortran and len(shape) > 1


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _reason(error: Exception) -> str:
    return shown(" ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__)
