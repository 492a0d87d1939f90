"""`gankd data`: download a published set, and look at any set before training on it."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from gankd.config import from_dict, require, suggest
from gankd.console import Console
from gankd.data.images import Splits
from gankd.data.inspection import Found, Scan, Shared, contact_images, detect, duplicates, histogram, scan
from gankd.data.layout import Layout
from gankd.data.own import ChannelChoice, TaskChoice, counted, shown
from gankd.data.sets import DATA_SETS
from gankd.data.sources import Fetched
from gankd.data.sources import fetch as fetch_files
from gankd.errors import DataError
from gankd.recipes.config import DataConfig
from gankd.recipes.data import load_splits
from gankd.report.grids import image_grid
from gankd.storage import atomic
from gankd.text import Table, columns

MOST_LISTED = 5
"""Number of unreadable files that are named."""
MOST_BARS = 20
"""Largest number of classes with a line each."""
BAR = 40
"""Length of the longest bar, in characters."""


# --- fetch --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FetchResult:
    """Result of `gankd data fetch`."""

    fetched: Fetched

    @property
    def command(self) -> str:
        """The command that trains on it."""
        return f"gankd run {self.fetched.data_set} --data {shlex.quote(str(self.fetched.path))}"

    @property
    def text(self) -> str:
        """One line."""
        came = f"{self.fetched.transferred / 1e6:,.1f} MB" if self.fetched.transferred else "already downloaded"
        return f"{self.fetched.path}: {self.fetched.name}, {came}, checksums correct; next: {self.command}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        fetched = self.fetched
        files = [str(file) for file in fetched.files]
        facts = {"name": fetched.name, "path": str(fetched.path), "files": files, "transferred": fetched.transferred}
        return facts | {"next": self.command}


def fetch(name: str, *, to: Path | str | None = None, console: Console | None = None) -> FetchResult:
    """Download a published data set, checked and resumable.

    Args:
        name: cifar10, cifar100, tiny-imagenet or mnist; for others the error says where to get them by hand.
        to: folder; default: data/NAME.
        console: shows progress; default: none is shown.

    Raises:
        GankdError: the set cannot be downloaded; one line that says what to do.
    """
    console = console or Console("quiet")

    def progress(what: str, done: int, total: int, rate: float) -> None:
        if console.due() or done == total:
            left = (total - done) / rate if rate and total else 0.0
            console.progress(what, done, total, 0.0, left, {"MB": done / 1e6, "MB/s": rate / 1e6} if rate else {})

    return FetchResult(fetch_files(name, Path("data") / name if to is None else Path(to), progress))


# --- show ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataReport:
    """Result of `gankd data show`."""

    found: Found
    options: tuple[str, ...]
    """Command-line options with which the set can be used."""
    scan: Scan | None
    problem: str
    """Reason why the set cannot be used as it is; empty if it can."""
    splits: Splits | None
    """None if the set cannot be read."""
    sheet: Path | None
    counts: dict[str, int] = field(default_factory=dict)
    histogram: list[tuple[str, dict[str, int]]] = field(default_factory=list)
    shared: list[Shared] = field(default_factory=list)

    @property
    def command(self) -> str:
        """The command that trains on it."""
        data = [] if self.found.path is None else ["--data", str(self.found.path)]
        return shlex.join(["gankd", "run", self.found.name, *data, *self.options])

    @property
    def exit_code(self) -> int:
        """1 if the set cannot be used as it is."""
        return 1 if self.problem else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        facts: dict[str, Any] = {
            "name": self.found.name,
            "path": self.found.path and str(self.found.path),
            "format": self.found.what,
            "problem": self.problem,
            "next": self.command,
            "sheet": self.sheet and str(self.sheet),
        }
        if self.scan is not None:
            facts["files"] = self.scan.count
            facts["sizes"] = [[*size, count] for size, count in sorted(self.scan.sizes.items())]
            facts["unreadable"] = [[str(path), why] for path, why in self.scan.unreadable]
        if self.splits is not None:
            facts |= {
                "counts": self.counts,
                "shape": self.splits.train.shape,
                **self.splits.task.facts,
                "histogram": [{"label": label, **counts} for label, counts in self.histogram],
                "duplicates": [asdict(each) for each in self.shared],
                "card": self.splits.card,
            }
        return facts

    @property
    def text(self) -> str:
        """Text for a terminal."""
        where = self.found.name if self.found.path is None else shown(self.found.path)
        lines = [f"{where}: {self.found.what} ({self.found.name})"]
        if self.scan is not None:
            lines += self._files()
        if self.splits is not None:
            lines += [*self._labels(self.splits), *self._bars(self.splits), *self._duplicates()]
        if self.sheet is not None:
            lines.append(f"contact sheet  {shown(self.sheet)}: training images, sorted by label")
        if self.problem:
            then = f"; then  {self.command}" if self.splits is not None else ""
            lines.append(f"cannot be used yet: {self.problem}{then}")
        else:
            lines.append(f"next  {self.command}")
        return "\n".join(lines)

    def _files(self) -> list[str]:
        assert self.scan is not None
        sizes, bad = self.scan.sizes, self.scan.unreadable
        ends = sorted(sizes, key=math.prod)
        span = " to ".join(f"{width}x{height}" for width, height in dict.fromkeys((*ends[:1], *ends[-1:])))
        several = f", {len(sizes):,} sizes" if len(sizes) > 1 else ""
        grey = f", {self.scan.grey:,} of them grey" if self.scan.mixed else ""
        files = f"{counted(self.scan.count, 'image')}{grey}"
        lines = [f"files       {files}, {span} pixels{several}" if sizes else f"files       {files}"]
        if bad:
            root = self.found.path if self.found.path is not None and self.found.path.is_dir() else None
            lines.append(f"unreadable  {counted(len(bad), 'image')}:")
            names = [(path.relative_to(root) if root else path, why) for path, why in bad[:MOST_LISTED]]
            lines += [f"  {shown(path)}: {shown(why)}" for path, why in names]
            lines += [f"  and {len(bad) - MOST_LISTED:,} more"] if len(bad) > MOST_LISTED else []
        return lines

    def _labels(self, splits: Splits) -> list[str]:
        channels, height, width = splits.train.shape
        card = splits.card
        labels = torch.cat([part.labels.cpu() for part in (splits.train, splits.val, splits.test)])
        why = f"; {card['labels'].partition(': ')[2]}" if "labels" in card else ""
        colour = {1: "grey"}.get(channels, "RGB")
        return [
            f"images      {', '.join(f'{count:,} {part}' for part, count in self.counts.items())}; "
            f"{colour} {width}x{height}",
            f"origin      {card.get('origin', 'unknown')}; licence: {card.get('licence', 'unknown')}",
            f"split       {card.get('split', 'given')}",
            *(f"warning     {warning}" for warning in card.get("warnings", ())),
            f"labels      {splits.task.describe(labels)}{why}",
        ]

    def _bars(self, splits: Splits) -> list[str]:
        rows = [(shown(label), counts, sum(counts.values())) for label, counts in self.histogram]
        note = ""
        if len(rows) > MOST_BARS:
            rows.sort(key=lambda row: -row[2])
            half = MOST_BARS // 4
            note = f"({len(rows) - 2 * half} classes between these are left out)"
            rows = rows[:half] + rows[-half:]
        longest, width = max(total for *_, total in rows), min(max(len(label) for label, *_ in rows), 30)
        room = max(10, min(BAR, columns() - width - 10 * len(self.counts)))
        cells = []
        for label, counts, total in rows:
            bar = "#" * max(round(room * total / max(longest, 1)), total > 0)
            cells.append([label[:width], *(f"{counts[part]:,}" for part in self.counts), bar])
        align = "l" + "r" * len(self.counts) + "l"
        return ["", Table(["label", *self.counts, ""], cells, align=align, notes=[note] if note else []).plain(), ""]

    def _duplicates(self) -> list[str]:
        if not self.shared:
            return ["duplicates  none"]
        lines = []
        for each in self.shared:
            inside = each.first == each.second
            what = f"more than once in {each.first}" if inside else f"of {each.first} in {each.second}"
            told = [f"{each.same:,} pixel for pixel"] if each.same else []
            if each.relabelled:
                told.append(f"{each.relabelled:,} of them with another label")
            if each.alike:
                told.append(f"{each.alike:,} alike in 8x8 cells (check whether they are the same)")
            lines.append(f"duplicates  {what}: {', '.join(told)}")
        return lines


def show(
    path: str | Path,
    *,
    name: str | None = None,
    task: TaskChoice = "auto",
    label: Sequence[str] = (),
    size: int | None = None,
    channels: ChannelChoice = "auto",
    layout: Layout = "auto",
    low: float | None = None,
    high: float | None = None,
    sheet: Path | str | None = None,
) -> DataReport:
    """Look at a data set: format, counts, sizes, labels, duplicates, unreadable files, a contact sheet.

    Unreadable files are reported, and left out of the rest if the reader allows it. Images of several sizes or colours
    are shown as 32x32 or RGB unless options say otherwise, and the report names the options to use.

    Args:
        path: file or folder, or the name of an embedded set.
        name: format, as `data.name` calls it; default: found.
        task, label, size, channels, layout, low, high: as in `load_folder`.
        sheet: PNG file for the contact sheet; default: no sheet.

    Raises:
        GankdError: the path cannot be read, its format is unknown, or a file that holds a whole set is damaged.
    """
    path, sheet = Path(path), None if sheet is None else Path(sheet)
    if not path.exists() and str(path) in DATA_SETS and DATA_SETS[str(path)].embedded:
        found = Found(str(path), None, "embedded")
    else:
        require(name is None or name in DATA_SETS, f"--name: no data set {name!r}; {suggest(str(name), DATA_SETS)}")
        found = detect(path) if name is None else Found(name, path, "as --name says")
    skips = "skip_broken" in DATA_SETS[found.name].takes
    files = None if found.path is None else scan(found, tuple(label))
    if files is not None and skips:
        size = files.side if size is None else size
        channels = "rgb" if channels == "auto" and files.mixed else channels
    bad = [] if files is None else [path for path, _ in files.unreadable]
    settings: dict[str, Any] = {
        "task": task,
        "label": tuple(label),
        "size": size,
        "channels": channels,
        "low": low,
        "high": high,
    }
    if layout != "auto":
        settings["layout"] = layout
    splits, problem = None, ""
    if bad:
        problem = f"{counted(len(bad), 'image')} cannot be read; replace or remove {'it' if len(bad) == 1 else 'them'}"
        problem += ", or add --skip-broken" if skips else ""
    try:
        source = {"name": found.name, "root": None if found.path is None else str(found.path)}
        lenient: dict[str, Any] = {"skip_broken": True} if bad and skips else {}
        if "duplicates" in DATA_SETS[found.name].takes:
            lenient["duplicates"] = "allow"  # they are shown below
        splits = load_splits(from_dict(DataConfig, {**source, **settings, **lenient}, "--name"))
    except DataError as error:
        if files is None:
            raise  # there is nothing else to show
        problem = str(error)
    options = tuple(
        word
        for option, value in settings.items()
        if value not in (None, "auto", ())
        for word in (
            ("--set", f"data.{option}={value}")
            if option in ("low", "high", "layout")
            else (f"--{option}", ",".join(value) if isinstance(value, tuple) else str(value))
        )
    )
    if splits is None:
        return DataReport(found, options, files, problem, None, None)
    if sheet is not None:
        images, columns = contact_images(splits.train)
        grid = image_grid(images, columns=columns, scale=max(1, 64 // images.shape[-1]))
        with atomic(sheet) as temporary:
            grid.save(temporary, format="png")
    counts = {"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)}
    shared = duplicates(splits)
    if not problem and "duplicates" in lenient and any(each.same and each.first != each.second for each in shared):
        problem = "equal images in two splits; remove them, or add --set data.duplicates=allow"
    return DataReport(found, options, files, problem, splits, sheet, counts, histogram(splits), shared)
