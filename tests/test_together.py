"""Commands on several processes: how they end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gankd.cli import together
from gankd.cli.together import LOST, run_together
from gankd.errors import LostProcessError, RunError
from gankd.processes import joined

SETTINGS = [
    "data.num_train=80",
    "teacher.model=cnn4",
    "teacher.batch_size=8",
    "teacher.updates=20000",
    "teacher.augment=[]",
]
OLD = [
    "data.num_train=80",
    "teacher.model=cnn4",
    "teacher.batch_size=8",
    "teacher.updates=20000",
    "teacher.augment=[]",
]


@pytest.mark.slow
def test_a_killed_process_ends_the_command_with_one_line(tmp_path: Path) -> None:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    words = [sys.executable, "-m", "gankd", "teach", "digits", "--quiet", "--out", str(tmp_path), *settings]
    with subprocess.Popen([*words, "--processes", "2"], stderr=subprocess.PIPE, text=True) as command:
        log = "teacher-????????/metrics.jsonl"
        while not any(path.read_text() for path in tmp_path.glob(log)):  # it trains
            assert command.poll() is None
            time.sleep(0.05)
        children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
        os.kill(int(children[1]), signal.SIGKILL)
        _, said = command.communicate(timeout=20)
    assert said == (
        "gankd: process 2 of 2 was killed by SIGKILL (out of memory?); finished stages and the last checkpoint are "
        "kept, and the same command resumes\n"
    )
    assert command.returncode == 2
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def as_processes(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Processes that run a script in place of gankd; NUMBER is theirs."""
    program = f"import os, sys; NUMBER = os.environ['RANK']\n{script}"
    monkeypatch.setattr(together, "COMMAND", [sys.executable, "-c", program])


def test_the_first_process_speaks_for_all_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    as_processes(monkeypatch, "import time; time.sleep(NUMBER == '0'); sys.exit(2)")
    with pytest.raises(SystemExit) as left:
        run_together(2, [])
    assert left.value.code == 2


def test_another_process_is_quoted_where_the_first_only_lost_it(monkeypatch: pytest.MonkeyPatch) -> None:
    as_processes(monkeypatch, f"sys.exit({LOST}) if NUMBER == '0' else sys.exit('gankd: disk full')")
    with pytest.raises(RunError, match="process 2 of 2 failed: disk full; finished stages and the last checkpoint"):
        run_together(2, [])
    as_processes(monkeypatch, f"sys.exit({LOST})")
    with pytest.raises(RunError, match="lost each other"):
        run_together(2, [])


def test_processes_that_end_well_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    as_processes(monkeypatch, "")
    run_together(2, [])


@pytest.mark.parametrize("number", ["0", "-2"])
def test_there_is_no_such_number_of_processes(number: str, refused: Callable[..., str]) -> None:
    assert refused("run", "digits", "--processes", number) == f"--processes must be at least 1, got {number}"


def test_other_commands_are_started_once(monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert refused("list", "recipes") == ("gankd list does not run as several processes (WORLD_SIZE=2); start it once")


@pytest.mark.parametrize("reason", ["[/pytorch/gloo/gloo/transport/tcp/pair.cc:553] Connection closed", "NCCL error"])
def test_an_exchange_that_fails_anywhere_is_a_lost_process(reason: str) -> None:
    """As the weights of a teacher in parts, which PyTorch exchanges by itself."""
    with pytest.raises(LostProcessError, match="another process of this run has ended"), joined():
        raise RuntimeError(reason)
    with pytest.raises(RuntimeError, match="sizes differ"), joined():
        raise RuntimeError("sizes differ")
