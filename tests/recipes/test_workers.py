"""Jobs in other processes: what fails or dies costs its own job only, and nothing is left behind."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from operator import truediv
from pathlib import Path
from typing import Any

import pytest
import torch

from gankd.errors import RunError
from gankd.recipes import workers
from gankd.recipes.workers import run_jobs

CPU = torch.device("cpu")


def no_child_is_left() -> bool:
    """Wait for processes that were told to end."""
    end = time.monotonic() + 60
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.02)
    return not multiprocessing.active_children()


def test_a_dead_process_costs_its_own_job_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that kills the pool takes the others down with it; one by one the culprit is found."""
    ran: list[list[int]] = []

    def pool(function: Any, shared: Any, jobs: list[int], count: int, tolerant: bool) -> Iterator[Any]:
        ran.append(list(jobs))
        for job in list(jobs):
            if job == 2:
                raise RunError("a process died") from BrokenProcessPool()
            yield job, None

    monkeypatch.setattr(workers, "_in_processes", pool)
    ended = dict(run_jobs(print, (), range(5), 2, CPU, tolerant=True))
    assert [type(ended[job]) for job in range(5)] == [type(None), type(None), RunError, type(None), type(None)]
    assert ran == [[0, 1, 2, 3, 4], [2], [3, 4]]
    with pytest.raises(RunError):
        list(run_jobs(print, (), range(5), 2, CPU, tolerant=False))


@pytest.mark.slow
def test_a_job_that_kills_its_process_is_found_among_real_ones() -> None:
    """Signals stand in for jobs: SIGKILL ends its process, the others do nothing."""
    kill = signal.SIGKILL
    jobs = [signal.SIGURG, signal.SIGWINCH, kill, signal.SIGCONT, signal.SIGCHLD]
    ended = dict(run_jobs(signal.raise_signal, (), jobs, 2, CPU, tolerant=True))
    assert set(ended) == set(jobs)
    assert [job for job in jobs if ended[job] is not None] == [kill]
    assert isinstance(ended[kill], RunError)
    with pytest.raises(RunError, match="a process that trained students died: .*run again with fewer workers") as error:
        list(run_jobs(signal.raise_signal, (), [kill], 2, CPU))
    assert "\n" not in str(error.value)
    assert no_child_is_left()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_job_that_fails_is_raised_or_told(count: int) -> None:
    ended = dict(run_jobs(truediv, (1,), [4, 0, 2], count, CPU, tolerant=True))
    assert (ended[4], ended[2]) == (None, None)
    assert isinstance(ended[0], ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        list(run_jobs(truediv, (1,), [4, 0, 2], count, CPU))
    assert no_child_is_left()


@pytest.mark.slow
def test_processes_compute_with_one_thread_and_without_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    system: Callable[..., Any] = os.system
    jobs = [f"(echo $OMP_NUM_THREADS; grep SigBlk /proc/self/status) > '{tmp_path}/{number}'" for number in range(2)]
    assert dict(run_jobs(system, (), jobs, 2, CPU)) == dict.fromkeys(jobs)
    for number in range(2):
        threads, blocked = (tmp_path / str(number)).read_text().splitlines()
        assert threads == "1"
        assert int(blocked.split()[1], 16) & 1 << signal.SIGINT - 1
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert no_child_is_left()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background, in which it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("moment", ["start", "submit"])
def test_ctrl_c_while_workers_start(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is delivered once all have started, and ends them; before the first has, there is nothing to end."""
    before = dict(os.environ)
    make, submit, at = ProcessPoolExecutor, ProcessPoolExecutor.submit, []

    def started(*args: Any) -> ProcessPoolExecutor:
        if moment == "start":
            signal.raise_signal(signal.SIGINT)
        return make(*args)

    def submitted(self: ProcessPoolExecutor, *args: Any) -> Any:
        future = submit(self, *args)
        at.append(args)
        if moment == "submit":
            signal.raise_signal(signal.SIGINT)
        return future

    monkeypatch.setattr(workers, "ProcessPoolExecutor", started)
    monkeypatch.setattr(ProcessPoolExecutor, "submit", submitted)
    with pytest.raises(KeyboardInterrupt):
        list(run_jobs(time.sleep, (), [1000.0, 1001.0], 2, CPU))
    assert len(at) == (0 if moment == "start" else 2)  # not in the middle of starting them
    assert no_child_is_left()
    assert dict(os.environ) == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize("tolerant", [True, False])
def test_in_this_process_jobs_use_what_is_in_memory_and_one_thread(tolerant: bool) -> None:
    seen: list[tuple[int, int]] = []

    def here(job: int) -> None:
        seen.append((job, torch.get_num_threads()))
        if job == 2:
            raise KeyError("no")

    def elsewhere(*_: Any) -> None:
        raise AssertionError("the job belongs in this process")

    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        ends = run_jobs(elsewhere, (), [1, 2, 3], 1, CPU, tolerant=tolerant, here=here)
        if tolerant:
            assert [(job, type(error)) for job, error in ends] == [(1, type(None)), (2, KeyError), (3, type(None))]
        else:
            with pytest.raises(KeyError):
                list(ends)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert seen == [(job, 1) for job in ([1, 2, 3] if tolerant else [1, 2])]


def test_each_job_is_told_before_the_next_begins() -> None:
    """A caller keeps the result of a finished job before a later one can fail."""
    seen: list[str] = []
    for job, _ in run_jobs(print, (), [1, 2], 1, CPU, here=lambda job: seen.append(f"{job} runs")):
        seen.append(f"{job} ended")
    assert seen == ["1 runs", "1 ended", "2 runs", "2 ended"]


def test_no_jobs_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_in_processes", None)
    assert list(run_jobs(print, (), [], 2, CPU)) == []


@pytest.mark.slow
def test_a_caller_that_leaves_early_ends_the_jobs_under_way() -> None:
    ends = run_jobs(time.sleep, (), [0.0, 1000.0, 1001.0], 2, CPU)
    for job, _ in ends:
        assert job == 0.0
        break
    del ends
    assert no_child_is_left()
