"""Students trained as jobs of Slurm, through submitit: `--on slurm` and `--on slurm:partition=gpu,time=240`."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from gankd.engine import Engine
from gankd.errors import ConfigError, RunError
from gankd.recipes.exchange import Exchange
from gankd.recipes.workers import J, Work, one_thread

MINUTES = 240
"""Time limit of a job, unless `time` says another."""
MOST = 256
"""Jobs at a time, unless --workers says another number."""
REPEATS = 3
"""Times that a student is trained again after its job was lost."""
POLL = 1.0
"""Seconds between two looks at the jobs."""


@dataclass(frozen=True)
class SlurmWorkers:
    """A job of Slurm for each student, with one core, and one GPU where the device is a GPU.

    The command runs where `sbatch` works, in a folder on a disk that all machines share; it gets a folder of logs.
    """

    store: str | None = None
    most: int = MOST
    """Jobs at a time."""
    options: Mapping[str, str | int] = field(default_factory=dict)
    """Options of sbatch, as submitit names them: partition, account, qos, time (minutes), mem, constraint ..."""
    logs: Path = Path("slurm")
    """Folder of what jobs read and print."""
    cluster: str = "slurm"
    """Kind of executor; submitit's local one starts processes here."""

    @classmethod
    def connect(cls, options: str, most: int | None = None, store: str | None = None) -> "SlurmWorkers":
        """Check that jobs can be submitted.

        Args:
            options: NAME=VALUE, with commas between them.
            most: jobs at a time.
            store: folder in which stages are exchanged (`Exchange`); default: the run folder, on a disk that all share.

        Raises:
            ConfigError: the extra slurm is missing, there is no Slurm here, or it has no such option.
        """
        given: dict[str, str | int] = {}
        for part in filter(None, options.split(",")):
            name, sign, value = part.partition("=")
            if not sign:
                raise ConfigError(f"--on slurm takes options as in slurm:partition=gpu,time=240, got {part!r}")
            given[name] = int(value) if value.isdecimal() else value
        found = cls(None if store is None else Exchange.open(store).url, most or MOST, given)
        found._executor(torch.device("cpu"))
        return found

    def at_a_time(self, engine: Engine) -> int:
        """See `Workers`."""
        return self.most

    def exchange(self, folder: Path) -> Exchange:
        """See `Workers`."""
        return Exchange(self.store or os.path.abspath(folder))

    def run(self, work: Work[J]) -> Iterator[tuple[J, Exception | None]]:
        """See `Workers`."""
        executor = self._executor(work.engine.device)
        with executor.batch():  # one job array
            jobs = [(self._submitted(executor, work, job), job) for job in work.jobs]
        waiting = {id(submitted): (submitted, job, 0) for submitted, job in jobs}
        try:
            while waiting:
                for key, (submitted, job, tries) in list(waiting.items()):
                    if not submitted.done():
                        continue
                    del waiting[key]
                    error = _error(submitted)
                    if isinstance(error, _Lost) and tries < REPEATS:
                        again = self._submitted(executor, work, job)
                        waiting[id(again)] = (again, job, tries + 1)
                        continue
                    if error is not None and not work.tolerant:
                        raise error
                    yield job, error
                time.sleep(POLL)
        finally:
            for submitted, _, _ in waiting.values():
                submitted.cancel(check=False)

    def _submitted(self, executor: Any, work: Work[J], job: J) -> Any:
        return executor.submit(_call, work.function, work.shared, job, work.engine.device)

    def _executor(self, device: torch.device) -> Any:
        try:
            executor = import_module("submitit").AutoExecutor(folder=self.logs, cluster=self.cluster)
            executor.update_parameters(
                timeout_min=MINUTES,
                cpus_per_task=1,
                slurm_array_parallelism=self.most,
                slurm_setup=["export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1"],
                **({"gpus_per_node": 1} if device.type == "cuda" else {}),
                **{f"slurm_{name}": value for name, value in self.options.items()},
            )
        except ImportError as error:
            raise ConfigError(f"--on slurm needs submitit ({error}): pip install 'gankd[slurm]'") from None
        except RuntimeError:
            raise ConfigError("--on slurm finds no Slurm here (no srun); run it where sbatch and srun work") from None
        except (NameError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"--on slurm takes the options of sbatch as submitit names them: {reason}") from None
        return executor


class _Lost(RunError):
    """A job ended without a result."""


def _call(function: Callable[..., None], shared: tuple[Any, ...], job: Any, device: torch.device) -> Exception | None:
    """Error of a job, as a result: submitit would pass on only its text."""
    try:
        with one_thread(device):
            function(*shared, job)
    except Exception as error:  # the user's network may raise anything
        return error
    return None


def _error(submitted: Any) -> Exception | None:
    """Error of a job that has ended, if it failed."""
    lost = submitted.exception()
    if lost is None:
        found: Exception | None = submitted.result()
        return found
    lines = str(lost).strip().splitlines() or ["no output"]
    return _Lost(
        f"job {submitted.job_id} of Slurm was lost {REPEATS + 1} times: out of memory or time, or its machine ended "
        f"({lines[0][:150]}); finished students are kept; its output is {submitted.paths.stderr}"
    )
