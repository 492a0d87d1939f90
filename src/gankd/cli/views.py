"""Views of functions that do not return a `Result`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gankd.cli.command import Shown, View
from gankd.text import duration, number

if TYPE_CHECKING:
    from gankd.commands.search import SearchResult
    from gankd.commands.stages import RunResult


def students(result: "RunResult", seconds: float) -> Shown:
    """Table of the students, and where the report is."""
    lines = [result.table]
    if result.headline:
        lines += ["", result.headline, *filter(None, [result.best])]
    if result.report is not None:
        lines += ["", f"report: {result.report}"]
    return Shown("\n".join(lines), result.to_dict(), tabulated=result)


def evaluated(result: "RunResult", seconds: float) -> Shown:
    """Table of the students, and their accuracy on each class."""
    shown = students(result, seconds)
    return replace(shown, text="\n\n".join(filter(None, [shown.text, result.classes])))


def students_or_search(result: "RunResult | SearchResult", seconds: float) -> Shown:
    """Table of the students, or of a search."""
    from gankd.commands.stages import RunResult

    if isinstance(result, RunResult):
        return students(result, seconds)
    return Shown(result.text, result.to_dict())


def whole_run(result: "RunResult", seconds: float) -> Shown:
    """Table of the students, the report, and the time that it took."""
    shown = students(result, seconds)
    return Shown(f"{shown.text}\ntime:   {duration(seconds)}", shown.facts)


def several_runs(found: "tuple[Sequence[RunResult], Path]", seconds: float) -> Shown:
    """Tables of several runs, and the page about all of them."""
    results, page = found
    parts = [f"\n{result.recipe}\n{result.table}\n\n{result.headline}\n{result.best}".rstrip() for result in results]
    text = "\n".join([*parts, f"\nreport: {page}\ntime:   {duration(seconds)}"])
    return Shown(text, {"runs": [result.to_dict() for result in results], "report": str(page)})


def path(name: str) -> View:
    """A path, under this name in JSON."""
    return lambda found, seconds: Shown(str(found), {name: str(found)})


def facts(title: str, **more: Any) -> View:
    """Names and values on one line; `more` comes first in JSON."""

    def view(found: dict[str, Any], seconds: float) -> Shown:
        words = (f"{name} {number(value) if isinstance(value, float) else value}" for name, value in found.items())
        return Shown(f"{title}: " + "  ".join(words), {**more, **found})

    return view
