"""Files: nested state comes back as it was, a failed write leaves the old file, and foreign files are refused."""

import io
import json
import os
import pickle
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gankd import storage
from gankd.errors import CheckpointError
from gankd.seeds import rng
from gankd.storage import (
    atomic,
    load_state,
    read_json,
    remove_leftovers,
    restore_optimizer,
    save_state,
    write_json,
)


def same(a: Any, b: Any) -> bool:
    """Equal in value, type, and, for tensors, dtype and shape."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def test_nested_state_comes_back_as_it_was(tmp_path: Path) -> None:
    weights = torch.randn(4, 3, 5, 5, generator=rng(0, "w"))
    state = {
        "step": 7,
        3: {0: torch.arange(4), 1: (1, 2.5, [None, True, "text"])},
        "betas": (0.0, 0.9),
        "tensor": {"value": 1, "dict": [1, 2], "tuple": "names of the format itself"},
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "mask": torch.tensor([True, False]),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "nothing": [],
        "channels_last": weights.contiguous(memory_format=torch.channels_last),
        "view": weights[1:3, :, ::2],
        "again": weights,
        "parameter": nn.Parameter(weights[0, 0].clone()).detach(),
        "inf": float("inf"),
    }
    save_state(tmp_path / "deep" / "state", state)
    assert same(load_state(tmp_path / "deep" / "state"), state)


def test_state_without_tensors(tmp_path: Path) -> None:
    save_state(tmp_path / "state", {"step": 1})
    assert load_state(tmp_path / "state") == {"step": 1}


def test_no_length_of_header_is_taken_for_a_pickle(tmp_path: Path) -> None:
    # a safetensors file starts with its header's length: 640 reads b"\x80\x02", as a pickle does
    heads = set()
    for length in range(400, 720, 8):
        save_state(tmp_path / "state", "x" * length)
        heads.add((tmp_path / "state").read_bytes()[:2])
        assert load_state(tmp_path / "state") == "x" * length
    assert b"\x80\x02" in heads


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_state(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kept", [0, 5, 9, 100, -1, -100])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "state"
    save_state(path, {"a": torch.randn(100, generator=rng(0, "a"))})
    path.write_bytes(path.read_bytes()[:kept])
    assert "state is truncated or damaged" in refusal(path)


def test_files_that_run_code_are_refused(tmp_path: Path) -> None:
    zipped, old = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(3)}, zipped)
    torch.save({"a": torch.zeros(3)}, old, _use_new_zipfile_serialization=False)
    pickles = [pickle.dumps({"a": [1, 2, 3]}, protocol) for protocol in (2, 3, 4, 5)]
    for content in [zipped.getvalue(), old.getvalue(), *pickles]:
        (tmp_path / "state").write_bytes(content)
        assert "is a pickle or zip archive, which can run code when read and is never loaded" in refusal(
            tmp_path / "state"
        )


def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    assert refusal(path).startswith(f"no checkpoint {path}; ")
    save_file({"a": torch.zeros(3)}, path)
    assert "was not written by gankd" in refusal(path)
    path.write_text("something else altogether")
    assert "truncated or damaged" in refusal(path)
    monkeypatch.setattr(storage, "FORMAT", 99)
    save_state(path, {"a": 1})
    monkeypatch.undo()
    assert "has format 99, this version reads 1" in refusal(path)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("old", [None, "old"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, old: str | None) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_text(old)
    with pytest.raises(Interrupted), atomic(path) as temporary:
        assert temporary.parent == path.parent  # a rename across file systems would be no rename
        temporary.write_text("half of the n")
        raise Interrupted
    assert [item.name for item in tmp_path.iterdir()] == (["file"] if old else [])
    assert old is None or path.read_text() == old
    with atomic(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_failing_saves_leave_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path / "state", {"a": 1})
    write_json(tmp_path / "json", {"a": 1})

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="No space"):
        save_state(tmp_path / "state", {"a": 2})
    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "json", {"a": 2})
    with pytest.raises(CheckpointError, match="state cannot be written .*get_extra_state must return plain data"):
        save_state(tmp_path / "state", {"a": object()})
    assert load_state(tmp_path / "state") == read_json(tmp_path / "json") == {"a": 1}
    assert sorted(item.name for item in tmp_path.iterdir()) == ["json", "state"]


def test_weights_are_never_in_a_file_that_the_next_write_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("save_file writes to a temporary file of its own name, which a kill leaves for ever")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    save_state(tmp_path / "state", {"a": torch.ones(3)})
    storage.save_weights(tmp_path / "weights", {"a": torch.ones(3)}, {})
    assert sorted(item.name for item in tmp_path.iterdir()) == ["state", "weights"]


def test_json(tmp_path: Path) -> None:
    values = {"a": [1, 2.5, None], "b": {"c": "text"}}
    write_json(tmp_path / "deep" / "x.json", values)
    assert read_json(tmp_path / "deep" / "x.json") == values
    assert json.loads((tmp_path / "deep" / "x.json").read_text()) == values
    with pytest.raises(CheckpointError, match="no file .*absent.json"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "cut.json").write_text('{"a": [1, ')
    with pytest.raises(CheckpointError, match="cut.json is not readable JSON"):
        read_json(tmp_path / "cut.json")


def small_net() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    generator = rng(0, "net")
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        images = torch.randn(6, 3, 8, 8, generator=rng(0, "images", step))
        loss = net(images.contiguous(memory_format=torch.channels_last)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_restored_optimizer_continues_to_the_last_bit(tmp_path: Path, kind: str) -> None:
    def make(net: nn.Module) -> torch.optim.Optimizer:
        if kind == "adamw":
            return torch.optim.AdamW(net.parameters(), 1e-2, fused=True)
        return torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9, nesterov=True)

    net = small_net()
    optimizer = make(net)
    train(net, optimizer, range(4))
    save_state(tmp_path / "state", {"net": net.state_dict(), "optimizer": optimizer.state_dict()})
    train(net, optimizer, range(4, 8))

    other = small_net()
    restored = make(other)
    state = load_state(tmp_path / "state")
    other.load_state_dict(state["net"])
    restore_optimizer(restored, state["optimizer"])
    for parameter, moments in restored.state.items():
        for value in moments.values():
            if isinstance(value, Tensor) and value.ndim == 4:
                # a fused step walks through memory, so the moments must lie there as the weights do
                assert value.stride() == parameter.stride()
                assert value.is_contiguous(memory_format=torch.channels_last)
    train(other, restored, range(4, 8))
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    with suppress(StopIteration), atomic(tmp_path / "state.safetensors"):
        (tmp_path / "copy").write_bytes(b"half")
        leftover = tmp_path / "copy"
        leftover = leftover.rename(tmp_path / ".state.safetensors.0a_b1c2d.part")
        raise StopIteration
    for name in (".lock", ".nfs0000000000a1b2c3", "state.safetensors", "a.b.12345678"):
        (tmp_path / name).write_text("")
    (tmp_path / ".idea.original").mkdir()
    remove_leftovers(tmp_path)
    assert not leftover.exists()
    assert len(list(tmp_path.iterdir())) == 5


def test_the_next_write_removes_what_a_killed_write_left_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a[1].json"  # a name with characters of patterns
    left, other = tmp_path / ".a[1].json.0a_b1c2d.part", tmp_path / ".b.json.0a_b1c2d.part"
    own = tmp_path / ".a[1].json.original"
    for path in (left, other, own):
        path.touch()
    with atomic(target) as first:
        assert not left.exists()
        first.write_text("first")
        with atomic(target) as second:  # somebody else writes the same file meanwhile
            assert first.exists()
            second.write_text("second")
    assert target.read_text() == "first"
    assert {path.name for path in tmp_path.iterdir()} == {target.name, other.name, own.name}


@pytest.mark.timeout(20)
def test_json_that_never_ends_or_nests_too_deeply_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(CheckpointError, match=r"pipe.json is not readable JSON \(.*not a regular file but a pipe"):
        read_json(tmp_path / "pipe.json")
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="deep.json is not readable JSON"):
        read_json(tmp_path / "deep.json")


def test_equal_states_are_equal_files(tmp_path: Path) -> None:
    """The library orders texts by chance: with eight of them, equal files would be luck."""
    names = [f"text {number}" for number in range(8)]
    for file in ("a", "b"):
        storage._write_tensors(tmp_path / file, {"x": torch.ones(3)}, dict.fromkeys(names, "ü \x7f \n"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    content = (tmp_path / "a").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert list(header["__metadata__"]) == ["blake2b", *names]
    with safe_open(tmp_path / "a", "pt") as stored:
        assert {name: stored.metadata()[name] for name in names} == dict.fromkeys(names, "\u00fc \x7f \n")
        assert torch.equal(stored.get_tensor("x"), torch.ones(3))


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_rights_that_the_user_gives_to_new_files(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_json(tmp_path / "a.json", 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o666 & ~mask


def test_the_folder_is_on_disk_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []

    def noted(handle: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(handle).st_mode), (tmp_path / "a.json").exists()))

    monkeypatch.setattr(os, "fsync", noted)
    write_json(tmp_path / "a.json", 1)
    assert synced == [(False, False), (True, True)]


def test_descriptions_that_nest_too_deeply_are_refused(tmp_path: Path) -> None:
    deep = "[" * 200_000
    save_file({"00000": torch.ones(1)}, tmp_path / "s", {"gankd": str(storage.FORMAT), "tree": deep})
    with pytest.raises(CheckpointError, match="is damaged .RecursionError"):
        load_state(tmp_path / "s")
    save_file({"x": torch.ones(1)}, tmp_path / "s.safetensors", {"card": deep})
    assert storage.read_card(tmp_path / "s.safetensors") == {}
