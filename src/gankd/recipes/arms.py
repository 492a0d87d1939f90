"""Arms: the ways to train a student that a comparison puts side by side."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from gankd.config import from_dict, override, require, suggest, to_dict
from gankd.data.augment import Augmentation, with_teachers
from gankd.errors import ConfigError
from gankd.recipes.config import Recipe, StudentConfig
from gankd.regular import require_regular
from gankd.synthetic import SelectConfig
from gankd.training.objective import Objective

Processing = Literal["raw", "subsampled", "filtered", "adjusted"]
"""Processing of generated images before a student sees them; each step includes those before it."""
Length = Literal["equal", "passes", "time", "shared time"]
"""equal: the recipe's student.updates, as all arms with generated images have; passes: as many passes over real images
as these make, which are fewer updates; time: equal, and as many more as fit in the time of generator, density ratio and
pool; shared time: more by this student's share of it, among all students that learn from the pool."""
Role = Literal["control", "step", "method"]
"""control: trained without generated images, what a gain is measured against. method: what the headline may speak of.
step: everything else."""
SETTABLE = ("student.", "select.")
"""Settings that an arm may change: all arms of a comparison share teacher, generator, density ratio and pool."""
NOT_SETTABLE = ("student.loss", "student.updates", "student.augment", "student.virtual")
"""Exceptions: these are fields of an arm, or shared."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train a student: its images, its loss, its augmentation and its length."""

    name: str
    """Identifier, unique within a comparison."""
    title: str = ""
    """Text for tables and pages; default: the name."""
    images: Processing | None = None
    """Generated images that are added to the real ones; default: real images only."""
    unlabelled: bool = False
    """True: the user's images without labels are added too (`data.unlabelled`), with the teacher's labels."""
    loss: str | None = None
    """Sum of losses, as in student.loss; default: the labels only."""
    augment: tuple[Augmentation, ...] | None = None
    """Augmentation of the student's images; default: the recipe's."""
    updates: int | Length = "equal"
    """Length of the training: a number of updates, or a rule (`Length`)."""
    seconds: float | None = None
    """Time budget, an alternative to `updates`: as many updates as fit in it on this machine (`bench.budget`)."""
    role: Role = "step"
    settings: tuple[str, ...] = ()
    """Other changes of the recipe as NAME=VALUE, under student. or select. only."""
    int8: bool = False
    """True: the students that the arm would train without this are trained on for a tenth of the updates, by the same
    losses, with weights and inputs of their layers rounded to int8 (`models.rounded`)."""

    def __post_init__(self) -> None:
        require(
            isinstance(self.name, str) and self.name.strip() != "" and self.name.isprintable(),
            f"an arm needs a name, got {self.name!r}",
        )
        if not self.title:
            object.__setattr__(self, "title", self.name)
        where = f"arm {self.name}"
        for field, value, choices in (
            ("images", self.images, (None, *get_args(Processing))),
            ("role", self.role, get_args(Role)),
        ):
            words = ", ".join(str(choice) for choice in choices if choice is not None)
            require(value in choices, f"{where}: {field} must be one of {words}, got {value!r}")
        whole = isinstance(self.updates, int) and not isinstance(self.updates, bool) and self.updates >= 1
        require(
            whole or self.updates in get_args(Length),
            f"{where}: updates must be {', '.join(get_args(Length))} or a whole number of at least 1, "
            f"got {self.updates!r}",
        )
        require(
            not self.timed or self.images is None,
            f"{where}: updates={self.updates} is for arms without generated images, got images={self.images}",
        )
        require(self.seconds is None or self.seconds > 0, f"{where}: seconds must be positive, got {self.seconds}")
        require(
            self.seconds is None or self.updates == "equal",
            f"{where}: give seconds or updates, not both; got {self.seconds} and {self.updates}",
        )
        require(
            self.loss is None or self.images in (None, "adjusted"),
            f"{where}: a loss goes with real images only or with adjusted ones, got images={self.images}",
        )
        require(
            self.role == "step" or (self.images is None) == (self.role == "control"),
            f"{where}: a control sees no generated images and a method does, got role={self.role}",
        )
        for change in self.settings:
            require(
                "=" in change,
                f"{where}: settings must be NAME=VALUE, for example student.lr=0.01; got {change!r}",
            )
            require(
                change.startswith(SETTABLE) and not change.startswith(NOT_SETTABLE),
                f"{where}: {change} cannot differ between arms; settings may change student.* and select.*, but not "
                f"{', '.join(NOT_SETTABLE)}",
            )
        if self.loss is not None:
            try:
                Objective.parse(self.loss)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None

    @property
    def sees_more(self) -> bool:
        """True if students see other images besides the real ones with labels."""
        return self.images is not None or self.unlabelled

    @property
    def timed(self) -> bool:
        """True if the length follows from the time that generated images take (`bench.budget`)."""
        return self.updates in ("time", "shared time")

    @property
    def identity(self) -> dict[str, Any]:
        """These fields as plain data, without int8 where it is off: stored results have no such field."""
        plain = to_dict(self)
        if not self.int8:
            del plain["int8"]
        return plain

    @property
    def exact(self) -> "Arm":
        """This arm before its students are trained on in int8."""
        return replace(self, int8=False)

    @property
    def folder_name(self) -> str:
        """Kind of student in the names of stage folders: arms that differ in loss or settings share it."""
        if self.int8:
            return f"{self.exact.folder_name}_int8"
        if self.sees_more:
            return "_".join(
                [*filter(None, [self.images]), *["unlabelled"] * self.unlabelled, *["kd"] * (self.loss is not None)]
            )
        if self.loss is not None:
            return "kd_matched"
        return "real" if self.updates == "passes" else "real_matched"

    @property
    def objective(self) -> Objective | None:
        """The parsed loss, with the label loss if it names none; None for the labels only."""
        return None if self.loss is None else Objective.parse(self.loss).complete

    @property
    def reads_teacher(self) -> bool:
        """True if the loss reads a teacher's outputs or features."""
        return self.objective is not None and self.objective.needs_teacher

    @property
    def reads_virtual(self) -> bool:
        """True if the loss reads a virtual teacher."""
        return self.objective is not None and self.objective.needs_virtual

    def changed(self, base: Recipe) -> Recipe:
        """`base` with `settings` only."""
        try:
            return override(base, self.settings) if self.settings else base
        except ConfigError as error:
            raise ConfigError(f"arm {self.name}: {error}") from None

    def recipe(self, base: Recipe) -> Recipe:
        """`base` with all settings of this arm's students, their loss and number of updates included."""
        recipe = self.changed(base)
        student = self.exact._student(recipe.student, recipe.teacher.augment)
        if self.int8:  # a tenth of both, like the end of a training
            student = replace(student, updates=max(1, round(student.updates / 10)), lr=student.lr / 10)
        return replace(recipe, student=student)

    def _student(self, config: StudentConfig, teachers: tuple[Augmentation, ...]) -> StudentConfig:
        if self.loss is not None:
            config = replace(config, loss=self.loss)
        augment = with_teachers(config.augment if self.augment is None else self.augment, teachers)
        config = replace(config, augment=augment, views=config.views if augment else "online")
        if self.starts_from_another(config) and config.finetune_lr is not None:
            config = replace(config, lr=config.finetune_lr)
        if self.loss is not None and not self.sees_more:
            config = replace(config, kd_on="both")  # real images are all there is to learn on
        if isinstance(self.updates, int):
            return replace(config, updates=self.updates)
        if self.updates == "equal" or self.timed:
            return config
        updates = config.start_updates or max(1, round(config.updates * (1 - config.fake_share)))
        return replace(config, updates=updates, batch_size=config.start_batch or config.batch_size)

    def starts_from_another(self, config: StudentConfig) -> bool:
        """True if the student is trained on from another one: from that of real images and labels only, or in int8."""
        return self.int8 or (config.init == "finetune" and self.folder_name != "real")

    @property
    def start(self) -> "Arm":
        """The arm that fine-tuned students of this arm start from."""
        if self.int8:
            return replace(self.exact, name=f"start of {self.name}")
        return Arm(name=f"start of {self.name}", updates="passes", augment=self.augment, settings=self.settings)

    def selection(self, config: SelectConfig) -> SelectConfig | None:
        """Settings that choose this arm's generated images: `config` up to the arm's processing step.

        Settings of later steps are left out, so that changing them does not retrain this arm's students.
        """
        if self.images == "raw":
            return SelectConfig(subsample="none", filter="none", adjust="none", count=config.count)
        if self.images == "subsampled":
            return replace(config, filter="none", rho=None, adjust="none")
        if self.images == "filtered":
            return replace(config, adjust="none")
        return config if self.images == "adjusted" else None

    def unlabelled_selection(self, config: SelectConfig) -> SelectConfig | None:
        """Settings that choose this arm's images without labels: filter and labels of `config`, for as many as pass.

        They are real images: there is no generator whose density they could be weighed against.
        """
        return replace(config, subsample="none", count=None) if self.unlabelled else None


