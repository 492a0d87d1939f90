"""Steering Angle: frames of a drive with the angle of the steering wheel, as published, or the authors' h5."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gankd.data.arrays import arrange_arrays
from gankd.data.h5 import is_h5, open_h5
from gankd.data.images import Splits
from gankd.data.labels import NUMBER
from gankd.data.own import SHARES, Choices, allot, and_more, shown
from gankd.data.published import UNUSED, Parts, decode_splits, draw_splits, read_lines, require_folder
from gankd.errors import DataError
from gankd.seeds import rng
from gankd.tasks import Regression

SIDE = 64
LOW, HIGH = -88.13, 97.92
"""Range of the authors' files, in degrees."""
TABLE = "data.txt"
BLOCK = 500
"""Consecutive frames that stay together, half a minute or less."""
LEAST_BLOCKS = 60
"""Least number of blocks: those of a short drive are shorter."""
GAP = 20
"""Length of a block divided by the length of the gap to other splits, which is at least one frame."""
LICENCE = "none stated; cite Chen (SullyChen/driving-datasets)"
RANK = {"train": 0, "val": 1, "test": 2, UNUSED: -1}


def load_steering(
    path: str | Path, *, size: int | None = None, low: float | None = None, high: float | None = None, seed: int = 0
) -> Splits:
    """`steering`: the angle of a steering wheel in degrees, 64x64 RGB.

    Folder: `data.txt` with a line `12.jpg 3.52` per frame, a date after a comma being optional, and the frames next to
    it or in `data`. The central square of a frame is resampled, bicubic and antialiased. The authors' h5: images_train,
    labels_train and the same for test; or images and labels, as in CcGAN. Frames outside `low` .. `high` are left out.

    Neighbouring frames are almost equal, so train, val and test, 7 : 1 : 2, are drawn as blocks of 500 consecutive
    frames (shorter ones of a short drive), and where a block borders on one of another split, 25 frames are left out (a
    twentieth of a shorter block, one at least). A test split that the file gives stays; whether its frames neighbour
    training frames, the file does not say.

    Args:
        path: the folder or file.
        size: height and width instead of 64, a multiple of 4 from 8 to 256.
        low: least angle; default: -88.13 degrees as in the authors' file; -80 in CcGAN.
        high: greatest angle; default: 97.92 degrees; 80 in CcGAN.
        seed: draws the blocks.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a file is missing, damaged, or of another set.
    """
    path = Path(path)
    choices = Choices(size=size, low=LOW if low is None else low, high=HIGH if high is None else high, seed=seed)
    assert choices.low is not None
    assert choices.high is not None
    task = Regression(low=choices.low, high=choices.high, unit="degrees")
    read = _read_h5 if is_h5(path) else _read_folder
    parts, split, beyond = read(path, size or SIDE, task, seed)
    origin = f"Steering Angle: {sum(map(len, parts)):,} frames used, {beyond:,} outside {task.low:g} to {task.high:g}"
    return Splits(*parts, "steering", {"origin": origin, "licence": LICENCE, "split": split})


