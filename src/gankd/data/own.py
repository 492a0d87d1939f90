"""Settings, splits and size of the user's own images, whatever their format."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypedDict, get_args

import torch
from PIL import Image, ImageOps
from torch import Tensor

from gankd.config import require
from gankd.data.groups import group_strata, share_groups
from gankd.errors import DataError
from gankd.seeds import rng
from gankd.sizes import is_size, sides, size_of
from gankd.tasks import Task

TaskChoice = Literal["auto", "classification", "regression"]
ChannelChoice = Literal["auto", "grey", "rgb"]
FitChoice = Literal["crop", "pad", "stretch"]
DuplicateChoice = Literal["refuse", "allow"]

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SHARES = {"train": 7, "val": 1, "test": 2}
"""Weights of the splits that are drawn."""
VALIDATION_SHARES = {"train": 9, "val": 1}
"""Weights for published sets, whose test split is given."""
JOINED = "\x1f"
"""Character between the values of a label of several in `Item.label`; no cell holds it."""
SMALLEST_SIZE, LARGEST_SIZE = 8, 256


@dataclass(frozen=True, slots=True)
class Item:
    """One image file, before it is opened."""

    key: str
    """Path below the folder with forward slashes: the same on every machine, so the split is too."""
    path: Path
    label: str
    """Label as text; several values are separated by `JOINED`."""
    where: str
    """Place of the label, for error messages."""
    part: str | None
    """The split that the user chose, if any."""
    group: str | None = None
    """Group that no split divides, if the user names one."""


class Settings(TypedDict, total=False):
    """Keyword arguments of every reader of the user's own images: the fields of `Choices`."""

    task: TaskChoice
    label: tuple[str, ...]
    size: int | str | None
    channels: ChannelChoice
    fit: FitChoice
    low: float | None
    high: float | None
    duplicates: DuplicateChoice
    seed: int


class ArraySettings(Settings, total=False):
    """Keyword arguments of readers of files of arrays."""

    group: int | str | None


class FileSettings(ArraySettings, total=False):
    """Keyword arguments of readers of image files."""

    skip_broken: bool
    val: str | None
    test: str | None


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The user's settings for their own images.

    Raises:
        ConfigError: a choice is out of range.
    """

    task: TaskChoice = "auto"
    """Kind of labels; auto: see `load_folder`."""
    label: tuple[str, ...] = ()
    """Column of the label in a table, whatever its name; several columns are one label of several values. Arrays: names
    of the values."""
    size: int | str | None = None
    """Side in pixels, or height and width as in 48x64, multiples of 4 from 8 to 256, to which images are resampled,
    bicubic and antialiased; default: square images of one size stay as they are."""
    fit: FitChoice = "crop"
    """Treatment of images of another form: their central part, the whole between black bars, or stretched."""
    channels: ChannelChoice = "auto"
    """grey: one channel; rgb: three, which repeat grey levels; auto: those that all images have."""
    low: float | None = None
    """Lower end of the label range in user units, regression only; default: the least label of all splits."""
    high: float | None = None
    """Upper end; default: the greatest label of all splits."""
    seed: int = 0
    """Draws the splits that are not given."""
    duplicates: DuplicateChoice = "refuse"
    """Equal images on two sides of a split: refuse, or only warn."""
    group: int | str | None = None
    """Column, array, text file or level of folders with groups of images (patients, videos) that no split divides."""
    val: str | None = None
    """Folder or file in the same format, whose images are all for validation."""
    test: str | None = None
    """Folder or file in the same format, whose images are all for testing."""
    skip_broken: bool = False
    """Leave out image files that cannot be read; otherwise the first one is named and nothing is read."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", tuple(self.label))
        check_settings(self.task, self.size, self.channels, self.low, self.high)
        require(self.fit in get_args(FitChoice), f"fit must be crop, pad or stretch, got {self.fit!r}")
        known = get_args(DuplicateChoice)
        require(self.duplicates in known, f"duplicates must be {' or '.join(known)}, got {self.duplicates!r}")

    @property
    def group_name(self) -> str | None:
        """`group` as text: the name of a column may be a number, too."""
        return None if self.group is None else str(self.group)

    @property
    def other_paths(self) -> dict[str, Path]:
        """Folders or files that are splits of their own."""
        return {part: Path(path) for part, path in (("val", self.val), ("test", self.test)) if path is not None}


def check_settings(task: str, size: int | str | None, channels: str, low: float | None, high: float | None) -> None:
    """Raise ConfigError unless each is one of its choices, or within its range."""
    for name, value, choice in (("task", task, TaskChoice), ("channels", channels, ChannelChoice)):
        known = get_args(choice)
        require(value in known, f"{name} must be {', '.join(known[:-1])} or {known[-1]}, got {value!r}")
    require(
        size is None or size_fits(size),
        f"size must be a multiple of 4 from {SMALLEST_SIZE} to {LARGEST_SIZE} pixels, or HEIGHTxWIDTH of two such, got "
        f"{size}; nearest: --size {nearest_size(size or 0)}",
    )
    for name, bound in (("low", low), ("high", high)):
        require(bound is None or math.isfinite(bound), f"{name} must be a finite number, got {bound}")
    if low is not None and high is not None:
        require(low < high, f"low must be less than high, got low {low:g} and high {high:g}")


