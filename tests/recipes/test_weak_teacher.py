"""A teacher that is not clearly better than its student stops a run before the generator."""

from pathlib import Path

import pytest

from gankd.commands import run
from gankd.config import override
from gankd.errors import ModelError
from gankd.recipes import RECIPES, Recipe
from gankd.recipes import weak_teacher as module
from gankd.recipes.arms import chosen_arms
from gankd.recipes.experiment import Experiment
from gankd.recipes.weak_teacher import with_strong_teacher
from gankd.runs import Run

ARMS = ["real_matched", "adjusted"]


@pytest.fixture(scope="module")
def weak(tiny: tuple[str, ...]) -> Recipe:
    """The student learns for longer than its teacher, which is the same network."""
    settings = (*tiny, "weak_teacher=stop", "teacher.model=cnn4", "student.updates=200", "student.lr=0.02")
    return override(RECIPES["digits"](), settings)


def test_the_run_stops_before_the_generator_and_says_what_to_change(weak: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        run(weak, tmp_path, arms=ARMS)
    text = str(error.value)
    assert text.startswith("teacher cnn4 is not clearly better than its student on labels only: mean error ")
    assert "--teacher auto tries these; to go on with it: --set weak_teacher=accept" in text
    assert "\n" not in text
    made = {path.name.rpartition("-")[0] for path in tmp_path.iterdir() if path.is_dir()}
    assert made == {"teacher", "student-real_matched-0", "student-real_matched-1"}


def test_a_better_teacher_is_looked_for(weak: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment.open(override(weak, ["weak_teacher=improve"]), Run(tmp_path))
    arms = chosen_arms(weak, ARMS)
    verdicts = iter([False, True])
    monkeypatch.setattr(module, "clearly_smaller", lambda *_: next(verdicts))
    found = with_strong_teacher(experiment, arms, range(1)).recipe
    assert found.teacher.updates == 3 * weak.teacher.updates  # the first that is tried: longer
    assert override(found, [f"teacher.updates={weak.teacher.updates}"]) == experiment.recipe

    tried = [what for what, _ in module._teachers(override(weak, ["teacher.augment=shift"]).teacher, more=True)]
    assert tried == [
        "as it is",
        "three times as long",
        "without augmentation",
        "as the mean of five networks",
    ]
    assert [what for what, _ in module._teachers(weak.teacher, more=False)] == ["as it is"]


def test_nothing_is_compared_where_nothing_is_generated(
    weak: Recipe, digits_run: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise AssertionError("nothing should be trained")

    monkeypatch.setattr(module, "cgan_kd", fails)
    experiment = Experiment.open(weak, Run(tmp_path))
    for arms in (["real_matched", "kd_matched"], ["kd_matched", "adjusted"]):  # no generated images; no control
        assert with_strong_teacher(experiment, chosen_arms(weak, arms), range(1)) is experiment
    stop = override(digits_run[0], ["weak_teacher=stop"])
    finished = Experiment.open(stop, Run(digits_run[1]))  # its generator is there
    assert with_strong_teacher(finished, chosen_arms(stop, None), range(1)) is finished
