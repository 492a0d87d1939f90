import base64
import io

import pytest
import torch
from PIL import Image

from gankd.errors import ConfigError, DataError
from gankd.report.grids import image_grid, thumbnail_uri


def _read(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_is_where_it_belongs(channels: int) -> None:
    images = torch.randint(0, 255, (5, channels, 3, 4), dtype=torch.uint8)
    grid = image_grid(images, columns=2, scale=2, padding=1)
    assert grid.size == (1 + 2 * (8 + 1), 1 + 3 * (6 + 1))
    for index in range(5):
        for y in range(6):
            for x in range(8):
                at = (1 + index % 2 * 9 + x, 1 + index // 2 * 7 + y)
                expected = images[index, :, y // 2, x // 2].tolist()
                found = grid.getpixel(at)
                assert (list(found) if isinstance(found, tuple) else [found]) == expected
    white = (255,) * 3 if channels == 3 else 255
    assert grid.getpixel((0, 0)) == white
    assert grid.getpixel((12, 16)) == white  # the sixth place stays empty


def test_fewer_images_than_columns_make_a_narrow_grid() -> None:
    assert image_grid(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), columns=8, padding=0).size == (8, 4)


def test_refuses_other_tensors() -> None:
    with pytest.raises(DataError, match="float32"):
        image_grid(torch.zeros(1, 3, 4, 4), columns=1)
    with pytest.raises(DataError, match=r"\(0, 3, 4, 4\)"):
        image_grid(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), columns=1)
    with pytest.raises(DataError, match="1 or 3 channels"):
        image_grid(torch.zeros(1, 2, 4, 4, dtype=torch.uint8), columns=1)
    with pytest.raises(ConfigError, match="columns"):
        image_grid(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), columns=0)


def test_small_thumbnails_keep_every_pixel() -> None:
    image = torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8)
    picture = _read(thumbnail_uri(image))
    assert picture.format == "PNG"
    assert picture.getpixel((5, 9)) == tuple(image[:, 9, 5].tolist())


def test_large_thumbnails_are_small() -> None:
    image = torch.arange(256, dtype=torch.uint8).repeat(3, 192, 1)
    picture = _read(thumbnail_uri(image))
    assert picture.size == (64, 48)
    assert picture.format == "JPEG"
