"""MNIST's file format, IDX: grey images and classes in binary files, which may be compressed."""

import gzip
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np

from gankd.data.arrays import Array, Images, Stream, label_texts, read_blocks, splits_of_arrays
from gankd.data.images import Splits
from gankd.data.own import SPLIT_NAMES, ArraySettings, Choices, Item, counted, shown
from gankd.errors import DataError
from gankd.regular import require_regular

NAME = re.compile(r"(?:.*[-.])?([a-z0-9]+)[-.](images|labels)[-.]idx([13])[-.]ubyte(?:\.gz)?", re.IGNORECASE)
"""Names such as train-images-idx3-ubyte or t10k-labels.idx1-ubyte.gz."""
PARTS = {"t10k": "test", **SPLIT_NAMES}
MAGIC = {"images": 0x00000803, "labels": 0x00000801}
"""The first four bytes: two zeros, 8 for unsigned bytes, the number of dimensions."""
GZIP = b"\x1f\x8b"
ANEW = "the file is damaged; fetch it again"
EXPECTED = "train-images-idx3-ubyte and train-labels-idx1-ubyte, as they are or as .gz"


def load_idx(path: str | Path, **settings: Unpack[ArraySettings]) -> Splits:
    """Read a folder with MNIST's four files, or those of a set in its format; with `t10k`, the test split is given.

    Classes are the numbers in the file of labels, however many, unless `task` is "regression". A missing val
    or test is drawn as in `load_folder`. Images are read in blocks, also compressed ones.

    Args:
        path: the folder, or one of its files.
        settings: task, size, channels, low, high and seed; see `Choices`.

    Returns:
        uint8 images (N, C, size, size), each split in the order of the files.

    Raises:
        ConfigError: a setting is out of range. DataError: a file is missing, truncated or of another kind.
    """
    path = Path(path)
    choices = Choices(**settings)
    assumed = choices.task == "auto"
    if assumed:
        choices = replace(choices, task="classification")
    folder = path if path.is_dir() else path.parent
    found = _find(path, folder)
    items: list[Item] = []
    sets: list[Images] = []
    for part in sorted({part for part, _ in found}, key=list(SPLIT_NAMES.values()).index):
        for role, other in (("images", "labels"), ("labels", "images")):
            if (part, role) not in found:
                raise DataError(f"{shown(folder)}: {found[part, other].name} has no file of {role}; put it next to it")
        pixels, labels = (_read(found[part, role], role) for role in ("images", "labels"))
        where = shown(found[part, "labels"])
        if pixels.shape[0] != labels.shape[0]:
            raise DataError(
                f"{where}: expected a label for each image, got {counted(labels.shape[0], 'label')} and "
                f"{counted(pixels.shape[0], 'image')}; fetch both files again"
            )
        sets.append(Images(shown(found[part, "images"]), pixels, found[part, "images"]))
        texts = label_texts(where, np.concatenate(list(labels.blocks())), choices.task)
        given = part if len(found) > 2 else None
        groups = _groups(found[part, "labels"], choices.group_name, len(texts))
        items += [
            Item(f"{part}[{row}]", folder, text, f"{where}[{row}]", given, group)
            for row, (text, group) in enumerate(zip(texts, groups, strict=True))
        ]
    splits = splits_of_arrays(folder, items, sets, choices, what="folder")
    if not assumed:
        return splits
    return replace(splits, card=splits.card | {"labels": "classification: IDX files of labels hold classes"})


def is_idx(name: str) -> bool:
    """True if this is the name of an IDX file."""
    return NAME.fullmatch(name) is not None


def _find(path: Path, folder: Path) -> dict[tuple[str, str], Path]:
    """(split, role) to its file."""
    if not path.exists():
        raise DataError(f"no folder {shown(path)}; expected {EXPECTED}; check the path")
    found: dict[tuple[str, str], Path] = {}
    for file in sorted(folder.iterdir()):
        match = NAME.fullmatch(file.name)
        if match is None or match[1].lower() not in PARTS:
            continue
        key = PARTS[match[1].lower()], match[2].lower()
        if key in found and file.name != f"{found[key].name}.gz":
            raise DataError(
                f"{shown(folder)}: expected one file of {key[0]} {key[1]}, got {shown(found[key].name)} and "
                f"{shown(file.name)}; keep one set in a folder"
            )
        found.setdefault(key, file)
    if ("train", "images") not in found and ("train", "labels") not in found:
        raise DataError(f"{shown(folder)}: expected {EXPECTED}, got none; put the files there")
    return found


def _groups(labels: Path, name: str | None, count: int) -> Sequence[str | None]:
    """Group of each image from a text file next to the file of labels, if the user names groups; none without one."""
    if name is None:
        return [None] * count
    path = labels.with_name(f"{re.split('[-.]labels', labels.name)[0]}-{name}.txt")
    if not path.is_file():
        return [None] * count
    with _refusing(shown(path)):
        require_regular(path)
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines()]
    if len(lines) != count:
        raise DataError(
            f"{shown(path)}: expected a group for each image, a line each, got {counted(len(lines), 'line')} and "
            f"{counted(count, 'image')}; write it again"
        )
    return lines


def _read(path: Path, role: str) -> Stream:
    """Images (N, H, W) or labels (N,)."""
    where, packed = shown(path), path.suffix.lower() == ".gz"
    opened = gzip.open if packed else open
    with _refusing(where):
        require_regular(path)
    with _refusing(where), opened(path, "rb") as file:
        head = file.read(4)
        if head != MAGIC[role].to_bytes(4, "big"):
            raise DataError(
                f"{where}: expected the magic number {MAGIC[role]} of {role}, got "
                f"{int.from_bytes(head, 'big') if len(head) == 4 else counted(len(head), 'byte')}; "
                f"{'it is compressed: name it .gz' if head[:2] == GZIP else ANEW}"
            )
        sizes = file.read(4 * head[3])
        if len(sizes) < 4 * head[3]:
            raise DataError(f"{where}: expected the sizes of {head[3]} dimensions, got {len(sizes)} bytes; {ANEW}")
        shape = tuple(int.from_bytes(sizes[4 * axis :][:4], "big") for axis in range(head[3]))
        start, count = file.tell(), math.prod(shape)
        if not packed and (got := path.stat().st_size - start) != count:
            raise DataError(f"{where}: expected {count:,} bytes after the header, got {got:,}; {ANEW}")

    def blocks() -> Iterator[Array]:
        with _refusing(where), opened(path, "rb") as file:
            file.read(start)
            yield from read_blocks(file, shape, np.dtype(np.uint8))

    return Stream(shape, np.dtype(np.uint8), blocks)


@contextmanager
def _refusing(where: str) -> Iterator[None]:
    """Turn errors of reading a file into one line."""
    try:
        yield
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{where}: not a gzip file, or a damaged one ({error}); fetch it again") from None
    except EOFError as error:
        reason = str(error) if str(error).startswith("expected") else "the compressed file is truncated"
        raise DataError(f"{where}: {reason}; {ANEW}") from None
    except OSError as error:
        raise DataError(f"cannot read {where}: {error.strerror}; check its permissions") from None
