"""Files of a synthetic set: one array per part and shard, with size and hash in the manifest."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gankd.errors import CheckpointError, RunError
from gankd.storage import atomic, digest

SHARD = 4096
"""Samples per file."""
PARTS = ("images", "labels", "teacher_outputs", "log_ratio")
MANIFEST = "manifest.json"
REMEDY = "delete the folder and generate again"
UNFINISHED = "unfinished.json"
"""Manifest of an unfinished set; renamed to MANIFEST when generation ends."""


def array_path(folder: Path, part: str, number: int) -> Path:
    """File of one part of one shard."""
    return folder / f"{part}-{number:05d}.npy"


def open_array(folder: Path, part: str, number: int) -> NDArray[Any]:
    """Memory map of one part of one shard.

    Raises:
        CheckpointError: the file cannot be read.
    """
    path = array_path(folder, part, number)
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {REMEDY}") from None
    return array


def write_array(folder: Path, part: str, number: int, array: NDArray[Any]) -> dict[str, Any]:
    """Write one file atomically; return its size and hash for the manifest."""
    with atomic(array_path(folder, part, number)) as temporary:
        with temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        size = temporary.stat().st_size
    return {"bytes": size, "blake2b": digest(array_path(folder, part, number))}


def check_size(folder: Path, part: str, number: int, entry: dict[str, Any]) -> Path:
    """Compare a file's size with its entry in the manifest; the file.

    Raises:
        CheckpointError: missing or truncated.
    """
    path = array_path(folder, part, number)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; {REMEDY}")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise CheckpointError(f"{path} has {size} bytes instead of {entry['bytes']}; {REMEDY}")
    return path


def check_file(folder: Path, part: str, number: int, entry: dict[str, Any]) -> None:
    """Compare a file with its entry in the manifest; its content is read once per process.

    Args:
        folder, part, number: which file.
        entry: its size and hash.

    Raises:
        CheckpointError: missing, truncated or changed.
    """
    path = check_size(folder, part, number, entry)
    if digest(path) != entry["blake2b"]:
        raise CheckpointError(f"{path} has changed since it was written (its hash differs); {REMEDY}")


def check_space(folder: Path, needed: int) -> None:
    """Raise RunError unless the disk that holds `folder` has `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RunError(
            f"{folder}: the images need {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free; "
            "free some space, choose another folder or generate fewer images"
        )
