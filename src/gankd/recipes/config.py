"""All settings of a run in one frozen dataclass."""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from gankd.config import check_ranges, require, suggest, to_dict
from gankd.data.augment import Augmentation
from gankd.data.sets import DATA_SETS
from gankd.engine import Precision
from gankd.hub import is_hub, parse
from gankd.models.contract import EndsIn
from gankd.models.network_files import is_network_file
from gankd.own_code import with_arguments
from gankd.ranges import AboveZero, AtLeastOne, Count, CountFromTwo, Few, Seed, UpToTen, ZeroToOne
from gankd.settings import explained
from gankd.sizes import Size, is_size
from gankd.synthetic import SelectConfig
from gankd.tasks import LabelSampling
from gankd.training.gan import GanConfig
from gankd.training.lesson import DistillConfig
from gankd.training.objective import Objective
from gankd.training.ratio import RatioConfig
from gankd.training.supervised import SupervisedConfig
from gankd.virtual import VirtualConfig

MATTER = (
    "data.size",
    "teacher.model",
    "teacher.weights",
    "teacher.updates",
    "teacher.augment",
    "gan.steps",
    "synth.pool",
    "student.model",
    "student.loss",
    "student.updates",
    "student.augment",
    "seeds",
)
"""Settings to look at first: they decide the time of a run and most of its result."""


def _check_size(name: str, size: int | str | None) -> None:
    """Raise ConfigError unless it is a side, or a height and a width, or none."""
    require(size is None or isinstance(size, str) or size >= 1, f"{name} must be at least 1 or be none, got {size}")
    require(
        size is None or is_size(size),
        f"{name} must be a side in pixels, at most 4096, or HEIGHTxWIDTH such as 48x64, got {size!r}",
    )


@explained
@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Images, and how scarce they are. All settings except `classes` change only the training split."""

    where: ClassVar[str] = "data."

    name: str = "digits"
    """Name from the table `gankd.data.sets`: an embedded set, a format of own images, or a published set as it was
    published."""
    root: str | None = None
    """File or folder to read."""
    task: Literal["auto", "classification", "regression"] = "auto"
    """Task of own images; auto decides by the labels."""
    label: tuple[str, ...] = ()
    """Column of the label in a table of own images; several, as x,y,z, are one label of several values. Arrays: names
    of the values. Default: label, or what it is usually called."""
    size: Size | None = None
    """Side in pixels: 32 or 64 for turntable; images from files are cropped and resized to it. Own images that are not
    square: height and width, as in 48x64."""
    channels: Literal["auto", "grey", "rgb"] = "auto"
    """Colours of own images; auto: those of the files, which must all have the same."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """own images of another form than the size: their central part, the whole with black bars, or stretched."""
    layout: Literal["auto", "classes", "splits"] = "auto"
    """folder: what the sub-folders are: classes, or splits with class folders inside. auto: by their names."""
    val: str | None = None
    """folder, table, webdataset: another folder or file in the same format, whose images are all for validation."""
    test: str | None = None
    """folder, table, webdataset: another folder or file in the same format, whose images are all for testing."""
    unlabelled: str | None = None
    """Images without labels, for arms whose students see them with the teacher's labels: a folder of image files or of
    .tar shards, or an .npz or .h5 file. Default: none."""
    group: int | str | None = None
    """Groups of own images that no split divides, as patients or videos: a column, a key of .json members, an array
    (npz, h5), the level of folders below the class folders (1, 2, ...), or, for idx, WORD of files train-WORD.txt."""
    duplicates: Literal["refuse", "allow"] = "refuse"
    """Own images that are equal in two splits: refuse them, or only warn."""
    skip_broken: bool = False
    """folder, table, webdataset: leave out image files that cannot be read, and list them."""
    low: float | None = None
    """Lower end of the values of own images. Default: smallest label of all splits. steering: frames below it are left
    out; default: -88.13 degrees."""
    high: float | None = None
    """Upper end of the values of own images. Default: largest label of all splits. steering: frames above it are left
    out; default: 97.92 degrees."""
    coarse: bool = False
    """cifar100: 20 superclasses instead of 100 classes."""
    class_list: str | None = None
    """imagenet100: file with one class id per line. Default: imagenet100.txt or classes.txt in the folder."""
    classes: int | None = None
    """Keep only the images of the first so many classes. Default: all classes."""
    num_train: Count | None = None
    """Keep only so many training images. Default: all. The number of all images that train or validate, as in a file of
    scarce images with a validation split of its own: all that train."""
    val_trains: bool = False
    """Images of the validation split train, too, as in published experiments that hold nothing out; what is measured on
    this split then says nothing of new images."""
    per_label: Count | None = None
    """Keep at most so many training images per label. turntable, rc49: images per angle (protocol of RC-49: 25, 15 or
    5). Default: all."""
    tail: AtLeastOne = 1.0
    """Training images of the first class in units of those of the last, with an exponential fall between: 50 gives a
    tail of rare classes. 1 leaves all."""
    gap: Count = 1
    """Only every so many labels keep their training images, so that the labels between them are never trained on;
    values only. 1 leaves all."""
    label_noise: ZeroToOne = 0.0
    """Share of training labels that are replaced (classes), or noise in units of the label range (values)."""
    seed: Seed = 0
    """Seed of the choice of images and of the label noise."""
    authors_rounding: bool = False
    """utkface: labels rounded down to whole years, a defect of the authors' code, for comparison with it."""

    def __post_init__(self) -> None:
        require(self.name in DATA_SETS, f"data.name: no data set {self.name!r}; {suggest(self.name, DATA_SETS)}")
        object.__setattr__(self, "label", tuple(self.label))
        _check_size("data.size", self.size)
        check_ranges(self)


