"""Images from outside a pack: real ones that test its students, and other ones that a teacher labels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.data.images import LabelledImages, Splits, concat
from gankd.data.inspection import detect
from gankd.data.own import shown
from gankd.data.sets import DATA_SETS
from gankd.errors import DataError
from gankd.recipes.config import DataConfig
from gankd.recipes.data import load_splits
from gankd.sizes import size_of
from gankd.tasks import Task


def read_other(target: str, shape: tuple[int, int, int]) -> Tensor:
    """Images of something else, (L, C, H, W) uint8 in the wanted shape; their labels are not used.

    Args:
        target: a path that `gankd data show` reads, or the name of an embedded set.
        shape: (C, H, W) that they are resized to, in grey or colour.

    Raises:
        DataError: they cannot be read.
    """
    wanted = {"size": size_of(*shape[1:]), "channels": "grey" if shape[0] == 1 else "rgb"}
    try:  # labels are not used, so that it does not matter which they are
        splits = _read(target, wanted | {"task": "classification"})
    except DataError:
        splits = _read(target, wanted | {"task": "regression"})
    images = concat(splits.train, splits.val, splits.test).images.float()
    if images.shape[1] != shape[0]:
        images = images.mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
    if images.shape[2:] != shape[1:]:
        images = F.interpolate(images, shape[1:], mode="bilinear", antialias=True, align_corners=False)
    return images.round().clamp(0, 255).to(torch.uint8)


def read_test(target: str, task: Task, shape: tuple[int, int, int]) -> LabelledImages:
    """Real images that test students of a pack: all at the path, or the test split of a set that has one.

    Args:
        target: a path that `gankd data show` reads, or the name of an embedded set.
        task: the pack's; classes are found by name, in whatever order.
        shape: (C, H, W) of the pack's images.

    Raises:
        DataError: they cannot be read, or have other labels.
    """
    wanted = {"size": size_of(*shape[1:]), "channels": "grey" if shape[0] == 1 else "rgb"}
    splits = _read(target, {**wanted, **task.reading})
    if splits.train.shape != shape:
        raise DataError(
            f"{shown(target)}: expected images of shape {shape} (channels, height, width), got {splits.train.shape}"
        )
    drawn = "drawn" in splits.card.get("split", "drawn")
    images = concat(splits.train, splits.val, splits.test) if drawn else splits.test
    if not task.label_names or images.task == task:
        return replace(images, task=task)
    own, other = task.label_names, images.task.label_names
    strange = [name for name in other if name not in own]
    if strange:
        raise DataError(
            f"{shown(target)}: class {shown(strange[0])} is not among the pack's: {shown(', '.join(own)[:200])}"
        )
    numbers = torch.tensor([own.index(name) for name in other])
    return replace(images, labels=numbers[images.labels], task=task)


def _read(target: str, wanted: dict[str, Any]) -> Splits:
    """The splits at a path, or of an embedded set, read with those of the settings that its reader takes."""
    if target in DATA_SETS and DATA_SETS[target].embedded:
        return load_splits(DataConfig(name=target))
    found = detect(Path(target))
    name, root = found.name, str(found.path)
    taken = {key: value for key, value in wanted.items() if key in DATA_SETS[name].takes}
    return load_splits(DataConfig(name=name, root=root, **taken))
