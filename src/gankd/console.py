"""Progress of a stage for a person or a script: one live line, plain lines, JSON lines, or nothing."""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from gankd.text import columns, duration, number

Mode = Literal["live", "plain", "quiet", "json"]


class Console:
    """Prints progress. `auto` is a live line on a terminal, and a plain line every ten seconds elsewhere."""

    _shown: ClassVar[int] = 0
    """Length of the unfinished live line on standard error, shared by all consoles of a process."""

    def __init__(self, mode: Mode | Literal["auto"] = "auto") -> None:
        self.mode: Mode = mode if mode != "auto" else ("live" if sys.stderr.isatty() else "plain")
        self._last = 0.0

    def due(self) -> bool:
        """True if it is time to show progress again; only then do callers read tensors from the device."""
        wait = {"live": 0.3, "plain": 10.0, "quiet": float("inf"), "json": 5.0}[self.mode]
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
            line = f"{stage:<18} {done / max(total, 1):4.0%}{speed}  {duration(left)} left  {values}"
            self._write(line, live=True)

    def say(self, text: str, **facts: Any) -> None:
        """Print a line that stays."""
        if self.mode == "json":
            self.event({"event": "message", "text": text, **facts})
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
