"""`gankd verify`: re-run one committed cell of a published table, and say whether it agrees."""

import math
import tempfile
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
                f"95 % interval for one more student, from {self.seeds} seeds: {self.low:.4f}..{self.high:.4f}"
            )
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
        cell: PAIR/METHOD/SEED.
        results: a cells.jsonl, or the .json beside a bench page.
        data: the set's images.
        out: a folder that is not there yet; a temporary one if not given.
        console: where progress is shown.

    Raises:
        ConfigError: no such cell. CheckpointError: no results. RunError: the cell could not be trained.
    """
    table = find_table(name)
    known = {"/".join(map(str, found.key)): found for found in read_cells(results) if found.table == name}
    require(bool(known), f"{results} holds no cells of {name}")
    require(cell in known, f"no cell {cell!r} in {results}; {suggest(cell, known)}")
    committed = known[cell]
    require(out is None or not out.exists(), f"{out} is there already; verify needs a fresh --out")
    recipe = base_recipe(table, committed.scale, data, committed.changes)
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gankd-verify-")))
        method = stack.enter_context(opened(recipe, folder, console))
        grid = Grid(table, committed.scale, committed.changes, method)
        grid.planned = 1
        grid.run(table.pair(committed.pair), [table.method(committed.method)], [committed.seed])
        if grid.failures:
            raise RunError(f"{cell} cannot be trained: {next(iter(grid.failures.values()))}")
        again, metric = grid.results[committed.key], method.splits.task.metric
    values = [
        found.test[metric]
        for found in known.values()
        if (found.pair, found.method, found.scale, found.changes)
        == (committed.pair, committed.method, committed.scale, committed.changes)
    ]
    return Verification(committed, again, metric, *prediction_interval(values), len(values))
