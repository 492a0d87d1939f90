"""Numbers of a run in TensorBoard, Weights & Biases or MLflow, while it trains.

Stages write their numbers to metrics.jsonl in the run folder, whichever process trains them. A thread reads what is new
there and passes it on, so that training knows nothing of it and ends in the same weights.
"""

import json
import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from gankd.console import Console
from gankd.errors import CheckpointError, ConfigError
from gankd.storage import read_json, write_json

Kind = Literal["tensorboard", "wandb", "mlflow"]
SECONDS = 2.0
"""Time between two looks at the run folder."""


class Tracker(Protocol):
    """Receiver of the numbers of a run."""

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Take finite numbers of a stage after one of its steps; the steps of a stage come in order."""

    def close(self) -> None:
        """Write what is left; nothing is logged afterwards."""


@contextmanager
def tracked(tracker: Kind | Tracker, folder: Path | str) -> Iterator[None]:
    """Pass on the numbers of a run folder while the block runs, and at its end what is left.

    A tracker by name gets every line once, also over several sittings. It is opened when there is something to log;
    if it fails, a line says so and the block continues.

    Args:
        tracker: tensorboard (files in the run folder), wandb (offline, unless the environment sets WANDB_MODE), mlflow
            (files in the run folder, unless it sets MLFLOW_TRACKING_URI), or an object of your own.
        folder: the run folder, which the block may make.

    Raises:
        ConfigError: the tracker's package is not installed.
    """
    folder = Path(folder)
    if isinstance(tracker, str):
        follower = _Follower(folder, _maker(tracker, folder), folder / f"tracked-{tracker}.json")
    else:
        follower = _Follower(folder, lambda: tracker, None)
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(SECONDS):
            follower.look()

    thread = threading.Thread(target=follow, name="gankd tracker", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        follower.look()
        follower.close()


class _Follower:
    """Lines of a run folder that a tracker has not seen yet."""

    def __init__(self, folder: Path, make: Callable[[], Tracker], memory: Path | None) -> None:
        self._folder, self._make, self._memory = folder, make, memory
        self._tracker: Tracker | None = None
        self._failed = False
        self._seen: dict[str, int] = {}
        if memory is not None and memory.is_file():
            try:
                self._seen = dict(read_json(memory))
            except (CheckpointError, TypeError, ValueError):
                self._seen = {}  # damaged: everything again

    def look(self) -> None:
        """Pass on what is new."""
        for path in sorted(self._folder.rglob("metrics.jsonl")):
            stage = path.parent.relative_to(self._folder).as_posix()
            lines = [line for line in path.read_text(errors="replace").splitlines(keepends=True) if line.endswith("\n")]
            for line in lines[self._seen.get(stage, 0) :]:
                self._safely(lambda stage=stage, line=line: self._log(stage, line))  # type: ignore[misc]
            self._seen[stage] = max(len(lines), self._seen.get(stage, 0))  # fewer: a stage resumed at a checkpoint

    def close(self) -> None:
        """Let the tracker write what is left, and remember what it has seen."""
        if self._tracker is not None:
            self._safely(self._tracker.close)
            if self._memory is not None and not self._failed:
                write_json(self._memory, self._seen)

    def _log(self, stage: str, line: str) -> None:
        found = json.loads(line)
        numbers = {name: float(value) for name, value in found.items() if name != "step" and _is_number(value)}
        if numbers:
            if self._tracker is None:
                self._tracker = self._make()
            self._tracker.log(stage, int(found["step"]), numbers)

    def _safely(self, act: Callable[[], None]) -> None:
        """Act, unless the tracker has failed; training must not end because of it."""
        if self._failed:
            return
        try:
            act()
        except Exception as error:  # libraries raise anything
            self._failed = True
            Console("plain").say(f"tracking ended, the run continues: {type(error).__name__}: {error}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# --- trackers by name ---------------------------------------------------------------------------------------


def _maker(kind: Kind, folder: Path) -> Callable[[], Tracker]:
    makes: dict[str, tuple[str, Callable[[ModuleType, Path], Tracker]]] = {
        "tensorboard": ("torch.utils.tensorboard", _TensorBoard),
        "wandb": ("wandb", _Wandb),
        "mlflow": ("mlflow", _MLflow),
    }
    module, make = makes[kind]
    try:
        library = import_module(module)
    except ImportError as error:
        raise ConfigError(f"--track {kind} needs its package ({error}): pip install 'gankd[{kind}]'") from None
    return lambda: make(library, folder)


class _TensorBoard:
    """Event files in RUN/tensorboard, a folder per stage, so that the same number of several stages is one chart."""

    def __init__(self, library: ModuleType, folder: Path) -> None:
        self._library, self._folder = library, folder / "tensorboard"
        self._writers: dict[str, Any] = {}

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        writer = self._writers.get(stage)
        if writer is None:
            writer = self._writers[stage] = self._library.SummaryWriter(str(self._folder / stage))
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class _Wandb:
    """A run of Weights & Biases, in RUN/wandb while offline; every stage has a step of its own."""

    def __init__(self, library: ModuleType, folder: Path) -> None:
        mode = os.environ.get("WANDB_MODE", "offline")
        project = os.environ.get("WANDB_PROJECT", "gankd")
        settings = library.Settings(silent=True)
        self._run = library.init(project=project, name=folder.name, dir=str(folder), mode=mode, settings=settings)
        self._stages: set[str] = set()

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(f"{stage}/step", hidden=True)
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._run.log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in values.items()}})

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """A run of MLflow; metrics are named STAGE/NAME, in the letters that MLflow allows."""

    def __init__(self, library: ModuleType, folder: Path) -> None:
        if "MLFLOW_TRACKING_URI" not in os.environ:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a database would need the whole of MLflow
            library.set_tracking_uri((folder / "mlruns").resolve().as_uri())
        library.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "gankd"))
        self._client, self._run = library.MlflowClient(), library.start_run(run_name=folder.name)
        self._end = library.end_run

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            allowed = re.sub(r"[^\w\-. /:]", "_", f"{stage}/{name}")
            self._client.log_metric(self._run.info.run_id, allowed, value, step=step)

    def close(self) -> None:
        self._end()
