"""Image files: found, checked, and decoded to uint8 pixels."""

import io
import math
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError, features

from gankd.console import followed
from gankd.data.copies import check_copies
from gankd.data.heic import heic_formats, is_heic
from gankd.data.images import Splits
from gankd.data.labels import settle
from gankd.data.own import (
    SMALLEST_SIZE,
    ChannelChoice,
    Choices,
    FitChoice,
    Item,
    and_more,
    common_size,
    counted,
    fitted,
    shown,
)
from gankd.data.store import arrange, source_key
from gankd.errors import DataError
from gankd.regular import require_regular
from gankd.sizes import sides, size_of

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".avif", ".heic", ".heif"),
)
"""Endings of image files. With a Pillow that cannot read AVIF, or without pillow-heif, the last count as unreadable."""

FORMATS = (
    *("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM"),
    *(["AVIF"] if "avif" in features.get_supported() else []),
)
"""Formats of Pillow that are decoded, whatever a file is called; others, such as EPS, would start other programs."""

MAX_PIXELS = 100_000_000
"""Most pixels of an image; a file of less than a megabyte can hold more."""

MAX_DECODED = 2**30
"""Most bytes of decoded images in all threads together; an image that takes more is decoded while no other is."""

_OR_SKIP = ", or add --skip-broken"
"""Remedy for files that cannot be read, where the reader can leave them out."""

MOST_LISTED = 5
"""Number of images left out that a message names."""

MOST_AT_A_TIME = 16
"""Most files that a thread takes at a time."""

_BYTES_PER_PIXEL = 12
"""Memory that an image takes at its peak: as stored, without transparency, and in the colours asked for."""

_BAND = 256
"""Rows that lose their transparency at a time."""

_JUNK = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information"}

T = TypeVar("T")
R = TypeVar("R")


def list_folder(folder: str | Path) -> list[os.DirEntry[str]]:
    """Entries in order of name, without hidden files and files that file managers leave behind."""
    try:
        with os.scandir(folder) as entries:
            kept = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in _JUNK]
    except OSError as error:
        raise DataError(f"cannot read folder {shown(folder)}: {error.strerror}; check its permissions") from None
    return sorted(kept, key=lambda entry: entry.name)


def is_image(name: str) -> bool:
    """True if a file of this name holds an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def walk(folder: str | Path) -> tuple[list[Path], list[str]]:
    """Images and names of other files in `folder` and below, links followed.

    Each real folder is read once, and none above `folder`: loops of links end, and a link upwards does not pull
    other classes in.
    """
    above = Path(folder).parent.resolve()
    seen = {_identity(parent) for parent in (above, *above.parents)}
    images: list[Path] = []
    others: list[str] = []
    waiting = [os.fspath(folder)]
    while waiting:
        current = waiting.pop()
        if _identity(current) in seen:
            continue
        seen.add(_identity(current))
        for entry in list_folder(current):
            if os.path.isdir(entry.path):
                waiting.append(entry.path)
            elif is_image(entry.name):
                images.append(Path(entry.path))
            else:
                others.append(entry.name)
    return images, others


# Pixels


Source = Path | bytes
"""A file, or the content of one."""
READ = "read images"
"""Name of the work of decoding."""


class Pictures(Protocol):
    """Image files in the order of their items, to be opened as often as needed."""

    @property
    def paths(self) -> Sequence[Path]:
        """All files that have been read, once `visit` has been called."""

    def visit(self, function: Callable[[int, Source], R], what: str = READ) -> list[R | str]:
        """Result of `function` for each number and file, or the reason why the file cannot be read.

        `what` names the work where its progress is shown.
        """
        ...


class Files:
    """Pictures that are files of their own."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    @property
    def paths(self) -> Sequence[Path]:
        """See `Pictures`."""
        return self._paths

    def visit(self, function: Callable[[int, Source], R], what: str = READ) -> list[R | str]:
        """See `Pictures`."""
        return in_threads(lambda pair: function(*pair), enumerate(self._paths), what, len(self._paths))


