"""`gankd map`: where generated images pay, cell by cell of a grid that was fixed before it was run."""

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from gankd.bench.budget import lengthened
from gankd.bench.map_results import ARMS, FILE, MapResult, add_result, measured, of_cells, read_results
from gankd.bench.prices import Prices, Timer
from gankd.commands.plan import shared_rows
from gankd.commands.stages import check_arms, opened, trained
from gankd.config import require, suggest
from gankd.console import Console
from gankd.data.sets import DATA_SETS
from gankd.errors import GankdError, RunError
from gankd.recipes.arms import Arm, chosen_arms
from gankd.recipes.config import Recipe
from gankd.recipes.experiment import Experiment
from gankd.recipes.map_grid import GRID, MapCell
from gankd.recipes.stages import declare
from gankd.recipes.workers import Workers
from gankd.report.map import map_page, sentence
from gankd.runs import Run
from gankd.storage import write_results_page
from gankd.text import Table, duration, fixed

HOUR = 3600.0


@dataclass(frozen=True)
class MapRun:
    """The cells that were asked for, and what is left to do."""

    cells: tuple[MapCell, ...]
    found: Mapping[MapCell, MapResult]
    page: Path | None
    hours: Mapping[MapCell, float] | None = None
    """Hours of one core that each unfinished cell would take here, where they were measured."""
    failures: Mapping[MapCell, str] = field(default_factory=dict)
    """Errors of cells that failed, in one line each."""

    @property
    def exit_code(self) -> int:
        """1 if a cell failed."""
        return int(bool(self.failures))

    @property
    def text(self) -> str:
        """Table of the cells, and where the page is."""
        head = ["recipe", "factor", "level", "hours" if self.hours is None else "estimate", "state"]
        head += [] if self.hours is None else ["hours here"]
        rows = []
        for cell in self.cells:
            state = "finished" if cell in self.found else "not run"
            row = [cell.recipe, cell.factor, cell.level, fixed(cell.hours), state]
            rows.append(row + ([] if self.hours is None else [fixed(self.hours.get(cell, 0.0))]))
        left = [cell for cell in self.cells if cell not in self.found]
        total = f"{len(left)} of {len(self.cells)} cells are left, {sum(cell.hours for cell in left):.1f} core hours"
        if self.hours is not None:
            total += f" by the estimate, {sum(self.hours.values()):.1f} here"
        table = Table(head, rows, align="lllrl" + "r" * (len(head) - 5)).plain()
        failed = [f"{cell.name} failed: {error}" for cell, error in self.failures.items()]
        return "\n".join([table, total, *failed, *([f"page: {self.page}"] if self.page else [])])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        cells = [
            {**vars(cell), "finished": cell in self.found, "hours_here": (self.hours or {}).get(cell)}
            for cell in self.cells
        ]
        failures = {cell.name: error for cell, error in self.failures.items()}
        return {"cells": cells, "failures": failures, "page": self.page and str(self.page)}


