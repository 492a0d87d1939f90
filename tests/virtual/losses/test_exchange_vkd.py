"""Peers that exchange files: lessons from one another, and every way in which a peer or a file can fail."""

import errno
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gankd.errors import ConfigError
from gankd.losses.distillation.kd import kd_loss
from gankd.seeds import rng
from gankd.storage import load_state, save_state
from gankd.tasks import Classification, Task
from gankd.virtual.losses import exchange_vkd
from gankd.virtual.losses.exchange_vkd import ExchangeVKD
from gankd.virtual.teacher import VirtualTeacher

TASK = Classification(num_classes=4, class_names=("ant", "bee", "cat", "dog"))
LABELS = torch.arange(16) % 4
TOTAL = 1000


def peer(folder: Path, name: str, **settings: Any) -> ExchangeVKD:
    given = {"every": 20, "gate": False} | settings
    torch.manual_seed(ord(name[0]))
    return ExchangeVKD(
        torch.zeros(64, dtype=torch.int64), given.pop("task", TASK), folder=str(folder), name=name, **given
    )


def outputs(step: int, runner_up: int) -> Tensor:
    """Right logits, whose second class tells the peer that they come from."""
    centres = 6 * torch.eye(4) + 4 * torch.eye(4).roll(runner_up, 1)
    return centres[LABELS] + 0.3 * torch.randn(16, 4, generator=rng(step, "noise", runner_up))


def step(loss: ExchangeVKD, number: int, runner_up: int = 1) -> Tensor:
    return loss(outputs(number, runner_up), LABELS, number / TOTAL, rng(number, "draw"))


def train(loss: ExchangeVKD, steps: range, runner_up: int = 1) -> Tensor:
    for number in steps:
        value = step(loss, number, runner_up)
    return value


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a peer b."""
    folder = tmp_path_factory.mktemp("published")
    train(peer(folder, "b"), range(160), runner_up=2)
    return folder / "b.safetensors"


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A folder that peer b has written to."""
    shutil.copy(published, tmp_path)
    return tmp_path


def changed(path: Path, **facts: Any) -> None:
    """A peer's file with other facts."""
    teacher = VirtualTeacher.load(path)
    replace(teacher, facts=teacher.facts | facts).save(path)


def test_two_peers_with_data_of_their_own_learn_from_one_another(tmp_path: Path) -> None:
    a, b = peer(tmp_path, "a"), peer(tmp_path, "b")
    for number in range(300):
        step(a, number, 1)
        step(b, number, 2)
    assert (list(a.used), list(b.used)) == (["b"], ["a"])
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "b.safetensors"}
    assert not a.problems
    for learner, own, others in ((a, 1, 2), (b, 2, 1)):
        student = outputs(999, own).requires_grad_()
        value = learner.eval()(student, LABELS, 0.5, rng(9, "draw"))
        (gradient,) = torch.autograd.grad(value.mean(), student)
        pull = -gradient[LABELS == 0].mean(0)
        assert pull[others] > 0 > pull[own]  # of class 0: up with the other's second class, down with one's own


def test_it_follows_its_formula(folder: Path) -> None:
    """Mean over peers of T^2 KL(sample || student) on the ramp; red without T^2, or with the ramp reversed."""
    shutil.copy(folder / "b.safetensors", folder / "c.safetensors")
    loss = peer(folder, "a", T=2.0)  # the others are at 4: their draws are brought to this temperature
    step(loss, 0)
    assert list(loss.used) == ["b", "c"]
    student = outputs(5, 3)
    found = loss.eval()(student, LABELS, 0.125, rng(5, "draw"))
    noise = rng(5, "draw")
    teachers = [loss.used[name].teacher for name in "bc"]
    draws = [t.draw(LABELS, torch.randn(16, t.generator.z_dim, generator=noise)) for t in teachers]
    expected = math.exp(-1.25) * (kd_loss(student, draws[0], 2.0) + kd_loss(student, draws[1], 2.0)) / 2
    torch.testing.assert_close(found, expected)
    assert (draws[0] - draws[1]).abs().max() > 0.01


