"""From a data setting to splits."""

from dataclasses import replace

from gankd.config import require
from gankd.data.digits import load_digits
from gankd.data.folder import load_folder
from gankd.data.images import Splits
from gankd.data.npz import load_npz
from gankd.data.rotated_digits import load_rotated_digits
from gankd.data.scarce import scarce
from gankd.data.turntable import load_turntable
from gankd.errors import ConfigError
from gankd.recipes.config import DataConfig
from gankd.tasks import Classification

OWN = {"folder": (load_folder, "the folder of your images"), "npz": (load_npz, "the .npz file of your arrays")}
"""Readers of the user's own images."""


def load_splits(config: DataConfig) -> Splits:
    """Load the data, then thin or disturb it as `config` says.

    Raises:
        ConfigError: settings that do not fit the data set. DataError: the user's images cannot be used.
    """
    per_label = config.per_label
    if config.name in OWN:
        load, what = OWN[config.name]
        if config.root is None:
            raise ConfigError(f"the recipe {config.name} needs --data PATH, {what}")
        splits = load(
            config.root,
            task=config.task,
            size=config.size,
            channels=config.channels,
            low=config.low,
            high=config.high,
        )
    else:
        require(config.root is None, f"--data is for the recipes folder and npz; {config.name} is embedded")
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
    return replace(splits, train=train)


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