def run_map(
    *,
    only: Sequence[str] | None = None,
    data: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    changes: Sequence[str] = (),
    plan: bool = False,
    page: bool = False,
    seconds: float | None = None,
    out: Path | str = Path("runs/map"),
    file: Path | str = FILE,
    docs: Path | str = Path("docs"),
    workers: int | Workers = 1,
    console: Console | None = None,
) -> MapRun:
    """Run the cells that are not finished, each into the file as it ends; write docs/where_it_pays.md.

    A cell that fails does not stop the others.

    Args:
        only: recipes; default: all.
        data: files of images by recipe; cells of recipes that read a file and have none are left out.
        changes: settings for all cells as NAME=VALUE; their results are kept apart, and not on the page.
        plan: measure what the cells would take here instead of running them.
        page: only write the page.
        seconds: time after which no further cell is begun.
        out: run folders, one per recipe, so that cells share what they have in common; finished stages are reused.
        file: finished cells.
        docs: folder of the page.
        workers: number of students trained side by side here, or workers on other machines.
        console: where progress is shown.

    Raises:
        GankdError: with one line that says what to do.
    """
    console, data, file, changes = console or Console("quiet"), dict(data), Path(file), tuple(changes)
    names = list(dict.fromkeys(cell.recipe for cell in GRID))
    for name in (*(only or ()), *data):
        require(name in names, f"the map has no recipe {name!r}; {suggest(name, names)}")
    cells = [cell for cell in GRID if cell.recipe in (only or names)]
    found = of_cells(GRID, read_results(file), changes)
    able = [cell for cell in cells if cell.recipe in data or not _reads_file(cell)]
    if len(able) < len(cells) and not page:
        missing = dict.fromkeys(cell.recipe for cell in cells if cell not in able)
        console.say(f"left out without their images: {', '.join(missing)}; add --data NAME=PATH")
    left = [cell for cell in able if cell not in found]
    if plan:
        return MapRun(tuple(cells), found, None, _hours(left, data, changes))
    begun, failures = time.monotonic(), dict[MapCell, str]()
    for cell in [] if page else left:
        if seconds is not None and time.monotonic() - begun >= seconds:
            break
        console.say(f"== {cell.name} (estimate {duration(cell.hours * HOUR)} of one core)")
        try:
            result = _run_cell(cell, data.get(cell.recipe), changes, Path(out), workers, console)
        except RunError:  # the folder is in use, or cannot be written: so it is for the other cells
            raise
        except GankdError as error:
            failures[cell] = str(error)
            console.say(f"failed: {error}")
            continue
        add_result(file, result)
        found = {**found, cell: result}
        console.say(sentence(result))
        if not changes:  # after every cell, so that page and file agree whenever this ends
            write_page(file, Path(docs))
    return MapRun(tuple(cells), found, None if changes else write_page(file, Path(docs)), failures=failures)


def write_page(file: Path, docs: Path) -> Path:
    """Write where_it_pays.md from the finished cells; hand-written notes on the page are kept."""
    path = docs / "where_it_pays.md"
    write_results_page(path, map_page(of_cells(GRID, read_results(file))))
    return path


def _reads_file(cell: MapCell) -> bool:
    return not DATA_SETS[cell.made().data.name].embedded


def _run_cell(
    cell: MapCell, data: str | None, changes: tuple[str, ...], out: Path, workers: int | Workers, console: Console
) -> MapResult:
    recipe = cell.made(data and str(Path(data).resolve()), changes)
    with opened(recipe, out / cell.recipe, console) as experiment:
        arms = map_arms(recipe)
        check_arms(experiment, arms)
        experiment, arms = trained(experiment, arms, workers)
        return measured(cell, changes, experiment, arms)


def map_arms(recipe: Recipe) -> tuple[Arm, ...]:
    """The arms of a cell; controls at equal time are left out with time_cap=1."""
    return tuple(arm for arm in chosen_arms(recipe, None) if arm.name in ARMS)


# --- estimate -----------------------------------------------------------------------------------------------


def _hours(cells: Sequence[MapCell], data: Mapping[str, str], changes: tuple[str, ...]) -> dict[MapCell, float]:
    """Hours of one core for each cell in an empty run folder, without the stages of cells before it.

    Steps are timed once per recipe.
    """
    prices, known = cache(lambda recipe: Prices(Timer())), set[str]()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for cell in cells:
            recipe = cell.made(data.get(cell.recipe), changes)
            costs = _costs(Experiment.open(recipe, Run(Path(folder))), prices(cell.recipe))
            found[cell] = sum(cost for key, cost in costs.items() if key not in known) / HOUR
            known |= costs.keys()
    return found


def _costs(experiment: Experiment, prices: Prices) -> dict[str, float]:
    """CPU seconds of each stage by its fingerprint; controls at equal time are as long as they can become."""
    recipe = experiment.recipe
    found: dict[str, float] = {}
    arms = [
        lengthened(arm, recipe.student.updates, 99, recipe.time_cap) if arm.timed else arm for arm in map_arms(recipe)
    ]
    for each, seeds in experiment.pipelines():
        stages = declare(each, arms, seeds)
        found |= {key: row.cpu for key, row in shared_rows(each, arms, stages, prices).items()}
        for arm in arms:
            step = prices.student(each, arm).cpu * arm.recipe(recipe).student.updates
            found |= {stages.students[arm.name, seed].fingerprint: step for seed in seeds}
    return found
