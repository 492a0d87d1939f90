"""Files of trained weights: what is read, what is never loaded, and one line for every other kind of file."""

import io
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gankd.errors import CheckpointError
from gankd.models.weights import NESTS, load_weights, nest_of
from gankd.seeds import rng


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", NESTS)
def test_weights_are_read_from_a_checkpoint(name: str, tmp_path: Path) -> None:
    weights, path = {"weight": torch.rand(2, 3, generator=rng(0, "w"))}, tmp_path / "last.ckpt"
    torch.save({"epoch": 3, "optimizer": {"state": {}, "lr": [0.1]}, name: weights}, path)
    assert same(load_weights(path), weights)
    assert nest_of(path) == f"read from {name}"
    torch.save({name: weights, "epoch": torch.tensor(3)}, path)
    assert same(load_weights(path), weights)
    torch.save(weights, path)
    assert nest_of(path) == ""


def test_which_of_several_weights_is_read_is_said(tmp_path: Path) -> None:
    first, second = ({"weight": torch.full((2,), value)} for value in (1.0, 2.0))
    torch.save({"ema": second, "state_dict": first}, tmp_path / "two.pt")
    assert same(load_weights(tmp_path / "two.pt"), first)
    said = nest_of(tmp_path / "two.pt")
    assert said == "read from state_dict, not from ema: save that as a file of its own to use it"


class Forever:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


def test_a_users_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {"bias": torch.rand(2, generator=rng(0, "b")), "weight": torch.rand(2, 3, generator=rng(0, "w"))}
    save_file(weights, tmp_path / "net.safetensors")
    torch.save(weights, tmp_path / "net.pt")
    for name in ("net.safetensors", "net.pt"):
        assert same(dict(sorted(load_weights(tmp_path / name).items())), dict(sorted(weights.items())))

    def refused(name: str) -> str:
        with pytest.raises(CheckpointError) as error:
            load_weights(tmp_path / name)
        assert "\n" not in str(error.value)
        return str(error.value)

    torch.save({"net": Forever()}, tmp_path / "code.pt")
    assert "holds pickled code (print), which is never run" in refused("code.pt")
    assert "code ran" not in capsys.readouterr().out
    torch.save({"epoch": 3, "best": weights, "net": {}, "model": {"names": ["a"]}}, tmp_path / "more.pt")
    assert "is not a state_dict (names to tensors), nor has it one under state_dict, model_state" in refused("more.pt")
    assert "state_dict_ema, model_ema (but one each under best); save only" in refused("more.pt")
    torch.save([weights], tmp_path / "list.pt")
    assert "is not a state_dict" in refused("list.pt")
    for name in ("net.safetensors", "net.pt"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        assert "is truncated" in refused(name)
    assert refused("absent.pt") == f"no weights file {tmp_path / 'absent.pt'}"


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 2)).eval()


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_weights(path)
    said = str(error.value)
    assert "\n" not in said
    assert said.startswith(str(path))
    assert "weights_only" not in said  # PyTorch's advice to switch its protection off
    return said.removeprefix(f"{path} ")


@pytest.mark.filterwarnings("ignore:.*torch.jit.s:DeprecationWarning")
def test_networks_with_their_code_are_told_apart_and_never_run(tmp_path: Path) -> None:
    """PyTorch warns of TorchScript archives, and warnings are errors here: it is not even asked."""
    torch.jit.script(small()).save(str(tmp_path / "script.pt"))
    assert "is a TorchScript archive, a whole network with its code" in refusal(tmp_path / "script.pt")
    torch.export.save(torch.export.export(small(), (torch.zeros(2, 3, 5, 5),)), tmp_path / "net.pt2")
    assert "is a network from torch.export, with its code" in refusal(tmp_path / "net.pt2")
    torch.save(small(), tmp_path / "module.pth")
    said = refusal(tmp_path / "module.pth")
    assert said.startswith("holds pickled code (torch.nn.modules.container.Sequential), which is never run; save only")
    torch.save(small(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert "holds pickled code" in refusal(tmp_path / "old.pth")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"weight": Forever()}, protocol=2))
    assert "holds pickled code" in refusal(tmp_path / "plain.pt")


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return path


def test_files_of_other_programs_are_one_line_each(tmp_path: Path) -> None:
    def written(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return refusal(tmp_path / name)

    assert "is an HDF5 file, as Keras writes it; convert it" in written("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(99))
    assert "is a GGUF file" in written("a.gguf", b"GGUF" + bytes(99))
    assert "is a TensorFlow Lite network" in written("a.tflite", b"\x1c\0\0\0TFL3" + bytes(99))
    assert "is only a pointer of Git LFS" in written("a.pt", b"version https://git-lfs.github.com/spec/v1\noid")
    assert "is a web page" in written("b.pt", b"<!DOCTYPE html><html>")
    assert "is empty (0 bytes)" in written("c.safetensors", b"")
    assert "give it as teacher.model=" in written("d.onnx", b"\x08\x08\x12\x07pytorch")
    np.savez(tmp_path / "a.npz", w=np.ones(3))
    assert "is a NumPy archive" in refusal(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", np.ones(3))
    assert "is one NumPy array" in refusal(tmp_path / "a.npy")
    assert "is a Keras network" in refusal(archive(tmp_path / "a.keras", "config.json", "model.weights.h5"))
    assert "is a torch.package archive" in refusal(archive(tmp_path / "p.pt", "p/.data/extern_modules", "p/m.py"))
    assert "is a zip archive without PyTorch weights" in refusal(archive(tmp_path / "z.pt", "weights.pt"))
    with tarfile.open(tmp_path / "old.pt", "w") as tar:
        tar.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    assert "is a tar archive" in refusal(tmp_path / "old.pt")


def test_a_file_under_another_ending_and_a_folder(tmp_path: Path) -> None:
    weights = small().state_dict()
    save_file(weights, tmp_path / "net.pt")
    assert refusal(tmp_path / "net.pt").endswith("rename it to net.safetensors")
    torch.save(weights, tmp_path / "other.safetensors")
    assert refusal(tmp_path / "other.safetensors").endswith("rename it to other.pt")
    (tmp_path / "hub").mkdir()
    assert refusal(tmp_path / "hub") == "is a folder; give the file of weights in it"
    save_file(weights, tmp_path / "hub" / "model.safetensors")
    assert refusal(tmp_path / "hub").endswith(f"such as {tmp_path / 'hub' / 'model.safetensors'}")
    (tmp_path / "hub" / "saved_model.pb").touch()
    assert "is a TensorFlow SavedModel" in refusal(tmp_path / "hub")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "net.pth", "last.ckpt", "weights"])
def test_a_state_dict_is_read_under_any_ending_and_in_both_formats_of_pytorch(name: str, tmp_path: Path) -> None:
    weights = dict(small().state_dict())
    for modern in (True, False):
        torch.save(weights, tmp_path / name, _use_new_zipfile_serialization=modern)
        assert same(load_weights(tmp_path / name), weights)
