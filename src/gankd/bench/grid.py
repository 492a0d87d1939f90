"""The grid pair x method x seed of a published table in one run folder: what cells share is made once, every cell is
kept as it ends, and one that fails does not stop the others.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gankd.bench.compare import Cell, train_side_by_side
from gankd.config import from_dict, override, require, to_dict
from gankd.errors import CheckpointError, ConfigError, DataError, GankdError
from gankd.models.contract import check_model, evaluate
from gankd.recipes.arms import ARMS
from gankd.recipes.cgan_kd import CganKd
from gankd.recipes.config import Recipe
from gankd.recipes.published.table import EQUAL_TIME, EQUAL_UPDATES, Method, Pair, PublishedTable, Scale, equal_time
from gankd.recipes.taught import Taught
from gankd.storage import read_json, write_json
from gankd.version import __version__

CELLS = "cells.jsonl"
FACTORS = "equal_time.json"
LARGEST_FACTOR = 4.0
"""Updates of the time-matched control, in units of those of the row, at most."""
Key = tuple[str, str, int]
"""(pair, method, seed)."""


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
    """Of its own training."""
    published: float | None
    """In the unit of the metric measured here."""
    stage: str
    """Fingerprint of settings, images and all that the student rests on."""
    versions: dict[str, str]

    @property
    def key(self) -> Key:
        """What names the cell."""
        return self.pair, self.method, self.seed


def versions() -> dict[str, str]:
    """What bit-equality depends on besides the settings."""
    return {"gankd": __version__, "torch": torch.__version__, "threads": str(torch.get_num_threads())}


# --- the file of cells --------------------------------------------------------------------------------------


def append_cell(path: Path, cell: CellResult) -> None:
    """Add one line in one write, so that a kill leaves whole lines but for the last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        os.write(file, (b"\n" if torn else b"") + json.dumps(to_dict(cell)).encode() + b"\n")
        os.fsync(file)
    finally:
        os.close(file)


