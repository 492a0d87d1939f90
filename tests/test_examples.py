"""The scripts run as they are, call no recipe, and stay short; the notebooks have run."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import gankd

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ["classes.py", "values.py"]


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_short_and_need_no_recipe(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    assert len(text.splitlines()) <= 60
    assert not re.search(r"gankd\.(recipes|runs|commands)", text)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_ran_from_top_to_bottom_and_name_no_machine(path: Path) -> None:
    """Running them again is left to `make nightly`."""
    text = path.read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not re.search(r"/(tmp|home|root|Users|work)/", text)
    for cell in cells:
        for statement in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(statement, ast.ImportFrom):
                module = import_module(str(statement.module))
                assert all(hasattr(module, alias.name) for alias in statement.names)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(gankd.__path__[0]).parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [" ".join(line.split()[:-2]) for line in lines] == [
        "teacher",
        *(f"student {seed} {arm}" for seed in (0, 1) for arm in ("control, equal updates", "with generated images")),
    ]
    assert all(float(line.split()[-2]) > 0 for line in lines)
    assert not list(tmp_path.iterdir())