def test_without_peers_labels_alone_teach(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    loss = peer(tmp_path / "shared", "a")
    student = outputs(0, 1).requires_grad_()
    for mode in (False, True):
        value = loss.train(mode)(student, LABELS, 0.0, rng(0, "draw"))
        assert value.eq(0).all()
        assert value.requires_grad  # as the dry run asks of every loss
    assert list((tmp_path / "shared").iterdir()) == []  # nothing to tell before the generator has begun
    train(loss, range(1, 140))
    assert (tmp_path / "shared" / "a.safetensors").is_file()
    assert not loss.used  # not itself


def test_nothing_is_read_or_written_out_of_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = peer(folder, "a").eval()

    def no_files(*_: object) -> None:
        raise AssertionError("a file was touched")

    for name in ("stat", "glob", "read_bytes", "mkdir"):
        monkeypatch.setattr(Path, name, no_files)
    for number in range(3):
        assert step(loss, number).eq(0).all()
    assert loss.knowledge.gan.observed == 0


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    save_state(path, {"kind": "something else"})


def no_peer(path: Path) -> None:
    replace(VirtualTeacher.load(path), facts={"accuracy": 0.9}).save(path)


def not_a_share(path: Path) -> None:
    changed(path, accuracy=float("nan"))


def infinite(path: Path) -> None:
    teacher = VirtualTeacher.load(path)
    teacher.generator.last.weight.data[0, 0] = float("inf")
    teacher.save(path)


def other_order(path: Path) -> None:
    task = Classification(num_classes=4, class_names=("ant", "cat", "bee", "dog"))
    replace(VirtualTeacher.load(path), task=task).save(path)


def folder_of_that_name(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (truncated, "truncated or damaged"),
        (empty, "truncated or damaged"),
        (foreign, "holds no virtual teacher"),
        (no_peer, "not written by a peer"),
        (not_a_share, "accuracy must lie in"),
        (infinite, "not finite"),
        (other_order, r"class 1 is 'cat' .* \(F12\)"),
        (folder_of_that_name, "no checkpoint"),
    ],
)
def test_a_bad_file_is_passed_over_while_the_last_good_version_stays(
    spoil: Callable[[Path], None], said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "b.safetensors"
    whole = path.read_bytes()
    loss = peer(folder, "a")
    step(loss, 0)
    good = loss.used["b"]
    spoil(path)
    os.utime(path, (2, 2))  # on a coarse clock both versions could have one time
    newcomer = peer(folder, "n")
    tries, read = list[Path](), exchange_vkd._read

    def counted(path: Path, task: Task) -> tuple[VirtualTeacher, exchange_vkd.Facts]:
        tries.append(path)
        return read(path, task)

    monkeypatch.setattr(exchange_vkd, "_read", counted)
    for learner in (loss, newcomer):
        train(learner, range(1 if learner is loss else 0, 90))
        assert re.search(said, learner.problems["b"]), learner.problems
    assert len(tries) == 2  # once per state of the file, not at every refresh
    assert loss.used["b"] is good
    assert not newcomer.used
    if path.is_dir():
        path.rmdir()
    path.write_bytes(whole)
    os.utime(path, (1, 1))
    for learner in (loss, newcomer):
        train(learner, range(90, 111))
        assert not learner.problems
        assert learner.used["b"] is not good


def test_a_silent_peer_is_left_out_until_it_writes_again_and_a_finished_one_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    shutil.copy(folder / "b.safetensors", folder / "done.safetensors")
    changed(folder / "done.safetensors", final=True)
    loss = peer(folder, "a", patience=50.0)
    step(loss, 0)
    assert set(loss.used) == {"b", "done"}
    clock[0] += 60
    train(loss, range(1, 21))
    assert set(loss.used) == {"done"}
    assert loss.problems == {"b": "b has written nothing for 50 s and is left out"}
    changed(folder / "b.safetensors", accuracy=0.5)
    train(loss, range(21, 41))
    assert set(loss.used) == {"b", "done"}
    assert not loss.problems
    (folder / "done.safetensors").unlink()  # what has been read is kept
    train(loss, range(41, 61))
    assert "done" in loss.used


def test_the_last_version_says_that_it_is(tmp_path: Path) -> None:
    loss = peer(tmp_path, "a", every=1000)
    for number in range(150):
        loss(outputs(number, 1), LABELS, number / 150, rng(number, "draw"))
        assert (tmp_path / "a.safetensors").exists() == (number == 149)
    facts = VirtualTeacher.load(tmp_path / "a.safetensors").facts
    assert facts["final"] is True
    assert facts["accuracy"] == pytest.approx(1.0)
    peer(tmp_path, "a").train()(outputs(0, 1), LABELS, 0.0, rng(0, "draw"))  # a new training may take the name over


def test_a_weak_peer_is_gated_by_the_accuracy_of_the_time_before(folder: Path) -> None:
    changed(folder / "b.safetensors", accuracy=0.5)
    loss = peer(folder, "a", gate=True)
    taught = []
    for number in range(60):  # its accuracy is 0 when it first listens and 1 from then on
        taught.append(bool(step(loss, number).abs().sum() > 0))
    assert taught == 40 * [True] + 20 * [False]
    changed(folder / "b.safetensors", accuracy=0.99)
    train(loss, range(60, 61))
    assert step(loss, 61).abs().sum() > 0


def test_a_full_disk_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = peer(tmp_path, "a")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(VirtualTeacher, "save", full)
        train(loss, range(130))
    assert loss.problems == {"a": f"{tmp_path / 'a.safetensors'} cannot be written: No space left on device"}
    train(loss, range(130, 150))
    assert not loss.problems
    assert (tmp_path / "a.safetensors").is_file()


def test_a_name_belongs_to_one_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "b.safetensors"

    def refused() -> bool:
        try:
            step(peer(folder, "b"), 0)
        except ConfigError as error:
            return "give each peer a name of its own" in str(error)
        return False

    os.utime(path)  # this process wrote it just now, and lives
    assert refused()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    changed(path, pid=gone.pid)
    assert not refused()  # it was killed: a resumed or new training goes on at once
    changed(path, pid=gone.pid, host="elsewhere")
    assert refused()  # nobody can tell
    os.utime(path, (os.stat(path).st_atime, os.stat(path).st_mtime - 61))
    assert not refused()
    truncated(path)
    assert not refused()


def test_two_that_start_at_once_under_one_name_are_told_at_the_first_version(tmp_path: Path) -> None:
    first, second = peer(tmp_path, "a"), peer(tmp_path, "a")
    train(first, range(119))
    train(second, range(119))
    train(first, range(119, 140))
    with pytest.raises(ConfigError, match="give each peer a name of its own"):
        train(second, range(119, 140))
    train(first, range(140, 200))


def test_a_resumed_peer_keeps_its_name_and_hears_the_others_anew(folder: Path, tmp_path: Path) -> None:
    part = peer(folder, "a")
    train(part, range(150))
    save_state(tmp_path / "checkpoint", part.state_dict())
    expected = [step(part, number) for number in range(150, 155)]
    resumed = peer(folder, "a")
    resumed.load_state_dict(load_state(tmp_path / "checkpoint"))
    for number, theirs in zip(range(150, 155), expected, strict=True):
        assert torch.equal(step(resumed, number), theirs)
    assert list(resumed.used) == ["b"]
    train(resumed, range(155, 200))  # publishes under its name
    last = resumed(outputs(999, 1), LABELS, 1 - 800 / TOTAL, rng(0, "draw"))  # and still knows how long a step is
    assert last.isfinite().all()


def test_reading_and_writing_draw_nothing_from_the_global_generator(folder: Path) -> None:
    loss = peer(folder, "a")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train(loss, range(150))
    assert (folder / "a.safetensors").is_file()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"folder": ""}, 'name the folder that the peers share: folder="peers"'),
        ({"folder": "gone"}, "gone is not a folder; create it where all peers can reach it"),
        ({"folder": "/proc/version"}, "is not a folder"),
        ({"name": ""}, "each peer needs a name"),
        ({"name": "../a"}, "each peer needs a name of letters"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"patience": 0.0}, "patience must be positive, got 0.0"),
        ({"T": 0.0}, r"T must lie in \(0, 100\], got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        ExchangeVKD(LABELS, TASK, **({"folder": str(tmp_path), "name": "a"} | settings))
