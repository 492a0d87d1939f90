"""From a data setting to splits."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import cast

from gankd.config import require
from gankd.data.digits import load_digits
from gankd.data.images import LabelledImages, Splits
from gankd.data.rotated_digits import load_rotated_digits
from gankd.data.scarce import scarce
from gankd.data.turntable import load_turntable
from gankd.errors import ConfigError
from gankd.recipes.config import DataConfig
from gankd.tasks import Classification


@dataclass(frozen=True)
class Reader:
    """A function that reads files, and which settings it takes from `DataConfig` by name."""

    module: str
    function: str
    what: str
    """What --data is to name."""
    takes: tuple[str, ...] = ("size",)

    def load(self, config: DataConfig) -> Splits:
        """Read with the settings of `config`."""
        function = getattr(import_module(f"gankd.data.{self.module}"), self.function)
        return cast(Callable[..., Splits], function)(
            config.root, **{name: getattr(config, name) for name in self.takes}
        )


OWN = ("task", "size", "channels", "low", "high")
READERS = {
    "folder": Reader("folder", "load_folder", "the folder of your images", OWN),
    "npz": Reader("npz", "load_npz", "the .npz file of your arrays", OWN),
    "h5": Reader("h5", "load_h5", "the .h5 file of your arrays", OWN),
    "table": Reader("table", "load_table", "the CSV or parquet file that lists your images", OWN),
    "idx": Reader("idx", "load_idx", "the folder of your IDX files", OWN),
    "cifar10": Reader("cifar", "load_cifar10", "the archive or folder of CIFAR-10"),
    "cifar100": Reader("cifar", "load_cifar100", "the archive or folder of CIFAR-100", ("size", "coarse")),
    "tiny-imagenet": Reader("tiny_imagenet", "load_tiny_imagenet", "the folder tiny-imagenet-200"),
    "imagenet100": Reader("imagenet100", "load_imagenet100", "the folder of ImageNet", ("size", "class_list")),
    "rc49": Reader("rc49", "load_rc49", "the .h5 file of RC-49", ("size", "per_label", "seed")),
    "utkface": Reader("utkface", "load_utkface", "the folder of UTKFace"),
    "steering": Reader("steering", "load_steering", "the folder with data.txt and the frames", ("size", "low", "high")),
}
"""Readers of files."""
CHOICES = (*OWN, "coarse", "class_list")
"""Settings that mean something to some readers alone."""


def load_splits(config: DataConfig) -> Splits:
    """Load the data, then thin or disturb it as `config` says.

    Raises:
        ConfigError: settings that do not fit the data set. DataError: the files cannot be used.
    """
    per_label = config.per_label
    if config.name in READERS:
        reader = READERS[config.name]
        if config.root is None:
            raise ConfigError(f"the recipe {config.name} needs --data PATH, {reader.what}")
        _refuse_choices(config, reader.takes)
        splits = reader.load(config)
        if "per_label" in reader.takes:
            per_label = None
    else:
        require(config.root is None, f"--data is for recipes that read files; {config.name} is embedded")
        _refuse_choices(config, ("size",))
        if config.name == "turntable":
            splits = load_turntable(config.size or 32, 25 if per_label is None else per_label)
            per_label = None
        else:
            require(config.size is None, f"data.size is fixed for {config.name}, got {config.size}")
            splits = load_digits() if config.name == "digits" else load_rotated_digits()
    if config.classes is not None:
        splits = first_classes(splits, config.classes)
    train = scarce(
        splits.train,
        num_train=config.num_train,
        per_label=per_label,
        label_noise=config.label_noise,
        seed=config.seed,
    )
    splits = replace(splits, train=train)
    return truncated(splits) if config.authors_rounding else splits


def _refuse_choices(config: DataConfig, taken: tuple[str, ...]) -> None:
    default = DataConfig()
    for name in CHOICES:
        value = getattr(config, name)
        require(
            name in taken or value == getattr(default, name),
            f"data.{name} means nothing to {config.name}, got {value}; leave it out",
        )
    require(
        not config.authors_rounding or config.name == "utkface",
        f"data.authors_rounding is a defect of the authors' UTKFace code; leave it out with {config.name}",
    )


def truncated(splits: Splits) -> Splits:
    """The same images with labels cut off to whole numbers, as the authors' UTKFace code does: for comparison alone.

    It is a defect: labels that are no whole numbers, such as disturbed ones, fall by half a year on average. Their code
    cuts off the teacher's predictions, too, be they labels of fakes or counted as errors, which is not done here.
    """

    def cut(part: LabelledImages) -> LabelledImages:
        return replace(part, labels=part.labels.trunc())

    card = splits.card | {"rounding": "labels cut off to whole numbers, as in the authors' code"}
    return Splits(cut(splits.train), cut(splits.val), cut(splits.test), splits.name, card)


def first_classes(splits: Splits, count: int) -> Splits:
    """The first `count` classes of all splits.

    Raises:
        ConfigError: the labels are values, or `count` is not 2 .. number of classes. DataError: a split has none of
            these classes.
    """
    task = splits.task
    if not isinstance(task, Classification):
        raise ConfigError(
            f"data.classes keeps the first classes, but the labels of {splits.name} are values; leave it out, or, "
            "where numbers are names of your own classes, add --task classification"
        )
    require(
        2 <= count <= task.num_classes,
        f"data.classes must lie in 2..{task.num_classes}, the classes of {splits.name}, got {count}",
    )
    fewer = Classification(num_classes=count, class_names=task.class_names[:count])
    train, val, test = (
        replace(part.subset(part.labels < count), task=fewer) for part in (splits.train, splits.val, splits.test)
    )
    card = splits.card | {"classes": f"the first {count} of {task.num_classes}"}
    return Splits(train, val, test, splits.name, card)
