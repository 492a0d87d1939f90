"""Ready-made recipes: embedded data, and the user's own images."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from gankd.data.sets import DATA_SETS
from gankd.recipes.config import DataConfig, Recipe, StudentConfig, SynthConfig, TeacherConfig
from gankd.recipes.real import REAL, projected
from gankd.synthetic import SelectConfig
from gankd.training.gan import GanConfig, logistic
from gankd.virtual import VirtualConfig


def digits() -> Recipe:
    """Ten classes at 8x8 with 300 training images."""
    return Recipe(
        name="digits",
        data=DataConfig(name="digits", num_train=300),
        teacher=TeacherConfig(model="resnet8x2", updates=1000, augment=("shift", "rotate", "scale")),
        gan=GanConfig(steps=1500),
        synth=SynthConfig(pool=12_000),
        select=SelectConfig(count=5000, adjust="soft"),
        student=StudentConfig(model="cnn16", updates=2000, lr=3e-3, loss="0.2*Label + 0.8*KD"),
    )


def digits_takd() -> Recipe:
    """Ten classes at 8x8 through a teacher assistant."""
    recipe = digits()
    student = replace(recipe.student, assistants=("resnet8",), loss="0.5*Label + 0.5*KD(T=10)")
    return replace(recipe, name="digits-takd", student=student)


def rotated_digits() -> Recipe:
    """The angle of a digit at 16x16 with 300 training images: regression."""
    return Recipe(
        name="rotated-digits",
        data=DataConfig(name="rotated-digits", num_train=300),
        teacher=TeacherConfig(model="resnet8", members=3, updates=2000, lr=3e-3, augment=("shift", "scale")),
        gan=logistic(GanConfig(steps=1800, width_g=16, width_d=16)),
        synth=SynthConfig(pool=16_000, labels="uniform"),
        select=SelectConfig(count=5000),
        student=StudentConfig(model="cnn16", updates=1200, lr=3e-3, augment=()),  # of `gankd student --search`
    )


def blobs() -> Recipe:
    """Place and size of a disc at 16x16, three values, with 300 training images: regression of a vector."""
    return Recipe(
        name="blobs",
        data=DataConfig(name="blobs", num_train=300),
        teacher=TeacherConfig(model="resnet8", updates=1500, lr=3e-3),
        gan=logistic(GanConfig(steps=1500, width_g=16, width_d=16)),
        synth=SynthConfig(pool=12_000),
        select=SelectConfig(count=5000),
        student=StudentConfig(model="cnn16", updates=1200, lr=3e-3),
    )


def digits_all() -> Recipe:
    """All 898 training digits: with ample labels there is less to gain."""
    return replace(digits(), name="digits-all", data=DataConfig(name="digits"))


def digits_noisy() -> Recipe:
    """All training digits, three labels in ten wrong; the teacher stops before it memorises them."""
    recipe = digits()
    data, teacher = DataConfig(name="digits", label_noise=0.3), replace(recipe.teacher, updates=300)
    return replace(recipe, name="digits-noisy", data=data, teacher=teacher)


def rotated_digits_all() -> Recipe:
    """All 898 rotated training digits."""
    return replace(rotated_digits(), name="rotated-digits-all", data=DataConfig(name="rotated-digits"))


def turntable() -> Recipe:
    """The yaw of rendered solids at 32x32, few images per angle: regression, the stand-in for RC-49."""
    return Recipe(
        name="turntable",
        data=DataConfig(name="turntable", per_label=5),
        teacher=TeacherConfig(model="cnn32", updates=2500, lr=3e-3),
        gan=logistic(GanConfig(steps=2500, z_dim=64, width_g=16, width_d=16)),
        synth=SynthConfig(pool=16_000, labels="uniform"),
        select=SelectConfig(count=5000),
        student=StudentConfig(model="cnn8", updates=2000, lr=3e-3),
    )


def folder() -> Recipe:
    """The user's own images: class folders, or labels.csv."""
    return Recipe(
        name="folder",
        data=DataConfig(name="folder"),
        teacher=TeacherConfig(model="resnet20x2", updates=3000, augment=("shift", "scale", "colour")),
        gan=projected(5000),
        synth=SynthConfig(pool=20_000),
        student=StudentConfig(model="cnn16", updates=4000),
    )


def of_files(name: str) -> Recipe:
    """The recipe `folder` with another data set of `gankd.data.sets`."""
    return replace(folder(), name=name, data=DataConfig(name=name))


def cifar20() -> Recipe:
    """The first 20 classes of CIFAR-100 at 16x16 with 200 training images each, from an .npz file of it."""
    return Recipe(
        name="cifar20",
        data=DataConfig(name="npz", size=16, classes=20, per_label=200),
        teacher=TeacherConfig(model="resnet14", updates=3000, augment=("shift", "scale")),
        virtual=VirtualConfig(every=4, polish=2000),
        gan=logistic(GanConfig(steps=5000, z_dim=64)),
        student=StudentConfig(model="cnn16", updates=1500, lr=3e-3),
    )


_OWN = {
    make().name: make
    for make in (
        digits,
        digits_all,
        digits_noisy,
        digits_takd,
        rotated_digits,
        blobs,
        rotated_digits_all,
        turntable,
        folder,
        cifar20,
    )
} | REAL
RECIPES: dict[str, Callable[[], Recipe]] = _OWN | {
    name: partial(of_files, name) for name in DATA_SETS if name not in _OWN
}
"""Recipes by name; a data set without a recipe of its own gets that of `folder`."""


def recipe_summary(name: str) -> str:
    """One line on a recipe, for lists."""
    return (_OWN[name].__doc__ or "").strip().rstrip(".") if name in _OWN else DATA_SETS[name].summary