class _Some:
    """Some of other pictures, at ascending positions among them."""

    def __init__(self, pictures: Pictures, positions: Sequence[int]) -> None:
        self._pictures, self._positions = pictures, positions

    @property
    def paths(self) -> Sequence[Path]:
        """See `Pictures`."""
        return self._pictures.paths

    def visit(self, function: Callable[[int, Source], R], what: str = READ) -> list[R | str]:
        """See `Pictures`."""
        place = {position: number for number, position in enumerate(self._positions)}

        def attempt(position: int, source: Source) -> R | None:
            return function(place[position], source) if position in place else None

        outcomes = self._pictures.visit(attempt, what)
        return [cast("R | str", outcomes[position]) for position in self._positions]


def without_broken(root: Path, items: list[Item], pictures: Pictures) -> tuple[list[Item], Pictures, list[str]]:
    """Items and pictures that can be decoded, and a line on each of the others.

    Raises:
        DataError: none is left.
    """
    outcomes = pictures.visit(lambda _, source: probe(source))
    kept = [number for number, outcome in enumerate(outcomes) if not isinstance(outcome, str)]
    if not kept:
        _refuse_unreadable(root, items, outcomes)
    left_out = [
        f"{shown(item.key)}: {shown(outcome)}"
        for item, outcome in zip(items, outcomes, strict=True)
        if isinstance(outcome, str)
    ]
    return [items[number] for number in kept], _Some(pictures, kept) if left_out else pictures, left_out


def splits_of_pictures(
    root: Path,
    items: list[Item],
    pictures: Pictures,
    choices: Choices,
    *,
    what: str,
    tabular: bool = True,
    class_names: tuple[str, ...] = (),
    hint: str = "",
) -> Splits:
    """Splits of image files.

    Args:
        root: the folder or table that they come from.
        items: label and split of each.
        pictures: the files.
        choices: what the user says about them.
        what: word for `root` in the card.
        tabular, class_names, hint: as in `settle`.

    Raises:
        ConfigError: a range of classes. DataError: a label or an image cannot be used.
    """
    left_out: list[str] = []
    if choices.skip_broken:
        items, pictures, left_out = without_broken(root, items, pictures)
    labels, task, index, how = settle(root, items, choices, tabular=tabular, class_names=class_names, hint=hint)
    side, grey, pixels = survey(root, items, pictures, choices.size, choices.channels, _OR_SKIP)
    train, val, test = arrange(
        labels,
        task,
        index,
        (1 if grey else 3, *sides(side)),
        lambda: source_key(pictures.paths, side, grey, *([choices.fit] if choices.fit != "crop" else [])),
        lambda target, row: decode_into(target, row, root, items, pictures, how=choices.fit, remedy=_OR_SKIP),
    )
    path = root.resolve()
    name = (path.stem if path.is_file() else path.name) or "root"
    origin = f"{what} {shown(path.name or name)}: {counted(len(items), 'image file')}, {pixels}"
    warnings: list[str] = []
    card: dict[str, Any] = {"origin": origin, "licence": "the user's own", **how}
    if left_out:
        card["left_out"] = left_out
        listed = "; ".join(left_out[:MOST_LISTED]) + and_more(len(left_out) - MOST_LISTED, "of them")
        warnings = [f"{counted(len(left_out), 'image')} left out that cannot be read: {listed}"]
    warnings += check_copies(root, items, index, (train, val, test), allowed=choices.duplicates == "allow")
    if warnings:
        card["warnings"] = warnings
    return Splits(train, val, test, name, card)


def survey(
    root: Path, items: list[Item], pictures: Pictures, size: int | str | None, channels: ChannelChoice, remedy: str = ""
) -> tuple[int | str, bool, str]:
    """Size for all images, True if they become grey, and a description of the files.

    `remedy` ends the error about files that cannot be read. `draft` allows to decode large JPEG files at a fraction of
    their size, which is faster and a little different.

    Raises:
        DataError: files that are not images, or that differ in a size or colour that was not set.
    """
    outcomes = pictures.visit(lambda _, source: header(source), "read headers")
    headers = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    if len(headers) < len(items):
        # Count all bad files at once: some show only when decoded.
        _refuse_unreadable(root, items, pictures.visit(lambda _, source: probe(source)), remedy)
    sizes = [(width, height) for width, height, _ in headers]
    side = size or common_size(root, items, sizes)
    high, wide = sides(side)
    grey = common_channels(root, items, [is_grey for *_, is_grey in headers], channels)
    least, most = min(sizes, key=math.prod), max(sizes, key=math.prod)
    span = f"{least[0]}x{least[1]}" + ("" if least == most else f" to {most[0]}x{most[1]}")
    return side, grey, f"{span} pixels, used as {'grey' if grey else 'RGB'} {wide}x{high}"


