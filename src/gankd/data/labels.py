"""Labels of the user's own images: classes or values, as found or as the user says."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gankd.config import require
from gankd.data.cells import plain_cells
from gankd.data.own import JOINED, Choices, Item, TaskChoice, counted, draw_split, several, shown
from gankd.errors import DataError
from gankd.tasks import Classification, Regression, Task, VectorRegression

MOST_INTEGER_CLASSES = 20
"""Integer labels with more different values than this are numbers to regress, not names of classes."""
NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf|infinity)", re.ASCII | re.IGNORECASE)
COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
"""A number as written where the comma is the decimal point."""
INTEGER = re.compile(r"[+-]?\d{1,15}", re.ASCII)
LARGEST_LABEL = 1e30
"""Differences of labels and their normalisation must stay within float32."""


def choose_task(items: list[Item], task: TaskChoice, tabular: bool) -> tuple[str, str]:
    """Kind of task, and the reason."""
    if task != "auto":
        return task, "as --task says"
    if not tabular:
        return "classification", "one class per folder"
    labels = [item.label for item in items]
    if 2 * sum(COMMA.fullmatch(label) is not None for label in labels) > len(labels):
        return "regression", "the labels are numbers"  # reading them then says how to write the decimal point
    if 2 * sum(NUMBER.fullmatch(label) is not None for label in labels) <= len(labels):
        return "classification", "the labels are text"
    if few_integers(labels):
        return (
            "classification",
            "the labels are few different integers (--task regression to read as numbers)",
        )
    return "regression", "the labels are numbers (--task classification to read as names of classes)"


def few_integers(labels: Sequence[str]) -> bool:
    """True if numbers as text are so few different integers that they name classes."""
    different = len(set(labels))
    few = different <= MOST_INTEGER_CLASSES and len(labels) >= 3 * different
    return few and all(map(INTEGER.fullmatch, labels))


def _refuse_numbered(root: Path, items: list[Item]) -> None:
    """Raise DataError where labels are 0, 1, 2, ... or 1, 2, 3, ... without a gap: as well classes as values."""
    labels = {item.label for item in items}
    if len(items) < 3 * len(labels) or not all(map(INTEGER.fullmatch, labels)):
        return
    numbers = sorted(set(map(int, labels)))
    if numbers[0] in (0, 1) and numbers[-1] - numbers[0] + 1 == len(numbers) == len(labels):
        raise DataError(
            f"{shown(root)}: the labels are the integers from {numbers[0]} to {numbers[-1]}, which may be class "
            "numbers or values; add --task classification or --task regression"
        )


def read_classes(root: Path, items: list[Item], hint: str = "") -> tuple[Tensor, Classification]:
    """Class numbers (N,) and their task; `hint` ends the error that there is only one class."""
    names = sorted({item.label for item in items})
    if all(map(INTEGER.fullmatch, names)):
        names.sort(key=int)
    if len(names) < 2:
        raise DataError(
            f"{shown(root)}: expected at least 2 classes, got only {shown(names[0])}"
            f"{hint or '; add images of another class'}"
        )
    number = {name: index for index, name in enumerate(names)}
    task = Classification(num_classes=len(names), class_names=tuple(map(shown, names)))
    return torch.tensor([number[item.label] for item in items]), task


def read_values(
    root: Path, items: list[Item], low: float | None, high: float | None, unit: str = ""
) -> tuple[Tensor, Regression]:
    """Labels (N,) in user units and their task."""
    least, most = -math.inf if low is None else low, math.inf if high is None else high
    values: list[float] = []
    for item in items:
        if not NUMBER.fullmatch(item.label):
            comma = COMMA.fullmatch(item.label)
            raise DataError(
                f"{item.where}: expected a number as label, got {item.label!r}; "
                f"{'write a decimal point' if comma else 'correct it'}, or add --task classification"
            )
        values.append(float(item.label))
        if not abs(values[-1]) <= LARGEST_LABEL:
            raise DataError(
                f"{item.where}: expected a finite label of at most {LARGEST_LABEL:g}, got {item.label}; "
                f"correct it or remove the image"
            )
        if not least <= values[-1] <= most:
            raise DataError(
                f"{item.where}: expected a label within the range that was set, [{least:g}, {most:g}], "
                f"got {item.label}; correct it, or widen the range (data.low, data.high)"
            )
    labels = torch.tensor(values, dtype=torch.float32)
    if labels.min() == labels.max():
        raise DataError(
            f"{shown(root)}: expected different labels, got {values[0]:g} for all of "
            f"{counted(len(items), 'image')}; check the label column"
        )
    # Ends are rounded to float32, so that the extreme labels are within them.
    ends = (labels.min().item() if low is None else low, labels.max().item() if high is None else high)
    return labels, Regression(low=ends[0], high=ends[1], unit=unit)


def read_vectors(root: Path, items: list[Item], choices: Choices, names: tuple[str, ...]) -> tuple[Tensor, Task]:
    """Labels (N, n) in user units and their task.

    Args:
        root: folder or file, for error messages.
        items: all images.
        choices: the user's settings.
        names: of the values; default: y1, y2 and so on.

    Raises:
        ConfigError: classes are asked for, another number of names, or a range. DataError: a value that cannot be read
            as a number, or that is the same for all images.
    """
    columns = list(zip(*(item.label.split(JOINED) for item in items), strict=True))
    names = names or tuple(f"y{number}" for number in range(1, len(columns) + 1))
    require(
        choices.task != "classification",
        f"several values per image ({', '.join(names)}) cannot be a class; name one column, or leave out --task",
    )
    require(
        len(names) == len(columns),
        f"label must name each of the {len(columns)} values of a label, got {len(names)}: {', '.join(names)}",
    )
    require(
        choices.low is None and choices.high is None,
        "low and high are the range of one value; the ranges of several are those of their labels: leave them out",
    )
    found: list[Tensor] = []
    outputs: list[Regression] = []
    for name, column in zip(names, columns, strict=True):
        own = [replace(item, label=text) for item, text in zip(items, column, strict=True)]
        try:
            plain, unit = plain_cells(own, "regression", few_integers)
            labels, task = read_values(root, plain, None, None, unit)
        except DataError as error:
            raise DataError(f"value {shown(name)}: {error}") from None
        found.append(labels)
        outputs.append(task)
    return torch.stack(found, 1), VectorRegression(names=tuple(map(shown, names)), outputs=tuple(outputs))


def settle(
    root: Path,
    items: list[Item],
    choices: Choices,
    *,
    tabular: bool = True,
    class_names: tuple[str, ...] = (),
    hint: str = "",
) -> tuple[Tensor, Task, dict[str, Tensor], dict[str, Any]]:
    """Find the task and the splits of images whose labels are text.

    Args:
        root: folder or file, for error messages.
        items: all images.
        choices: the user's settings.
        tabular: labels come from a table; otherwise they are names of folders.
        class_names: names of the labels 0 .. K - 1, if known; labels are then classes, however many, unless
            `choices` say otherwise. Names of the values where labels have several.
        hint: ends the error that there is only one class.

    Returns:
        Labels (N,), or (N, n) of n values, in user units, their task, ascending indices of train, val and test, and
        entries of the card.

    Raises:
        ConfigError: a range of classes. DataError: labels that do not fit, or too few images.
    """
    low, high = choices.low, choices.high
    found: Task
    unit = ""
    vectors = several(items)
    if tabular and not class_names and not vectors:
        items, unit = plain_cells(items, choices.task, few_integers)
    if vectors:
        kind, why = "regression", "several values per image"
    elif class_names and choices.task != "regression":
        kind, why = "classification", "class_names tells what the integers are called"
    else:
        kind, why = choose_task(items, choices.task, tabular)
        if kind == "regression" and choices.task == "auto":
            _refuse_numbered(root, items)
    if vectors:
        labels, found = read_vectors(root, items, choices, choices.label or class_names)
    elif kind == "regression":
        labels, found = read_values(root, items, low, high, unit)
    else:
        require(
            low is None and high is None,
            f"low and high are for regression, but {shown(root)} has classes; add --task regression",
        )
        labels, classes = read_classes(root, items, hint)
        if class_names:
            classes = replace(classes, class_names=tuple(class_names[int(n)] for n in classes.class_names))
        found = classes
    index, split = draw_split(root, items, labels, found, choices.seed, group=choices.group_name)
    given = {item.part for item in items}
    card: dict[str, Any] = {"split": split, "labels": f"{kind}: {why}"}
    card["drawn"] = [part for part in ("val", "test") if part not in given]
    return labels, found, index, card
