"""`gankd results` end to end on tiny data: the page, what it keeps, the oracle, and wrong values."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gankd.commands.results as module
from gankd.commands.results import left_over
from gankd.config import override
from gankd.data.images import LabelledImages
from gankd.data.rotated_digits import load_rotated_digits
from gankd.recipes.config import DataConfig, Recipe
from gankd.recipes.ready import rotated_digits
from gankd.storage import NOTES
from gankd.tasks import Regression

Outcome = tuple[int, str, str]
RANGE = {"task": "regression", "low": -60.0, "high": 60.0}


@pytest.fixture
def folder(tmp_path: Path, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rotated digits as files of two recipes: one that thins its training images, and one that takes them all."""
    splits = load_rotated_digits()
    parts = [(splits.train, "train", 160), (splits.val, "val", 60), (splits.test, "test", 60)]
    images = torch.cat([part.images[:count] for part, _, count in parts]).numpy()
    label = torch.cat([part.labels[:count] for part, _, count in parts]).numpy()
    split = np.repeat([name for _, name, _ in parts], [count for *_, count in parts])

    def recipe(name: str, thinned: bool) -> Recipe:
        found = override(rotated_digits(), (*tiny, "ratio.features=autoencoder"))
        return replace(found, name=name, data=DataConfig(name="npz", num_train=80 if thinned else None, **RANGE))  # type: ignore[arg-type]

    for name in ("thinned", "whole"):
        np.savez(tmp_path / f"{name}.npz", images=images, label=label, split=split)
    monkeypatch.setattr(
        module, "REAL", {"thinned": lambda: recipe("thinned", True), "whole": lambda: recipe("whole", False)}
    )
    return tmp_path


def run(gankd: Callable[..., Outcome], folder: Path, *names: str) -> str:
    places = ["--data", folder, "--out", folder / "runs", "--docs", folder / "docs"]
    code, out, err = gankd(
        "results", *names, *places, "--seeds", 2, "--workers", 1, "--quiet", "--students", "cnn4,resnet8"
    )
    assert (code, err) == (0, ""), err
    return out


@pytest.mark.slow
def test_the_page_has_every_student_the_oracle_and_keeps_what_is_not_run_again(
    gankd: Callable[..., Outcome], folder: Path
) -> None:
    page = folder / "docs" / "results.md"
    assert str(page) in run(gankd, folder, "thinned")
    text = page.read_text()
    assert "Student cnn4" in text
    assert "Student resnet8" in text
    assert "held-out images, true labels" in text
    assert "| label | teacher | witness |" in text
    assert text.count("On training images: real, equal updates ") == 2
    for name in ("samples", "curves"):
        assert (folder / "docs" / "results" / f"thinned-{name}.png").stat().st_size > 500
    (file,) = (folder / "runs" / "thinned").glob("held-out-*.npz")
    with np.load(file) as held:
        assert len(held["images"]) == 80  # of 160 training images, those that nobody trained on
    page.write_text(text + "read with care\n")

    run(gankd, folder, "whole")
    both = page.read_text()
    assert "## thinned" in both
    assert "## whole" in both
    assert both.endswith(f"{NOTES}\nread with care\n")
    whole = both.split("## whole")[1]
    assert "Oracle" not in whole  # nothing is left over
    rows = json.loads(page.with_suffix(".json").read_text())["rows"]
    fitted = json.loads(page.with_suffix(".json").read_text())["facts"]["whole"]["controls on training images"]
    assert {student: set(values) for student, values in fitted.items()} == {
        student: {"real_matched", "kd_matched"} for student in ("cnn4", "resnet8")
    }
    assert {row["recipe"] for row in rows} == {"thinned", "whole"}
    assert both.count("| cnn4 | cGAN-KD + KD |") == both.count("| resnet8 | cGAN-KD + KD |") == 2  # in the summary
    assert {row["student"] for row in rows} == {"cnn4", "resnet8"}


def test_the_summary_has_the_whole_methods_with_one_correction_for_all() -> None:
    def row(recipe: str, arm: str, control: str, diff: float, low: float | None, high: float | None) -> dict[str, Any]:
        names = {"recipe": recipe, "student": "cnn16", "task": "regression", "arm": arm, "control": control}
        numbers = {"seeds": [0, 1, 2], "mean": 6.25, "control_mean": 6.25 + diff}
        return {**names, **numbers, "diff": diff, "ci_low": low, "ci_high": high}

    rows = [
        row("cifar-10k", "raw", "kd_matched", 9.0, 8.9, 9.1),
        row("cifar-10k", "oracle adjusted", "kd_matched", 9.0, 8.9, 9.1),
        row("a set of old", "adjusted", "kd_matched", 9.0, 8.9, 9.1),
        row("faces-scarce", "adjusted", "real_matched", 0.5, 0.25, 0.75),
        row("faces-scarce", "adjusted", "kd_matched", -0.5, None, None),
        row("cifar-scarce", "adjusted_kd", "real_matched", 1.0, 0.75, 1.25),
        row("cifar-scarce", "adjusted_kd", "kd_matched", 0.25, -0.5, 1.0),
    ]
    text = module._summary(rows)
    *_, first, second = "\n".join(text).splitlines()
    assert "for all 3 comparisons" in " ".join(text)  # one has no interval
    # t = 4.302653 * diff / half with 2 degrees of freedom, p = 1 - t / sqrt(t^2 + 2); times 3, 2, 1
    assert first == (
        "| cifar-scarce | cnn16 | cGAN-KD + KD | 6.25 | 3 | 7.25 | +1.00 [+0.75, +1.25] | 0.01 "
        "| 6.50 | +0.25 [-0.50, +1.00] | 0.29 |"
    )
    assert second == (
        "| faces-scarce | cnn16 | + adjusted: cGAN-KD | 6.25 | 3 | 6.75 | +0.50 [+0.25, +0.75] | 0.026 "
        "| 5.75 | -0.50 | - |"
    )


def test_left_over_images_are_those_that_were_not_kept() -> None:
    def images(*levels: int) -> LabelledImages:
        pixels: Tensor = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8).contiguous()
        return LabelledImages(pixels, pixels[:, 0, 0, 0].float(), Regression(low=0.0, high=9.0))

    found = left_over(images(1, 2, 3, 4, 5), images(4, 2), images(5))
    assert found is not None
    assert found.labels.tolist() == [1, 3]
    assert left_over(images(1, 2), images(2, 1)) is None


def test_wrong_values(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "no recipe 'faces'" in refused("results", "faces", "--data", tmp_path)
    (tmp_path / "cifar.npz").touch()
    assert "at least one student" in refused("results", "cifar-10k", "--data", tmp_path, "--students", "")
    (tmp_path / "cifar.npz").unlink()
    assert f"no cifar.npz in {tmp_path}" in refused("results", "--data", tmp_path)
