"""A Ray cluster of two machines, played by two nodes here, one of which is killed: the students are those trained here.

These tests start processes that need seconds each, and a package of 250 MB: `make nightly` runs them.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from operator import truediv
from pathlib import Path
from typing import Any

import pytest
import torch
from outcomes import TINY

from gankd.config import override
from gankd.engine import Engine
from gankd.errors import ConfigError, RunError
from gankd.recipes import RECIPES, Recipe
from gankd.recipes.arms import arm_named
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.experiment import Experiment
from gankd.recipes.ray_workers import RayWorkers
from gankd.recipes.stages import Cell
from gankd.recipes.workers import Work
from gankd.runs import Run

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]
ENGINE = Engine(torch.device("cpu"), bf16=False, channels_last=False)


class Machines:
    """A cluster with a head that trains nothing."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        options = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 << 20}
        self.cluster = Cluster(initialize_head=True, head_node_args=options)
        self.nodes: list[Any] = []

    def add(self) -> Any:
        """Another machine with one core."""
        self.nodes.append(self.cluster.add_node(num_cpus=1, object_store_memory=80 << 20))
        self.cluster.wait_for_nodes()
        return self.nodes[-1]

    def kill(self, node: Any) -> None:
        """As if the power failed: the machine's processes end at once."""
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    made = Machines()
    monkeypatch.setenv("RAY_ADDRESS", made.cluster.address)
    made.add()
    made.add()
    yield made
    ray.shutdown()
    made.cluster.shutdown()


def work(function: Callable[..., Any], jobs: list[Any], *shared: Any, tolerant: bool = True) -> Work[Any]:
    return Work(function=function, shared=shared, jobs=jobs, engine=ENGINE, tolerant=tolerant, here=print)


def test_a_killed_node_costs_the_student_that_it_trained(machines: Machines, tmp_path: Path) -> None:
    """Both nodes train; one is killed when the first student is there. Its student is repeated, bit for bit."""
    recipe: Recipe = override(RECIPES["digits"](), (*TINY, "student.updates=600"))
    arms, seeds, here = [arm_named(recipe, name) for name in ("real_matched", "adjusted")], range(3), tmp_path / "here"
    here.mkdir()
    cgan_kd(Experiment.open(recipe, Run(here)), arms, seeds, workers=2)
    there = tmp_path / "there"
    shutil.copytree(here, there, ignore=shutil.ignore_patterns("student-*"))
    ended: list[Cell] = []

    def told(cell: Cell, error: Exception | None) -> None:
        assert error is None
        if not ended:
            while ray.available_resources().get("CPU", 0):  # until both train
                time.sleep(0.05)
            machines.kill(machines.nodes[1])
        ended.append(cell)

    experiment = Experiment.open(recipe, Run(there))
    workers = RayWorkers.connect("auto")
    assert workers.at_a_time(experiment.engine) == 2
    cgan_kd(experiment, arms, seeds, workers=workers, ended=told)
    assert sorted(ended) == sorted((arm.name, seed) for arm in arms for seed in seeds)
    students = sorted(path.name for path in here.glob("student-*"))
    assert sorted(path.name for path in there.glob("student-*")) == students
    for name in students:
        for file in ("model.safetensors", "metrics.jsonl"):
            assert (there / name / file).read_bytes() == (here / name / file).read_bytes()


def test_jobs_fail_are_repeated_and_are_cancelled(machines: Machines, tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    workers = RayWorkers.connect("auto")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    # One that fails costs only itself, and says what it raised.
    found = dict(workers.run(work(truediv, [4, 0, 2], 1)))
    assert (found[4], found[2], type(found[0])) == (None, None, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        list(workers.run(work(truediv, [0], 1, tolerant=False)))
    # Threads, and a process that dies: the job is tried again, and given up after three times more.
    assert [error for _, error in workers.run(work(os.system, [f"echo $OMP_NUM_THREADS >> {tmp_path}/threads"]))] == [
        None
    ]
    assert (tmp_path / "threads").read_text() == "1\n"
    ((_, error),) = workers.run(work(os.system, [f"echo x >> {tmp_path}/tries; kill -9 $PPID; sleep 5"]))
    assert isinstance(error, RunError)
    assert "lost 4 times: out of memory, or its machines ended" in str(error)
    assert "\n" not in str(error)
    assert (tmp_path / "tries").read_text() == 4 * "x\n"
    # A caller that leaves early, as by Ctrl-C, cancels what runs and what waits.
    jobs = ["true", *(f"echo $$ >> {tmp_path}/running; sleep {seconds}" for seconds in (1000, 1001, 1002))]
    for job, _ in workers.run(work(os.system, jobs)):
        assert job == "true"
        break
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources()["CPU"] == 2


def test_a_lost_head_is_one_line(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = RayWorkers.connect("auto")
    monkeypatch.setattr("gankd.recipes.ray_workers.PATIENCE", 3.0)
    jobs = workers.run(work(time.sleep, [0.0, 1000.0]))
    assert next(jobs) == (0.0, None)
    machines.cluster.head_node.kill_gcs_server(check_alive=False)
    with pytest.raises(
        RunError, match=r"the head of the Ray cluster at .* cannot be reached; finished students"
    ) as lost:
        next(jobs)
    assert "\n" not in str(lost.value)


@pytest.mark.parametrize(
    ("address", "known", "where"),
    [
        ("ray://127.0.0.1:9", "", "at ray://127.0.0.1:9"),
        ("ray://nonsense", "", "at ray://nonsense"),
        ("auto", "127.0.0.1:9", "at 127.0.0.1:9"),
        ("auto", "ray://127.0.0.1:9", "at ray://127.0.0.1:9"),
    ],
)
def test_no_cluster_is_one_line(address: str, known: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", known)
    with pytest.raises(ConfigError, match=rf"no Ray cluster {where} \(.*\); start one with: ray start --head") as error:
        RayWorkers.connect(address)
    assert "\n" not in str(error.value)
