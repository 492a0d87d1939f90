"""Progress of a run for a person or a script: a live line, a bar, plain lines, JSON lines, or nothing."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Literal, TypeVar

from gankd.outlook import STUDENTS, Outlook
from gankd.text import columns, duration, number

Mode = Literal["live", "bar", "plain", "quiet", "json"]
T = TypeVar("T")
QUIET = 1.0
"""Seconds of reading that need no progress."""


class Console:
    """Prints progress. `auto` is a live line on a terminal, and a plain line every ten seconds elsewhere.

    `bar` is a progress bar of tqdm, for terminals and notebooks.
    """

    _shown: ClassVar[int] = 0
    """Length of the unfinished live line on standard error, shared by all consoles of a process."""

    def __init__(self, mode: Mode | Literal["auto"] = "auto") -> None:
        self.mode: Mode = mode if mode != "auto" else ("live" if sys.stderr.isatty() else "plain")
        self._last = 0.0
        self._bar: Any = None
        self.outlook: Outlook | None = None
        """Expected time of the whole run, if somebody who watches wants to know."""

    @classmethod
    def of_python(cls) -> "Console":
        """A bar on a terminal and in a notebook, nothing elsewhere: for functions that are called without a console."""
        return cls("bar" if sys.stderr.isatty() or "ipykernel" in sys.modules else "quiet")

    @property
    def watched(self) -> bool:
        """True if a person watches a live line or a bar."""
        return self.mode in ("live", "bar")

    def due(self) -> bool:
        """True if it is time to show progress again; only then do callers read tensors from the device."""
        wait = {"live": 0.3, "bar": 0.3, "plain": 10.0, "quiet": float("inf"), "json": 5.0}[self.mode]
        return time.monotonic() - self._last >= wait

    def progress(self, stage: str, done: int, total: int, rate: float, left: float, terms: Mapping[str, float]) -> None:
        """Show one stage's progress: share done, images per second, seconds left, terms of the loss."""
        self._last = time.monotonic()
        if self.mode == "json":
            event = {"event": "progress", "stage": stage, "done": done, "total": total}
            self.event({**event, "images_per_second": round(rate, 1), "seconds_left": round(left, 1), **terms})
        elif self.mode in ("live", "plain"):
            values = "  ".join(f"{name} {number(value)}" for name, value in terms.items())
            speed = f"  {rate:,.0f} img/s" if rate else ""
            whole = f"  run {duration(self._whole(stage, done, total, left)[1])} left" if self.outlook else ""
            which = self._which(stage)
            line = f"{stage + which:<18} {done / max(total, 1):4.0%}{speed}  {duration(left)} left{whole}  {values}"
            self._write(line, live=True)
        elif self.mode == "bar":
            self._show_bar(stage, done, total, left)

    def _whole(self, stage: str, done: int, total: int, left: float) -> tuple[float, float]:
        """Share that is done and seconds left, of the run if it is known what that takes, or else of the stage."""
        share = done / max(total, 1)
        return (share, left) if self.outlook is None else self.outlook.at(stage, done, total, left)

    def _which(self, stage: str) -> str:
        """The number of the present student among all of the run."""
        one = self.outlook is not None and stage.startswith("student") and stage != STUDENTS
        return f" ({self.outlook.student})" if one and self.outlook is not None else ""

    def _show_bar(self, stage: str, done: int, total: int, left: float) -> None:
        from tqdm.auto import tqdm

        share, left = self._whole(stage, done, total, left)
        if self._bar is None:
            self._bar = tqdm(total=100, bar_format="{percentage:3.0f}% {bar:30} {desc}")
        self._bar.n = max(0.0, min(100.0, 100 * share))
        within = f"{stage}{self._which(stage)} {done / max(total, 1):.0%}"
        self._bar.set_description_str(f"{within}, {duration(left)} left")

    def close(self) -> None:
        """End the bar, if there is one."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def say(self, text: str, **facts: Any) -> None:
        """Print a line that stays."""
        if self.mode == "json":
            self.event({"event": "message", "text": text, **facts})
        elif self.mode == "bar":
            from tqdm.auto import tqdm

            tqdm.write(text)
        elif self.mode != "quiet":
            self._write(text, live=False)

    def event(self, values: Mapping[str, Any]) -> None:
        """Print a JSON line on standard output, in JSON mode only."""
        if self.mode == "json":
            print(json.dumps(values), flush=True)

    @classmethod
    def end_line(cls) -> None:
        """Finish the live line, if there is one, before anything else is printed."""
        if cls._shown:
            print(file=sys.stderr, flush=True)
        cls._shown = 0

    def _write(self, line: str, *, live: bool) -> None:
        if self.mode == "plain":
            print(line, file=sys.stderr, flush=True)
            return
        if live:
            line = line[: columns(sys.stderr, 80) - 1]  # a line that wraps could not be overwritten
        padding = " " * (Console._shown - len(line))
        print(f"\r{line}{padding}", end="" if live else "\n", file=sys.stderr, flush=True)
        Console._shown = len(line) if live else 0


_reader: ContextVar["Console | None"] = ContextVar("_reader", default=None)
"""Console that shows how far images are read; readers of data sets have no argument for it."""


@contextmanager
def shows_reading(console: Console) -> Iterator[None]:
    """Within the block, `console` shows the progress of `followed`."""
    token = _reader.set(console)
    try:
        yield
    finally:
        _reader.reset(token)


def followed(what: str, parts: Iterable[T], total: int, images: int = 1) -> Iterator[T]:
    """`parts` as they come, while the console of `shows_reading` shows how many there are.

    Args:
        what: name of the work.
        parts: results of it.
        total: number of parts.
        images: images in each part; 0 shows no speed.
    """
    console, start = _reader.get(), time.monotonic()
    for done, part in enumerate(parts, 1):
        spent = time.monotonic() - start
        if console is not None and spent > QUIET and console.due():
            console.progress(what, done, total, done * images / spent, spent / done * (total - done), {})
        yield part
