from pathlib import Path

import pytest
import torch

from gankd.data.own import Item, check_train, counted
from gankd.errors import DataError
from gankd.tasks import Classification


def test_counted() -> None:
    assert [counted(number, "image") for number in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
    assert [counted(number, "class") for number in (1, 2)] == ["1 class", "2 classes"]


def test_classes_that_cannot_be_learned() -> None:
    items = [Item(f"{row}.png", Path(), "", "", None) for row in range(3)]
    for labels, said in (
        ([0, 1, 2], "of 2 there .but 2.png elsewhere."),
        ([0, 1, 1], "of 2 there, nor elsewhere; add"),
    ):
        with pytest.raises(DataError, match=f"expected every class in train, got no image {said}"):
            check_train(Path("set"), items, torch.tensor(labels), Classification(num_classes=3), torch.tensor([0, 1]))
