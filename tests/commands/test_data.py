"""`gankd data`: what is told of the user's own images, good and bad, and what is to be typed next."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gankd.commands.data import fetch, show
from gankd.data import sources
from gankd.data.sets import Archive
from gankd.errors import GankdError

RANDOM = np.random.default_rng(0)


def pictures(root: Path, size: int = 16, **counts: int) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = RANDOM.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02d}.png")
    return root


def test_a_folder_that_is_fine(tmp_path: Path) -> None:
    report = show(pictures(tmp_path / "pets", cat=20, dog=10), sheet=tmp_path / "sheet.png")
    assert report.problem == ""
    assert report.command == f"gankd run folder --data {tmp_path / 'pets'}"
    assert report.counts == {"train": 21, "val": 3, "test": 6}
    assert report.histogram == [
        ("cat", {"train": 14, "val": 2, "test": 4}),
        ("dog", {"train": 7, "val": 1, "test": 2}),
    ]
    lines = report.text.splitlines()
    assert lines[0] == f"{tmp_path / 'pets'}: class folders (folder)"
    assert "files       30 images, 16x16 pixels" in lines
    assert "images      21 train, 3 val, 6 test; RGB 16x16" in lines
    assert "labels      2 classes; one class per folder" in lines
    assert "cat       14    2     4  " + "#" * 40 in lines
    assert "dog        7    1     2  " + "#" * 20 in lines
    assert "duplicates  none" in lines
    assert lines[-1] == f"next  {report.command}"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 + 12 * 66, 2 + 2 * 66)
    facts = json.loads(json.dumps(report.to_dict()))
    assert (facts["counts"], facts["classes"], facts["files"]) == (report.counts, 2, 30)


def test_several_sizes_and_broken_files(tmp_path: Path) -> None:
    pictures(tmp_path, 16, cat=20)
    pictures(tmp_path, 40, dog=20)
    Image.new("L", (40, 40)).save(tmp_path / "dog" / "grey.png")
    for number in range(7):
        (tmp_path / "cat" / f"bad{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    report = show(tmp_path)
    assert report.problem == "7 images cannot be read; replace or remove them, or add --skip-broken"
    assert report.counts == {"train": 29, "val": 4, "test": 8}
    assert report.command.endswith("--size 16 --channels rgb")
    lines = report.text.splitlines()
    assert "files       48 images, 1 of them grey, 16x16 to 40x40 pixels, 2 sizes" in lines
    where = lines.index("unreadable  7 images:")
    assert [line.partition(":")[0] for line in lines[where + 1 : where + 6]] == [f"  cat/bad{n}.png" for n in range(5)]
    assert lines[where + 6] == "  and 2 more"
    assert lines[-1] == f"cannot be used yet: {report.problem}; then  {report.command}"
    assert len(report.to_dict()["unreadable"]) == 7


def test_a_set_that_its_reader_refuses(tmp_path: Path) -> None:
    report = show(pictures(tmp_path, only=4), sheet=tmp_path / "sheet.png")
    assert "expected at least 2 classes, got only only" in report.problem
    assert (report.splits, report.sheet, report.exit_code) == (None, None, 1)
    assert report.text.splitlines()[-1] == f"cannot be used yet: {report.problem}"
    assert not (tmp_path / "sheet.png").exists()
    json.dumps(report.to_dict())


@pytest.mark.parametrize("kept", [0, 100, 400])
def test_one_file_that_is_truncated_is_an_error(tmp_path: Path, kept: int) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8), np.uint8), label=np.arange(4))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:kept])
    with pytest.raises(GankdError, match=r"a\.npz"):
        show(tmp_path / "a.npz")


def test_values_leaks_and_options(tmp_path: Path) -> None:
    images = RANDOM.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    images[50:55] = images[:5]
    split = np.array(["train"] * 45 + ["val"] * 5 + ["test"] * 10)
    np.savez(tmp_path / "a.npz", images=images, angle=np.arange(60) / 59, split=split)
    report = show(tmp_path / "a.npz", low=-1.0, size=16)
    assert report.command == f"gankd run npz --data {tmp_path / 'a.npz'} --size 16 --set data.low=-1.0"
    assert "duplicates  of test in train: 5 pixel for pixel, 5 of them with another label" in report.text
    assert report.problem == "equal images in two splits; remove them, or add --set data.duplicates=allow"
    assert "warning     5 test images are equal to train images, first images[50] and images[0]" in report.text
    assert "labels      values from 0 to 1, 60 different; range -1 to 1; the labels are numbers" in report.text
    assert "\n-1 to -0.8 " in report.text
    assert report.to_dict()["range"] == [-1, 1]


def test_many_classes_show_both_ends(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(40), np.arange(40) + 10)
    np.savez(
        tmp_path / "a.npz",
        images=RANDOM.integers(0, 256, (len(labels), 8, 8), dtype=np.uint8),
        label=labels,
        class_names=np.array([f"kind {number}" for number in range(40)]),
    )
    text = show(tmp_path / "a.npz").text
    assert "\n(30 classes between these are left out)" in text
    assert "\nkind 39 " in text
    assert "\nkind 0 " in text
    assert "\nkind 20 " not in text


def test_embedded_sets_and_names(tmp_path: Path) -> None:
    assert show("digits").text.startswith("digits: embedded (digits)\nimages ")
    path = pictures(tmp_path, cat=10, dog=10)
    assert show(path, name="folder").text.startswith(f"{path}: as --name says (folder)\n")
    with pytest.raises(GankdError, match="--name: no data set .foldr.; did you mean folder"):
        show(path, name="foldr")


def test_fetched_files_tell_what_is_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def arrive(archive: Archive, path: Path, progress: sources.Progress) -> int:
        path.write_bytes(b"x")
        progress(archive.name, 1, 1, 1.0)
        return 2_500_000

    monkeypatch.setattr(sources, "_fetch", arrive)
    monkeypatch.chdir(tmp_path)
    found = fetch("mnist")
    assert found.text == ("data/mnist: mnist, 10.0 MB, checksums correct; next: gankd run idx --data data/mnist")
    assert len(json.loads(json.dumps(found.to_dict()))["files"]) == 4
    assert fetch("cifar10", to=tmp_path / "a b").command == f"gankd run cifar10 --data '{tmp_path / 'a b'}'"


def test_a_size_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GankdError, match="size must be at least 1 or be none, got 0"):
        show(pictures(tmp_path, a=3, b=3), size=0)
