"""`gankd advise`: from a probe of minutes, what generated images will probably add, and the command to use."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

from gankd.bench.advice import FEWEST, Forecast, Forecaster, Probe, as_error
from gankd.bench.map_results import FILE, label_facts, num_labels, read_results
from gankd.commands.plan import plan
from gankd.commands.stages import started
from gankd.console import Console
from gankd.models.contract import evaluate
from gankd.recipes.arms import Arm, arm_named
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.config import Recipe
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import first_check
from gankd.recipes.live import Given
from gankd.recipes.stages import declare
from gankd.recipes.students import restore_student
from gankd.recipes.teacher import make_teacher
from gankd.report.map import sentence
from gankd.report.tables import difference_unit, value_decimals
from gankd.storage import write_hashed_json
from gankd.tasks import Task
from gankd.text import Table, duration, fixed, interval

LONGER = 4
"""Length of the longer student on labels only, in units of student.updates."""


@dataclass(frozen=True)
class Advice:
    """A forecast of the gain from generated images, and what to do."""

    forecast: Forecast
    probe: Probe
    task: Task
    cells: int
    """Finished cells of the map that the forecast rests on."""
    nearest: str
    """Result of the finished cell that is most like this set; empty without one."""
    commands: dict[str, str] = field(repr=False)
    """Commands: with generated images, and without."""
    seconds: float = 0.0
    """Estimate of the whole run here."""

    @property
    def gain(self) -> tuple[float, float, float]:
        """Expected gain over the strongest control with its 95 % interval, in units of the metric; + is better."""
        found, error = self.forecast, self.probe.error
        return found.gain * error, found.low * error, found.high * error

    @property
    def pays(self) -> bool:
        """True if a gain is more likely than not."""
        return self.forecast.gain > 0 and self.cells >= FEWEST

    @property
    def text(self) -> str:
        """The probe, the forecast and the command."""
        return "\n".join([self._probed.plain(), "", self._verdict, *self._because, self._command])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        gain, low, high = self.gain
        command = self.commands["with" if self.pays else "without"]
        facts = {"gain": gain, "low": low, "high": high, "unit": difference_unit(self.task), "command": command}
        return facts | {"cells": self.cells, "probe": vars(self.probe), "reasons": list(self.forecast.reasons)}

    @property
    def _places(self) -> int:
        return 2 if self.task.metric_unit == "%" else value_decimals(self.probe.error)

    @property
    def _probed(self) -> Table:
        probe = self.probe
        rows = [
            ["labels only", fixed(probe.error, self._places)],
            ["labels only, on its training images", fixed(probe.on_train, self._places)],
            [f"labels only, {probe.length:g}x updates", fixed(probe.longer, self._places)],
            ["KD", fixed(probe.kd, self._places)],
            ["teacher", fixed(probe.teacher, self._places)],
            ["teacher on the first generated images", fixed(probe.generated, self._places)],
        ]
        unit = f" {self.task.metric_unit}".rstrip()
        caption = f"{probe.per_label:.3g} training images per label; errors on validation images"
        return Table(["probe", f"error{unit}"], rows, caption=caption)

    @property
    def _verdict(self) -> str:
        gain, low, high = self.gain
        size = f"{interval(gain, low, high, self._places)} {difference_unit(self.task)}"
        if self.cells < FEWEST:
            return f"Too few finished cells of the map for a forecast ({self.cells} of {FEWEST}): {size}, a wide guess."
        if self.forecast.low > 0:
            return f"Generated images will probably add {size} to the strongest control."
        if self.pays:
            return f"Generated images may add something, which is not certain: {size} to the strongest control."
        return f"Generated images will probably add nothing: {size} to the strongest control."

    @property
    def _because(self) -> list[str]:
        lines = [f"Because of: {', '.join(self.forecast.reasons)}."] if self.forecast.reasons else []
        if self.probe.teacher >= self.probe.error:
            lines.append("The teacher is not better than its student: find a better one first (--teacher auto).")
        return [*lines, *([f"Most like it on the map: {self.nearest}"] if self.nearest else [])]

    @property
    def _command(self) -> str:
        if self.pays:
            return f"Use: {self.commands['with']} (about {duration(self.seconds)} here)"
        return f"Train longer with augmentation instead: {self.commands['without']}"


def advise(
    recipe: Recipe,
    folder: Path | str,
    *,
    workers: int = 1,
    console: Console | None = None,
    **given: Unpack[Given],
) -> Advice:
    """Forecast what generated images would add, from teacher, three students and the first updates of the generator.

    The run folder keeps them all: a run in it goes on from there.

    Args:
        recipe: settings.
        folder: run folder.
        workers: students trained side by side.
        console: where progress is shown; default: nowhere.
        given: splits, networks and a generator in memory, as for `run`.

    Raises:
        GankdError: with one line that says what to do.
    """
    folder = Path(folder)
    with started(recipe, folder, console, _arms(recipe), by="advise", **given) as experiment:
        probe, task = probed(experiment, workers), experiment.splits.task
        recipe, in_memory = experiment.recipe, experiment.in_memory
        forecaster = Forecaster(read_results(FILE))
        nearest = forecaster.nearest(probe)
        found = Advice(
            forecaster(probe),
            probe,
            task,
            len(forecaster.results),
            sentence(nearest) if nearest else "",
            _commands(folder, in_memory),
        )
        write_hashed_json(folder / "advice.json", found.to_dict())
    if not found.pays:
        return found
    return replace(found, seconds=sum(row.seconds for row in plan(recipe, folder, workers=workers, **given)))


def _arms(recipe: Recipe) -> list[Arm]:
    """Students of the probe: labels only, the same for longer, and KD."""
    longer = Arm(name="real_longer", title=f"real, x{LONGER}", updates=LONGER * recipe.student.updates)
    return [arm_named(recipe, "real_matched"), longer, arm_named(recipe, "kd_matched")]


def probed(experiment: Experiment, workers: int = 1) -> Probe:
    """Train what a probe needs, and measure it on training and validation images."""
    recipe, splits, task = experiment.recipe, experiment.splits, experiment.splits.task
    arms, adjusted = _arms(recipe), arm_named(recipe, "adjusted")
    students = cgan_kd(experiment, arms, [0], workers=workers).students
    stages = declare(experiment, [adjusted])
    teacher = make_teacher(experiment, recipe.teacher, stages.teacher)
    check = first_check(experiment, teacher, recipe.gan, stages.gan)

    def error(value: float) -> float:
        return as_error(value, higher_is_better=task.higher_is_better)

    def of(arm: Arm) -> float:
        stage = students[arm.name, 0]
        assert stage.done  # this reads what a worker has stored
        return error((stage.result or {})["val"][task.metric])

    plain, longer, taught = arms
    student = restore_student(experiment, plain, students[plain.name, 0])
    return Probe(
        set=recipe.name,
        error=of(plain),
        on_train=error(evaluate(student, splits.train, experiment.engine)[task.metric]),
        longer=of(longer),
        length=LONGER,
        kd=of(taught),
        teacher=error(evaluate(teacher, splits.val, experiment.engine)[task.metric]),
        generated=error(check["teacher"]),
        variety=check["variance_ratio"] if check["variance_ratio"] == check["variance_ratio"] else 1.0,
        per_label=len(splits.train) / num_labels(splits.train),
        **label_facts(splits),
    )


def _commands(folder: Path, in_memory: Sequence[str]) -> dict[str, str]:
    """Commands with and without generated images; in Python, where something was given in memory."""
    if in_memory:
        given = ", ".join(f"{name}=..." for name in in_memory)
        return {
            "with": f"gankd.run(recipe, {str(folder)!r}, {given})",
            "without": f"gankd.run(recipe, {str(folder)!r}, arms=['real_matched', 'kd_matched'], {given})",
        }
    return {"with": f"gankd run {folder}", "without": f"gankd student {folder} --search --arms real_matched,kd_matched"}
