"""All settings of a run in one frozen dataclass, and the ready-made recipes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

from gankd.config import require
from gankd.data.augment import Augmentation
from gankd.engine import Precision
from gankd.synthetic import SelectConfig
from gankd.tasks import LabelSampling
from gankd.training.distill import DistillConfig
from gankd.training.gan import GanConfig, logistic
from gankd.training.objective import Objective
from gankd.training.ratio import RatioConfig
from gankd.training.supervised import SupervisedConfig
from gankd.virtual.gan import VirtualConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and how scarce they are made. But for `classes`, only the training split is ever changed."""

    name: Literal[
        "digits",
        "rotated-digits",
        "turntable",
        "folder",
        "table",
        "npz",
        "h5",
        "idx",
        "cifar10",
        "cifar100",
        "tiny-imagenet",
        "imagenet100",
        "rc49",
        "utkface",
        "steering",
    ] = "digits"
    """The first three need no files; folder, table, npz, h5 and idx are the user's own images; the others are published
    sets, read as they are published."""
    root: str | None = None
    """The file or folder to read."""
    task: Literal["auto", "classification", "regression"] = "auto"
    """Task of the user's own images."""
    size: int | None = None
    """Side in pixels: 32 or 64 for turntable; images from files are cropped and resized to it."""
    channels: Literal["auto", "grey", "rgb"] = "auto"
    low: float | None = None
    high: float | None = None
    """Range of the user's own values; none: from the smallest to the largest label of all splits. steering: frames
    outside the range are left out; none: -88.13 to 97.92 degrees."""
    coarse: bool = False
    """cifar100: the 20 superclasses in place of the 100 classes."""
    class_list: str | None = None
    """imagenet100: file with an id per line; none: imagenet100.txt or classes.txt in the folder."""
    classes: int | None = None
    """Keep the images of this many classes, the first ones."""
    num_train: int | None = None
    """Keep this many training images."""
    per_label: int | None = None
    """Keep at most this many per label; turntable and rc49: images per angle (RC-49's protocol: 25, 15 or 5)."""
    label_noise: float = 0.0
    """Share of training labels replaced (classes), or noise in units of the label range (regression)."""
    seed: int = 0
    """Which images are kept and which labels are disturbed."""
    authors_rounding: bool = False
    """utkface: labels cut off to whole years. A defect of the authors' code, kept for comparison with it."""


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(SupervisedConfig):
    """The large network."""

    where: ClassVar[str] = "teacher."

    model: str = "resnet20"
    """A zoo name or module:name."""
    members: int = 1
    """Networks whose mean output is the teacher."""
    weights: str | None = None
    """File of trained weights (.safetensors, or .pt without pickled code): the teacher is then not trained, and a
    regressor's outputs are taken to be in label units."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    """Normalisation per channel, on the [0, 1] scale, that `weights` were trained with; none: that of the data."""
    input_size: int | None = None
    """Side in pixels that `weights` were trained with; none: that of the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.std is None or min(self.std) > 0, f"teacher.std must be positive, got {self.std}")
        require(
            self.input_size is None or self.input_size >= 1,
            f"teacher.input_size must be positive, got {self.input_size}",
        )
        require(self.members >= 1, f"teacher.members must be at least 1, got {self.members}")
        require(
            self.weights is None or self.members == 1,
            f"teacher.weights is one network, so teacher.members must be 1, got {self.members}",
        )


@dataclass(frozen=True, kw_only=True)
class StudentConfig(DistillConfig):
    """The small network."""

    where: ClassVar[str] = "student."

    model: str = "cnn8"
    """A zoo name or module:name."""
    teacher: str | None = None
    """Network that losses read, trained as the teacher is; none: the teacher that filters and adjusts."""
    loss: str = "0.5*Label + 0.5*KD"
    """What arms with a teacher minimise: a sum of losses, see `gankd list losses`; other arms learn from labels."""
    assistants: tuple[str, ...] = ()
    """Networks between teacher and student, large to small: each learns from the one before, the student from the
    last (TAKD, Mirzadeh et al., AAAI 2020)."""
    virtual: str | None = None
    """File of a virtual teacher from elsewhere, for losses that read @virtual; none: that of the run."""
    init: Literal["scratch", "finetune"] = "scratch"
    """finetune starts every arm but `real` from the student of arm `real`, as the paper does."""
    finetune_lr: float | None = None
    """Highest learning rate of students that start from another; none: lr."""
    start_updates: int | None = None
    """Updates of the student that the others start from; none: as many passes over real images as they have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.objective
        require(
            self.start_updates is None or self.init == "finetune",
            f"student.start_updates is for student.init=finetune, got {self.start_updates} with {self.init}",
        )
        require(
            self.finetune_lr is None or 0 < self.finetune_lr <= 10,
            f"student.finetune_lr must lie in (0, 10], got {self.finetune_lr}",
        )
        require(
            self.start_updates is None or self.start_updates >= 1,
            f"student.start_updates must be at least 1, got {self.start_updates}",
        )

    @property
    def from_scratch(self) -> "StudentConfig":
        """The same settings for a student that does not start from another."""
        return replace(self, init="scratch", start_updates=None, finetune_lr=None)

    @property
    def objective(self) -> Objective:
        """`loss`, read, with the label loss if it names none."""
        return Objective.parse(self.loss).complete


@dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """The pool of generated images from which all selections are made."""

    pool: int = 20_000
    """Number of generated images."""
    labels: LabelSampling = "balanced"
    """balanced: distinct training labels equally often; empirical: as often as in training; uniform: any label."""

    def __post_init__(self) -> None:
        require(self.pool >= 2, f"synth.pool must be at least 2, got {self.pool}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run of cGAN-KD from data to report."""

    name: str = "digits"
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    virtual: VirtualConfig = field(default_factory=VirtualConfig)
    gan: GanConfig = field(default_factory=GanConfig)
    ratio: RatioConfig = field(default_factory=RatioConfig)
    synth: SynthConfig = field(default_factory=SynthConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    seeds: int = 3
    """Students per arm, each with its own weights and order of batches."""
    seed: int = 0
    """Of teacher, generator, ratio and pool."""
    device: str = "auto"
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        require(1 <= self.seeds <= 1000, f"seeds must lie in 1..1000, got {self.seeds}")


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
        student=StudentConfig(model="cnn16", updates=1200, lr=3e-3),
    )


