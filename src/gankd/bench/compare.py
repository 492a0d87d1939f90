"""Train every arm with every seed, side by side on the cores at hand, and tabulate them."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from gankd.bench.results import ArmResult, with_intervals
from gankd.config import from_dict, require, suggest, to_dict
from gankd.data.images import Splits
from gankd.errors import RunError
from gankd.models.contract import evaluate
from gankd.recipes.arms import ARMS, METHODS, arm_title
from gankd.recipes.cgan_kd import CganKd
from gankd.recipes.config import Recipe
from gankd.runs import Run

Cell = tuple[str, int]
"""One student: (arm, seed)."""
Job = tuple[CganKd, Cell]
Ended = Callable[[CganKd, Cell, Exception | None], None]
"""Told of every student that is finished, or why it is not."""


def cells(recipe: Recipe, arms: Iterable[str] = tuple(ARMS)) -> list[Cell]:
    """All students of a recipe.

    Raises:
        ConfigError: an arm of unknown name.
    """
    names = list(dict.fromkeys(arms))
    for name in names:
        require(name in ARMS, f"no arm {name!r}; {suggest(name, ARMS)}")
    return [(name, seed) for seed in range(recipe.seeds) for name in names]


def train_students(method: CganKd, wanted: list[Cell], workers: int) -> None:
    """Train the students that are not there yet, `workers` at a time with one thread each.

    Raises:
        GankdError: what the first failing student raised.
    """
    train_side_by_side([(method, wanted)], workers)


def train_side_by_side(plans: Sequence[tuple[CganKd, list[Cell]]], workers: int, ended: Ended | None = None) -> None:
    """The same for several settings of the student in one run folder, by the same workers.

    Args:
        plans: settings, and which of their students are wanted.
        workers: students trained at a time.
        ended: called for each student; where it is given, one that fails does not stop the others.

    Raises:
        GankdError: what the first failing student raised, unless `ended` takes it.
    """
    missing = [(method, cell) for method, cells in plans for cell in cells if not method.student_stage(*cell).done]
    if not missing:
        return
    console, workers = plans[0][0].run.console, plans[0][0].engine.at_a_time(workers)
    # Workers read these from the run folder, so they must be there first.
    for method, (name, _) in missing:
        if ARMS[name].fakes is not None:
            _ = method.synthetic
    for method, (name, _) in missing:
        method.prepare_lesson(ARMS[name])
    waves = [missing]
    finetuned = [(method, ("real", cell[1])) for method, cell in missing if method.recipe.student.init == "finetune"]
    if finetuned:  # the others start from these, of which several plans may share one
        starts = {method.student_stage(*cell).fingerprint: (method, cell) for method, cell in reversed(finetuned)}
        first = [job for job in reversed(starts.values()) if not job[0].student_stage(*job[1]).done]
        waves = [first, [job for job in missing if job[0].student_stage(*job[1]).fingerprint not in starts]]
    start, done = time.monotonic(), 0
    total, images = sum(map(len, waves)), 0
    console.say(f"students           {total} to train, {min(workers, total)} at a time")
    for wave in waves:
        for method, cell, error in _train_all(wave, min(workers, len(wave)), tolerant=ended is not None):
            if ended is not None:
                ended(method, cell, error)
            done += 1
            elapsed = time.monotonic() - start
            images += method.recipe.student.updates * method.recipe.student.batch_size
            if console.due() or done == total:
                left = elapsed / done * (total - done)
                console.progress("students", done, total, images / elapsed, left, {})
    console.say(f"students           {total} trained in {time.monotonic() - start:.0f}s")


def _train_all(wave: list[Job], workers: int, tolerant: bool) -> Iterator[tuple[CganKd, Cell, Exception | None]]:
    """Each student as it ends. Where `tolerant`, one that fails, or kills its process, is given with what it raised."""
    left = list(wave)
    while left:
        try:
            for job, error in _train_wave(left, workers, tolerant):
                left.remove(job)
                yield *job, error
        except RunError as death:
            if not tolerant or not isinstance(death.__cause__, BrokenProcessPool):
                raise
            while left:  # one at a time from the first on, as they were started, until whoever it was does it again
                job = left.pop(0)
                try:
                    ((_, error),) = list(_train_wave([job], 2, tolerant))
                except RunError as again:
                    yield *job, again
                    break
                yield *job, error


def _train_wave(wave: list[Job], workers: int, tolerant: bool) -> Iterator[tuple[Job, Exception | None]]:
    if not wave:
        return
    method = wave[0][0]
    if workers <= 1:
        for job in list(wave):
            failure: Exception | None = None
            try:
                with _one_thread(method.engine.device):
                    job[0].student(*job[1])
            except Exception as raised:  # the user's network may raise anything
                if not tolerant:
                    raise
                failure = raised
            yield job, failure
        return
    context = multiprocessing.get_context("spawn")  # forking a process whose torch has threads can hang
    given = (str(method.run.folder), method.given_splits)
    with _for_children():
        pool = ProcessPoolExecutor(min(workers, len(wave)), context, _start_worker, given)
    try:
        # Inside `try`: a Ctrl-C while workers start is delivered when `_for_children` ends.
        with _for_children():
            futures = {pool.submit(_train_one, to_dict(job[0].recipe), job[1]): job for job in wave}
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
            process.terminate()  # Ctrl-C or a failure: do not wait for students under way
        pool.shutdown(wait=False, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise RunError(
                "a process that trained students died: out of memory, or called from a script without "
                "if __name__ == '__main__'; what is done is kept; go on with fewer workers"
            ) from error
        raise


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On the CPU a student is always trained by one thread: sums in another order would give other weights, and a
    resumed run may have one student left for this process where the undisturbed one gave it to a worker.
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
    """Children that start now take over the environment and the blocked signals of this process.

    One thread each: more threads than cores are many times slower. Ctrl-C reaches this process alone, which ends its
    children: they would print tracebacks, and the tracker of semaphores that it cleans up after them.
    """
    mine = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker"}
    before = {name: os.environ.get(name) for name in mine}
    os.environ.update(mine)
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_worker(folder: str, given: Splits | None) -> None:
    torch.set_num_threads(1)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)  # the parent was killed: leave at once, the checkpoints are on disk

    threading.Thread(target=watch, daemon=True).start()
    _worker["folder"], _worker["given"] = folder, given


_worker: dict[str, Any] = {}
"""What a worker keeps from one student to the next: the run folder, its data, and the method with pool and teacher."""


def _train_one(recipe: dict[str, Any], cell: Cell) -> None:
    before: CganKd | None = _worker.get("method")
    if before is None or to_dict(before.recipe) != recipe:
        splits = _worker["given"] if before is None else before.splits
        _worker["method"] = CganKd(from_dict(Recipe, recipe), Run(Path(_worker["folder"])), splits)
    _worker["method"].student(*cell)


def compare(method: CganKd, wanted: list[Cell], split: Literal["val", "test"] = "test") -> tuple[ArmResult, ...]:
    """Metric, updates and time of finished students on one split, with intervals against the controls.

    Raises:
        GankdError: a student's files are damaged.
    """
    data = method.splits.test if split == "test" else method.splits.val
    results = []
    for name in dict.fromkeys(name for name, _ in wanted):
        seeds = tuple(seed for arm, seed in wanted if arm == name and method.student_stage(arm, seed).done)
        if not seeds:
            continue
        values = tuple(evaluate(method.student(name, seed), data, method.engine)[data.task.metric] for seed in seeds)
        results.append(
            ArmResult(
                arm=name,
                title=arm_title(ARMS[name], method.recipe.student.objective),
                seeds=seeds,
                values=values,
                updates=method.student_config(ARMS[name]).updates,
                seconds=sum(method.student_stage(name, seed).seconds for seed in seeds) / len(seeds),
            )
        )
    return with_intervals(results, data.task)


def chosen_by_validation(method: CganKd, wanted: list[Cell]) -> str | None:
    """The arm of the whole method whose students do best on validation images."""
    sign = 1 if method.splits.task.higher_is_better else -1
    means = {
        arm.arm: sign * sum(arm.values) / len(arm.values)
        for arm in compare(method, wanted, "val")
        if arm.arm in METHODS
    }
    return max(means, key=lambda name: means[name]) if means else None
