"""Kill commands at random file operations or times, resume them, and compare with the undisturbed run.

    python tests/faults/chaos.py --rounds 200 --page benchmarks/results/chaos.md

A round runs one command in a folder of its own, in a process group that is killed (SIGKILL) before a random file
operation or after a random time; the command that resumes it is killed in the same way half of the time; the last one
is left alone. Then everything that the folder holds is compared to the last bit.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from outcomes import PRELOAD, TINY, difference, outcome

from gankd.cli import main
from gankd.console import Console
from gankd.data.sets import DATA_SETS, Archive, DataSet, Download
from gankd.runs import Stage
from gankd.version import __version__

SETTINGS = (
    *(change for change in TINY if not change.startswith(("seeds=", "student.updates="))),
    "student.updates=20",
    "virtual.warmup=10",
    "virtual.polish=20",
    "virtual.every=2",
)
"""A run in about two seconds."""
COMPARED = [word for setting in SETTINGS for word in ("--set", setting)]
SET = ["--set", "seeds=1", *COMPARED]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass
class Case:
    """One command: its words in a folder, and what resumes it."""

    name: str
    words: Callable[[Path], list[str]]
    resumes: bool = False
    """True if `gankd resume` continues it; the others are given again."""
    prepare: Callable[[Path], None] = lambda folder: None
    operations: int = 0
    seconds: float = 0.0
    expected: dict[str, Any] = field(default_factory=dict)


def cases(root: Path) -> list[Case]:
    """All commands that write."""
    finished = root / "finished"
    for name in ("a.bin", "b.bin"):
        (root / "served").mkdir(exist_ok=True)
        (root / "served" / name).write_bytes(random.Random(name).randbytes(3_000_000))

    def copied(folder: Path) -> None:
        shutil.copytree(finished, folder)

    def vkd(action: str, *more: str) -> Callable[[Path], list[str]]:
        return lambda folder: ["vkd", action, "digits", "--out", str(folder), "--workers", "1", *SET, *more]

    def bench(folder: Path) -> list[str]:
        words = ["bench", "cifar10-c10k", "--scale", "tiny", "--seeds", "1", "--pairs", "mobilenet_v2-vgg11"]
        return [*words, "--methods", "BLKD", "--untimed", "--out", str(folder), "--workers", "1"]

    def compare(folder: Path) -> list[str]:
        words = ["compare", "digits", "--loss", "KD", "--seeds", "1", "--out", str(folder), "--workers", "1", *COMPARED]
        return [*words, "--page", str(folder / "page.md")]

    run = ["--arms", "real_matched,adjusted_kd", "--workers", "1", *SET]
    return [
        Case("data fetch", lambda folder: ["data", "fetch", "toy", "--to", str(folder)]),
        Case(
            "export",
            lambda folder: ["export", str(folder), "--to", str(folder / "student.safetensors")],
            prepare=copied,
        ),
        Case(
            "student",
            lambda folder: ["student", "digits", "--out", str(folder), "--arms", "kd_matched", "--workers", "1", *SET],
        ),
        Case("run", lambda folder: ["run", "digits", "--out", str(folder), *run], resumes=True),
        Case("vkd student", vkd("student", "--loss", "SoftTargets@virtual")),
        Case("vkd peers", vkd("peers")),
        Case(
            "vkd peers exchange",
            lambda folder: vkd("peers", "--exchange", str(folder / "exchange"), "--name", "me")(folder),
            prepare=lambda folder: (folder / "exchange").mkdir(parents=True),
        ),
        Case("compare", compare),
        Case("bench", bench),
    ]


# --- one process --------------------------------------------------------------------------------------------


def started(words: Sequence[str], log: Path, *, kill_at: int = 0, counted: Path | None = None) -> int:
    """Fork a process group that runs these words and kills itself before file operation `kill_at`; its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        operations = 0

        def operation(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal operations
            written = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
            if written or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
                operations += 1
                if operations == kill_at:
                    os.killpg(0, signal.SIGKILL)

        sys.addaudithook(operation)
        report = Stage.report

        def reported(self: Stage, images: int, **terms: torch.Tensor) -> None:
            report(self, images, **terms)
            self.checkpoint_seconds = 0.0 if self._step % 3 == 0 else float("inf")

        Stage.report = reported  # type: ignore[method-assign]
        code: Any = 0
        try:
            main([*words, "--quiet"])
        except SystemExit as end:
            code = end.code
        if counted is not None:
            os.write(os.open(counted, os.O_WRONLY | os.O_CREAT), str(operations).encode())
    finally:
        Console.end_line()
        os._exit(code if isinstance(code, int) else 1)


def ended(pid: int, seconds: float | None = None) -> int:
    """Exit code of a process, which is killed with its group after so many seconds; minus the signal."""
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG if end is not None else 0)
        if found:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() > end:
            os.killpg(pid, signal.SIGKILL)
            end = None
        time.sleep(0.002)


# --- rounds -------------------------------------------------------------------------------------------------


