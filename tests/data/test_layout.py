"""Sub-folders that are splits or lie one level too deep, however people call them."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gankd.data.folder import load_folder
from gankd.data.images import Splits
from gankd.data.layout import part_of_each, role_of
from gankd.errors import ConfigError, DataError


def make(root: Path, folders: list[str], count: int = 4) -> Path:
    """Folders of grey images, each image with its own level."""
    for place, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            Image.new("L", (8, 8), 10 * place + k).save(root / folder / f"{k}.png")
    return root


def in_each(folders: list[str], names: list[str]) -> list[str]:
    return [f"{folder}/{name}" for folder in folders for name in names]


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_folder(root, **options)
    line = str(caught.value)
    assert line.isprintable()
    return line


def sizes(splits: Splits) -> list[int]:
    return [len(splits.train), len(splits.val), len(splits.test)]


PETS = ["cats", "dogs"]
SPLITS = [
    (["training_set", "test_set"], [8, 0, 8]),
    (["train_images", "val_images"], [8, 8, 0]),
    (["train2017", "val2017", "test2017"], [8, 8, 8]),
    (["train2014", "train2017", "val2017"], [16, 8, 0]),
    (["seg_train", "seg_test"], [8, 0, 8]),
    (["trn", "tst"], [8, 0, 8]),
    (["imagesTr", "imagesTs"], [8, 0, 8]),
    (["TrainSet", "ValSet"], [8, 8, 0]),
    (["traindata", "testdata"], [8, 0, 8]),
    (["train", "eval"], [8, 0, 8]),
    (["train", "test", "eval"], [8, 8, 8]),
    (["dev", "test"], [8, 0, 8]),
    (["train_split", "dev_split"], [8, 8, 0]),
    (["fold1", "fold2", "fold3"], [24, 0, 0]),
    (["Fold_a", "Fold_b"], [16, 0, 0]),
    (["session1", "session2"], [16, 0, 0]),  # nothing in the names, but the same sub-folders
]


@pytest.mark.parametrize(("folders", "given"), SPLITS, ids=lambda value: "+".join(map(str, value)))
def test_folders_that_may_be_splits_are_asked_about_and_read_as_told(
    folders: list[str], given: list[int], tmp_path: Path
) -> None:
    root = make(tmp_path / "my pets", in_each(folders, PETS))
    line = refused(root)
    for layout in ("splits", "classes"):
        assert f"gankd run folder --data '{root}' --set data.layout={layout}" in line
    splits = load_folder(root, layout="splits")
    assert splits.task.label_names == ("cats", "dogs")
    assert sum(sizes(splits)) == sum(given)
    for found, expected in zip(sizes(splits)[1:], given[1:], strict=True):
        assert found == expected or expected == 0 < found  # a missing split is drawn from train
    assert set(load_folder(root, layout="classes").task.label_names) == set(folders)


def test_the_question_says_which_folder_is_which_split(tmp_path: Path) -> None:
    line = refused(make(tmp_path / "a", in_each(["seg_train", "seg_pred", "seg_test"], PETS)))
    assert "seg_test and seg_train look like splits, not like classes, but seg_pred does not" in line
    assert "(test_set as test, training_set as train)" in refused(
        make(tmp_path / "b", in_each(["training_set", "test_set"], PETS))
    )
    with pytest.raises(DataError, match="the name of seg_pred does not say which"):
        load_folder(tmp_path / "a", layout="splits")


def test_splits_without_class_folders(tmp_path: Path) -> None:
    line = refused(make(tmp_path, ["train2017", "val2017"]))
    assert "hold no class folders: sort their images into class folders, or add labels.csv" in line


@pytest.mark.parametrize(
    "folders",
    [
        ["bus", "car", "train"],
        ["steam_train", "bullet_train"],
        ["valid", "invalid"],
        ["positive_test", "negative_test"],
        ["training shoe", "sandal", "boot"],
        ["a/images", "b/images"],  # one sub-folder each, as in Tiny-ImageNet
        ["a/2019", "a/2020", "b/2021"],
        [*in_each(["a"], ["v1", "v2", "v3", "v4", "v5"]), *in_each(["b"], ["v1", "v2", "w3", "w4", "w5"])],
    ],
    ids="+".join,
)
def test_classes_that_only_sound_like_splits_are_classes(folders: list[str], tmp_path: Path) -> None:
    names = sorted({folder.partition("/")[0] for folder in folders})
    assert load_folder(make(tmp_path, folders)).task.label_names == tuple(names)


def test_sub_folders_next_to_images_do_not_make_splits(tmp_path: Path) -> None:
    root = make(tmp_path, [*PETS, *in_each(PETS, ["indoors", "outdoors"])])
    assert load_folder(root).task.label_names == ("cats", "dogs")


def test_a_class_without_test_images_does_not_hide_splits(tmp_path: Path) -> None:
    root = make(tmp_path, [*in_each(["one"], ["cats", "dogs", "owls"]), *in_each(["two"], PETS)])
    assert "hold the same sub-folders cats and dogs" in refused(root)


def test_splits_below_classes(tmp_path: Path) -> None:
    line = refused(make(tmp_path, in_each(PETS, ["train", "val"])))
    assert f"splits are expected above classes, as in {tmp_path}/train/cats" in line
    assert "data.layout=splits" not in line


def test_a_level_too_many_within_a_split(tmp_path: Path) -> None:
    root = make(tmp_path, [*in_each(["train/one", "train/two"], PETS), *in_each(["test"], ["one", "two"])])
    line = refused(root)
    assert "make cats and dogs the sub-folders of train if they are the classes" in line
    assert line.endswith(f"gankd run folder --data {root} --set data.layout=splits")
    assert load_folder(root, layout="splits").task.label_names == ("one", "two")


@pytest.mark.parametrize(
    ("folders", "below"),
    [
        (["photos/cats", "photos/dogs"], "photos"),
        (["photos/photos/cats", "photos/photos/dogs"], "photos/photos"),
        (["photos/train/cats", "photos/train/dogs", "photos/test/cats", "photos/test/dogs"], "photos"),
        (["photos/train/cats", "photos/train/dogs"], "photos"),
        (["training_set/cats", "training_set/dogs"], "training_set"),
    ],
)
def test_one_level_too_high(folders: list[str], below: str, tmp_path: Path) -> None:
    root = make(tmp_path, folders)
    (root / "readme.txt").touch()
    found, expected = load_folder(root), load_folder(root / below)
    assert found.task.label_names == ("cats", "dogs")
    assert found.fingerprint() == expected.fingerprint()
    assert f", in {below}" in found.card["origin"]


def test_one_level_above_a_table(tmp_path: Path) -> None:
    make(tmp_path, ["photos"])
    (tmp_path / "photos/labels.csv").write_text("image,label\n")
    with pytest.raises(DataError, match=r"photos/labels.csv has a header but no rows"):
        load_folder(tmp_path)


def test_a_folder_of_images_is_not_looked_into(tmp_path: Path) -> None:
    assert "expected at least 2 classes" in refused(make(tmp_path, ["cats"]))
    assert "without a class" in refused(make(tmp_path / "x", [""]))


def test_one_folder_too_many_below_a_split(tmp_path: Path) -> None:
    root = make(tmp_path, in_each(["train/photos", "test/photos"], PETS))
    assert refused(root).endswith(f"move what {root}/test/photos holds to {root}/test")


def test_a_layout_is_for_class_folders(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,label\n")
    with pytest.raises(ConfigError, match="layout is for class folders"):
        load_folder(tmp_path, layout="splits")


def test_roles() -> None:
    assert [role_of(name) for name in ("TRAIN", "ts", "cross-val_3", "evaluation", "tram", "2017")] == [
        "train",
        "test",
        "val",
        "eval",
        None,
        None,
    ]
    assert part_of_each(Path(), ["dev", "eval"]) == ["train", "test"]
    assert part_of_each(Path(), ["train", "dev", "test", "eval"]) == ["train", "val", "test", "val"]
