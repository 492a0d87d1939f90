"""A published table as a recipe: pairs, rows, printed numbers, protocol and the deviations from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gankd.config import require, suggest
from gankd.data.augment import Augmentation
from gankd.errors import ConfigError
from gankd.models.initial import Initial
from gankd.recipes.arms import Arm, Length, Processing
from gankd.recipes.config import DataConfig, Recipe, StudentConfig, SynthConfig, TeacherConfig
from gankd.recipes.ready import digits, rotated_digits
from gankd.synthetic import SelectConfig
from gankd.training.gan import GanConfig, logistic
from gankd.training.ratio import RatioConfig

Scale = Literal["tiny", "small", "full"]
"""tiny: embedded images, seconds, for tests; small: a few of the table's own images at 32 pixels and small networks,
hours on two CPU cores; full: the published sizes, for a GPU."""
Kind = Literal["classification", "regression"]
Protocol = Literal["gankd", "published"]
"""gankd: its own choices where these are better or cheaper; published: the authors', as far as gankd has them."""


class Closed(str):
    """A deviation that the published protocol does not have."""


@dataclass(frozen=True, kw_only=True)
class Authors:
    """Choices of the authors that the published protocol takes over, besides those that every table has."""

    initial: Initial = "published"
    nesterov: bool = False
    finetuned: bool = True
    """Students with generated images start from their NOKD weights."""
    real_batch: float = 1.0
    """Batch size of rows without generated images, in units of the others'."""
    labels: int
    """Number of labels, each with a burn-in of its own."""
    burn_in: int
    judged: int = 500
    """Generated images of a label that are judged by one maximum."""


FAKES_SHARE = 0.5
"""Share of generated images in a batch if the table gives none."""
PUBLISHED_HELD_OUT = 0.02
"""Share of real images that only measure the density ratio under the published protocol, where all train it."""
POOL_MARGIN = 1.1
"""Images that subsampling and filter should leave, in units of the largest M^g; above 1 as acceptance is random."""


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


def row(
    title: str,
    loss: str | None = None,
    images: Processing | None = None,
    *,
    passes: bool = False,
    augment: tuple[Augmentation, ...] | None = None,
    settings: tuple[str, ...] = (),
) -> Arm:
    """One row of a table as an arm.

    Args:
        title: as printed.
        loss: sum of losses; default: the labels only.
        images: generated images, processed up to this step; default: real images only.
        passes: as many passes over real images as rows with generated images make, instead of as many updates.
        augment: augmentation of the students' images; default: the recipe's.
        settings: other changes of the recipe, as NAME=VALUE.
    """
    updates: Literal["passes", "equal"] = "passes" if passes else "equal"
    return Arm(name=title, loss=loss, images=images, updates=updates, augment=augment, settings=settings)


NOKD = row("NOKD", passes=True)
CGAN_KD = row("cGAN-KD", images="adjusted")
EQUAL_UPDATES = Arm(name="NOKD at equal updates", role="control")
KD_EQUAL_UPDATES = "KD at equal updates"
EQUAL_TIME = "NOKD at equal time"
ASSISTED = ("TAKD", "cGAN-KD+TAKD")
"""Rows whose students learn from the pair's assistant instead of its teacher."""


