"""`gankd verify RUN --files`: compare every file of a run folder with the hash that it was written with."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gankd.bench.grid import CELLS, read_cells
from gankd.data.store import IMAGES, cache_folder, is_hashed
from gankd.errors import CheckpointError, GankdError
from gankd.runs import Stage
from gankd.storage import CHANGED, HASH, REMEDY, intact, read_json
from gankd.synthetic import SyntheticSet


@dataclass(frozen=True)
class FileCheck:
    """Files of a run: how many are as they were written, and which are not."""

    intact: int
    damaged: tuple[str, ...]
    """One line for each file, with what to do."""
    unchecked: tuple[str, ...]
    """Files without a hash, of earlier versions."""

    @property
    def exit_code(self) -> int:
        """0, or 1 where a file has changed."""
        return 1 if self.damaged else 0

    @property
    def text(self) -> str:
        """Plain text."""
        lines = [f"{self.intact} files are as they were written"]
        if self.unchecked:
            lines.append(f"{len(self.unchecked)} of an earlier version carry no hash, such as {self.unchecked[0]}")
        return "\n".join([*lines, *self.damaged])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"intact": self.intact, "damaged": list(self.damaged), "unchecked": list(self.unchecked)}


def check_files(folder: Path) -> FileCheck:
    """Compare all files of a run that gankd reads again, and decoded images in the cache folder, which runs share.

    Files of the user's own and report.html have no hash.

    Args:
        folder: the run folder.
    """
    sound, damaged, unchecked = 0, [], []
    for path in (*_read_again(folder), *sorted(cache_folder().glob(f"*/{IMAGES}"))):
        try:
            hashed = _check(path)
        except (GankdError, OSError) as error:
            damaged.append(str(error))
            continue
        if hashed:
            sound += 1
        else:
            unchecked.append(str(path))
    return FileCheck(sound, tuple(damaged), tuple(unchecked))


def _read_again(folder: Path) -> Iterator[Path]:
    """Files that gankd has written and reads again."""
    for path in sorted(folder.rglob("*")):
        own = path.suffix in (".json", ".jsonl", ".safetensors") and not path.name.startswith(".")
        # A pool's arrays come with its manifest; lines of an unfinished stage are compared when it resumes.
        if own and (path.name != "metrics.jsonl" or (path.parent / "done.json").is_file()):
            yield path


def _check(path: Path) -> bool:
    """Raise an error unless a file is as it was written; False where it carries no hash.

    Raises:
        GankdError: it has changed.
    """
    if path.name == IMAGES:
        return is_hashed(path)
    if path.name == CELLS:
        read_cells(path)
        return all(HASH in json.loads(line) for line in path.read_text().splitlines())
    if path.name == "metrics.jsonl":
        Stage(path.parent.name, path.parent)  # compares history and result
        return "history" in read_json(path.parent / "done.json")
    if path.name == "manifest.json":
        SyntheticSet(path.parent).check()
    if path.suffix == ".safetensors":
        if intact(path.read_bytes()) is False:
            raise CheckpointError(f"{path} has {CHANGED}; {REMEDY}")
        return intact(path.read_bytes()) is True
    values = read_json(path)
    return isinstance(values, dict) and HASH in json.loads(path.read_text())
