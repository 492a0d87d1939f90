from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from gankd.data.images import Splits
from gankd.data.rc49 import load_rc49
from gankd.errors import ConfigError, DataError
from gankd.tasks import Regression

CHAIRS = 8
TENTHS = np.repeat(np.arange(1, 900), CHAIRS)
TYPES = np.tile(np.arange(CHAIRS), 899) + 3
IMAGES = np.zeros((len(TENTHS), 3, 8, 8), np.uint8)
"""The first pixel bears the chair, and the next two the angle."""
IMAGES[:, 0, 0, 0], IMAGES[:, 1, 0, 0], IMAGES[:, 2, 0, 0] = TYPES, TENTHS // 256, TENTHS % 256


def stored(path: Path, **changes: Any) -> Path:
    content = {"images": IMAGES, "labels": TENTHS / 10, "types": TYPES} | changes
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            if values is not None:
                file[name] = values
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("rc49") / "RC-49_64x64.h5")


def rows(data: Splits) -> list[set[tuple[int, ...]]]:
    """(chair, angle) of the images of each split."""
    for part in (data.train, data.val, data.test):
        corner = part.images[:, :, 0, 0].long()
        assert torch.equal(part.labels, ((256 * corner[:, 1] + corner[:, 2]).double() / 10).float())
    return [set(map(tuple, part.images[:, :, 0, 0].tolist())) for part in (data.train, data.val, data.test)]


def odd(part: set[tuple[int, ...]]) -> bool:
    return all(low % 2 for _, _, low in part)


def test_published_protocol(whole: Path) -> None:
    data = load_rc49(whole, size=8, per_label=4)
    train, val, test = rows(data)
    assert data.task == Regression(low=0, high=90, unit="degrees")
    assert (len(train) + len(val), len(test)) == (4 * 450, CHAIRS * 899 - 4 * 450)
    assert odd(train | val)
    assert not (train & val | train & test | val & test)
    assert len({chair for chair, *_ in val}) == 1  # of eight
    assert not {chair for chair, *_ in val} & {chair for chair, *_ in train}
    counts = np.bincount(np.concatenate([data.train.labels, data.val.labels]).round(1).__mul__(10).round().astype(int))
    assert set(counts[1::2].tolist()) == {4}


def test_smaller_sets_are_parts_of_larger_ones(whole: Path) -> None:
    few, more = (rows(load_rc49(whole, size=8, per_label=count)) for count in (2, 5))
    assert few[0] | few[1] < more[0] | more[1]
    assert more[2] < few[2]
    other = rows(load_rc49(whole, size=8, per_label=2, seed=1))
    assert other[0] != few[0]


def test_what_may_train_is_in_the_file(tmp_path: Path) -> None:
    allowed = np.flatnonzero((TENTHS % 2 == 1) & (TYPES < 6))
    data = load_rc49(stored(tmp_path / "a.h5", indx_train=allowed), size=8, per_label=3)
    train, val, _ = rows(data)
    assert {chair for chair, *_ in train | val} == {3, 4, 5}


def test_as_many_as_there_are(whole: Path) -> None:
    train, val, test = rows(load_rc49(whole, size=8))
    assert len(train) + len(val) == CHAIRS * 450
    assert len(test) == CHAIRS * 449


def test_without_chairs(tmp_path: Path) -> None:
    train, val, test = rows(load_rc49(stored(tmp_path / "a.h5", types=None), size=8, per_label=4))
    assert (len(train), len(val), len(test)) == (1620, 180, CHAIRS * 899 - 1800)


def authors(path: Path, **changes: Any) -> Path:
    is_odd = TENTHS % 2 == 1
    train = np.arange(0, is_odd.sum(), 2)
    content = {
        f"{name}_{half}": values[mask]
        for name, values in (("images", IMAGES), ("labels", TENTHS / 10), ("types", TYPES))
        for half, mask in (("odd", is_odd), ("even", ~is_odd))
    }
    content |= {"indx_odd_train": train, "indx_odd_subtrain": train[:1000], "indx_odd_subvalid": train[1000:]}
    content |= {"indx_odd_rest": train + 1, "images": None, "labels": None, "types": None}
    return stored(path, **(content | changes))


def test_authors_file(tmp_path: Path) -> None:
    path = authors(tmp_path / "RC-49_64x64_4.h5")
    train, val, test = rows(load_rc49(path, size=8))
    assert (len(train), len(val), len(test)) == (1000, 800, CHAIRS * 899 - 1800)
    assert odd(train | val)
    assert sum(low % 2 == 0 for _, _, low in test) == CHAIRS * 449
    assert rows(load_rc49(path, size=8, per_label=4)) == [train, val, test]  # as the recipe of R-4 asks for it
    fewer = rows(load_rc49(path, size=8, per_label=2))
    assert fewer[0] | fewer[1] < train | val
    assert len(fewer[0] | fewer[1]) == 900


@pytest.mark.parametrize("per_label", [0, 9])
def test_images_per_angle(whole: Path, per_label: int) -> None:
    with pytest.raises(ConfigError, match=f"rc49: data.per_label .*{per_label}"):
        load_rc49(whole, per_label=per_label)


def test_broken_files(tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "expected an array images": {"images": None},
        "expected an array labels": {"labels": None},
        "label 0: expected an angle 0.1, 0.2 .. 89.9 degrees, got 90": {"labels": np.full(len(TENTHS), 90.0)},
        "label 0: .* got 5.55": {"labels": np.full(len(TENTHS), 5.55)},
        r"expected labels \(7192,\)": {"labels": np.arange(9)},
        "expected positions from 0 to 7191 in indx_train": {"indx_train": np.array([7192])},
        r"expected types \(7192,\)": {"types": np.arange(9)},
    }
    for said, changes in cases.items():
        with pytest.raises(DataError, match=said):
            load_rc49(stored(tmp_path / "a.h5", **changes), size=8, per_label=2)
    with pytest.raises(DataError, match=r"expected labels_even \(3592,\)"):
        load_rc49(authors(tmp_path / "a.h5", labels_even=np.arange(3)), size=8)
