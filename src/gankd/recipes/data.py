"""From a data setting to splits."""

from pathlib import Path

from gankd.config import require
from gankd.data.digits import load_digits
from gankd.data.folder import load_folder
from gankd.data.images import Splits
from gankd.data.rotated_digits import load_rotated_digits
from gankd.data.scarce import scarce
from gankd.data.turntable import load_turntable
from gankd.recipes.config import DataConfig


def load_splits(config: DataConfig) -> Splits:
    """Load the data, then thin or disturb the training split as `config` says.

    Raises:
        ConfigError: settings that do not fit the data set. DataError: the user's images cannot be used.
    """
    per_label = config.per_label
    if config.name == "folder":
        require(config.root is not None, "the recipe folder needs --data PATH, the folder of your images")
        splits = load_folder(
            Path(str(config.root)),
            task=config.task,
            size=config.size,
            channels=config.channels,
            low=config.low,
            high=config.high,
        )
    else:
        require(config.root is None, f"--data is for the recipe folder; {config.name} is embedded")
        if config.name == "turntable":
            splits = load_turntable(config.size or 32, 25 if per_label is None else per_label)
            per_label = None
        else:
            require(config.size is None, f"data.size is fixed for {config.name}, got {config.size}")
            splits = load_digits() if config.name == "digits" else load_rotated_digits()
    train = scarce(
        splits.train,
        num_train=config.num_train,
        per_label=per_label,
        label_noise=config.label_noise,
        seed=config.seed,
    )
    return Splits(train, splits.val, splits.test, splits.name, splits.card)
