"""CIFAR-10 and CIFAR-100 as published: binary or python version, archive or folder, or the authors' h5."""

import io
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gankd.data.arrays import Array, Images, arrange_arrays
from gankd.data.h5 import is_h5, open_h5
from gankd.data.images import Splits
from gankd.data.own import and_more, shown
from gankd.data.published import draw_splits, side_of
from gankd.errors import DataError
from gankd.tasks import Classification

SIDE = 32
PIXELS = 3 * SIDE * SIDE
LARGEST_FILE = 1 << 28
"""Bytes; the largest of the real ones has 155 million."""
LICENCE = "none stated; for research, cite Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images"


@dataclass(frozen=True)
class Version:
    """Files and keys of one version of a set."""

    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    names: str
    """File with the names of the classes."""
    classes: str
    """Key of the labels in a pickled dict; the key of the names follows from it; unused in the binary version."""
    column: int
    """Index of the label byte among those that begin each record of the binary version."""
    label_bytes: int
    """0 in the python version."""

    @property
    def files(self) -> tuple[str, ...]:
        """All files that are read, the test file last but one."""
        return (*self.train, self.test, self.names)


@dataclass(frozen=True)
class Cifar:
    """One data set, in both versions."""

    name: str
    num_classes: int
    versions: tuple[Version, ...]


def _ten() -> Cifar:
    batches = tuple(f"data_batch_{number}" for number in range(1, 6))
    binary = tuple(f"{batch}.bin" for batch in batches)
    return Cifar(
        "CIFAR-10",
        10,
        (
            Version(
                "cifar-10-batches-bin",
                "cifar-10-binary.tar.gz",
                binary,
                "test_batch.bin",
                "batches.meta.txt",
                "",
                0,
                1,
            ),
            Version(
                "cifar-10-batches-py",
                "cifar-10-python.tar.gz",
                batches,
                "test_batch",
                "batches.meta",
                "labels",
                0,
                0,
            ),
        ),
    )


def _hundred(kind: str, num_classes: int, column: int) -> Cifar:
    """`kind` is fine or coarse."""
    name, names, labels = "cifar-100", f"{kind}_label_names", f"{kind}_labels"
    return Cifar(
        "CIFAR-100",
        num_classes,
        (
            Version(
                f"{name}-binary",
                f"{name}-binary.tar.gz",
                ("train.bin",),
                "test.bin",
                f"{names}.txt",
                "",
                column,
                2,
            ),
            Version(f"{name}-python", f"{name}-python.tar.gz", ("train",), "test", "meta", labels, 0, 0),
        ),
    )


TEN, FINE, COARSE = _ten(), _hundred("fine", 100, 1), _hundred("coarse", 20, 0)


def load_cifar10(path: str | Path, *, size: int | None = None, seed: int = 0) -> Splits:
    """`cifar10`: ten classes, 32x32 RGB, 50,000 images to train and validate with and 10,000 to test.

    `path` is cifar-10-binary.tar.gz or cifar-10-python.tar.gz, the folder that one of them unpacks to, or a folder that
    holds any of these; or CIFAR10_trainset_*.h5 of the authors of cGAN-KD, whose splits subtrain and subvalid are
    taken, with the official files next to it for the test images. Elsewhere one training image in ten of each class
    validates. The scarce C-20K and C-10K are `data.num_train`, stratified. No file can run code.

    Args:
        path: the file or folder.
        size: resample to this height and width, a multiple of 4 from 8 to 256.
        seed: draws the validation split.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a file is missing, damaged, or of another set.
    """
    return _load(Path(path), TEN, size, seed, "cifar10")


def load_cifar100(path: str | Path, *, size: int | None = None, coarse: bool = False, seed: int = 0) -> Splits:
    """`cifar100`: 100 classes, or their 20 superclasses if `coarse`; else as `load_cifar10`."""
    return _load(Path(path), COARSE if coarse else FINE, size, seed, "cifar100")


def _load(path: Path, cifar: Cifar, size: int | None, seed: int, name: str) -> Splits:
    side = side_of(size, SIDE)
    if is_h5(path):
        return _load_h5(path, cifar, side, seed, name)
    version, files = _find(path, cifar)
    labels, images = zip(*(_batch(path, cifar, version, file, files[file]) for file in version.files[:-1]), strict=True)
    parts = ["train"] * sum(map(len, labels[:-1])) + ["test"] * len(labels[-1])
    task = Classification(num_classes=cifar.num_classes, class_names=_names(path, cifar, version, files[version.names]))
    classes = torch.from_numpy(np.concatenate(labels))
    index, split = draw_splits(path, classes, task, parts, seed)
    sets = [Images(f"{shown(path)}: {file}", batch) for file, batch in zip(version.files, images, strict=False)]
    train, val, test = arrange_arrays(path, sets, classes, task, index, side)
    kind = "python" if version.classes else "binary"
    card = {"origin": f"{cifar.name}, {kind} version: {len(classes):,} images", "licence": LICENCE, "split": split}
    return Splits(train, val, test, name, card)


