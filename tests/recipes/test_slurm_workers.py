"""Jobs of Slurm, played by submitit's executor of local processes, and by a Slurm of shell scripts."""

import gc
import os
import time
from operator import truediv
from pathlib import Path
from typing import Any

import pytest
import torch

from gankd.engine import Engine
from gankd.errors import ConfigError, RunError
from gankd.recipes.clusters import connected
from gankd.recipes.slurm_workers import SlurmWorkers, _call
from gankd.recipes.workers import Work

pytest.importorskip("submitit")
CPU = Engine(torch.device("cpu"), bf16=False, channels_last=False)


def work(function: Any, jobs: list[Any], *shared: Any, tolerant: bool = True) -> Work[Any]:
    return Work(function=function, shared=shared, jobs=jobs, engine=CPU, tolerant=tolerant, here=print)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # submitit warns of processes that it has not waited for
def test_lost_jobs_are_repeated_and_the_rest_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gankd.recipes.slurm_workers.REPEATS", 1)
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0)  # of a disk that shows files late
    workers = SlurmWorkers(logs=tmp_path / "logs", cluster="local")
    dies = "kill -9 $PPID; sleep 10"
    dies_once = f"test -e {tmp_path}/tried || (touch {tmp_path}/tried; kill -9 $PPID; sleep 10)"
    sleeps = f"echo $PPID > {tmp_path}/running; sleep 30"
    found: dict[str, Exception | None] = {}
    for job, error in workers.run(work(os.system, [dies_once, dies, sleeps])):
        found[job] = error
        if len(found) == 2:
            break
    assert set(found) == {dies_once, dies}
    assert found[dies_once] is None
    assert isinstance(found[dies], RunError)
    assert "of Slurm was lost 2 times: out of memory or time, or its machine ended" in str(found[dies])
    assert "\n" not in str(found[dies])
    process = int((tmp_path / "running").read_text())
    deadline = time.monotonic() + 60
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    gc.collect()  # warnings of submitit's processes are ignored in this test only


def test_a_job_that_fails_says_what_was_raised() -> None:
    assert isinstance(_call(truediv, (1,), 0, CPU.device), ZeroDivisionError)
    assert _call(truediv, (1,), 1, CPU.device) is None


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("slurm", "--on slurm finds no Slurm here"),
        ("slurm:gpu", "--on slurm takes options as in slurm:partition=gpu,time=240, got 'gpu'"),
        ("slurm:colour=red", "--on slurm takes the options of sbatch as submitit names them: .*colour"),
        ("dask", "--on takes ray, ray://HOST:PORT, slurm or slurm:partition=gpu,time=240, got 'dask'"),
        ("ray:8265", "--on takes ray, ray://HOST:PORT, slurm or"),
    ],
)
def test_what_is_refused(on: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "colour" in on:
        (tmp_path / "srun").touch(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ConfigError, match=message) as error:
        connected(on)
    assert "\n" not in str(error.value)


def test_workers_are_not_for_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--workers is for processes here"):
        connected("ray", 3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="--on is for one process; leave --processes and torchrun out"):
        connected("ray")
