"""A published table as a recipe: pairs, rows, printed numbers, protocol and the deviations from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gankd.config import override, require, suggest
from gankd.errors import ConfigError
from gankd.recipes.arms import ARMS, Processing
from gankd.recipes.config import DataConfig, Recipe, StudentConfig, SynthConfig, TeacherConfig
from gankd.recipes.ready import digits, rotated_digits
from gankd.synthetic import SelectConfig
from gankd.training.gan import GanConfig, logistic
from gankd.training.ratio import RatioConfig

Scale = Literal["tiny", "small", "full"]
"""tiny: embedded images, seconds, for tests; small: a few of the table's own images at 32 pixels and small networks,
hours on two CPU cores; full: the published sizes, for a GPU."""
Kind = Literal["classification", "regression"]

FAKES_SHARE = 0.5
"""Share of generated images in a batch if the table gives none."""
POOL_MARGIN = 1.1
"""Images that subsampling and filter should leave, in units of the largest M^g; above 1 as acceptance is random."""


RUNNING_MAX_SHARE = 0.1
"""Assumed acceptance of rejection with a running maximum, a safe lower bound; 0.25 was measured on digits."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A student and its teacher."""

    student: str
    """A zoo name."""
    teacher: str | None = None
    """A zoo name. Default: the network that filters."""
    printed: float | None = None
    """Printed number of the teacher."""
    assistant: str | None = None
    """Network between the two in TAKD."""

    @property
    def name(self) -> str:
        """Name of the pair in tables."""
        return self.student if self.teacher is None else f"{self.teacher}-{self.student}"


@dataclass(frozen=True)
class Method:
    """One row of a table: how the students of every pair are trained."""

    title: str
    loss: str | None = None
    """Sum of losses. Default: labels only."""
    fakes: Processing | None = None
    """Train also on generated images, processed up to this step."""
    matched: bool = True
    """True: as many updates as rows with generated images. False: as many passes over real images as those rows."""
    assistant: bool = False
    """Learn from the pair's assistant instead of its teacher."""
    count: int | None = None
    """M^g, if different from the table's."""
    settings: tuple[str, ...] = ()
    """Changes of the recipe, as NAME=VALUE."""

    def __post_init__(self) -> None:
        require(
            self.loss is None or self.fakes in (None, "adjusted"),
            f"row {self.title}: with a loss, fakes must be none or adjusted, got {self.fakes}",
        )

    @property
    def arm(self) -> str:
        """Name of the arm that trains like this."""
        if self.loss is not None:
            return "kd_matched" if self.fakes is None else "adjusted_kd"
        return self.fakes or ("real_matched" if self.matched else "real")


NOKD = Method("NOKD", matched=False)
CGAN_KD = Method("cGAN-KD", fakes="adjusted")
EQUAL_UPDATES = Method("NOKD at equal updates")
KD_EQUAL_UPDATES = "KD at equal updates"
EQUAL_TIME = "NOKD at equal time"


def equal_time(factor: float) -> Method:
    """Control on labels only with `factor` times as many updates; 1 is the update-matched control."""
    return EQUAL_UPDATES if factor == 1 else Method(f"{EQUAL_TIME} x{factor:g}")


