"""HDF5 files: the user's own, and those of the authors of cGAN-KD."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from gankd.data.arrays import Array, Images
from gankd.data.images import Splits
from gankd.data.named_arrays import load_named
from gankd.data.own import ArraySettings, Choices, and_more, counted, shown
from gankd.errors import DataError

SUFFIXES = (".h5", ".hdf5", ".hdf")
MOST_REPEATS = 10
"""A list of positions may name an image this often on average."""
EXAMPLE = 'file["images"], file["label"] = images, label'


def load_h5(path: str | Path, **settings: Unpack[ArraySettings]) -> Splits:
    """Read images and labels from an HDF5 file; names, layouts and settings are those of `load_npz`.

    Arrays in groups go by their path: `train/images` is `train_images`. Images are read in blocks.

    Raises:
        ConfigError: a setting is out of range.
        DataError: the file, an array or a label cannot be used, or h5py is not installed.
    """
    choices = Choices(**settings)
    with open_h5(Path(path)) as file:
        return load_named(file.path, file.names, lambda name, whole: file.array(name, whole), choices, EXAMPLE)


class H5File:
    """Checked arrays of an open file, by name. Other files that the file may point to for its data are never opened.

    Raises:
        DataError: from each method, an array that is missing, damaged, or of another type or shape.
    """

    def __init__(self, path: Path, file: Any) -> None:
        import h5py

        self.path, self._arrays = path, dict[str, Any]()

        def visit(name: str | bytes, entry: Any) -> None:
            if isinstance(entry, h5py.Dataset):  # names that are not UTF-8 come as bytes
                self._arrays[name if isinstance(name, str) else name.decode(errors="replace")] = entry

        file.visititems(visit)

    @property
    def names(self) -> list[str]:
        """Names of all arrays, in alphabetical order."""
        return list(self._arrays)

    def has(self, *names: str) -> bool:
        """True if there are arrays of all these names."""
        return all(name in self._arrays for name in names)

    def array(self, name: str, whole: bool = True) -> Any:
        """Array in memory, text as str; unless `whole`, one that reads only what is sliced."""
        import h5py

        if name not in self._arrays:
            raise DataError(
                f"{shown(self.path)}: expected an array {name}, got {', '.join(map(shown, self.names[:20])) or 'none'}"
                f"{and_more(len(self.names[20:]), 'arrays')}; check that it is the file that --data should name"
            )
        stored = self._arrays[name]
        try:
            # Otherwise the file would choose which of the user's files are read.
            elsewhere = bool(stored.is_virtual or stored.external)
            if stored.shape is None:
                raise ValueError("it has no shape")
            if elsewhere:
                raise ValueError("its data are in other files, which are not opened")
            if not whole:
                _ = stored.dtype  # numpy does not know every type of HDF5
                return stored
            if h5py.check_string_dtype(stored.dtype):
                return np.asarray(stored.asstr(errors="replace")[()], dtype=np.str_)
            return np.asarray(stored[()])
        except Exception as error:  # the library may raise anything on a broken file
            reason = shown(" ".join(str(error).split()) or type(error).__name__)
            raise DataError(
                f"{shown(self.path)}: {shown(name)} cannot be read ({reason}); fetch or write the file again"
            ) from None

    def images(self, name: str) -> Images:
        """Images, read in blocks."""
        return Images(f"{shown(self.path)}: {shown(name)}", self.array(name, whole=False), self.path)

    def numbers(self, name: str, count: int) -> Array:
        """`count` finite numbers, one per image."""
        values = self.array(name, whole=False)
        if values.shape in ((count,), (count, 1)):
            values = self.array(name).reshape(-1)
        if values.shape != (count,) or values.dtype.kind not in "iuf":
            raise DataError(
                f"{shown(self.path)}: expected {name} ({count},), a number for each image, got {values.dtype} "
                f"{values.shape}; the file is not complete, fetch it again"
            )
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise DataError(
                f"{shown(self.path)}: {name}[{bad[0]}]: expected a finite label, got {values[bad[0]]}"
                f"{and_more(len(bad) - 1, 'such labels')}; leave the image out"
            )
        return values

    def classes(self, name: str, count: int, num_classes: int) -> npt.NDArray[np.int64]:
        """`count` class numbers, 0 .. num_classes - 1."""
        values = self.numbers(name, count)
        wrong = np.flatnonzero((values < 0) | (values >= num_classes) | (values != np.rint(values)))
        if len(wrong):
            raise DataError(
                f"{shown(self.path)}: {name}[{wrong[0]}]: expected a class from 0 to {num_classes - 1}, "
                f"got {values[wrong[0]]:g}{and_more(len(wrong) - 1, 'such labels')}; is it the file of another set?"
            )
        return values.astype(np.int64)

    def index(self, name: str, count: int) -> npt.NDArray[np.int64]:
        """Ascending positions, each once, among `count` images."""
        values = self.array(name, whole=False)
        if len(values.shape) == 1 and values.shape[0] <= MOST_REPEATS * count:
            values = self.array(name)
        if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iu" or len(values) == 0:
            raise DataError(
                f"{shown(self.path)}: expected positions (n,) in {name}, got {values.dtype} {values.shape}; "
                "fetch the file again"
            )
        if values.min() < 0 or values.max() >= count:
            raise DataError(
                f"{shown(self.path)}: expected positions from 0 to {count - 1} in {name}, as there are "
                f"{counted(count, 'image')}, got {values.min()} to {values.max()}; fetch the file again"
            )
        return np.unique(values.astype(np.int64))


@contextmanager
def open_h5(path: Path) -> Iterator[H5File]:
    """Open a file to read.

    Raises:
        DataError: h5py is not installed, there is no such file, or it is damaged or of another kind.
    """
    try:
        import h5py
    except ImportError:
        raise DataError(f"{shown(path)}: .h5 files need h5py; pip install 'gankd[h5]', or pip install h5py") from None
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{shown(path)} {what}; expected an .h5 file; check the path")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        reason = shown(" ".join(str(error).split()))
        raise DataError(
            f"{shown(path)} is not an .h5 file, or a damaged one ({reason}); fetch or write it again"
        ) from None
    with file:
        try:
            arrays = H5File(path, file)
        except Exception as error:  # the library may raise anything on a broken file
            reason = shown(" ".join(str(error).split()) or type(error).__name__)
            raise DataError(f"{shown(path)} is a damaged .h5 file ({reason}); fetch or write it again") from None
        yield arrays


def is_h5(path: Path) -> bool:
    """True if the name is that of an HDF5 file."""
    return path.suffix.lower() in SUFFIXES
