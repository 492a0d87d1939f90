"""A run is a folder of stages; a stage is one step with frozen settings, reused if settings and inputs are equal."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from gankd.config import to_dict
from gankd.console import Console
from gankd.errors import CheckpointError, RunError, TrainingError
from gankd.processes import agreed, leads, wait
from gankd.stops import asked_to_stop, in_step, stop_if_asked
from gankd.storage import (
    CHANGED,
    FORMAT,
    atomic,
    load_state,
    read_json,
    remove_leftovers,
    restore_optimizer,
    save_state,
    write_hashed_json,
)
from gankd.threads import Watch

CHECKPOINT_SECONDS = 15.0
"""Time between checkpoints: the most work that a kill can cost. Ctrl-C, SIGTERM and SIGHUP cost none."""
LOG_STEPS = 50
"""Steps between two lines of metrics.jsonl."""


def fingerprint(*parts: Any) -> str:
    """Hash of plain data: settings, versions and the fingerprints of inputs."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


@dataclass
class Stage:
    """One step of a run. Its folder holds config.json, metrics.jsonl, checkpoint.safetensors and done.json.

    `Stage("teacher")` without a folder works in memory only: nothing is written or resumed.
    """

    name: str
    folder: Path | None = None
    fingerprint: str = ""
    console: Console = field(default_factory=lambda: Console("quiet"))
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    description: dict[str, Any] = field(default_factory=dict)
    """Content of config.json, written when the stage begins."""
    result: dict[str, Any] | None = None
    """Result stored by `finish`; None while the stage is not done."""
    until: int | None = None
    """Step before which `steps` ends, with a checkpoint from which another sitting goes on; default: all are done."""

    def __post_init__(self) -> None:
        self.history: list[dict[str, Any]] = []
        """The lines of metrics.jsonl."""
        self.seconds = 0.0
        """Time spent, over all sittings; the time of parts is added at the end."""
        self._since: float | None = None
        """Start of the running clock; None while it is stopped, as it is while a part runs."""
        self._unsaved = 0.0
        """Seconds of this sitting that are in no checkpoint yet."""
        self._paused = False
        self._whole: Stage | None = None
        self._parts: list[Stage] = []
        self._reset_rate()
        self._read_done()

    def _read_done(self) -> None:
        if self.folder is None or not (self.folder / "done.json").is_file():
            return
        done = read_json(self.folder / "done.json")
        if not isinstance(done, dict) or not {"result", "seconds"} <= done.keys() <= {"result", "seconds", "history"}:
            raise CheckpointError(f"{self.folder / 'done.json'} is damaged; delete {self.folder} and run again")
        self.result, self.seconds = done["result"], done["seconds"]
        with suppress(OSError):  # left by a kill between the two; reading a run must not need the right to write
            (self.folder / "checkpoint.safetensors").unlink(missing_ok=True)
        self.history = self.stored_history()
        self._check_history(self.history, done)

    @property
    def done(self) -> bool:
        """True if the stage is finished with these settings and inputs, by this or another process."""
        if self.result is None:
            self._read_done()
        return self.result is not None

    def path(self, name: str) -> Path:
        """Path of a file of this stage.

        Raises:
            RunError: the stage has no folder.
        """
        if self.folder is None:
            raise RunError(f"stage {self.name} has no folder to keep {name} in; give the run a folder")
        return self.folder / name

    def begin(self) -> None:
        """Start the clock unless it runs; at the first sitting, make the folder and write config.json."""
        if self._since is None:
            if self._whole is not None:
                self._whole._pause()
            self._since = time.monotonic()
        self._reset_rate()
        if self.folder is None:
            return
        remove_leftovers(self.folder)
        if not (self.folder / "config.json").is_file():
            write_hashed_json(self.folder / "config.json", self.description)

    def part(self, name: str, *, counted: bool = True) -> "Stage":
        """Sub-step with its own folder inside this stage's; `counted` adds its time to this stage's."""
        part = Stage(
            f"{self.name} {name}",
            self.folder / name if self.folder else None,
            fingerprint(self.fingerprint, name),
            self.console,
            self.checkpoint_seconds,
            {"part": name, "of": self.fingerprint},
        )
        part._whole = self
        if counted:
            self._parts.append(part)
        return part

    # --- the clock ------------------------------------------------------------------------------------------

    def _bank(self) -> None:
        """Add the time since the clock was last read."""
        if self._since is not None:
            now = time.monotonic()
            self.seconds, self._unsaved = self.seconds + now - self._since, self._unsaved + now - self._since
            self._since = now

    def _pause(self) -> None:
        self._bank()
        self._paused, self._since = self._since is not None, None

    def _stop(self) -> None:
        """Stop the clock; if this is a part, the clock of its stage continues."""
        self._bank()
        self._since = None
        if self._whole is not None and self._whole._paused:
            self._whole._since = time.monotonic()

    def _spent(self) -> float:
        """Seconds including those of parts, also if this part was finished at an earlier sitting."""
        own = self.seconds
        if own == 0 and self.folder is not None and (self.folder / "checkpoint.safetensors").is_file():
            own = float(load_state(self.folder / "checkpoint.safetensors")["seconds"])
        return own + sum(part._spent() for part in self._parts)

    # --- the loop -------------------------------------------------------------------------------------------

    def steps(self, total: int, **state: Any) -> Iterator[int]:
        """Count steps up to total - 1, starting at the last checkpoint (or 0), and save one every few seconds.

        `state` names everything with state_dict() and load_state_dict(): modules, optimisers, schedules. Random
        numbers need no entry: they depend only on the step (`seeds`).

        Raises:
            TrainingError: a weight is not finite when a checkpoint is due (the last good one is kept).
        """
        self.begin()
        start = self._restore(state)
        self._step, self._total = start, total
        self._reset_rate()
        wait()  # the first process replaces the checkpoint when all have read it
        saved = time.monotonic()
        end = total if self.until is None else min(self.until, total)
        with Watch() as watch:
            for step in range(start, end):
                self._step = step
                # a step may seed the global generator; the caller's is restored
                with in_step(), torch.random.fork_rng(devices=[]):
                    yield step
                if self._keeps and (asked_to_stop() or time.monotonic() - saved >= self.checkpoint_seconds):
                    self._save(step + 1, state)
                    saved = time.monotonic()
                stop_if_asked()
                if (waited := watch.look()) is not None:
                    self.console.say(
                        f"{self.name:<18} other programs take the cores ({waited:.0%} of the time it waits for one): "
                        "one thread from here"
                    )
        if self._keeps and end > start:
            self._save(end, state)
        if self._whole is not None:
            self._stop()

    @property
    def _keeps(self) -> bool:
        """True if this process writes the stage's files."""
        return self.folder is not None and leads()

    def report(self, images: int, **terms: Tensor) -> None:
        """Account for one step: number of `images` seen, and terms of the loss, still on the device.

        The terms are read only when a line is due, so the loop does not wait for the device at every step.

        Raises:
            TrainingError: a term is not finite (the last good checkpoint is kept).
        """
        self._images += images
        last = self._step + 1 == self._total
        logs = (self._step + 1) % LOG_STEPS == 0 or last
        if not (logs or self.console.due()):
            return
        values = {name: float(value) for name, value in terms.items()}
        for name, value in sorted(values.items(), key=lambda item: item[0] == "loss"):  # the sum last
            if value != value or abs(value) == float("inf"):
                raise self._diverged(f"{name} became {value}")
        if logs:
            self.log(step=self._step + 1, **values)
        if self.console.due() or last:
            elapsed = time.monotonic() - self._rate_start
            done = self._step + 1 - self._rate_step
            left = elapsed / max(done, 1) * (self._total - self._step - 1)
            rate = self._images / max(elapsed, 1e-9)
            self.console.progress(self.name, self._step + 1, self._total, rate, left, values)

    def progress(self, done: int, total: int) -> None:
        """Show progress of work without training steps; `done` and `total` count images."""
        if self.console.due() or done == total:
            elapsed = max(time.monotonic() - self._rate_start, 1e-9)
            self.console.progress(self.name, done, total, done / elapsed, elapsed / done * (total - done), {})

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"{self.name}: {what} at step {self._step + 1}; the last good checkpoint is kept; "
            "lower the learning rate or use precision=fp32"
        )

    def log(self, **values: Any) -> None:
        """Append a line to metrics.jsonl."""
        self.history.append(values)
        if self.folder is not None and leads():
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(values) + "\n")

    def finish(self, **result: Any) -> None:
        """Mark the stage as done, for all processes; `result` is plain data for later stages and the report."""
        wait()  # nobody finds it done who would have taken part
        self.begin()
        self._stop()
        self.seconds = self._spent()
        if self.folder is not None and leads():
            if fingerprint(self.stored_history()) != fingerprint(self.history):  # lines of a sitting that was killed
                self._rewrite_history(self.history)
            done = {"result": result, "seconds": self.seconds, "history": fingerprint(self.history)}
            write_hashed_json(self.folder / "done.json", done)
            (self.folder / "checkpoint.safetensors").unlink(missing_ok=True)
        self.result, self.seconds = agreed((result, self.seconds))

    def _reset_rate(self) -> None:
        self._step = getattr(self, "_step", 0)
        self._total = getattr(self, "_total", 0)
        self._images, self._rate_start, self._rate_step = 0, time.monotonic(), self._step

    def _save(self, step: int, state: Mapping[str, Any]) -> None:
        assert self.folder is not None
        # `report` reads the loss only now and then, so check here: a diverged state must not replace the last good one.
        for name, item in state.items():
            if isinstance(item, torch.nn.Module) and not all(p.isfinite().all() for p in item.parameters()):
                raise self._diverged(f"weights of {name} became nan or inf")
        self._bank()
        self._unsaved = 0.0
        states = {name: item.state_dict() for name, item in state.items()}
        save_state(
            self.folder / "checkpoint.safetensors",
            {
                "step": step,
                "lines": len(self.history),
                "history": fingerprint(self.history),
                "seconds": self.seconds,
                "state": states,
            },
        )

    def _restore(self, state: Mapping[str, Any]) -> int:
        if self.folder is None or not (self.folder / "checkpoint.safetensors").is_file():
            self._rewrite_history([])
            return 0
        stored = load_state(self.folder / "checkpoint.safetensors")
        history = self.stored_history()[: stored["lines"]]  # later lines belong to steps that are about to be repeated
        self._check_history(history, stored)
        for name, item in state.items():
            if isinstance(item, LRScheduler) and name not in stored["state"]:
                _advance(item, int(stored["step"]))
            elif isinstance(item, torch.optim.Optimizer):
                restore_optimizer(item, stored["state"][name])
            else:
                item.load_state_dict(stored["state"][name])
        self.seconds = stored["seconds"] + self._unsaved
        self._rewrite_history(history)
        return int(stored["step"])

    def stored_history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl on disk."""
        path = self.path("metrics.jsonl")
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        history = []
        for line in lines:
            try:
                history.append(json.loads(line))
            except (ValueError, RecursionError):  # a line cut short by a kill
                break
        return history

    def _check_history(self, history: list[dict[str, Any]], stored: Mapping[str, Any]) -> None:
        """Refuse lines of metrics.jsonl that are not those of a checkpoint or of done.json."""
        if stored.get("history", fingerprint(history)) != fingerprint(history):
            raise CheckpointError(f"{self.path('metrics.jsonl')} has {CHANGED}; delete {self.folder} and run again")

    def _rewrite_history(self, history: list[dict[str, Any]]) -> None:
        self.history = history
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic(self.folder / "metrics.jsonl") as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in history))


def _advance(schedule: LRScheduler, step: int) -> None:
    """Bring a schedule to `step`, for checkpoints of earlier versions, which computed learning rates from the step."""
    schedule._step_count = step + 1  # above 1, or it would miss an update of its optimiser
    schedule.last_epoch = step - 1
    schedule.step()


class Run:
    """A folder of stages, used by one process at a time, or by several that work as one.

        with Run(Path("runs/digits")) as run:
            stage = run.stage("teacher", config, {"data": data.fingerprint()})

    Raises:
        RunError: the folder cannot be written, or another process uses it.
    """

    def __init__(self, folder: Path, console: Console | None = None) -> None:
        self.folder = folder
        self.console = console or Console("quiet")
        self._lock = FileLock(folder / ".lock")

    def __enter__(self) -> "Run":
        if not leads():
            wait()  # until the first process holds the folder
            return self
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            (self.folder / ".lock").write_text(str(os.getpid()))
            for name in ("*.json", "*.html"):  # nothing else: users may keep files of their own here
                remove_leftovers(self.folder, name)
            for stage in self.folder.glob("*-????????/**/"):  # students keep a teacher's outputs with a finished stage
                remove_leftovers(stage, "teacher-*.safetensors")
        except Timeout:
            holder = (self.folder / ".lock").read_text().strip()
            raise RunError(
                f"run folder {self.folder} is in use by process {holder or 'unknown'}; "
                "wait for it, stop it, or choose another --out"
            ) from None
        except OSError as error:
            self._lock.release()
            raise RunError(
                f"run folder {self.folder} cannot be written: {error.strerror}; choose another --out"
            ) from None
        wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def stage(self, name: str, config: Any, inputs: Mapping[str, str]) -> Stage:
        """The stage of this name, settings and inputs, whether done, half done or new.

        Its folder is named by the fingerprint of the three, so changed settings start a new folder and nothing is lost.

        Raises:
            CheckpointError: the folder holds another stage.
        """
        settings = config if isinstance(config, dict) else to_dict(config)
        key = fingerprint(FORMAT, name, settings, dict(inputs))
        folder = self.folder / f"{name}-{key[:8]}"
        description = {"format": FORMAT, "fingerprint": key, "inputs": dict(inputs), "config": settings}
        if (folder / "config.json").is_file() or (folder / "done.json").is_file():
            stored = read_json(folder / "config.json")
            if not isinstance(stored, dict) or stored.get("fingerprint") != key:
                raise CheckpointError(
                    f"{folder / 'config.json'} does not describe this stage; delete {folder} and run again"
                )
        return Stage(name, folder, key, self.console, description=description)
