"""Students trained on other machines: finished stages meet in one folder, and the students are those trained here.

Workers of other machines are played by this process in another folder.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from gankd.config import override
from gankd.errors import ConfigError, RunError
from gankd.recipes import Recipe, cgan_kd
from gankd.recipes.arms import Arm, arm_named
from gankd.recipes.exchange import Exchange
from gankd.recipes.experiment import Experiment
from gankd.recipes.workers import J, Work
from gankd.runs import Run, Stage


@dataclass(frozen=True)
class Elsewhere:
    """A machine that has only the exchange: it trains one student after the other."""

    url: str

    def at_a_time(self, engine: object) -> int:
        return 1

    def exchange(self, folder: Path) -> Exchange:
        return Exchange(self.url)

    def run(self, work: Work[J]) -> Iterator[tuple[J, Exception | None]]:
        cgan_kd._Held.key = ""
        cgan_kd._scratch.cache_clear()
        for job in work.jobs:
            work.function(*work.shared, job)
            yield job, None


@pytest.fixture
def copied(digits_run: tuple[Recipe, Path], tmp_path: Path) -> tuple[Recipe, Path]:
    """A finished run, and a copy of its folder without students."""
    recipe, folder = digits_run
    for stage in folder.glob("*-????????"):
        if not stage.name.startswith("student-"):
            shutil.copytree(stage, tmp_path / "run" / stage.name)
    return recipe, tmp_path / "run"


def weights(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob("student-*/model.safetensors")}


ARMS = ("real_matched", "adjusted")


def arms_of(recipe: Recipe) -> list[Arm]:
    return [arm_named(recipe, name) for name in ARMS]


def train(recipe: Recipe, folder: Path, workers: Any) -> None:
    cgan_kd.cgan_kd(Experiment.open(recipe, Run(folder)), arms_of(recipe), [0, 1], workers=workers)


@pytest.mark.parametrize("url", ["memory://stages", "shared", "run"])
def test_students_are_those_trained_here(
    url: str, copied: tuple[Recipe, Path], digits_run: tuple[Recipe, Path], tmp_path: Path
) -> None:
    """Through object storage, through a disk, and where the run folder is on a disk that all machines share."""
    recipe, folder = copied
    url = url if "://" in url else str(tmp_path / url)
    Exchange.open(url)
    train(recipe, folder, Elsewhere(url))
    found, expected = weights(folder), weights(digits_run[1])
    assert sorted(found) == sorted(name for name in expected if name.rsplit("-", 2)[0][8:] in ARMS)
    assert all(expected[name] == content for name, content in found.items())
    assert not list(folder.glob("*.part"))
    assert not any(path.is_symlink() for path in folder.iterdir())


def test_a_head_that_is_lost_leaves_everything_in_the_exchange(
    copied: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = copied
    url = Exchange.open("memory://lost-head").url
    train(recipe, folder, Elsewhere(url))

    def trains(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr(Stage, "begin", trains)
    train(recipe, tmp_path / "another machine", Elsewhere(url))
    assert weights(tmp_path / "another machine") == weights(folder)


def test_a_stage_counts_once_its_last_file_is_there(copied: tuple[Recipe, Path], tmp_path: Path) -> None:
    """A worker that dies while it brings a stage leaves a folder that nobody reads, and the next one completes."""
    _, folder = copied
    exchange = Exchange.open("memory://half")
    files = fsspec.filesystem("memory")
    teacher = next(folder.glob("teacher-*"))
    there = Stage("teacher", teacher)
    away = Stage("teacher", tmp_path / teacher.name)
    files.makedirs(f"/half/{teacher.name}", exist_ok=True)
    files.put_file(str(teacher / "config.json"), f"/half/{teacher.name}/config.json")
    exchange.bring([away])
    assert not Path(tmp_path / teacher.name).exists()
    exchange.take([there, away])
    exchange.bring([away])
    assert away.done
    names = {path.relative_to(teacher) for path in teacher.rglob("*")}
    assert {path.relative_to(tmp_path / teacher.name) for path in (tmp_path / teacher.name).rglob("*")} == names
    assert not [name for name in files.ls(f"/half/{teacher.name}", detail=False) if "done.json-" in name]


def test_a_worker_that_would_train_something_else_is_refused(
    copied: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its images differ, for example: the head would wait for a student that never comes."""
    recipe, folder = copied
    other = override(recipe, ["data.num_train=120"])
    real = Experiment.open
    workers = Elsewhere(Exchange.open("memory://other").url)

    def opened(recipe: Recipe, run: Run, splits: Any = None) -> Experiment:
        return real(recipe if run.folder == folder else replace(recipe, data=other.data), run, splits)

    monkeypatch.setattr(Experiment, "open", opened)
    with pytest.raises(RunError, match="would train another student than the one that was asked for") as error:
        train(recipe, folder, workers)
    assert "\n" not in str(error.value)
    assert not weights(folder)


def test_a_folder_that_a_worker_does_not_see(copied: tuple[Recipe, Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not see .*/only-here; choose an --out on a disk that all machines share"):
        Exchange(str(tmp_path / "only-here")).check()


@pytest.mark.parametrize(
    ("url", "reason"), [("nonsense://x", "Protocol not known: nonsense"), ("/dev/null/x", "Not a directory")]
)
def test_a_store_that_cannot_be_used(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"--store {url} cannot be used: .*{reason}") as error:
        Exchange.open(url)
    assert "\n" not in str(error.value)
