import io
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from gankd.data.cifar import load_cifar10, load_cifar100
from gankd.data.images import LabelledImages, Splits
from gankd.errors import ConfigError, DataError
from gankd.recipes.data import load_splits
from gankd.recipes.published import find_table
from gankd.tasks import Classification

NAMES = [f"class {number}" for number in range(10)]
FINE, COARSE = [f"fine {number}" for number in range(100)], [f"coarse {number}" for number in range(20)]


def pixels(count: int, first: int) -> Any:
    """Random images (count, 3072) whose first two bytes are their number."""
    made = np.random.default_rng(first).integers(0, 256, (count, 3072), dtype=np.uint8)
    made[:, 0], made[:, 1] = divmod(np.arange(first, first + count), 256)
    return made


def numbers(data: LabelledImages) -> torch.Tensor:
    corner = data.images[:, 0, 0].long()
    return 256 * corner[:, 0] + corner[:, 1]


TEN = {f"data_batch_{n + 1}": (pixels(40, 40 * n), (np.arange(40) + n) % 10) for n in range(5)}
TEN_TEST = pixels(30, 1000), np.arange(30) % 10
HUNDRED, HUNDRED_TEST = (pixels(400, 0), np.arange(400) % 100), (pixels(100, 1000), np.arange(100))