def equal_time(factor: float) -> Arm:
    """The labels only for `factor` times as many updates as the rows; 1 is the update-matched control."""
    return EQUAL_UPDATES if factor == 1 else Arm(name=f"{EQUAL_TIME} x{factor:g}", role="control")


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
    authors: Authors
    forms: Mapping[str, str] = field(default_factory=dict)
    """Zoo names at full scale of networks that have a form of their own in this table."""
    head: str = ""
    """End of the zoo names of students at full scale."""
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
    arms: tuple[Arm, ...]
    """Rows, without the controls that every page adds."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """M^g by title of the row, where it is not the table's."""
    printed: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(pair, method) -> number as printed."""
    unit: str = "top-1 accuracy, %"
    """Unit of the printed numbers."""
    protocol: str
    deviations: tuple[str, ...]
    note: str = ""
    """Note on the printed numbers."""
    under: Protocol = "gankd"
    """Protocol of the experiment: its choices at equal sizes and lengths."""
    control_loss: str = "0.1*Label + 0.9*KD(T=4)"
    """Loss of the control with a teacher and without generated images."""
    authors_losses: Mapping[str, str] = field(default_factory=dict)
    """Loss of a row -> what the authors' code computes, where it is another one."""
    filters: bool = True
    """True if one network filters for all pairs; otherwise each pair's teacher is the teacher of its run."""

    def __post_init__(self) -> None:
        known = {(pair.name, arm.title) for pair in self.pairs for arm in (*self.arms, *self.controls)}
        assert set(self.printed) <= known, set(self.printed) - known

    def with_protocol(self, protocol: Protocol) -> "PublishedTable":
        """This table under a protocol."""
        if protocol == "gankd":
            return replace(self, under=protocol)
        losses = self.authors_losses
        arms = tuple(replace(arm, loss=losses.get(arm.loss or "", arm.loss)) for arm in self.arms)
        return replace(self, under=protocol, arms=arms, control_loss=losses.get(self.control_loss, self.control_loss))

    @property
    def differences(self) -> tuple[str, ...]:
        """Deviations from the published experiment that are left under the table's protocol."""
        return tuple(text for text in self.deviations if self.under == "gankd" or not isinstance(text, Closed))

    @property
    def controls(self) -> tuple[Arm, ...]:
        """Controls at equal updates: gains are measured against them."""
        return EQUAL_UPDATES, Arm(name=KD_EQUAL_UPDATES, loss=self.control_loss, role="control")

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

    def arm(self, title: str) -> Arm:
        """The row or control of this title.

        Raises:
            ConfigError: there is none.
        """
        known = {arm.title: arm for arm in (*self.arms, *self.controls)}
        timed = title.startswith(f"{EQUAL_TIME} x")
        require(title in known or timed, f"no method {title!r} in {self.name}; {suggest(title, known)}")
        return known[title] if title in known else Arm(name=title, role="control")

    def distinct(self, scale: Scale) -> tuple[Pair, ...]:
        """Pairs with different networks at this scale."""
        seen = {self.networks(pair, scale): pair for pair in reversed(self.pairs)}
        return tuple(pair for pair in self.pairs if pair in seen.values())

    def networks(self, pair: Pair, scale: Scale) -> tuple[str | None, str, str | None]:
        """Teacher, student and assistant of a pair as zoo names at this scale."""
        if scale == "full":
            family = self.family
            teacher, student, assistant = (
                name and family.forms.get(name, name) + family.head
                for name in (pair.teacher, pair.student, pair.assistant)
            )
            assert student is not None
            return teacher, student, assistant
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
        recipe = replace(self.family.recipe(scale, data), name=self.name)
        return self.with_pool(self._as_published(recipe) if self.under == "published" else recipe)

    def _as_published(self, recipe: Recipe) -> Recipe:
        """`recipe` with the authors' choices; sizes and lengths stay those of the scale."""
        authors, count, published = self.family.authors, recipe.select.count, self.family.select.count
        assert count is not None
        assert published is not None
        student = replace(recipe.student, initial=authors.initial, nesterov=authors.nesterov)
        if authors.finetuned:
            student = replace(student, init="finetune")
        return replace(
            recipe,
            precision="fp32",
            data=replace(recipe.data, val_trains=True),
            teacher=replace(recipe.teacher, initial=authors.initial, nesterov=authors.nesterov),
            student=student,
            ratio=replace(recipe.ratio, fresh=True, calibrated=False, held_out=PUBLISHED_HELD_OUT),
            synth=replace(recipe.synth, labels="balanced"),
            select=replace(
                recipe.select,
                subsample="running_max",
                burn_in=max(1, round(authors.burn_in * count / published)),
                judged=max(1, round(authors.judged * count / published)),
                keep_burn_in=False,
                per_label=True,
                order="random" if self.family.kind == "regression" else "turns",
            ),
        )

    def with_pool(self, recipe: Recipe) -> Recipe:
        """Return `recipe` with a pool large enough for the largest M^g after subsampling and filter."""
        select = recipe.select
        kept = 1.0 if select.filter == "none" or select.rho is None else select.rho
        most = max(self._count(recipe, arm) for arm in self.arms)
        needed = round(POOL_MARGIN * most / (select.accepted_share * kept))
        if not select.keep_burn_in:
            needed += self.family.authors.labels * select.burn_in
        return replace(recipe, synth=replace(recipe.synth, pool=max(recipe.synth.pool, needed)))

    def owned(self) -> dict[str, str]:
        """Settings that rows and pairs overwrite, with the reason; changing them for all cells has no effect."""
        network = "pairs name the networks"
        found = {f"student.{name}": network for name in ("model", "teacher", "assistants")}
        found["student.loss"] = "rows name the losses"
        if not self.filters:
            found["teacher.model"] = network
        if self.counts:
            found["student.fake_share"] = "rows have M^g images, which is a share of all"
        if any(arm.augment is not None for arm in self.arms):
            found["student.augment"] = "rows have an augmentation of their own"
        for arm in self.arms:
            found |= {change.partition("=")[0]: f"the row {arm.title} sets it" for change in arm.settings}
        return found

    def _count(self, recipe: Recipe, arm: Arm) -> int:
        """M^g of one row at the scale of `recipe`."""
        published, here = self.family.select.count, recipe.select.count
        assert published is not None
        if here is None:
            raise ConfigError(f"select.count must be a number in {self.name}, whose rows are shares of it, got none")
        own = self.counts.get(arm.title)
        return here if own is None else max(1, round(here * own / published))

    def pair_recipe(self, base: Recipe, scale: Scale, pair: Pair) -> Recipe:
        """`base` with the networks of one pair."""
        teacher, student, _ = self.networks(pair, scale)
        config = replace(base.student, model=student)
        if scale == "full" and pair.student in self.family.slow and config.lr == self.family.full().student.lr:
            config = replace(config, lr=0.01)
        if teacher is not None and not self.filters:
            return replace(base, student=config, teacher=replace(base.teacher, model=teacher))
        return replace(base, student=config if teacher is None else replace(config, teacher=teacher))

    def pair_arm(self, base: Recipe, scale: Scale, pair: Pair, arm: Arm) -> Arm:
        """A row or control with the settings and the length that it has for one pair at one scale.

        Args:
            base: settings that all cells share.
            scale, pair, arm: which cell.
        """
        config, settings = base.student, []
        assistant = self.networks(pair, scale)[2]
        if arm.title in self.counts:
            # As in the published mixture of all real and M^g generated images.
            published, own, share = self.family.select.count, self.counts[arm.title], config.fake_share
            assert published is not None
            share = own / (own + published * (1 - share) / share)
            settings += [f"select.count={self._count(base, arm)}", f"student.fake_share={share!r}"]
        if arm.title in ASSISTED and assistant is not None:
            settings.append(f'student.assistants=["{assistant}"]')
        updates: Length | int = arm.updates
        passes = max(1, round(config.updates * (1 - config.fake_share)))  # over real images, as NOKD makes them
        if config.init == "finetune":
            # As published: rows without generated images are trained once, from scratch; the others start from NOKD.
            if arm.updates == "passes":
                settings += ["student.init=scratch", "student.start_updates=none", "student.finetune_lr=none"]
            else:
                settings.append(f"student.start_updates={config.start_updates or passes}")
        if self.under == "published" and self.family.authors.real_batch != 1:
            settings, updates = self._with_real_batch(config, arm, settings, passes)
        if arm.title.startswith(f"{EQUAL_TIME} x"):
            updates = round(config.updates * float(arm.title.rpartition("x")[2]))
        return replace(arm, updates=updates, settings=(*settings, *arm.settings))

    def _with_real_batch(
        self, config: StudentConfig, arm: Arm, settings: list[str], passes: int
    ) -> tuple[list[str], Length | int]:
        """Settings and updates of a row as the authors have them: with batches of another size on real images only."""
        share = self.family.authors.real_batch
        batch, longer = max(2, round(config.batch_size * share)), round(passes / share)
        start = [f"student.start_updates={longer}", f"student.start_batch={batch}"]
        finetuned = config.init == "finetune"
        if arm.updates != "passes":
            own = [each for each in settings if not each.startswith("student.start_updates=")]
            return [*own, *(start if finetuned else [])], arm.updates
        if arm.loss is None and finetuned:  # this row is the start of the others
            return ["student.init=finetune", *start], "passes"
        return [*settings, f"student.batch_size={batch}"], longer


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
    crop: bool = True,
) -> dict[str, Any]:
    """Settings of `SupervisedConfig` for published SGD training; `drops` are the epochs after which lr falls."""
    kinds = ("crop",) * crop + ("flip",) * flip
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