@dataclass(frozen=True, kw_only=True)
class Family:
    """All experiments on one data set, with their recipes at each scale."""

    kind: Kind
    full: Callable[[], Recipe]
    """Published settings, except `data.root` and `select`."""
    select: SelectConfig
    """Published choice of generated images, with M^g."""
    small: DataConfig
    """Images of scale small."""
    slow: tuple[str, ...] = ()
    """Students trained with a learning rate of 0.01 at full scale, unless the user sets another."""

    def recipe(self, scale: Scale, data: str | None) -> Recipe:
        """Settings of filtering teacher, generator, ratio, pool and students, without the pair's networks."""
        if scale == "tiny":
            return _tiny(self.kind, self.select)
        if scale == "small":
            return replace(_small(self.kind, self.select), data=replace(self.small, root=data))
        full = self.full()
        return replace(full, data=replace(full.data, root=data), select=self.select)


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """One table of a paper."""

    name: str
    title: str
    source: str
    """Paper, version and table."""
    family: Family
    pairs: tuple[Pair, ...]
    methods: tuple[Method, ...]
    printed: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(pair, method) -> number as printed."""
    unit: str = "top-1 accuracy, %"
    """Unit of the printed numbers."""
    protocol: str
    deviations: tuple[str, ...]
    note: str = ""
    """Note on the printed numbers."""
    control_loss: str = "0.1*Label + 0.9*KD(T=4)"
    """Loss of the control with a teacher and without generated images."""
    filters: bool = True
    """True if one network filters for all pairs; otherwise each pair's teacher is the teacher of its run."""

    def __post_init__(self) -> None:
        known = {(pair.name, method.title) for pair in self.pairs for method in (*self.methods, *self.controls)}
        assert set(self.printed) <= known, set(self.printed) - known

    @property
    def controls(self) -> tuple[Method, ...]:
        """Controls at equal updates, to which gains refer."""
        return EQUAL_UPDATES, Method(KD_EQUAL_UPDATES, self.control_loss)

    def number(self, pair: str, method: str) -> float | None:
        """The printed number in the metric used here: errors are converted to accuracies."""
        return self._measured(self.printed.get((pair, method)))

    def teacher_number(self, pair: Pair) -> float | None:
        """The printed number of the pair's teacher, in the metric used here."""
        return self._measured(pair.printed)

    def _measured(self, printed: float | None) -> float | None:
        return None if printed is None else round(100 - printed, 2) if "error" in self.unit else printed

    def pair(self, name: str) -> Pair:
        """The pair of this name.

        Raises:
            ConfigError: there is none.
        """
        known = {pair.name: pair for pair in self.pairs}
        require(name in known, f"no pair {name!r} in {self.name}; {suggest(name, known)}")
        return known[name]

    def method(self, title: str) -> Method:
        """The row or control of this title.

        Raises:
            ConfigError: there is none.
        """
        known = {method.title: method for method in (*self.methods, *self.controls)}
        require(
            title in known or title.startswith(f"{EQUAL_TIME} x"),
            f"no method {title!r} in {self.name}; {suggest(title, known)}",
        )
        return known.get(title) or Method(title)

    def distinct(self, scale: Scale) -> tuple[Pair, ...]:
        """Pairs with different networks at this scale."""
        seen = {self.networks(pair, scale): pair for pair in reversed(self.pairs)}
        return tuple(pair for pair in self.pairs if pair in seen.values())

    def networks(self, pair: Pair, scale: Scale) -> tuple[str | None, str, str | None]:
        """Teacher, student and assistant of a pair as zoo names at this scale."""
        if scale == "full":
            head = "" if self.family.kind == "classification" else "+mlp"
            teacher, assistant = (name and name + head for name in (pair.teacher, pair.assistant))
            return teacher, pair.student + head, assistant
        stand_ins = STAND_INS[scale]
        teacher, assistant = pair.teacher and stand_ins["teacher"], pair.assistant and stand_ins["assistant"]
        other = pair.student if ":" in pair.student else stand_ins.get("student", pair.student)
        return teacher, stand_ins.get(pair.student, other), assistant

    def recipe(self, scale: Scale, data: str | None = None) -> Recipe:
        """Settings shared by all cells, with a pool large enough for the largest M^g.

        Args:
            scale: how large.
            data: file or folder of the images; scale tiny has its own.
        """
        return self.with_pool(replace(self.family.recipe(scale, data), name=self.name))

    def with_pool(self, recipe: Recipe) -> Recipe:
        """Return `recipe` with a pool large enough for the largest M^g after subsampling and filter."""
        select = recipe.select
        accepted = {"budget": select.accept_share, "running_max": RUNNING_MAX_SHARE, "none": 1.0}[select.subsample]
        kept = 1.0 if select.filter == "none" or select.rho is None else select.rho
        most = max(self._count(recipe, method) for method in self.methods)
        needed = round(POOL_MARGIN * most / (accepted * kept))
        return replace(recipe, synth=replace(recipe.synth, pool=max(recipe.synth.pool, needed)))

    def owned(self) -> dict[str, str]:
        """Settings that rows and pairs overwrite, with the reason; changing them for all cells has no effect."""
        network = "pairs name the networks"
        found = {f"student.{name}": network for name in ("model", "teacher", "assistants")}
        found["student.loss"] = "rows name the losses"
        if not self.filters:
            found["teacher.model"] = network
        for method in self.methods:
            if method.count is not None:
                found["student.fake_share"] = "rows have M^g images, which is a share of all"
            found |= {change.partition("=")[0]: f"the row {method.title} sets it" for change in method.settings}
        return found

    def _count(self, recipe: Recipe, method: Method) -> int:
        """M^g of one row at the scale of `recipe`."""
        published, here = self.family.select.count, recipe.select.count
        assert published is not None
        if here is None:
            raise ConfigError(f"select.count must be a number in {self.name}, whose rows are shares of it, got none")
        return here if method.count is None else max(1, round(here * method.count / published))

    def cell(self, base: Recipe, scale: Scale, pair: Pair, method: Method) -> Recipe:
        """`base` with what one pair and method change."""
        teacher, student, assistant = self.networks(pair, scale)
        config = replace(base.student, model=student)
        if scale == "full" and pair.student in self.family.slow and config.lr == self.family.full().student.lr:
            config = replace(config, lr=0.01)
        recipe = base
        if teacher is not None and self.filters:
            config = replace(config, teacher=teacher)
        elif teacher is not None:
            recipe = replace(base, teacher=replace(base.teacher, model=teacher))
        share = config.fake_share
        if method.count is not None:
            # As published: batches mix all real and M^g generated images.
            published = self.family.select.count
            assert published is not None
            share = method.count / (method.count + published * (1 - share) / share)
            recipe = replace(recipe, select=replace(recipe.select, count=self._count(base, method)))
            config = replace(config, fake_share=share)
        if method.loss is not None:
            config = replace(config, loss=method.loss)
            if method.assistant and assistant is not None:
                config = replace(config, assistants=(assistant,))
        passes = max(1, round(config.updates * (1 - base.student.fake_share)))  # over real images, as NOKD has
        if not method.matched and ARMS[method.arm].matched:
            config = replace(config, updates=passes)
        if config.init == "finetune":
            # As published: rows without generated images are trained once, from scratch; the others start from NOKD.
            tuned = replace(config, start_updates=config.start_updates or passes)
            config = tuned if method.matched else config.from_scratch
        if method.title.startswith(f"{EQUAL_TIME} x"):
            config = replace(config, updates=round(config.updates * float(method.title.rpartition("x")[2])))
        recipe = replace(recipe, student=config)
        return override(recipe, method.settings) if method.settings else recipe