@explained
@dataclass(frozen=True, kw_only=True)
class TeacherConfig(SupervisedConfig):
    """The large network, and how it is trained."""

    where: ClassVar[str] = "teacher."

    model: str = "resnet20"
    """A zoo name (`gankd list models`), module:name, or a whole trained network: hf:user/name of the Hugging Face Hub,
    or a file, .onnx, or with --trust a TorchScript archive (.pt) or a program of torch.export (.pt2)."""
    args: dict[str, Any] = field(default_factory=dict, hash=False)
    """Arguments of the network's class or function, as in {width=8}, besides those that gankd sets (channels, size,
    outputs)."""
    members: Few = 1
    """Number of networks; the teacher is their mean output."""
    weights: str | None = None
    """File of trained weights (.safetensors, or .pt without pickled code), or hf:user/name/FILE. The teacher is then
    not trained, and a regressor's outputs must be in label units. Default: train the teacher."""
    mean: tuple[float, ...] | None = None
    """Mean per channel, on the [0, 1] scale, that `weights` were trained with. Default: that of the data."""
    std: tuple[AboveZero, ...] | None = None
    """Spread per channel, on the [0, 1] scale, that `weights` were trained with. Default: that of the data."""
    input_size: Size | None = None
    """Side in pixels (or height and width) of the images that the network reads; others are resized to it, with
    antialiasing. Default: that of the data."""
    class_names: tuple[str, ...] = ()
    """Classes in the order of the outputs of `weights`: names, or a file with one name per line. Default: the order of
    the data."""
    ends_in: EndsIn = "none"
    """Last step of the network of `weights`, if it is a softmax or a sigmoid: its inverse gives the logits."""
    in_parts: bool = False
    """Each of several processes keeps only its part of the finished teacher's weights, and receives the others block by
    block whenever the teacher computes (FSDP2): for teachers that do not fit into the memory of one GPU. The outputs
    are the same; one process keeps them all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_size("teacher.input_size", self.input_size)
        require(
            not self.is_given or self.members == 1,
            f"teacher.weights is one network, so teacher.members must be 1, got {self.members}",
        )
        require(
            not (self.in_parts and is_network_file(self.model)),
            f"teacher.in_parts=true divides the weights of a PyTorch module, but {self.model} is a finished network; "
            "set it to false, or give model and weights",
        )
        for name in filter(is_hub, (self.model, self.weights)):
            parse(str(name))
        require(
            self.weights is None or not (is_network_file(self.model) or is_hub(self.model)),
            f"teacher.model={self.model} is a whole network with its weights; leave teacher.weights out",
        )

    @property
    def network(self) -> str:
        """The model with its arguments, as `build_net` takes it."""
        return with_arguments(self.model, self.args)

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that a teacher depends on, without arguments where there are none, and without the last step of a
        network that ends in its logits. Where its weights are kept changes none of its outputs.
        """
        settings = super().identity
        del settings["in_parts"]
        if not self.args:
            del settings["args"]
        if self.ends_in == "none":
            del settings["ends_in"]
        return settings

    def require_weights(self) -> None:
        """Raise ConfigError if settings of given weights are set without any; a network in memory has its own."""
        for name in ("mean", "std", "class_names", "ends_in"):
            require(
                self.is_given or getattr(self, name) in (None, (), "none"),
                f"teacher.{name} belongs to teacher.weights, which is not set; leave it out",
            )

    @property
    def is_given(self) -> bool:
        """True if the user gives the trained teacher: its weights, or a file of the whole network."""
        return self.weights is not None or is_network_file(self.model) or is_hub(self.model)


