"""Threads that compute: no more than there are free cores, and one where other programs take the cores.

Threads share each operation and wait for one another: where one of them has no core, none goes on.
"""

import os
import time
from collections.abc import Callable

import torch

WINDOW = 10.0
"""Seconds between two looks."""
CROWDED = 0.25
"""Share of the time that this thread waits for a core, from which on other programs are in the way."""
SAMPLES, APART = 5, 0.02
"""Looks at the number of running programs, and the seconds between them."""


def cores() -> int:
    """Number of cores that this process may use; some systems only know how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fixed() -> bool:
    """True if the user has chosen the number of threads."""
    return "OMP_NUM_THREADS" in os.environ or "MKL_NUM_THREADS" in os.environ


def fix(count: int) -> None:
    """Compute with `count` threads, whatever other programs do."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch.set_num_threads(count)


def _running() -> int:
    """Number of threads that run or wait for a core now, on the whole machine; 1 if the system does not tell."""
    try:
        with open("/proc/loadavg") as file:  # Linux
            return int(file.read().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return 1


def _waited() -> float:
    """Seconds for which the main thread was ready and had no core so far; 0 if the system does not tell."""
    try:
        with open("/proc/self/schedstat") as file:  # Linux
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def choose(running: Callable[[], int] = _running) -> None:
    """Compute with as many threads as there are free cores, unless the user has chosen.

    Args:
        running: number of threads that run now on the whole machine, this one included.
    """
    if fixed():
        return
    samples = []
    for _ in range(SAMPLES):
        samples.append(running())
        time.sleep(APART)
    free = cores() - (min(samples) - 1)
    torch.set_num_threads(max(1, min(torch.get_num_threads(), free)))


class Watch:
    """Looks every ten seconds how long this thread waited for a core, and goes on with one thread if that was long.

    At the end of the context there are as many threads as at its beginning.

    Args:
        clock: seconds.
        waited: seconds for which this thread has waited for a core so far.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, waited: Callable[[], float] = _waited) -> None:
        self._clock, self._waited = clock, waited

    def __enter__(self) -> "Watch":
        self._threads = torch.get_num_threads()
        self._since, self._before = self._clock(), self._waited()
        return self

    def __exit__(self, *error: object) -> None:
        torch.set_num_threads(self._threads)

    def look(self) -> float | None:
        """The share of the time that this thread waited, if for that reason one thread goes on from now."""
        now = self._clock()
        if now - self._since < WINDOW or torch.get_num_threads() == 1 or fixed():
            return None
        waited = self._waited()
        share = (waited - self._before) / (now - self._since)
        self._since, self._before = now, waited
        if share < CROWDED:
            return None
        torch.set_num_threads(1)
        return share
