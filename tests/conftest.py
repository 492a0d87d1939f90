"""What several tests share: tiny settings, two finished tiny runs, and the command line in this process."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock
from outcomes import TINY
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gankd import cli
from gankd.cli import main
from gankd.commands import run
from gankd.config import override
from gankd.models.contract import ImageModel
from gankd.recipes import RECIPES, Recipe
from gankd.recipes.arms import Arm, arm_named
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.experiment import Experiment
from gankd.recipes.students import restore_student
from gankd.stops import STOPS


class Work(TorchDispatchMode):
    """Counts the elements that operations read and write, views excepted: tests of growth compare counts, not times."""

    elements = 0
    written = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            read, written = (
                sum(leaf.numel() for leaf in tree_leaves(part) if isinstance(leaf, Tensor)) for part in (args, result)
            )
            self.elements += read + written
            self.written += written
        return result


@pytest.fixture
def work() -> Callable[[Callable[[], object]], int]:
    """Function that counts the elements which a call reads and writes."""

    def count(call: Callable[[], object]) -> int:
        with Work() as counter:
            call()
        return counter.elements

    return count


@pytest.fixture
def written() -> Callable[[Callable[[], object]], int]:
    """Function that counts the elements which a call writes: a few rows of a long table are few."""

    def count(call: Callable[[], object]) -> int:
        with Work() as counter:
            call()
        return counter.written

    return count


os.environ["PYTHONPATH"] = str(Path(cli.__file__).parents[2])  # other processes of the tests import the same tree
torch.set_num_threads(1)  # as in workers: the same numbers everywhere, and no fight over the cores


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    return TINY


@pytest.fixture(scope="session", autouse=True)
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's configuration folder, which is not that of the person who runs the tests; the cache is not theirs."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("configuration")
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        patch.setenv("GANKD_CACHE", str(folder / "cache"))
        yield folder


def finished(recipe: Recipe, name: str, factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A finished run, made once and copied for each of the processes that pytest-xdist starts."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / f"{name}.lock"):
        if not (shared / name / "report.html").is_file():
            run(recipe, shared / name)
    return recipe, Path(shutil.copytree(shared / name, factory.mktemp("finished") / name))


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A finished run with classes; do not change its folder."""
    return finished(override(RECIPES["digits"](), TINY), "digits", tmp_path_factory)


@pytest.fixture(scope="session")
def angles_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A finished run with scalar labels, improved label input and an auto-encoder; do not change its folder."""
    settings = (*TINY, "gan.label_input=ili", "ratio.features=autoencoder")
    return finished(override(RECIPES["rotated-digits"](), settings), "angles", tmp_path_factory)


@pytest.fixture(scope="session")
def trained() -> Callable[[Experiment, str | Arm, int], ImageModel]:
    """The student of one arm, or default arm of this name, and seed; trained if it is not finished."""

    def student(experiment: Experiment, wanted: str | Arm, seed: int) -> ImageModel:
        arm = wanted if isinstance(wanted, Arm) else arm_named(experiment.recipe, wanted)
        stages = cgan_kd(experiment, [arm], [seed])
        return restore_student(experiment, arm, stages.students[arm.name, seed])

    return student


class LocalHub:
    """The client of a hub that is a folder; private repositories have a file that says so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> str:
        (self.folder / repo).mkdir(parents=True, exist_ok=exist_ok)
        if private:
            (self.folder / f"{repo}.private").touch()
        return f"https://hub/{repo}"

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        assert commit_message
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)

    def model_info(self, repo: str, *, revision: str | None, files_metadata: bool) -> Any:
        assert files_metadata
        root = self.folder / repo
        if not root.is_dir():
            raise FileNotFoundError(repo)
        names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, lfs=None, blob_id=None) for name in names])

    def hf_hub_download(self, repo: str, file: str, *, revision: str | None) -> str:
        return str(self.folder / repo / file)

    def snapshot_download(self, repo: str, *, revision: str | None, local_files_only: bool) -> str:
        raise FileNotFoundError(f"{repo} is not in the cache")


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that stands for the hub; repositories are its folders user/name."""
    folder = tmp_path / "hub"
    monkeypatch.setattr("gankd.hub.client", lambda: LocalHub(folder))
    monkeypatch.setattr("gankd.commands.push.client", lambda: LocalHub(folder))
    return folder


Outcome = tuple[int, str, str]
"""Exit code, standard output, standard error."""


@pytest.fixture
def gankd(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """The command line, in this process."""

    def call(*words: object) -> Outcome:
        handlers = {number: signal.getsignal(number) for number in STOPS}
        capsys.readouterr()
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def refused(gankd: Callable[..., Outcome]) -> Callable[..., str]:
    """The one line with which the command line refuses; fails if there is anything else."""

    def call(*words: object) -> str:
        code, out, err = gankd(*words)
        assert (code, out) == (2, ""), (out, err)
        assert err.startswith("gankd: ")
        assert err.endswith("\n")
        assert len(err.splitlines()) == 1, err
        return err.removeprefix("gankd: ").rstrip("\n")

    return call
