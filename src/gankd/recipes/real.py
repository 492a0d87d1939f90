"""Recipes of `gankd results`: real images at 32 pixels, for two cores."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gankd.data.augment import Augmentation
from gankd.recipes.config import DataConfig, Recipe, StudentConfig, SynthConfig, TeacherConfig
from gankd.synthetic import SelectConfig
from gankd.training.gan import GanConfig, logistic
from gankd.training.ratio import RatioConfig


def projected(steps: int, **settings: Any) -> GanConfig:
    """A generator for 32 pixels within the hour on one core: it also learns to please the teacher's features."""
    config = logistic(
        GanConfig(steps=steps, batch_size=32, z_dim=64, lr_g=4e-4, diff_augment=("translation",), **settings)
    )
    return replace(config, lr_d=8e-4, penalty_every=16, penalty_weight=0.1, teacher_features=True)


def cifar_scarce() -> Recipe:
    """20 classes of CIFAR-100 at 32x32 with 100 training images each, from an .npz file of them."""
    augment: tuple[Augmentation, ...] = ("shift", "scale", "flip", "colour")
    return Recipe(
        name="cifar-scarce",
        data=DataConfig(name="npz", num_train=2000),
        teacher=TeacherConfig(model="cnn32", members=3, updates=2500, lr=3e-3, weight_decay=5e-2, augment=augment),
        gan=projected(6000, flip=True),
        ratio=RatioConfig(features="classifier"),
        synth=SynthConfig(pool=30_000),
        select=SelectConfig(count=20_000, adjust="soft"),
        student=StudentConfig(model="cnn16", updates=2000, lr=3e-3, loss="0.2*Label + 0.8*KD"),
    )


def cifar_10k() -> Recipe:
    """20 classes of CIFAR-100 at 32x32 with all their training images, 450 to 500 each."""
    recipe = cifar_scarce()
    augment: tuple[Augmentation, ...] = ("shift", "scale", "flip")
    return replace(
        recipe,
        name="cifar-10k",
        data=DataConfig(name="npz"),
        teacher=TeacherConfig(model="resnet14x2", updates=3500, lr=3e-3, weight_decay=5e-2, augment=augment),
        gan=projected(6000, flip=True),
    )


def faces_scarce() -> Recipe:
    """Ages 1 to 60 at 32x32 from 2,000 faces, from an .npz file of them: regression."""
    augment: tuple[Augmentation, ...] = ("shift", "scale", "flip", "colour")
    teacher = TeacherConfig(model="cnn32", members=3, updates=2500, lr=3e-3, weight_decay=5e-2, augment=augment)
    return Recipe(
        name="faces-scarce",
        data=DataConfig(name="npz", num_train=2000, task="regression", low=1.0, high=60.0),
        teacher=teacher,
        gan=projected(3000, flip=True),
        ratio=RatioConfig(features="classifier"),
        synth=SynthConfig(pool=20_000),
        select=SelectConfig(count=10_000),
        student=StudentConfig(model="cnn16", updates=1200, lr=3e-3),
    )


def steering_scarce() -> Recipe:
    """The steering of a model car at 32x32 from 300 frames, from an .npz file of them: regression."""
    augment: tuple[Augmentation, ...] = ("shift", "scale", "colour", "rotate")
    teacher = TeacherConfig(model="cnn32", members=3, updates=1500, lr=3e-3, weight_decay=5e-2, augment=augment)
    return Recipe(
        name="steering-scarce",
        data=DataConfig(name="npz", num_train=300, task="regression", low=-1.0, high=1.0),
        teacher=teacher,
        gan=projected(2500, width_g=24, width_d=24),
        ratio=RatioConfig(features="classifier"),
        synth=SynthConfig(pool=20_000, labels="uniform"),
        select=SelectConfig(count=10_000),
        student=StudentConfig(model="cnn16", updates=1200, lr=3e-3),
    )


REAL: dict[str, Callable[[], Recipe]] = {
    make().name: make for make in (cifar_scarce, cifar_10k, faces_scarce, steering_scarce)
}
"""Recipes on real images that `gankd results` runs."""
