"""Options that several commands share, and how their values are read."""

import re
from collections.abc import Callable
from pathlib import Path

from gankd.cli.command import ENGINES, PROCESSES, THREADS, Option
from gankd.errors import ConfigError
from gankd.sizes import is_size, sides, size_of


def names(text: str) -> list[str]:
    """Names with commas between them."""
    return [name.strip() for name in text.split(",")] if text else []


def numbers(option: str, kind: Callable[[float], float] = float) -> Callable[[str], list[float]]:
    """A reader of numbers with commas between them, whose errors name the option."""

    def read(text: str) -> list[float]:
        try:
            return [kind(float(number)) for number in text.split(",")]
        except ValueError:
            raise ConfigError(f"{option} takes numbers with commas between them, got {text!r}") from None

    return read


def image_size(text: str) -> int | str:
    """A side in pixels, or HEIGHTxWIDTH."""
    if text.lstrip("-").isdecimal():
        return int(text)
    if is_size(text):
        return size_of(*sides(text))
    raise ConfigError(f"--size takes a side in pixels, or HEIGHTxWIDTH such as 48x64, got {text!r}")


def paths_by_name(text: str) -> tuple[str, str]:
    """NAME=PATH."""
    name, sign, path = text.partition("=")
    if not (name and sign and path):
        raise ConfigError(f"--data takes NAME=PATH, for example cifar-scarce=cifar.npz, got {text!r}")
    return name, path


def seconds(text: str) -> float:
    """A time such as 45m, 2h or 1h30m, in seconds."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not text or found is None:
        raise ConfigError(f"--time takes a time such as 45m, 2h or 1h30m, got {text!r}")
    hours, minutes, rest = (int(part or 0) for part in found.groups())
    return 3600.0 * hours + 60 * minutes + rest


QUALITIES = {"quick": 15 * 60.0, "standard": 3600.0, "best": 8 * 3600.0}
"""Times of a run that can be asked for by name, in seconds."""
TRUST = Option("--trust", action="store_true", help="run the code (module:name) that the files of this folder name")
DEVICE = Option("--device", help="cpu, cuda or cuda:N (default: a GPU if there is one)")
RECIPE = (
    Option(
        "target",
        metavar="RECIPE",
        help="recipe (digits, rotated-digits, folder, cifar10 ...; see gankd list recipes) or run folder",
    ),
    Option("--out", type=Path, help="run folder (default: runs/RECIPE)"),
    Option("--data", help="file or folder of the images, for recipes that read files"),
    Option("--size", type=image_size, help="resize images to this side in pixels, or HEIGHTxWIDTH"),
    Option("--task", choices=["auto", "classification", "regression"], help="task of your own images"),
    Option("--label", type=names, metavar="NAME", help="column of the label; x,y is a label of two values"),
    Option("--channels", choices=["auto", "grey", "rgb"], help="colours of your own images"),
    Option("--val", help="another folder or file: your own validation images"),
    Option("--test", help="another folder or file: your own test images"),
    Option("--skip-broken", action="store_true", help="leave out image files that cannot be read, and list them"),
    Option("--config", type=Path, help="TOML file of settings"),
    Option("--set", action="append", metavar="NAME=VALUE", help="change a setting, for example gan.steps=4000"),
    TRUST,
    DEVICE,
    THREADS,
)
"""Options of a command that opens a recipe."""

TIME = (
    Option(
        "--time",
        type=seconds,
        metavar="TIME",
        help="choose sizes with which the run ends within this time here, as in 30m or 2h",
    ),
    Option("--quality", choices=list(QUALITIES), help="quick: --time 15m; standard: 1h; best: 8h"),
)
"""Options of a run that has to end in a given time."""

RUN = (
    Option("target", metavar="FOLDER", help="run folder, or the recipe whose folder is runs/RECIPE"),
    TRUST,
    DEVICE,
    THREADS,
)
"""Options of a command that opens a finished run."""

WORKERS = Option("--workers", type=int, help="students trained in parallel (default: one per core; one on a GPU)")
SHARED = (
    PROCESSES,
    Option("--reduce", choices=["exact", "fast"], help="how they add up gradients (default: exact)"),
)
"""Options of a command that several processes can share."""
STUDENTS_PER_ARM = Option("--seeds", type=int, help="students per arm")
STUDENTS = (
    STUDENTS_PER_ARM,
    Option("--arms", type=names, help="arms: names, or TOML files of your own, comma-separated (default: all)"),
    Option("--loss", help='what students learn from the teacher, as in "KD(T=4) + 0.8*CRD"; see gankd list losses'),
    WORKERS,
    *ENGINES,
    Option(
        "--teacher",
        choices=["auto"],
        help="auto: if the teacher is not clearly better than its student, try longer, wider and other ones",
    ),
)


def changes(what: str) -> Option:
    """--set where several recipes or cells are trained."""
    return Option(
        "--set", dest="changes", action="append", metavar="NAME=VALUE", help=f"change a setting of all {what}"
    )
