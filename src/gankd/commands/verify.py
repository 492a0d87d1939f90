"""`gankd verify`: run one committed cell of a published table again, and say whether it agrees."""

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
from gankd.recipes.code import named_code
from gankd.recipes.published import find_table
from gankd.seals import require_trust

Verdict = Literal["bit-equal", "within the interval", "differs"]
TELLING = 4
"""Fewest seeds for a useful interval; with fewer, nearly every student falls inside it."""


@dataclass(frozen=True)
class Verification:
    """A cell then and now."""

    committed: CellResult
    again: CellResult
    metric: str
    low: float
    """Lower end of the 95 % interval for one more student, from the committed seeds; nan for one seed."""
    high: float
    seeds: int

    @property
    def verdict(self) -> Verdict:
        """Agreement of the two."""
        if self.again.test == self.committed.test:
            return "bit-equal"
        return "within the interval" if self.low <= self.again.test[self.metric] <= self.high else "differs"

    @property
    def exit_code(self) -> int:
        """0, or 1 where the two differ."""
        return 1 if self.verdict == "differs" else 0

    @property
    def text(self) -> str:
        """Plain text."""
        then, now = self.committed.test[self.metric], self.again.test[self.metric]
        lines = [f"{'/'.join(map(str, self.committed.key))}: {self.metric} {then:.4f} committed, {now:.4f} now"]
        if math.isnan(self.low):
            lines.append("one committed seed gives no interval: only a bit-equal student agrees")
        else:
            lines.append(
                f"95 % interval for one more student, from {self.seeds} seeds: {self.low:.4f}..{self.high:.4f}; these "
                "share teacher, generator and pool (all generated images), which are trained again here"
            )
            if self.seeds < TELLING:
                lines.append(f"{self.seeds} seeds give a wide interval: a student within it says little")
        if self.again.stage != self.committed.stage:
            lines.append("settings or images differ from those of the committed cell: the fingerprints differ")
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
    results: Path | str,
    *,
    data: str | None = None,
    out: Path | str | None = None,
    console: Console | None = None,
    trust: bool = False,
) -> Verification:
    """Train one committed cell again, with its teacher, generator and pool.

    Args:
        name: the table.
        cell: PAIR/METHOD/SEED, followed by /STAGE, the first letters of its fingerprint, where the file has it for
            several scales, settings or images.
        results: a cells.jsonl, or the .json beside a bench page.
        data: the set's images.
        out: new folder; default: a temporary one.
        console: shows progress.
        trust: run the code that the cell's settings name.

    Raises:
        TrustError: its settings name code. ConfigError: no such cell, or several. CheckpointError: no results.
        RunError: the cell cannot be trained.
    """
    results, out = Path(results), None if out is None else Path(out)
    find_table(name)  # refuses a name that is none
    known = [found for found in read_cells(results) if found.table == name]
    require(bool(known), f"{results} has no cells of {name}")
    committed = _find(known, cell, results)
    if not trust:
        require_trust(results, named_code({"changes": committed.changes}))
    require(out is None or not out.exists(), f"{out} exists already; verify needs a new --out")
    table = find_table(name, committed.protocol)
    recipe = base_recipe(table, committed.scale, data, committed.changes)
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gankd-verify-")))
        experiment = stack.enter_context(opened(recipe, folder, console))
        grid = Grid(table, committed.scale, committed.changes, experiment)
        grid.planned = 1
        grid.run(table.pair(committed.pair), [table.arm(committed.method)], [committed.seed])
        if grid.failures:
            raise RunError(f"{_name(committed)} cannot be trained: {next(iter(grid.failures.values()))}")
        again, metric = grid.results[committed.key], experiment.splits.task.metric
    values = [found.test[metric] for found in _beside(known, committed)]
    return Verification(committed, again, metric, *prediction_interval(values), len(values))


def _name(cell: CellResult) -> str:
    return "/".join(map(str, cell.key))


def _find(known: Sequence[CellResult], cell: str, results: Path) -> CellResult:
    """The one cell of this name.

    Raises:
        ConfigError: there is none, or several, as after a change of settings or images in one folder.
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
    """The cell and its other seeds, without seeds that occur twice, as one of the two has other settings or images."""

    def row(cell: CellResult) -> tuple[object, ...]:
        return cell.pair, cell.method, cell.scale, cell.protocol, cell.changes

    alike = [each for each in known if row(each) == row(committed)]
    count = Counter(each.seed for each in alike)
    return [each for each in alike if each == committed or (each.seed != committed.seed and count[each.seed] == 1)]
