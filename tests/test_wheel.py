"""The wheel holds everything that the package reads, and works where this tree is not."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from gankd.version import __version__

ROOT = Path(__file__).parents[1]
DEPENDENCIES = Path(pytest.__file__).parents[1]


def called(*words: object, folder: Path) -> str:
    """Standard output of a command that must succeed, without this tree on Python's path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(list(map(str, words)), cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    """Lists need none of the dependencies; the commands take those of this environment."""
    pytest.importorskip("setuptools", minversion="77")
    source, empty = tmp_path / "source", tmp_path / "empty"
    empty.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    offline = ("--no-deps", "--no-index")
    called(*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", tmp_path, ".", folder=source)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"gankd-{__version__}-py3-none-any.whl"
    package = source / "src"
    files = {path.relative_to(package).as_posix() for path in (package / "gankd").rglob("*") if path.is_file()}
    assert files <= set(zipfile.ZipFile(wheel).namelist()), "name its folder under package-data in pyproject.toml"

    venv.create(tmp_path / "env")
    python = tmp_path / "env/bin/python"
    called(*pip, "--python", python, "install", *offline, wheel, folder=empty)
    gankd = tmp_path / "env/bin/gankd"
    assert called(gankd, "--version", folder=empty) == f"gankd {__version__}\n"
    for what in ("settings", "recipes", "losses", "models"):
        assert len(called(gankd, "list", what, folder=empty).splitlines()) > 10
    (site,) = (tmp_path / "env/lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(f"{DEPENDENCIES}\n")
    place = called(python, "-c", "import gankd.commands; print(gankd.__file__)", folder=empty)
    assert Path(place.strip()).is_relative_to(site)
