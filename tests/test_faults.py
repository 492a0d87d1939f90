"""Kills, Ctrl-C, full and read-only disks, two processes in one folder: `resume` ends as if nothing had happened.

Commands run as processes of their own, forked from a server that has imported everything, which is quicker than
starting Python each time.
"""

import json
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from outcomes import PRELOAD, difference, outcome

from gankd.commands import resume
from gankd.config import override, to_dict
from gankd.recipes import Recipe
from gankd.runs import Run
from gankd.storage import write_hashed_json
from gankd.version import __version__

VICTIM = Path(__file__).parent / "victim.py"
LONG = 10**7
"""Steps that no test waits for."""


class Command:
    """A command line in a process of its own."""

    def __init__(self, log: Path, *words: object, kill: str | None = None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self.log = log
        names = {"words": [str(word) for word in words], "log": str(log), "kill": kill}
        self.process: BaseProcess = context.Process(target=runpy.run_path, args=(str(VICTIM), names))
        self.process.start()

    @property
    def text(self) -> str:
        return self.log.read_text() if self.log.is_file() else ""

    def code(self, seconds: float = 60) -> int:
        """Exit code; minus the signal that killed it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running after {seconds} s:\n{self.text}"
        return self.process.exitcode

    def until(self, there: Callable[[], object], seconds: float = 60) -> None:
        """Wait for something that the command does."""
        wait_for(lambda: there() or self.process.exitcode is not None, seconds)
        assert self.process.exitcode is None, self.text

    def others(self) -> list[int]:
        """Processes that it has started and that still run."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, group = path.read_text().rpartition(")")[2].split()[:3]
            except OSError:  # gone meanwhile
                continue
            if int(group) == self.process.pid and state != "Z" and int(path.parent.name) != self.process.pid:
                found.append(int(path.parent.name))
        return found

    def trainers(self) -> list[int]:
        """Of these, the workers that train students."""
        return [pid for pid in self.others() if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def wait_for(there: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Start a command; whatever is left of it is killed in the end."""
    started: list[Command] = []

    def call(*words: object, kill: str | None = None) -> Command:
        started.append(Command(tmp_path / f"log {len(started)}", *words, kill=kill))
        return started[-1]

    yield call
    for command in started:
        for pid in [*command.others(), command.process.pid]:
            if pid is not None and (command.process.is_alive() or pid != command.process.pid):
                os.kill(pid, signal.SIGKILL)
        command.process.join()


def begun(recipe: Recipe, folder: Path, *settings: str, arms: list[str] | None = None) -> Path:
    """A run folder as `gankd run` leaves it at its very start."""
    recipe = override(recipe, settings)
    stored = {"recipe": to_dict(recipe), "arms": arms, "version": __version__, "in_memory": [], "code": {}}
    write_hashed_json(folder / "run.json", stored)
    return folder


def assert_same(folder: Path, expected: Path) -> None:
    assert difference(outcome(folder), outcome(expected)) == ""


# --- kill -9 ------------------------------------------------------------------------------------------------

DIGITS = [
    "teacher 0",
    "teacher 31",
    "write 4",
    "gan 4",
    "gan 5",
    "ratio 1",
    "synth 256",
    "write 6",
    "student-real-0 1",
    "student-adjusted_kd-0 4",
    "write 3",
]
ANGLES = ["gan T1 2", "gan T2 1", "gan 3", "ratio autoencoder 40", "ratio 2", "synth 512", "student-filtered-1 5"]


@pytest.mark.slow
@pytest.mark.parametrize(("finished", "places"), [("digits_run", DIGITS), ("angles_run", ANGLES)])
def test_killed_again_and_again_a_run_ends_as_the_undisturbed_one(
    finished: str,
    places: list[str],
    request: pytest.FixtureRequest,
    start: Callable[..., Command],
    tmp_path: Path,
) -> None:
    recipe, expected = request.getfixturevalue(finished)
    folder = begun(recipe, tmp_path / "run")
    for place in places:
        command = start("resume", folder, "--workers", 1, kill=place)
        assert command.code() == -signal.SIGKILL, (place, command.text)
    assert start("resume", folder, "--workers", 1).code() == 0
    assert_same(folder, expected)
    assert [path.name for path in folder.rglob(".*") if path.parent != folder] == []  # no half files


VIRTUAL = ["virtual beside 3", "virtual beside 41", "virtual polish 2", "write 3", "virtual polish 13", "write 2"]
OWN = ["student-kd_matched-0 1", "student-kd_matched-0 40", "student-kd_matched-0 99"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "places"),
    [
        (["student", "--loss", 'KD@virtual(draws=4, policy="rank")'], [*VIRTUAL, *OWN]),
        (["self"], OWN),
        (["peers"], OWN),
    ],
    ids=["student", "self", "peers"],
)
def test_a_killed_vkd_command_ends_as_the_undisturbed_one(
    action: list[str], places: list[str], tiny: tuple[str, ...], start: Callable[..., Command], tmp_path: Path
) -> None:
    """The same command again and again; its rows are equal to the last digit in the end."""
    changes = (*tiny, "student.updates=120", "seeds=1", "virtual.warmup=10", "virtual.polish=20", "virtual.every=2")
    settings = [word for change in changes for word in ("--set", change)]

    def command(folder: str, kill: str | None = None) -> Command:
        name, *more = action
        line = ["vkd", name, "digits", "--out", tmp_path / folder, "--workers", 1, "--json", *settings, *more]
        return start(*line, kill=kill)

    for place in places:
        killed = command("killed", place)
        assert killed.code() == -signal.SIGKILL, (place, killed.text)
    rows = []
    for folder in ("killed", "whole"):
        last = command(folder)
        assert last.code() == 0, last.text
        found = json.loads(last.text.splitlines()[-1])
        rows.append([(row["title"], row["metrics"]) for row in found["rows"]])
    assert rows[0] == rows[1]


# --- Ctrl-C, and the end of the parent ----------------------------------------------------------------------


def interrupted(command: Command, number: int = signal.SIGINT) -> str:
    """Press Ctrl-C, or send another signal; what the command says."""
    assert command.process.pid is not None
    os.killpg(command.process.pid, number)
    assert command.code() == 128 + number
    wait_for(lambda: command.others() == [], 60)
    assert "Traceback" not in command.text
    return command.text.splitlines()[-1]


def test_ctrl_c_in_training(digits_run: tuple[Recipe, Path], start: Callable[..., Command], tmp_path: Path) -> None:
    folder = begun(digits_run[0], tmp_path / "a run", f"teacher.updates={LONG}")
    command = start("resume", folder)
    command.until(lambda: list(folder.glob("teacher-*/checkpoint.safetensors")))
    assert interrupted(command) == f"gankd: interrupted; resume with: gankd resume '{folder}'"
    for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")):  # a scheduler, a closed terminal
        again = start("resume", folder)
        again.until(lambda again=again: "teacher" in again.text)  # type: ignore[misc]
        line = f"gankd: interrupted by {name}; resume with: gankd resume '{folder}'"
        assert interrupted(again, number) == line
    command = start("teach", folder)  # a single stage goes on with the same command
    command.until(lambda: "teacher" in command.text)
    assert interrupted(command) == f"gankd: interrupted; resume with: gankd teach '{folder}'"


def students_at_work(
    digits_run: tuple[Recipe, Path], start: Callable[..., Command], tmp_path: Path, *, wait: bool = True
) -> tuple[Command, Path]:
    """A run whose two workers train, or are about to train, students without end."""
    recipe, finished = digits_run
    folder = begun(recipe, tmp_path / "run", f"student.updates={LONG}", arms=["real_matched", "kd_matched"])
    for path in finished.glob("teacher-*"):
        shutil.copytree(path, folder / path.name)
    command = start("resume", folder, "--workers", 2)
    if wait:
        command.until(lambda: len(list(folder.glob("student-*/metrics.jsonl"))) >= 2)
    return command, folder


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["workers import", "workers train"])
def test_ctrl_c_with_workers(
    moment: str, digits_run: tuple[Recipe, Path], start: Callable[..., Command], tmp_path: Path
) -> None:
    command, folder = students_at_work(digits_run, start, tmp_path, wait=moment == "workers train")
    command.until(command.trainers)
    for pid in command.trainers():  # it would print a traceback
        blocked = re.search(r"SigBlk:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
        assert blocked is not None
        assert int(blocked[1], 16) & 1 << signal.SIGINT - 1
    assert interrupted(command) == f"gankd: interrupted; resume with: gankd resume {folder}"


@pytest.mark.slow
def test_workers_end_with_their_parent(
    digits_run: tuple[Recipe, Path], start: Callable[..., Command], tmp_path: Path
) -> None:
    command, folder = students_at_work(digits_run, start, tmp_path)
    assert len(command.others()) >= 2
    command.process.kill()
    assert command.code() == -signal.SIGKILL
    wait_for(lambda: command.others() == [], 60)
    with Run(folder):  # free for the next
        pass


@pytest.mark.slow
def test_a_worker_that_dies_is_reported(
    digits_run: tuple[Recipe, Path], start: Callable[..., Command], tmp_path: Path
) -> None:
    command, _ = students_at_work(digits_run, start, tmp_path, wait=False)
    command.until(lambda: len(command.trainers()) == 2)
    os.kill(command.trainers()[0], signal.SIGKILL)
    assert command.code() == 2
    wait_for(lambda: command.others() == [], 60)
    assert command.text.splitlines()[-1].startswith("gankd: a process that trained students died: ")
    assert "Traceback" not in command.text


# --- one folder, two processes ------------------------------------------------------------------------------


def test_a_second_process_is_refused(
    digits_run: tuple[Recipe, Path], tmp_path: Path, refused: Callable[..., str]
) -> None:
    folder = Path(shutil.copytree(digits_run[1], tmp_path / "run"))
    with Run(folder):
        for command in ("run", "teach", "eval", "report", "resume"):
            assert refused(command, folder) == (
                f"run folder {folder} is in use by process {os.getpid()}; wait for it, stop it, or choose another --out"
            )


# --- disks --------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes."""
    path = disk / "filler"
    path.write_bytes(bytes(shutil.disk_usage(disk).free - left))
    return path


@pytest.mark.parametrize(("stages", "left"), [("teacher", 0), ("teacher", 10**5), ("[tgr]*", 2 * 10**5)])
def test_a_full_disk_stops_a_run_that_goes_on_when_there_is_room(
    stages: str, left: int, digits_run: tuple[Recipe, Path], disk: Path, refused: Callable[..., str]
) -> None:
    recipe, finished = digits_run
    folder = begun(recipe, disk / "run")
    for path in finished.glob(f"{stages}-*"):
        shutil.copytree(path, folder / path.name)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    filler = fill(disk, left)
    said = refused("resume", folder, "--workers", 1, "--quiet")
    assert "No space left on device" in said or "the disk has" in said
    assert {path: path.read_bytes() for path in before} == before
    assert not [path for path in folder.rglob(".*.*") if path.is_file()]  # no half files
    filler.unlink()
    resume(folder)
    assert_same(folder, finished)


def test_a_read_only_disk_is_named_and_harms_nothing(
    digits_run: tuple[Recipe, Path], disk: Path, refused: Callable[..., str]
) -> None:
    recipe, finished = digits_run
    folder = begun(recipe, disk / "run")
    for path in finished.glob("[tgrs]*-*"):
        if not path.name.startswith("student-raw"):
            shutil.copytree(path, folder / path.name)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for command in ("resume", "eval", "teach"):
        assert refused(command, folder) == (
            f"run folder {folder} cannot be written: Read-only file system; choose another --out"
        )
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    resume(folder)
    assert_same(folder, finished)


def test_a_folder_without_permission(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", forbidden)  # root may write anywhere
    assert refused("teach", "digits", "--out", tmp_path / "run") == (
        f"run folder {tmp_path / 'run'} cannot be written: Permission denied; choose another --out"
    )
