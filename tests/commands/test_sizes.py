"""Sizes for a time: they fit into it, shrink before networks do, and are those of the run that is resumed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest

import gankd.commands.stages
from gankd.bench.prices import StepTime, Timer
from gankd.commands import resume, run
from gankd.commands.plan import plan
from gankd.commands.sizes import MOST_SEEDS, SETUP, Sizes, fitted, scaled, sizes
from gankd.commands.stages import stored_run
from gankd.config import override
from gankd.errors import ConfigError
from gankd.recipes import Recipe
from gankd.recipes.arms import chosen_arms
from gankd.recipes.experiment import Experiment
from gankd.recipes.ready import digits
from gankd.runs import Run
from gankd.storage import read_json


class Fixed(Timer):
    """Every step takes a tenth of a second, that of a wide teacher a whole one."""

    def __call__(self, what: str, work: Callable[[int], None], operations: Callable[[], float]) -> StepTime:
        return StepTime(1.0 if "x2" in what else 0.1)


def cost(recipe: Recipe, folder: Path, found: Sizes) -> float:
    return sum(row.seconds for row in plan(recipe, folder, arms=found.arms, timer=Fixed()))


@pytest.fixture
def wide() -> Recipe:
    """The digits, whose networks are not built larger than needed."""
    return override(digits(), ["teacher.updates=1000", "gan.steps=1000", "student.updates=1000"])


def test_the_plan_takes_the_time_less_a_reserve(wide: Recipe, tmp_path: Path) -> None:
    seconds = 900.0
    found = sizes(wide, tmp_path / "no", seconds, timer=Fixed())
    assert 0.8 * seconds < cost(found.recipe, tmp_path / "no", found) + SETUP < 0.95 * seconds
    assert found.recipe.seeds >= 2
    assert {arm.name for arm in found.arms if arm.role == "control"} >= {"real_matched", "kd_matched", "real_time"}
    assert [arm.name for arm in found.arms if arm.timed] == ["real_time", "kd_time"]
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_updates_and_pool_shrink_alike_and_networks_when_little_is_left(wide: Recipe, tmp_path: Path) -> None:
    long, short = (sizes(wide, tmp_path / "no", seconds, timer=Fixed()).recipe for seconds in (2400, 600))
    assert (long.teacher.model, short.teacher.model) == ("resnet8x2", "resnet8")
    for recipe in (long, short):
        shares = [
            recipe.gan.steps / 1000,
            (recipe.teacher.updates / 1000) ** 2,
            recipe.student.updates / 1000,
            recipe.synth.pool / wide.synth.pool,
            (recipe.select.count or 0) / 5000,
        ]
        assert max(shares) - min(shares) < 0.005
        assert max(shares) < 1


def test_the_time_that_the_timing_takes_is_not_planned_again(
    wide: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = sizes(wide, tmp_path / "no", 900, timer=Fixed(), keep=True).recipe
    clock = iter(range(0, 1_000_000, 10))
    monkeypatch.setattr("gankd.commands.sizes.monotonic", lambda: next(clock))  # each cost takes ten seconds
    slow = sizes(wide, tmp_path / "no", 900, timer=Fixed(), keep=True)
    assert slow.recipe.student.updates < 0.95 * quick.student.updates
    assert cost(slow.recipe, tmp_path / "no", slow) + SETUP < 0.92 * 900 - 10 * 4  # one of the least, three of shares


def test_ample_time_buys_students_and_nothing_larger_than_the_recipe(wide: Recipe, tmp_path: Path) -> None:
    found = sizes(wide, tmp_path / "no", 1e6, timer=Fixed())
    assert found.recipe == replace(wide, seeds=MOST_SEEDS)
    assert "more time would buy nothing" in found.table
    assert found.changes == [f"seeds={MOST_SEEDS}"]


def test_too_little_time_names_the_least(wide: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--time 20s is too short .* at least (\d+)m(\d+)s now"):
        sizes(wide, tmp_path / "no", 20, timer=Fixed())


def test_a_half_has_half_of_every_count_and_more_of_the_teacher() -> None:
    half, recipe = scaled(digits(), 0.5), digits()
    assert (half.teacher.updates, half.gan.steps, half.synth.pool) == (707, 750, 6000)
    assert (half.select.count, half.student.updates, half.seeds) == (2500, 1000, recipe.seeds)


def test_students_take_the_time_that_is_left(digits_run: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = override(digits_run[0], ["student.updates=1000", "seeds=2"])
    monkeypatch.setattr("gankd.commands.sizes.Timer", Fixed)
    arms = chosen_arms(recipe, ["real_matched", "kd_matched", "adjusted"])
    experiment = Experiment.open(recipe, Run(digits_run[1]))

    def updates(seconds: float) -> int:
        given = Sizes(recipe, recipe, arms, seconds)
        return fitted(experiment, arms, given, monotonic(), workers=1).recipe.student.updates

    assert updates(650) == 1000  # 6 x 1000 x 0.1 s, and the reserve
    assert updates(1e6) == 1000  # no more than in the recipe
    assert updates(330) == pytest.approx(506, abs=3)


def test_the_same_command_and_resume_continue_the_same_run(
    digits_run: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = override(digits_run[0], ["student.updates=12", "time_cap=2"])
    monkeypatch.setattr("gankd.commands.sizes.Timer", Fixed)
    found = run(recipe, tmp_path / "run", time=29.0, arms=["real_matched", "adjusted"])
    stored = stored_run(tmp_path / "run")[0]
    assert stored.gan.steps < recipe.gan.steps
    assert list(read_json(tmp_path / "run" / "sizes.json").values()) != [[]]
    stages = sorted(path.name for path in (tmp_path / "run").glob("*-????????"))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("timed again")

    monkeypatch.setattr(gankd.commands.sizes, "_Sizing", never)
    again = run(recipe, tmp_path / "run", time=29.0, arms=["real_matched", "adjusted"])
    assert again.arms == found.arms == resume(tmp_path / "run").arms
    assert sorted(path.name for path in (tmp_path / "run").glob("*-????????")) == stages