def undisturbed(case: Case, root: Path) -> None:
    """Run a case once to its end, for its result and its number of file operations."""
    folder = root / case.name
    case.prepare(folder)
    begun = time.monotonic()
    code = ended(started(case.words(folder), root / "log", counted=root / "count"))
    if code:
        raise SystemExit(f"{case.name} ends with {code}:\n{(root / 'log').read_text()[-2000:]}")
    case.seconds, case.operations = time.monotonic() - begun, int((root / "count").read_text())
    (root / "count").unlink()
    case.expected = outcome(folder)
    if case.name == "run":
        shutil.copytree(folder, root / "finished")


@dataclass
class Round:
    """What happened in one round."""

    case: str
    kills: int
    problem: str


def disturbed(case: Case, root: Path, chance: random.Random) -> Round:
    """Kill a case once or more, let it end, and compare."""
    folder, kills = root / case.name, 0  # where the undisturbed run was: some stages depend on paths
    shutil.rmtree(folder)
    case.prepare(folder)
    killing = True
    while True:
        again = case.resumes and (folder / "run.json").is_file()
        words = ["resume", str(folder), "--workers", "1"] if again else case.words(folder)
        by_time = chance.random() < 0.5
        at = 0 if by_time or not killing else chance.randrange(1, case.operations + 1)
        limit = chance.uniform(0, case.seconds) if by_time and killing else None
        code = ended(started(words, root / "log", kill_at=at), limit)
        kills += code == -signal.SIGKILL
        if code not in (0, -signal.SIGKILL):
            return Round(case.name, kills, f"ends with {code}: {(root / 'log').read_text()[-300:]}")
        if not killing:
            break
        killing = killing and chance.random() < 0.5
    return Round(case.name, kills, difference(outcome(folder), case.expected))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A server of this folder's files, in a thread."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that was killed

    server = Quiet(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def rounds(count: int, wanted: Sequence[str], seed: int, minutes: float, say: Callable[[str], None]) -> list[Round]:
    """So many rounds, or as many as fit in the time, over all commands in turn."""
    chance, found = random.Random(seed), []
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        root = Path(name)
        os.environ["XDG_CONFIG_HOME"] = str(root / "config")
        needed = {*wanted, *(["run"] if "export" in wanted else [])}
        chosen = [case for case in cases(root) if not wanted or case.name in needed]
        with served(root / "served") as url:
            files = tuple(
                Archive(url + path.name, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
                for path in sorted((root / "served").iterdir())
            )
            DATA_SETS["toy"] = DataSet("toy:load", "A toy", "the folder", origin=Download(files))
            for case in sorted(chosen, key=lambda case: case.name != "run"):  # the others begin from its folder
                undisturbed(case, root)
                say(f"{case.name}: {case.operations} file operations, {case.seconds:.1f} s")
            chosen = [case for case in chosen if not wanted or case.name in wanted]
            for number in range(count):
                if time.monotonic() > end:
                    break
                case = chosen[number % len(chosen)]
                found.append(disturbed(case, root, chance))
                if found[-1].problem or number % 10 == 9:
                    say(f"{number + 1} rounds; {case.name}: {found[-1].problem or 'equal'}")
    return found


def page(found: Sequence[Round], seed: int, seconds: float) -> str:
    """The result as Markdown."""
    bad = [one for one in found if one.problem]
    lines = [
        "# Kills",
        "",
        f"Written on {time.strftime('%Y-%m-%d')} by `make chaos` with gankd {__version__}, seed {seed}, in "
        f"{seconds / 60:.0f} minutes with one thread. Each round kills the process group of a command with SIGKILL, "
        "before a random file operation or after a random time, resumes it (killed again half of the time), and "
        "compares tensors, arrays, results, histories and the names of all files with the undisturbed run.",
        "",
        "| command | rounds | kills | rounds that differ |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(one.case for one in found):
        mine = [one for one in found if one.case == name]
        lines.append(
            f"| {name} | {len(mine)} | {sum(one.kills for one in mine)} | {sum(bool(one.problem) for one in mine)} |"
        )
    lines.append(f"| all | {len(found)} | {sum(one.kills for one in found)} | {len(bad)} |")
    lines += ["", *(f"- {one.case}: {one.problem}" for one in bad)]
    return "\n".join(lines).rstrip() + "\n"


def run_script(arguments: Sequence[str] | None = None) -> int:
    """Run the rounds; 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=lambda text: text.split(","), default=[])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no round after this time")
    parser.add_argument("--page", type=Path)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in PRELOAD:  # once, and not in every process that is forked
        import_module(name)
    begun = time.monotonic()
    found = rounds(given.rounds, given.only, given.seed, given.minutes, lambda text: print(text, flush=True))
    text = page(found, given.seed, time.monotonic() - begun)
    print(text)
    if given.page is not None:
        given.page.write_text(text)
    return int(any(one.problem for one in found))


if __name__ == "__main__":
    sys.exit(run_script())
