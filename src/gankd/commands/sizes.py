"""Sizes of a run that ends in a given time on this machine: networks, generator, pool, students and their number."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from time import monotonic
from typing import Any, Unpack

import numpy as np

from gankd.bench.prices import Prices, Timer
from gankd.commands.plan import PlanRow, plan_rows, plan_table
from gankd.config import override, require, to_dict
from gankd.models import ZOO
from gankd.recipes.arms import Arm, chosen_arms, default_arms
from gankd.recipes.config import Recipe
from gankd.recipes.experiment import Experiment
from gankd.recipes.live import Given
from gankd.recipes.stages import declare
from gankd.recipes.teacher import with_suited_augmentation
from gankd.recipes.workers import Workers
from gankd.runs import Run, fingerprint
from gankd.storage import read_json, write_hashed_json
from gankd.text import Table, duration

SIZES = "sizes.json"
"""File of a run folder: the changes of settings that were chosen, by fingerprint of what they were chosen for."""
SIZED = (
    "teacher.model",
    "teacher.members",
    "teacher.updates",
    "gan.width_g",
    "gan.width_d",
    "gan.steps",
    "synth.pool",
    "select.count",
    "student.updates",
    "seeds",
    "time_cap",
)
"""Settings that are chosen."""
LEAST_SEEDS, MOST_SEEDS = 2, 10
TIME_CAP = 3.0
"""Most updates of the controls at equal time where the time does not suffice for the recipe as it is."""
ENOUGH = 0.3
"""Share of the recipe's updates below which smaller networks with more updates are preferred."""
WORTH = 1.5
"""Factor by which smaller networks must raise that share to be chosen."""
SHORTEST = 0.05
"""Least share of the updates: less would train nothing."""
RESERVE = 0.08
"""Share of the time that is kept for evaluation, the report, and estimates that are too low."""
SETUP = 15.0
"""Seconds kept besides for starting processes."""
NEAR = (0.8, 1.1)
"""Time that students will take, in units of what is left, at which their number of updates stays."""


@dataclass(frozen=True)
class Sizes:
    """Sizes chosen for a time."""

    recipe: Recipe
    base: Recipe
    """The recipe as it was given."""
    arms: tuple[Arm, ...]
    seconds: float
    rows: tuple[PlanRow, ...] = ()
    """The plan; empty for sizes that an earlier call has chosen."""
    doubled: Recipe | None = None
    """Recipe for twice the time; None if it was not asked for."""
    key: str = ""
    """Under it the sizes are kept in the run folder."""

    @property
    def changes(self) -> list[str]:
        """Sizes that differ from those of the recipe, as NAME=VALUE."""
        return _changes(self.base, self.recipe)

    @property
    def table(self) -> str:
        """The sizes beside those of the recipe, and what twice the time would buy."""
        found = [recipe for recipe in (self.recipe, self.doubled, self.base) if recipe is not None]
        cells = [[name, *(_shown(attrgetter(name)(recipe)) for recipe in found)] for name in SIZED]
        time = duration(self.seconds)
        twice = [f"in {duration(2 * self.seconds)}"] if self.doubled is not None else []
        notes = [f"arms: {', '.join(arm.name for arm in self.arms)}"]
        if self.doubled == self.recipe:
            notes.append("more time would buy nothing: the recipe is as large as it is meant to be")
        return Table(["size", f"in {time}", *twice, "as the recipe"], cells, notes=notes).plain()

    def text(self, folder: Path | str) -> str:
        """Plan and sizes."""
        return f"{plan_table(self.rows, folder)}\n\n{self.table}"


