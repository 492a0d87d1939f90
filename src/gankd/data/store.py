"""Storage of decoded images: in memory, or in a memory-mapped file in the cache folder if they are many."""

import hashlib
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from gankd.data.images import LabelledImages
from gankd.data.own import SHARES, shown
from gankd.errors import DataError
from gankd.storage import CHANGED, FORMAT, atomic, remove_leftovers
from gankd.tasks import Task

CACHE = "GANKD_CACHE"
"""Environment variable that names the cache folder; its files may be deleted at any time and are then written again."""
SHARE = 4
"""A set may take this part, 1 / SHARE, of the memory that is free: a student, a generator and fakes come on top."""

IMAGES = "images.npy"
"""Name of the files in the cache folder, each in a folder of its own."""
SEAL = b"blake2b "
"""Mark between the array in such a file and its hash."""
SEAL_BYTES = len(SEAL) + 16

Pixels = npt.NDArray[np.uint8]
Key = Callable[[], str]
Fill = Callable[[Pixels, npt.NDArray[np.int64]], None]
"""fill(target, row) writes image i to target[row[i]], (C, H, W) each, and leaves it out where row[i] is -1."""


def cache_folder() -> Path:
    """Folder that GANKD_CACHE names; default: gankd in the user's cache folder."""
    if named := os.environ.get(CACHE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gankd"


def arrange(
    labels: Tensor, task: Task, index: Mapping[str, Tensor], shape: tuple[int, int, int], key: Key, fill: Fill
) -> tuple[LabelledImages, LabelledImages, LabelledImages]:
    """Train, validation and test as consecutive slices of one block of pixels, so that none is copied.

    Args:
        labels: (N,) labels of all images, also of those that no split uses.
        task: task of the labels.
        index: ascending positions of train, val and test among the N images.
        shape: (C, H, W) of an image.
        key: identifies these images, as `source_key` does; called only if they go to a file.
        fill: decodes images.
    """
    order = torch.cat([index[part] for part in SHARES])
    row = np.full(len(labels), -1, np.int64)
    row[order.numpy()] = np.arange(len(order))

    def whole_key() -> str:
        return hashlib.blake2b(row.tobytes(), key=key().encode(), digest_size=16).hexdigest()

    images = build((len(order), *shape), whole_key, lambda target: fill(target, row))
    sizes = [len(index[part]) for part in SHARES]
    train, val, test = (
        LabelledImages(pixels, labels[index[part]], task)
        for part, pixels in zip(SHARES, images.split(sizes), strict=True)
    )
    return train, val, test


def source_key(paths: Iterable[Path], *settings: object) -> str:
    """Hash of names, sizes and times of the files that hold the pixels, and of the way they are decoded."""
    digest = hashlib.blake2b(repr((FORMAT, settings)).encode(), digest_size=16)
    for path in paths:
        status = os.stat(path)
        digest.update(repr((os.path.abspath(path), status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()


def build(shape: tuple[int, ...], key: Key, fill: Callable[[Pixels], None]) -> Tensor:
    """uint8 tensor of `shape`, written by `fill`: in memory, or a read-only file that is written once per `key`.

    The file gets its name when it is complete; one process writes it and others wait.

    Raises:
        DataError: the disk is too full, the cache folder cannot be written, or the file has changed since it was
            written.
    """
    needed = math.prod(shape)
    if needed <= available_memory() // SHARE:
        pixels = np.empty(shape, np.uint8)
        fill(pixels)
        return torch.from_numpy(pixels)
    folder = cache_folder() / key()
    path = folder / IMAGES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            mapped = _mapped(path, shape)
            if mapped is None:
                remove_leftovers(folder)
                _check_space(folder, needed)
                with atomic(path) as temporary:
                    _write(temporary, shape, fill)
                mapped = _mapped(path, shape)
    except OSError as error:
        raise DataError(
            f"{shown(folder)}: the images do not fit in memory and cannot be kept there ({error.strerror}); "
            f"set {CACHE} to a folder with {needed / 1e9:.2f} GB to spare"
        ) from None
    assert mapped is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it must not be written to: it is a cache
        return torch.from_numpy(mapped)


def is_hashed(path: Path) -> bool:
    """True if a file of decoded images is as it was written; False if it carries no hash.

    Raises:
        DataError: it has changed since it was written.
    """
    return _read(path) is not None


def available_memory() -> int:
    """Bytes that can be taken without swapping: of the machine or, if less, of this process's control group."""
    free = [_meminfo()]
    try:
        group = Path("/sys/fs/cgroup")
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no control groups, or no limit
    return max(min(free), 0)


def _meminfo() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > 0.95 * free:  # a disk that is quite full stops everything else
        raise DataError(
            f"{shown(folder)}: the images need {needed / 1e9:.2f} GB, more than fits comfortably in memory, and the "
            f"disk has {free / 1e9:.2f} GB free; free some space, or set {CACHE} to a folder elsewhere"
        )


def _write(path: Path, shape: tuple[int, ...], fill: Callable[[Pixels], None]) -> None:
    pixels: Any = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # otherwise a disk that fills up meanwhile kills the process without an error
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    fill(pixels)
    pixels.flush()
    seal = _seal(np.memmap(path, np.uint8, "r"))
    with path.open("ab") as file:
        file.write(seal)


def _mapped(path: Path, shape: tuple[int, ...]) -> Pixels | None:
    """The file's array, read-only; None if there is none, or one of another shape."""
    pixels = _read(path)
    return pixels if pixels is not None and pixels.shape == shape and pixels.dtype == np.uint8 else None


def _read(path: Path) -> Pixels | None:
    """The file's array, read-only; None if the file is missing, cut short, or of a version that wrote no hash.

    Raises:
        DataError: it has changed since it was written.
    """
    try:
        content: Pixels = np.memmap(path, np.uint8, "r")
    except (FileNotFoundError, ValueError):
        return None
    seal = content[-SEAL_BYTES:].tobytes()
    if not seal.startswith(SEAL):
        return None
    if seal != _seal(content[:-SEAL_BYTES]):
        raise DataError(f"{shown(path)} has {CHANGED}; delete {shown(path.parent)} and run again")
    pixels: Pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    return pixels


def _seal(content: Pixels) -> bytes:
    return SEAL + hashlib.blake2b(content.data, digest_size=SEAL_BYTES - len(SEAL)).digest()
