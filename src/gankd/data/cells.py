"""Labels as people write them into cells of a table: missing, several in one, units, thousands separators."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from gankd.data.own import Item, TaskChoice, and_more, shown
from gankd.errors import DataError

MISSING = frozenset(("NA", "N/A", "n/a", "N.A.", "n.a.", "#N/A", "#NA", "<NA>", "NaT", "None", "NULL", "Null", "null"))
"""Cells that programs write for a missing value, in this spelling; "none" may well be a class."""
_BLANK = re.compile(r"[-\u2010-\u2015\u2212._?]+|\\N|#[A-Z]+(?:/0)?[!?]")
"""Cells that people and spreadsheets write for a missing value: dashes, question marks, errors of formulas."""
SEPARATORS = ("|", ";", ",", "/", "+", "&", " ")
"""Characters between several labels in a cell. The first two hardly occur in names."""
MOST_UNITS = 4
"""Labels with more different units than this are names that begin with a number."""
_PLACES = 3
"""Number of rows that a message names."""

_DECIMAL = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?"
_COMMAS = r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?"
_OTHERS = (
    r"[+-]?[0-9]{1,3}(?:(?:[ '’\u00a0\u202f][0-9]{3})+(?:[.,][0-9]+)?"
    r"|(?:\.[0-9]{3}){2,}(?:,[0-9]+)?|(?:\.[0-9]{3})+,[0-9]+)"
)
_UNIT = r"(?:[^\W\d_]|[°%‰′″])(?:\w|[/^·*°%.-]){0,9}"
_MEASURED = re.compile(
    rf"(?P<money>[$€£¥₹])?\s*(?P<number>{_COMMAS}|{_OTHERS}|[+-]?[0-9]+,[0-9]+|{_DECIMAL})\s*(?P<unit>{_UNIT}|[$€£¥₹])?",
    re.IGNORECASE,
)
_SPECIAL = re.compile(r"[+-]?(?:inf|infinity)", re.IGNORECASE)
_VALUES = re.compile(rf"[\[(]?\s*{_DECIMAL}(?:\s*[|;/, ]\s*{_DECIMAL})+\s*[\])]?", re.IGNORECASE)


def plain_cells(
    items: list[Item], task: TaskChoice, few_integers: Callable[[Sequence[str]], bool]
) -> tuple[list[Item], str]:
    """Items whose labels are plain numbers where they are numbers in other ways of writing, and their unit.

    Numbers are read with a unit where all rows have the same, and without thousands separators where these cannot be
    decimal points. With task classification labels stay as they are.

    Args:
        items: images with their cells.
        task: kind of labels, if the user says so.
        few_integers: tells whether numbers (as text) name classes; labels with a unit then stay as they are.

    Raises:
        DataError: labels that are missing, several in a cell, or numbers that can be read in two ways.
    """
    missing = [
        item
        for item in items
        if item.label.lower() in ("", "nan")
        or (task != "classification" and (item.label in MISSING or _BLANK.fullmatch(item.label)))
    ]
    if missing:
        a_class = "" if missing[0].label.lower() in ("", "nan") else ", or add --task classification if it is a class"
        raise DataError(
            f"{missing[0].where}: no label for {shown(missing[0].key)}, got {missing[0].label!r}{_more(missing)}; "
            f"fill it in or remove the row{a_class}"
        )
    if task == "classification":
        return items, ""
    cells = [_MEASURED.fullmatch(item.label.replace("\N{MINUS SIGN}", "-")) for item in items]
    numbers = sum(map(bool, cells)) + sum(_SPECIAL.fullmatch(item.label) is not None for item in items)
    if task == "auto" and 2 * numbers <= len(items):
        _refuse_several_values(items, few_integers)
        _refuse_several_labels(items)
        _refuse_spellings(items)
        return items, ""
    return _plain_numbers(items, cells, task, few_integers)


def _plain_numbers(
    items: list[Item],
    cells: list[re.Match[str] | None],
    task: TaskChoice,
    few_integers: Callable[[Sequence[str]], bool],
) -> tuple[list[Item], str]:
    units = [((cell["money"] or "") + (cell["unit"] or "")) if cell else "" for cell in cells]
    first = {unit: item for unit, item, cell in reversed([*zip(units, items, cells, strict=True)]) if cell}
    if task == "auto" and set(first) != {""}:
        names = few_integers([cell["number"] for cell in cells if cell])
        if names or len(first) > MOST_UNITS:
            _refuse_several_labels(items)
            return items, ""
    if len(first) > 1:
        common = Counter(unit for unit, cell in zip(units, cells, strict=True) if cell).most_common()[0][0]
        other = next(unit for unit in first if unit != common)
        got, usual = (f"{shown(unit)}" if unit else "no unit" for unit in (other, common))
        raise DataError(
            f"{first[other].where}: expected one unit in all rows, got {got} in {first[other].label!r} but {usual} in "
            f"{first[common].label!r}; convert the numbers to one unit, or add --task classification"
        )
    plain = _without_separators(items, cells)
    return [
        item if label == item.label else replace(item, label=label) for item, label in zip(items, plain, strict=True)
    ], next(iter(first), "")


def _without_separators(items: list[Item], cells: list[re.Match[str] | None]) -> list[str]:
    """Labels as numbers in Python's writing; those that are not numbers stay."""
    numbers = [cell["number"] if cell else item.label for cell, item in zip(cells, items, strict=True)]
    other = [item for item, cell in zip(items, cells, strict=True) if cell and re.fullmatch(_OTHERS, cell["number"])]
    if other:
        raise DataError(
            f"{other[0].where}: expected a number without thousands separators, got {other[0].label!r}{_more(other)}; "
            "remove them"
        )
    grouped = [(item, number) for item, number in zip(items, numbers, strict=True) if re.fullmatch(_COMMAS, number)]
    if not grouped or any(re.fullmatch(r"[+-]?[0-9]+,[0-9]+", n) and not re.fullmatch(_COMMAS, n) for n in numbers):
        return numbers  # a decimal comma, which the reader of numbers names
    clear = any("." in number for number in numbers) or any(number.count(",") > 1 for _, number in grouped)
    if not clear or any(re.match(r"[+-]?0", number) for _, number in grouped):
        number = grouped[0][1]
        raise DataError(
            f"{grouped[0][0].where}: {shown(grouped[0][0].label)} may be {number.replace(',', '')} or "
            f"{number.replace(',', '.')}; write all numbers without a comma"
        )
    return [number.replace(",", "") if re.fullmatch(_COMMAS, number) else number for number in numbers]


