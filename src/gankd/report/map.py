"""The page of `gankd map`, written from its finished cells."""

from collections.abc import Mapping, Sequence

from gankd.bench.advice import FEWEST, Forecaster
from gankd.bench.map_results import ARMS, MapArm, MapResult
from gankd.recipes.map_grid import GRID, SETTINGS, MapCell
from gankd.report.tables import value_decimals
from gankd.text import Table, duration, fixed, interval


def map_page(found: Mapping[MapCell, MapResult]) -> str:
    """The page as Markdown, without notes."""
    hours, used = sum(cell.hours for cell in GRID), sum(result.seconds for result in found.values())
    lines = [
        "# Where generated images pay",
        "",
        "Written by `gankd map`, except for the notes at the end. A base cell per set and one factor changed at a "
        f"time; grid and estimate ({hours:.0f} core hours) were fixed before the first cell was run. {len(found)} of "
        f"{len(GRID)} cells are finished, from {duration(used)} of computing; stages that cells share count in each. "
        f"Every cell: `{' '.join(SETTINGS)}`, so an interval is Student's 95 % over three whole pipelines, each with a "
        "teacher, a generator and a student of its own.",
        "",
        "A gain compares the better method with the strongest of the four controls, both chosen on validation images "
        "and measured on test images; positive is better. Equal time: more updates, in the time of generator, density "
        "ratio and pool, at most 8 times as many. `gankd map --plan` shows what is left, `gankd map` runs it.",
    ]
    for recipe in dict.fromkeys(cell.recipe for cell in GRID):
        lines += ["", *_section(recipe, [cell for cell in GRID if cell.recipe == recipe], found)]
    return "\n".join([*lines, "", *_forecasts(Forecaster(list(found.values())))])


def _forecasts(forecaster: Forecaster) -> list[str]:
    """Section on the forecasts of `gankd advise`, and how good they are."""
    scores, count = forecaster.scores, len(forecaster.results)
    lines = [
        "## Forecasts of `gankd advise`",
        "",
        "A ridge regression from what a probe of minutes measures to the gain, as a share of the students' error. "
        "Its score, on cells and on sets that it was not fitted to: the share of gains whose sign it forecasts, and "
        "Spearman's rank correlation. Cells without real images are left out.",
        "",
    ]
    if not scores:
        return [*lines, f"{count} finished cells are too few for a score: it needs {FEWEST}."]
    rows = [[score.what, f"{100 * score.signs:.0f} %", fixed(score.rank)] for score in scores]
    *models, rule = scores
    last = models[-1]
    beats = last.signs >= rule.signs and last.rank > rule.rank
    verdict = "beats" if beats else "does not beat"
    table = Table(["forecast", "signs", "rank correlation"], rows).markdown()
    return [*lines, table, "", f"Over {count} cells the {last.what} {verdict} the rule."]


def _section(recipe: str, cells: Sequence[MapCell], found: Mapping[MapCell, MapResult]) -> list[str]:
    done = [found[cell] for cell in cells if cell in found]
    unit = f", {done[0].metric} {'%' if done[0].unit == 'points' else done[0].unit}".rstrip() if done else ""
    rows = [_row(cell, found.get(cell)) for cell in cells]
    head = ["factor", "level", "images", *ARMS.values(), "gain"]
    table = Table(head, rows, align="ll" + "r" * (len(head) - 2))
    return [f"## {recipe}{unit}", "", table.markdown(), *(f"\n- {sentence(result)}" for result in done)]


def _row(cell: MapCell, result: MapResult | None) -> list[str]:
    if result is None:
        return [cell.factor, cell.level, "", *[""] * len(ARMS), f"not run ({cell.hours:.1f} h)"]
    places = _places(result)
    means = [fixed(_mean(result.arms[name].test), places) if name in result.arms else "" for name in ARMS]
    return [cell.factor, cell.level, f"{result.images:,}", *means, result.gain.text(places)]


def sentence(result: MapResult) -> str:
    """The result of a cell in one sentence."""
    gain, places = result.gain, _places(result)
    method, control = (_title(name, result.arms[name], result) for name in (result.method, result.control))
    low, high = sorted((abs(gain.low), abs(gain.high)))
    size = f"{interval(abs(gain.diff), low, high, places, sign=False)} {result.unit}"
    signed = f"{gain.text(places)} {result.unit}"
    text = {
        "better": f"{method} is better than {control} by {size}",
        "worse": f"{method} is worse than {control} by {size}",
        "no difference found": f"no difference found between {method} and {control} ({signed})",
        "no interval": f"{method} against {control}: {signed}, without an interval",
    }[gain.verdict]
    return f"{result.name}: {text}."


def _title(name: str, arm: MapArm, result: MapResult) -> str:
    factor = arm.updates / result.arms["adjusted"].updates
    return f"{ARMS[name]}{f' (x{factor:g})' if factor > 1 else ''}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _places(result: MapResult) -> int:
    return 2 if result.unit == "points" else value_decimals(max(_mean(arm.test) for arm in result.arms.values()))
