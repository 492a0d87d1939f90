"""`gankd results`: the evidence on real images as one page, with control tables, oracles, samples and curves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gankd.bench.compare import compare, student_of
from gankd.bench.results import ArmResult, Choice
from gankd.bench.stats import Interval, holm, interval_p
from gankd.commands.stages import RunResult, opened, run
from gankd.config import require, suggest
from gankd.console import Console
from gankd.data.images import LabelledImages
from gankd.models.contract import ImageModel, evaluate, predict
from gankd.recipes.arms import DEFAULT_ARMS, Arm, arm_named, controls_of, default_arms, methods_of
from gankd.recipes.cgan_kd import arm_images, cgan_kd
from gankd.recipes.config import Recipe
from gankd.recipes.data import load_splits
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import make_generator, make_ratio_features, open_pool, sample_images
from gankd.recipes.real import REAL
from gankd.recipes.stages import Stages, declare
from gankd.recipes.teacher import make_teacher
from gankd.report.gather import machine_facts
from gankd.report.grids import image_grid
from gankd.report.tables import (
    EXPLAINED,
    decimals,
    evidence_rows,
    length_note,
    markdown_table,
    time_note,
    value_decimals,
)
from gankd.seeds import rng
from gankd.storage import atomic, read_json, write_hashed_json, write_results_page
from gankd.tasks import Classification
from gankd.text import Table, duration, fixed

CONTROLS, METHODS = controls_of(DEFAULT_ARMS.values()), methods_of(DEFAULT_ARMS.values())
STUDENTS = ("cnn16", "resnet8")
"""Students of two families: plain and residual."""
ORACLE = {
    "raw": "held-out images, true labels",
    "adjusted": "held-out images, teacher's labels",
    "adjusted_kd": "held-out images, teacher's labels, + KD",
}
"""Titles of arms in which real images that nobody trained on replace the generated ones."""
GRID_COLUMNS, GRID_ROWS = 10, 6
WITNESSED = 5000
"""Generated images on which the witness is asked."""


@dataclass(frozen=True)
class SetResults:
    """One set: the table of each student, the oracle, and facts of teacher and generator."""

    name: str
    students: tuple[str, ...]
    runs: tuple[RunResult, ...]
    """Results of each student."""
    oracle: tuple[ArmResult, ...]
    """Results of the first student; empty if no real images are left over."""
    facts: dict[str, Any]
    seconds: float
    """Computing time of all stages."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Plain data: one row per arm and control."""
        rows = []
        for student, result in zip(self.students, self.runs, strict=True):
            for row in evidence_rows(result.arms, result.task, self.name):
                rows.append({"student": student, **row})
        for row in evidence_rows(self.oracle, self.runs[0].task, self.name):
            if row["arm"] in ORACLE:
                rows.append({"student": self.students[0], **row, "arm": f"oracle {row['arm']}"})
        return rows


@dataclass(frozen=True)
class Results:
    """All sets, and the page that shows them."""

    sets: tuple[SetResults, ...]
    page: Path

    @property
    def text(self) -> str:
        """One line per set, student and whole method."""
        lines: list[list[str]] = []
        for found in self.sets:
            for student, result in zip(found.students, found.runs, strict=True):
                lines += [[found.name, student, *cells] for cells in _verdicts(result)]
        head = ["set", "student", "trained on", "against", "gain", "verdict"]
        return f"{Table(head, lines, align='llllrl').plain()}\npage: {self.page}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"rows": [row for found in self.sets for row in found.rows], "page": str(self.page)}


