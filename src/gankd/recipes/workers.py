"""Jobs on several processes with one thread each; Ctrl-C, a failing job and a dying process leave no process behind.

`Workers` is what every engine offers: processes of this machine (below), Ray and Slurm (`clusters`).
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from gankd.engine import Engine
from gankd.errors import RunError
from gankd.recipes.exchange import Exchange

J = TypeVar("J", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Work(Generic[J]):
    """Jobs for workers: calls of `function(*shared, job)`. See `run_jobs`."""

    function: Callable[..., None]
    shared: tuple[Any, ...]
    jobs: Sequence[J]
    engine: Engine
    """Device on which jobs compute, and for which they ask."""
    tolerant: bool
    here: Callable[[J], None]


class Workers(Protocol):
    """Processes that train students, on this machine or on others."""

    def at_a_time(self, engine: Engine) -> int:
        """Number of students that are trained side by side."""

    def exchange(self, folder: Path) -> Exchange | None:
        """Folder in which stages of a run folder meet those of the workers; None: workers use the run folder itself."""

    def run(self, work: Work[J]) -> Iterator[tuple[J, Exception | None]]:
        """Do every job; yields each as it ends, as `run_jobs` does. One that loses its machine is repeated.

        Where the iterator ends early, as by Ctrl-C, jobs that are left are cancelled.
        """


@dataclass(frozen=True)
class LocalWorkers:
    """`count` processes of this machine; 1 is this process."""

    count: int = 1

    def at_a_time(self, engine: Engine) -> int:
        """See `Workers`."""
        return engine.at_a_time(self.count)

    def exchange(self, folder: Path) -> None:
        """See `Workers`."""

    def run(self, work: Work[J]) -> Iterator[tuple[J, Exception | None]]:
        """See `Workers`."""
        count, device = min(self.at_a_time(work.engine), len(work.jobs)), work.engine.device
        return run_jobs(work.function, work.shared, work.jobs, count, device, tolerant=work.tolerant, here=work.here)


def as_workers(workers: int | Workers) -> Workers:
    """A number of local processes, or workers as they are."""
    return LocalWorkers(workers) if isinstance(workers, int) else workers


def run_jobs(
    function: Callable[..., None],
    shared: tuple[Any, ...],
    jobs: Sequence[J],
    workers: int,
    device: torch.device,
    *,
    tolerant: bool = False,
    here: Callable[[J], None] | None = None,
) -> Iterator[tuple[J, Exception | None]]:
    """Call `function(*shared, job)` for every job; yields each as it ends.

    Args:
        function: a module's function; other processes import it.
        shared: first arguments of all calls.
        jobs: last argument of each call.
        workers: processes; one job after the other in this process for 1.
        device: where jobs compute.
        tolerant: yield a job that fails, or kills its process, with its error, instead of raising it.
        here: replaces `function` in this process, where it can use what is in memory.

    Raises:
        RunError: a process died. Whatever the first failing job raised, unless `tolerant`.
    """
    if workers <= 1:
        yield from _one_by_one(here or (lambda job: function(*shared, job)), jobs, device, tolerant)
        return
    left = list(jobs)
    while left:
        try:
            for job, error in _in_processes(function, shared, left, workers, tolerant):
                left.remove(job)
                yield job, error
        except RunError as death:
            if not tolerant or not isinstance(death.__cause__, BrokenProcessPool):
                raise
            while left:  # rerun one at a time, in submission order, to find the job that kills its worker
                job = left.pop(0)
                try:
                    ((_, error),) = list(_in_processes(function, shared, [job], 1, tolerant))
                except RunError as again:
                    yield job, again
                    break
                yield job, error


def _one_by_one(
    call: Callable[[J], None], jobs: Sequence[J], device: torch.device, tolerant: bool
) -> Iterator[tuple[J, Exception | None]]:
    for job in jobs:
        failure: Exception | None = None
        try:
            with one_thread(device):
                call(job)
        except Exception as raised:  # the user's network may raise anything
            if not tolerant:
                raise
            failure = raised
        yield job, failure


def _in_processes(
    function: Callable[..., None], shared: tuple[Any, ...], jobs: Sequence[J], workers: int, tolerant: bool
) -> Iterator[tuple[J, Exception | None]]:
    context = multiprocessing.get_context("spawn")  # forking a process whose torch has threads can hang
    with _for_children():
        pool = ProcessPoolExecutor(min(workers, len(jobs)), context, _start_worker, shared)
    try:
        # Inside `try`: a Ctrl-C while workers start is delivered when `_for_children` ends.
        with _for_children():
            futures = {pool.submit(_call, function, job): job for job in list(jobs)}
        for future in as_completed(futures):
            error = future.exception()
            if error is not None and (
                not tolerant or not isinstance(error, Exception) or isinstance(error, BrokenProcessPool)
            ):
                raise error
            yield futures[future], error
        pool.shutdown()
    except BaseException as error:
        for process in list((getattr(pool, "_processes", None) or {}).values()):
            process.terminate()  # Ctrl-C or a failure: do not wait for jobs under way
        # After a dead process the pool's own thread ends the others; it must be done before this process goes on.
        pool.shutdown(wait=isinstance(error, BrokenProcessPool), cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise RunError(
                "a process that trained students died: out of memory, or called from a script without "
                "if __name__ == '__main__'; finished students are kept; run again with fewer workers"
            ) from error
        raise


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Compute with one thread on the CPU, as workers do: sums in another order would give other weights, and a resumed
    run may have one student left for this process where the undisturbed one gave it to a worker.
    """
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _for_children() -> Iterator[None]:
    """Start children with one thread each and without Ctrl-C or SIGHUP; they inherit environment and blocked signals.

    More threads than cores are many times slower. The signals reach only this process, which ends its children: they
    would print tracebacks, and so would the tracker of semaphores that cleans up after them.
    """
    mine = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker"}
    before = {name: os.environ.get(name) for name in mine}
    os.environ.update(mine)
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)  # last: a Ctrl-C that waited is raised here


_shared: tuple[Any, ...] = ()
"""First arguments of all calls in this worker."""


def _start_worker(*shared: Any) -> None:
    global _shared
    torch.set_num_threads(1)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)  # the parent was killed: leave at once, the checkpoints are on disk

    threading.Thread(target=watch, daemon=True).start()
    _shared = shared


def _call(function: Callable[..., None], job: Any) -> None:
    function(*_shared, job)
