"""Time that an exported student takes for one image and for many."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gankd.bench.timing import PERCENTILES, Timing, timed
from gankd.config import require
from gankd.models.exported import ExportedModel, open_exported
from gankd.sizes import size_of
from gankd.text import Table, number


@dataclass(frozen=True)
class Latency:
    """Result of `gankd bench-latency`."""

    path: Path
    sides: tuple[int, int]
    """Height and width of the images."""
    threads: int
    timings: dict[int, Timing]
    """Timings by number of images at a time."""

    @property
    def text(self) -> str:
        """Table, and a line if the machine was busy."""
        head = ("images at a time", *(f"{share} % ms" for share in PERCENTILES), "images/s", "calls")
        rows = []
        for batch, own in self.timings.items():
            rate = f"{1000 * batch / own.percentiles[0]:,.0f}"
            rows.append([str(batch), *map(number, own.percentiles), rate, str(len(own.times))])
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        caption = f"{self.path}: images of {self.sides[0]} x {self.sides[1]} pixels in memory, {threads}"
        lines = [Table(head, rows, caption=caption).plain()]
        if any(own.busy for own in self.timings.values()):
            worst = max(own.wall / own.cpu for own in self.timings.values())
            lines.append(f"busy machine: {worst:.1f} times the CPU time passed; repeat when nothing else is running")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        rows = []
        for batch, own in self.timings.items():
            times = {f"p{share}_ms": time for share, time in zip(PERCENTILES, own.percentiles, strict=True)}
            rows.append({"batch": batch, **times, "wall_ms": own.wall, "cpu_ms": own.cpu, "busy": own.busy})
        return {"model": str(self.path), "side": size_of(*self.sides), "threads": self.threads, "timings": rows}


def bench_latency(
    model: Path | str,
    *,
    batches: Sequence[int] = (1, 32),
    side: int | None = None,
    threads: int = 1,
    seconds: float = 2.0,
    trust: bool = False,
) -> Latency:
    """Measure an exported student on this CPU, from pixels in memory to probabilities or values.

    Args:
        model: the file, of any format.
        batches: numbers of images at a time.
        side: height and width of the images, which are resampled in the graph; default: what the network reads.
        threads: threads that compute.
        seconds: time for each number of images, at least; 20 calls are made in any case.
        trust: as in `open_exported`.

    Raises:
        ConfigError: a number is not positive. CheckpointError, ModelError: the file cannot be used.
    """
    asked = [("--threads", threads), ("--side", 1 if side is None else side), *(("--batches", one) for one in batches)]
    for name, value in asked:
        require(value >= 1, f"{name} must be at least 1, got {value}")
    found, before = open_exported(model, trust=trust, threads=threads), torch.get_num_threads()
    measured = found.sides if side is None else (side, side)
    torch.set_num_threads(threads)
    try:
        timings = {batch: _time(found, batch, measured, seconds) for batch in batches}
    finally:
        torch.set_num_threads(before)
    return Latency(found.path, measured, threads, timings)


def _time(model: ExportedModel, batch: int, sides: tuple[int, int], seconds: float) -> Timing:
    images = np.random.default_rng(0).integers(256, size=(batch, model.channels, *sides), dtype=np.uint8)
    return timed(lambda: model.run(images), seconds)
