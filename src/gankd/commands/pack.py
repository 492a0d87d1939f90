"""`gankd pack` makes a pack of a run or shows what is in one; `gankd student PACK` trains students from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gankd.bench.stats import mean_stderr
from gankd.commands.stages import RUNS, opened
from gankd.config import override, require
from gankd.console import Console
from gankd.models.contract import evaluate as measure
from gankd.models.files import save_model
from gankd.packs.audit import audit
from gankd.packs.controls import evaluate_pack
from gankd.packs.file import Pack
from gankd.packs.make import make_pack
from gankd.packs.real import read_other, read_test
from gankd.packs.student import divided, only_generated, splits_of, student_stage, train_on
from gankd.recipes.config import Recipe
from gankd.recipes.experiment import Experiment
from gankd.report.pack import Inspected, controls_table, write_pack_page
from gankd.runs import Run
from gankd.tasks import Task
from gankd.text import Table, number, plus_minus

OWN = ("fake_share", "kd_on", "teacher", "virtual", "init", "finetune_lr", "start_updates", "assistants")
"""Settings of students that mean nothing where there is a pack only."""


# --- the pack of a run --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """A pack that was written, and its page."""

    inspected: Inspected
    page: Path

    @property
    def text(self) -> str:
        """Audit and controls, and where the files are."""
        inspected = self.inspected
        lines = [*inspected.audit]
        if inspected.pack.card.controls:
            lines += ["", controls_table(inspected.pack.card.controls, inspected.pack.task).plain()]
        size = inspected.path.stat().st_size / 1e6
        lines += ["", f"pack: {inspected.path} ({size:.2f} MB, {len(inspected.pack):,} images)", f"page: {self.page}"]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"page": str(self.page), **self.inspected.to_dict()}


def pack(
    recipe: Recipe,
    folder: Path | str,
    out: Path | None = None,
    *,
    evaluate: bool = False,
    other: str | None = None,
    seeds: int | None = None,
    console: Console | None = None,
) -> Packed:
    """Write one file from which a student can be trained without the teacher and without one real image.

    Args:
        recipe: settings of the run, whose pool is finished.
        folder: its folder.
        out: the file; default: pack.safetensors in the folder. Its page has the same name and ends in .html.
        evaluate: also train students of the pack and their controls, and judge them on real test images.
        other: path of public images of something else, which the teacher labels for one more control.
        seeds: students per row of the evaluation; default: as many as the run has per arm.
        console: shows progress.

    Raises:
        ConfigError: the pool is not finished, or the generator is not one that gankd trained.
    """
    path = Path(folder) / "pack.safetensors" if out is None else out
    require(path.suffix == ".safetensors", f"--to must end in .safetensors, got {path}")
    require(evaluate or (other is None and seeds is None), "--other and --seeds belong to --evaluate; add it")
    with opened(recipe, Path(folder), console) as experiment:
        public = None if other is None else read_other(other, experiment.splits.train.shape)
        made, images = make_pack(experiment)
        found, pairs = audit(images, experiment.splits, experiment.engine, recipe.seed)
        made = replace(made, card=replace(made.card, audit=found))
        if evaluate:
            rows = evaluate_pack(experiment, made, images, range(recipe.seeds if seeds is None else seeds), public)
            made = replace(made, card=replace(made.card, controls=tuple(rows)))
    made.save(path)
    inspected, page = Inspected(path, Pack.load(path)), path.with_suffix(".html")
    write_pack_page(inspected, images, pairs, page)
    return Packed(inspected, page)


def inspect_pack(path: Path | str) -> Inspected:
    """Contents of a pack, which may be a file from a stranger: nothing in it is run.

    Raises:
        CheckpointError: missing, damaged, or not a pack.
    """
    return Inspected(Path(path), Pack.load(path))


# --- students of a pack -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PackStudents:
    """Students that were trained from a pack, the best of them as one file."""

    path: Path
    model: str
    task: Task
    held_out: int
    """Generated images on which they were measured, with the teacher's answers as labels."""
    val: tuple[dict[str, float], ...]
    """Metrics of each student on them."""
    tested: int = 0
    """Real images on which they were measured."""
    test: tuple[dict[str, float], ...] = ()

    @property
    def text(self) -> str:
        """A row per kind of image, and where the best student is."""
        measured = [(f"{self.held_out:,} held-out generated images, the teacher's answers as labels", self.val)]
        if self.test:
            measured.append((f"{self.tested:,} real images", self.test))
        rows = []
        for images, metrics in measured:
            values = [one[self.task.metric] for one in metrics]
            rows.append((images, plus_minus(*mean_stderr(values)), ", ".join(map(number, values))))
        note = "" if self.test else "this is agreement with the teacher, not accuracy: no real image was looked at"
        table = Table(
            (f"{self.model}, measured on", f"{self.task.metric} {self.task.metric_unit}".rstrip(), "each seed"),
            rows,
            notes=(note,) if note else (),
        )
        return f"{table.plain()}\n\nstudent: {self.path}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "student": str(self.path),
            "model": self.model,
            "held_out": self.held_out,
            "val": list(self.val),
            "tested": self.tested,
            "test": list(self.test),
        }