def read_cells(path: Path) -> list[CellResult]:
    """The cells of a cells.jsonl, or of the .json beside a bench page; a later line stands for an earlier one.

    Raises:
        CheckpointError: no such file, or it holds something else.
    """
    if not path.is_file():
        raise CheckpointError(f"no results {path}; gankd bench writes {CELLS} and bench.json")
    stored: Any = []
    if path.suffix == ".jsonl":
        for line in path.read_text().splitlines():
            try:
                stored.append(json.loads(line))
            except ValueError:  # cut short by a kill
                continue
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
        method: the run with the settings that all cells share.
        workers: students trained side by side.
        students: number of planned students that see generated images; these share the cost of making them.
    """

    def __init__(
        self,
        table: PublishedTable,
        scale: Scale,
        changes: Sequence[str],
        method: CganKd,
        *,
        workers: int = 1,
        students: int = 1,
    ) -> None:
        self.table, self.scale, self.changes, self.method = table, scale, tuple(changes), method
        self.workers, self.students = workers, students
        self.results: dict[Key, CellResult] = {}
        self.failures: dict[Key, str] = {}
        self.factors: dict[tuple[str, str], float] = {}
        """(pair, method) -> updates of its time-matched control, in units of its own."""
        self.needed: dict[tuple[str, str], float] = {}
        """The same as measured, neither rounded nor cut."""
        self.teachers: dict[str, dict[str, Any]] = {}
        """By pair: whom losses read, and what it reaches on test images."""
        self.planned = 0
        self._stages: dict[str, float] = {}
        path = method.run.folder / CELLS
        self._stored = {(cell.key, cell.stage): cell for cell in (read_cells(path) if path.is_file() else [])}
        self._broken: dict[str, Exception] = {}
        self._tutors: dict[str, Taught] = {}

    def check_shared(self, methods: Sequence[Method]) -> None:
        """Refuse a teacher or an external generator that no cell could use, before the first is trained.

        Raises:
            ConfigError, DataError, ModelError, CheckpointError: it cannot be found or used.
        """
        made, name = self.method, self.method.recipe.teacher.model
        train = made.splits.train.to(made.engine.device)
        check_model(made.engine.place(made.untrained_teacher()).eval(), train, f"teacher {name}")
        _ = made.teacher_stage  # also reads the weights, where the user gives some
        if any(method.fakes is not None for method in methods):
            _ = made.external

    @property
    def untouched(self) -> int:
        """Stored cells of the same scale and changes that this run left alone; without controls at equal time, whose
        length follows the plan.
        """
        alike = [
            cell.key
            for cell in self._stored.values()
            if (cell.table, cell.scale, cell.changes) == (self.table.name, self.scale, self.changes)
            and not cell.method.startswith(EQUAL_TIME)
        ]
        return len(set(alike) - set(self.results) - set(self.failures))

    def run(self, pair: Pair, methods: Sequence[Method], seeds: Sequence[int]) -> None:
        """Train and measure the students of one pair; what fails is kept in `failures`."""
        plans = []
        for method in methods:
            try:
                made = self._made(pair, method)
                cells = [(method.arm, seed) for seed in seeds]
                if not all(made.student_stage(*cell).done for cell in cells):
                    self._prepare(made, method)
            except Exception as error:  # the user's network may raise anything
                self._fail([(pair.name, method.title, seed) for seed in seeds], error)
                continue
            plans.append((method, made, cells))
        self._train(pair, plans)
        self._note_teacher(pair, [made for method, made, _ in plans if method.loss is not None])

    def run_equal_time(self, pair: Pair, methods: Sequence[Method], seeds: Sequence[int]) -> None:
        """Train the labels alone for as long as each row took, with its share of the generated images."""
        stored = self.method.run.folder / FACTORS
        known: dict[str, float] = read_json(stored) if stored.is_file() else {}
        for method in methods:
            key = f"{pair.name}/{method.title}"
            own = [self.results[at] for at in ((pair.name, method.title, seed) for seed in seeds) if at in self.results]
            plain = [self.results.get((pair.name, EQUAL_UPDATES.title, seed)) for seed in seeds]
            controls = [cell for cell in plain if cell is not None]
            if not own or not controls:
                continue
            # Among how many the cost of the images is shared, and how many students take the room of one generator.
            key += f"/{own[0].stage[:8]}/{self.students}/{self.side_by_side}"
            if key not in known:
                seconds = sum(cell.seconds for cell in own) / len(own) + self._share(method)
                seconds += self._assistants(pair, method) / len(own)
                each = sum(cell.seconds for cell in controls) / sum(cell.updates for cell in controls)
                known[key] = seconds / max(each * own[0].updates, 1e-9)
                write_json(stored, known)
            self.needed[pair.name, method.title] = known[key]
            self.factors[pair.name, method.title] = rounded_factor(known[key])
        factors = {self.factors[at] for at in ((pair.name, method.title) for method in methods) if at in self.factors}
        longer = [equal_time(factor) for factor in sorted(factors) if factor > 1]
        self.planned += len(longer) * len(seeds)
        self.run(pair, longer, seeds)

    @property
    def seconds(self) -> float:
        """Computing time of all stages that the cells rest on, and of the cells."""
        found = dict(self._stages)
        with suppress(Exception):  # a stage that cannot be named was not made, nor one that rests on it
            for name in ("teacher_stage", "gan_stage", "ratio_stage", "synth_stage"):
                stage = getattr(self.method, name)
                found[stage.fingerprint] = stage.seconds
        return sum((found | {cell.stage: cell.seconds for cell in self.results.values()}).values())

    @property
    def side_by_side(self) -> int:
        """Students that are trained in the time of one stage that has the machine to itself, by as many threads."""
        return min(self.method.engine.at_a_time(self.workers), torch.get_num_threads())

    def _share(self, method: Method) -> float:
        """Seconds of generator, ratio and pool that fall to one student, in seconds of a student's training."""
        if method.fakes is None:
            return 0.0
        stages = self.method.gan_stage, self.method.ratio_stage, self.method.synth_stage
        return self.side_by_side * sum(stage.seconds for stage in stages) / max(self.students, 1)

    def _assistants(self, pair: Pair, method: Method) -> float:
        """The same of the networks between teacher and student, which the students of a row share."""
        stages = self._made(pair, method).assistant_stages(ARMS[method.arm])
        return self.side_by_side * sum(stage.seconds for stage in stages)

    def _made(self, pair: Pair, method: Method) -> CganKd:
        recipe = self.table.cell(self.method.recipe, self.scale, pair, method)
        made = CganKd(recipe, self.method.run, self.method.splits)
        if ARMS[method.arm].kd and recipe.student.objective.needs_teacher:
            made.tutor = self._one(made.tutor)
        return made

    def _one(self, taught: Taught) -> Taught:
        """Whoever has this teacher already, so that it is in memory once for all rows."""
        key = taught.teacher_stage.fingerprint
        owner = self.method if key == self.method.teacher_stage.fingerprint else taught
        return self._tutors.setdefault(key, owner)

    def _share_teacher(self, made: CganKd) -> None:
        made.teacher = self._one(made).teacher

    def _prepare(self, made: CganKd, method: Method) -> None:
        """Make what the students of a row need, and remember what cannot be made, not to try again for the next row."""
        arm = ARMS[method.arm]
        made.check_students([arm])
        steps: list[tuple[str, Callable[[], Any]]] = []
        if arm.fakes is not None:
            steps.append((made.teacher_stage.fingerprint, lambda: self._share_teacher(made)))
            steps.append((made.synth_stage.fingerprint, lambda: made.synthetic))
        if arm.kd and made.recipe.student.objective.needs_teacher:
            steps.append((made.tutor.teacher_stage.fingerprint, lambda: made.tutor.teacher))
        for key, make in steps:
            if key in self._broken:
                raise self._broken[key]
            try:
                make()
            except Exception as error:
                self._broken[key] = error
                raise
        selection = made.selection(arm)
        if selection is not None and selection.report["missing"]:
            raise DataError(
                f"{len(selection):,} of {len(made.synthetic):,} generated images are left after subsampling and filter"
                f", expected {made.recipe.select.count:,}; raise synth.pool or lower select.count"
            )
        made.prepare_lesson(arm)

    def _train(self, pair: Pair, plans: list[tuple[Method, CganKd, list[Cell]]]) -> None:
        cells: dict[str, list[tuple[Method, int]]] = {}  # rows may come down to the same student
        wanted: list[tuple[CganKd, list[Cell]]] = []
        for method, made, students in plans:
            mine = []
            for cell in students:
                stage = made.student_stage(*cell)
                if stage.fingerprint not in cells and not stage.done:
                    mine.append(cell)
                cells.setdefault(stage.fingerprint, []).append((method, cell[1]))
                if stage.done:
                    self._keep(pair, method, made, cell)
            wanted.append((made, mine))

        def ended(made: CganKd, cell: Cell, error: Exception | None) -> None:
            for method, seed in cells.get(made.student_stage(*cell).fingerprint, ()):
                if error is not None:
                    self._fail([(pair.name, method.title, seed)], error)
                else:
                    self._keep(pair, method, made, cell)

        train_side_by_side(wanted, self.workers, ended)

    def _keep(self, pair: Pair, method: Method, made: CganKd, cell: Cell) -> None:
        """Measure a finished student, unless its line is there already."""
        key, stage = (pair.name, method.title, cell[1]), made.student_stage(*cell)
        found = self._stored.get((key, stage.fingerprint))
        if found is None:
            try:
                found = self._measured(pair, method, made, cell)
            except Exception as error:
                self._fail([key], error)
                return
            append_cell(made.run.folder / CELLS, found)
        self.results[key] = found
        self.failures.pop(key, None)
        self._tell(key, f"{found.test[made.splits.task.metric]:.2f} {made.splits.task.metric_unit}")

    def _measured(self, pair: Pair, method: Method, made: CganKd, cell: Cell) -> CellResult:
        student, splits, stage = made.student(*cell), made.splits, made.student_stage(*cell)
        test, val = (evaluate(student, part, made.engine) for part in (splits.test, splits.val))
        if not math.isfinite(test[splits.task.metric]):
            raise GankdError(f"{splits.task.metric} on test images is {test[splits.task.metric]}")
        config = made.recipe.student
        reads = method.loss is not None and config.objective.needs_teacher
        return CellResult(
            table=self.table.name,
            scale=self.scale,
            changes=self.changes,
            pair=pair.name,
            method=method.title,
            seed=cell[1],
            teacher=made.tutor.recipe.teacher.model if reads else None,
            student=config.model,
            loss="Label" if method.loss is None else str(config.objective.for_task(splits.task)),
            test=test,
            val=val,
            updates=made.student_config(ARMS[method.arm]).updates,
            seconds=stage.seconds,
            published=self.table.number(pair.name, method.title),
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
        pair, method, seed = key
        self.method.run.console.say(f"{pair:<26} {method:<26} seed {seed:<3} {what:<18} {ended}/{self.planned}")

    def _note_teacher(self, pair: Pair, taught: Sequence[CganKd]) -> None:
        for made in taught:
            if pair.name not in self.teachers and made.recipe.student.objective.needs_teacher:
                tutor = made.tutor
                if tutor.teacher_stage.done:
                    self._stages[tutor.teacher_stage.fingerprint] = tutor.teacher_stage.seconds
                    test = evaluate(tutor.teacher, made.splits.test, made.engine)
                    self.teachers[pair.name] = {"network": tutor.recipe.teacher.model, "test": test}


def rounded_factor(factor: float) -> float:
    """Rounded up to halves, in favour of the control; from 1 to `LARGEST_FACTOR`."""
    return min(LARGEST_FACTOR, max(1.0, math.ceil(2 * factor) / 2))


def base_recipe(table: PublishedTable, scale: Scale, data: str | None, changes: Sequence[str]) -> Recipe:
    """What all cells share.

    Raises:
        ConfigError: a change that does not fit, or of what the rows of the table set themselves.
    """
    owned = table.owned() | {"seeds": "--seeds says how many there are"}
    for change in changes:
        name = change.partition("=")[0].strip()
        require(name not in owned, f"--set {name} cannot be changed in {table.name}: {owned.get(name)}; leave it out")
    require(
        data is None or scale != "tiny",
        "--data: scale tiny has images of its own, to try things out; leave it out, or add --scale small or full",
    )
    recipe = table.recipe(scale, data)
    if not changes:
        return recipe
    recipe, changed = override(recipe, changes), {change.partition("=")[0].strip() for change in changes}
    return recipe if "synth.pool" in changed else table.with_pool(recipe)
