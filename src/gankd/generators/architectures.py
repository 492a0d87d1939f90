"""The table of architectures: each name that `gan.architecture` takes.

A new architecture is a file with its two networks, its test and one line here. Importing this table imports no network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """One row: a pair of networks, and what a user must know to choose it."""

    networks: str
    """module:NAME in `gankd.generators`: a pair of functions or classes (generator, discriminator), called as

        generator(task, shape, width=, z_dim=, label_input=, embedding_width=, ili=) -> LatentGenerator
        discriminator(task, shape, width=, label_input=, embedding_width=, ili=, spectral=) -> nn.Module

    with shape (C, H, W); they raise ConfigError for a shape that does not fit. The settings of labels are described in
    `label_embedding`; `spectral` asks for spectral normalisation of the discriminator."""
    sizes: str
    """Sides of images in pixels."""
    summary: str
    labels: str = "classes and values"
    paper: str = "own"
    preset: str = ""
    """Function in `gankd.training.gan_published` with published settings; default: `GanConfig()`."""
    preset_size: int = 32
    """Side of the images that the preset is for."""
    batch_norm: bool = False
    """The generator takes `batch_norm`, so gan.batch_norm=false can leave batch normalisation out."""

    def pair(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The pair (generator, discriminator)."""
        module, _, name = self.networks.partition(":")
        generator, discriminator = getattr(import_module(f"gankd.generators.{module}"), name)
        return generator, discriminator


_BIGGAN, _CCGAN = "Brock et al., ICLR 2019", "Ding et al., CcGAN, ICLR 2021"

ARCHITECTURES = {
    "residual": Architecture("networks:RESIDUAL", "8-256", "small, for short trainings; default", batch_norm=True),
    "biggan": Architecture(
        "published:BIGGAN", "32, 64, 128", "residual, attention from 64 px on", paper=_BIGGAN, preset="biggan_cifar"
    ),
    "biggan-deep": Architecture(
        "published:BIGGAN_DEEP",
        "32, 64, 128",
        "bottlenecks, twice as many blocks",
        paper=_BIGGAN,
        preset="biggan_deep_imagenet100",
        preset_size=128,
    ),
    "sagan": Architecture(
        "published:SAGAN",
        "16-128",
        "spectral norm in both, attention",
        paper=_CCGAN,
        preset="sagan_steering",
        preset_size=64,
    ),
    "sngan": Architecture(
        "published:SNGAN",
        "16-128",
        "spectral norm in the discriminator only",
        paper=_CCGAN,
        preset="sngan_rc49",
        preset_size=64,
    ),
}
"""All architectures."""


def with_batch_norm() -> str:
    """Names of the architectures that can leave batch normalisation out, for messages."""
    return " or ".join(name for name, found in ARCHITECTURES.items() if found.batch_norm)