def student_from_pack(
    path: Path | str,
    folder: Path | str | None = None,
    *,
    changes: Sequence[str] = (),
    test: str | None = None,
    console: Console | None = None,
) -> PackStudents:
    """Train students from a pack only, and write the best one as a file for `load_model`.

    Args:
        path: the pack; it may come from a stranger.
        folder: where students are kept, and finished ones are reused; default: runs/NAME for the pack NAME.safetensors.
        changes: settings as NAME=VALUE: student.*, seeds, seed, device, precision.
        test: path of real images, or name of an embedded set, on which the students are measured as well.
        console: shows progress.

    Raises:
        CheckpointError: not a sound pack. ConfigError: a setting is refused, or a loss needs the teacher.
        ModelError: the student does not fit the images.
    """
    path = Path(path)
    found = Pack.load(path)
    recipe = _changed(Recipe(name=path.stem, student=found.student, seeds=1), changes)
    only_generated(recipe.student, found.virtual)
    real = None if test is None else read_test(test, found.task, found.shape)
    run = Run(RUNS / path.stem if folder is None else Path(folder), console)
    images = found.images()
    recording, held = divided(found, images)
    experiment = Experiment.open(recipe, run, splits_of(recording, held, real or held, path.stem))
    config, vals, tests, best = recipe.student, [], [], None
    with run:
        for seed in range(recipe.seeds):
            stage = student_stage(experiment, "pack", seed, pack=found.fingerprint)
            student = train_on(experiment, recording, seed, stage)
            vals.append(dict((stage.result or {})["val"]))
            tests += [] if real is None else [measure(student, real, experiment.engine)]
            best = student if _best(found.task, vals) == seed else best
        assert best is not None
        written = run.folder / "student.safetensors"
        seed = _best(found.task, vals)
        facts = {"pack": found.fingerprint, "seed": seed, "agreement": vals[seed]}
        save_model(written, best, config.network, found.task, facts)
    tested = 0 if real is None else len(real)
    return PackStudents(written, config.model, found.task, len(held), tuple(vals), tested, tuple(tests))


def _best(task: Task, metrics: Sequence[dict[str, float]]) -> int:
    """Position of the best of some students."""
    sign = 1 if task.higher_is_better else -1
    return max(range(len(metrics)), key=lambda place: sign * metrics[place][task.metric])


def _changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with settings that mean something for a pack.

    Raises:
        ConfigError: others.
    """
    for change in changes:
        name = change.partition("=")[0].strip()
        group, _, setting = name.partition(".")
        allowed = name in ("seeds", "seed", "device", "precision") or (group == "student" and setting not in OWN)
        require(allowed, f"--set {name} means nothing for a pack, which has no real image and no teacher; leave it out")
    return override(recipe, changes, "--set")