def sizes(
    recipe: Recipe,
    folder: Path | str,
    seconds: float,
    *,
    arms: Sequence[str | Arm | Mapping[str, Any]] | None = None,
    workers: int | Workers = 1,
    timer: Timer | None = None,
    keep: bool = False,
    **given: Unpack[Given],
) -> Sizes:
    """Choose sizes with which the run ends within a time on this machine, by a few timed steps.

    Nothing becomes larger than in the recipe but the number of students per arm (2 to 10). Updates and pool shrink
    alike, the teacher's less; where less than a third of them would be left, the networks of teacher and generator
    become smaller first.

    Args:
        recipe: settings: the largest sizes.
        folder: run folder; what was chosen there for the same recipe and time is chosen again.
        seconds: time of the whole run.
        arms: ways to train the students, as for `run`; default: methods, and controls at equal updates and equal time.
        workers: number of students trained side by side here, or workers on other machines.
        timer: how steps are timed.
        keep: keep what is chosen in the folder, so that the same command resumes the same run; False for a plan, which
            also says what twice the time would buy.
        given: splits, networks and a generator in memory, as for `run`.

    Raises:
        ConfigError: the time is too short; the message says which is not. GankdError: as for `plan`.
    """
    experiment = with_suited_augmentation(Experiment.open(recipe, Run(Path(folder)), **given))
    chosen = budget_arms(experiment.recipe) if arms is None else chosen_arms(experiment.recipe, arms)
    plain = [to_dict(arm) for arm in chosen]
    key = fingerprint(to_dict(experiment.recipe), plain, seconds, experiment.data_fingerprint)
    if keep and key in _known(folder):
        return Sizes(override(recipe, _known(folder)[key]), recipe, chosen, seconds, key=key)
    new = replace(experiment, run=Run(Path(folder) / "new"))  # what is finished in the folder may be of other sizes
    prices, full = Prices(timer or Timer()), experiment.recipe
    size = _Sizing(new, chosen, prices, workers)
    found = override(recipe, _changes(full, size(seconds)))
    if keep:
        return Sizes(found, recipe, chosen, seconds, key=key)
    rows = plan_rows(experiment.with_recipe(override(full, _changes(recipe, found))), chosen, prices, workers)
    doubled = override(recipe, _changes(full, size(2 * seconds)))
    return Sizes(found, recipe, chosen, seconds, tuple(rows), doubled, key)


def budget_arms(recipe: Recipe) -> tuple[Arm, ...]:
    """Arms of a run with little time: the methods, and both controls at equal updates and at equal time."""
    return tuple(arm for arm in default_arms(recipe) if arm.role != "step" and arm.updates != "shared time")


def keep_sizes(folder: Path, sizes: Sizes, recipe: Recipe) -> None:
    """Keep the sizes of a run, those of `recipe`, in its folder: students' change when the pool is there (`fitted`)."""
    changes = _changes(sizes.base, replace(recipe, teacher=sizes.recipe.teacher))
    write_hashed_json(folder / SIZES, _known(folder) | {sizes.key: changes})