def digits_all() -> Recipe:
    """All 898 training digits: with ample labels there is less to gain."""
    return replace(digits(), name="digits-all", data=DataConfig(name="digits"))


def digits_noisy() -> Recipe:
    """All training digits, three labels in ten wrong; the teacher stops before it has learnt these by heart."""
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


def projected(steps: int, **settings: Any) -> GanConfig:
    """A generator for 32 pixels within the hour on one core: it also learns to please the teacher's features."""
    config = logistic(
        GanConfig(steps=steps, batch_size=32, z_dim=64, lr_g=4e-4, diff_augment=("translation",), **settings)
    )
    return replace(config, lr_d=8e-4, penalty_every=16, penalty_weight=0.1, teacher_features=True)


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


def npz() -> Recipe:
    """The user's own images: arrays in an .npz file."""
    return replace(folder(), name="npz", data=DataConfig(name="npz"))


def cifar_scarce() -> Recipe:
    """20 classes of CIFAR-100 at 32x32 with 100 training images each, from an .npz file of them."""
    augment: tuple[Augmentation, ...] = ("shift", "scale", "flip", "colour")
    return Recipe(
        name="cifar-scarce",
        data=DataConfig(name="npz", num_train=2000),
        teacher=TeacherConfig(model="cnn32", members=3, updates=2500, lr=3e-3, weight_decay=5e-2, augment=augment),
        gan=projected(3000, flip=True),
        ratio=RatioConfig(features="classifier"),
        synth=SynthConfig(pool=30_000),
        select=SelectConfig(count=20_000, adjust="soft"),
        student=StudentConfig(
            model="cnn16", updates=2000, lr=3e-3, loss="0.2*Label + 0.8*KD", augment=("flip",), views=4
        ),
    )


def cifar_10k() -> Recipe:
    """The same 20 classes with all their training images, 450 to 500 each."""
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
        student=StudentConfig(model="cnn16", updates=1200, lr=3e-3, augment=("flip",), views=4),
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

FILES = {
    "table": "The user's own images: a CSV or parquet file that lists or holds them",
    "h5": "The user's own images: arrays in an .h5 file",
    "idx": "The user's own images: IDX files, as MNIST's",
    "cifar10": "CIFAR-10: the official archive, its folder, or the authors' .h5",
    "cifar100": "CIFAR-100: the official archive or its folder",
    "tiny-imagenet": "Tiny-ImageNet-200: the official folder, or the authors' .h5",
    "imagenet100": "ImageNet-100: a list of 100 ids over a folder of ImageNet, or the authors' .h5",
    "rc49": "RC-49: the yaw of rendered chairs, from its .h5",
    "utkface": "UTKFace: ages, from the folder of faces, or the authors' .h5",
    "steering": "Steering Angle: data.txt and frames, or the authors' .h5",
}
"""Recipes that differ from `folder` in what they read alone."""


def of_files(name: str) -> Recipe:
    """The recipe `folder` for images as `data.name` calls them."""
    return replace(folder(), name=name, data=DataConfig(name=name))  # type: ignore[arg-type]


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


RECIPES: dict[str, Callable[[], Recipe]] = (
    {
        make().name: make
        for make in (
            digits,
            digits_all,
            digits_noisy,
            digits_takd,
            rotated_digits,
            rotated_digits_all,
            turntable,
            folder,
            npz,
            cifar20,
        )
    }
    | REAL
    | {name: partial(of_files, name) for name in FILES}
)
