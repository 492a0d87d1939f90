"""Settings that a search may vary, with the values that it may try."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gankd.config import override, read_value, require
from gankd.errors import ConfigError
from gankd.recipes.arms import NOT_SETTABLE, SETTABLE, Arm
from gankd.recipes.config import Recipe
from gankd.tasks import Task
from gankd.training.objective import Objective

FIELDS = ("student.loss", "student.augment")
"""Settings that are fields of an arm."""
GENERATED = ("select.", "student.fake_")
"""Settings that mean something only to students that see generated images."""
FORM = "expected NAME=LOW..HIGH or NAME=A,B,C (values with commas in them: A|B|C)"


@dataclass(frozen=True)
class Choices:
    """Values of a setting that are tried, as text."""

    values: tuple[str, ...]

    def suggested(self, trial: Any, name: str) -> str:
        """The value that a trial of Optuna takes."""
        return str(trial.suggest_categorical(name, self.values))

    def __str__(self) -> str:
        return " | ".join(self.values)


@dataclass(frozen=True)
class Interval:
    """Numbers between two bounds; on a logarithmic scale where the upper one is at least ten times the lower."""

    low: float
    high: float
    whole: bool = False

    @property
    def log(self) -> bool:
        """True if factors are as likely as each other, and not differences."""
        return self.low > 0 and self.high / self.low >= 10

    def suggested(self, trial: Any, name: str) -> str:
        """The value that a trial of Optuna takes, with three digits, as it then stands in tables and files."""
        if self.whole:
            return str(trial.suggest_int(name, int(self.low), int(self.high), log=self.log))
        found = float(f"{trial.suggest_float(name, self.low, self.high, log=self.log):.3g}")
        return f"{min(max(found, self.low), self.high):g}"

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', logarithmic' if self.log else ''}"


Space = Mapping[str, Choices | Interval]
"""Values of each setting that a search varies."""


def default_space(recipe: Recipe, task: Task) -> dict[str, Choices | Interval]:
    """Settings of students and of the choice of their images that matter most, around those of the recipe."""
    student, lr = recipe.student, recipe.student.lr
    space: dict[str, Choices | Interval] = {
        "student.lr": Interval(lr / 8, min(lr * 8, 10.0)),
        "student.weight_decay": Interval(1e-5, 1e-1),
        "student.augment": Choices(_unique("teacher", "none", ",".join(("teacher", *task.strong_augmentation)))),
        "student.mix": Choices(_unique(student.mix, "none", "mixup")),
        "student.loss": Choices(_losses(student.loss)),
        "student.fake_share": Interval(0.2, 0.8),
        "student.fake_until": Interval(0.5, 1.0),
        "select.accept_share": Interval(0.2, 1.0),
        "select.filter": Choices(("published", "none", "per_group")),
        "select.rho": Interval(0.6, 1.0),
        "select.adjust": Choices(task.adjustments),
    }
    if student.kd_on != "both" or student.views != "online":
        del space["student.mix"]  # makes new images, of real and generated ones, at every step
    if student.kd_on != "both":
        del space["student.fake_until"]
    return space


def _losses(own: str) -> tuple[str, ...]:
    """The recipe's loss, and its distilling part in other shares and, of KD, at other temperatures."""
    distilling = Objective.parse(own).complete.distilling
    if len(distilling.terms) != 1:
        return (own,)
    name = distilling.terms[0].spelling
    forms = [f"{name}(T={degree})" for degree in (2, 4, 8)] if name == "KD" else [str(replace_weight(distilling))]
    return _unique(own, *(f"{1 - share:g}*Label + {share:g}*{form}" for share in (0.3, 0.6, 0.9) for form in forms))


def replace_weight(objective: Objective) -> Objective:
    """The only loss of a sum, with its own weight."""
    return Objective((replace(objective.terms[0], weight=None),))


def _unique(*values: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def space_of(texts: Iterable[str], recipe: Recipe) -> dict[str, Choices | Interval]:
    """Settings and values as a user names them: `student.lr=0.001..0.01`, `select.rho=0.7,0.9`.

    Raises:
        ConfigError: another form, a setting that cannot differ between students, or a value that it cannot have.
    """
    space: dict[str, Choices | Interval] = {}
    for text in texts:
        name, equals, values = (part.strip() for part in text.partition("="))
        require(bool(equals and name and values), f"--vary: {FORM}, got {text!r}")
        if name not in FIELDS and (not name.startswith(SETTABLE) or name.startswith(NOT_SETTABLE)):
            raise ConfigError(
                f"--vary {name}: all students share teacher, generator, pool and updates; expected another setting "
                "under student. or select."
            )
        space[name] = _read(name, values)
        ends = space[name]
        for value in ends.values if isinstance(ends, Choices) else (f"{ends.low:g}", f"{ends.high:g}"):
            override(recipe, [assignment(name, value)], "--vary")
    return space


def _read(name: str, text: str) -> Choices | Interval:
    low, dots, high = (read_value(part.strip()) for part in text.partition(".."))
    if dots != "..":
        values = [part.strip() for part in text.split("|" if "|" in text else ",")]
        require(all(values), f"--vary: {FORM}, got {name}={text}")
        return Choices(_unique(*values))
    numbers = [end for end in (low, high) if isinstance(end, int | float) and not isinstance(end, bool)]
    require(
        len(numbers) == 2 and all(map(math.isfinite, numbers)) and numbers[0] < numbers[1],
        f"--vary: {FORM}, got {name}={text}",
    )
    return Interval(float(numbers[0]), float(numbers[1]), all(isinstance(end, int) for end in numbers))


def assignment(name: str, value: str) -> str:
    """A setting with its value, as `--set` takes it."""
    return f"{name}={'[]' if (name, value) == ('student.augment', 'none') else value}"


def variant(arm: Arm, title: str, values: Mapping[str, str]) -> Arm:
    """The arm with other settings.

    Args:
        arm: as it is without them.
        title: name of the new arm.
        values: text by setting.
    """
    loss, augment = values.get("student.loss", arm.loss), arm.augment
    if "student.augment" in values:
        augment = override(Recipe(), [assignment("student.augment", values["student.augment"])]).student.augment
    changes = [assignment(name, value) for name, value in values.items() if name not in FIELDS]
    own = [change for change in arm.settings if change.partition("=")[0] not in values]
    return replace(arm, name=title, title=title, loss=loss, augment=augment, settings=(*own, *changes))


def space_for(arm: Arm, space: Space) -> dict[str, Choices | Interval]:
    """The settings of a search that mean something to an arm."""
    return {
        name: values
        for name, values in space.items()
        if (arm.sees_more or not name.startswith(GENERATED)) and (arm.loss is not None or name != "student.loss")
    }