def counted_before_split(epochs: int, left: float) -> Closed:
    """Deviation: updates of `epochs` are counted over all real images, but only the share `left` of them trains."""
    return Closed(
        f"Updates are counted over all real images, including those of the validation split, so training images are "
        f"seen for about {epochs / left:.0f} epochs where {epochs} are published."
    )


RATIO_DEVIATIONS = (
    Closed(
        "A quarter of the images is held out from the density ratio to calibrate it, and the mean ratio of each "
        "label's generated images is 1; the paper trains on all images and does not calibrate."
    ),
    "One image in fifty is held out from the density ratio to measure it, or a quarter where it is calibrated; the "
    "paper trains on all. The label input is a learned embedding of width 32; the paper's is as wide as the number of "
    "classes, or is the generator's.",
)


FROM_SCRATCH = Closed(
    "Students start from scratch; published cGAN-KD students start from their own NOKD weights, so these updates come "
    "on top (--set student.init=finetune does this, also for the controls at equal updates)."
)


COMMON = (
    Closed("SGD with Nesterov momentum; published: plain momentum."),
    Closed("Networks compute in bfloat16 where the device has it; the published code in float32."),
    Closed("Initial weights are gankd's; those of published ResNets are 2.4 times larger."),
    "The discriminator sees generated images of the real batch's labels, in the paper of labels drawn anew; batch norm "
    "of the generator is measured anew, and attention has no biases.",
    Closed(
        "The density ratio learns from generated images drawn once, two for each real one; published: anew at every "
        "step. Scalar labels are drawn evenly over 12 ranges, in the paper over distinct labels."
    ),
    "Images are normalised by the mean and spread of the data. Every batch has the same shares of real and generated "
    "images, in the paper random ones.",
    "Losses on features pair the maps at stage boundaries, which for some networks are not the published ones (gankd "
    "inspect shows them).",
)


def by_method(pairs: Sequence[Pair], lines: Mapping[str, str]) -> dict[tuple[str, str], float]:
    """Printed numbers from one line per method with one number per pair; NA: not printed."""
    return {
        (pair.name, title): float(word)
        for title, line in lines.items()
        for pair, word in zip(pairs, line.split(), strict=True)
        if word != "NA"
    }


def by_pair(arms: Sequence[Arm], lines: Mapping[str, str]) -> dict[tuple[str, str], float]:
    """Printed numbers from one line per pair with one number per row; NA for none."""
    return {
        (name, arm.title): float(word)
        for name, line in lines.items()
        for arm, word in zip(arms, line.split(), strict=True)
        if word != "NA"
    }
