"""Run folders: listed at once, and freed of what a later command can make again."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import gankd
from gankd.commands.clean import clean
from gankd.commands.export import export
from gankd.commands.stages import evaluate, report, run
from gankd.recipes import Recipe
from gankd.report.folders import list_runs, size
from gankd.runs import Run

Outcome = tuple[int, str, str]


@pytest.fixture
def copy(digits_run: tuple[Recipe, Path], tmp_path: Path) -> tuple[Recipe, Path]:
    return digits_run[0], shutil.copytree(digits_run[1], tmp_path / "runs" / "mine")


def test_runs_are_listed_with_their_state_and_best_arm(
    copy: tuple[Recipe, Path], gankd: Callable[..., Outcome], refused: Callable[..., str]
) -> None:
    recipe, folder = copy
    _, out, _ = gankd("runs", folder.parent, "--json")
    (row,) = json.loads(out)["runs"]
    assert (row["path"], row["recipe"], row["state"]) == (str(folder), "digits", "finished")
    assert row["students"] == 8 * recipe.seeds
    means = {arm.name: sum(arm.values) / len(arm.values) for arm in evaluate(recipe, folder, split="val").arms}
    name, value = row["best"].split(", top1 ")
    assert float(value) == pytest.approx(max(means.values()), rel=1e-3)
    assert means[name] == max(means.values())
    with Run(folder):
        assert list_runs(folder.parent).rows[0].state == "in use"
    (folder / "results.json").unlink()
    assert list_runs(folder.parent).rows[0].state == "unfinished"
    (folder / "run.json").write_text("[]")
    assert list_runs(folder.parent).rows[0].recipe == "?"
    assert "no run in nowhere; start one with: gankd run RECIPE" in refused("runs", "nowhere")


def test_listing_runs_imports_no_heavy_library() -> None:
    code = "import sys, gankd.report.folders; print([n for n in ('torch', 'numpy', 'pydantic') if n in sys.modules])"
    environment = {"PYTHONPATH": str(Path(gankd.__file__).parents[1])}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_results_and_students_stay(
    copy: tuple[Recipe, Path], gankd: Callable[..., Outcome], refused: Callable[..., str], tmp_path: Path
) -> None:
    recipe, folder = copy
    before = evaluate(recipe, folder).to_dict()["arms"]
    unfinished = folder / "gan-00000000"
    unfinished.mkdir()
    (unfinished / "checkpoint.safetensors").write_bytes(bytes(2000))
    assert "in 2 places would be freed; add --yes" in refused("clean", folder)
    pool = next(folder.glob("synth-*"))
    code, out, _ = gankd("clean", folder, "--yes")
    assert code == 0
    assert "pool of 768 generated images" in " ".join(out.split())
    assert "students stay" in out
    assert not pool.exists()
    assert not (unfinished / "checkpoint.safetensors").exists()
    assert gankd("clean", folder, "--yes")[1] == f"{folder}: nothing to free\n"
    assert evaluate(recipe, folder).to_dict()["arms"] == before
    assert export(recipe, folder, tmp_path / "s.safetensors").path.is_file()
    assert report(recipe, folder).is_file()
    assert not pool.exists()  # nothing of this makes it again
    assert run(recipe, folder).to_dict()["arms"] == before


@pytest.mark.parametrize(("answer", "done"), [("y\n", True), ("Yes\n", True), ("\n", False), ("no\n", False)])
def test_a_person_is_asked(answer: str, done: bool, copy: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return answer

    monkeypatch.setattr(sys, "stdin", Terminal())
    found = clean(copy[1])
    assert found.done == done
    assert any(copy[1].glob("synth-*")) != done
    assert ("freed" if done else "nothing deleted") in found.text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (2_500_000, "2.5 MB"), (3 * 10**9, "3.0 GB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
