"""The choice of device, precision and memory layout."""

import pytest
import torch
from torch import nn

from gankd.engine import Engine
from gankd.errors import ConfigError

CPU = torch.device("cpu")


def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_pick_on_a_cpu(has_bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    assert Engine.pick(8) == Engine(CPU, bf16=False, channels_last=False)
    assert Engine.pick(32) == Engine(CPU, bf16=has_bf16, channels_last=True)
    assert Engine.pick(32, "cpu", "fp32") == Engine(CPU, bf16=False, channels_last=True)
    assert Engine.pick(8, "cpu", "bf16") == Engine(CPU, bf16=True, channels_last=False)


def test_pick_prefers_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert Engine.pick(32) == Engine(torch.device("cuda"), bf16=True, channels_last=True)
    assert Engine.pick(32, "cuda:1").device == torch.device("cuda:1")
    assert Engine.pick(32, "cpu", "fp32").device == CPU


def test_what_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch)
    with pytest.raises(ConfigError, match="PyTorch finds no GPU here; use device=cpu"):
        Engine.pick(8, "cuda")
    with pytest.raises(ConfigError, match="device must be auto, cpu or cuda, got 'tpu'"):
        Engine.pick(8, "tpu")
    with pytest.raises(ConfigError, match="got 'mps'; Apple's GPU is not used, as nobody has tried gankd on one"):
        Engine.pick(8, "mps")


@pytest.mark.parametrize("bf16", [True, False])
def test_autocast(bf16: bool) -> None:
    layer = nn.Linear(4, 4)
    with Engine(CPU, bf16=bf16, channels_last=False).autocast():
        assert layer(torch.zeros(2, 4)).dtype == (torch.bfloat16 if bf16 else torch.float32)


def test_place_lays_out_weights() -> None:
    net = nn.Conv2d(3, 8, 3)
    values = net.weight.detach().clone()
    assert Engine(CPU, bf16=False, channels_last=False).place(net) is net
    assert net.weight.is_contiguous()
    Engine(CPU, bf16=False, channels_last=True).place(net)
    assert net.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(net.weight, values)


def test_a_gpu_trains_one_student_at_a_time() -> None:
    cpu, gpu = (Engine(torch.device(name), bf16=False, channels_last=False) for name in ("cpu", "cuda"))
    assert [cpu.at_a_time(workers) for workers in (1, 4)] == [1, 4]
    assert [gpu.at_a_time(workers) for workers in (1, 4)] == [1, 1]
