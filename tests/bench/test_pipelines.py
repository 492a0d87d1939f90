"""Several pipelines: everything is made again with other seeds, and intervals are over pipelines."""

import shutil
from pathlib import Path

import pytest

from gankd.bench.compare import compare
from gankd.commands import evaluate, run
from gankd.commands.plan import plan
from gankd.config import override
from gankd.recipes import Recipe
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import declare
from gankd.runs import Run

ARMS = ["real_matched", "adjusted"]


def test_a_run_of_one_pipeline_is_its_experiment(digits_run: tuple[Recipe, Path]) -> None:
    experiment = Experiment.open(digits_run[0], Run(digits_run[1]))
    assert experiment.pipelines() == [(experiment, range(2))]


def test_everything_is_made_again_and_paired_by_pipeline(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(digits_run[1], tmp_path / "run"))
    recipe = override(digits_run[0], ["pipelines=2", "seeds=1"])
    found = run(recipe, folder, arms=ARMS)
    made = {"teacher": 2, "gan": 2, "ratio": 2, "synth": 2, "student-adjusted-0": 1, "student-adjusted-1": 2}
    made["student-real_matched-1"] = 1  # depends on no teacher: that of the finished run is reused
    assert {kind: len(list(folder.glob(f"{kind}-*"))) for kind in made} == made
    experiment = Experiment.open(recipe, Run(folder))
    (first, seeds), (second, others) = experiment.pipelines()
    assert (first, seeds, others) == (experiment, range(1), range(1, 2))
    arms = [result.arm for result in found.arms]
    assert declare(first, arms).teacher.fingerprint != declare(second, arms).teacher.fingerprint
    for result in found.arms:
        assert (result.seeds, result.over) == ((0, 1), "pipeline")
        parts = [compare(each, [result.arm], own).arms[0].values for each, own in experiment.pipelines()]
        assert result.values == pytest.approx([sum(values) / len(values) for values in parts])
    assert "2 pipelines, equal updates" in found.headline
    assert "standard error over pipelines" in found.table
    assert evaluate(recipe, folder, arms=ARMS).arms == found.arms
    assert found.report is not None
    assert "Mean ± standard error over pipelines, which vary teacher, generator" in found.report.read_text()
    rows = plan(override(recipe, ["pipelines=3"]), folder, arms=ARMS)
    assert [row.stage for row in rows if row.status == "run"] == [
        f"{name}, pipeline 3" for name in ("teacher", "gan", "ratio", "synth", "students (2)")
    ]
