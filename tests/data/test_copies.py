"""Images on two sides of a split: equal ones are refused, nearly equal ones are found as by comparing every pair."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gankd.data import copies
from gankd.data.copies import Copy, correlation, exact_copies, near_copies, thumbnails
from gankd.data.folder import load_folder
from gankd.data.images import LabelledImages
from gankd.errors import DataError
from gankd.tasks import Classification


def data(images: Tensor) -> LabelledImages:
    return LabelledImages(images, torch.zeros(len(images), dtype=torch.int64), Classification(num_classes=2))


def scenes(count: int, seed: int, side: int = 32) -> Tensor:
    """Smooth random colour images, (count, 3, side, side)."""
    coarse = torch.rand((count, 3, 5, 5), generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return (255 * smooth).to(torch.uint8)


def jpeg(image: Tensor) -> Tensor:
    content = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(content, "jpeg", quality=80)
    return torch.from_numpy(np.asarray(Image.open(content)).copy()).permute(2, 0, 1)


def test_equal_images() -> None:
    train, test = scenes(50, 0), scenes(20, 1)
    test[3], test[7] = train[41], train[5]
    assert exact_copies(test, train) == [Copy(3, 41), Copy(7, 5)]
    blank = torch.full((4, 3, 32, 32), 255, dtype=torch.uint8)
    assert exact_copies(blank, blank) == near_copies(blank, blank) == []


def test_nearly_equal_images() -> None:
    train, test = scenes(200, 0), scenes(40, 1)
    changes = {
        2: jpeg(train[11]),
        5: (train[150].float() * 0.8 + 30).to(torch.uint8),  # paler
        9: (train[77].int() + torch.randint(-6, 7, train[77].shape)).clamp(0, 255).to(torch.uint8),
        30: train[3],
    }
    for row, image in changes.items():
        test[row] = image
    assert near_copies(test, train) == [Copy(2, 11), Copy(5, 150), Copy(9, 77), Copy(30, 3)]


def test_sorting_and_blocks_miss_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = scenes(300, 2, side=16)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    noise *= torch.linspace(1, 30, 300)[:, None, None, None]
    test, train = data((images + noise).clamp(0, 255).to(torch.uint8)), data(images)
    likeness, nearest = (thumbnails(test.images) @ thumbnails(train.images).T).max(1)
    plain = [
        Copy(row, int(nearest[row]))
        for row in range(300)
        if likeness[row] > copies.ALIKE and correlation(test.images[row], train.images[nearest[row]]) > copies.ALIKE
    ]
    assert 10 < len(plain) < 290
    for block in (7, 1000):
        monkeypatch.setattr(copies, "BLOCK", block)
        assert near_copies(test.images, train.images) == plain


def test_hashes_find_what_all_pairs_find(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = scenes(3000, 4, side=8), scenes(600, 5, side=8)
    noise = torch.randn(300, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 8
    test[:300] = (train[:300] + noise).clamp(0, 255).to(torch.uint8)
    every = near_copies(test, train)
    assert 100 < len(every) < 300
    monkeypatch.setattr(copies, "MOST_PAIRS", 0)
    assert set(near_copies(test, train)) <= set(every)
    assert len(near_copies(test, train)) >= 0.98 * len(every)
    monkeypatch.setattr(copies, "TABLES", 1)  # one list misses many: they make up for one another
    assert len(near_copies(test, train)) < 0.9 * len(every)
    assert near_copies(train[:2], train[:3]) == [Copy(0, 0), Copy(1, 1)]


def test_correlation_ignores_brightness_and_contrast() -> None:
    image = scenes(1, 3)[0]
    assert correlation(image, image // 2 + 20) == pytest.approx(1, abs=1e-4)
    assert correlation(image, 255 - image) == pytest.approx(-1, abs=1e-6)


def folder(root: Path, test: list[Tensor]) -> Path:
    for part, images in (("train", list(scenes(20, 0))), ("test", test)):
        for k, image in enumerate(images):
            path = root / part / "ab"[k % 2] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return root


def test_a_folder_with_copies(tmp_path: Path) -> None:
    train, fresh = scenes(20, 0), list(scenes(6, 1))
    found = load_folder(folder(tmp_path / "fresh", fresh))
    assert "warnings" not in found.card
    root = folder(tmp_path / "equal", [train[3], *fresh])
    with pytest.raises(DataError, match="equal: 1 test image is equal to (train|val) images, first test/a/0.png and"):
        load_folder(root)
    allowed = load_folder(root, duplicates="allow").card["warnings"]
    assert len(allowed) == 1
    assert "1 test image is equal to " in allowed[0]
    near = load_folder(folder(tmp_path / "near", [jpeg(train[3]), jpeg(train[4]), *fresh])).card["warnings"]
    assert any("nearly equal to train images, first test/" in line for line in near)
