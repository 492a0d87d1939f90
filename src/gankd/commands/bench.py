"""`gankd bench`: a published table, run again: pairs x rows x seeds, next to the printed numbers and the controls."""

import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gankd.bench.grid import LARGEST_FACTOR, CellResult, Grid, Key, base_recipe
from gankd.bench.results import plain
from gankd.bench.stats import Interval, holm, mean_stderr, paired_interval, paired_p
from gankd.commands.stages import RUNS, opened
from gankd.config import require, to_dict
from gankd.console import Console
from gankd.recipes.arms import Arm
from gankd.recipes.published import Pair, Protocol, PublishedTable, Scale, find_table
from gankd.recipes.published.table import EQUAL_TIME, EQUAL_UPDATES, KD_EQUAL_UPDATES, equal_time
from gankd.recipes.workers import Workers
from gankd.report.bench import BenchPage, BenchPair, write_bench
from gankd.report.forest import Gain, GainRow
from gankd.report.gather import machine_facts
from gankd.storage import atomic, write_hashed_json
from gankd.tasks import Task
from gankd.text import Form, Table, duration, plus_minus, wrap

WIDTH = 120
"""Columns of plain text."""
LEVEL = 0.05
"""Chance of any false claim on a page."""


@dataclass(frozen=True)
class GainOverControl:
    """A row against one control, paired by seed."""

    pair: str
    method: str
    control: str
    gain: Interval
    p: float
    """Two-sided p-value of only this comparison."""
    adjusted: float
    """p-value corrected by Holm over all comparisons of the table."""

    @property
    def text(self) -> str:
        """The difference with its interval; a star if it remains significant after the correction."""
        return self.gain.text() + " *" * (self.adjusted < LEVEL)

    @property
    def short(self) -> str:
        """The difference with half of the interval's length."""
        half = (self.gain.high - self.gain.low) / 2
        return plus_minus(self.gain.diff, half, sign=True) + "*" * (self.adjusted < LEVEL)