@explained
@dataclass(frozen=True, kw_only=True)
class StudentConfig(DistillConfig):
    """The small network, and how it is trained."""

    where: ClassVar[str] = "student."
    has_teacher: ClassVar[bool] = True

    model: str = "cnn8"
    """A zoo name (`gankd list models`) or module:name."""
    args: dict[str, Any] = field(default_factory=dict, hash=False)
    """Arguments of the network's class or function, as in {width=8}, besides those that gankd sets (channels, size,
    outputs)."""
    input_size: Size | None = None
    """Side in pixels (or height and width) of the images that the network, its assistants and peers read; others are
    resized to it, with antialiasing. Default: that of the data."""
    augment: tuple[Augmentation, ...] = ("teacher",)
    """Random changes of images. teacher: those that the teacher was trained with; of a given teacher, those in
    teacher.augment that do not make it worse. Arms may have their own."""
    teacher: str | None = None
    """Another teacher for the losses, trained with the settings of the teacher. Default: the teacher that filters and
    adjusts."""
    loss: str = "0.5*Label + 0.5*KD"
    """Sum of losses (`gankd list losses`) for arms with a teacher; other arms learn only from labels."""
    assistants: tuple[str, ...] = ()
    """Networks between teacher and student, large to small: each learns from the one before, the student from the
    last (TAKD, Mirzadeh et al., AAAI 2020)."""
    virtual: str | None = None
    """File of a virtual teacher for losses that read @virtual. Default: the virtual teacher of this run."""
    init: Literal["scratch", "finetune"] = "scratch"
    """finetune: every arm except `real` starts from the student of arm `real`, as in the paper."""
    finetune_lr: UpToTen | None = None
    """Highest learning rate of students with init=finetune. Default: lr."""
    start_updates: Count | None = None
    """Updates of the student from which init=finetune starts. Default: as many passes over real images as the others
    have."""

    start_batch: CountFromTwo | None = None
    """Batch size of the student from which init=finetune starts. Default: batch_size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_size("student.input_size", self.input_size)
        Objective.parse(self.loss)
        for name in (self.model, *self.assistants, *filter(None, [self.teacher])):
            require(
                not is_network_file(name) and not is_hub(name),
                f"student: {name} is a finished network, which is not trained; name one of the zoo or module:name (as "
                "teacher: teacher.model; to use it: gankd predict)",
            )
        require(
            self.start_updates is None or self.init == "finetune",
            f"student.start_updates is for student.init=finetune, got {self.start_updates} with {self.init}",
        )
        require(
            self.start_batch is None or self.init == "finetune",
            f"student.start_batch is for student.init=finetune, got {self.start_batch} with {self.init}",
        )

    @property
    def network(self) -> str:
        """The model with its arguments, as `build_net` takes it."""
        return with_arguments(self.model, self.args)

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that a student depends on, without those that are not set and came later than stored results."""
        settings = super().identity
        for name in ("input_size", "args", "start_batch"):
            if not settings[name]:
                del settings[name]
        return settings

    @property
    def from_scratch(self) -> "StudentConfig":
        """These settings with init=scratch."""
        return replace(self, init="scratch", start_updates=None, start_batch=None, finetune_lr=None)

    @property
    def objective(self) -> Objective:
        """`loss` parsed, with the label loss added if it names none."""
        return Objective.parse(self.loss).complete


