"""A disk that is full, broken, read-only or short at the n-th file operation, for all n: one error, and no harm."""

import errno
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from gankd.errors import GankdError
from gankd.runs import Run
from gankd.seeds import rng
from gankd.storage import load_state, save_state
from gankd.synthetic import generate
from gankd.tasks import Classification

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)
EVERY = 1 if "NIGHTLY" in os.environ else 3
"""Each operation meets each error in `make nightly`, one of them otherwise."""


class Disk:
    """Counts file operations in a folder, and lets one of them fail."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.operations, self.fails_at, self.error = 0, 0, 0
        sys.addaudithook(self)  # it cannot be removed, so it does nothing without a folder

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None or event not in ("open", "os.rename", "os.remove", "os.mkdir"):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if str(self.folder) not in str(arguments[0]):
            return
        self.operations += 1
        if self.operations == self.fails_at and event != "os.remove":  # clean-up after an error may not fail as well
            raise OSError(self.error, os.strerror(self.error), str(arguments[0]))

    @contextmanager
    def watches(self, folder: Path, fails_at: int = 0, error: int = 0) -> Iterator[None]:
        """Count the operations in a folder, and fail one of them."""
        self.folder, self.operations, self.fails_at, self.error = folder, 0, fails_at, error
        try:
            yield
        finally:
            self.folder = None


@pytest.fixture(scope="module")
def disk() -> Disk:
    return Disk()


def work(folder: Path) -> dict[str, Any]:
    """A stage with checkpoints, lines, weights, a pool and a result; resumes what is there."""
    with Run(folder) as run:
        stage = run.stage("teacher", {"lr": 0.1}, {"data": "x"})
        if not stage.done:
            stage.checkpoint_seconds = 0.0
            net = torch.nn.Linear(4, 2)
            with torch.no_grad():
                net.weight.copy_(torch.ones(2, 4))
            for step in stage.steps(2, net=net):
                with torch.no_grad():
                    net.weight += step
                stage.report(8, loss=net.weight.detach().sum())
            save_state(stage.path("model.safetensors"), net.state_dict())
            generate(
                stage.path("pool"),
                lambda labels, *, generator: torch.randint(256, (len(labels), 1, 4, 4), generator=generator).byte(),
                lambda images, labels: (images.float().flatten(1)[:, :3], images.float().mean((1, 2, 3))),
                Classification(num_classes=3),
                torch.randint(3, (300,), generator=rng(0, "labels")),
                0,
                {"origin": "x"},
                shard_size=256,
            )
            stage.finish(top1=50.0)
        assert stage.folder is not None
        files = {
            str(path.relative_to(stage.folder)): path.read_bytes()
            for path in sorted(stage.folder.rglob("*"))
            if path.is_file() and path.name not in ("done.json", "model.safetensors")
        }
        weight = load_state(stage.path("model.safetensors"))["weight"]
        return {**files, "result": stage.result, "history": stage.history, "weight": weight.tolist()}


def test_any_operation_may_fail(disk: Disk, tmp_path: Path) -> None:
    with disk.watches(tmp_path / "whole"):
        expected = work(tmp_path / "whole")
    total, failed = disk.operations, 0
    assert total > 40
    for number in range(1, total + 1):
        for place, error in enumerate(ERRORS):
            if EVERY > 1 and place != number % EVERY:
                continue
            folder = tmp_path / f"{number} {error}"
            try:
                with disk.watches(folder, number, error):
                    work(folder)
            except (OSError, GankdError) as found:
                failed += 1
                said = str(found)
                assert os.strerror(error) in said or "damaged" not in said
            assert work(folder) == expected, (number, error)
            leftovers = [path.name for path in folder.rglob(".*") if path.name != ".lock"]
            assert leftovers == [], (number, error)
    assert failed > 0.5 * total  # the others are removals, and those that nobody waits for


@pytest.mark.parametrize("size", [0, 1, 100, 700, 2000])
def test_a_write_may_be_short(size: int, tmp_path: Path) -> None:
    """A limit on the size of files: the write that meets it ends short, and the next fails."""
    expected = work(tmp_path / "whole")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises((OSError, GankdError)):
            work(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in (tmp_path / "run").rglob(".*") if path.name != ".lock"] == []
    assert work(tmp_path / "run") == expected
