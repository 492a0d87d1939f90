"""RC-49, the yaw of rendered chairs: the h5 of CcGAN, or those of the authors of cGAN-KD."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from gankd.config import require
from gankd.data.arrays import Array, arrange_arrays
from gankd.data.h5 import H5File, open_h5
from gankd.data.images import Splits
from gankd.data.own import and_more, shown
from gankd.data.published import draw_splits, side_of
from gankd.errors import DataError
from gankd.seeds import rng
from gankd.tasks import Regression

SIDE = 64
YAW = Regression(low=0.0, high=90.0, unit="degrees")
PER_LABEL = 25
VALIDATION_CHAIRS = 8
"""One chair in this many validates."""
LICENCE = "none stated; rendered from chairs of ShapeNet: non-commercial research; cite Ding et al. (ICLR 2021)"

Index = npt.NDArray[np.int64]


def load_rc49(path: str | Path, *, size: int | None = None, per_label: int | None = None, seed: int = 0) -> Splits:
    """`rc49`: yaw of 49 chairs at 899 angles, 0.1 .. 89.9 degrees, 64x64 RGB.

    R-25, R-15 and R-5 are `per_label` training images of each angle with an odd last digit (Ding et al. 2023): smaller
    ones are subsets of larger ones. All other images test, those of even angles included, so there are angles that
    nothing was trained on. Of the training images, those of one chair in eight validate.

    Files: images, labels and, if it is there, types (the chair); indx_train then limits what can train. Or images_odd,
    labels_odd, types_odd, indx_odd_train and the same for even: the authors' own split of such a file, which is
    indx_odd_subtrain and indx_odd_subvalid, is taken if it has `per_label` images of each angle.

    Args:
        path: the file.
        size: resample to this height and width, a multiple of 4 from 8 to 256.
        per_label: training images of each odd angle, those that validate included; default: 25, or the file's own
            split.
        seed: draws images and chairs.

    Raises:
        ConfigError: a setting is out of range.
        DataError: an array is missing, damaged, or of another set.
    """
    path, side = Path(path), side_of(size, SIDE)
    require(per_label is None or per_label >= 1, f"rc49: data.per_label must be at least 1, got {per_label}")
    with open_h5(path) as file:
        halves = file.has("images_odd")
        ends = ("_odd", "_even") if halves else ("",)
        sets = [file.images(f"images{end}") for end in ends]
        numbers = [file.numbers(f"labels{end}", len(images)) for end, images in zip(ends, sets, strict=True)]
        tenths = _tenths(path, np.concatenate(numbers))
        limit = "indx_odd_train" if halves else "indx_train"
        pool = file.index(limit, len(sets[0])) if file.has(limit) else np.flatnonzero(tenths % 2)
        parts = np.full(len(tenths), "test", object)
        own = _authors_split(file, len(sets[0]), tenths, per_label) if halves else {}
        if own:
            for part, rows in own.items():
                parts[rows] = part
            note = "the authors' split"
        else:
            chosen = _draw(tenths, pool, per_label, seed)
            parts[chosen] = "train"
            note = f"of each odd angle {np.bincount(tenths[chosen]).max()} images train or validate"
            if file.has(*(f"types{end}" for end in ends)):
                types = [file.numbers(f"types{end}", len(images)) for end, images in zip(ends, sets, strict=True)]
                chairs = _validation_chairs(np.concatenate(types)[chosen], seed)
                parts[chosen[chairs]] = "val"
                note += ", of which one chair in eight validates"
        labels = torch.from_numpy(tenths / 10).float()
        index, split = draw_splits(path, labels, YAW, parts.tolist(), seed)
        train, val, test = arrange_arrays(path, sets, labels, YAW, index, side, "rgb")
    card = {"origin": f"RC-49: {len(tenths):,} images", "licence": LICENCE, "split": f"{split}; {note}, seed {seed}"}
    return Splits(train, val, test, "rc49", card)


def _authors_split(file: H5File, count: int, tenths: Index, per_label: int | None) -> dict[str, Index]:
    """Positions of the authors' train and val among the `count` images of odd angles; empty if the file has none, or
    one of another number of images per angle.
    """
    names = {"train": "indx_odd_subtrain", "val": "indx_odd_subvalid"}
    if not file.has(*names.values()):
        return {}
    parts = {part: file.index(name, count) for part, name in names.items()}
    most = np.bincount(tenths[np.unique(np.concatenate(list(parts.values())))]).max(initial=0)
    return parts if per_label in (None, most) else {}


def _tenths(path: Path, labels: Array) -> Index:
    """Angles in tenths of a degree."""
    tenths = np.rint(labels.astype(np.float64) * 10).astype(np.int64)
    wrong = np.flatnonzero((np.abs(labels * 10 - tenths) > 0.01) | (tenths < 1) | (tenths > 899))
    if len(wrong):
        raise DataError(
            f"{shown(path)}: label {wrong[0]}: expected an angle 0.1, 0.2 .. 89.9 degrees, got {labels[wrong[0]]:g}"
            f"{and_more(len(wrong) - 1, 'such labels')}; is it the file of another set?"
        )
    return tenths


def _draw(tenths: Index, pool: Index, per_label: int | None, seed: int) -> Index:
    """Positions of `per_label` images, or all there are, of each angle in the pool; ascending."""
    most = int(np.bincount(tenths[pool]).max(initial=0))
    per_label = min(PER_LABEL, most) if per_label is None else per_label
    require(
        per_label <= most, f"rc49: data.per_label is {per_label}, but no angle has more than {most} images to train"
    )
    order = pool[torch.randperm(len(pool), generator=rng(seed, "rc49", "images")).numpy()]
    order = order[np.argsort(tenths[order], kind="stable")]
    _, first, angle = np.unique(tenths[order], return_index=True, return_inverse=True)
    return np.sort(order[np.arange(len(order)) - first[angle] < per_label])


def _validation_chairs(types: Array, seed: int) -> npt.NDArray[np.bool_]:
    """Mask of the images whose chair validates."""
    chairs = np.unique(types)
    order = torch.randperm(len(chairs), generator=rng(seed, "rc49", "chairs")).numpy()
    return np.isin(types, chairs[order[: max(1, round(len(chairs) / VALIDATION_CHAIRS))]])
