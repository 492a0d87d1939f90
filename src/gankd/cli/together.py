"""Start a command as several processes on this machine, as torchrun does, and end them all when one ends early."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO

from gankd.errors import ConfigError, RunError

COMMAND = [sys.executable, "-m", "gankd"]
"""Beginning of the command line of each process."""
LOST = 75
"""Exit code of a process that ends because another one has; the one that ended first says why."""
GRACE = 5.0
"""Seconds that processes have to end by themselves."""
LAUNCHED = "GANKD_LAUNCHED"
"""Variable of processes that are started here: one that loses another leaves the message to the one that waits."""


def run_together(count: int, words: Sequence[str]) -> None:
    """Run `gankd WORDS` as `count` processes; the first one speaks to the user.

    Raises:
        ConfigError: no such number. RunError: a process was killed, or failed where the first one did not.
        SystemExit: the first one refused something, and has said what.
    """
    if count < 1:
        raise ConfigError(f"--processes must be at least 1, got {count}")
    shared = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port(), "OMP_NUM_THREADS": 1}
    with ExitStack() as files:
        errors = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in range(1, count)]
        processes = []
        try:
            for number, output in enumerate([None, *errors]):
                own = {**shared, "RANK": number, "LOCAL_RANK": number, LAUNCHED: 1}
                processes.append(
                    subprocess.Popen(
                        [*COMMAND, *words],
                        env=os.environ | {name: str(value) for name, value in own.items()},
                        stdout=None if number == 0 else subprocess.DEVNULL,
                        stderr=output,
                        process_group=0,  # Ctrl-C reaches only this process, which ends them
                    )
                )
            codes = _wait(processes)
        finally:
            _end(processes)
        _tell(codes, errors)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> list[int | None]:
    """Exit codes, None of those that still run, once all have ended or it is known why some have."""
    deadline = None
    while True:
        codes = [process.poll() for process in processes]
        if any(codes) and deadline is None:
            deadline = time.monotonic() + GRACE / 2
        if None not in codes or (deadline is not None and time.monotonic() > deadline):
            return codes
        if codes[0] is not None and any(code not in (None, 0, LOST) for code in codes):
            return codes  # the first one has said what it knows, and one has ended for a reason of its own
        time.sleep(0.05)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes that still run: asked first, then killed."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tell(codes: Sequence[int | None], errors: Sequence[IO[str]]) -> None:
    """Pass on how the processes ended: by the words of the first one, or else of the first that failed."""
    if codes[0] and codes[0] not in (LOST, *(-number for number in signal.Signals)):
        sys.exit(codes[0])  # it has said why
    for number, code in enumerate(codes):
        if not code or code == LOST:
            continue
        who = f"process {number + 1} of {len(codes)}"
        kept = "finished stages and the last checkpoint are kept, and the same command resumes"
        if code < 0:
            raise RunError(f"{who} was killed by {signal.Signals(-code).name} (out of memory?); {kept}")
        lines = _text(errors[number - 1]).splitlines() or [f"exit code {code}"]
        raise RunError(f"{who} failed: {lines[-1].removeprefix('gankd: ')}; {kept}")
    if any(codes):
        raise RunError("the processes lost each other; the same command resumes")


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
