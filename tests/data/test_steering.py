from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from gankd.data.images import Splits
from gankd.data.steering import load_steering, split_by_blocks
from gankd.errors import ConfigError, DataError
from gankd.tasks import Regression

COUNT = 240
ANGLES = 120 * np.sin(np.arange(COUNT) / 7)
USED = (ANGLES >= -88.13) & (ANGLES <= 97.92)


def number(data: Splits) -> list[list[int]]:
    """Frames of each split."""
    return [(100 * (corner[:, 0] // 10) + corner[:, 1] // 2).tolist() for part in (data.train, data.val, data.test)
            for corner in [part.images[:, :, 0, 0].long()]]  # fmt: skip


def frames() -> Any:
    """(COUNT, 3, 8, 8), each with its number."""
    made = np.zeros((COUNT, 3, 8, 8), np.uint8)
    made[:, 0], made[:, 1] = (
        (10 * (np.arange(COUNT) // 100))[:, None, None],
        (2 * (np.arange(COUNT) % 100))[:, None, None],
    )
    return made


def written(root: Path, folder: str = "", date: str = "", text: str | None = None) -> Path:
    (root / folder).mkdir(parents=True)
    for row, frame in enumerate(frames()):
        Image.fromarray(frame.transpose(1, 2, 0)).save(root / folder / f"{row}.jpg", "PNG")
    lines = "".join(f"{row}.jpg {angle:.6f}{date}\n" for row, angle in enumerate(ANGLES))
    (root / "data.txt").write_text(lines if text is None else text)
    return root


@pytest.mark.parametrize(("folder", "date"), [("", ""), ("data", ",2018-07-01 17:09:44:912")])
def test_both_published_sets(tmp_path: Path, folder: str, date: str) -> None:
    data = load_steering(written(tmp_path / "set", folder, date), size=8)
    assert data.task == Regression(low=-88.13, high=97.92, unit="degrees")
    train, val, test = number(data)
    expected = split_by_blocks(tmp_path / "set", COUNT, ["train", "val", "test"], 0)
    for name, rows in (("train", train), ("val", val), ("test", test)):
        assert rows == np.flatnonzero(USED & (expected == name)).tolist()
    for part, rows in zip((data.train, data.val, data.test), (train, val, test), strict=True):
        assert torch.allclose(part.labels, torch.from_numpy(ANGLES[rows]).float(), atol=1e-5)
    # Blocks of four frames: a frame's neighbours in its block are in its split.
    parts = {row: part for part, rows in enumerate((train, val, test)) for row in rows}
    assert all(parts[row] == parts[row - row % 4] for row in parts if row - row % 4 in parts)
    used = (USED & (expected != "unused")).sum()
    assert data.card["origin"] == f"Steering Angle: {used} frames used, {COUNT - USED.sum()} outside -88.13 to 97.92"
    assert load_steering(tmp_path / "set").train.shape == (3, 64, 64)


def test_the_range_is_a_setting(tmp_path: Path) -> None:
    root = written(tmp_path / "set")
    data = load_steering(root, size=8, low=-80, high=80)
    assert data.task == Regression(low=-80, high=80, unit="degrees")
    left_out = split_by_blocks(root, COUNT, ["train", "val", "test"], 0) == "unused"
    assert sum(map(len, number(data))) == ((abs(ANGLES) <= 80) & ~left_out).sum()
    with pytest.raises(ConfigError, match="low must be less than high, got low 100 and high 97.92"):
        load_steering(root, low=100)
    with pytest.raises(
        DataError, match="expected frames of 121 to 130 degrees in train, val and test, got none in train"
    ):
        load_steering(root, low=121, high=130)


def test_lines_in_any_order(tmp_path: Path) -> None:
    root = written(tmp_path / "set")
    expected = load_steering(root, size=8)
    lines = (root / "data.txt").read_text().splitlines()
    (root / "data.txt").write_text("\n".join(reversed(lines)))
    assert load_steering(root, size=8).fingerprint() == expected.fingerprint()


@pytest.mark.parametrize("count", [120, 240, 300, 1000, 1199, 2500])
@pytest.mark.parametrize("seed", range(3))
def test_short_drives_have_gaps_too(count: int, seed: int) -> None:
    parts = split_by_blocks(Path("set"), count, ["train", "val", "test"], seed)
    used = np.flatnonzero(parts != "unused")
    change = np.flatnonzero(parts[used][1:] != parts[used][:-1])
    assert (used[change + 1] - used[change]).min() > max(1, count // 60 // 20)
    shares = [(parts == part).mean() for part in ("train", "val", "test")]
    assert shares[0] > 0.4
    assert min(shares) > 0.02


@pytest.mark.parametrize("count", [60_000, 63_825, 45_406, 30_001])
def test_no_frame_is_near_one_of_another_split(count: int) -> None:
    parts = split_by_blocks(Path("set"), count, ["train", "val", "test"], 0)
    shares = {part: (parts == part).mean() for part in ("train", "val", "test", "unused")}
    assert shares["train"] == pytest.approx(0.7, abs=0.03)
    assert shares["val"] == pytest.approx(0.1, abs=0.02)
    assert shares["test"] == pytest.approx(0.2, abs=0.01)
    assert 0 < shares["unused"] < 0.03
    used = np.flatnonzero(parts != "unused")
    change = np.flatnonzero(parts[used][1:] != parts[used][:-1])
    assert len(change) > 20
    assert (used[change + 1] - used[change]).min() > 25 - (count < 60_000)
    assert not np.array_equal(split_by_blocks(Path("set"), count, ["train", "val", "test"], 1), parts)


def test_few_frames() -> None:
    assert len(split_by_blocks(Path("set"), 6, ["train", "val", "test"], 0)) == 6
    with pytest.raises(DataError, match="expected at least 6 frames for train, val, test, got 5"):
        split_by_blocks(Path("set"), 5, ["train", "val", "test"], 0)


TABLES: dict[str, tuple[str, str]] = {
    "empty": ("", "data.txt is empty"),
    "no angle": ("0.jpg 1.5\n1.jpg\n", "line 2: expected a frame and its angle, as 12.jpg 3.52, got 1.jpg; correct"),
    "text": ("0.jpg left\n", "line 1: .* got 0.jpg left"),
    "nan": ("0.jpg nan\n", "line 1: .* got 0.jpg nan"),
    "twice": ("0.jpg 1.5\n0.jpg 1.5\n", "line 2: 0.jpg has an angle already"),
    "no frame": ("0.jpg 1.5\n999.jpg 1.5\n998.jpg 1", r"no frame 999.jpg in .*set \(and 1 more frames\)"),
}


@pytest.mark.parametrize("case", TABLES)
def test_broken_tables(tmp_path: Path, case: str) -> None:
    text, said = TABLES[case]
    with pytest.raises(DataError, match=said):
        load_steering(written(tmp_path / "set", text=text))


def test_broken_folders(tmp_path: Path) -> None:
    root = written(tmp_path / "set")
    (root / "3.jpg").write_bytes((root / "3.jpg").read_bytes()[:40])
    with pytest.raises(DataError, match=f"1 of {COUNT} images cannot be read, first 3.jpg"):
        load_steering(root)
    (root / "data.txt").unlink()
    with pytest.raises(DataError, match="cannot read .*data.txt: No such file"):
        load_steering(root)
    with pytest.raises(DataError, match="absent: expected a folder with data.txt and frames"):
        load_steering(tmp_path / "absent")


def stored(path: Path, **content: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            file[name] = values
    return path


def test_authors_files(tmp_path: Path) -> None:
    plain = load_steering(stored(tmp_path / "SteeringAngle_64x64.h5", images=frames(), labels=ANGLES.round(6)), size=8)
    assert plain.fingerprint() == load_steering(written(tmp_path / "set"), size=8).fingerprint()
    split = {"images_train": frames()[:180], "labels_train": ANGLES[:180].astype(np.float32)}
    split |= {"images_test": frames()[180:], "labels_test": ANGLES[180:].astype(np.float32)}
    train, val, test = number(load_steering(stored(tmp_path / "SteeringAngle_64x64_prop_0.8.h5", **split), size=8))
    assert test == [row for row in range(180, COUNT) if USED[row]]
    parts = split_by_blocks(tmp_path, 180, ["train", "val"], 0)
    assert [train, val] == [
        [row for row in range(180) if USED[row] and parts[row] == part] for part in ("train", "val")
    ]
    assert val


def test_ends_of_the_range_stored_as_float32(tmp_path: Path) -> None:
    labels = np.where(np.arange(COUNT) % 2, -88.13, 97.92).astype(np.float32)
    data = load_steering(stored(tmp_path / "a.h5", images=frames(), labels=labels), size=8)
    used = split_by_blocks(tmp_path, COUNT, ["train", "val", "test"], 0) != "unused"
    assert sum(map(len, number(data))) == used.sum()
    assert f"{COUNT} frames used" not in data.card["origin"]
    assert "0 outside" in data.card["origin"]


def test_broken_files(tmp_path: Path) -> None:
    for said, content in {
        "expected an array images": {"labels": ANGLES},
        "expected an array labels_test": {"images_train": frames(), "labels_train": ANGLES, "images_test": frames()},
        r"labels\[0\]: expected a finite label": {"images": frames(), "labels": ANGLES * np.nan},
    }.items():
        with pytest.raises(DataError, match=said):
            load_steering(stored(tmp_path / "a.h5", **content))
