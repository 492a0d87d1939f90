"""`gankd verify`: re-run one committed cell of a published table, and say whether it agrees."""

import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gankd.bench.grid import CellResult, Grid, base_recipe, read_cells
from gankd.bench.stats import prediction_interval
from gankd.commands.stages import opened
from gankd.config import require, suggest
from gankd.console import Console
from gankd.errors import RunError
from gankd.recipes.published import find_table

Verdict = Literal["bit-equal", "within the interval", "differs"]
TELLING = 4
"""Committed seeds below which Student's factor is so large that nearly every student lies within the interval."""


@dataclass(frozen=True)
class Verification:
    """A cell then and now."""

    committed: CellResult
    again: CellResult
    metric: str
    low: float
    """Where one more student would lie, 95 %, by the committed seeds; nan for one seed."""
    high: float
    seeds: int

    @property
    def verdict(self) -> Verdict:
        """Does it agree?"""
        if self.again.test == self.committed.test:
            return "bit-equal"
        return "within the interval" if self.low <= self.again.test[self.metric] <= self.high else "differs"

    @property
    def exit_code(self) -> int:
        """0, or 1 where it does not agree."""
        return 1 if self.verdict == "differs" else 0

    @property
    def text(self) -> str:
        """Plain text."""
        then, now = self.committed.test[self.metric], self.again.test[self.metric]
        lines = [f"{'/'.join(map(str, self.committed.key))}: {self.metric} {then:.4f} committed, {now:.4f} now"]
        if math.isnan(self.low):
            lines.append("one committed seed has no interval: only a bit-equal student agrees")
        else:
            lines.append(
                f"95 % interval for one more student, from {self.seeds} seeds: {self.low:.4f}..{self.high:.4f}; these "
                "share teacher, generator and pool, which are made anew here"
            )
            if self.seeds < TELLING:
                lines.append(f"{self.seeds} seeds make a wide interval: to lie within says little")
        if self.again.stage != self.committed.stage:
            lines.append("settings or images are not those of the committed cell, as its fingerprint says")
        changed = [
            f"{name} {value} (was {self.committed.versions.get(name)})"
            for name, value in self.again.versions.items()
            if value != self.committed.versions.get(name)
        ]
        if changed:
            lines.append(f"changed since: {', '.join(changed)}")
        return "\n".join([*lines, self.verdict])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "cell": "/".join(map(str, self.committed.key)),
            "metric": self.metric,
            "committed": self.committed.test,
            "now": self.again.test,
            "interval": None if math.isnan(self.low) else [self.low, self.high],
            "same_fingerprint": self.again.stage == self.committed.stage,
            "verdict": self.verdict,
        }


def verify(
    name: str,
    cell: str,
    results: Path,
    *,
    data: str | None = None,
    out: Path | None = None,
    console: Console | None = None,
) -> Verification:
    """Train one committed cell anew, with all that it rests on.

    Args:
        name: the table.
        cell: PAIR/METHOD/SEED; with /STAGE behind it, the first letters of its fingerprint, where the file has it of
            several scales, settings or images.
        results: a cells.jsonl, or the .json beside a bench page.
        data: the set's images.
        out: a folder that is not there yet; a temporary one if not given.
        console: where progress is shown.

    Raises:
        ConfigError: no such cell, or several. CheckpointError: no results. RunError: the cell could not be trained.
    """
    table = find_table(name)
    known = [found for found in read_cells(results) if found.table == name]
    require(bool(known), f"{results} holds no cells of {name}")
    committed = _find(known, cell, results)
    require(out is None or not out.exists(), f"{out} is there already; verify needs a fresh --out")
    recipe = base_recipe(table, committed.scale, data, committed.changes)
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gankd-verify-")))
        method = stack.enter_context(opened(recipe, folder, console))
        grid = Grid(table, committed.scale, committed.changes, method)
        grid.planned = 1
        grid.run(table.pair(committed.pair), [table.method(committed.method)], [committed.seed])
        if grid.failures:
            raise RunError(f"{_name(committed)} cannot be trained: {next(iter(grid.failures.values()))}")
        again, metric = grid.results[committed.key], method.splits.task.metric
    values = [found.test[metric] for found in _beside(known, committed)]
    return Verification(committed, again, metric, *prediction_interval(values), len(values))


def _name(cell: CellResult) -> str:
    return "/".join(map(str, cell.key))


def _find(known: Sequence[CellResult], cell: str, results: Path) -> CellResult:
    """The one cell of this name.

    Raises:
        ConfigError: none or several, as after a change of settings or images in the same folder.
    """
    found = [each for each in known if cell == _name(each)]
    if not found:
        name, _, stage = cell.rpartition("/")
        found = [each for each in known if stage and name == _name(each) and each.stage.startswith(stage)]
    require(bool(found), f"no cell {cell!r} in {results}; {suggest(cell, {_name(each) for each in known})}")
    kinds = [f"{_name(each)}/{each.stage[:8]} ({', '.join([f'scale {each.scale}', *each.changes])})" for each in found]
    require(len(found) == 1, f"{results} holds {cell!r} {len(found)} times; name one: {' or '.join(kinds)}")
    return found[0]


def _beside(known: Sequence[CellResult], committed: CellResult) -> list[CellResult]:
    """The cell and its other seeds; without those that are there twice, of which one is of other settings or images."""

    def row(cell: CellResult) -> tuple[object, ...]:
        return cell.pair, cell.method, cell.scale, cell.changes

    alike = [each for each in known if row(each) == row(committed)]
    count = Counter(each.seed for each in alike)
    return [each for each in alike if each == committed or (each.seed != committed.seed and count[each.seed] == 1)]