@dataclass(frozen=True)
class BenchResult:
    """The cells of a table, and what they say against the controls."""

    table: PublishedTable
    scale: Scale
    task: Task
    pairs: tuple[Pair, ...]
    rows: tuple[Arm, ...]
    """Rows and controls."""
    cells: dict[Key, CellResult]
    failures: dict[Key, str]
    factors: dict[tuple[str, str], float]
    needed: dict[tuple[str, str], float]
    """Factors as measured, neither rounded up nor cut."""
    teachers: dict[str, dict[str, Any]]
    comparisons: tuple[GainOverControl, ...]
    seconds: float
    """Computing time of all stages."""
    page: Path
    command: str
    """Command that writes this page."""
    changes: tuple[str, ...]
    """Settings that differ from the table's, as NAME=VALUE."""
    timed: bool
    """True if it has the control at equal time."""
    curves: dict[tuple[str, str], tuple[list[float], list[float]]]
    """(pair, row) -> updates and validation metric along the training of the first seed."""
    left_out: int
    """Cells in the folder, of the same scale and changes, that this run was not asked for."""

    @property
    def measures(self) -> bool:
        """True if students learn enough to be measured: at scale tiny they are at chance, and only run."""
        return self.scale != "tiny"

    @property
    def exit_code(self) -> int:
        """0, or 1 where cells failed."""
        return 1 if self.failures else 0

    @property
    def text(self) -> str:
        """Plain text, at most 120 columns; the last ones of the page are left out where they do not fit."""
        lines = [f"{self.table.title} ({self.table.source}), scale {self.scale}"]
        for pair in self.pairs:
            lines += ["", self._heading(pair), self._table(pair, short=True).plain(WIDTH)]
        notes = [*self._notes(short=True), *self._failed()]
        wrapped = [line for note in notes for line in wrap(note, WIDTH, "  ")]
        return "\n".join([*lines, "", *wrapped, "", f"page: {self.page}"])

    def table_as(self, form: Form) -> str:
        """One table of all pairs, named in the first column."""
        tables = {pair.name: self._table(pair) for pair in self.pairs}
        head = ["pair", *next(iter(tables.values())).head]
        rows = [[name, *row] for name, table in tables.items() for row in table.rows]
        return Table(head, rows, "ll" + "r" * (len(head) - 2)).rendered(form)

    @property
    def markdown(self) -> str:
        """The page."""
        table = self.table
        lines = [
            f"# {table.title}",
            "",
            f"Written by `{self.command}`. Source: {table.source}.",
            "",
            f"Protocol as published: {table.protocol}",
            "",
            f"Choices: {table.under} (`--protocol`).",
            "",
            *(line for head, each in self._deviations().items() for line in _listed(head, each)),
            *(f"{note}.  " for note in self._notes()),
            "",
            f"Machine: {_machine()}. Computing time of all stages: {duration(self.seconds)}.",
        ]
        for pair in self.pairs:
            lines += ["", f"## {self._heading(pair)}", "", self._table(pair).markdown()]
        return "\n".join([*lines, "", *self._failed()]).rstrip() + "\n"

    @property
    def html(self) -> BenchPage:
        """The page with figures."""
        table, task = self.table, self.task
        return BenchPage(
            title=table.title,
            source=table.source,
            command=self.command,
            protocol=f"Protocol as published: {table.protocol}",
            choices=table.under,
            differences=self._deviations(),
            notes=self._notes(),
            machine=_machine(),
            seconds=self.seconds,
            metric=f"{task.metric}, {task.metric_unit}" if task.metric_unit else task.metric,
            places=2,
            controls=list(dict.fromkeys(_of_any_length(each.control) for each in self.comparisons)),
            pairs=[self._pair_page(pair) for pair in self.pairs],
            failures=self._failed(),
        )

    def _pair_page(self, pair: Pair) -> BenchPair:
        """A pair's part of the page; without numbers where students are not measured."""
        heading, table = self._heading(pair), self._table(pair)
        if not self.measures:
            return BenchPair(heading, table)
        gains: dict[str, list[Gain]] = {}
        for each in self.comparisons:
            if each.pair == pair.name:
                bar = Gain(_of_any_length(each.control), each.gain, self._differences(each))
                gains.setdefault(each.method, []).append(bar)
        titles = [row.title for row in self.rows if (pair.name, row.title) in self.curves]
        means: dict[str, tuple[float, float | None]] = {}
        for row in self.rows:
            cells = [cell for cell in self.cells.values() if (cell.pair, cell.method) == (pair.name, row.title)]
            if cells:
                values = [cell.test[self.task.metric] for cell in cells]
                means[row.title] = sum(values) / len(values), cells[0].published
        rows = [GainRow(title, "method", bars) for title, bars in gains.items()]
        return BenchPair(heading, table, rows, means, {title: self.curves[pair.name, title] for title in titles})

    def _differences(self, each: GainOverControl) -> list[float]:
        """Paired difference of each seed, + is better."""
        sign = 1 if self.task.higher_is_better else -1
        own, other = (
            {key[2]: cell.test[self.task.metric] for key, cell in self.cells.items() if key[:2] == (each.pair, method)}
            for method in (each.method, each.control)
        )
        return [sign * (own[seed] - other[seed]) for seed in own if seed in other]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `gankd verify` reads its cells."""
        return {
            "table": self.table.name,
            "scale": self.scale,
            "choices": self.table.under,
            "source": self.table.source,
            "metric": self.task.metric,
            "protocol": self.table.protocol,
            "command": self.command,
            "changes": list(self.changes),
            "stored_cells_left_out": self.left_out,
            "deviations": [line for lines in self._deviations().values() for line in lines],
            "note": self.table.note,
            "pairs": [self._pair_dict(pair) for pair in self.pairs],
            "comparisons": [
                {
                    "pair": each.pair,
                    "method": each.method,
                    "control": each.control,
                    "gain": plain(each.gain),
                    "p": None if math.isnan(each.p) else each.p,
                    "p_holm": None if math.isnan(each.adjusted) else each.adjusted,
                }
                for each in self.comparisons
            ],
            "equal_time": {f"{pair}/{method}": factor for (pair, method), factor in self.factors.items()},
            "equal_time_needed": {f"{pair}/{method}": factor for (pair, method), factor in self.needed.items()},
            "failures": [
                {"pair": pair, "method": method, "seed": seed, "reason": reason}
                for (pair, method, seed), reason in self.failures.items()
            ],
            "cells": [to_dict(cell) for cell in self.cells.values()],
            "seconds": self.seconds,
            "machine": machine_facts(),
            "page": str(self.page),
        }

    def _pair_dict(self, pair: Pair) -> dict[str, Any]:
        teacher, student, assistant = self.table.networks(pair, self.scale)
        networks = {"teacher": teacher, "student": student, "assistant": assistant}
        return {
            "name": pair.name,
            "networks": networks,
            "published_teacher": self.table.teacher_number(pair),
            "teacher": self.teachers.get(pair.name),
        }

    def _heading(self, pair: Pair) -> str:
        teacher, student, _ = self.table.networks(pair, self.scale)
        published = f"{pair.teacher} -> {pair.student}" if pair.teacher else pair.student
        facts = []
        if self.scale != "full":
            facts.append(f"here {teacher} -> {student}" if teacher else f"here {student}")
        if pair.name in self.teachers and self.measures:
            own = self.teachers[pair.name]["test"][self.task.metric]
            facts.append(f"teacher {own:.2f} {self.task.metric_unit}".rstrip())
        if pair.printed is not None and self.measures:
            facts.append(f"published {self.table.teacher_number(pair):.2f}")
        return published + (f" ({', '.join(facts)})" if facts else "")

    def _table(self, pair: Pair, *, short: bool = False) -> Table:
        """One row per arm of a pair; short for a terminal."""
        if not self.measures:
            return self._runs(pair)
        unit = f"{self.task.metric} {self.task.metric_unit}".strip()
        columns = ["against NOKD, updates", "against KD, updates", "against NOKD, time"]
        columns = ["- NOKD", "- KD", "- NOKD, time"] if short else columns
        head = ["arm", unit, "published", *columns[: 2 + self.timed], "updates", "seconds"]
        rows: list[list[str]] = []
        titles = list(dict.fromkeys(cell.method for cell in self.cells.values() if cell.pair == pair.name))
        order = {row.title: place for place, row in enumerate(self.rows)}
        for title in sorted(titles, key=lambda name: order.get(name, len(order))):
            cells = [cell for cell in self.cells.values() if (cell.pair, cell.method) == (pair.name, title)]
            mean, error = mean_stderr([cell.test[self.task.metric] for cell in cells])
            here = [each for each in self.comparisons if (each.pair, each.method) == (pair.name, title)]
            gains = {each.control: each.short if short else each.text for each in here}
            published, factor = cells[0].published, self.factors.get((pair.name, title))
            timed = "" if factor is None else gains.get(equal_time(factor).title, "")
            needed = self.needed.get((pair.name, title), 0.0)
            cut = f" of x{needed:.1f} needed" if needed > LARGEST_FACTOR else ""
            rows.append(
                [
                    title,
                    plus_minus(mean, error) + ("" if math.isnan(error) else f" ({len(cells)})"),
                    "" if published is None else f"{published:.2f}",
                    *(gains.get(name, "") for name in (EQUAL_UPDATES.title, KD_EQUAL_UPDATES)),
                    *([timed and f"x{factor:g}{cut.removesuffix(' needed') if short else cut}: {timed}"] * self.timed),
                    f"{cells[0].updates}",
                    f"{sum(cell.seconds for cell in cells) / len(cells):.1f}",
                ]
            )
        rows += [
            [f"{title}, seed {seed}", "failed" if short else f"failed: {reason}"]
            for (name, title, seed), reason in self.failures.items()
            if name == pair.name
        ]
        return Table(head, rows)

    def _runs(self, pair: Pair) -> Table:
        """Students and times of each arm of a pair, without what they reach."""
        cells = [cell for cell in self.cells.values() if cell.pair == pair.name]
        rows = []
        for title in dict.fromkeys(cell.method for cell in cells):
            own = [cell for cell in cells if cell.method == title]
            seconds = sum(cell.seconds for cell in own) / len(own)
            rows.append([title, f"{len(own)}", f"{own[0].updates}", f"{seconds:.1f}"])
        rows += [
            [f"{title}, seed {seed}", f"failed: {reason}"]
            for (name, title, seed), reason in self.failures.items()
            if name == pair.name
        ]
        return Table(["arm", "students", "updates", "seconds"], rows)

    def _deviations(self) -> dict[str, list[str]]:
        """Deviations of this run from the published one, and the further ones at full scale."""
        scales = {
            "tiny": "Scale tiny: embedded images, a few updates, stand-ins for all networks; only for tests.",
            "small": "Scale small: few images at 32 pixels, small stand-ins for networks, short training by AdamW.",
        }
        own = [f"Changed for all cells: {change}." for change in self.changes]
        if self.scale not in scales:
            return {"Here it differs:": [*own, *self.table.differences]}
        return {
            "Here it differs:": [scales[self.scale], *own],
            "At scale full also:": list(self.table.differences),
        }

    def _notes(self, *, short: bool = False) -> list[str]:
        interval = "± half of the 95 % interval" if short else "[95 % interval]"
        notes = [
            "Test images, last update, mean ± standard error (number of seeds)",
            "All seeds share one teacher, generator and pool: errors and intervals cover only the students",
            f"Differences to the controls are paired by seed, {interval}, + is better; * is significant after Holm's "
            f"correction over all {sum(not math.isnan(each.p) for each in self.comparisons)} comparisons at {LEVEL}",
            "Seconds are of one student's training",
        ]
        timed = (
            "Equal time: labels only, for as many updates as fit in the seconds of the row with its share of "
            f"generator, ratio and pool, rounded up to halves, at most x{LARGEST_FACTOR:g}; where more is needed, the "
            "column says how much, and the control is too short"
        )
        part = (
            f"A part: {self.left_out} further cells of these settings are stored in the folder and not shown; the "
            "same command with their pairs, methods and seeds shows them"
        )
        tuned = (
            "Rows with generated images, and the controls, start from the NOKD student, whose updates and seconds are "
            "added"
        )
        finetuned = any(change.replace(" ", "") == "student.init=finetune" for change in self.changes)
        finetuned |= self.table.under == "published" and self.table.family.authors.finetuned
        if not self.measures:
            chance = (
                "At scale tiny students learn for a few updates and are at chance, so only runs and seconds are shown; "
                "bench.json holds what they reach"
            )
            return [chance, *([part] if self.left_out else [])]
        optional = {
            tuned: finetuned,
            timed: self.timed,
            part: self.left_out > 0,
            self.table.note.rstrip("."): bool(self.table.note),
        }
        return [*notes, *(note for note, holds in optional.items() if holds)]

    def _failed(self) -> list[str]:
        return [f"failed: {pair}/{title}/{seed}: {reason}" for (pair, title, seed), reason in self.failures.items()]


def _machine() -> str:
    return ", ".join(f"{name} {value}" for name, value in machine_facts().items())


def _of_any_length(control: str) -> str:
    """The control's title; controls at equal time have one for each length."""
    return EQUAL_TIME if control.startswith(EQUAL_TIME) else control


