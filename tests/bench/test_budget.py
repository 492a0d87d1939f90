"""Controls at equal time: how many updates fit in the time of generator, density ratio and pool."""

import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from gankd.bench import budget
from gankd.bench.budget import at_equal_time, lengthened, rounded_factor, student_seconds
from gankd.commands import evaluate, export, run
from gankd.commands.plan import plan
from gankd.config import override
from gankd.errors import ConfigError
from gankd.recipes import Recipe
from gankd.recipes.arms import Arm, arm_named, default_arms
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import declare
from gankd.runs import Run
from gankd.storage import read_json, write_json

TIMED = ["real_time", "kd_time", "real_shared", "kd_shared"]


def test_factors_are_rounded_up_to_halves_and_cut() -> None:
    assert [rounded_factor(value, 8) for value in (0.2, 1.0, 1.01, 2.5, 2.6, 43.0)] == [1.0, 1.0, 1.5, 2.5, 3.0, 8.0]
    arm = Arm(name="own", title="KD, equal time", updates="time", role="control")
    assert (lengthened(arm, 100, 43.2, 8).title, lengthened(arm, 100, 43.2, 8).updates) == (
        "KD, equal time, x8 of x43",
        800,
    )
    assert (lengthened(arm, 100, 2.3, 8).title, lengthened(arm, 100, 2.3, 8).updates) == ("KD, equal time, x2.5", 250)


def test_the_time_of_generated_images_is_not_for_those_who_see_them() -> None:
    with pytest.raises(ConfigError, match="updates=time is for arms without generated images, got images=raw"):
        Arm(name="own", images="raw", updates="time")


def test_controls_at_equal_time_are_left_out_if_the_cap_is_1(digits_run: tuple[Recipe, Path]) -> None:
    names = [[arm.name for arm in default_arms(override(digits_run[0], [f"time_cap={cap}"]))] for cap in (1, 2)]
    assert set(names[1]) - set(names[0]) == set(TIMED)
    assert [name for name in names[1] if name not in TIMED] == names[0]


class AQuarterOfASecond:
    """Prices of one update; counts what is timed."""

    timed: ClassVar[list[str]] = []

    def __init__(self, *_: Any) -> None: ...

    def student(self, _: Experiment, arm: Arm) -> Any:
        self.timed.append(arm.name)
        return type("Step", (), {"seconds": 0.25})


def test_equal_time_is_that_of_generator_ratio_and_pool(
    digits_run: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, finished = override(digits_run[0], ["time_cap=4"]), digits_run[1]
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    monkeypatch.setattr(budget, "Prices", AQuarterOfASecond)
    monkeypatch.setattr(AQuarterOfASecond, "timed", [])
    experiment = Experiment.open(recipe, Run(folder))
    made = declare(experiment, [arm_named(recipe, "adjusted")])
    for stage, seconds in ((made.gan, 9.0), (made.ratio, 2.0), (made.synth, 1.0)):
        write_json(stage.path("done.json"), {**read_json(stage.path("done.json")), "seconds": seconds})

    # Before the controls are trained: nothing is measured, and what was not trained is not shown.
    assert {arm.name for arm in evaluate(recipe, folder).arms}.isdisjoint(TIMED)
    assert AQuarterOfASecond.timed == []
    students = next(row for row in plan(recipe, folder) if row.stage.startswith("students"))
    assert students.count == 4  # two losses with two seeds; all are as long as they can become
    found = run(recipe, folder)
    # Six updates of a quarter of a second take 1.5 s, and 12 s are eight times as much. Five arms of two seeds
    # share them: 1.2 s each, 0.8 of a student.
    of = {arm.name: (arm.updates, arm.title.rpartition(", ")[2]) for arm in found.arms}
    assert of["real_time"] == of["kd_time"] == (24, "x4 of x9")
    assert of["real_shared"] == of["kd_shared"] == (12, "x2")
    assert all(found.comparison.result("adjusted").vs[name].low is not None for name in TIMED)
    assert found.to_dict()["best"] in of
    assert sorted(AQuarterOfASecond.timed) == sorted(TIMED)
    assert "x8 of x43" in found.table  # in words
    assert found.table.count("vs ") <= 3  # columns: two controls at equal updates, and the strongest

    again = run(recipe, folder)
    assert (again.arms, len(AQuarterOfASecond.timed)) == (found.arms, 4)  # measured once
    assert evaluate(recipe, folder).arms == found.arms
    assert next(row for row in plan(recipe, folder) if row.stage.startswith("students")).count == 0
    assert export(recipe, folder, tmp_path / "s.safetensors", arm="kd_time").role == "control"


def test_a_stage_counts_for_the_students_that_are_trained_in_its_time(
    digits_run: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment.open(digits_run[0], Run(digits_run[1]))
    stages = [declare(experiment, [arm_named(digits_run[0], "adjusted")]).gan]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    alone, three, many = (student_seconds(experiment, stages, workers) for workers in (1, 3, 9))
    assert [three, many] == pytest.approx([3 * alone, 4 * alone])
    assert at_equal_time(experiment, list(default_arms(digits_run[0]))) == list(default_arms(digits_run[0]))