# --- small scales -------------------------------------------------------------------------------------------

STAND_INS: dict[Scale, dict[str, str]] = {
    "tiny": {
        "teacher": "cnn16",
        "assistant": "cnn8",
        "student": "resnet8",
        **dict.fromkeys(("vgg8", "vgg11", "mobilenet_v2", "mobilenet_v2_half"), "cnn4"),
    },
    "small": {
        "teacher": "resnet14x2",
        "assistant": "resnet14",
        **dict.fromkeys(("resnet20", "wrn_16_1", "wrn_16_2"), "resnet8"),
        **dict.fromkeys(("resnet56", "resnet32", "wrn_40_1"), "resnet14"),
        **dict.fromkeys(("vgg8", "vgg11"), "cnn16"),
        "resnet8x4": "resnet8x2",
    },
}
"""Stand-ins by role in a pair, or by the published student; mobile networks are small enough and stay."""


def _tiny(kind: Kind, select: SelectConfig) -> Recipe:
    base = digits() if kind == "classification" else rotated_digits()
    gan = replace(base.gan, steps=6, batch_size=16, width_g=4, width_d=4, z_dim=4, embedding_width=8, health_checks=1)
    return replace(
        base,
        data=replace(base.data, num_train=80),
        teacher=TeacherConfig(model="cnn8", updates=60, lr=0.02),
        gan=gan,
        ratio=RatioConfig(epochs=3, hidden=(32,), dropout=(0.2,)),
        synth=SynthConfig(pool=768, labels=base.synth.labels),
        select=replace(select, count=100),
        student=StudentConfig(model="cnn4", updates=6, fake_share=FAKES_SHARE),
    )


