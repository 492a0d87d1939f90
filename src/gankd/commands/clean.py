"""Free what a run folder no longer needs: pools of generated images, and checkpoints of unfinished stages."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gankd.errors import ConfigError
from gankd.report.folders import bytes_of, content, size, stage_folders
from gankd.runs import Run
from gankd.text import Table, duration


@dataclass(frozen=True)
class Freed:
    """One thing that is deleted."""

    path: Path
    what: str
    bytes: int
    again: str
    """Work that a later command has to repeat because of it."""


@dataclass(frozen=True)
class Cleaned:
    """Result of `gankd clean`."""

    folder: Path
    rows: tuple[Freed, ...]
    done: bool

    @property
    def text(self) -> str:
        """Table and the sum."""
        total = size(sum(row.bytes for row in self.rows))
        if not self.rows:
            return f"{self.folder}: nothing to free"
        end = (
            f"freed {total}; report, results, teacher, generator and students stay" if self.done else "nothing deleted"
        )
        return f"{_table(self.rows).plain()}\n{end}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        rows = [{**vars(row), "path": str(row.path)} for row in self.rows]
        return {"folder": str(self.folder), "freed": rows, "done": self.done}


def clean(folder: Path | str, *, yes: bool = False) -> Cleaned:
    """Delete pools and checkpoints of a run; results and everything that was trained to the end stay.

    Args:
        folder: the run folder.
        yes: delete without a question.

    Raises:
        ConfigError: nobody is there to answer the question. RunError: another process uses the run.
    """
    folder = Path(folder)
    with Run(folder):
        rows = tuple(_to_free(folder))
        if rows and not yes and not _confirmed(rows):
            return Cleaned(folder, rows, done=False)
        for row in rows:
            if row.path.is_dir():
                (row.path / "done.json").unlink(missing_ok=True)  # first, so that half a pool never counts as one
                shutil.rmtree(row.path)
            else:
                row.path.unlink()
    return Cleaned(folder, rows, done=True)


def _to_free(folder: Path) -> list[Freed]:
    rows = []
    for path in stage_folders(folder, "synth"):
        done = content(path / "done.json")
        spent = f" ({duration(done['seconds'])} last time)" if "seconds" in done else ""
        what = f"pool of {content(path / 'config.json').get('config', {}).get('pool', '?')} generated images"
        again = f"generate them again{spent}: gankd synth, new students on generated images, their part of a report"
        rows.append(Freed(path, what, bytes_of([path]), again))
    for path in sorted(folder.rglob("checkpoint.safetensors")):
        if not any(row.path in path.parents for row in rows):
            name = path.parent.relative_to(folder)
            rows.append(
                Freed(path, f"checkpoint of {name}", bytes_of([path]), "train it from the beginning: gankd resume")
            )
    return rows


def _confirmed(rows: tuple[Freed, ...]) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError(f"{_sum(rows)} would be freed; add --yes to delete without a question")
    print(_table(rows).plain(), file=sys.stderr)
    print(f"Free {_sum(rows)}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _sum(rows: tuple[Freed, ...]) -> str:
    return f"{size(sum(row.bytes for row in rows))} in {len(rows)} place{'s' * (len(rows) > 1)}"


def _table(rows: tuple[Freed, ...]) -> Table:
    lines = [[row.path.name, row.what, size(row.bytes), row.again] for row in rows]
    return Table(("folder or file", "what", "size", "to do again, when needed"), lines, "llrl")