def _listed(head: str, lines: Sequence[str]) -> list[str]:
    return [head, "", *(f"- {line}" for line in lines), ""]


def bench(
    name: str,
    out: Path | str | None = None,
    *,
    scale: Scale = "small",
    protocol: Protocol = "gankd",
    data: str | None = None,
    seeds: int = 3,
    workers: int | Workers = 1,
    pairs: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    changes: Sequence[str] = (),
    timed: bool = True,
    console: Console | None = None,
) -> BenchResult:
    """Run a published table; what the folder holds already is reused, cell by cell.

    Args:
        name: the table.
        out: bench folder; runs/bench-NAME-SCALE if not given.
        scale: tiny, small or full.
        protocol: gankd, or published for the authors' choices.
        data: the set's images; scale tiny has its own.
        seeds: students per cell.
        workers: number of students trained side by side here, or workers on other machines.
        pairs: names; all if not given, of those that have the same networks at this scale the first.
        methods: titles; all if not given. The controls at equal updates are always run.
        changes: settings for all cells, as NAME=VALUE.
        timed: also run the time-matched control.
        console: where progress is shown.

    Raises:
        GankdError: with one line that says what to do, also where the teacher or an external generator that cells share
            cannot be used; a failing cell raises nothing.
    """
    require(seeds >= 1, f"--seeds must be at least 1, got {seeds}")
    data = data and os.path.abspath(data)  # workers have other working directories
    table = find_table(name, protocol)
    rows = tuple(table.arm(title) for title in dict.fromkeys(methods)) if methods else table.arms
    rows = tuple(row for row in rows if row not in table.controls)
    chosen = tuple(table.pair(pair) for pair in dict.fromkeys(pairs)) if pairs else table.distinct(scale)
    recipe = base_recipe(table, scale, data, changes)
    folder = Path(out or RUNS / "-".join(["bench", name, scale, *([protocol] if protocol != "gankd" else [])]))
    command = ["gankd", "bench", name, "--scale", scale, "--seeds", str(seeds), *(["--data", "PATH"] if data else [])]
    command += ["--protocol", protocol] if protocol != "gankd" else []
    command += ["--pairs", ",".join(pairs)] if pairs else []
    command += ["--methods", ",".join(methods)] if methods else []
    command += [word for change in changes for word in ("--set", change)] + ["--untimed"] * (not timed)
    with opened(recipe, folder, console) as experiment:
        fakes = sum(row.images is not None for row in rows) * len(chosen) * seeds
        grid = Grid(table, scale, changes, experiment, workers=workers, students=fakes)
        all_rows = (*table.controls, *rows)
        grid.planned = len(all_rows) * len(chosen) * seeds
        matched = [row for row in rows if row.updates == "equal"]
        grid.check_shared(all_rows)
        for pair in chosen:
            grid.run(pair, all_rows, range(seeds))
            if timed:
                grid.run_equal_time(pair, matched, range(seeds))
        task = experiment.splits.task
        controls = {row.title: [control.title for control in table.controls] for row in matched}
        comparisons = _comparisons(grid, chosen, controls, task)
        result = BenchResult(
            table,
            scale,
            task,
            chosen,
            all_rows,
            grid.results,
            grid.failures,
            grid.factors,
            grid.needed,
            grid.teachers,
            comparisons,
            grid.seconds,
            folder / "bench.html",
            shlex.join(command),
            tuple(changes),
            timed,
            grid.curves,
            grid.untouched,
        )
        write_hashed_json(folder / "bench.json", result.to_dict())
        with atomic(result.page.with_suffix(".md")) as temporary:
            temporary.write_text(result.markdown)
        write_bench(result.html, result.page)
    return result