def results(
    data: Path | str,
    out: Path | str,
    docs: Path | str,
    *,
    names: Sequence[str] | None = None,
    students: Sequence[str] = STUDENTS,
    seeds: int = 3,
    workers: int = 1,
    console: Console | None = None,
) -> Results:
    """Run the recipes on real images with two students each; write docs/results.md, .json and pictures.

    Args:
        data: folder with the files that the recipes read (`file_of`): arrays images, label and split.
        out: run folders; finished stages are reused.
        docs: where the page goes; sets that are not run now stay on the page.
        names: recipes; default: all.
        students: zoo names or module:name; the first also learns from the oracle's images.
        seeds: students per arm.
        workers: students trained side by side.
        console: shows progress.

    Raises:
        GankdError: with one line that says what to do.
    """
    data, out, docs = Path(data), Path(out), Path(docs)
    chosen = list(dict.fromkeys(names or REAL))
    for name in chosen:
        require(name in REAL, f"no recipe {name!r} on real images; {suggest(name, REAL)}")
        file = file_of(name)
        require((data / file).is_file(), f"no {file} in {data}; it must contain images, label and split")
    networks = tuple(dict.fromkeys(students))
    require(bool(networks), "results needs at least one student, got none")
    found = []
    for name in chosen:
        recipe = replace(REAL[name](), seeds=seeds)
        recipe = replace(recipe, data=replace(recipe.data, root=str((data / file_of(name)).resolve())))
        found.append(_one_set(recipe, networks, out / name, docs / "results", workers, console or Console("quiet")))
    page = docs / "results.md"
    _write(page, found)
    return Results(tuple(found), page)


def file_of(name: str) -> str:
    """File that a recipe reads: cifar.npz for cifar-scarce and cifar-10k."""
    return f"{name.partition('-')[0]}.npz"


def _one_set(
    recipe: Recipe, students: Sequence[str], folder: Path, pictures: Path, workers: int, console: Console
) -> SetResults:
    runs = []
    for student in students:
        console.say(f"== {recipe.name}, {student}")
        runs.append(run(_with_student(recipe, student), folder, workers=workers, console=console))
    first = _with_student(recipe, students[0])
    with opened(first, folder) as experiment:
        arms, seeds = default_arms(first), range(first.seeds)
        stages = declare(experiment, arms)
        facts = _facts(experiment, stages) | {"controls on training images": {}}
        pictures.mkdir(parents=True, exist_ok=True)
        _samples(experiment, stages).save(pictures / f"{recipe.name}-samples.png")
        _curves(experiment, stages, pictures / f"{recipe.name}-curves.png")
        seconds = stages.seconds
    for student in students:
        with opened(_with_student(recipe, student), folder) as experiment:
            found = declare(experiment, default_arms(experiment.recipe), seeds)
            seconds += sum(stage.seconds for stage in found.students.values())
            facts["controls on training images"][student] = _on_training_images(experiment, found)
    return SetResults(
        recipe.name, tuple(students), tuple(runs), _oracle(first, folder, workers, console), facts, seconds
    )


def _with_student(recipe: Recipe, student: str) -> Recipe:
    return replace(recipe, student=replace(recipe.student, model=student))


# --- oracle -------------------------------------------------------------------------------------------------


def _oracle(recipe: Recipe, folder: Path, workers: int, console: Console) -> tuple[ArmResult, ...]:
    """Students on unused real images instead of generated ones, as a perfect generator would give.

    There are unused real images where the recipe thins its training split.
    """
    everything, splits = load_splits(replace(recipe.data, num_train=None)).train, load_splits(recipe.data)
    held = left_over(everything, splits.train, splits.val, splits.test)
    if held is None:
        return ()
    task = splits.task
    file = folder / f"held-out-{held.fingerprint()[:8]}.npz"  # of other settings, other images are held out
    if not file.is_file():
        with atomic(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, images=held.images.numpy(), label=task.written(held.labels))
    console.say(f"== {recipe.name}, oracle: {len(held)} held-out images")
    perfect = replace(
        recipe,
        gan=replace(recipe.gan, external=str(file.resolve())),
        ratio=replace(recipe.ratio, features="teacher"),  # nothing is subsampled: no network of its own for that
        synth=replace(recipe.synth, pool=len(held), labels="empirical", fresh=False),
        select=replace(
            recipe.select, subsample="none", filter="none", count=min(recipe.select.count or len(held), len(held))
        ),
    )
    arms, seeds = oracle_arms(perfect), range(perfect.seeds)
    with opened(perfect, folder, console) as experiment:
        cgan_kd(experiment, arms, seeds, workers=workers)
        return compare(experiment, arms, seeds).arms


