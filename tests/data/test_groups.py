"""Splits by group: no group is divided, sizes and labels stay in proportion, and every reader finds the groups."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gankd.data.folder import load_folder
from gankd.data.groups import group_strata, share_groups
from gankd.data.h5 import load_h5
from gankd.data.idx import load_idx
from gankd.data.images import Splits
from gankd.data.npz import load_npz
from gankd.data.own import SHARES
from gankd.data.shards import load_shards
from gankd.data.table import load_table
from gankd.errors import ConfigError, DataError

COUNT = 60
PATIENTS = [f"p{k // 4}" for k in range(COUNT)]  # 15 patients of 4 images, 2 of each class
LABELS = [["ill", "well"][k % 2] for k in range(COUNT)]


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_divided_and_shares_hold(seed: int) -> None:
    random = np.random.default_rng(seed)
    groups = [f"g{number}" for number in random.zipf(1.6, 3000) % 400]
    strata = random.integers(0, 5, 3000).tolist()
    found = share_groups(groups, strata, SHARES, seed)
    assert all(len({part for group, part in zip(groups, found, strict=True) if group == own}) == 1 for own in {*groups})
    assert found == share_groups(groups, strata, SHARES, seed)
    largest = max(Counter(groups).values())
    for part, share in SHARES.items():
        sizes = np.bincount([label for label, own in zip(strata, found, strict=True) if own == part], minlength=5)
        assert abs(sizes.sum() - 300 * share) <= max(0.02 * 3000, largest - 300 * share)
        assert np.abs(sizes / sizes.sum() - 0.2).max() < 0.1


def test_groups_of_one_image_are_shared_exactly() -> None:
    found = share_groups(list(map(str, range(100))), [0] * 50 + [1] * 50, SHARES, 0)
    assert Counter(found) == {"train": 70, "val": 10, "test": 20}
    assert Counter(found[:50]) == {"train": 35, "val": 5, "test": 10}
    assert found != share_groups(list(map(str, range(100))), [0] * 50 + [1] * 50, SHARES, 1)


def test_few_groups_leave_no_split_empty() -> None:
    for sizes in ([50, 1, 1], [10, 10, 10], [40, 30, 30, 1], [20] * 5):
        groups = [str(number) for number, size in enumerate(sizes) for _ in range(size)]
        found = share_groups(groups, [0] * len(groups), SHARES, 0)
        assert set(found) == set(SHARES)
        assert Counter(found)["train"] == max(Counter(found).values())


def test_strata_of_values_are_tenths() -> None:
    assert group_strata(torch.arange(20.0).flip(0)) == [9 - k // 2 for k in range(20)]
    assert group_strata(torch.tensor([5, 3, 5, 3, 5, 3])) == [1, 0, 1, 0, 1, 0]


def png(k: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(k).integers(0, 256, (8, 8), dtype=np.uint8)).save(content, "png")
    return content.getvalue()


def csv(root: Path, patients: list[str], split: list[str] | None = None) -> Path:
    lines = ["image,label,Patient" + (",split" if split else "")]
    for k, patient in enumerate(patients):
        (root / f"{k:02d}.png").write_bytes(png(k))
        lines.append(f"{k:02d}.png,{LABELS[k]},{patient}" + (f",{split[k]}" if split else ""))
    (root / "labels.csv").write_text("\n".join(lines))
    return root


def sides(splits: Splits) -> list[set[int]]:
    """Patients (number) in train, val and test, by the pixels of their images."""
    number = {}
    for k in range(COUNT):
        number[np.asarray(Image.open(io.BytesIO(png(k)))).tobytes()] = k // 4
    return [{number[i[0].numpy().tobytes()] for i in part.images} for part in (splits.train, splits.val, splits.test)]


def check(splits: Splits) -> None:
    train, val, test = sides(splits)
    assert sorted([*train, *val, *test]) == list(range(15))
    assert "(15, none divided)" in splits.card["split"]
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [40, 8, 12]
    assert all(part.labels.float().mean() == 0.5 for part in (splits.train, splits.val, splits.test))


def test_a_column_of_every_format(tmp_path: Path) -> None:
    check(load_folder(csv(tmp_path, PATIENTS), group="patient"))
    check(load_table(tmp_path / "labels.csv", group="Patient"))
    columns = {"label": LABELS, "patient": [int(name[1:]) for name in PATIENTS]}
    pq.write_table(pa.table({"image": [png(k) for k in range(COUNT)], **columns}), tmp_path / "x.parquet")
    check(load_table(tmp_path / "x.parquet", group="patient"))
    pq.write_table(pa.table({"file": [f"{k:02d}.png" for k in range(COUNT)], **columns}), tmp_path / "y.parquet")
    check(load_table(tmp_path / "y.parquet", group="patient"))
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for k in range(COUNT):
            facts = json.dumps({"label": LABELS[k], "patient": PATIENTS[k]}).encode()
            for name, content in ((f"{k}.png", png(k)), (f"{k}.json", facts)):
                header = tarfile.TarInfo(name)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
    check(load_shards(tmp_path / "x.tar", group="patient"))


def pixels(row: slice = slice(None)) -> Any:
    return np.stack([np.asarray(Image.open(io.BytesIO(png(k)))) for k in range(COUNT)])[row]


def test_arrays(tmp_path: Path) -> None:
    names = np.array(PATIENTS)
    np.savez(tmp_path / "x.npz", images=pixels(), label=LABELS, Patient=names)
    check(load_npz(tmp_path / "x.npz", group="patient"))
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"], file["label"], file["patient"] = pixels(), [k % 2 for k in range(COUNT)], np.arange(COUNT) // 4
    check(load_h5(tmp_path / "x.h5", group="patient", task="classification"))

    parts = {"train": slice(0, 40), "test": slice(40, 60)}
    arrays: dict[str, Any] = {f"x_{part}": pixels(row) for part, row in parts.items()}
    arrays |= {f"y_{part}": np.array(LABELS)[row] for part, row in parts.items()}
    groups: dict[str, Any] = {f"patient_{part}": names[row] for part, row in parts.items()}
    np.savez(tmp_path / "y.npz", **arrays, **groups)
    assert (
        "given; train, val drawn 7 : 1 by patient (10, none"
        in load_npz(tmp_path / "y.npz", group="patient").card["split"]
    )
    groups["patient_test"] = np.array(["p1", *names[41:]])
    np.savez(tmp_path / "y.npz", **arrays, **groups)
    for path, group, said in (
        ("y.npz", "patient", r"patient p1 is in train and in test, as x_train\[4\] and x_test\[0\]"),
        ("x.npz", "video", "no array video of groups, got images, label, Patient; name one, or leave data.group out"),
        ("x.npz", "images", r"expected images \(60,\), a group for each image as a whole number or text, got uint8"),
    ):
        with pytest.raises(DataError, match=said):
            load_npz(tmp_path / path, group=group)


def test_text_beside_idx_files(tmp_path: Path) -> None:
    def idx(array: Any) -> bytes:
        return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()

    labels = np.array([k % 2 for k in range(COUNT)], np.uint8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(pixels()))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    with pytest.raises(DataError, match=r"no patient for train\[0\]; add it, or leave data.group out"):
        load_idx(tmp_path, group="patient")
    (tmp_path / "train-patient.txt").write_text("\n".join(PATIENTS) + "\n")
    check(load_idx(tmp_path, group="patient"))
    (tmp_path / "train-patient.txt").write_text("p1\n")
    with pytest.raises(DataError, match="expected a group for each image, a line each, got 1 line and 60 images"):
        load_idx(tmp_path, group="patient")


def test_a_level_of_folders(tmp_path: Path) -> None:
    for k, patient in enumerate(PATIENTS):
        path = tmp_path / LABELS[k] / patient / "left" / f"{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(k))
    check(load_folder(tmp_path, group="1"))
    assert "drawn 7 : 1 : 2 by 2 (15, none divided)" in load_folder(tmp_path, group="2").card["split"]
    with pytest.raises(
        DataError, match=r"no folder at level 3 below the class for ill/p0/left/00.png; add it, or leave"
    ):
        load_folder(tmp_path, group="3")
    for wrong in ("patient", "0"):
        with pytest.raises(ConfigError, match="data.group is a level of folders below the class folders, 1, 2"):
            load_folder(tmp_path, group=wrong)


def refused(root: Path, group: str = "patient", **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_folder(root, group=group, **settings)
    return str(caught.value)


def test_what_is_refused(tmp_path: Path) -> None:
    csv(tmp_path, [*PATIENTS[:-1], ""])
    assert "line 61: no patient for 59.png; add it, or leave data.group out" in refused(tmp_path)
    assert "data.group: no column video; " in refused(tmp_path, "video")
    csv(tmp_path, ["a"] * 30 + ["b"] * 30)
    assert "expected at least 3 groups (patient) to share among train, val, test, got 2" in refused(tmp_path)


def test_own_test_images_need_no_groups(tmp_path: Path) -> None:
    for k, patient in enumerate(PATIENTS):
        path = tmp_path / "a" / LABELS[k] / patient / f"{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(k))
        if k < 8:
            (tmp_path / "b" / LABELS[k]).mkdir(parents=True, exist_ok=True)
            (tmp_path / "b" / LABELS[k] / f"{k}.png").write_bytes(png(100 + k))
    splits = load_folder(tmp_path / "a", group=1, test=str(tmp_path / "b"))
    assert len(splits.test) == 8
    assert "drawn 7 : 1 by 1 (15, none divided)" in splits.card["split"]


def test_the_users_own_split_may_not_divide_a_group(tmp_path: Path) -> None:
    split = ["train"] * 40 + ["test"] * 20
    assert "given" in load_folder(csv(tmp_path, PATIENTS, split), group="patient").card["split"]
    split[37] = "test"
    line = refused(csv(tmp_path, PATIENTS, split))
    assert "patient p9 is in train and in test, as 36.png and 37.png; move its images to one split" in line
