"""Images without labels: formats, size and colour of the training images, copies of images that judge."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gankd.config import override
from gankd.data.images import LabelledImages, Splits
from gankd.data.unlabelled import load_unlabelled, unlabelled_of, with_unlabelled
from gankd.errors import DataError
from gankd.recipes.config import DataConfig
from gankd.recipes.data import add_unlabelled
from gankd.recipes.ready import digits
from gankd.tasks import Classification

SHAPE = (3, 16, 16)


def pictures(count: int, seed: int = 0) -> Tensor:
    """uint8 (count, 3, 16, 16) that differ from one another."""
    return torch.randint(0, 256, (count, *SHAPE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def splits() -> Splits:
    train, val, test = (
        LabelledImages(pictures(20, seed), torch.arange(20) % 2, Classification(num_classes=2)) for seed in range(3)
    )
    return Splits(train, val, test, "made")


def rows(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


def as_folder(path: Path, images: Tensor) -> Path:
    for number, image in enumerate(rows(images)):
        file = path / "any" / ("ab"[number % 2]) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return path


def as_shard(path: Path, images: Tensor) -> Path:
    path.mkdir()
    with tarfile.open(path / "more-000.tar", "w") as archive:
        for number, image in enumerate(rows(images)):
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "PNG")
            member = tarfile.TarInfo(f"{number:03d}.png")
            member.size = len(stream.getvalue())
            archive.addfile(member, io.BytesIO(stream.getvalue()))
    return path


def as_npz(path: Path, images: Tensor) -> Path:
    np.savez(path.with_suffix(".npz"), images=rows(images))
    return path.with_suffix(".npz")


def as_h5(path: Path, images: Tensor) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["x_train"], file["x_test"] = rows(images[:3]), rows(images[3:])
    return path.with_suffix(".h5")


@pytest.mark.parametrize("write", [as_folder, as_shard, as_npz, as_h5])
def test_every_format_gives_the_same_images(write: object, tmp_path: Path) -> None:
    images = pictures(7)
    found = load_unlabelled(write(tmp_path / "more", images), SHAPE)  # type: ignore[operator]
    assert sorted(map(bytes, rows(found))) == sorted(map(bytes, rows(images)))


def test_images_become_those_of_training(tmp_path: Path) -> None:
    grey = load_unlabelled(as_folder(tmp_path / "colour", pictures(3)), (1, 16, 16))
    assert grey.shape == (3, 1, 16, 16)
    wide = tmp_path / "wide"
    wide.mkdir()
    Image.fromarray(np.full((20, 40, 3), 200, np.uint8)).save(wide / "one.jpg")
    assert load_unlabelled(wide, SHAPE).min() > 190
    assert load_unlabelled(wide, SHAPE, "pad")[0, :, 0].max() < 10  # black bars above and below


def test_images_in_memory() -> None:
    images = pictures(4)
    for given in (
        images,
        rows(images),
        list(images),
        [(image, 1) for image in images],
        [{"Img": image} for image in images],
    ):
        assert torch.equal(unlabelled_of(given, SHAPE), images)
    assert unlabelled_of(rows(images), (1, 8, 8)).shape == (4, 1, 8, 8)
    with pytest.raises(DataError, match="unlabelled: expected images, got none"):
        unlabelled_of([], SHAPE)


def test_copies_of_validation_and_test_images_are_left_out() -> None:
    own, more = splits(), pictures(6, 9)
    near = (own.test.images[5].float() * 0.9 + 3).to(torch.uint8)  # darker: nearly equal
    given = torch.cat([more, own.val.images[:2], own.test.images[3:4], near[None], own.train.images[:1]])
    found = with_unlabelled(own, given, "more")
    assert found.unlabelled is not None
    assert torch.equal(found.unlabelled, torch.cat([more, own.train.images[:1]]))
    assert found.card["warnings"] == ["4 images without labels left out: copies of validation or test images"]
    assert found.card["unlabelled"] == "more: 7 images"
    assert found.fingerprint() == own.fingerprint()
    with pytest.raises(DataError, match="more: all 20 images are copies of validation or test images; give others"):
        with_unlabelled(own, own.test.images, "more")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; expected a folder of images, .tar shards, or an .npz or .h5"):
        load_unlabelled(tmp_path / "none", SHAPE)
    (tmp_path / "list.csv").write_text("image\n")
    with pytest.raises(DataError, match="list.csv is of another kind; expected a folder"):
        load_unlabelled(tmp_path / "list.csv", SHAPE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no .tar files in|expected images"):
        load_unlabelled(tmp_path / "empty", SHAPE)
    broken = as_folder(tmp_path / "some", pictures(3))
    (broken / "x.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="1 of 4 images cannot be read, first x.png: .*, or add --skip-broken"):
        load_unlabelled(broken, SHAPE)
    assert len(load_unlabelled(broken, SHAPE, skip_broken=True)) == 3


def test_the_setting_reads_them(tmp_path: Path) -> None:
    config = replace(DataConfig(), unlabelled=str(as_folder(tmp_path / "more", pictures(5, 9))), fit="pad")
    found = add_unlabelled(splits(), config)
    assert found.unlabelled is not None
    assert len(found.unlabelled) == 5
    assert override(digits(), ["data.unlabelled=more"]).data.unlabelled == "more"
