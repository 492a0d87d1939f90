"""All settings of a run in one frozen dataclass."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from gankd.config import require, suggest
from gankd.data.sets import DATA_SETS
from gankd.engine import Precision
from gankd.synthetic import SelectConfig
from gankd.tasks import LabelSampling
from gankd.training.distill import DistillConfig
from gankd.training.gan import GanConfig
from gankd.training.objective import Objective
from gankd.training.ratio import RatioConfig
from gankd.training.supervised import SupervisedConfig
from gankd.virtual import VirtualConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and how scarce they are made. But for `classes`, only the training split is ever changed."""

    name: str = "digits"
    """A name in the table `gankd.data.sets`: an embedded set, a format of the user's own images, or a published set,
    read as it is published."""
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

    def __post_init__(self) -> None:
        require(self.name in DATA_SETS, f"data.name: no data set {self.name!r}; {suggest(self.name, DATA_SETS)}")


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
        for name in ("mean", "std", "input_size"):
            require(
                self.weights is not None or getattr(self, name) is None,
                f"teacher.{name} belongs to teacher.weights, which is not set; leave it out",
            )
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
