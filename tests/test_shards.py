"""Batches in shards: a plain reference, and the same weights on any number of processes."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gankd.config import override
from gankd.engine import Engine
from gankd.errors import ConfigError
from gankd.recipes import RECIPES
from gankd.recipes.arms import arm_named
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import declare
from gankd.runs import Run
from gankd.shards import Shards

NIGHTLY = (
    "gan of classes",
    "relativistic gan",
    "student in bfloat16",
    "student that sees rotations",
    "ratio",
    "virtual teacher",
)
QUICK = (
    "teacher of classes",
    "teacher of values",
    "teacher with dropout, uneven shards",
    "gan of values with r1",
    "student of classes",
    "student of values",
)


def hashes(names: tuple[str, ...], folder: Path, device: str = "cpu") -> dict[str, list[str]]:
    """Hash of each result in each of the 1 + 2 + 3 + 4 processes, or 1 + 2 with a GPU each."""
    script = str(Path(__file__).parent / "together.py")
    done = subprocess.run(
        [sys.executable, script, "; ".join(names), str(folder), device], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [count for count, _ in lines] == [1, 2, 2, 3, 3, 3, 4, 4, 4, 4][: 10 if device == "cpu" else 3]
    assert all("error" not in found for _, found in lines), lines
    return {name: [found[name] for _, found in lines] for name in lines[0][1]}


@pytest.mark.slow
def test_weights_are_the_same_on_any_number_of_processes(tmp_path: Path) -> None:
    """With batch statistics, averages, spectral norms, R1, dropout, and losses that compare all images of a batch."""
    found = hashes((*QUICK, *(NIGHTLY if "NIGHTLY" in os.environ else ())), tmp_path)
    relay = found.pop("relay")
    assert {name: len(set(values)) for name, values in found.items()} == dict.fromkeys(found, 1)
    assert relay[-1] == found["whole"][0]  # on 1, then 2, then 3, then 4 processes, interrupted in between
    assert len(set(relay)) == 4


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_weights_are_the_same_on_one_gpu_and_on_two(tmp_path: Path) -> None:
    found = hashes(("teacher of classes", "gan of values with r1", "student of values"), tmp_path, "cuda")
    del found["relay"]  # needs four processes
    assert {name: len(set(values)) for name, values in found.items()} == dict.fromkeys(found, 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_shards_make_no_step_wait_for_the_gpu() -> None:
    net = network().cuda()
    images = torch.randn(10, 3, device="cuda")
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        for _ in range(2):  # what is set up once may wait
            waits.clear()
            torch.cuda.set_sync_debug_mode("warn")
            Shards(4)(net, images, trains=net).square().mean().backward()
            torch.cuda.set_sync_debug_mode("default")
    assert [str(wait.message) for wait in waits] == []


# --- one process: what the shards compute -------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), spectral_norm(nn.Linear(4, 2)))
    return nn.Sequential(*layers)


def gradients(net: nn.Module) -> list[Tensor]:
    return [weight.grad for weight in net.parameters() if weight.grad is not None]


def test_gradients_are_those_of_a_loss_of_all_rows_with_batch_statistics_of_each_shard() -> None:
    images, net, plain = torch.randn(10, 3), network(), network()
    outputs = Shards(4)(net, images, trains=net)
    outputs.std().square().backward()  # compares rows of different shards

    start = {name: value.clone() for name, value in plain.named_buffers()}
    moves, parts = [], []
    for rows in (images[:3], images[3:6], images[6:8], images[8:]):
        with torch.no_grad():
            for name, value in plain.named_buffers():
                value.data.copy_(start[name])
        parts.append(plain(rows))
        moves.append({name: value.clone() for name, value in plain.named_buffers()})
    torch.cat(parts).std().square().backward()

    torch.testing.assert_close(outputs, torch.cat(parts))
    torch.testing.assert_close(gradients(net), gradients(plain))
    for name, value in net.named_buffers():
        if name.startswith("1.running"):  # the mean over shards of 3, 3, 2 and 2 rows
            wanted = sum(size / 10 * move[name] for size, move in zip((3, 3, 2, 2), moves, strict=True))
            torch.testing.assert_close(value, wanted)
        else:  # counts, and vectors of the spectral norm: one step
            assert torch.equal(value, moves[0][name]), name


def test_without_batch_statistics_shards_change_nothing_but_rounding() -> None:
    images = torch.randn(7, 3)
    nets = [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)) for _ in range(3)]
    for net, shards in zip(nets, (Shards(), Shards(3), Shards(3, fast=True)), strict=True):
        net.load_state_dict(nets[0].state_dict())
        shards(net, images, trains=net).square().sum().backward()
    torch.testing.assert_close(gradients(nets[1]), gradients(nets[0]))
    torch.testing.assert_close(gradients(nets[2]), gradients(nets[0]))


def test_each_shard_draws_random_numbers_of_its_own() -> None:
    def draws(random: torch.Generator, rows: Tensor) -> Tensor:
        return torch.stack([torch.rand(len(rows), generator=random), torch.rand(len(rows))], 1)

    for _ in range(2):
        torch.manual_seed(0)
        random = torch.Generator().manual_seed(1)
        first, second = Shards(4)(draws, random, torch.zeros(8)), Shards(4)(draws, random, torch.zeros(8))
        assert len(first.flatten().unique()) == 16
        assert not torch.equal(first[:, 1], second[:, 1])  # a network that is called twice drops other units


def test_few_rows_and_one_shard_are_not_split() -> None:
    calls: list[int] = []

    def call(rows: Tensor) -> Tensor:
        calls.append(len(rows))
        return rows

    for shards, rows in ((1, 8), (12, 8), (4, 8)):
        assert torch.equal(Shards(shards)(call, torch.arange(rows)), torch.arange(rows))
    assert calls == [8, 8, 2, 2, 2, 2]


def test_frozen_weights_and_outputs_without_gradient() -> None:
    net = nn.Linear(3, 2)
    net.bias.requires_grad_(False)

    def call(rows: Tensor) -> dict[str, Any]:
        outputs = net(rows)
        return {"outputs": outputs, "likeliest": outputs.argmax(1), "seen": [rows]}

    found = Shards(2)(call, torch.randn(4, 3), trains=net)
    assert (found["outputs"].requires_grad, found["likeliest"].dtype) == (True, torch.int64)
    assert not found["seen"][0].requires_grad
    found["outputs"].sum().backward()
    assert net.weight.grad is not None
    assert net.bias.grad is None
    with torch.no_grad():
        assert not Shards(2)(net, torch.randn(4, 3), trains=net).requires_grad


# --- settings -----------------------------------------------------------------------------------------------


def test_shards_enter_the_identity_of_stages_where_batches_are_split(tmp_path: Path) -> None:
    found = {}
    for settings in (
        (),
        ("shards=1", "reduce=fast"),
        ("teacher.in_parts=true",),
        ("shards=4",),
        ("shards=4", "reduce=fast"),
    ):
        recipe = override(RECIPES["digits"](), ["device=cpu", *settings])
        stages = declare(Experiment.open(recipe, Run(tmp_path)), [arm_named(recipe, "adjusted_kd")], [0])
        found[settings] = {stage.fingerprint for stage in stages}
    whole, same, parts, split, fast = found.values()
    assert whole == same == parts
    assert split == fast
    assert not whole & split


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("shards=40",), "shards=40 needs batches of at least 80 images, two in each shard, got teacher.batch_size=64"),
        (("shards=2", "student.compile=true"), "student.compile=true is for whole batches; set it to false, or"),
        (("teacher.in_parts=true", "teacher.model=net.onnx"), "but net.onnx is a finished network; set it to false"),
        (
            ("teacher.in_parts=true", "gan.teacher_features=true"),
            "needs gradients through the teacher; set one of them",
        ),
    ],
)
def test_settings_that_shards_cannot_keep_are_refused(settings: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        override(RECIPES["digits"](), settings)


def test_processes_must_divide_the_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gankd.shards.count", lambda: 5)
    with pytest.raises(ConfigError, match="5 processes cannot share shards=12 equally; start 1 or 2 or 3 or 4 or 6"):
        Shards(12)
    assert Shards().count == 1
    assert replace(Engine.pick(8, "cpu"), shards=Shards(15)).identity == {"bf16": False, "shards": 15}