def fitted(
    experiment: Experiment, arms: Sequence[Arm], sizes: Sizes, begun: float, workers: int | Workers
) -> Experiment:
    """The experiment whose students end in the seconds that are left, once generator and pool are there.

    Students of the first control are finished by then; what they took, against what was expected, says how much slower
    a training is than its timed steps.

    Args:
        experiment: with a finished pool.
        arms: ways to train the students.
        sizes: with the time of the whole run, and the largest number of updates.
        begun: when the run began, as `time.monotonic` tells it.
        workers: number of students trained side by side here, or workers on other machines.
    """
    left = (1 - RESERVE) * sizes.seconds - (monotonic() - begun)
    recipe, most, prices = experiment.recipe, sizes.base.student.updates, Prices(Timer())
    by_name = {arm.name: arm for arm in arms if not arm.timed}  # the length of timed ones is not known yet
    stages = declare(experiment, list(by_name.values()), range(recipe.seeds))
    done = [(by_name[name], stage) for (name, _), stage in stages.students.items() if stage.done]
    if len(done) > recipe.seeds:  # a resumed run has trained more than one control: nothing is changed
        return experiment
    expected = sum(prices.student(experiment, arm).seconds for arm, _ in done) * recipe.student.updates
    slower = max(1.0, sum(stage.seconds for _, stage in done) / expected) if done else 1.0

    def needed(updates: int) -> float:
        own = experiment.with_recipe(replace(recipe, student=replace(recipe.student, updates=updates)))
        return slower * plan_rows(own, arms, prices, workers)[-1].seconds

    if NEAR[0] * left <= needed(recipe.student.updates) <= NEAR[1] * left:
        return experiment
    half, whole = needed(most // 2 + 1), needed(most)
    each = (whole - half) / (most - most // 2 - 1 or 1)
    updates = min(most, max(round(SHORTEST * most), most - math.ceil((whole - left) / each))) if each else most
    if updates == recipe.student.updates:
        return experiment
    experiment.say(
        "students", f"{updates} updates each, as {duration(left)} are left (planned: {recipe.student.updates})"
    )
    return experiment.with_recipe(replace(recipe, student=replace(recipe.student, updates=updates)))


class _Sizing:
    """Sizes for a time, from the cost of steps that are timed once."""

    def __init__(self, experiment: Experiment, arms: Sequence[Arm], prices: Prices, workers: int | Workers) -> None:
        self._experiment, self._arms, self._prices, self._workers = experiment, arms, prices, workers
        self._spent = SETUP
        """Seconds that are gone before the run begins: timing steps of large networks takes a minute."""

    def __call__(self, seconds: float) -> Recipe:
        """The largest recipe that ends in these seconds.

        Raises:
            ConfigError: the smallest one does not.
        """
        recipe, time = self._experiment.recipe, (1 - RESERVE) * seconds
        least, most = replace(recipe, seeds=LEAST_SEEDS), replace(recipe, seeds=MOST_SEEDS)
        few = self._cost(least)
        if few <= time - self._spent:
            each = (self._cost(most) - few) / (MOST_SEEDS - LEAST_SEEDS)
            more = int((time - self._spent - few) / each) if each else MOST_SEEDS
            return replace(recipe, seeds=min(MOST_SEEDS, LEAST_SEEDS + more))
        share, chosen = 0.0, recipe
        for smaller in _smaller(replace(least, time_cap=min(TIME_CAP, recipe.time_cap))):
            found = self._share(smaller, time)
            if found >= WORTH * share:
                share, chosen = found, smaller
            if share >= ENOUGH:
                break
        needed = (self._cost(scaled(chosen, SHORTEST)) + self._spent) / (1 - RESERVE)
        require(
            share > SHORTEST,
            f"--time {duration(seconds)} is too short for these images on this machine, which need at least "
            f"{duration(needed)} now; give more time, fewer --arms, or a smaller --size",
        )
        return scaled(chosen, min(1.0, share))

    def _share(self, recipe: Recipe, time: float) -> float:
        """Share of a recipe that ends in these seconds, less those that are spent."""
        shares = np.array([1.0, 0.25, 0.0625])
        # Cost is a sum of counts times prices: a polynomial in the root of the share, see `scaled`.
        costs = np.array([self._cost(scaled(recipe, share)) for share in shares])
        cost = np.polynomial.Polynomial.fit(np.sqrt(shares), costs, 2)
        grid = np.linspace(0, 1, 2001)
        fits = grid[cost(np.sqrt(grid)) <= time - self._spent]
        return float(fits[-1]) if len(fits) else 0.0

    def _cost(self, recipe: Recipe) -> float:
        begun = monotonic()
        rows = plan_rows(self._experiment.with_recipe(recipe), self._arms, self._prices, self._workers)
        self._spent += monotonic() - begun
        return sum(row.seconds for row in rows)


def scaled(recipe: Recipe, share: float) -> Recipe:
    """The recipe with a share of its updates and of its generated images.

    The teacher keeps the root of that share: its training costs little, and everything depends on it.
    """

    def of(count: int, part: float = share) -> int:
        return max(2, round(part * count))

    count = recipe.select.count
    return replace(
        recipe,
        teacher=replace(recipe.teacher, updates=of(recipe.teacher.updates, share**0.5)),
        gan=replace(recipe.gan, steps=of(recipe.gan.steps)),
        synth=replace(recipe.synth, pool=of(recipe.synth.pool)),
        select=replace(recipe.select, count=None if count is None else of(count)),
        student=replace(recipe.student, updates=of(recipe.student.updates)),
    )


def _smaller(recipe: Recipe) -> Iterator[Recipe]:
    """The recipe, then with smaller networks of teacher and generator, one step after the other."""
    yield recipe
    teacher, gan = recipe.teacher, recipe.gan
    plain = teacher.model.removesuffix("x2")
    if not teacher.is_given and (teacher.members > 1 or plain in ZOO):
        recipe = replace(recipe, teacher=replace(teacher, members=1, model=plain if plain in ZOO else teacher.model))
        yield recipe
    if gan.external is None and gan.architecture == "residual" and min(gan.width_g, gan.width_d) > 16:
        recipe = replace(recipe, gan=replace(gan, width_g=gan.width_g // 2, width_d=gan.width_d // 2))
        yield recipe
    if not teacher.is_given and plain.startswith("resnet") and recipe.student.model in ("cnn4", "cnn8", "cnn16"):
        yield replace(recipe, teacher=replace(recipe.teacher, model="cnn32"))


def _changes(base: Recipe, sized: Recipe) -> list[str]:
    """Sizes that differ from those of `base`, as NAME=VALUE."""
    values = {name: (attrgetter(name)(sized), attrgetter(name)(base)) for name in SIZED}
    return [f"{name}={chosen}" for name, (chosen, own) in values.items() if chosen != own]


def _known(folder: Path | str) -> dict[str, list[str]]:
    path = Path(folder) / SIZES
    return dict(read_json(path)) if path.is_file() else {}


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value or "-")