def python_2(value: Any) -> bytes:
    """Protocol 2 as Python 2 writes it: str is bytes, and so is what numpy puts into its arrays."""
    if isinstance(value, bytes):
        short = len(value) < 256
        return (b"U" + bytes([len(value)]) if short else b"T" + len(value).to_bytes(4, "little")) + value
    if isinstance(value, int):
        return b"J" + value.to_bytes(4, "little", signed=True)
    if isinstance(value, list):
        return b"](" + b"".join(map(python_2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(python_2(key) + python_2(item) for key, item in value.items()) + b"u"
    assert isinstance(value, np.ndarray)
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"(" + b"".join(map(python_2, value.shape)) + b"t"
    return made + b"(K\x01" + shape + kind + b"\x89" + python_2(value.tobytes()) + b"tb"


def dumped(content: dict[str, Any]) -> bytes:
    """As the real files are; numpy reads it, too."""
    in_bytes = {
        key.encode(): [item.encode() for item in value]
        if isinstance(value, list) and isinstance(value[0], str)
        else value
        for key, value in content.items()
    }
    return b"\x80\x02" + python_2(in_bytes) + b"."


def binary_10() -> dict[str, bytes]:
    files = {f"{name}.bin": batch for name, batch in TEN.items()} | {"test_batch.bin": TEN_TEST}
    made = {name: np.c_[labels.astype(np.uint8), images].tobytes() for name, (images, labels) in files.items()}
    return made | {"batches.meta.txt": ("\n".join(NAMES) + "\n\n").encode(), "readme.html": b"<html>"}


def python_10() -> dict[str, bytes]:
    files = TEN | {"test_batch": TEN_TEST}
    made = {
        name: dumped(
            {"batch_label": b"training batch", "labels": labels.tolist(), "data": images, "filenames": ["a.png"]}
        )
        for name, (images, labels) in files.items()
    }
    return made | {"batches.meta": dumped({"num_cases_per_batch": 40, "label_names": NAMES, "num_vis": 3072})}


def binary_100() -> dict[str, bytes]:
    made = {
        name: np.c_[(labels // 5).astype(np.uint8), labels.astype(np.uint8), images].tobytes()
        for name, (images, labels) in {"train.bin": HUNDRED, "test.bin": HUNDRED_TEST}.items()
    }
    names = {
        f"{kind}_label_names.txt": "\n".join(words).encode() for kind, words in (("fine", FINE), ("coarse", COARSE))
    }
    return made | names


def python_100() -> dict[str, bytes]:
    made = {
        name: dumped({"data": images, "fine_labels": labels.tolist(), "coarse_labels": (labels // 5).tolist()})
        for name, (images, labels) in {"train": HUNDRED, "test": HUNDRED_TEST}.items()
    }
    return made | {"meta": dumped({"fine_label_names": FINE, "coarse_label_names": COARSE})}


KINDS = {
    "cifar-10-batches-bin": ("cifar-10-binary.tar.gz", binary_10),
    "cifar-10-batches-py": ("cifar-10-python.tar.gz", python_10),
    "cifar-100-binary": ("cifar-100-binary.tar.gz", binary_100),
    "cifar-100-python": ("cifar-100-python.tar.gz", python_100),
}


def archived(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def unpacked(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def refused(path: Path, hundred: bool = False) -> str:
    with pytest.raises(DataError) as caught:
        (load_cifar100 if hundred else load_cifar10)(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


def check_ten(data: Splits) -> None:
    assert data.task == Classification(num_classes=10, class_names=tuple(NAMES))
    assert (len(data.train), len(data.val), len(data.test)) == (180, 20, 30)
    assert data.val.labels.bincount().tolist() == [2] * 10
    assert torch.equal(data.test.images.flatten(1), torch.from_numpy(TEN_TEST[0]))
    for part in (data.train, data.val):
        number = numbers(part)
        assert torch.equal(part.labels, (number % 40 + number // 40) % 10)
        whole = torch.from_numpy(np.concatenate([images for images, _ in TEN.values()]))
        assert torch.equal(part.images.flatten(1), whole[number])
    assert sorted(torch.cat([numbers(data.train), numbers(data.val)]).tolist()) == list(range(200))


@pytest.mark.parametrize("folder", [name for name in KINDS if "10-" in name])
def test_cifar10(tmp_path: Path, folder: str) -> None:
    archive, make = KINDS[folder]
    check_ten(load_cifar10(archived(tmp_path / archive, folder, make())))
    check_ten(load_cifar10(tmp_path))  # finds the archive
    path = unpacked(tmp_path / "there" / folder, make())
    check_ten(load_cifar10(path))
    check_ten(load_cifar10(tmp_path / "there"))
    assert load_cifar10(path, size=16).train.shape == (3, 16, 16)
    assert "CIFAR-10, " + ("python" if "py" in folder else "binary") in load_cifar10(path).card["origin"]


@pytest.mark.parametrize("folder", [name for name in KINDS if "100" in name])
def test_cifar100(tmp_path: Path, folder: str) -> None:
    archive, make = KINDS[folder]
    path = archived(tmp_path / archive, folder, make())
    fine, coarse = load_cifar100(path), load_cifar100(path, coarse=True)
    assert fine.task == Classification(num_classes=100, class_names=tuple(FINE))
    assert coarse.task == Classification(num_classes=20, class_names=tuple(COARSE))
    assert torch.equal(fine.test.images.flatten(1), torch.from_numpy(HUNDRED_TEST[0]))
    assert torch.equal(fine.train.labels, numbers(fine.train) % 100)
    assert torch.equal(coarse.train.labels, numbers(coarse.train) % 100 // 5)
    assert (len(fine.train), len(coarse.train), len(coarse.val)) == (300, 360, 40)


def test_the_test_writes_what_python_2_wrote() -> None:
    found = pickle.loads(python_10()["data_batch_1"].replace(b"numpy.core", b"numpy._core"), encoding="latin1")
    assert np.array_equal(found["data"], TEN["data_batch_1"][0])
    assert found["labels"] == TEN["data_batch_1"][1].tolist()


def test_pickled_again_by_python_3(tmp_path: Path) -> None:
    files = python_10()
    for name, content in files.items():
        found = pickle.loads(content.replace(b"numpy.core", b"numpy._core"), encoding="bytes")
        files[name] = pickle.dumps(found, protocol=2)
    assert b"_codecs" in files["data_batch_1"]
    check_ten(load_cifar10(unpacked(tmp_path / "cifar-10-batches-py", files)))


class Touch:
    """A pickle of it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_pickled_code_does_not_run(tmp_path: Path, protocol: int) -> None:
    victim = tmp_path / "made"
    content = pickle.dumps({"data": Touch(victim), "labels": [1]}, protocol)
    path = unpacked(tmp_path / "cifar-10-batches-py", python_10() | {"data_batch_2": content})
    assert "data_batch_2: asks for posix.mkdir, which could run code and is refused" in refused(path)
    assert not victim.exists()
    pickle.loads(content)
    assert victim.exists()  # as it would have


@pytest.mark.parametrize(
    "call",
    [
        b"cbuiltins\neval\nU\x011\x85R",
        b"c__builtin__\neval\nU\x011\x85R",
        b"cnumpy.core.multiarray\nscalar\n",
        b"cnumpy\nload\nU\x01x\x85R",
        b"cpickle\nloads\nU\x01.\x85R",
        b"ccopyreg\n_reconstructor\n",
        b"(U\x011ibuiltins\neval\n",
    ],
)
def test_nothing_but_arrays_can_be_made(tmp_path: Path, call: bytes) -> None:
    path = unpacked(tmp_path / "cifar-10-batches-py", python_10() | {"test_batch": b"\x80\x02" + call + b"."})
    assert "which could run code and is refused" in refused(path)


BROKEN: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("data_batch_3.bin", None, "the 7 files of CIFAR-10, but data_batch_3.bin is missing; fetch"),
    "no names": ("batches.meta.txt", None, "batches.meta.txt is missing"),
    "cut off": (
        "data_batch_3.bin",
        binary_10()["data_batch_3.bin"][:-1],
        "expected records of 3,073 bytes, got 122,919",
    ),
    "empty": ("test_batch.bin", b"", "test_batch.bin: expected records of 3,073 bytes, got 0 bytes"),
    "label": (
        "test_batch.bin",
        bytes([3]) + bytes(3072) + bytes([10]) + bytes(3072),
        "image 1: expected a class from 0",
    ),
    "names": ("batches.meta.txt", b"a\nb\n", "expected the names of 10 classes, got 2"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_binary_files(tmp_path: Path, case: str) -> None:
    name, content, said = BROKEN[case]
    files = binary_10() | ({} if content is None else {name: content})
    if content is None:
        del files[name]
    path = unpacked(tmp_path / "cifar-10-batches-bin", files)
    assert said in refused(path)
    assert said in refused(archived(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", files))


PICKLES: dict[str, tuple[bytes, str]] = {
    "cut off": (python_10()["test_batch"][:5000], "test_batch: cannot be read ("),
    "empty": (b"", "test_batch: cannot be read ("),
    "text": (b"hello", "test_batch: cannot be read ("),
    "a list": (b"\x80\x02].", "a list instead of a dict"),
    "room for 33 million objects": (b"\x80\x02}r\x00\x00\x00\x02.", "object number 33554432 in a file of 9 bytes"),
    "changes what reads it": (b"\x80\x02c_codecs\nencode\nN}U\x01xK\x01s\x86b.", "test_batch: cannot be read ("),
    "no data": (dumped({"labels": [1, 2]}), "expected data, uint8 (N, 3,072), and labels, N integers, got labels"),
    "wide": (dumped({"data": pixels(2, 0)[:, :99], "labels": [1, 2]}), "expected data, uint8 (N, 3,072)"),
    "short": (dumped({"data": pixels(2, 0), "labels": [1]}), "got 2 images and 1 labels"),
    "text labels": (dumped({"data": pixels(1, 0), "labels": ["cat"]}), "N integers"),
    "floats": (python_10()["test_batch"].replace(b"U\x02u1", b"U\x02f4"), "an array of something other than bytes"),
    "shape": (dumped({"data": pixels(2, 0), "labels": [1]}).replace(b"(J\x02", b"(J\x03"), "cannot be read"),
    "number": (dumped({"data": pixels(1, 0), "labels": [10]}), "expected a class from 0 to 9, got 10"),
}


@pytest.mark.parametrize("case", PICKLES)
def test_broken_pickles(tmp_path: Path, case: str) -> None:
    content, said = PICKLES[case]
    path = unpacked(tmp_path / "cifar-10-batches-py", python_10() | {"test_batch": content})
    assert said in refused(path)


def test_broken_archives(tmp_path: Path) -> None:
    path = archived(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", binary_10())
    content = path.read_bytes()
    assert "is missing" in refused(path, hundred=True)
    for broken in (content[: len(content) // 2], content[:300] + bytes(300) + content[600:], b"", b"<html>not found"):
        path.write_bytes(broken)
        assert "is not an archive, or a damaged one" in refused(path) or "is missing" in refused(path)
    assert "expected cifar-10-binary.tar.gz or cifar-10-python.tar.gz" in refused(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "got neither" in refused(tmp_path / "empty")


def authors(folder: Path) -> Path:
    """100 images, of which the last 20 validate."""
    path = folder / "CIFAR10_trainset_100_seed_2020.h5"
    with h5py.File(path, "w") as file:
        file["images_train"] = np.stack([images[:20] for images, _ in TEN.values()]).reshape(100, 3, 32, 32)
        file["labels_train"] = np.concatenate([labels[:20] for _, labels in TEN.values()])
        file["subtrain_indx"], file["subvalid_indx"] = np.arange(80), np.arange(99, 79, -1)
    return path


def test_the_recipe_of_scarce_images_reads_the_authors_file(tmp_path: Path) -> None:
    """Its file holds exactly the images of C-10K: all train under the published protocol, else all but those that
    validate.
    """
    path = authors(tmp_path)
    unpacked(tmp_path / "cifar-10-batches-py", python_10())
    for protocol, count in (("gankd", 80), ("published", 100)):
        data = find_table("cifar10-c10k", protocol).recipe("full", str(path)).data  # type: ignore[arg-type]
        assert data.num_train == 10_000
        found = load_splits(replace(data, num_train=100))
        assert (len(found.train), len(found.val), len(found.test)) == (count, 20, 30)
        assert len(set(numbers(found.train).tolist())) == count
    with pytest.raises(ConfigError, match="num_train is 81, but there are 80 training images"):
        load_splits(replace(data, num_train=81, val_trains=False))


def test_the_authors_file(tmp_path: Path) -> None:
    path = authors(tmp_path)
    assert "holds no test images; put cifar-10-python.tar.gz, or its folder, next to it" in refused(path)
    unpacked(tmp_path / "cifar-10-batches-py", python_10())
    data = load_cifar10(path)
    assert (len(data.train), len(data.test)) == (80, 30)
    assert numbers(data.val).tolist() == list(range(160, 180))
    assert torch.equal(data.train.labels, (numbers(data.train) % 40 + numbers(data.train) // 40) % 10)
    assert data.task.group_name(4) == "class 4"
    assert torch.equal(data.test.images.flatten(1), torch.from_numpy(TEN_TEST[0]))