def default_arms(recipe: Recipe) -> tuple[Arm, ...]:
    """The comparison that every report shows: students without generated images, then the method step by step.

    Titles name the losses of student.loss. Controls at equal time are left out with time_cap=1. Arms with images
    without labels join where `data.unlabelled` names some: alone they are controls, as they need no generator. Other
    lengths (`lengths`) are further controls and methods.
    """
    loss = recipe.student.loss
    words = "+".join(Objective.parse(loss).complete.distilling.labels) or "labels"
    timed: tuple[Arm, ...] = (
        Arm(name="real_time", title="real, equal time", updates="time", role="control"),
        Arm(name="kd_time", title=f"{words}, equal time", loss=loss, updates="time", role="control"),
        Arm(name="real_shared", title="real, equal time (shared)", updates="shared time", role="control"),
        Arm(name="kd_shared", title=f"{words}, equal time (shared)", loss=loss, updates="shared time", role="control"),
    )
    controls: tuple[Arm, ...] = ()
    methods: tuple[Arm, ...] = ()
    if recipe.data.unlabelled is not None:
        alone = Arm(name="unlabelled", title="+ unlabelled images", unlabelled=True, role="control")
        joined = replace(
            alone, name="adjusted_unlabelled", title="cGAN-KD + unlabelled", images="adjusted", role="method"
        )
        controls, methods = (
            (arm, replace(arm, name=f"{arm.name}_kd", title=f"{arm.title} + {words}", loss=loss))
            for arm in (alone, joined)
        )
    matched = (
        Arm(name="real_matched", title="real, equal updates", role="control"),
        Arm(name="kd_matched", title=f"{words}, equal updates", loss=loss, role="control"),
    )
    methods = (
        Arm(name="adjusted", title="+ adjusted: cGAN-KD", images="adjusted", role="method"),
        Arm(name="adjusted_kd", title=f"cGAN-KD + {words}", images="adjusted", loss=loss, role="method"),
        *methods,
    )
    return (
        Arm(name="real", title="real, equal passes", updates="passes"),
        *matched,
        *(timed if recipe.time_cap > 1 else ()),
        *controls,
        *at_other_lengths(recipe, [*matched, *controls]),
        Arm(name="raw", title="+ raw generated images", images="raw"),
        Arm(name="subsampled", title="+ subsampled", images="subsampled"),
        Arm(name="filtered", title="+ filtered", images="filtered"),
        *methods,
        *at_other_lengths(recipe, methods),
    )


