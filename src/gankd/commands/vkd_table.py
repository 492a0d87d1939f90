"""`gankd vkd table`: the ablations of virtual knowledge distillation on one recipe, on a page with all recipes so far.

Every source of targets gets its form and weight on validation images, with seeds of its own; variants that differ
from the virtual teacher in one thing use its form and weight. Then all are trained again and measured on test
images, at equal updates.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gankd.bench.compare import compare
from gankd.bench.results import Comparison, plain
from gankd.bench.stats import Interval
from gankd.commands.stages import check_arms, started
from gankd.commands.vkd import CONTROL, for_classes
from gankd.console import Console
from gankd.errors import CheckpointError
from gankd.recipes.arms import Arm
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.config import Recipe
from gankd.recipes.experiment import Experiment
from gankd.recipes.virtual import inspected, virtual_temperature
from gankd.recipes.workers import Workers
from gankd.report.gather import machine_facts
from gankd.storage import read_json, write_hashed_json, write_results_page
from gankd.text import Form, Table, duration
from gankd.virtual import NAME

TUNING_SEEDS = (100, 101)
"""Seeds of the students on which weights are chosen; the table has others."""
WEIGHTS = (0.3, 0.6, 0.9)
FORMS = {"soft1": "SoftTargets", "kd": "KD"}
"""The student at temperature 1, or softened like its target with the factor T^2."""

SOURCES = {
    "KD (real teacher)": "teacher",
    "table": "table",
    "virtual": "virtual",
    "bank": "bank",
    "Gaussian": "gauss",
    "even, as soft as the table": "smooth",
    "Tf-KD": "tf",
    "best of 8": 'virtual(draws=8, policy="best")',
    "best of 32": 'virtual(draws=32, policy="best")',
    "rank of 16": 'virtual(draws=16, policy="rank")',
    "hint, 16 draws": 'virtual(draws=16, policy="hint")',
}
"""Target sources by title; each has its own form and weight."""
VARIANTS = {
    "no noise": 'virtual(policy="zero")',
    "one noise per image": 'virtual(policy="fixed")',
    "new noise every pass": 'virtual(policy="epoch")',
    "mean of 4": "virtual(draws=4)",
    "mean of 16": "virtual(draws=16)",
    "wrong classes shuffled": "virtual(shuffle=True)",
}
"""Variants of the virtual teacher that differ in one thing, with its form and weight."""
SMOOTHING = (0.05, 0.1, 0.2, 0.4)
SET_WEIGHTS = (0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Contrast:
    """A question of the reference, and the two rows that answer it."""

    code: str
    question: str
    first: str
    second: str


CONTRASTS = (
    Contrast("A1", "does the noise matter beyond the table?", "virtual", "table"),
    Contrast("A2", "does the order of classes matter, at equal softness?", "virtual", "even, as soft as the table"),
    Contrast("A2", "is it more than label smoothing?", "virtual", "label smoothing"),
    Contrast("A4", "is the draw without noise as good?", "no noise", "virtual"),
    Contrast("A5", "one noise per image for ever", "one noise per image", "virtual"),
    Contrast("A5", "new noise every pass", "new noise every pass", "virtual"),
    Contrast("A5", "less noise: the mean of 4", "mean of 4", "virtual"),
    Contrast("A5", "less noise: the mean of 16", "mean of 16", "virtual"),
    Contrast("A7", "are draws as good as stored outputs?", "virtual", "bank"),
    Contrast("A7", "is a GAN needed, or does a Gaussian do?", "virtual", "Gaussian"),
    Contrast("A8", "is it which wrong classes?", "wrong classes shuffled", "virtual"),
    Contrast("A9", "against the real teacher", "virtual", "KD (real teacher)"),
    Contrast("A9", "added to the real teacher, equal weight in all", "KD + virtual", "KD (real teacher)"),
    Contrast("A9", "its share in that: the table added instead", "KD + virtual", "KD + table"),
    Contrast("A12", "best of 8 draws, against the table", "best of 8", "table"),
    Contrast("A12", "best of 32 draws, against the table", "best of 32", "table"),
    Contrast("A12", "rank-paired draws, against the table", "rank of 16", "table"),
    Contrast("A12", "draws by a hint of the image, against the table", "hint, 16 draws", "table"),
    Contrast("A12", "sets matched, against the table", "sets matched", "table"),
)


@dataclass(frozen=True)
class VkdTable:
    """The ablations on one recipe, and the page of all recipes that it joins."""

    facts: dict[str, Any]
    comparison: Comparison

    @property
    def text(self) -> str:
        """Plain text."""
        return "\n".join([self.comparison.text, "", *contrast_lines(self.facts)])

    def table_as(self, form: Form) -> str:
        """Every source against the controls."""
        return self.comparison.table.rendered(form)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return self.facts


def vkd_table(
    recipe: Recipe,
    folder: Path | str,
    *,
    page: Path | str | None = None,
    workers: int | Workers = 1,
    console: Console | None = None,
) -> VkdTable:
    """Tune, train and measure every source on one recipe for classes.

    Args:
        recipe: settings; `recipe.seeds` students per row.
        folder: run folder; finished students are reused.
        page: Markdown page to write; a JSON file beside it keeps the recipes that were measured before.
        workers: number of students trained side by side here, or workers on other machines.
        console: where progress is shown.

    Raises:
        GankdError: with one line that says what to do.
    """
    seeds = range(recipe.seeds)
    with started(recipe, Path(folder), console, by="vkd table") as experiment:
        task = experiment.splits.task
        for_classes(task, "table")
        chosen, tried = _tune(experiment, workers)
        arms = _final_arms(virtual_temperature(experiment), chosen)
        check_arms(experiment, arms)
        stages = cgan_kd(experiment, arms, seeds, workers=workers)
        found = compare(experiment, arms, seeds)
        gates = inspected(experiment)
        facts = {
            "name": NAME,
            "recipe": recipe.name,
            "data": {"name": experiment.splits.name, "train": len(experiment.splits.train), "classes": task.head_size},
            "teacher": {"model": recipe.teacher.model, **(stages.teacher.result or {}).get("val", {})},
            "student": recipe.student.model,
            "gates": _without_matrices(gates.to_dict()),
            "chosen": {title: loss for title, (loss, _) in chosen.items()},
            "tried": tried,
            "table": found.to_dict(),
            "contrasts": [{**vars(each), "gain": plain(found.gain(each.first, each.second))} for each in CONTRASTS],
            "seconds": sum(stage.seconds for stage in stages.shared)
            + sum(result.seconds * len(result.seeds) for result in found.arms)
            + sum(one["seconds"] for one in tried),
            "machine": machine_facts(),
        }
    if page is not None:
        put_on_page(Path(page), facts, found)
    return VkdTable(facts, found)


# --- tuning -------------------------------------------------------------------------------------------------


def _expression(form: str, weight: float, temperature: float, source: str) -> str:
    return f"{1 - weight:g}*Label + {weight:g}*{FORMS[form]}(T={temperature:g})@{source}"


def _tune(experiment: Experiment, workers: int | Workers) -> tuple[dict[str, tuple[str, Any]], list[dict[str, Any]]]:
    """Best loss of each source on validation images, with form and weight, and all that were tried."""
    temperature = virtual_temperature(experiment)
    grid: list[tuple[str, str, tuple[str, float] | None]] = [
        (title, _expression(form, weight, temperature, source), (form, weight))
        for title, source in SOURCES.items()
        for form in FORMS
        for weight in WEIGHTS
    ]
    grid += [("label smoothing", f"LS(epsilon={epsilon:g})", None) for epsilon in SMOOTHING]
    grid += [
        ("sets matched", f"Label + {weight:g}*SetMatch(T={temperature:g})@virtual(draws=1)", None)
        for weight in SET_WEIGHTS
    ]
    arms = [Arm(name=f"{title}: {loss}", loss=loss) for title, loss, _ in grid]
    check_arms(experiment, arms)
    cgan_kd(experiment, arms, TUNING_SEEDS, workers=workers)
    found = compare(experiment, arms, TUNING_SEEDS, "val")
    best: dict[str, tuple[tuple[float, float], str, Any]] = {}
    tried = []
    for (title, loss, form), result in zip(grid, found.arms, strict=True):
        score, nll = (sum(values) / len(values) for values in (result.values, result.values_of("nll")))
        seconds = result.seconds * len(result.seeds)
        tried.append({"source": title, "loss": loss, "validation": score, "nll": nll, "seconds": seconds})
        if title not in best or (score, -nll) > best[title][0]:
            best[title] = (score, -nll), loss, form
    return {title: (loss, form) for title, (_, loss, form) in best.items()}, tried


def _final_arms(temperature: float, chosen: dict[str, tuple[str, Any]]) -> list[Arm]:
    losses = {title: loss for title, (loss, _) in chosen.items()}
    form, weight = chosen["virtual"][1]
    losses |= {title: _expression(form, weight, temperature, source) for title, source in VARIANTS.items()}
    form, weight = chosen["KD (real teacher)"][1]
    for title, source in {"KD + virtual": "virtual", "KD + table": "table"}.items():
        name = f"{FORMS[form]}(T={temperature:g})"
        mixed = f"{1 - weight:g}*Label + {0.7 * weight:g}*{name}@teacher + {0.3 * weight:g}*{name}@{source}"
        losses[title] = mixed
    arms = [
        Arm(name=title, loss=loss, role="control" if title == "table" else "step") for title, loss in losses.items()
    ]
    return [CONTROL, *arms]


# --- the page -----------------------------------------------------------------------------------------------


def contrast_lines(facts: dict[str, Any]) -> list[str]:
    """One line per question, with the answer that its interval gives."""
    lines = []
    for each in facts["contrasts"]:
        interval = _interval(each["gain"])
        lines.append(
            f"{each['code']:<4} {each['first']} - {each['second']}: {interval.text()} {interval.verdict} "
            f"({each['question']})"
        )
    return lines


def _without_matrices(value: Any) -> Any:
    """Plain data of gates without what only a picture needs."""
    if not isinstance(value, dict):
        return value
    return {name: _without_matrices(item) for name, item in value.items() if name != "facts"}


def _interval(stored: dict[str, float | None]) -> Interval:
    """Inverse of `plain`."""
    return Interval(**{name: math.nan if value is None else value for name, value in stored.items()})


def put_on_page(page: Path, facts: dict[str, Any], found: Comparison) -> None:
    """Put one recipe's results on the page; those of other recipes, and the notes, stay.

    Raises:
        CheckpointError: the JSON file beside the page is damaged.
    """
    data = page.with_suffix(".json")
    stored = read_json(data) if data.is_file() else {}
    if not isinstance(stored, dict):
        raise CheckpointError(f"{data} holds no results of gankd vkd table; move it away")
    stored[facts["recipe"]] = facts | {"markdown": found.markdown}
    write_hashed_json(data, stored)
    lines = [
        f"# {NAME}: what it carries, and what it is worth",
        "",
        "Written by `make vkd`, except for the notes at the end. Every source of targets has its form (`soft1`: the "
        "student at temperature 1; `kd`: softened like its target, times T^2) and its weight from validation images, "
        f"with seeds {' and '.join(map(str, TUNING_SEEDS))}; variants of the virtual teacher take over its form and "
        "weight. Gates are distances to the outputs of the teacher, each with a limit. Test images, last update, equal "
        "updates (steps of the optimiser), differences paired by seed with Student's 95 % interval; + is better.",
    ]
    for each in stored.values():
        lines += _section(each)
    write_results_page(page, "\n".join(lines))


def _section(facts: dict[str, Any]) -> list[str]:
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    gates = facts["gates"]
    missed = [gate["title"] for gate in gates["virtual"]["gates"] if not gate["passed"]]
    count = len(gates["virtual"]["gates"])
    seeds = len(facts["table"]["rows"][0]["metrics"])
    lines = [
        "",
        f"## {facts['recipe']}",
        "",
        f"{facts['data']['classes']} classes, {facts['data']['train']} training images; teacher "
        f"{facts['teacher']['model']} ({facts['teacher']['top1']:.1f} % on validation images), student "
        f"{facts['student']}, {seeds} seeds. Generator: {gates['parameters']:,} parameters, {gates['kilobytes']:.0f} "
        f"KB; {count - len(missed)} of {count} gates passed{' (not: ' + ', '.join(missed) + ')' if missed else ''}. "
        f"Machine: {machine}. Computing time, one thread each: {duration(facts['seconds'])}.",
        "",
        facts["markdown"],
        "",
    ]
    rows = []
    for each in facts["contrasts"]:
        gain = _interval(each["gain"])
        contrast = f"{each['first']} − {each['second']}"
        rows.append([each["code"], each["question"], contrast, gain.text(), gain.verdict])
    lines.append(Table(["", "question", "contrast", "difference", "reading"], rows, align="lllrl").markdown())
    chosen = [[title, f"`{loss}`"] for title, loss in facts["chosen"].items()]
    return [*lines, "", Table(["source", "loss chosen on validation images"], chosen, align="ll").markdown()]
