"""UTKFace, the age of a face: the official folders, or the authors' h5."""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gankd.data.arrays import arrange_arrays
from gankd.data.files import walk
from gankd.data.h5 import is_h5, open_h5
from gankd.data.images import Splits
from gankd.data.own import SHARES, counted, shown
from gankd.data.published import UNUSED, Parts, decode_splits, draw_splits, require_folder, side_of
from gankd.errors import DataError
from gankd.tasks import Classification, Regression

SIDE = 64
AGE = Regression(low=1.0, high=60.0, unit="years")
NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_(\d{8,}).*")
"""age_gender_race_date, and then whatever suffixes."""
LICENCE = "non-commercial research; may not be redistributed; cite Zhang, Song and Qi (CVPR 2017)"


def load_utkface(path: str | Path, *, size: int | None = None, seed: int = 0) -> Splits:
    """`utkface`: the age in years, 1 to 60, 64x64 RGB.

    Folder: images called `age_gender_race_date` with any suffix, as `26_1_0_20170117.jpg.chip.jpg`, in sub-folders too;
    of files of one name one is read. Some of the real ones lack a field: these are skipped and counted in the card, and
    so are ages beyond 60. Of each age 70 % of the images train, 10 % validate and 20 % test (the published 0.8 split,
    with validation taken from the 0.8). The authors' h5: images_train, labels_train and the same for test, of which
    val is drawn 7 : 1 for each age; or images and labels, with indx_subtrain, indx_subvalid and indx_test if there.
    The authors' copies of images of rare ages are not made.

    Args:
        path: the folder or file.
        size: height and width instead of 64, a multiple of 4 from 8 to 256.
        seed: draws the splits that are not given.

    Returns:
        Splits with float labels.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a file is missing, damaged, or of another set, or an age has fewer than three images.
    """
    path, side = Path(path), side_of(size, SIDE)
    parts, split, skipped = _read_h5(path, side, seed) if is_h5(path) else _read_folder(path, side, seed)
    origin = f"UTKFace: {sum(map(len, parts)):,} faces of 1 to 60 years"
    left_out = "".join(f"; {count:,} {why}" for why, count in skipped.items() if count)
    return Splits(*parts, "utkface", {"origin": f"{origin}{left_out}", "licence": LICENCE, "split": split})


def _read_folder(root: Path, side: int, seed: int) -> tuple[Parts, str, dict[str, int]]:
    expected = "a folder of UTKFace (age_gender_race_date.jpg), or the authors' .h5"
    require_folder(root, expected)
    found, _ = walk(root)
    images = {path.name: path for path in sorted(found, reverse=True)}  # the first of each name
    matches = {name: NAME.fullmatch(name) for name in sorted(images)}
    ages = {name: int(match[1]) for name, match in matches.items() if match}
    names = [name for name, age in ages.items() if AGE.low <= age <= AGE.high]
    if not names:
        raise DataError(
            f"{shown(root)}: expected {expected}, got {counted(len(found), 'image')}"
            f"{f', as {shown(found[0].name)}' if found else ''}; check the path"
        )
    skipped = {
        "files skipped whose name lacks a field": len(matches) - len(ages),
        "skipped because of their age": len(ages) - len(names),
        "further files of the same names skipped": len(found) - len(images),
    }
    labels = torch.tensor([float(ages[name]) for name in names])
    index, split = _split(root, labels, [None] * len(names), seed)
    return decode_splits(root, [images[name] for name in names], labels, AGE, index, side), split, skipped


def _read_h5(path: Path, side: int, seed: int) -> tuple[Parts, str, dict[str, int]]:
    with open_h5(path) as file:
        ends = ("_train", "_test") if file.has("images_train") else ("",)
        sets = [file.images(f"images{end}") for end in ends]
        numbers = [file.numbers(f"labels{end}", len(images)) for end, images in zip(ends, sets, strict=True)]
        labels = torch.from_numpy(np.concatenate(numbers)).float()
        parts = np.full(len(labels), None, object)
        if len(sets) == 2:
            parts[: len(sets[0])], parts[len(sets[0]) :] = "train", "test"
        elif file.has("indx_subtrain", "indx_subvalid", "indx_test"):
            parts[:] = UNUSED
            for part, name in (("train", "indx_subtrain"), ("val", "indx_subvalid"), ("test", "indx_test")):
                parts[file.index(name, len(labels))] = part  # an image in two of them, as copies may be, is in the last
        beyond = ((labels < AGE.low) | (labels > AGE.high)).numpy()
        parts[beyond] = UNUSED
        if beyond.all():
            raise DataError(
                f"{shown(path)}: expected ages from 1 to 60 years, got none; is it the file of another set?"
            )
        index, split = _split(path, labels, parts.tolist(), seed)
        images = arrange_arrays(path, sets, labels, AGE, index, side, "rgb")
    return images, split, {"skipped because of their age": int(beyond.sum())}


def _split(path: Path, labels: Tensor, parts: list[str | None], seed: int) -> tuple[dict[str, Tensor], str]:
    """Split of the images, drawn within each year of age."""
    used = torch.tensor([part != UNUSED for part in parts])
    years, groups = labels[used].floor().unique(return_inverse=True)
    if len(years) < 2:
        raise DataError(f"{shown(path)}: expected faces of different ages, got only {years[0]:g} years; add others")
    classes = torch.zeros(len(labels), dtype=torch.int64)
    classes[used] = groups
    task = Classification(num_classes=len(years), class_names=tuple(f"{year:g} years" for year in years.tolist()))
    return draw_splits(path, classes, task, parts, seed, SHARES)