def several(items: Sequence[Item]) -> bool:
    """True if labels are of several values."""
    return JOINED in items[0].label


def joined(columns: Sequence[Sequence[str]]) -> list[str]:
    """Label (N,) of each image from its values, (n, N); those of one column stay as they are."""
    return [JOINED.join(row) for row in zip(*columns, strict=True)]


def with_part(items: list[Item], more: list[Item], part: str, path: Path) -> list[Item]:
    """`items` and those of another folder or file, which are the split `part`.

    Raises:
        ConfigError: there is such a split already, or the other one has splits itself.
    """
    require(
        part not in {item.part for item in items},
        f"data.{part} names {shown(path)}, but there is a split {part} already; leave one out",
    )
    require(
        not any(item.part for item in more),
        f"data.{part} names {shown(path)}, which has splits itself; name a folder or file whose images are all {part}",
    )
    return [*items, *(replace(item, part=part, key=f"{part}: {item.key}") for item in more)]


def size_fits(size: int | str) -> bool:
    """True if generators can make images of these sides."""
    return is_size(size) and all(SMALLEST_SIZE <= side <= LARGEST_SIZE and side % 4 == 0 for side in sides(size))


def nearest_size(size: int | str) -> int | str:
    """Nearest size that fits; 32 for a text that is none."""
    if isinstance(size, str) and not is_size(size):
        return 32
    return size_of(*(min(max(4 * round(side / 4), SMALLEST_SIZE), LARGEST_SIZE) for side in sides(size)))


