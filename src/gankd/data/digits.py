"""scikit-learn's 1,797 real handwritten digits at 8x8, ten classes; no download."""

import numpy as np
import torch
from torch import Tensor

from gankd.data.images import LabelledImages, Splits
from gankd.seeds import rng
from gankd.tasks import Classification

CARD = {
    "origin": "1,797 handwritten digits, 8x8 grey (UCI Optical Recognition of Handwritten Digits, test part, "
    "as shipped with scikit-learn)",
    "licence": "CC BY 4.0",
    "split": "fixed shuffle, stratified by class: 50 % train, 20 % validation, 30 % test",
}


def read_digits() -> tuple[Tensor, Tensor]:
    """All digits: uint8 (1797, 1, 8, 8), grey levels 0..16 spread over 0..255, and classes (1797,)."""
    from sklearn.datasets import load_digits as sklearn_digits  # 0.5 s to import

    bunch = sklearn_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    return torch.from_numpy(images), torch.from_numpy(bunch.target.astype(np.int64))


def split_digits(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the fixed split, each class cut 5 : 2 : 3."""
    parts: tuple[list[Tensor], ...] = ([], [], [])
    for digit in range(10):
        index = (labels == digit).nonzero()[:, 0]
        index = index[torch.randperm(len(index), generator=rng(0, "digits", "split", digit))]
        val, test = round(len(index) * 0.5), round(len(index) * 0.7)
        for part, chunk in zip(parts, (index[:val], index[val:test], index[test:]), strict=True):
            part.append(chunk)
    train, validation, held_out = (torch.cat(part).sort().values for part in parts)
    return train, validation, held_out


def load_digits() -> Splits:
    """`digits`: classification into ten classes at 8x8."""
    images, labels = read_digits()
    whole = LabelledImages(images, labels, Classification(num_classes=10))
    train, val, test = (whole.subset(index) for index in split_digits(labels))
    return Splits(train, val, test, "digits", CARD)
