"""Published settings of generators, by paper and data set."""

from dataclasses import replace

from gankd.generators.diff_augment import DiffAugmentation
from gankd.training.gan import GanConfig

ALL_CHANGES: tuple[DiffAugmentation, ...] = ("color", "translation", "cutout")


def biggan_cifar() -> GanConfig:
    """BigGAN at 32 pixels as cGAN-KD trains it on CIFAR-100 (Ding et al. 2023; the authors' scripts).

    On CIFAR-10, versions 1 and 2 of the paper work without DiffAugment. Deviations: batch normalisation is measured
    again for the averaged generator; the published 38,000 updates are those of the checkpoint that was used.
    """
    return GanConfig(
        architecture="biggan",
        steps=38_000,
        batch_size=512,
        d_steps=4,
        lr_g=2e-4,
        lr_d=2e-4,
        betas=(0.0, 0.999),
        width_g=64,
        width_d=64,
        z_dim=128,
        embedding_width=128,
        diff_augment=ALL_CHANGES,
        flip=True,
        ema_decay=0.9999,
        ema_start=1000,
        lr_decay=False,
        init="normal",
    )


def biggan_tiny_imagenet() -> GanConfig:
    """BigGAN at 64 pixels: attention at 32, shared embedding of 128, latent in chunks (Ding et al., versions 1 and 2).

    Their training of it is not on record: it is taken from `biggan_cifar`, with batches of 256 and two discriminator
    updates, which is our own choice.
    """
    return replace(biggan_cifar(), z_dim=120, batch_size=256, d_steps=2, init="orthogonal")


def biggan_deep_imagenet100() -> GanConfig:
    """BigGAN-deep at 128 pixels on ImageNet-100 (Ding et al., cDR-RS and cGAN-KD; the authors' script).

    Deviations: the last convolution gives three channels, not 128 of which three are used; epsilon of the spectral norm
    is PyTorch's 1e-12 in place of 1e-6; batch normalisation as in `biggan_cifar`.
    """
    return replace(
        biggan_cifar(),
        architecture="biggan-deep",
        steps=96_000,
        batch_size=128,
        accumulate=8,
        d_steps=1,
        lr_g=1e-4,
        lr_d=4e-4,
        adam_eps=1e-6,
        width_g=128,
        width_d=128,
        flip=False,
        ema_start=20_000,
        init="orthogonal",
    )


def sagan_steering() -> GanConfig:
    """CcGAN (SVDL, ILI) with SAGAN at 64 pixels on steering angles (Ding et al. 2023; the authors' scripts).

    Deviations: ILI's networks are smaller and trained for 10,000 updates each by AdamW, in place of 200 and 500 epochs
    by SGD; attention has no biases.
    """
    return GanConfig(
        architecture="sagan",
        steps=20_000,
        batch_size=512,
        d_steps=2,
        lr_g=1e-4,
        lr_d=1e-4,
        betas=(0.5, 0.999),
        width_g=64,
        width_d=64,
        z_dim=256,
        embedding_width=128,
        label_input="ili",
        ili_updates=10_000,
        vicinity="soft",
        vicinity_m=5.0,
        diff_augment=ALL_CHANGES,
        ema_decay=0.0,  # CcGAN averages nothing
        lr_decay=False,
        init="xavier",
    )


def sagan_utkface() -> GanConfig:
    """CcGAN (SVDL, ILI) with SAGAN at 64 pixels on ages (Ding et al. 2023; the authors' scripts).

    Some of their runs have 40,000 updates.
    """
    return replace(sagan_steering(), d_steps=4, vicinity_m=2.0, flip=True)


def sagan_utkface_2021() -> GanConfig:
    """CcGAN on ages as `sagan_utkface`, for 40,000 updates (Ding et al., versions 1 and 2; the authors' scripts)."""
    return replace(sagan_utkface(), steps=40_000)


def sngan_rc49() -> GanConfig:
    """CcGAN with SNGAN at 64 pixels on RC-49 (Ding et al., versions 1 and 2; the authors' scripts).

    Deviations as in `sagan_steering`. Xavier's weights are published with a gain of sqrt 2 in the 3x3 convolutions of
    the blocks; here it is 1 in all layers.
    """
    return replace(
        sagan_steering(),
        architecture="sngan",
        steps=30_000,
        batch_size=256,
        d_steps=1,
        vicinity_m=2.0,
        diff_augment=(),
    )
