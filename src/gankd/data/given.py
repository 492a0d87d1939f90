"""Splits of images in memory: arrays, a `Dataset` of PyTorch or of Hugging Face, or one of these per split."""

from collections.abc import Iterator, Mapping
from typing import Any, Unpack

from gankd.config import suggest
from gankd.data.dataset import splits_from_dataset
from gankd.data.images import Splits
from gankd.data.own import SPLIT_NAMES, Settings
from gankd.errors import DataError

IMAGE_COLUMNS = ("image", "img", "pixels", "picture", "photo", "x")
LABEL_COLUMNS = ("label", "labels", "target", "class", "value", "y", "angle", "age")
"""Names of columns in rows, the likeliest first."""


def splits_of(given: Any, **settings: Unpack[Settings]) -> Splits:
    """Read images and labels in memory into splits; those that are not given are drawn from the training images.

        run(recipe, folder, splits=(images, labels))
        run(recipe, folder, splits={"train": dataset, "test": other})

    Args:
        given: `Splits`; a tuple (images, labels) of arrays or tensors, images (N, H, W), (N, H, W, C) or (N, C, H, W)
            as `splits_from_dataset` takes them; a data set, or any iterable, of pairs (image, label) or of rows with
            an image and a label by name, as those of Hugging Face are; or a dict of these by train, val and test.
        settings: task, size, channels, low, high and seed; see `gankd.data.own.Choices`.

    Raises:
        DataError: the images or labels cannot be used.
    """
    if isinstance(given, Splits):
        return given
    parts: dict[str, Any] = {}
    for name, value in (given if isinstance(given, Mapping) else {"train": given}).items():
        part = SPLIT_NAMES.get(str(name).lower())
        if part is None or part in parts:
            raise DataError(
                f"splits: {name!r} is not the name of another split; {suggest(str(name), SPLIT_NAMES)}; give a dict "
                "with train, val and test"
            )
        parts[part] = value
    if "train" not in parts:
        raise DataError(f"splits: expected training images, got only {', '.join(parts) or 'nothing'}; add train")
    names = next((found for value in parts.values() if (found := _class_names(value))), ())
    pairs = {part: _Pairs(part, value) for part, value in parts.items()}
    return splits_from_dataset(**pairs, name="splits", class_names=names, **settings)


class _Pairs:
    """Pairs (image, label) of one split."""

    def __init__(self, part: str, value: Any) -> None:
        self.part, self.value = part, value
        self.images = self.labels = None
        if isinstance(value, tuple) and len(value) == 2 and hasattr(value[0], "shape") and hasattr(value[1], "__len__"):
            self.images, self.labels = value
            shape = tuple(self.images.shape)
            if len(shape) < 3:
                raise DataError(
                    f"splits: {part}: expected images (N, H, W), (N, H, W, C) or (N, C, H, W), got {shape}; "
                    "reshape them"
                )
            if len(self.images) != len(self.labels):
                raise DataError(
                    f"splits: {part}: expected as many labels as images, got {len(self.images)} images and "
                    f"{len(self.labels)} labels"
                )
        elif not hasattr(value, "__iter__") and not hasattr(value, "__getitem__"):
            kind = type(value).__name__
            raise DataError(f"splits: {part}: expected (images, labels) or a data set of such pairs, got {kind}")

    def __iter__(self) -> Iterator[Any]:
        if self.images is not None and self.labels is not None:
            plain = hasattr(self.labels, "tolist") and getattr(self.labels, "ndim", 1) == 1
            yield from zip(self.images, self.labels.tolist() if plain else self.labels, strict=True)
            return
        indexed = hasattr(self.value, "__getitem__") and hasattr(self.value, "__len__")
        rows = (self.value[row] for row in range(len(self.value))) if indexed else iter(self.value)
        columns: tuple[str, str] | None = None
        for row in rows:
            if not isinstance(row, Mapping):
                yield row
                continue
            columns = columns or (column(self.part, row, IMAGE_COLUMNS), column(self.part, row, LABEL_COLUMNS))
            yield row[columns[0]], row[columns[1]]


def column(part: str, row: Mapping[str, Any], known: tuple[str, ...]) -> str:
    """The column of images or of labels in a row."""
    by_small = {str(name).lower(): name for name in row}
    found = next((by_small[name] for name in known if name in by_small), None)
    if found is None:
        kind = "images" if known is IMAGE_COLUMNS else "labels"
        raise DataError(
            f"splits: {part}: no column of {kind} among {', '.join(map(str, row))}; rename it to {known[0]}, for "
            f"example dataset.rename_column(NAME, {known[0]!r})"
        )
    return str(found)


def _class_names(value: Any) -> tuple[str, ...]:
    """Names of the classes that a data set of torchvision or Hugging Face has; empty if none."""
    features = getattr(value, "features", None)
    if isinstance(features, Mapping):
        names = next((getattr(features[name], "names", None) for name in LABEL_COLUMNS if name in features), None)
    else:
        names = getattr(value, "classes", None) or getattr(getattr(value, "dataset", None), "classes", None)
    listed = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(names) if listed else ()  # type: ignore[arg-type]
