"""The README's short programs run as they stand; the long ones are what `make demo` does."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from gankd.cli.parser import parser
from gankd.training.objective import term

TEXT = Path(__file__).parents[1].joinpath("README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]


def test_two_networks_without_a_recipe() -> None:
    (program,) = [program for program in PROGRAMS if "distill(student" in program]
    names: dict[str, Any] = {}
    exec(compile(program, "README.md", "exec"), names)
    assert not names["student"].training
    assert names["student"](names["images"]).shape == (64,)


def test_losses_of_your_own() -> None:
    (program,) = [program for program in PROGRAMS if "class Hint" in program]
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(program, "README.md", "exec"), names)
    assert term(names["margin"], width=2.0).terms[0].loss.tasks == ("classification",)
    assert term(names["Hint"]).terms[0].loss.tasks == ("classification", "regression")


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("gankd ")])
def test_commands_are_words_that_the_command_line_knows(line: str) -> None:
    words = shlex.split(line.partition("#")[0])[1:]
    _, unknown = parser().parse_known_args(words)
    assert not unknown
