"""Runs one command as a process of its own that kills itself where `kill` says. Started by test_faults.py.

Globals given: `words`, the command line; `log`, the file that its output goes to; `kill`, a place such as "gan 3" (the
end of step 3 of that stage, which has not been saved), "synth 512" (after so many images) or "write 5" (the fifth
file is written but has not got its name), or None.
"""

import os
import signal
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import gankd.recipes.generated
from gankd.cli import main
from gankd.runs import Stage
from gankd.synthetic import generate

words: list[str] = globals()["words"]
log: str = globals()["log"]
kill: str | None = globals()["kill"]

os.setpgid(0, 0)  # as a shell does for each command: Ctrl-C goes to all processes of the group
signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run in the background, where it is ignored
output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
for descriptor in (1, 2):
    os.dup2(output, descriptor)
torch.set_num_threads(1)


def at(place: str) -> None:
    if place == kill:
        os.kill(os.getpid(), signal.SIGKILL)


report, progress, replace = Stage.report, Stage.progress, Path.replace
writes = 0


def reported(self: Stage, images: int, **terms: Tensor) -> None:
    report(self, images, **terms)
    at(f"{self.name} {self._step}")
    self.checkpoint_seconds = 0.0 if self._step % 3 == 0 else float("inf")


def progressed(self: Stage, done: int, total: int) -> None:
    progress(self, done, total)
    at(f"{self.name} {done}")


def replaced(self: Path, target: Path) -> Path:
    global writes
    writes += 1
    at(f"write {writes}")
    return replace(self, target)


Stage.report, Stage.progress = reported, progressed  # type: ignore[method-assign]
Path.replace = replaced  # type: ignore[method-assign, assignment]
gankd.recipes.generated.generate = partial(generate, shard_size=256)  # type: ignore[attr-defined]
main(words)
