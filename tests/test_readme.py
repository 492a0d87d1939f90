"""Programs and commands of the README and the docs pages: they run, or are at least what the package knows."""

import ast
import json
import os
import re
import shlex
import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import gankd.recipes
from gankd import errors
from gankd.cli.parser import parser
from gankd.config import override
from gankd.recipes import RECIPES, Recipe
from gankd.text import interval
from gankd.training.objective import term

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}


def blocks(page: str, language: str, least: int = 0) -> list[str]:
    """Code of a page in this language, indented by at least so many spaces, as code in tabs is."""
    indented = rf"^( {{{least},}})```{language}\n(.*?)^\1```"
    return [textwrap.dedent(code) for _, code in re.findall(indented, PAGES[page], re.DOTALL | re.MULTILINE)]


def commands(page: str, least: int = 0) -> list[str]:
    """Commands of a page, in its order."""
    lines = "".join(blocks(page, "(?:ba)?sh", least)).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in line.partition(" #")[0].split("&&")]
    return [part for part in parts if part.startswith("gankd ")]


PROGRAMS = [(page, code) for page in PAGES for code in blocks(page, "python")]
COMMANDS = sorted({line for page in PAGES for line in commands(page)})
QUICK = ("classes.md", "reading_the_report.md")
BEFORE = {"export.md": ("gankd run folder --data photos --size 32",)}
"""Commands without which those of a page cannot run."""


def all_at_night(pages: Iterable[str]) -> list[Any]:
    """Pages as parameters of a test. Those that train for longer wait for `make nightly`."""
    night = pytest.mark.skipif("NIGHTLY" not in os.environ, reason="make nightly")
    return [pytest.param(page, marks=[] if page in QUICK else night) for page in pages]


def run_program(page: str, words: str) -> dict[str, Any]:
    """Run the program of a page that contains these words; return its names."""
    (program,) = [code for name, code in PROGRAMS if name == page and words in code]
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(program, page, "exec"), names)
    return names


def test_two_networks_without_a_recipe() -> None:
    names = run_program("python.md", "distill(student")
    assert not names["student"].training
    assert names["student"](names["images"]).shape == (64,)


def test_a_data_set_in_memory() -> None:
    splits = run_program("python.md", "splits_from_dataset(pairs)")["splits"]
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [28, 4, 8]
    assert splits.train.task.class_names == ("cat", "dog")


def test_networks_generator_and_images_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)  # of the page's images
    names = run_program("python.md", "class Small(nn.Module)")
    images = names["images"][:5]
    assert names["result"].student(images).shape == (5, 2)
    assert names["student"](images).tolist() == names["result"].student(images).tolist()
    assert (names["result"].teacher(images).argmax(1) == names["labels"][:5]).all()


def test_losses_of_your_own() -> None:
    names = run_program("using_losses.md", "class Hint")
    assert term(names["margin"], width=2.0).terms[0].loss.tasks == ("classification",)
    assert term(names["Hint"]).terms[0].loss.tasks == ("classification", "regression")
    assert term(run_program("README.md", "def margin")["margin"], width=2.0).terms[0].loss.name == "Margin"


@pytest.mark.parametrize(("page", "program"), PROGRAMS)
def test_programs_import_what_there_is(page: str, program: str) -> None:
    for statement in ast.walk(ast.parse(program, page)):
        if isinstance(statement, ast.ImportFrom) and statement.module:
            exec(compile(ast.Module([statement], []), page, "exec"))


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_words_that_the_command_line_knows(line: str) -> None:
    _, unknown = parser().parse_known_args(shlex.split(line)[1:])
    assert not unknown


@pytest.mark.parametrize("error", [kind for kind in vars(errors).values() if isinstance(kind, type)])
def test_an_error_says_what_it_means_and_what_to_do(error: type) -> None:
    assert len((error.__doc__ or "").split("\n\n")) == 2


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    links = re.findall(r"\]\((?!https?:)([^)#]+)", PAGES[page])
    assert [link for link in links if not (folder / link).exists()] == []


def test_the_table_of_results_has_the_numbers_of_the_evidence() -> None:
    stored = json.loads((ROOT / "docs/evidence.json").read_text())
    summary = PAGES["README.md"].split("<!-- evidence -->")[1].split("<!-- end of evidence -->")[0]
    rows = [line.strip("| ").split(" | ") for line in summary.splitlines()[3:] if line.startswith("|")]
    assert len(rows) == len({row["recipe"] for row in stored})
    for name, _, result, *gains in rows:
        recipe = [row for row in stored if row["recipe"] == name.partition(",")[0]]
        chosen = [
            row
            for row in recipe
            if row["arm"] in ("adjusted", "adjusted_kd") and f"{row['mean']:.2f}" == result.partition(" ")[0]
        ]
        equal = [row for row in chosen if row["control"] in ("real_matched", "kd_matched")]
        for rows_of_controls, gain in zip((equal, chosen), gains, strict=True):
            least = min(rows_of_controls, key=lambda row: float(row["diff"]))
            assert gain.startswith(interval(least["diff"], least["ci_low"], least["ci_high"]))


# --- pages run ----------------------------------------------------------------------------------------------


@pytest.fixture
def workshop(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny: Sequence[str],
    digits_run: tuple[Recipe, Path],
) -> Path:
    """Folder with photos and a finished run; recipes are so small that every stage takes seconds."""
    for name in ("digits", "rotated-digits", "folder"):
        monkeypatch.setitem(RECIPES, name, partial(override, RECIPES[name](), tiny))
        monkeypatch.setattr(gankd.recipes, name.replace("-", "_"), RECIPES[name])
    shutil.copytree(digits_run[1], tmp_path / "runs/digits")
    random = np.random.default_rng(0)
    for number in range(120):
        path = tmp_path / f"photos/{('cat', 'dog')[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(100 * (number % 2), 100 * (number % 2) + 150, size=(32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    shutil.copy(path, tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", all_at_night(page for page in PAGES if commands(page, least=4)))
def test_the_commands_in_tabs_run(page: str, workshop: Path, gankd: Callable[..., tuple[int, str, str]]) -> None:
    for line in (*BEFORE.get(page, ()), *commands(page, least=4)):
        tracker = re.search(r"--track (\w+)", line)
        if tracker and find_spec(tracker[1]) is None:
            continue  # an extra that the tests go without
        code, _, err = gankd(*shlex.split(line)[1:])
        assert code == 0, f"{line}: {err}"


@pytest.mark.parametrize("page", all_at_night(page for page in PAGES if blocks(page, "python")))
def test_the_programs_of_a_page_run(page: str, workshop: Path, gankd: Callable[..., tuple[int, str, str]]) -> None:
    for line in BEFORE.get(page, ()):
        assert gankd(*shlex.split(line)[1:])[0] == 0
    for code in blocks(page, "python"):
        exec(compile(code, page, "exec"), {"__name__": "page"})