def decode_into(
    target: npt.NDArray[np.uint8],
    row: npt.NDArray[np.int64],
    root: Path,
    items: list[Item],
    pictures: Pictures,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
    how: FitChoice = "crop",
    remedy: str = "",
    *,
    draft: bool = True,
) -> None:
    """Write image i to target[row[i]], (C, H, W) each, as `fitted` does; those with row -1 are not opened.

    `remedy` ends the error about files that cannot be read. `draft` allows to decode large JPEG files at a fraction of
    their size, which is faster and a little different.

    Raises:
        DataError: files that cannot be read.
    """
    grey, size = target.shape[1] == 1, size_of(*target.shape[-2:])

    def read(index: int, source: Source) -> None:
        if row[index] >= 0:
            target[row[index]] = _decode(source, size, grey, resample, how, draft=draft)

    _refuse_unreadable(root, items, pictures.visit(read), remedy)


def photograph(content: bytes, size: int | str, *, grey: bool, most: int) -> npt.NDArray[np.uint8]:
    """Pixels (C, H, W) of one image file in memory, as `decode_into` reads it without `draft`.

    Args:
        content: the file.
        size: side in pixels, or height and width as in 48x64.
        grey: read grey levels.
        most: pixels of the largest image that is decoded.

    Raises:
        DataError: it cannot be read, or is too large.
    """
    (found,) = in_threads(lambda source: _decode(source, size, grey, draft=False, most=most), [content])
    if isinstance(found, str):
        raise DataError(f"the photograph cannot be read: {shown(found)}")
    return found


