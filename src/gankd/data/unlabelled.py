"""The user's images without labels, in the size and colour of the training images."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gankd.data.arrays import Array, Images, decoder
from gankd.data.copies import exact_copies, near_copies
from gankd.data.dataset import picture
from gankd.data.files import Files, decode_into, survey, walk, without_broken
from gankd.data.given import IMAGE_COLUMNS, column
from gankd.data.h5 import EXAMPLE as H5_EXAMPLE
from gankd.data.h5 import is_h5, open_h5
from gankd.data.images import Splits
from gankd.data.named_arrays import unlabelled_sets
from gankd.data.npz import EXAMPLE as NPZ_EXAMPLE
from gankd.data.npz import open_npz
from gankd.data.own import Choices, FitChoice, Item, counted, shown
from gankd.data.shards import unlabelled_members
from gankd.data.store import build, source_key
from gankd.errors import DataError
from gankd.sizes import size_of

Shape = tuple[int, int, int]


def load_unlabelled(path: Path, shape: Shape, how: FitChoice = "crop", *, skip_broken: bool = False) -> Tensor:
    """Read images without labels: a folder of image files or of .tar shards, a shard, or an .npz or .h5 file.

    Folders are read with all their sub-folders, whose names mean nothing; arrays are found by the names that
    `load_npz` knows, and shards need no members besides the images.

    Args:
        path: file or folder.
        shape: (C, H, W) of the training images.
        how: treatment of images of another form.
        skip_broken: leave out image files that cannot be read.

    Returns:
        uint8 (M, C, H, W).

    Raises:
        DataError: there is no image, or one cannot be read.
    """
    if path.suffix.lower() == ".npz":
        with open_npz(path) as (names, read):
            return _decoded(path, unlabelled_sets(path, names, read, NPZ_EXAMPLE), shape, how)
    if is_h5(path):
        with open_h5(path) as file:
            sets = unlabelled_sets(path, file.names, lambda name, whole: file.array(name, whole), H5_EXAMPLE)
            return _decoded(path, sets, shape, how)
    images = sorted(walk(path)[0]) if path.is_dir() else []
    if images:
        items = [Item(each.relative_to(path).as_posix(), each, "", shown(each), None) for each in images]
        pictures: Any = Files(images)
    elif path.is_dir() or path.suffix.lower() == ".tar":
        items, pictures = unlabelled_members(path)
    else:
        what = "is of another kind" if path.exists() else "does not exist"
        raise DataError(
            f"data.unlabelled: {shown(path)} {what}; expected a folder of images, .tar shards, or an .npz or .h5 file"
        )
    if skip_broken:
        items, pictures, _ = without_broken(path, items, pictures)
    channels, size = shape[0], size_of(*shape[1:])
    survey(path, items, pictures, size, "grey" if channels == 1 else "rgb", ", or add --skip-broken")
    return build(
        (len(items), *shape),
        lambda: source_key(pictures.paths, "unlabelled", shape, how, len(items)),
        lambda target: decode_into(target, np.arange(len(items)), path, items, pictures, how=how),
    )


def _decoded(path: Path, sets: list[Images], shape: Shape, how: FitChoice) -> Tensor:
    """uint8 (M, C, H, W) of arrays."""
    channels, size = shape[0], size_of(*shape[1:])
    count = sum(map(len, sets))
    _, key, fill = decoder(path, sets, size, "grey" if channels == 1 else "rgb", how)
    return build((count, *shape), key, lambda target: fill(target, np.arange(count)))


def unlabelled_of(given: Any, shape: Shape, how: FitChoice = "crop") -> Tensor:
    """Images without labels in memory, as `load_unlabelled` gives them.

    Args:
        given: an array or tensor (M, ...), or anything else that gives images one by one, each as
            `splits_from_dataset` takes them; of pairs, the first; of rows, the column of images.
        shape, how: as for `load_unlabelled`.

    Raises:
        DataError: an image cannot be used.
    """
    channels, size = shape[0], size_of(*shape[1:])
    choices = Choices(size=size, channels="grey" if channels == 1 else "rgb", fit=how)
    pixels: list[Array] = []
    for row, image in enumerate(given):
        if isinstance(image, Mapping):
            image = image[column("unlabelled", image, IMAGE_COLUMNS)]
        image = image[0] if isinstance(image, tuple | list) else image
        pixels.append(picture(f"unlabelled[{row}]", image, choices, pixels))
    if not pixels:
        raise DataError("unlabelled: expected images, got none; leave it out")
    return torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).copy())


def with_unlabelled(splits: Splits, images: Tensor, origin: str) -> Splits:
    """The splits with images (M, C, H, W) without labels, except copies of validation and test images.

    A copy is equal or nearly equal (`near_copies`): students must not learn from what they are judged by.

    Raises:
        DataError: no image is left.
    """
    judged = (splits.val.images.cpu(), splits.test.images.cpu())
    copies = {copy.first for find in (exact_copies, near_copies) for part in judged for copy in find(images, part)}
    keep = torch.ones(len(images), dtype=torch.bool)
    keep[list(copies)] = False
    if not keep.any():
        raise DataError(
            f"data.unlabelled: {origin}: all {counted(len(images), 'image')} are copies of validation or test images; "
            "give others, or leave it out"
        )
    card = splits.card | {"unlabelled": f"{origin}: {counted(int(keep.sum()), 'image')}"}
    if copies:
        text = f"{counted(len(copies), 'image')} without labels left out: copies of validation or test images"
        card["warnings"] = [*card.get("warnings", ()), text]
        images = images[keep]
    return replace(splits, card=card, unlabelled=images)