def oracle_arms(recipe: Recipe) -> list[Arm]:
    """The controls, and arms in which held-out real images take the place of generated ones."""
    arms = {arm.name: arm for arm in default_arms(recipe)}
    own = [replace(arms[name], title=title) for name, title in ORACLE.items()]
    return [*(arm for arm in arms.values() if arm.role == "control" and not arm.timed), *own]


def left_over(everything: LabelledImages, *used: LabelledImages) -> LabelledImages | None:
    """The images of `everything` that are in none of the others, by their pixels; None if there are none."""
    known = {image.numpy().tobytes() for part in used for image in part.images}
    free = torch.tensor([image.numpy().tobytes() not in known for image in everything.images])
    return everything.subset(free) if free.any() else None


# --- facts and pictures -------------------------------------------------------------------------------------


def _facts(experiment: Experiment, stages: Stages) -> dict[str, Any]:
    """Quality of teacher, generator, density ratio and selection."""
    splits, recipe = experiment.splits, experiment.recipe
    teacher = make_teacher(experiment, recipe.teacher, stages.teacher)
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    selection = arm_images(experiment, arm_named(recipe, "adjusted"), stages)
    return {
        "images": {part: len(images) for part, images in parts.items()},
        "card": splits.card,
        "teacher": {
            part: evaluate(teacher, images, experiment.engine)[splits.task.metric] for part, images in parts.items()
        },
        "generator": {**stages.gan.history[-1], "seconds": stages.gan.seconds},
        "ratio": {"features": recipe.ratio.features, "auc": (stages.ratio.result or {})["auc"]},
        "kept": selection.report["counts"],
        "agreement": _agreement(experiment, stages, teacher),
        "machine": machine_facts(),
    }


def _on_training_images(experiment: Experiment, stages: Stages) -> dict[str, float]:
    """Mean metric of each control on its own training images.

    Its distance to the metric on test images is the most that further images of this kind could give.
    """
    train, seeds = experiment.splits.train, range(experiment.recipe.seeds)
    means = {}
    for arm in default_arms(experiment.recipe):
        if arm.role == "control" and not arm.timed:
            students = [student_of(experiment, arm, seed, stages) for seed in seeds]
            found = [evaluate(student, train, experiment.engine)[train.task.metric] for student in students]
            means[arm.name] = sum(found) / len(found)
    return means


def _agreement(experiment: Experiment, stages: Stages, teacher: ImageModel) -> list[dict[str, Any]]:
    """Metric of two networks per label group, on generated images and on validation images of that label.

    The generator may have been optimised against the teacher. The other network, in whose features the density ratio
    compares images, never trained it.
    """
    task, val, recipe = experiment.splits.task, experiment.splits.val, experiment.recipe
    pool, engine = open_pool(experiment, stages.synth), experiment.engine
    labels, real_labels = pool.labels, val.labels.cpu()
    chosen = torch.randperm(len(pool), generator=rng(recipe.seed, "results witness"))[:WITNESSED]
    judges = {"teacher": (labels, pool.teacher_outputs().float(), predict(teacher, val.images, engine).cpu())}
    if recipe.ratio.features != "teacher":
        witness = make_ratio_features(experiment, teacher, recipe.ratio, recipe.teacher, stages.ratio)
        judges["witness"] = (labels[chosen], witness.outputs(pool.images(chosen)), witness.outputs(val.images))
    rows = []
    for group in range(task.num_groups):
        row: dict[str, Any] = {"label": task.group_name(group)}
        for name, (asked, on_fakes, on_real) in judges.items():
            fakes, real = task.groups(asked) == group, task.groups(real_labels) == group
            if fakes.any() and real.any():
                row[f"{name}_generated"] = task.metrics(on_fakes[fakes], asked[fakes])[task.metric]
                row[f"{name}_held_out"] = task.metrics(on_real[real], real_labels[real])[task.metric]
        rows.append(row)
    return [row for row in rows if len(row) == 1 + 2 * len(judges)]


