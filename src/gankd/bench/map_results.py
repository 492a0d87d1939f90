"""Finished cells of `gankd map`, one line each of a file that only grows."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gankd.bench.compare import chosen_by_validation, compare_pipelines, student_of
from gankd.bench.stats import Interval, paired_interval
from gankd.config import from_dict, to_dict
from gankd.data.images import LabelledImages, Splits
from gankd.errors import CheckpointError, ConfigError
from gankd.models.contract import evaluate
from gankd.recipes.arms import Arm, Role, arm_named
from gankd.recipes.cgan_kd import arm_images
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import copies, open_pool
from gankd.recipes.map_grid import MapCell
from gankd.recipes.stages import declare
from gankd.storage import append_json_line, read_json_lines
from gankd.version import __version__

FILE = Path(__file__).with_name("map.jsonl")
"""The finished cells that gankd comes with."""
ARMS = {
    "real_matched": "real",
    "kd_matched": "KD",
    "real_time": "real, equal time",
    "kd_time": "KD, equal time",
    "adjusted": "cGAN-KD",
    "adjusted_kd": "cGAN-KD + KD",
}
"""Arms of every cell, with their names on the page: both controls at equal updates and at equal time, both methods."""


@dataclass(frozen=True, kw_only=True)
class MapArm:
    """One arm of a cell: the metric of the mean student of each pipeline."""

    title: str
    role: Role
    updates: int
    val: tuple[float, ...]
    test: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class MapResult:
    """A finished cell: a line of the file."""

    recipe: str
    factor: str
    level: str
    settings: tuple[str, ...]
    """Those of the cell, and further ones that the whole map was given."""
    task: str
    metric: str
    unit: str
    """Unit of a difference of the metric."""
    higher_is_better: bool
    images: int
    """Training images."""
    labels: int
    """Classes, or distinct values; bins of the range where values hardly repeat."""
    arms: dict[str, MapArm]
    method: str
    """The best arm with generated images, on validation images."""
    control: str
    """The strongest control, on validation images."""
    facts: tuple[dict[str, Any], ...]
    """Teacher, generator and pool of each pipeline (`pipeline_facts`)."""
    seconds: float
    """Computing time of all stages that the cell rests on."""
    version: str

    @property
    def key(self) -> tuple[str, str, str, tuple[str, ...]]:
        """Recipe, factor, level and settings, which identify the result."""
        return self.recipe, self.factor, self.level, self.settings

    @property
    def name(self) -> str:
        """The cell in words."""
        return f"{self.recipe}, {self.factor}: {self.level}"

    @property
    def gain(self) -> Interval:
        """Gain of the method over the strongest control on test images, paired by pipeline; positive is better."""
        return self._gain(self.arms[self.method].test, self.arms[self.control].test)

    @property
    def error(self) -> float:
        """Mean error of the strongest control on test images: what is missing to 100 %, or the metric itself."""
        mean = sum(self.arms[self.control].test) / len(self.arms[self.control].test)
        return 100 - mean if self.higher_is_better else mean

    def _gain(self, values: Sequence[float], control: Sequence[float]) -> Interval:
        return paired_interval(values, control, higher_is_better=self.higher_is_better)


def measured(cell: MapCell, changes: Sequence[str], experiment: Experiment, arms: Sequence[Arm]) -> MapResult:
    """The result of a cell whose students are finished.

    Args:
        cell, changes: what was run.
        experiment: its run.
        arms: with their lengths.
    """
    task, choice = experiment.splits.task, chosen_by_validation(experiment, arms)
    assert choice.method is not None
    assert choice.control is not None
    parts = {split: compare_pipelines(experiment, arms, split) for split in ("val", "test")}
    found = {
        arm.name: MapArm(
            title=arm.title,
            role=arm.role,
            updates=arm.recipe(experiment.recipe).student.updates,
            val=parts["val"].result(arm.name).values,
            test=parts["test"].result(arm.name).values,
        )
        for arm in arms
    }
    return MapResult(
        recipe=cell.recipe,
        factor=cell.factor,
        level=cell.level,
        settings=(*cell.settings, *changes),
        task=task.kind,
        metric=task.metric,
        unit="points" if task.metric_unit == "%" else task.metric_unit,
        higher_is_better=task.higher_is_better,
        images=len(experiment.splits.train),
        labels=num_labels(experiment.splits.train),
        arms=found,
        method=choice.method,
        control=choice.control,
        facts=tuple(pipeline_facts(each, arms, seeds) for each, seeds in experiment.pipelines()),
        seconds=_seconds(experiment, arms),
        version=__version__,
    )


def num_labels(train: LabelledImages) -> int:
    """Classes, or distinct values; bins of the range where values hardly repeat."""
    distinct = len(train.labels.unique(dim=0))
    return distinct if len(train) >= 2 * distinct else int(train.task.groups(train.labels.cpu()).unique().numel())


def _seconds(experiment: Experiment, arms: Sequence[Arm]) -> float:
    stages = {
        stage.fingerprint: stage.seconds
        for each, seeds in experiment.pipelines()
        for stage in declare(each, arms, seeds)
    }
    return sum(stages.values())


def pipeline_facts(experiment: Experiment, arms: Sequence[Arm], seeds: Sequence[int]) -> dict[str, Any]:
    """Facts of one finished pipeline, some of which a short probe can know, too.

    Metrics of the teacher on validation images and of a student on labels only on its training images; how far labels
    are from those of training; the first and the last check of the generator; of the pool, AUC of the density ratio,
    T.stddev, images kept, copies in per cent.
    """
    splits, metric = experiment.splits, experiment.splits.task.metric
    stages, labels_only = declare(experiment, arms, seeds), arm_named(experiment.recipe, "real_matched")
    student = student_of(experiment, labels_only, seeds[0], stages)
    selection = arm_images(experiment, arm_named(experiment.recipe, "adjusted"), stages)
    _, of_train, of_test = copies(experiment, open_pool(experiment, stages.synth))
    checks = [line for line in stages.gan.history if "frechet" in line]
    return {
        "teacher": (stages.teacher.result or {})["val"][metric],
        **label_facts(splits),
        "on_train": evaluate(student, splits.train, experiment.engine)[metric],
        "first": _finite(checks[0]),
        "last": _finite(checks[-1]),
        "auc": (stages.ratio.result or {})["auc"],
        "stddev": _finite(selection.report["teacher_stddev"]),
        "kept": selection.report["counts"],
        "copies": [of_train, of_test],
    }


def label_facts(splits: Splits) -> dict[str, float]:
    """Coverage of the labels by the training images.

    distance: mean distance of a validation label to the nearest training label, in label units; 0 for classes.
    imbalance: images of the largest label group in units of the mean group.
    """
    from scipy.spatial import KDTree  # half a second to import

    train, val = (part.labels.cpu().double().reshape(len(part), -1).numpy() for part in (splits.train, splits.val))
    counts = splits.train.task.groups(splits.train.labels.cpu()).bincount().float()
    distances, _ = KDTree(train).query(val)
    return {"distance": float(distances.mean()), "imbalance": (counts.max() / counts.mean()).item()}


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Values with None in place of nan, which JSON has no number for."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}


def add_result(path: Path, result: MapResult) -> None:
    """Add one line."""
    append_json_line(path, to_dict(result))


def read_results(path: Path) -> list[MapResult]:
    """All results of a file; a later line replaces an earlier one of the same cell and settings.

    Raises:
        CheckpointError: a line has changed since it was written, or holds something else.
    """
    found = {}
    for item in read_json_lines(path) if path.is_file() else ():
        try:
            result = from_dict(MapResult, item, str(path))
        except (ConfigError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} holds no cells of gankd map ({error})") from None
        found[result.key] = result
    return list(found.values())


def of_cells(
    cells: Iterable[MapCell], results: Iterable[MapResult], changes: Sequence[str] = ()
) -> dict[MapCell, MapResult]:
    """The results of those cells that are finished, with these further settings for all cells."""
    by_key = {result.key: result for result in results}
    keys = {cell: (*cell.key, (*cell.settings, *changes)) for cell in cells}
    return {cell: by_key[key] for cell, key in keys.items() if key in by_key}
