"""Label photographs with an exported student."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gankd.bench.conformal import fewest_images
from gankd.data.files import Files, decode_into, walk
from gankd.data.own import Item
from gankd.errors import DataError
from gankd.models.exported import ExportedModel, Limit, open_exported
from gankd.tasks import Task
from gankd.text import Table, number

BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """One photograph and what the student says of it."""

    photo: str
    answer: str
    """Class or value, with its unit."""
    sure: bool
    """False where the student cannot tell."""
    facts: dict[str, Any]
    """Plain data: class and probability, or value, unit and the ends of its interval."""


@dataclass(frozen=True)
class Predictions:
    """Result of `gankd predict`."""

    model: ExportedModel
    rows: tuple[Prediction, ...]
    as_csv: bool = False

    @property
    def table(self) -> Table:
        """One row per photograph."""
        names = list(self.rows[0].facts)
        lines = [[row.photo, row.answer, *map(_cell, row.facts.values())] for row in self.rows]
        return Table(
            ("photo", "answer", *names),
            lines,
            "ll" + "r" * len(names),
            notes=[guarantee(self.model)],
        )

    @property
    def text(self) -> str:
        """Table for a terminal, or lines with commas."""
        return self.table.csv().rstrip("\n") if self.as_csv else self.table.plain()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        rows = [{"photo": row.photo, "answer": row.answer, "sure": row.sure, **row.facts} for row in self.rows]
        return {
            "model": str(self.model.path),
            "predictions": rows,
            "guarantee": guarantee(self.model),
        }


def predict(
    model: Path | str, photos: Sequence[Path | str], *, trust: bool = False, as_csv: bool = False
) -> Predictions:
    """Label photographs with a student that `gankd export` wrote.

    Photographs are read upright, and the central part is resampled, as a graph does it on a device.

    Args:
        model: the file, of any format.
        photos: files, and folders whose images are read.
        trust: run code that the file names or holds; see `open_exported`.
        as_csv: text of the result with commas, for a spreadsheet.

    Raises:
        CheckpointError, ModelError: the file cannot be used. DataError: a photograph cannot be read, or there is none.
    """
    found = open_exported(model, trust=trust)
    paths = [path for given in photos for path in _images_at(Path(given))]
    images = np.empty((len(paths), found.channels, *found.sides), np.uint8)
    items = [Item(str(path), path, "", "", None) for path in paths]
    root = Path(photos[0] if len(photos) == 1 else "photographs")
    decode_into(images, np.arange(len(paths)), root, items, Files(paths), draft=False)
    outputs = np.concatenate([found.run(images[at : at + BATCH]) for at in range(0, len(images), BATCH)])
    rows = tuple(
        prediction(str(path), output, found.task, found.limit) for path, output in zip(paths, outputs, strict=True)
    )
    return Predictions(found, rows, as_csv)


def guarantee(model: ExportedModel) -> str:
    """The limit of an exported student in a sentence that says what it promises."""
    limit = model.limit
    if limit is None:
        return f"no limit: export sets one on at least {fewest_images()} validation images"
    risk, missed, bound = f"{100 * limit.risk:g} %", f"{100 * limit.missed:.1f} %", number(limit.limit)
    kept = f"on average over choices of the {limit.images:,} validation images that set it, if images are alike"
    if limit.unanswered is not None:
        left = f"cannot tell up to a probability of {bound}" if limit.limit else "every image gets an answer"
        open_ = f"{100 * limit.unanswered:.1f} %"
        return f"{left}: at most {risk} get a wrong class, {kept}; of the test images {missed}, and {open_} get none"
    ends = "interval: value ±" if model.task.head_size == 1 else "mean error over the values up to"
    ends = f"{ends} {bound} {model.task.metric_unit}".rstrip()
    return f"{ends}, which misses at most {risk} of labels, {kept}; of the test images {missed}"


def _images_at(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"no file or folder {path}")
        return [path]
    images, others = walk(path)
    if not images:
        what = f"only other files, such as {others[0]}" if others else "it is empty"
        raise DataError(f"{path} holds no images ({what})")
    return sorted(images)


def prediction(photo: str, output: Any, task: Task, limit: Limit | None) -> Prediction:
    """Answer that an output stands for.

    Args:
        photo: name of the photograph.
        output: probabilities (K,), or a value, as an exported student gives them.
        task: task of the student.
        limit: limit of its answers; None: it always answers.
    """
    if names := task.label_names:
        best = int(output.argmax())
        name, probability = names[best], float(output[best])
        sure = limit is None or probability > limit.limit
        return Prediction(photo, name if sure else "cannot tell", sure, {"class": name, "probability": probability})
    answer, value = task.label_name(torch.from_numpy(np.asarray(output))), output.tolist()
    facts = {"value": value, "unit": task.metric_unit}
    if isinstance(value, float):
        ends = (None, None) if limit is None else (value - limit.limit, value + limit.limit)
        facts |= dict(zip(("low", "high"), ends, strict=True))
    return Prediction(photo, answer, True, facts)


def _cell(value: Any) -> str:
    return "" if value is None else number(value) if isinstance(value, float) else str(value)
