"""`import gankd` is light, and the commands are there as functions."""

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import gankd
import gankd.commands

HEAVY = ("torch", "numpy", "pydantic", "sklearn", "scipy", "PIL", "matplotlib")


RARE = ("sklearn", "scipy", "matplotlib", "pandas", "h5py", "pyarrow", "sympy", "torch._dynamo", "torch._inductor")
COMMANDS = [f"gankd.commands.{module.name}" for module in pkgutil.iter_modules(gankd.commands.__path__)]


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [("gankd", HEAVY), ("gankd.cli", HEAVY), (", ".join(COMMANDS), RARE)],
    ids=["package", "command line", "commands"],
)
def test_importing_loads_only_what_every_user_of_it_needs(modules: str, unwanted: tuple[str, ...]) -> None:
    code = f"import sys, {modules}; print([name for name in {unwanted!r} if name in sys.modules])"
    source = str(Path(gankd.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize("chosen", [None, "ACTIVE"])
def test_threads_sleep_while_they_wait_unless_the_user_wants_otherwise(chosen: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment["PYTHONPATH"] = str(Path(gankd.__file__).parents[1])
    if chosen:
        environment["OMP_WAIT_POLICY"] = chosen
    code = "import gankd, os; print(os.environ['OMP_WAIT_POLICY'])"
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == (chosen or "PASSIVE")


@pytest.mark.parametrize("name", [name for name in gankd.__all__ if not name.startswith("_")])
def test_every_public_name_is_a_function_of_that_name(name: str) -> None:
    assert getattr(gankd, name).__name__ == name


def test_no_module_hides_a_public_function() -> None:
    """`gankd.run` would be the module once anything had imported `gankd/run.py`."""
    modules = {module.name for module in pkgutil.iter_modules(gankd.__path__)}
    assert not modules & set(gankd.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'rnu'"):
        _ = gankd.rnu