def at_other_lengths(recipe: Recipe, arms: Iterable[Arm]) -> list[Arm]:
    """The controls and methods at equal updates among `arms`, for each of the lengths but 1 (`Recipe.lengths`)."""
    updates = recipe.student.updates
    arms = [arm for arm in arms if arm.role != "step" and arm.updates == "equal" and arm.seconds is None]
    return [
        replace(
            arm,
            name=other_length(arm.name, length),
            title=f"{arm.title.removesuffix(', equal updates')}, x{length:g}",
            updates=max(1, round(length * updates)),
        )
        for length in recipe.lengths
        if length != 1
        for arm in arms
    ]


def other_length(name: str, length: float) -> str:
    """The name of an arm that is trained `length` times as long."""
    return f"{name}_x{length:g}"


DEFAULT_ARMS = {arm.name: arm for arm in default_arms(Recipe(time_cap=1))}
"""Default arms by name, without controls at equal time, with the titles that they have under the default loss."""


def arm_named(recipe: Recipe, name: str) -> Arm:
    """The default arm of this name.

    Raises:
        ConfigError: there is none.
    """
    known = {arm.name: arm for arm in default_arms(recipe)}
    require(
        name not in ("unlabelled", "unlabelled_kd") or name in known,
        f"arm {name} shows images without labels; name some: --set data.unlabelled=FOLDER",
    )
    require(name in known, f"no arm {name!r}; {suggest(name, known)} (arms of your own: name a TOML file)")
    return known[name]


