"""Labels as people write them into cells: the right reading, or one line that names cause and remedy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gankd.data.cells import MISSING
from gankd.data.dataset import splits_from_dataset
from gankd.data.folder import load_folder
from gankd.data.images import Splits
from gankd.errors import DataError
from gankd.tasks import Regression


def load(root: Path, labels: list[str], **options: Any) -> Splits:
    """Read labels from labels.csv; image k has level k."""
    for k in range(len(labels)):
        Image.new("L", (8, 8), k).save(root / f"{k:03d}.png")
    rows = [f'{k:03d}.png,"{label}"' for k, label in enumerate(labels)]
    (root / "labels.csv").write_text("\n".join(["image,label", *rows]) + "\n", encoding="utf-8")
    return load_folder(root, **options)


def refused(root: Path, labels: list[str], **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(root, labels, **options)
    line = str(caught.value)
    assert line.isprintable()
    return line


def values(splits: Splits) -> list[float]:
    """Label of each image, in order of the table."""
    found: dict[int, float] = {}
    for part in (splits.train, splits.val, splits.test):
        found |= dict(zip(part.images[:, 0, 0, 0].tolist(), part.labels.tolist(), strict=True))
    return [found[level] for level in sorted(found)]


HALVES = [k / 2 for k in range(30)]


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("{} mm", "mm"),
        ("{}mm", "mm"),
        ("{}°", "°"),
        ("{} °C", "°C"),
        ("{} %", "%"),
        ("{}\u00a0km/h", "km/h"),
        ("{} m²", "m²"),
        ("{} µm", "µm"),
        ("{} years", "years"),
        ("${}", "$"),
        ("{} €", "€"),
        ("+{} m", "m"),
        ("{}", ""),
    ],
)
def test_a_unit_in_every_row_becomes_that_of_the_task(text: str, unit: str, tmp_path: Path) -> None:
    splits = load(tmp_path, [text.format(half) for half in HALVES])
    assert splits.task == Regression(low=0.0, high=14.5, unit=unit)
    assert values(splits) == HALVES


def test_minus_signs(tmp_path: Path) -> None:
    assert values(load(tmp_path, [f"\N{MINUS SIGN}{half} V" for half in HALVES])) == [-half for half in HALVES]


def test_units_with_set_task(tmp_path: Path) -> None:
    labels = ["0°", "90°", "180°", "270°"] * 6
    splits = load(tmp_path, labels)  # few different integers are names of classes, as without a unit
    assert set(splits.task.label_names) == set(labels)
    splits = load(tmp_path, labels, task="regression")
    assert splits.task == Regression(low=0.0, high=270.0, unit="°")
    assert values(splits) == [0.0, 90.0, 180.0, 270.0] * 6
    halves = ["0.5 m", "1.5 m"] * 6
    assert load(tmp_path, halves, task="classification").task.label_names == ("0.5 m", "1.5 m")


@pytest.mark.parametrize("labels", [["2D", "3D"] * 6, ["7up", "3M", "5Gum"] * 4, ["1st", "2nd", "3rd", "4th"] * 3])
def test_names_that_begin_with_a_number(labels: list[str], tmp_path: Path) -> None:
    assert set(load(tmp_path, labels).task.label_names) == set(labels)


def test_names_of_many_kinds_that_begin_with_a_number(tmp_path: Path) -> None:
    labels = [f"{k}{'abcdefgh'[k % 8]}{'xyz'[k % 3]}" for k in range(24)] * 3
    assert set(load(tmp_path, labels).task.label_names) == set(labels)


@pytest.mark.parametrize(
    ("odd", "said"),
    [("1.2 cm", "got cm in '1.2 cm' but mm in '0.0 mm'"), ("7", "got no unit in '7' but mm"), ("7 MM", "got MM in")],
)
def test_several_units(odd: str, said: str, tmp_path: Path) -> None:
    line = refused(tmp_path, [*(f"{half} mm" for half in HALVES), odd])
    assert "labels.csv line 32: expected one unit in all rows, " + said in line


def test_words_among_numbers_with_a_unit(tmp_path: Path) -> None:
    line = refused(tmp_path, [*(f"{half} mm" for half in HALVES), "long"])
    assert "line 32: expected a number as label, got 'long'" in line


@pytest.mark.parametrize(
    ("extra", "expected"),
    [("1,234,567", 1234567.0), ("1,250.5", 1250.5), ("0.5", 0.5), ("12,000,000", 12e6)],
)
def test_thousands_separators_that_cannot_be_decimal_points(extra: str, expected: float, tmp_path: Path) -> None:
    labels = [*(f"{k},{500 + k}" for k in range(1, 30)), extra]
    assert values(load(tmp_path, labels)) == [*(1000.0 * k + 500 + k for k in range(1, 30)), expected]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([f"{k},000" for k in range(1, 30)], "line 2: 1,000 may be 1000 or 1.000; write all numbers without a comma"),
        ([f"{k},000 km" for k in range(1, 30)], "1,000 km may be 1000 or 1.000"),
        ([*map(str, range(900, 930)), "1,000"], "line 32: 1,000 may be 1000 or 1.000"),
        (["0,950", "1,000.5", *map(str, HALVES)], "0,950 may be"),
        ([f"{k},5" for k in range(30)], "write a decimal point"),
        ([f"{k},5 mm" for k in range(30)], "write a decimal point"),
        (
            [f"{k} 000" for k in range(1, 30)],
            "without thousands separators, got '1 000' (and 28 more such rows: line 3",
        ),
        ([f"{k}'000" for k in range(1, 30)], 'without thousands separators, got "1\'000"'),
        ([f"{k}.000.000" for k in range(1, 30)], "without thousands separators, got '1.000.000'"),
        ([f"{k}.250,5" for k in range(1, 30)], "without thousands separators, got '1.250,5'"),
    ],
)
def test_separators_that_can_be_read_in_two_ways(labels: list[str], said: str, tmp_path: Path) -> None:
    assert said in refused(tmp_path, labels)


BLANKS = ["-", "--", "\N{EM DASH}", "?", ".", "\\N", "#DIV/0!", "#REF!", "#NAME?"]


@pytest.mark.parametrize("cell", [*sorted(MISSING), *BLANKS, "", "nan", "NaN"])
@pytest.mark.parametrize("others", [["cat", "dog"] * 6, [str(half) for half in HALVES]], ids=["text", "numbers"])
def test_missing_labels_are_named_with_rows(cell: str, others: list[str], tmp_path: Path) -> None:
    line = refused(tmp_path, [*others[:2], cell, *others[2:], cell])
    assert (
        f"labels.csv line 4: no label for 002.png, got {cell!r} (and 1 more such rows: line {len(others) + 3})" in line
    )


def test_many_missing_labels(tmp_path: Path) -> None:
    assert "(and 5 more such rows: line 3, line 4, line 5 ...)" in refused(tmp_path, [*["NA"] * 6, "a", "b"])


def test_a_class_may_be_called_none(tmp_path: Path) -> None:
    assert load(tmp_path, ["none", "dent"] * 6).task.label_names == ("dent", "none")
    assert load(tmp_path, ["NA", "EU"] * 6, task="classification").task.label_names == ("EU", "NA")
    assert load(tmp_path, ["-", "+", "?"] * 6, task="classification").task.label_names == ("+", "-", "?")


@pytest.mark.parametrize(("one", "other"), [("cat", "Cat"), ("sky blue", "sky  blue"), ("caf\u00e9", "cafe\u0301")])
def test_one_class_in_two_spellings(one: str, other: str, tmp_path: Path) -> None:
    line = refused(tmp_path, [one, "dog", other] * 6)
    assert "line 4: " in line
    assert f"differs only in spelling from {one!r} in" in line
    assert len(load(tmp_path, [one, "dog", other] * 6, task="classification").task.label_names) == 3


def test_capital_letters_are_classes_of_their_own(tmp_path: Path) -> None:
    assert load(tmp_path, ["a", "A", "b"] * 6).task.label_names == ("A", "a", "b")


@pytest.mark.parametrize(
    "labels",
    [
        ["cat|dog", "cat", "dog", "dog|cat"],
        ["cat|dog", "cat|bird"],
        ["cat;dog", "dog;bird", "owl"],
        ["cat, dog", "cat", "dog"],
        ["cat/dog", "dog/cat"],
        ["cat+dog", "cat", "dog"],
        ["cat & dog", "cat", "dog"],
        ["scab rust", "rust", "scab"],
        ["['cat', 'dog']", "['cat']"],
        ["(cat, dog)", "cat"],
        ["{cat, dog}", "owl"],
    ],
    ids="_".join,
)
def test_several_labels_in_a_cell(labels: list[str], tmp_path: Path) -> None:
    line = refused(tmp_path, labels * 6)
    assert "expected one label per image, got " in line
    assert "keep one, or add --task classification" in line
    assert set(load(tmp_path, labels * 6, task="classification").task.label_names) == set(labels)


@pytest.mark.parametrize(
    "labels",
    [
        ["black, cat", "dog"],
        ["red, car", "red, bus"],
        ["T-shirt/top", "trouser"],
        ["rock & roll", "rock"],
        ["hot dog", "dog"],
        ["New York", "New Orleans"],
        ["a||b", "c"],
        ["cat cat", "cat"],
    ],
    ids="_".join,
)
def test_names_with_separators_are_names(labels: list[str], tmp_path: Path) -> None:
    assert set(load(tmp_path, labels * 6).task.label_names) == set(labels)


@pytest.mark.parametrize("text", ["{}|{}", "{};{}", "{} {}", "[{}, {}]", "({}, {})"])
def test_several_values_in_a_cell(text: str, tmp_path: Path) -> None:
    line = refused(tmp_path, [text.format(half, half + 1) for half in HALVES])
    assert "line 2: expected one value per image, got " in line


@pytest.mark.parametrize("first", [0, 1])
def test_many_consecutive_integers_may_be_classes_or_values(first: int, tmp_path: Path) -> None:
    labels = [str(first + k % 25) for k in range(100)]
    line = refused(tmp_path, labels)
    assert f"the labels are the integers from {first} to {first + 24}" in line
    assert line.endswith("add --task classification or --task regression")
    assert load(tmp_path, labels, task="regression").task == Regression(low=first, high=first + 24)
    names = load(tmp_path, labels, task="classification").task.label_names
    assert names == tuple(str(first + k) for k in range(25))


@pytest.mark.parametrize(
    "labels",
    [
        [str(20 + k % 25) for k in range(100)],  # ages
        [str(k) for k in range(100)],  # one image each
        [str(2 * (k % 25)) for k in range(100)],
        [f"{k % 25}.0" for k in range(100)],
    ],
)
def test_other_integers_are_values(labels: list[str], tmp_path: Path) -> None:
    assert load(tmp_path, labels).task.kind == "regression"


def test_python_objects_are_read_alike() -> None:
    pictures = [np.full((8, 8), k, np.uint8) for k in range(30)]
    splits = splits_from_dataset([(p, f"{half} mm") for p, half in zip(pictures, HALVES, strict=True)])
    assert splits.task == Regression(low=0.0, high=14.5, unit="mm")
    with pytest.raises(DataError, match=r"dataset: train\[0\]: no label"):
        splits_from_dataset([(p, ["NA", "a", "b"][k % 3]) for k, p in enumerate(pictures)])
