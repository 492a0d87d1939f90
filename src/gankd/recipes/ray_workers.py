"""Students trained by the processes of a Ray cluster: `--on ray` and `--on ray://HOST:10001`."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from gankd.config import require
from gankd.engine import Engine
from gankd.errors import ConfigError, RunError
from gankd.recipes.exchange import Exchange
from gankd.recipes.workers import J, Work, one_thread
from gankd.stops import Stopped

REPEATS = 3
"""Times that a student is trained again after its process or machine was lost."""
PATIENCE = 20.0
"""Seconds that the head of the cluster may be unreachable."""


@dataclass(frozen=True)
class RayWorkers:
    """Processes that a Ray cluster starts: one core for each student, or one core and one GPU.

    gankd and its dependencies must be installed on all machines, in the same versions. Settings, and images that were
    passed in Python, travel with the students; images that a recipe reads must be at the same path everywhere.
    """

    store: str | None
    head: tuple[str, int]
    """Host and port that are reachable as long as the cluster is."""

    @classmethod
    def connect(cls, address: str, store: str | None = None) -> "RayWorkers":
        """Connect this process to a cluster.

        Args:
            address: auto for the cluster that this machine is part of (or RAY_ADDRESS), or ray://HOST:PORT.
            store: folder in which stages are exchanged (`Exchange`); default: the run folder, on a disk that all share.

        Raises:
            ConfigError: the extra ray is missing, or no cluster answers.
        """
        try:
            ray = import_module("ray")
        except ImportError as error:
            raise ConfigError(f"--on ray needs Ray ({error}): pip install 'gankd[ray]'") from None
        if store is not None:
            store = Exchange.open(store).url
        stops = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        threads = {"env_vars": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}}
        try:
            if address == "auto":
                address = import_module("ray._private.services").get_ray_address_from_environment(address, None)
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=10.0).close()  # Ray itself would try for five minutes
            ray.init(address, runtime_env=threads, log_to_driver=False, logging_level="error", ignore_reinit_error=True)
        except (OSError, ValueError, RuntimeError) as error:
            where = "found" if address == "auto" else f"at {address}"
            reason = " ".join(str(error).split())[:150]
            raise ConfigError(f"no Ray cluster {where} ({reason}); start one with: ray start --head") from None
        finally:
            for number, handler in stops.items():  # Ray has its own
                signal.signal(number, handler)
        # It would print what its machines tell on standard output, where the result belongs.
        vars(import_module("ray._private.worker"))["print_to_stdstream"] = lambda *_, **__: None
        return cls(store, (host, int(port)))

    def at_a_time(self, engine: Engine) -> int:
        """See `Workers`."""
        return max(1, self._offered(engine.device))

    def exchange(self, folder: Path) -> Exchange:
        """See `Workers`."""
        return Exchange(self.store or os.path.abspath(folder))

    def run(self, work: Work[J]) -> Iterator[tuple[J, Exception | None]]:
        """See `Workers`."""
        ray, device = import_module("ray"), work.engine.device
        kind = "GPU" if device.type == "cuda" else "core"
        require(
            self._offered(device) >= 1, f"no machine of the Ray cluster offers a {kind}; add one, or set device=cpu"
        )
        call = ray.remote(_call).options(num_cpus=1, num_gpus=int(kind == "GPU"), max_retries=REPEATS)
        common = ray.put((work.function, work.shared, device))
        waiting = {call.remote(common, job): job for job in work.jobs}
        seen = time.monotonic()
        try:
            while waiting:
                ended = _ended(ray, list(waiting))
                for one in ended:
                    error = _error(ray, one)
                    if error is not None and not work.tolerant:
                        raise error
                    yield waiting.pop(one), error
                if ended or self._is_there():
                    seen = time.monotonic()
                elif time.monotonic() - seen > PATIENCE:
                    raise RunError(
                        f"the head of the Ray cluster at {self.head[0]}:{self.head[1]} cannot be reached; finished "
                        "students are kept, and the same command goes on with the others once there is a cluster again"
                    )
        finally:
            for one in reversed(waiting) if self._is_there() else ():  # those that wait first, or they would start
                ray.cancel(one, force=True)

    def _offered(self, device: torch.device) -> int:
        resources = import_module("ray").cluster_resources()
        return int(resources.get("GPU" if device.type == "cuda" else "CPU", 0))

    def _is_there(self) -> bool:
        try:
            socket.create_connection(self.head, timeout=5.0).close()
        except OSError:
            return False
        return True


def _ended(ray: Any, waiting: list[Any]) -> list[Any]:
    """Jobs that have ended; if there are none, after a moment."""
    try:
        ended: list[Any] = ray.wait(waiting, timeout=0)[0]
    except KeyboardInterrupt as stop:  # Ray replaces what the handler of a signal raises by one of its own
        raise stop if isinstance(stop, Stopped) else Stopped(signal.SIGINT) from None
    if not ended:
        time.sleep(0.2)
    return ended


def _call(common: tuple[Callable[..., None], tuple[Any, ...], torch.device], job: Any) -> None:
    function, shared, device = common
    with one_thread(device):
        function(*shared, job)


def _error(ray: Any, one: Any) -> Exception | None:
    """Error of a job that has ended, if it failed."""
    try:
        ray.get(one)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        return cause if isinstance(cause, Exception) else RunError(" ".join(str(error).split())[-300:])
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:150]
        return RunError(
            f"a process that trained a student was lost {REPEATS + 1} times: out of memory, or its machines ended "
            f"({reason}); finished students are kept"
        )
    return None
