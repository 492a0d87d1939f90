"""The table of architectures: each line builds, and a new one needs nothing but its line."""

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from gankd.config import override
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import ConfigError
from gankd.generators.architectures import ARCHITECTURES, Architecture
from gankd.generators.networks import LatentGenerator
from gankd.seeds import rng
from gankd.tasks import Classification, Task
from gankd.training import gan_published
from gankd.training.gan import GanConfig, GanTrainer, build_discriminator, build_generator

CLASSES = Classification(num_classes=2)


class Linear(LatentGenerator):
    def __init__(self, task: Task, shape: tuple[int, int, int], *, width: int, z_dim: int, **_: Any) -> None:
        super().__init__()
        self.task, self.z_dim, self.shape = task, z_dim, shape
        self.layers = nn.Sequential(nn.Linear(z_dim + 1, width), nn.ReLU(), nn.Linear(width, shape[1] * shape[2]))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return torch.tanh(self.layers(torch.cat([z, labels[:, None]], 1))).view(-1, *self.shape)


class Judge(nn.Module):
    def __init__(self, task: Task, shape: tuple[int, int, int], *, width: int, **_: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(shape[1] * shape[2] + 1, 1)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.layer(torch.cat([images.flatten(1), labels[:, None]], 1))[:, 0]


def test_one_line_adds_an_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gankd.generators.linear", SimpleNamespace(PAIR=(Linear, Judge)))
    monkeypatch.setitem(ARCHITECTURES, "linear", Architecture("linear:PAIR", "any", "two linear layers"))
    config = override(GanConfig(steps=2, batch_size=4, z_dim=3), ["architecture=linear"])
    images = torch.randint(256, (8, 1, 8, 8), dtype=torch.uint8, generator=rng(0, "test"))
    trainer = GanTrainer(
        LabelledImages(images, torch.arange(8) % 2, CLASSES), config, Engine(torch.device("cpu"), False, False), 0, None
    )
    before = [value.clone() for value in trainer.generator.parameters()]
    trainer.discriminator_step(0)
    trainer.generator_step(0)
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.generator.parameters(), strict=True))
    assert trainer.averaged().sample(torch.tensor([0, 1]), generator=rng(0, "z")).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_line_builds_at_its_preset(name: str) -> None:
    found = ARCHITECTURES[name]
    preset = getattr(gan_published, found.preset)() if found.preset else GanConfig()
    assert preset.architecture == name
    config = replace(preset, width_g=2, width_d=2, label_input="learned", spectral_norm=False, init="default")
    size = found.preset_size
    with FakeTensorMode():  # shapes only
        generator = build_generator(CLASSES, (3, size, size), config, 0)
        discriminator = build_discriminator(CLASSES, (3, size, size), config, 0)
        z, labels = torch.zeros(2, generator.z_dim), torch.zeros(2, dtype=torch.int64)
        images = generator(z, labels)
        assert images.shape == (2, 3, size, size)
        assert discriminator(images, labels).shape == (2,)


def test_an_unknown_architecture_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="^gan.architecture: no architecture 'bigan'; did you mean biggan"):
        GanConfig(architecture="bigan")
