"""Images in memory, in every form that users have them in."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

from gankd.data.given import splits_of
from gankd.data.images import Splits
from gankd.errors import DataError

LEVELS = np.random.default_rng(0).integers(256, size=(40, 8, 8), dtype=np.uint8)
LABELS = np.arange(40) % 4


class Pictures(Dataset[Any]):
    """As torchvision's sets are."""

    classes: ClassVar[list[str]] = ["ant", "bee", "cat", "dog"]

    def __len__(self) -> int:
        return 40

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        return Image.fromarray(LEVELS[row]), int(LABELS[row])


class ClassLabel:
    names: ClassVar[list[str]] = Pictures.classes


class Rows:
    """As the sets of Hugging Face are: rows with names, and the kinds of the columns."""

    features: ClassVar[dict[str, Any]] = {"image": object(), "label": ClassLabel()}

    def __len__(self) -> int:
        return 40

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"id": row, "image": Image.fromarray(LEVELS[row]), "label": int(LABELS[row])}


def whole(splits: Splits) -> set[tuple[bytes, int]]:
    return {
        (image.numpy().tobytes(), int(label))
        for part in (splits.train, splits.val, splits.test)
        for image, label in zip(part.images, part.labels, strict=True)
    }


EXPECTED = {(image.tobytes(), int(label)) for image, label in zip(LEVELS, LABELS, strict=True)}


@pytest.mark.parametrize(
    "given",
    [
        (LEVELS, LABELS),
        (LEVELS[..., None], LABELS.tolist()),
        (torch.from_numpy(LEVELS)[:, None], torch.from_numpy(LABELS)),
        (LEVELS.astype(np.float32) / 255, LABELS.astype(np.int8)),
        TensorDataset(torch.from_numpy(LEVELS)[:, None], torch.from_numpy(LABELS)),
        Pictures(),
        Subset(Pictures(), range(40)),
        Rows(),
        [(image, label) for image, label in zip(LEVELS, LABELS, strict=True)],
        [{"img": image, "target": label} for image, label in zip(LEVELS, LABELS, strict=True)],
        [{"x": image, "Age": label} for image, label in zip(LEVELS, LABELS, strict=True)],
    ],
    ids=[
        "arrays",
        "channels last",
        "tensors",
        "floats",
        "tensor set",
        "torchvision",
        "subset",
        "rows",
        "pairs",
        "dicts",
        "rows with a column age",
    ],
)
def test_the_same_images_in_any_form(given: Any) -> None:
    splits = splits_of(given)
    assert whole(splits) == EXPECTED
    named = isinstance(given, Pictures | Subset | Rows)
    assert splits.task.label_names == (tuple(Pictures.classes) if named else ("0", "1", "2", "3"))


def test_splits_by_name_are_kept_and_others_drawn() -> None:
    splits = splits_of({"train": (LEVELS[:30], LABELS[:30]), "validation": (LEVELS[30:], LABELS[30:])})
    assert len(splits.val) == 10
    assert len(splits.train) + len(splits.test) == 30
    assert splits_of(splits) is splits
    values = splits_of((LEVELS, LABELS / 3 + 0.1), task="regression")
    assert values.task.head_size == 1


def test_a_split_is_shown_in_one_short_line() -> None:
    shown = repr(splits_of((LEVELS, LABELS)))
    assert shown == "<splits splits: 28 train, 4 val, 8 test images 1x8x8, 4 classes>"
    assert len(repr(splits_of((LEVELS, LABELS)).train)) < 80


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((LEVELS, LABELS[:-1]), "train: expected as many labels as images, got 40 images and 39 labels"),
        ((LEVELS.reshape(40, 64), LABELS), r"expected images \(N, H, W\).* got \(40, 64\); reshape"),
        ({"test": (LEVELS, LABELS)}, "expected training images, got only test; add train"),
        ({"trian": (LEVELS, LABELS)}, "'trian' is not the name of another split; did you mean train"),
        ({"val": Rows(), "dev": Rows()}, "'dev' is not the name of another split"),
        ([{"scan": LEVELS[0], "label": 1}], "no column of images among scan, label; rename it to image"),
        (3, "expected .images, labels. or a data set of such pairs, got int"),
        ((LEVELS, np.eye(4)[LABELS]), r"labels.argmax\(1\) where they are one-hot"),
    ],
)
def test_what_cannot_be_read(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        splits_of(given)
    assert "\n" not in str(error.value)