# Files


def _find(path: Path, cifar: Cifar) -> tuple[Version, dict[str, bytes]]:
    """The version found, and the content of its files."""
    archives = [version.archive for version in cifar.versions]
    expected = f"{' or '.join(archives)}, or the folder that it unpacks to"
    if path.is_file():
        wanted = {file for version in cifar.versions for file in version.files}
        files = _unpack(path, wanted, expected)
        version = max(cifar.versions, key=lambda version: sum(file in files for file in version.files))
        return version, _whole(path, cifar, version, files)
    if not path.is_dir():
        raise DataError(f"no file or folder {shown(path)}; expected {expected}; check the path")
    for version in cifar.versions:
        for folder in (path / version.folder, path):
            contents = {file: _read(folder / file) for file in version.files if (folder / file).is_file()}
            if contents:
                return version, _whole(folder, cifar, version, contents)
    for version in cifar.versions:
        if (path / version.archive).is_file():
            return _find(path / version.archive, cifar)
    raise DataError(f"{shown(path)}: expected {expected}, got neither; check the path, or fetch the set again")


def _whole(path: Path, cifar: Cifar, version: Version, files: dict[str, bytes]) -> dict[str, bytes]:
    missing = [file for file in version.files if file not in files]
    if missing:
        raise DataError(
            f"{shown(path)}: expected the {len(version.files)} files of {cifar.name}, but {missing[0]} is missing"
            f"{and_more(len(missing) - 1, 'files')}; fetch {version.archive} again, or check that it is this set"
        )
    return files


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise DataError(f"{shown(path)} is too large for a file of CIFAR; fetch the set again")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {shown(path)}: {error.strerror}; check its permissions") from None


def _unpack(path: Path, wanted: Iterable[str], expected: str) -> dict[str, bytes]:
    """Contents of the wanted files of an archive, in one pass, only in memory."""
    wanted, found = set(wanted), dict[str, bytes]()
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                if name in wanted and member.isreg() and member.size <= LARGEST_FILE:
                    file = archive.extractfile(member)
                    assert file is not None
                    found[name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        reason = shown(" ".join(str(error).split()) or type(error).__name__)
        raise DataError(
            f"{shown(path)} is not an archive, or a damaged one ({reason}); expected {expected}; fetch it again"
        ) from None
    return found


# Content of the files


def _batch(path: Path, cifar: Cifar, version: Version, file: str, content: bytes) -> tuple[Array, Array]:
    """Classes int64 (N,) and images uint8 (N, 3, 32, 32)."""
    where = f"{shown(path)}: {file}"
    pixels: Any
    if version.label_bytes:
        length = version.label_bytes + PIXELS
        if len(content) % length or not content:
            raise DataError(
                f"{where}: expected records of {length:,} bytes, got {len(content):,} bytes, which is not a multiple "
                f"of that; it is cut off or belongs to another set; fetch {version.archive} again"
            )
        records = np.frombuffer(content, np.uint8).reshape(-1, length)
        labels, pixels = records[:, version.column].astype(np.int64), records[:, version.label_bytes :]
    else:
        batch = _unpickle(where, content, version)
        values: Any
        pixels, values = batch.get("data"), batch.get(version.classes)
        if not isinstance(pixels, np.ndarray) or pixels.shape[1:] != (PIXELS,) or not _are_integers(values):
            raise DataError(
                f"{where}: expected data, uint8 (N, {PIXELS:,}), and {version.classes}, N integers, got "
                f"{', '.join(map(shown, batch)) or 'nothing'}; fetch {version.archive} again"
            )
        if len(values) != len(pixels) or not len(pixels):
            raise DataError(
                f"{where}: expected a label for each image, got {len(pixels):,} images and {len(values):,} labels; "
                f"fetch {version.archive} again"
            )
        labels = np.array(values, np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= cifar.num_classes))
    if len(wrong):
        raise DataError(
            f"{where}: image {wrong[0]}: expected a class from 0 to {cifar.num_classes - 1}, got {labels[wrong[0]]}"
            f"{and_more(len(wrong) - 1, 'such labels')}; the file is damaged or belongs to another set"
        )
    return labels, pixels.reshape(-1, 3, SIDE, SIDE)


def _are_integers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, int) and abs(value) < 1 << 31 for value in values)


