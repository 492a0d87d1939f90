"""Time of a call that is repeated, and whether the machine had time for it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PERCENTILES = (50, 90, 99)
BUSY = 1.25
"""Wall time per CPU time of this process from which on other programs were in the way."""
WARM_UP, LEAST = 3, 20


@dataclass(frozen=True)
class Timing:
    """Times of a call, in milliseconds."""

    times: tuple[float, ...]
    """Wall time of each call."""
    wall: float
    cpu: float
    """Wall and CPU time of all calls together."""

    @property
    def percentiles(self) -> list[float]:
        """Times below which 50, 90 and 99 % of the calls lie."""
        found: list[float] = np.percentile(self.times, PERCENTILES).tolist()
        return found

    @property
    def busy(self) -> bool:
        """True if the machine did other things meanwhile."""
        return self.wall > BUSY * self.cpu


def timed(call: Callable[[], object], seconds: float) -> Timing:
    """Time of a call, repeated for some seconds and at least 20 times, after a warm-up."""
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    cpu, start = time.process_time(), time.perf_counter()
    while len(times) < LEAST or time.perf_counter() - start < seconds:
        began = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - began))
    wall = time.perf_counter() - start
    return Timing(tuple(times), 1000 * wall, 1000 * (time.process_time() - cpu))