def in_threads(function: Callable[[T], R], arguments: Iterable[T], what: str = "", total: int = 0) -> list[R | str]:
    """Results, or the reason why a file has none; Pillow decodes without Python's lock.

    Args:
        function: reads a file.
        arguments: one for each file, taken as threads come to them.
        what: name of the work, whose progress is then shown.
        total: number of arguments.
    """

    def attempt(argument: T) -> R | str:
        try:
            return function(argument)
        except UnidentifiedImageError:
            return f"not an image in a known format ({', '.join(FORMATS)})"
        except Exception as error:  # decoders raise whatever a broken file makes of their arithmetic
            text = " ".join(str(getattr(error, "strerror", None) or error).split())
            return text or type(error).__name__

    threads = min(16, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `_open` has a limit of its own
        try:
            found = _in_turn(pool, threads, attempt, iter(arguments))
            return list(followed(what, found, total) if what else found)
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C drops files that have not begun


def _in_turn(pool: ThreadPoolExecutor, threads: int, function: Callable[[T], R], arguments: Iterator[T]) -> Iterator[R]:
    """Results in the order of the arguments, of which only some wait: a million would take a gigabyte.

    Threads take several at a time, but one at first, so that all have work where there are few.
    """
    waiting: deque[Future[list[R]]] = deque()
    given = 0
    while some := list(islice(arguments, min(MOST_AT_A_TIME, 1 + given // threads))):
        waiting.append(pool.submit(lambda some: [function(each) for each in some], some))
        given += 1
        if len(waiting) > 4 * threads:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


class Budget:
    """Bytes that threads may hold together."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0
        self._change = threading.Condition()

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Wait until `count` bytes are free, or until nothing is held if it is more than there are."""
        with self._change:
            self._change.wait_for(lambda: self.held == 0 or self.held + count <= self.most)
            self.held += count
        try:
            yield
        finally:
            with self._change:
                self.held -= count
                self._change.notify_all()


_decoded = Budget(MAX_DECODED)


def _refuse_unreadable(root: Path, items: list[Item], outcomes: Sequence[object | str], remedy: str = "") -> None:
    bad = [(shown(item.key), shown(what)) for item, what in zip(items, outcomes, strict=True) if isinstance(what, str)]
    if bad:
        raise DataError(
            f"{shown(root)}: {len(bad):,} of {counted(len(items), 'image')} cannot be read, first "
            f"{bad[0][0]}: {bad[0][1]}; replace or remove {'it' if len(bad) == 1 else 'them'}{remedy}"
        )


def header(source: Source) -> tuple[int, int, bool]:
    """Width and height of an image and True if it is grey, without decoding it."""
    with _open(source) as image:
        return image.width, image.height, is_grey(image)


def probe(source: Source) -> tuple[int, int, bool]:
    """Header of an image, which is decoded as well because some damage shows only then."""
    found = header(source)
    _decode(source, SMALLEST_SIZE, True)
    return found


def _decode(
    source: Source,
    size: int | str,
    grey: bool,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
    how: FitChoice = "crop",
    *,
    draft: bool = True,
    most: int = MAX_PIXELS,
) -> npt.NDArray[np.uint8]:
    """Pixels of a file, see `pixels_of`; waits while other threads hold too much memory."""
    with _open(source, most) as image:
        if draft:  # a JPEG much larger than needed is decoded at a half, quarter or eighth, never below twice the sides
            high, wide = sides(size)
            image.draft(None, (2 * wide, 2 * high))
        with _decoded.hold(image.width * image.height * _BYTES_PER_PIXEL):
            try:
                return pixels_of(image, size, grey, resample, how)
            finally:
                image.close()  # its pixels too, before others get their turn


def _open(source: Source, most: int = MAX_PIXELS) -> Image.Image:
    """An image of an allowed format and size, not decoded yet."""
    if isinstance(source, Path):
        require_regular(source)
    if (os.stat(source).st_size if isinstance(source, Path) else len(source)) == 0:
        raise ValueError("an empty file (0 bytes)")
    formats = heic_formats() if is_heic(source) else FORMATS
    image = Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=formats)
    if image.width * image.height > most:
        image.close()
        raise ValueError(f"{image.width:,} x {image.height:,} pixels, expected at most {most:,}")
    return image


def is_grey(image: Image.Image) -> bool:
    """True if the file stores grey levels."""
    return image.mode in {"1", "L", "LA", "La", "F"} or image.mode.startswith("I")


def common_channels(root: Path, items: list[Item], grey: list[bool], channels: ChannelChoice) -> bool:
    """True if grey levels are read; `grey` says how each file stores them."""
    if channels != "auto":
        return channels == "grey"
    if len(set(grey)) > 1:
        one, other = shown(items[grey.index(True)].key), shown(items[grey.index(False)].key)
        raise DataError(
            f"{shown(root)}: expected all grey or all colour, got {one} in grey and {other} in colour "
            f"({sum(grey):,} and {len(grey) - sum(grey):,} images); add --channels rgb or --channels grey"
        )
    return grey[0]


def pixels_of(
    opened: Image.Image,
    size: int | str,
    grey: bool,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
    how: FitChoice = "crop",
) -> npt.NDArray[np.uint8]:
    """uint8 (C, H, W): upright, opaque, resampled by `fitted`; `opened` is turned in place."""
    ImageOps.exif_transpose(opened, in_place=True)
    image = flatten(opened).convert("L" if grey else "RGB")
    height, width = sides(size)
    if image.size != (width, height):
        image = fitted(image, size, how, resample)
    return np.asarray(image).reshape(height, width, -1).transpose(2, 0, 1)


def flatten(image: Image.Image) -> Image.Image:
    """The picture with 8 bits and without transparency."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range, save with 8 or 16 bits")
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int32)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("pixels beyond 16 bits, save with 8 or 16 bits")
        levels += 128
        levels //= 257
        return Image.fromarray(levels.astype(np.uint8))
    if image.has_transparency_data:
        opaque = Image.new("RGB", image.size)
        for top in range(0, image.height, _BAND):  # in bands, because each step makes a copy
            box = (0, top, image.width, min(top + _BAND, image.height))
            part = image.crop(box).convert("RGBA")
            opaque.paste(Image.alpha_composite(Image.new("RGBA", part.size, "white"), part).convert("RGB"), box)
        return opaque
    return image