def _small(kind: Kind, select: SelectConfig) -> Recipe:
    classes = kind == "classification"
    return Recipe(
        teacher=TeacherConfig(model="resnet14x2", updates=2000, augment=("shift", "flip") if classes else ("shift",)),
        gan=logistic(GanConfig(steps=4000, z_dim=64)),
        synth=SynthConfig(pool=20_000, labels="balanced" if classes else "uniform"),
        select=replace(select, count=6000),
        student=StudentConfig(updates=2000, fake_share=FAKES_SHARE, augment=("shift", "flip") if classes else ()),
    )


# --- helpers of the tables' modules --------------------------------------------------------------------------


def sgd(
    *,
    epochs: float,
    images: int,
    batch: int,
    lr: float,
    weight_decay: float,
    drops: tuple[float, ...],
    flip: bool = True,
    shift: bool = True,
) -> dict[str, Any]:
    """Settings of `SupervisedConfig` for published SGD training; `drops` are the epochs after which lr falls."""
    kinds = ("shift",) * shift + ("flip",) * flip
    return {
        "updates": round(epochs * images / batch),
        "batch_size": batch,
        "optimizer": "sgd",
        "lr": lr,
        "schedule": "steps",
        "decay_at": tuple(drop / epochs for drop in drops),
        "weight_decay": weight_decay,
        "augment": kinds,
    }


def counted_before_split(epochs: int, left: float) -> str:
    """Deviation: updates of `epochs` are counted over all real images, but only the share `left` of them trains."""
    return (
        f"Updates are counted over all real images, including those of the validation split, so training images are "
        f"seen for about {epochs / left:.0f} epochs where {epochs} are published."
    )


RATIO_DEVIATION = (
    "A quarter of the images is held out from the density ratio to calibrate it, and the mean ratio of each label's "
    "generated images is 1; the paper trains on all images and does not calibrate. The label input is a learned "
    "embedding of width 32; the paper's is as wide as the number of classes, or is the generator's."
)


FROM_SCRATCH = (
    "Students start from scratch; published cGAN-KD students start from their own NOKD weights, so these updates come "
    "on top (--set student.init=finetune does this, also for the controls at equal updates)."
)


def by_method(pairs: Sequence[Pair], lines: Mapping[str, str]) -> dict[tuple[str, str], float]:
    """Printed numbers from one line per method with one number per pair; NA: not printed."""
    return {
        (pair.name, title): float(word)
        for title, line in lines.items()
        for pair, word in zip(pairs, line.split(), strict=True)
        if word != "NA"
    }


def by_pair(methods: Sequence[Method], lines: Mapping[str, str]) -> dict[tuple[str, str], float]:
    """Printed numbers from one line per pair with one number per method; NA: not printed."""
    return {
        (name, method.title): float(word)
        for name, line in lines.items()
        for method, word in zip(methods, line.split(), strict=True)
        if word != "NA"
    }
