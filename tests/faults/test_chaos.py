"""Random kills, in a process of their own: 20 quick rounds; `make chaos` has 200 over all commands that write."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_commands_killed_at_random_end_as_the_undisturbed_ones(tmp_path: Path) -> None:
    words = [str(Path(__file__).parent / "chaos.py"), "--rounds", "20", "--only", "data fetch,student"]
    found = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "| all | 20 | " in found.stdout
    assert int(found.stdout.split("| all | 20 | ")[1].split()[0]) > 10  # kills
