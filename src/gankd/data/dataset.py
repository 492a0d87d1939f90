"""Images and labels from Python objects: a `torch.utils.data.Dataset`, a list, a generator."""

from collections.abc import Iterable, Iterator
from math import isfinite
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from gankd.data.arrays import Array, Images, Stream, fit, label_texts, refuse_strange, splits_of_arrays
from gankd.data.files import flatten, is_grey
from gankd.data.images import Splits
from gankd.data.own import Choices, Item, Settings, common_size, counted, several, shown
from gankd.errors import DataError

Pairs = Iterable[tuple[Any, Any]] | torch.utils.data.Dataset[Any]
"""(image, label) each."""


def splits_from_dataset(
    train: Pairs,
    val: Pairs | None = None,
    test: Pairs | None = None,
    *,
    name: str = "dataset",
    class_names: tuple[str, ...] = (),
    **settings: Unpack[Settings],
) -> Splits:
    """Read pairs of image and label into memory.

        run(recipe, folder, splits=splits_from_dataset(train, test=test))

    Images: PIL images, or tensors and arrays (H, W), (H, W, C) or (C, H, W) with one or three channels, uint8 or
    floats in [0, 1], which are rounded to 255ths; decoded, all have to fit in memory. Where both ends may be channels,
    tensors are taken to have them first and arrays last. Labels: numbers or text, also as tensors or arrays of one
    element, or rows of several numbers; their task is decided as `load_folder` does for tables.

    Args:
        train: training images; val and test are drawn from them if not given.
        val: validation images.
        test: test images.
        name: name of the set.
        class_names: names of the labels 0 .. K - 1.
        settings: task, size, channels, low, high and seed; see `Choices`.

    Raises:
        ConfigError: a setting is out of range. DataError: an image or a label cannot be used.
    """
    choices = Choices(**settings)
    given = {part: pairs for part, pairs in (("train", train), ("val", val), ("test", test)) if pairs is not None}
    places: list[tuple[str, str]] = []
    pictures: list[Array] = []
    labels: list[str | float | tuple[float, ...]] = []
    for part, pairs in given.items():
        for row, pair in enumerate(_pairs(pairs)):
            where = f"{name}: {part}[{row}]"
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise DataError(
                    f"{where}: expected a pair (image, label), got {type(pair).__name__}; "
                    "give [(row['image'], row['label']) for row in data], or the like"
                )
            pictures.append(picture(where, pair[0], choices, pictures))
            labels.append(_label(where, pair[1]))
            places.append((part, where))
        if not places or places[-1][0] != part:
            raise DataError(f"{name}: {part}: expected images, got none; a generator, for one, can be read only once")
    if len({isinstance(label, str) for label in labels}) > 1:
        raise DataError(f"{name}: expected numbers or text as labels, got both; use one kind")
    sizes = [np.size(label) for label in labels]
    if odd := [row for row, size in enumerate(sizes) if size != sizes[0]]:
        raise DataError(
            f"{places[odd[0]][1]}: expected a label of {counted(sizes[0], 'value')} as before, got {sizes[odd[0]]}; "
            "give as many for each image, and the argmax of what is one-hot"
        )
    items = [
        Item(where, Path(name), text, where, part if len(given) > 1 else None)
        for (part, where), text in zip(places, label_texts(name, np.array(labels), choices.task), strict=True)
    ]
    if class_names and choices.task != "regression" and not several(items):
        refuse_strange(items, len(class_names), "class_names")
    shape = (len(pictures), *pictures[0].shape)
    pixels = Images(name, Stream(shape, np.dtype(np.uint8), lambda: (picture[None] for picture in pictures)))
    return splits_of_arrays(
        Path(name), items, [pixels], choices, what="data set", class_names=tuple(map(shown, class_names))
    )


def _pairs(pairs: Any) -> Iterator[Any]:
    # Python would read a Dataset without __iter__ up to an IndexError that it need not raise.
    if hasattr(pairs, "__getitem__") and hasattr(pairs, "__len__"):
        return (pairs[row] for row in range(len(pairs)))
    return iter(pairs)


def picture(where: str, image: Any, choices: Choices, before: list[Array]) -> Array:
    """uint8 (H, W, C) of an image in memory, in the size and colour of the choices, or of those `before`.

    Raises:
        DataError: it cannot be read as an image, or differs from those before.
    """
    pixels = _pixels(where, image)
    height, width = pixels.shape[:2]
    if choices.size is not None or choices.channels != "auto":
        side = choices.size or common_size(Path(where), [Item("", Path(), "", where, None)], [(width, height)])
        pixels = fit(pixels[None], side, choices.channels, choices.fit)[0].transpose(1, 2, 0)
    if before and pixels.shape != before[0].shape:
        kinds = " and ".join(f"{w}x{h} {'grey' if c == 1 else 'RGB'}" for h, w, c in (before[0].shape, pixels.shape))
        raise DataError(f"{where}: expected images of one size and colour, got {kinds}; set size or channels")
    return pixels


def _pixels(where: str, image: Any) -> Array:
    """uint8 (H, W, C), C 1 or 3."""
    if isinstance(image, Image.Image):
        try:
            picture = flatten(ImageOps.exif_transpose(image)).convert("L" if is_grey(image) else "RGB")
        except (OSError, ValueError) as error:
            raise DataError(f"{where}: the image cannot be read ({error}); leave it out") from None
        return np.asarray(picture).reshape(picture.height, picture.width, -1)
    array: Any = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    if not isinstance(array, np.ndarray):
        kind = type(image).__name__
        raise DataError(f"{where}: expected a PIL image, a tensor or an array (H, W, C), got {kind}; convert it")
    if array.ndim == 2:
        array = array[..., None]
    elif array.ndim == 3 and array.shape[0] in (1, 3) and (isinstance(image, Tensor) or array.shape[2] not in (1, 3)):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] not in (1, 3) or array.size == 0:
        remedy = "give the data set, not a DataLoader of batches" if array.ndim == 4 else "reshape it"
        raise DataError(
            f"{where}: expected an image (H, W), (H, W, C) or (C, H, W) with 1 or 3 channels, "
            f"got {tuple(image.shape)}; {remedy}"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f" or not (array.min() >= 0 and array.max() <= 1):
        got = f" {array.min():g} to {array.max():g}" if array.dtype.kind in "iuf" else ""
        raise DataError(
            f"{where}: expected uint8, or floats in [0, 1], got {array.dtype}{got}; leave out what normalises it"
        )
    return np.rint(array.astype(np.float32) * 255).astype(np.uint8)


def _label(where: str, label: Any) -> str | float | tuple[float, ...]:
    """A label as a plain value, or several."""
    if isinstance(label, Tensor | np.ndarray | np.generic):
        if np.prod(label.shape) != 1 and len(label.shape) != 1:
            raise DataError(f"{where}: expected one label, got shape {tuple(label.shape)}; give a row of values")
        label = label.item() if np.prod(label.shape) == 1 else label.tolist()
    if isinstance(label, tuple | list) and len(label) > 1:
        values = [_label(where, each) for each in label]
        if all(isinstance(each, int | float) for each in values):
            return tuple(float(each) for each in values if not isinstance(each, str | tuple))
    if not isinstance(label, str | int | float) or label == "" or (isinstance(label, float) and not isfinite(label)):
        raise DataError(f"{where}: expected a finite number or text as label, got {label!r}; leave the image out")
    return label