def split_by_blocks(path: Path, count: int, drawn: list[str], seed: int) -> npt.NDArray[Any]:
    """Split of each of `count` consecutive frames, or UNUSED where a block of another split is near.

    The gap is cut from train rather than from val, and from val rather than from test.

    Raises:
        DataError: too few frames for a block of each split.
    """
    length = min(BLOCK, max(2, count // LEAST_BLOCKS))
    gap = max(1, length // GAP)
    if count < len(drawn) * length:
        least = len(drawn) * length
        raise DataError(
            f"{shown(path)}: expected at least {least} frames for {', '.join(drawn)}, got {count}; add frames"
        )
    num_blocks = -(-count // length)
    of_block = np.empty(num_blocks, object)
    order = torch.randperm(num_blocks, generator=rng(seed, "steering", "blocks")).numpy()
    of_block[order] = allot(num_blocks, drawn)
    place = np.arange(count)
    parts = of_block[place // length]
    rank = np.array([RANK[part] for part in parts])
    # Two gaps are no longer than a block, so the block a gap away decides.
    for shift in (-gap, gap):
        parts[rank[(place + shift).clip(0, count - 1)] > rank] = UNUSED
    return parts


def _read_folder(root: Path, side: int, task: Regression, seed: int) -> tuple[Parts, str, int]:
    require_folder(root, f"a folder with {TABLE} and frames, or the authors' .h5")
    table = root / TABLE
    frames: dict[str, float] = {}
    for row, words in enumerate(read_lines(table), start=1):
        angle = words[1].split(",")[0] if len(words) > 1 else ""
        if not NUMBER.fullmatch(angle) or not np.isfinite(float(angle)):
            raise DataError(
                f"{shown(table)} line {row}: expected a frame and its angle, as 12.jpg 3.52, got "
                f"{shown(' '.join(words[:2]))}; correct it or remove the line"
            )
        if words[0] in frames:
            raise DataError(f"{shown(table)} line {row}: {shown(words[0])} has an angle already; keep one line")
        frames[words[0]] = float(angle)
    folder = root / "data" if (root / "data").is_dir() else root
    paths = [folder / Path(name).name for name in frames]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"{shown(table)}: no frame {shown(missing[0].name)} in {shown(folder)}"
            f"{and_more(len(missing) - 1, 'frames')}; unpack the set again, or remove these lines"
        )
    labels = np.array(list(frames.values()))
    if all(path.stem.isdecimal() for path in paths):  # numbered as they were recorded
        order = sorted(range(len(paths)), key=lambda frame: int(paths[frame].stem))
        paths, labels = [paths[frame] for frame in order], labels[order]
    parts = split_by_blocks(root, len(paths), list(SHARES), seed)
    index, split, beyond = _index(root, labels, parts, task, seed)
    values = torch.from_numpy(labels).float()
    return decode_splits(root, paths, values, task, index, side), split, beyond


def _read_h5(path: Path, side: int, task: Regression, seed: int) -> tuple[Parts, str, int]:
    with open_h5(path) as file:
        ends = ("_train", "_test") if file.has("images_train") else ("",)
        sets = [file.images(f"images{end}") for end in ends]
        numbers = [file.numbers(f"labels{end}", len(images)) for end, images in zip(ends, sets, strict=True)]
        drawn = list(SHARES) if len(sets) == 1 else ["train", "val"]
        parts = split_by_blocks(path, len(sets[0]), drawn, seed)
        if len(sets) == 2:
            parts = np.concatenate([parts, np.full(len(sets[1]), "test", object)])
        labels = np.concatenate(numbers).astype(np.float64)
        index, split, beyond = _index(path, labels, parts, task, seed)
        images = arrange_arrays(path, sets, torch.from_numpy(labels).float(), task, index, side, "rgb")
    return images, split, beyond


def _index(
    path: Path, labels: npt.NDArray[np.float64], parts: npt.NDArray[Any], task: Regression, seed: int
) -> tuple[dict[str, torch.Tensor], str, int]:
    """Positions of the splits, their origin in words, and the number of frames out of range."""
    slack = 1e-5 * task.span  # ends may be stored as float32
    beyond = (labels < task.low - slack) | (labels > task.high + slack)
    gaps = int((parts[~beyond] == UNUSED).sum())
    parts[beyond] = UNUSED
    for part in SHARES:
        if part not in parts:
            raise DataError(
                f"{shown(path)}: expected frames of {task.low:g} to {task.high:g} degrees in train, val and test, got "
                f"none in {part}; widen data.low and data.high, or add frames"
            )
    index, split = draw_splits(path, torch.from_numpy(labels).float(), task, parts.tolist(), seed)
    how = f"blocks of consecutive frames, seed {seed}, {gaps:,} frames between them left out"
    return index, f"{split}; {how}", int(beyond.sum())
