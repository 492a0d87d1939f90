"""`gankd diff`: two runs in one table."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gankd.bench.stats import paired_interval
from gankd.commands import evaluate
from gankd.commands.diff import diff
from gankd.commands.stages import student
from gankd.config import override
from gankd.recipes import Recipe

Outcome = tuple[int, str, str]


@pytest.fixture(scope="module")
def longer(digits_run: tuple[Recipe, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with students of more updates, of two arms only."""
    folder = Path(shutil.copytree(digits_run[1], tmp_path_factory.mktemp("longer") / "run"))
    student(override(digits_run[0], ["student.updates=30"]), folder, arms=["real_matched", "kd_matched"])
    return folder


def test_arms_are_paired_by_seed(digits_run: tuple[Recipe, Path], longer: Path, gankd: Callable[..., Outcome]) -> None:
    recipe, folder = digits_run
    found = diff(str(folder), str(longer))
    before = evaluate(recipe, folder, arms=["real_matched"]).arms[0]
    after = evaluate(override(recipe, ["student.updates=30"]), longer, arms=["real_matched"]).arms[0]
    assert found.gain("real_matched") == paired_interval(after.values, before.values, higher_is_better=True)
    assert found.gain("adjusted") is None  # only one of them has trained it
    assert found.settings == ["student.updates 30 (was 6)"]
    assert found.one.teacher == found.other.teacher
    code, out, _ = gankd("diff", folder, longer)
    assert code == 0
    assert "student.updates 30 (was 6)" in " ".join(out.split())
    rows = {title: cells for title, *cells in found.table.rows}
    assert rows["real, equal updates"][2].endswith(("found", "better", "worse"))
    assert rows["+ adjusted: cGAN-KD"][1:] == ["", ""]
    _, out, _ = gankd("diff", longer, folder, "--json")
    back = json.loads(out)["differences"]["real_matched"]
    gain = found.gain("real_matched")
    assert gain is not None
    assert back["diff"] == pytest.approx(-gain.diff)


def test_other_images_get_no_differences(digits_run: tuple[Recipe, Path], longer: Path) -> None:
    found = diff(str(digits_run[1]), str(longer))
    other = replace(found, other=replace(found.other, images="other images"))
    assert other.gain("real_matched") is None
    assert "the runs have other images, so no differences are printed" in " ".join(other.text.split())


def test_what_cannot_be_compared(
    digits_run: tuple[Recipe, Path], angles_run: tuple[Recipe, Path], refused: Callable[..., str], tmp_path: Path
) -> None:
    assert "measures top1 %" in refused("diff", digits_run[1], angles_run[1])
    assert "compare runs of one task" in refused("diff", digits_run[1], angles_run[1])
    assert "no run in nowhere" in refused("diff", digits_run[1], "nowhere")
    assert "arguments are required: OTHER" in refused("diff", digits_run[1])
    untrained = Path(shutil.copytree(digits_run[1], tmp_path / "run", ignore=shutil.ignore_patterns("student-*")))
    assert "no finished student in" in refused("diff", digits_run[1], untrained)