def _samples(experiment: Experiment, stages: Stages) -> Any:
    """Grid of generated images: a row per label (of many, some); of values, a column per value from low to high."""
    splits, task, recipe = experiment.splits, experiment.splits.task, experiment.recipe
    teacher = make_teacher(experiment, recipe.teacher, stages.teacher)
    generator = make_generator(experiment, teacher, recipe.gan, stages.gan)
    values = task.sweep(GRID_COLUMNS)
    if values is None:
        groups = torch.linspace(0, task.num_groups - 1, min(GRID_ROWS, task.num_groups)).round().long()
        real = splits.train.labels.cpu()
        first = [(task.groups(real) == group).nonzero()[:1, 0] for group in groups]
        labels = real[torch.cat(first)].repeat_interleave(GRID_COLUMNS, 0)
        images = sample_images(generator, labels, recipe.seed, "results samples")
    else:
        images = generator.sweep(values, GRID_ROWS, generator=rng(recipe.seed, "results samples"))
        images = images.flatten(0, 1).cpu()
    return image_grid(images, GRID_COLUMNS, scale=2)


def _curves(experiment: Experiment, stages: Stages, path: Path) -> None:
    """Plot of the generator's health checks during its training."""
    from matplotlib.figure import Figure  # half a second to import

    checks = [line for line in stages.gan.history if "frechet" in line]
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, name, label in (
        (left, "frechet", "Fréchet distance"),
        (right, "teacher", f"teacher on them: {experiment.splits.task.metric}"),
    ):
        axes.plot([line["step"] for line in checks], [line[name] for line in checks], marker="o")
        axes.set_xlabel("generator updates")
        axes.set_ylabel(label)
    if "real_teacher" in checks[-1]:
        right.axhline(checks[-1]["real_teacher"], color="grey", linestyle="--")
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


# --- page ---------------------------------------------------------------------------------------------------


def _verdicts(result: RunResult) -> list[list[str]]:
    """Cells for each whole method against each control: titles, gain, verdict."""
    places = decimals(result.arms, result.task)
    titles = {arm.name: arm.title for arm in result.arms}
    return [
        [arm.title, titles[control], gain.text(places), gain.verdict]
        for arm in result.arms
        if arm.role == "method"
        for control, gain in arm.vs.items()
    ]


def _write(page: Path, found: Sequence[SetResults]) -> None:
    """Write the page and its data; sets that were not run now, and the notes, stay."""
    store = page.with_suffix(".json")
    stored = read_json(store) if store.is_file() else {}
    sections = {**stored.get("sections", {}), **{one.name: _section(one) for one in found}}
    rows = [row for row in stored.get("rows", []) if row["recipe"] not in {one.name for one in found}]
    facts = {**stored.get("facts", {}), **{one.name: one.facts for one in found}}
    rows += [row for one in found for row in one.rows]
    write_hashed_json(store, {"rows": rows, "facts": facts, "sections": sections})
    lines = [
        "# Results on real images",
        "",
        "Written by `make results DATA=FOLDER`, except for the notes at the end. Settings were chosen on validation "
        "images; the tables are of test images, each student at its last update. Differences are paired by seed, with "
        "Student's 95 % interval; positive is better. Seeds vary only the student; teacher, generator and pool (all "
        "generated images) are shared.",
        "",
        EXPLAINED,
        "",
        *_summary(rows),
        *(sections[name] for name in REAL if name in sections),
    ]
    write_results_page(page, "\n".join(lines))


