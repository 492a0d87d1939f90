"""The grid pair x row x seed of a published table in one run folder: what cells share is made once, every cell is
kept as it ends, and one that fails does not stop the others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gankd.bench.budget import FACTORS, Known, rounded_factor, side_by_side, student_seconds
from gankd.config import from_dict, override, require, to_dict
from gankd.errors import CheckpointError, ConfigError, DataError, GankdError
from gankd.models.contract import check_model, evaluate
from gankd.recipes.arms import Arm
from gankd.recipes.cgan_kd import arm_images, cgan_kd
from gankd.recipes.config import Recipe
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import check_disk, gan_stage
from gankd.recipes.published.table import EQUAL_TIME, EQUAL_UPDATES, Pair, Protocol, PublishedTable, Scale, equal_time
from gankd.recipes.stages import Cell, Stages, declare
from gankd.recipes.students import check_students, restore_student
from gankd.recipes.teacher import make_teacher, other_teacher, teacher_stage, untrained_teacher
from gankd.recipes.workers import Workers
from gankd.runs import Stage
from gankd.storage import append_json_line, read_json, read_json_lines
from gankd.version import __version__

CELLS = "cells.jsonl"
LARGEST_FACTOR = 4.0
"""Updates of the time-matched control, in units of those of the row, at most."""
Key = tuple[str, str, int]
"""(pair, row, seed)."""


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One finished student: a line of cells.jsonl."""

    table: str
    scale: Scale
    changes: tuple[str, ...]
    """Settings that differ from the table's, as NAME=VALUE."""
    pair: str
    method: str
    seed: int
    teacher: str | None
    """Network whose outputs the losses read."""
    student: str
    loss: str
    test: dict[str, float]
    val: dict[str, float]
    updates: int
    seconds: float
    """Time of its own training."""
    published: float | None
    """Printed number in the unit of the metric measured here."""
    stage: str
    """Fingerprint of settings, images and all that the student rests on."""
    versions: dict[str, str]
    protocol: Protocol = "gankd"

    @property
    def key(self) -> Key:
        """Pair, row and seed, which identify the cell."""
        return self.pair, self.method, self.seed


def versions() -> dict[str, str]:
    """Versions and thread count: bit-equality depends on them besides the settings."""
    return {"gankd": __version__, "torch": torch.__version__, "threads": str(torch.get_num_threads())}


# --- the file of cells --------------------------------------------------------------------------------------


def append_cell(path: Path, cell: CellResult) -> None:
    """Add one line."""
    append_json_line(path, to_dict(cell))


def read_cells(path: Path) -> list[CellResult]:
    """The cells of a cells.jsonl, or of a bench page's .json file; a later line replaces an earlier one.

    Raises:
        CheckpointError: no such file, or it holds something else.
    """
    if not path.is_file():
        raise CheckpointError(f"no results {path}; gankd bench writes {CELLS} and bench.json")
    stored: Any = []
    if path.suffix == ".jsonl":
        stored = read_json_lines(path)
    else:
        content = read_json(path)
        stored = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(stored, list) or not all(isinstance(item, dict) for item in stored):
        raise CheckpointError(f"{path} holds no cells of gankd bench")
    found: dict[tuple[Key, str], CellResult] = {}
    for item in stored:
        try:
            cell = from_dict(CellResult, item, str(path))
        except (ConfigError, TypeError) as error:
            raise CheckpointError(f"{path} holds no cells of gankd bench ({error})") from None
        found[cell.key, cell.stage] = cell
    return list(found.values())


# --- the grid -----------------------------------------------------------------------------------------------