def _refuse_several_values(items: list[Item], few_integers: Callable[[Sequence[str]], bool]) -> None:
    several = [item for item in items if _VALUES.fullmatch(item.label)]
    number = {label: str(place) for place, label in enumerate({item.label for item in items})}
    if 2 * len(several) > len(items) and not few_integers([number[item.label] for item in items]):
        raise DataError(
            f"{several[0].where}: expected one value per image, got {several[0].label!r}; keep one, or add --task "
            "classification if it is the name of a class"
        )


def _refuse_several_labels(items: list[Item]) -> None:
    """Raise DataError where cells are made of other labels, or of the same parts in another order."""
    labels = {item.label for item in items}
    for separator in SEPARATORS:
        parts = {label: [part.strip() for part in label.split(separator)] for label in labels if separator in label}
        parts = {label: found for label, found in parts.items() if all(found)}
        orders = Counter(frozenset(found) for found in parts.values())
        shared = Counter(part for found in parts.values() for part in set(found))
        for label, found in parts.items():
            alone = len(set(found)) > 1 and (labels.issuperset(found) or orders[frozenset(found)] > 1)
            if alone or (separator in "|;" and any(shared[part] > 1 for part in found)):
                _refuse(items, label)
    for label in labels:
        if re.fullmatch(r"\[.*\]|[({].*,.*[)}]", label):
            _refuse(items, label)


def _refuse_spellings(items: list[Item]) -> None:
    """Raise DataError where labels differ only in capitals, spaces or the way in which an accent is encoded.

    Single letters may be classes of their own, as in handwriting.
    """
    first: dict[str, Item] = {}
    for item in items:
        plain = " ".join(unicodedata.normalize("NFKC", item.label).casefold().split())
        other = first.setdefault(plain, item)
        if len(plain) > 1 and other.label != item.label:
            raise DataError(
                f"{item.where}: {item.label!r} differs only in spelling from {other.label!r} in {other.where}; write "
                "the class in one way, or add --task classification if these are two classes"
            )


def _refuse(items: list[Item], label: str) -> None:
    where = next(item.where for item in items if item.label == label)
    raise DataError(
        f"{where}: expected one label per image, got {label!r}, which looks like several; keep one, or add --task "
        "classification if it is the name of a class"
    )


def _more(items: list[Item]) -> str:
    """Number and places of all but the first item: " (and 2 more rows: line 5, line 9)"."""
    places = [" ".join(item.where.split()[-2:]) for item in items[1 : 1 + _PLACES]]
    listed = f": {', '.join(places)}{' ...' if len(items) > 1 + _PLACES else ''}" if places else ""
    return and_more(len(items) - 1, f"such rows{listed}")