def _summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The whole methods against both controls, with one correction for all comparisons that are shown."""
    shown = [row for row in rows if row["recipe"] in REAL and row["arm"] in METHODS and row["control"] in CONTROLS]
    shown.sort(key=lambda row: list(REAL).index(row["recipe"]))
    gains = [Interval(row["diff"], *(_or_nan(row[end]) for end in ("ci_low", "ci_high"))) for row in shown]
    adjusted = holm([interval_p(gain, len(row["seeds"])) for gain, row in zip(gains, shown, strict=True)])
    lines: dict[tuple[str, ...], list[str]] = {}
    for row, gain, p in zip(shown, gains, adjusted, strict=True):
        places = 2 if row["task"] == Classification.kind else value_decimals(row["control_mean"])
        key = (row["recipe"], row["student"], DEFAULT_ARMS[row["arm"]].title)
        cells = lines.setdefault(key, [fixed(row["mean"], places), str(len(row["seeds"]))])
        cells += [fixed(row["control_mean"], places), gain.text(places)]
        cells.append("-" if math.isnan(p) else f"{p:.2g}")
    heads = ["set", "student", "trained on", "mean", "seeds"]
    heads += [head for name in CONTROLS for head in (DEFAULT_ARMS[name].title, "gain", "p")]
    return [
        "## All sets",
        "",
        "Accuracy in % for classes, mean absolute error for values. p is Student's, corrected for all "
        f"{sum(not math.isnan(p) for p in adjusted)} comparisons of this table (Holm); intervals are not corrected.",
        "",
        Table(heads, [[*key, *cells] for key, cells in lines.items()], align="lll" + "r" * (len(heads) - 3)).markdown(),
    ]


def _or_nan(bound: float | None) -> float:
    return math.nan if bound is None else bound


def _section(one: SetResults) -> str:
    facts, task = one.facts, one.runs[0].task
    images, teacher, generator = facts["images"], facts["teacher"], facts["generator"]
    unit = f"{task.metric} {task.metric_unit}".strip()
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    ratio = ", ".join(f"{name} {_short(value)}" for name, value in facts["ratio"].items())
    kept = ", ".join(f"{name} {count:,}" for name, count in facts["kept"].items())
    lines = [
        "",
        f"## {one.name}",
        "",
        f"{images['train']:,} training, {images['val']:,} validation and {images['test']:,} test images. "
        f"Computing time of all stages: {duration(one.seconds)}, on {machine}.",
        "",
        f"Teacher, {unit}: " + ", ".join(f"{part} {value:.3g}" for part, value in teacher.items()) + ".",
        f"Generator: {generator['step']:,} updates in {duration(generator['seconds'])}; teacher against its labels "
        f"{generator['teacher']:.3g} (training images {generator['real_teacher']:.3g}), Fréchet distance in the "
        f"teacher's features {generator['frechet']:.3g}, spread within a label "
        f"{generator['variance_ratio']:.2f} of the real one.",
        f"Density ratio: {ratio}. Pool: {kept}.",
        "",
        f"![Generated images](results/{one.name}-samples.png)",
        "",
        f"![Generator by update](results/{one.name}-curves.png)",
    ]
    for student, result in zip(one.students, one.runs, strict=True):
        known = ", ".join(
            f"{DEFAULT_ARMS[name].title} {value:.3g}"
            for name, value in facts["controls on training images"][student].items()
        )
        lines += ["", f"### Student {student}", "", result.headline, f"On training images: {known}."]
        lines += [
            "",
            markdown_table(result.arms, task, result.choice),
            *(f"\n{note}." for note in (*time_note(result.arms), *length_note(result.arms, result.task))),
        ]
    if one.oracle:
        text = f"### Oracle, student {one.students[0]}: unused real images instead of generated ones"
        lines += ["", text, "", markdown_table(one.oracle, task, Choice())]
    lines += ["", _agreement_table(facts["agreement"], unit)]
    return "\n".join(lines)


def _agreement_table(rows: Sequence[dict[str, Any]], unit: str) -> str:
    """Metric of each network per label, on generated and on validation images."""
    judges = [name for name in ("teacher", "witness") if f"{name}_generated" in rows[0]]
    caption = (
        f"Networks against the label ({unit}), per label, on generated | validation images. The witness is the "
        "density ratio's own network, which never trained the generator."
    )
    cells = [
        [str(row["label"]), *(f"{row[f'{name}_generated']:.3g} | {row[f'{name}_held_out']:.3g}" for name in judges)]
        for row in rows
    ]
    return Table(["label", *judges], cells, caption=caption).markdown()


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