def fitted(
    image: Image.Image, size: int | str, how: FitChoice, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """A picture of this size: the central part of an image, the whole between black bars, or stretched."""
    height, width = sides(size)
    if how == "pad":
        return ImageOps.pad(image, (width, height), resample)
    if how == "crop":
        wide = min(image.width, max(image.height * width // height, 1))
        high = min(image.height, max(image.width * height // width, 1))
        left, top = (image.width - wide) // 2, (image.height - high) // 2
        image = image.crop((left, top, left + wide, top + high))
    if height != width:  # Pillow would choose the order of its two passes by their cost; exported graphs cannot
        image = image.resize((width, image.height), resample)
    return image.resize((width, height), resample)


def shown(name: str | Path) -> str:
    """Name for messages, escaped if it would break the line or the terminal."""
    text = str(name)
    return text if text.isprintable() else ascii(text)


def counted(number: int, thing: str) -> str:
    """A number with its noun: "1 image", "2 images", "2 classes"."""
    plural = "es" if thing.endswith("s") else "s"
    return f"{number:,} {thing}{'' if number == 1 else plural}"


def and_more(number: int, what: str) -> str:
    """Appended to a message: " (and 3 more images)"; empty for 0."""
    return f" (and {number:,} more {what})" if number > 0 else ""


def draw_split(
    root: Path,
    items: list[Item],
    labels: Tensor,
    task: Task,
    seed: int,
    shares: Mapping[str, int] = SHARES,
    group: str | None = None,
) -> tuple[dict[str, Tensor], str]:
    """Ascending indices of train, val and test, and their origin in words.

    With `group`, the name of the items' groups, none of them is divided.
    """
    parts = [item.part or "train" for item in items]
    given = {item.part for item in items} - {None}
    if "train" not in parts:
        raise DataError(f"{shown(root)}: expected images in the split train, got none; mark some as train")
    drawn = [part for part in SHARES if part == "train" or part not in given]
    if group is not None:
        refuse_divided(root, items, group)
    pool = [index for index, part in enumerate(parts) if part == "train"]
    if len(drawn) > 1 and group is not None:
        names = [str(items[place].group) for place in pool]
        number = len(set(names))
        if number < len(drawn):
            raise DataError(
                f"{shown(root)}: expected at least {len(drawn)} groups ({group}) to share among {', '.join(drawn)}, "
                f"got {number}; add some, or give the splits yourself"
            )
        like = task.groups(labels) if task.label_shape else labels  # several values have no order
        of_each = share_groups(names, group_strata(like[pool]), {p: shares[p] for p in drawn}, seed)
        for place, part in zip(pool, of_each, strict=True):
            parts[place] = part
    elif len(drawn) > 1:
        for name, members in strata(root, items, labels, task, pool, drawn, shares):
            order = torch.randperm(len(members), generator=rng(seed, "folder", "split", name)).tolist()
            for position, part in zip(order, allot(len(members), drawn, shares), strict=True):
                parts[members[position]] = part
    index = {part: torch.tensor([i for i, p in enumerate(parts) if p == part]) for part in SHARES}
    check_train(root, items, labels, task, index["train"])
    how = [f"{', '.join(part for part in SHARES if part not in drawn[1:])} given"] if given else []
    if len(drawn) > 1:
        ratio = " : ".join(str(shares[part]) for part in drawn)
        by = "" if group is None else f" by {shown(group)} ({number:,}, none divided)"
        how.append(f"{', '.join(drawn)} drawn {ratio}{by}, stratified by label, seed {seed}")
    sizes = ", ".join(f"{len(index[part]):,} {part}" for part in SHARES)
    return index, f"{'; '.join(how)}: {sizes}"


def refuse_divided(root: Path, items: list[Item], what: str) -> None:
    """Raise DataError where the user's own split divides a group, or a training image has none.

    Args:
        root: folder or file, for the message.
        items: images with groups and splits.
        what: name of the groups.
    """
    first: dict[str, Item] = {}
    for item in items:
        if not item.group and item.part in ("val", "test"):
            continue  # the user's own split may come from elsewhere, without groups
        if not item.group:
            missing = f"folder at level {what} below the class" if what.isdecimal() else shown(what)
            raise DataError(f"{item.where}: no {missing} for {shown(item.key)}; add it, or leave data.group out")
        other = first.setdefault(item.group, item)
        if other.part != item.part:
            raise DataError(
                f"{shown(root)}: {shown(what)} {shown(item.group)} is in {other.part} and in {item.part}, as "
                f"{shown(other.key)} and {shown(item.key)}; move its images to one split"
            )


def strata(
    root: Path,
    items: list[Item],
    labels: Tensor,
    task: Task,
    pool: list[int],
    drawn: list[str],
    shares: Mapping[str, int] = SHARES,
) -> list[tuple[str, list[int]]]:
    """Groups of images with like labels, by name; each is shared among the `drawn` splits on its own."""
    # Equal values are rare: values are grouped by range, classes by equality.
    values, classes = labels.tolist(), task.has_classes
    if classes:
        groups: dict[str, list[int]] = {}
        for index in pool:
            groups.setdefault(task.group_name(values[index]), []).append(index)
    else:
        boxes = task.groups(labels).tolist()  # rise with the value where it is one
        ranked = sorted(pool, key=lambda index: (boxes[index], values[index], items[index].key))
        length = sum(shares[part] for part in drawn)
        starts = range(0, max(len(ranked) - length, 0) + 1, length)
        ends = [*starts[1:], len(ranked)]  # the last run takes the remainder
        groups = {f"run {i}": ranked[start:end] for i, (start, end) in enumerate(zip(starts, ends, strict=True))}
    few = [name for name, members in groups.items() if len(members) < len(drawn)]
    if few:
        raise DataError(
            f"{shown(root)}: expected at least {len(drawn)} images{f' of class {few[0]}' if classes else ''} "
            f"to share among {', '.join(drawn)}, got {len(groups[few[0]])}"
            f"{and_more(len(few) - 1, 'such classes')}; add images{' or remove the class' if classes else ''}"
        )
    return list(groups.items())


def allot(count: int, drawn: list[str], shares: Mapping[str, int] = SHARES) -> list[str]:
    """Splits of `count` images: at least one in each, and the rest in train."""
    total = sum(shares[part] for part in drawn)
    places = [p for p in drawn[1:] for _ in range(max(1, math.floor(count * shares[p] / total + 0.5)))]
    return ["train"] * (count - len(places)) + places


def check_train(root: Path, items: list[Item], labels: Tensor, task: Task, train: Tensor) -> None:
    """Raise DataError unless the training split holds every class, or more than one value."""
    absent = task.absent(labels[train])
    if absent:
        elsewhere = (labels == absent[0]).nonzero()[:1, 0].tolist()
        but = f" (but {shown(items[elsewhere[0]].key)} elsewhere)" if elsewhere else ", nor elsewhere"
        raise DataError(
            f"{shown(root)}: expected every class in train, got no image of {task.group_name(absent[0])} "
            f"there{but}; add some or remove the class"
        )
    if (labels[train] == labels[train[0]]).all(0).any():
        raise DataError(
            f"{shown(root)}: expected different labels in train, got {task.label_name(labels[train[0]])} for all of "
            f"{counted(len(train), 'image')}; add images to train"
        )


def common_size(root: Path, items: list[Item], sizes: list[tuple[int, int]]) -> int:
    """Common side of square images that all have one usable size."""
    width, height = sizes[0]
    smallest = min(map(min, sizes))
    remedy = f"add --size {32 if smallest >= 32 else nearest_size(smallest)} to crop and resize"
    for item, (other_width, other_height) in zip(items, sizes, strict=True):
        if (other_width, other_height) != (width, height):
            raise DataError(
                f"{shown(root)}: expected images of one size, got {shown(items[0].key)} of {width}x{height} "
                f"and {shown(item.key)} of {other_width}x{other_height} pixels; {remedy}"
            )
    if width != height:
        keep = f"--size {nearest_size(f'{height}x{width}')} to keep the form"
        raise DataError(f"{shown(root)}: expected square images, got {width}x{height} pixels; {remedy}, or {keep}")
    if not size_fits(width):
        raise DataError(
            f"{shown(root)}: expected a multiple of 4 from {SMALLEST_SIZE} to {LARGEST_SIZE} pixels, "
            f"got images of {width}x{width}; add --size {nearest_size(width)} to resize"
        )
    return width
