"""Contents of a report as plain dataclasses; `gather` fills them, `view` turns them into pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from gankd.bench.answers import Answers
from gankd.bench.results import ArmResult, Choice
from gankd.tasks import Task
from gankd.virtual import Inspection

SEARCH = "search.json"
"""File of a run folder with the settings of students that a search tried, and its choice."""
TUNED = "tune.json"
"""File of a run folder with the best settings that `gankd tune` has found for each arm, and how many it tried."""
EXPORTS = "exports.json"
"""File of a run folder with what `gankd export` measured on each file that it wrote."""
MAX_GROUPS = 12
"""Most label groups with example images: more would make the page heavy, and nobody looks at them."""
IMAGES_PER_GROUP = 8
"""Real images of one label group, and as many generated ones."""
SWEEP_ROWS, SWEEP_COLUMNS = 6, 9
MISTAKES = 16
"""Test images with wrong answers."""
SCORED_IMAGES = 8
"""Kept images with their scores, and as many that each step dropped."""


def tuned(title: str) -> str:
    """Title of an arm at its best settings."""
    return f"{title} (tuned)"


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """The data set: origin, size, and distribution of its labels."""

    name: str
    counts: Mapping[str, int]
    """Images per split."""
    shape: tuple[int, int, int]
    """(C, H, W) of one image."""
    card: Mapping[str, str] = field(default_factory=dict)
    """Origin, licence, rule of the split."""
    groups: Sequence[str] = ()
    """Names of the label groups (classes or bins)."""
    train_counts: Sequence[int] = ()
    """Training images per group."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A network: its cost (`bench.model_card`) and its metrics per split."""

    role: Literal["teacher", "student"]
    card: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Split -> metric -> value, for example {"val": {"top1": 97.1, "nll": 0.1}}."""
    answers: Answers | None = None
    """Answers on test images."""


@dataclass(frozen=True, kw_only=True)
class Mistakes:
    """Test images on which the student is wrong, most confidently or by most, and what the two networks answer."""

    images: Tensor
    """uint8 (N, C, H, W)."""
    labels: Sequence[str]
    student: Sequence[str]
    teacher: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class ExportFacts:
    """An exported student, and what was measured on its file."""

    file: str
    student: str
    """Title of its arm, and its seed."""
    form: str
    int8: bool
    bytes: int
    check: Mapping[str, Any]
    """Fields of `bench.shipment.Shipment`."""


@dataclass(frozen=True, kw_only=True)
class GroupImages:
    """Real and generated images of one label group, uint8 (N, C, H, W) each; N may differ or be 0."""

    name: str
    real: Tensor
    fake: Tensor


@dataclass(frozen=True, kw_only=True)
class LabelSweep:
    """Generated images over increasing labels: one latent vector per row, one label per column."""

    labels: Sequence[str]
    images: Tensor
    """uint8 (rows, columns, C, H, W)."""
    real: Tensor | None = None
    """uint8 (columns, C, H, W): the training image whose label is nearest to each column's."""


@dataclass(frozen=True, kw_only=True)
class ScoredImages:
    """Generated images that one step dropped, or that all steps kept, with the scores that decided."""

    title: str
    kept: bool
    images: Tensor
    """uint8 (N, C, H, W)."""
    labels: Sequence[str]
    """Assigned labels as text."""
    log_ratio: Sequence[float] = ()
    chance: Sequence[float] = ()
    """Probability with which subsampling keeps each."""
    disagreement: Sequence[float] = ()
    """Disagreement of the teacher with the label."""
    cutoff: Sequence[float | None] = ()
    """Largest disagreement that the filter accepts for images of this label; None: any."""


@dataclass(frozen=True)
class CopyFacts:
    """Generated images that copy a real one (`generators.copies`), in per cent."""

    count: int
    """Generated images that were compared, as they come from the generator."""
    of_train: float
    of_test: float
    """Test images were never shown to the generator: this is the share that chance gives."""


@dataclass(frozen=True, kw_only=True)
class RatioFacts:
    """Quality of the estimated density ratio."""

    log_ratio_real: Any
    """log p_real / p_fake of held-out real images: a tensor, an array or a list."""
    log_ratio_fake: Any
    auc: float | None = None
    """Held-out area under the curve of real against generated; 0.5 means indistinguishable."""
    mean_ratio_fake: float | None = None
    """Mean ratio on generated images; 1 for the true ratio."""
    mean_ratio_real: float | None = None
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class DisagreementFacts:
    """The teacher's disagreement on real and generated images, and the cut-offs of the filter."""

    real: Any
    fake: Any
    cutoffs: Sequence[float] = ()
    """One, or one per label group."""


@dataclass(frozen=True, kw_only=True)
class LabelFacts:
    """Labels of the generated images along the pipeline."""

    groups: Sequence[str]
    counts: Mapping[str, Sequence[int]]
    """Stage ("pool", "subsampled", "filtered", "adjusted") -> images per group."""
    left: Mapping[str, int] = field(default_factory=dict)
    """Images "generated", and left by subsampling ("accepted"), by the filter ("consistent") and by the count
    ("kept")."""
    acceptance: Sequence[float] = ()
    """Share of samples that subsampling accepted, per group."""
    teacher_stddev: Mapping[str, float | None] = field(default_factory=dict)
    """T.stddev of the images left after each step (`synthetic.variety`)."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Lines of one network's metrics.jsonl: `step` and numbers by name."""

    role: Literal["teacher", "student"]
    title: str
    history: Sequence[Mapping[str, Any]]
    arm: str = ""
    """Arm of a student."""


@dataclass(frozen=True, kw_only=True)
class StageFacts:
    """One stage of the run."""

    name: str
    folder: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All contents of a report; parts that an unfinished run is missing stay empty, and their sections are left out."""

    recipe: str
    task: Task
    created: str
    """Date and time as text."""
    version: str
    commands: Sequence[str] = ()
    """Commands that repeat this run."""
    seconds: float = 0.0
    machine: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    """Warnings and advice for the reader."""
    stages: Sequence[StageFacts] = ()

    arms: Sequence[ArmResult] = ()
    choice: Choice = field(default_factory=Choice)
    """Arms that were chosen on validation images."""
    data: DataFacts | None = None
    models: Sequence[ModelFacts] = ()
    exports: Sequence[ExportFacts] = ()
    mistakes: Mistakes | None = None

    generator_history: Sequence[Mapping[str, Any]] = ()
    """Lines of metrics.jsonl: `step`, loss terms, and health: `teacher` (the task's metric on generated
    images), `real_teacher` (on real ones), `variance_ratio`, `frechet`."""
    generator_seconds: float | None = None
    groups: Sequence[GroupImages] = ()
    copies: CopyFacts | None = None
    sweep: LabelSweep | None = None
    scored: Sequence[ScoredImages] = ()
    """Kept images, and those that each step dropped."""
    ratio: RatioFacts | None = None
    disagreement: DisagreementFacts | None = None
    labels: LabelFacts | None = None
    virtual: Inspection | None = None
    curves: Sequence[Curve] = ()