def chosen_arms(recipe: Recipe, wanted: Iterable["str | Arm | Mapping[str, Any]"] | None) -> tuple[Arm, ...]:
    """Arms of a comparison from what a user or a run folder names, with those at other lengths (`Recipe.lengths`).

    Args:
        recipe: settings.
        wanted: names of default arms, arms, their plain data, or paths of TOML files; default: all default arms.

    Raises:
        ConfigError: an unknown name, a file that cannot be read, or two arms of one name that differ.
    """
    if wanted is None:
        return default_arms(recipe)
    found: list[Arm] = []
    for item in wanted:
        if isinstance(item, Arm):
            found.append(from_dict(Arm, to_dict(item), f"arm {item.name}"))  # refuses what a type checker would
        elif isinstance(item, Mapping):
            found.append(_read(item, "", len(found) + 1))
        elif item.endswith(".toml"):
            found += arms_from_file(Path(item))
        else:
            found.append(arm_named(recipe, item))
    found += at_other_lengths(recipe, found)
    arms: dict[str, Arm] = {}
    for arm in found:
        taken = " (the name of a default arm)" if arm.name in DEFAULT_ARMS else ""
        require(arms.setdefault(arm.name, arm) == arm, f"two arms are called {arm.name!r}{taken}; rename one")

    require(bool(arms), "a comparison needs at least one arm, got none")
    return tuple(arms.values())


def arms_from_file(path: Path) -> list[Arm]:
    """Arms of a TOML file, one `[[arm]]` table each, whose keys are the fields of `Arm`.

    Raises:
        ConfigError: the file cannot be read, or an arm does not fit.
    """
    try:
        require_regular(path)
        stored = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"no file of arms {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from None
    tables = stored.get("arm")
    require(
        list(stored) == ["arm"] and isinstance(tables, list) and all(isinstance(item, dict) for item in tables),
        f"{path}: expected one [[arm]] table per arm and nothing else, got {', '.join(stored) or 'an empty file'}",
    )
    return [_read(item, f"{path}: ", number) for number, item in enumerate(stored["arm"], 1)]


def _read(stored: Mapping[str, Any], where: str, number: int) -> Arm:
    """An arm from plain data.

    Raises:
        ConfigError: with `where` and the arm's name, or its number if it has none, in front.
    """
    arm = f"{where}arm {stored.get('name', number)}"
    known = Arm.__dataclass_fields__
    for name in stored:
        require(name in known, f"{arm}: no setting {name}; {suggest(name, known)}")
    require("name" in stored, f"{arm}: name is missing; every [[arm]] needs one")
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    try:
        found = Arm(**plain)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None
    except (TypeError, AttributeError) as error:  # a number for a loss, say
        raise ConfigError(f"{arm}: a field has a value of the wrong kind ({error})") from None
    return from_dict(Arm, to_dict(found), arm)


def controls_of(arms: Iterable[Arm]) -> list[str]:
    """Names of the arms that gains are measured against."""
    return [arm.name for arm in arms if arm.role == "control"]


def methods_of(arms: Iterable[Arm]) -> list[str]:
    """Names of the arms among which validation images choose the headline."""
    return [arm.name for arm in arms if arm.role == "method"]