def _comparisons(
    grid: Grid, pairs: Sequence[Pair], controls: dict[str, list[str]], task: Task
) -> tuple[GainOverControl, ...]:
    """Every matched row against every control, with p-values corrected over all of them."""
    found = []
    for pair in pairs:
        for title, names in controls.items():
            factor = grid.factors.get((pair.name, title))
            timed = [] if factor in (None, 1.0) else [equal_time(factor or 1.0).title]
            for control in [*names, *timed]:
                values = [_value(grid, (pair.name, title, seed), task) for seed in _seeds(grid)]
                others = [_value(grid, (pair.name, control, seed), task) for seed in _seeds(grid)]
                both = [(a, b) for a, b in zip(values, others, strict=True) if a is not None and b is not None]
                if both:
                    own, other = zip(*both, strict=True)
                    gain = paired_interval(own, other, higher_is_better=task.higher_is_better)
                    found.append((pair.name, title, control, gain, paired_p(own, other)))
    adjusted = holm([p for *_, p in found])
    return tuple(GainOverControl(*each, corrected) for each, corrected in zip(found, adjusted, strict=True))


def _seeds(grid: Grid) -> list[int]:
    return sorted({seed for _, _, seed in grid.results})


def _value(grid: Grid, key: Key, task: Task) -> float | None:
    return grid.results[key].test[task.metric] if key in grid.results else None
