"""Images that are not square: cropped, padded or stretched, alike from files, arrays and Python objects."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gankd.data.arrays import fit
from gankd.data.dataset import splits_from_dataset
from gankd.data.folder import load_folder
from gankd.data.own import FitChoice
from gankd.errors import ConfigError

WIDE = np.full((20, 60, 3), 255, np.uint8)
"""White in the middle, red and blue at its ends."""
WIDE[:, :20], WIDE[:, 40:] = (255, 0, 0), (0, 0, 255)
HOW: tuple[FitChoice, ...] = ("crop", "pad", "stretch")


def check(image: torch.Tensor, how: FitChoice) -> None:
    """Image (3, 12, 12) made of `WIDE`."""
    middle, left, top = image[:, 6, 6].tolist(), image[:, 6, 1].tolist(), image[:, 0, 6].tolist()
    assert middle == [255, 255, 255]
    assert left == ([255, 255, 255] if how == "crop" else [255, 0, 0])
    assert top == ([0, 0, 0] if how == "pad" else [255, 255, 255])


@pytest.mark.parametrize("how", HOW)
def test_each_source_of_images(how: FitChoice, tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(4):
            Image.fromarray(WIDE).save(tmp_path / label / f"{number}.png")
    check(load_folder(tmp_path, size=12, fit=how, duplicates="allow").train.images[0], how)
    check(torch.from_numpy(fit(WIDE[None], 12, "auto", how))[0], how)
    check(
        splits_from_dataset([(WIDE, label) for label in "ab" * 4], size=12, fit=how, duplicates="allow").train.images[
            0
        ],
        how,
    )
    tall = WIDE.transpose(1, 0, 2)[None]  # the same picture on its side
    check(torch.from_numpy(fit(tall, 12, "auto", how))[0].transpose(1, 2), how)


def test_a_size_that_is_not_square() -> None:
    """20x60 at half its size as it is, without its ends, and between bars at its sides."""
    as_it_is = fit(WIDE[None], "12x36", "auto")[0]
    assert as_it_is.shape == (3, 12, 36)
    assert as_it_is[:, 6, [1, 18, 34]].T.tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]
    middle = fit(WIDE[None], "12x24", "auto")[0]  # 40 of 60 columns
    assert middle[:, 6, [1, 12, 22]].T.tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]
    padded = fit(WIDE[None], "12x48", "auto", "pad")[0]
    assert padded[:, 6, [0, 7, 24, 40, 47]].T.tolist() == [
        *([0, 0, 0], [255, 0, 0], [255, 255, 255], [0, 0, 255], [0, 0, 0])
    ]
    assert fit(WIDE[None], "16x12", "auto", "stretch")[0][:, 8, [0, 6, 11]].T.tolist() == [
        *([255, 0, 0], [255, 255, 255], [0, 0, 255])
    ]


@pytest.mark.parametrize("size", ["12x", "x12", "12 x 16", "12x18", "4x16", "16x512", "axb", 13])
def test_sizes_that_no_generator_makes(size: int | str) -> None:
    with pytest.raises(ConfigError, match="size must be a multiple of 4 from 8 to 256 pixels, or HEIGHTxWIDTH of two"):
        splits_from_dataset([(WIDE, label) for label in "ab" * 4], size=size)


def test_an_unknown_way_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fit must be crop, pad or stretch, got 'cover'"):
        load_folder(tmp_path, size=12, fit="cover")  # type: ignore[arg-type]
