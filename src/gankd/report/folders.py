"""Run folders on disk: what each holds, and what of it can be freed. Imports no heavy library, so it prints at once."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gankd.errors import ConfigError
from gankd.text import Form, Table, number

HIGHER_IS_BETTER = ("top1",)
"""Metrics of which more is better; of the others, which are errors, less is."""


@dataclass(frozen=True)
class Folder:
    """One run folder."""

    path: Path
    recipe: str
    state: str
    students: int
    """Number of finished students, those of earlier settings included."""
    best: str
    """Arm whose students do best on validation images, and their mean."""
    bytes: int
    changed: float
    """Time of its last change, in seconds since 1970."""


@dataclass(frozen=True)
class Folders:
    """Result of `gankd runs`."""

    rows: tuple[Folder, ...]

    @property
    def text(self) -> str:
        """Table for a terminal."""
        return self._table.plain()

    def table_as(self, form: Form) -> str:
        """The table for another program."""
        return self._table.rendered(form)

    @property
    def _table(self) -> Table:
        lines = [
            [
                str(row.path),
                row.recipe,
                row.state,
                str(row.students),
                row.best,
                size(row.bytes),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(row.changed)),
            ]
            for row in self.rows
        ]
        head = ("folder", "recipe", "state", "students", "best arm on validation images", "size", "last change")
        note = "students: all that are finished, those of earlier settings included. gankd clean FOLDER frees space."
        return Table(head, lines, "lllrlrl", notes=[note])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"runs": [{**vars(row), "path": str(row.path)} for row in self.rows]}


def list_runs(folder: Path = Path("runs")) -> Folders:
    """All run folders in a folder and below, newest first.

    Raises:
        ConfigError: there is none.
    """
    found = sorted((_folder(path.parent) for path in folder.rglob("run.json")), key=lambda row: -row.changed)
    if not found:
        raise ConfigError(f"no run in {folder}; start one with: gankd run RECIPE, or name another folder")
    return Folders(tuple(found))


def size(count: int) -> str:
    """Bytes for people."""
    for unit, amount in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= amount:
            return f"{count / amount:.1f} {unit}"
    return f"{count} B"


def bytes_of(paths: Sequence[Path]) -> int:
    """Bytes of files, and of all files in folders."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


def stage_folders(folder: Path, name: str) -> Iterator[Path]:
    """Folders of the stages of a run whose names begin like this."""
    return (path for path in sorted(folder.glob(f"{name}-*")) if path.is_dir())


def content(path: Path) -> dict[str, Any]:
    """Plain data of a JSON file; empty where it is missing or damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _folder(path: Path) -> Folder:
    settings, latest = content(path / "run.json"), _latest_students(path)
    recipe = settings.get("recipe")
    return Folder(
        path,
        str(recipe.get("name", "?")) if isinstance(recipe, dict) else "?",
        _state(path, settings),
        sum((student / "done.json").is_file() for student in stage_folders(path, "student")),
        _best_arm(latest),
        bytes_of([path]),
        max(file.stat().st_mtime for file in (path, path / "run.json")),
    )


def _state(path: Path, settings: dict[str, Any]) -> str:
    if (path / ".lock").is_file():
        try:
            with FileLock(path / ".lock", timeout=0):
                pass
        except (Timeout, OSError):
            return "in use"
    if settings.get("by"):
        return f"gankd {settings['by']}"
    results = path / "results.json"
    done = results.is_file() and results.stat().st_mtime >= (path / "run.json").stat().st_mtime
    return "finished" if done else "unfinished"


def _latest_students(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Validation metrics of the student of each arm and seed that was finished last."""
    done = [file for student in stage_folders(path, "student") if (file := student / "done.json").is_file()]
    found = {}
    for file in sorted(done, key=lambda each: each.stat().st_mtime):
        arm, seed, _ = file.parent.name.removeprefix("student-").rsplit("-", 2)
        result = content(file).get("result")
        found[arm, seed] = result.get("val", {}) if isinstance(result, dict) else {}
    return found


def _best_arm(students: dict[tuple[str, str], dict[str, Any]]) -> str:
    values: dict[str, list[float]] = {}
    metric = next((name for val in students.values() for name in val), "")
    for (arm, _), val in students.items():
        if metric in val:
            values.setdefault(arm, []).append(float(val[metric]))
    if not values:
        return ""
    means = {arm: sum(own) / len(own) for arm, own in values.items()}
    sign = 1 if metric in HIGHER_IS_BETTER else -1
    best = max(means, key=lambda arm: sign * means[arm])
    return f"{best}, {metric} {number(means[best])}"