@explained
@dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """The pool: all generated images, from which selections are made."""

    where: ClassVar[str] = "synth."

    pool: CountFromTwo = 20_000
    """Number of generated images."""
    labels: LabelSampling = "balanced"
    """Labels of the pool. balanced: distinct training labels equally often; empirical: as often as in training;
    uniform: any label in the range."""
    fresh: bool = False
    """Generates so many images that a student sees hardly any twice: sets pool and select.count, whatever they are.
    Pays for values, not for classes; costs time and disk in proportion to student.updates."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that a pool depends on: what `fresh` leads to is in `pool`."""
        settings = to_dict(self)
        del settings["fresh"]
        return settings


@explained
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run of cGAN-KD from data to report."""

    name: str = "digits"
    """Name of the recipe."""
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    virtual: VirtualConfig = field(default_factory=VirtualConfig)
    gan: GanConfig = field(default_factory=GanConfig)
    ratio: RatioConfig = field(default_factory=RatioConfig)
    synth: SynthConfig = field(default_factory=SynthConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    seeds: Annotated[int, Field(ge=1, le=1000)] = 3
    """Students per arm, each with its own initial weights and order of batches."""
    pipelines: Annotated[int, Field(ge=1, le=100)] = 1
    """Repetitions of everything from the teacher to the students, each with other seeds; results are then paired by
    pipeline, so that intervals cover the luck of teacher and generator."""
    weak_teacher: Literal["stop", "accept", "improve"] = "stop"
    """Answer to a teacher that is not clearly better than its student on labels only, on validation images. stop: the
    run ends before the generator; improve: longer, wider and other teachers are tried, as with --teacher auto."""
    lengths: tuple[AboveZero, ...] = (1.0,)
    """Lengths of students in units of student.updates: with [1, 4] every control at equal updates and every method is
    also trained four times as long, and the report says whether that helps."""
    time_cap: Annotated[float, Field(ge=1, le=100)] = 8.0
    """Most updates of the controls at equal time, in units of student.updates; 1 leaves these controls out."""
    seed: Seed = 0
    """Seed of teacher, generator, density ratio and pool."""
    shards: Annotated[int, Field(ge=1, le=4096)] = 1
    """Parts of each batch that several processes share. Networks depend on it, as batch normalisation works part by
    part, but not on the number of processes, which must divide it. Default with several processes: their number."""
    reduce: Literal["exact", "fast"] = "exact"
    """Sum of the gradients of all parts. exact: in order, the same bits on any number of processes; fast: by
    all-reduce."""
    device: str = "auto"
    """cpu, cuda or cuda:N. auto: a GPU if PyTorch finds one."""
    precision: Precision = "auto"
    """Arithmetic of networks. auto: bf16 from 16 pixels on, where the processor has it."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.synth.fresh:
            seen = self.student.generated_seen
            synth = replace(self.synth, pool=math.ceil(seen / self.select.kept_share))
            object.__setattr__(self, "synth", synth)
            object.__setattr__(self, "select", replace(self.select, count=seen))
        for part in (self.teacher, self.gan, self.student):
            require(
                self.shards == 1 or part.batch_size >= 2 * self.shards,
                f"shards={self.shards} needs batches of at least {2 * self.shards} images, two in each shard, got "
                f"{part.where}batch_size={part.batch_size}",
            )
        require(
            self.shards == 1 or not self.student.compile,
            f"student.compile=true is for whole batches; set it to false, or shards=1, got shards={self.shards}",
        )
        require(
            not (self.teacher.in_parts and self.gan.teacher_features),
            "teacher.in_parts=true is for the forward pass, but gan.teacher_features=true needs gradients through the "
            "teacher; set one of them to false",
        )