def _names(path: Path, cifar: Cifar, version: Version, content: bytes) -> tuple[str, ...]:
    where = f"{shown(path)}: {version.names}"
    names: Any
    if version.label_bytes:
        names = content.decode("latin-1").split("\n")
        names = [name.strip() for name in names if name.strip()]
    else:
        names = _unpickle(where, content, version).get(f"{version.classes[:-1]}_names")
        names = [_text(name) for name in names] if isinstance(names, list) else None
    good = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not good or len(names) != cifar.num_classes:
        raise DataError(
            f"{where}: expected the names of {cifar.num_classes} classes, got {len(names) if good else 'none'}; "
            f"fetch {version.archive} again"
        )
    return tuple(map(shown, names))


class _Array:
    """Stands in for numpy's arrays, so that a file can make nothing but bytes of pixels."""

    rows: Array

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, in_columns, raw = state
        if not isinstance(kind, _Type) or kind.code != "u1":
            raise pickle.UnpicklingError("an array of something other than bytes")
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        self.rows = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if in_columns else "C")


class _Type:
    """Stands in for numpy.dtype."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = str(code).lstrip("|")

    def __setstate__(self, state: object) -> None: ...


class _Encode:
    """Stands in for codecs.encode, by which Python 3 stores bytes for Python 2; a file cannot change it."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("text in an encoding that is not used")
        return text.encode("latin-1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _Encode(),
}


class _Unpickler(pickle.Unpickler):
    """Unpickler of plain containers and bytes; refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise _Refused(f"{module}.{name}")
        return _STAND_INS[module, name]


class _Refused(Exception):
    """The file asks for something to be called."""


def _text(value: Any) -> Any:
    """Text of Python 2 is bytes in files that Python 3 wrote again."""
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _check_memo(content: bytes) -> None:
    """Refuse numbers of remembered objects that no file of this length has: pickle allocates room for all at once."""
    for code, argument, _ in pickletools.genops(content):
        if code.name in ("PUT", "LONG_BINPUT") and (argument or 0) > len(content):
            raise pickle.UnpicklingError(f"object number {argument} in a file of {len(content)} bytes")


def _unpickle(where: str, content: bytes, version: Version) -> dict[str, Any]:
    try:
        _check_memo(content)
        found = _Unpickler(io.BytesIO(content), encoding="latin1").load()
        if not isinstance(found, dict):
            raise pickle.UnpicklingError(f"a {type(found).__name__} instead of a dict")
        return {str(_text(key)): value.rows if isinstance(value, _Array) else value for key, value in found.items()}
    except _Refused as refused:
        raise DataError(
            f"{where}: asks for {shown(str(refused))}, which could run code and is refused; expected arrays and plain "
            f"values only; fetch {version.archive} from its official site, or the binary version"
        ) from None
    except Exception as error:  # pickle and numpy may raise anything on a broken file
        reason = shown(" ".join(str(error).split()) or type(error).__name__)
        raise DataError(f"{where}: cannot be read ({reason}); fetch {version.archive} again") from None


# The authors' file


def _load_h5(path: Path, cifar: Cifar, side: int, seed: int, name: str) -> Splits:
    if cifar is COARSE:
        raise DataError(f"{shown(path)} has no superclasses; leave data.coarse out, or give the official files")
    with open_h5(path) as file:
        images = file.images("images_train")
        labels = file.classes("labels_train", len(images), cifar.num_classes)
        parts = np.full(len(images), "train", object)
        if file.has("subtrain_indx", "subvalid_indx"):
            parts[file.index("subvalid_indx", len(images))] = "val"
        version, files = _official_beside(path, cifar)
        test_labels, test_images = _batch(path.parent, cifar, version, version.test, files[version.test])
        names = _names(path.parent, cifar, version, files[version.names])
        task = Classification(num_classes=cifar.num_classes, class_names=names)
        classes = torch.from_numpy(np.concatenate([labels, test_labels]))
        index, split = draw_splits(path, classes, task, [*parts, *["test"] * len(test_labels)], seed)
        sets = [images, Images(f"{shown(path.parent)}: {version.test}", test_images)]
        train, val, test = arrange_arrays(path, sets, classes, task, index, side)
    card = {
        "origin": f"{cifar.name}: {len(images):,} images in {shown(path.name)} of the authors of cGAN-KD, and the "
        f"{len(test_labels):,} official test images",
        "licence": LICENCE,
        "split": split,
    }
    return Splits(train, val, test, name, card)


def _official_beside(path: Path, cifar: Cifar) -> tuple[Version, dict[str, bytes]]:
    try:
        return _find(path.parent, cifar)
    except DataError as error:
        raise DataError(
            f"{shown(path)} holds no test images; put {cifar.versions[1].archive}, or its folder, next to it ({error})"
        ) from None
