"""Load the splits that a data setting asks for."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from gankd.config import require
from gankd.data.given import splits_of
from gankd.data.images import LabelledImages, Splits, join
from gankd.data.own import shown
from gankd.data.scarce import scarce
from gankd.data.sets import DATA_SETS
from gankd.data.unlabelled import load_unlabelled, unlabelled_of, with_unlabelled
from gankd.errors import ConfigError
from gankd.recipes.config import DataConfig


def load_splits(config: DataConfig) -> Splits:
    """Load the data, then thin or disturb it as `config` says.

    Raises:
        ConfigError: settings that do not fit the data set. DataError: the files cannot be used.
    """
    found = DATA_SETS[config.name]
    if found.embedded:
        require(config.root is None, f"--data is for recipes that read files; {config.name} is embedded")
    elif config.root is None:
        raise ConfigError(f"the recipe {config.name} needs --data PATH, {found.data}")
    _refuse_choices(config, found.takes)
    splits = reader_of(config.name)(
        *([] if found.embedded else [config.root]), **{name: getattr(config, name) for name in found.takes}
    )
    if config.classes is not None:
        splits = first_classes(splits, config.classes)
    found_images, whole = splits.train, len(splits.train) + len(splits.val)
    if config.val_trains:
        found_images = join(splits.train, splits.val)
        splits = replace(splits, card=splits.card | {"validation": "its images train, too"})
    train = scarce(
        found_images,
        num_train=None if config.num_train == whole else config.num_train,
        per_label=None if "per_label" in found.takes else config.per_label,
        tail=config.tail,
        gap=config.gap,
        label_noise=config.label_noise,
        seed=config.seed,
    )
    splits = replace(splits, train=train)
    return truncated(splits) if config.authors_rounding else splits


def given_splits(given: Any, config: DataConfig) -> Splits:
    """Splits of images in memory (`splits_of`), read as `config` says.

    Raises:
        DataError: the images or labels cannot be used.
    """
    return splits_of(
        given,
        task=config.task,
        size=config.size,
        channels=config.channels,
        low=config.low,
        high=config.high,
        seed=config.seed,
    )


def add_unlabelled(splits: Splits, config: DataConfig, given: Any = None) -> Splits:
    """The splits with the images without labels that `config` names, or that are given in memory.

    Raises:
        DataError: they cannot be used.
    """
    assert config.unlabelled is not None
    if given is not None:
        return with_unlabelled(splits, unlabelled_of(given, splits.train.shape, config.fit), "in memory")
    path = Path(config.unlabelled)
    images = load_unlabelled(path, splits.train.shape, config.fit, skip_broken=config.skip_broken)
    return with_unlabelled(splits, images, shown(path))


def reader_of(name: str) -> Callable[..., Splits]:
    """The function that reads a data set of `DATA_SETS`."""
    module, _, function = DATA_SETS[name].reader.partition(":")
    return cast(Callable[..., Splits], getattr(import_module(f"gankd.data.{module}"), function))


def choices() -> set[str]:
    """Settings that mean something only to readers that take them."""
    # The other two also thin any training split.
    return set().union(*(found.takes for found in DATA_SETS.values())) - {"per_label", "seed"}


def _refuse_choices(config: DataConfig, taken: tuple[str, ...]) -> None:
    default = DataConfig()
    require(
        config.size is None or isinstance(config.size, int) or "fit" in taken,
        f"data.size={config.size}: images of {config.name} are square; give one side",
    )
    for name in sorted(choices() - set(taken)):
        value = getattr(config, name)
        why = "is fixed for" if name == "size" else "means nothing to"
        require(value == getattr(default, name), f"data.{name} {why} {config.name}, got {value}; leave it out")
    require(
        not config.authors_rounding or config.name == "utkface",
        f"data.authors_rounding is a defect of the authors' UTKFace code; leave it out with {config.name}",
    )


def truncated(splits: Splits) -> Splits:
    """Cut labels off to whole numbers, as the authors' UTKFace code does: only for comparison with it.

    This is a defect: fractional labels, such as disturbed ones, fall by half a year on average. Their code also cuts
    off the teacher's predictions, both as labels of generated images and in errors, which is not done here.
    """

    def cut(part: LabelledImages) -> LabelledImages:
        return replace(part, labels=part.labels.trunc())

    card = splits.card | {"rounding": "labels cut off to whole numbers, as in the authors' code"}
    return Splits(cut(splits.train), cut(splits.val), cut(splits.test), splits.name, card)


def first_classes(splits: Splits, count: int) -> Splits:
    """Keep the first `count` classes of all splits.

    Raises:
        ConfigError: the labels are values, or `count` is not 2 .. number of classes. DataError: a split has no image
            of these classes.
    """
    fewer = splits.task.first_classes(count, splits.name)
    train, val, test = (
        replace(part.subset(part.labels < count), task=fewer) for part in (splits.train, splits.val, splits.test)
    )
    card = splits.card | {"classes": f"the first {count} of {splits.task.head_size}"}
    return Splits(train, val, test, splits.name, card)