class Grid:
    """Cells of one table in one run folder.

    Args:
        table, scale, changes: what is run.
        experiment: the run with the settings that all cells share.
        workers: number of students trained side by side here, or workers on other machines.
        students: number of planned students that see generated images; these share the cost of making them.
    """

    def __init__(
        self,
        table: PublishedTable,
        scale: Scale,
        changes: Sequence[str],
        experiment: Experiment,
        *,
        workers: int | Workers = 1,
        students: int = 1,
    ) -> None:
        self.table, self.scale, self.changes, self.experiment = table, scale, tuple(changes), experiment
        self.workers, self.students = workers, students
        self.results: dict[Key, CellResult] = {}
        self.failures: dict[Key, str] = {}
        self.factors: dict[tuple[str, str], float] = {}
        """(pair, row) -> updates of its time-matched control, in units of its own."""
        self.needed: dict[tuple[str, str], float] = {}
        """The factors as measured, neither rounded nor cut."""
        self.teachers: dict[str, dict[str, Any]] = {}
        """Network whose outputs the losses read, and its metrics on test images, by pair."""
        self.curves: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
        """(pair, row) -> updates and validation metric along the training of the first seed."""
        self.planned = 0
        self._seconds: dict[str, float] = {}
        """Computing time of every stage that cells rest on, by fingerprint."""
        path = experiment.run.folder / CELLS
        self._stored = {(cell.key, cell.stage): cell for cell in (read_cells(path) if path.is_file() else [])}
        self._broken: dict[str, Exception] = {}
        """Stages that could not be made, by fingerprint, and why."""

    def check_shared(self, arms: Sequence[Arm]) -> None:
        """Refuse a teacher or an external generator that no cell could use, before the first is trained.

        Raises:
            ConfigError, DataError, ModelError, CheckpointError: it cannot be found or used.
        """
        made, config = self.experiment, self.experiment.recipe.teacher
        train = made.splits.train.to(made.engine.device)
        check_model(made.engine.place(untrained_teacher(made, config)).eval(), train, f"teacher {config.model}")
        teacher = teacher_stage(made, config)  # also reads the weights, where the user gives some
        if any(arm.images is not None for arm in arms):
            gan_stage(made, made.recipe.gan, teacher)

    @property
    def untouched(self) -> int:
        """Stored cells of the same scale and changes that this run did not touch; without controls at equal time, whose
        length follows the plan.
        """
        alike = [
            cell.key
            for cell in self._stored.values()
            if (cell.table, cell.scale, cell.protocol, cell.changes)
            == (self.table.name, self.scale, self.table.under, self.changes)
            and not cell.method.startswith(EQUAL_TIME)
        ]
        return len(set(alike) - set(self.results) - set(self.failures))

    def run(self, pair: Pair, rows: Sequence[Arm], seeds: Sequence[int]) -> None:
        """Train and measure the students of one pair; what fails is kept in `failures`.

        Args:
            pair: the networks.
            rows: rows and controls of the table.
            seeds: of the students of each row.
        """
        base = self.experiment.recipe
        made = self.experiment.with_recipe(self.table.pair_recipe(base, self.scale, pair))
        arms = []
        for row in rows:
            try:
                arm = self.table.pair_arm(base, self.scale, pair, row)
                stages = declare(made, [arm], seeds)
                if not all(stage.done for stage in stages.students.values()):
                    self._prepare(made, arm, stages)
                arms.append(arm)
            except Exception as error:  # the user's network may raise anything
                self._fail([(pair.name, row.title, seed) for seed in seeds], error)
        if arms:
            self._train(pair, made, arms, seeds)
            self._seconds |= {stage.fingerprint: stage.seconds for stage in declare(made, arms).shared if stage.done}
            self._note_teacher(pair, made, [arm for arm in arms if arm.reads_teacher])

    def run_equal_time(self, pair: Pair, rows: Sequence[Arm], seeds: Sequence[int]) -> None:
        """Train the labels-only control for as long as each row took, with its share of the generated images."""
        known = Known(self.experiment.run.folder / FACTORS)
        for row in rows:
            key = f"{pair.name}/{row.title}"
            own = [self.results[at] for at in ((pair.name, row.title, seed) for seed in seeds) if at in self.results]
            plain = [self.results.get((pair.name, EQUAL_UPDATES.title, seed)) for seed in seeds]
            controls = [cell for cell in plain if cell is not None]
            if not own or not controls:
                continue
            # Among how many the cost of the images is shared, and how many students take the room of one generator.
            key += f"/{own[0].stage[:8]}/{self.students}/{side_by_side(self.experiment, self.workers)}"
            if key not in known:
                seconds = sum(cell.seconds for cell in own) / len(own) + self._share(row)
                seconds += self._assistants(pair, row) / len(own)
                each = sum(cell.seconds for cell in controls) / sum(cell.updates for cell in controls)
                known.add(key, seconds / max(each * own[0].updates, 1e-9))
            self.needed[pair.name, row.title] = known[key]
            self.factors[pair.name, row.title] = rounded_factor(known[key], LARGEST_FACTOR)
        factors = {self.factors[at] for at in ((pair.name, row.title) for row in rows) if at in self.factors}
        longer = [equal_time(factor) for factor in sorted(factors) if factor > 1]
        self.planned += len(longer) * len(seeds)
        self.run(pair, longer, seeds)

    @property
    def seconds(self) -> float:
        """Computing time of all stages that the cells rest on, and of the cells."""
        return sum((self._seconds | {cell.stage: cell.seconds for cell in self.results.values()}).values())

    def _share(self, row: Arm) -> float:
        """Seconds of generator, ratio and pool that fall to one student, in seconds of a student's training."""
        if row.images is None:
            return 0.0
        stages = declare(self.experiment, [row])
        made = [stages.gan, stages.ratio, stages.synth]
        return student_seconds(self.experiment, made, self.workers) / max(self.students, 1)

    def _assistants(self, pair: Pair, row: Arm) -> float:
        """Seconds of the networks between teacher and student, which the students of a row share, in the same unit."""
        base = self.experiment.recipe
        made = self.experiment.with_recipe(self.table.pair_recipe(base, self.scale, pair))
        arm = self.table.pair_arm(base, self.scale, pair, row)
        return student_seconds(self.experiment, declare(made, [arm]).assistants[arm.name], self.workers)

    def _prepare(self, made: Experiment, arm: Arm, stages: Stages) -> None:
        """Make what the students of a row need. What could not be made is not tried again for the next row."""
        check_students(made, [arm])
        if arm.images is not None:
            check_disk(made, made.recipe.synth, stages.synth)
        unfinished = [stage for stage in stages.shared if not stage.done]
        for stage in unfinished:
            if stage.fingerprint in self._broken:
                raise self._broken[stage.fingerprint]
        try:
            cgan_kd(made, [arm])
        except Exception as error:
            # Stages come in the order in which they are made: the first that is not there is the one that failed.
            failed = next((stage.fingerprint for stage in unfinished if not stage.done), None)
            if failed is not None:
                self._broken[failed] = error
            raise
        if arm.images is not None:
            selection = arm_images(made, arm, stages)
            if selection.report["missing"]:
                raise DataError(
                    f"{len(selection):,} of {len(selection.source):,} generated images are left after subsampling and "
                    f"filter, expected {arm.recipe(made.recipe).select.count:,}; raise synth.pool or lower select.count"
                )

    def _train(self, pair: Pair, made: Experiment, arms: Sequence[Arm], seeds: Sequence[int]) -> None:
        by_name = {arm.name: arm for arm in arms}
        stages = declare(made, arms, seeds)
        for cell, stage in stages.students.items():
            if stage.done:
                self._keep(pair, by_name[cell[0]], made, cell[1], stage)

        def ended(cell: Cell, error: Exception | None) -> None:
            if error is not None:
                self._fail([(pair.name, by_name[cell[0]].title, cell[1])], error)
            elif stages.students[cell].done:
                self._keep(pair, by_name[cell[0]], made, cell[1], stages.students[cell])

        cgan_kd(made, arms, seeds, workers=self.workers, ended=ended)
        for cell, stage in stages.students.items():  # done meanwhile as the start of another
            key = (pair.name, by_name[cell[0]].title, cell[1])
            if stage.done and key not in self.results and key not in self.failures:
                self._keep(pair, by_name[cell[0]], made, cell[1], stage)

    def _keep(self, pair: Pair, arm: Arm, made: Experiment, seed: int, stage: Stage) -> None:
        """Measure a finished student, unless its line is there already."""
        key = (pair.name, arm.title, seed)
        found = self._stored.get((key, stage.fingerprint))
        if found is None:
            try:
                found = self._measured(pair, arm, made, seed, stage)
            except Exception as error:
                self._fail([key], error)
                return
            append_cell(made.run.folder / CELLS, found)
        self.results[key] = found
        self.failures.pop(key, None)
        task = made.splits.task
        name = f"val_{task.metric}"
        points = [(float(line["step"]), float(line[name])) for line in stage.history if name in line]
        if points and (pair.name, arm.title) not in self.curves:
            steps, values = zip(*points, strict=True)
            self.curves[pair.name, arm.title] = list(steps), list(values)
        self._tell(key, "done" if self.scale == "tiny" else f"{found.test[task.metric]:.2f} {task.metric_unit}")

    def _measured(self, pair: Pair, arm: Arm, made: Experiment, seed: int, stage: Stage) -> CellResult:
        splits, config = made.splits, arm.recipe(made.recipe).student
        student = restore_student(made, arm, stage)
        test, val = (evaluate(student, part, made.engine) for part in (splits.test, splits.val))
        if not math.isfinite(test[splits.task.metric]):
            raise GankdError(f"{splits.task.metric} on test images is {test[splits.task.metric]}")
        return CellResult(
            table=self.table.name,
            scale=self.scale,
            protocol=self.table.under,
            changes=self.changes,
            pair=pair.name,
            method=arm.title,
            seed=seed,
            teacher=other_teacher(made.recipe, config.teacher).model if arm.reads_teacher else None,
            student=config.model,
            loss="Label" if arm.objective is None else str(arm.objective.for_task(splits.task)),
            test=test,
            val=val,
            updates=config.updates,
            seconds=stage.seconds,
            published=self.table.number(pair.name, arm.title),
            stage=stage.fingerprint,
            versions=versions(),
        )

    def _fail(self, keys: Sequence[Key], error: Exception) -> None:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        for key in keys:
            self.failures[key] = reason if isinstance(error, GankdError) else f"{type(error).__name__}: {reason}"
            self._tell(key, f"failed: {reason}")

    def _tell(self, key: Key, what: str) -> None:
        ended = len(self.results) + len(self.failures)
        pair, row, seed = key
        self.experiment.run.console.say(f"{pair:<26} {row:<26} seed {seed:<3} {what:<18} {ended}/{self.planned}")

    def _note_teacher(self, pair: Pair, made: Experiment, arms: Sequence[Arm]) -> None:
        """Measure the network whose outputs the losses of a pair read."""
        for arm in arms:
            config = other_teacher(made.recipe, made.recipe.student.teacher)
            stage = teacher_stage(made, config)
            if pair.name not in self.teachers and arm.reads_teacher and stage.done:
                self._seconds[stage.fingerprint] = stage.seconds
                test = evaluate(make_teacher(made, config, stage), made.splits.test, made.engine)
                self.teachers[pair.name] = {"network": config.model, "test": test}


def base_recipe(table: PublishedTable, scale: Scale, data: str | None, changes: Sequence[str]) -> Recipe:
    """Recipe that all cells share.

    Raises:
        ConfigError: a change that does not fit, or one of a setting that the rows of the table set themselves.
    """
    owned = table.owned() | {"seeds": "--seeds says how many there are"}
    for change in changes:
        name = change.partition("=")[0].strip()
        require(name not in owned, f"{name} cannot be changed in {table.name}: {owned.get(name)}; leave it out")
    require(
        data is None or scale != "tiny",
        "--data: scale tiny has images of its own, to try things out; leave it out, or add --scale small or full",
    )
    recipe = table.recipe(scale, data)
    if not changes:
        return recipe
    recipe, changed = override(recipe, changes), {change.partition("=")[0].strip() for change in changes}
    return recipe if "synth.pool" in changed else table.with_pool(recipe)
