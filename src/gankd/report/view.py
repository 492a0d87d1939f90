"""HTML pages from a report's data: numbers as text, positions, charts."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from gankd.bench.results import ArmResult, paired_values
from gankd.bench.stats import mean_stderr
from gankd.report import plots, tables
from gankd.report.answers import answers_section
from gankd.report.facts import (
    IMAGES_PER_GROUP,
    MAX_GROUPS,
    SCORED_IMAGES,
    SWEEP_COLUMNS,
    SWEEP_ROWS,
    Curve,
    ExportFacts,
    LabelFacts,
    LabelSweep,
    ModelFacts,
    RatioFacts,
    ReportData,
    ScoredImages,
)
from gankd.report.forest import Gain, GainRow, forest, percent
from gankd.report.grids import thumbnail_uri
from gankd.report.tables import headline
from gankd.report.virtual import virtual_section
from gankd.tasks import Task
from gankd.text import compact, duration, fixed, interval, signed, storage_size

CONTROL_COLOURS = ("blue", "orange", "purple")
"""Colours of the controls in their order, repeated where there are more; classes c0, c1, c2 of base.html."""


GAN_LOSSES = {"d_loss": "discriminator", "g_loss": "generator"}
"""Words for losses in the history of a generator."""


CURVE_TEXTS = {
    ("student", "loss"): "Seed 0 of each arm. Arms with other losses are on scales of their own.",
}
"""Captions of training curves, by role and value."""


def report_html(data: ReportData) -> str:
    """The page of one run."""
    return template("report.html").render(_context(data))


def index_html(reports: Sequence[tuple[ReportData, str]]) -> str:
    """The page that links to several runs, given as (run, address of its report)."""
    return template("index.html").render(
        runs=[_context(data) | {"href": href} for data, href in reports],
        title="gankd: distilled through generated images",
        seconds=sum(data.seconds for data, _ in reports),
        version=reports[0][0].version if reports else "",
        created=max((data.created for data, _ in reports), default=""),
        light=plots.LIGHT,
        dark=plots.DARK,
    )


@cache
def template(name: str) -> Template:
    """A page's template, with the filters that pages share."""
    environment = Environment(
        loader=PackageLoader("gankd.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": duration,
        "thumbnail": thumbnail_uri,
        "minus": lambda text: re.sub(r"(?<!\w)-(?=\d)", "−", str(text)),
        "thousands": lambda value: f"{value:,}",
    }
    return environment.get_template(name)


def _context(data: ReportData) -> dict[str, Any]:
    """Values of the template, by name."""
    places = tables.decimals(data.arms, data.task)
    return {
        "data": data,
        "task": data.task,
        "title": f"{data.recipe}: gankd report",
        "light": plots.LIGHT,
        "dark": plots.DARK,
        "metric_words": tables.METRIC_WORDS.get(data.task.metric, data.task.metric),
        "difference_unit": tables.difference_unit(data.task),
        "headline": headline(data.arms, data.task, data.choice) if data.arms else None,
        "tiles": _tiles(data, places),
        "controls": tables.control_titles(data.arms, data.choice),
        "explained": tables.EXPLAINED,
        "colours": len(CONTROL_COLOURS),
        "rows": _arm_rows(data, places),
        "forest": _forest(data, places),
        "by_output": _by_output(data),
        "matched": _matched(data),
        "classes": tables.classes_rows(data.arms, data.choice),
        "measures": tables.measures_rows(data.arms, data.task),
        "answers": answers_section(data),
        "over": data.arms[0].over if data.arms else "seed",
        "time_note": " ".join(tables.time_note(data.arms)),
        "length_note": " ".join(tables.length_note(data.arms, data.task)),
        "seeds": _seeds(data.arms),
        "ends": _ends(data.arms, places),
        "groups": _spread(data.groups, MAX_GROUPS),
        "images_per_group": IMAGES_PER_GROUP,
        "sweep": _sweep(data.sweep),
        "scored": [(some.title, some.kept, _scored(some)) for some in data.scored if len(some.images)],
        "left": _left(data.labels),
        "disagreement": _disagreement_words(data.task),
        "pixelated": _small_images(data),
        "selection_charts": _selection_charts(data),
        "virtual": virtual_section(data.virtual, data.task) if data.virtual else None,
        "training_charts": _generator_charts(data) + _network_charts(data),
        "exports": [_export(file, data.task, places) for file in data.exports],
        "models": [_model(model, data.task) for model in data.models],
        "data_chart": _data_chart(data),
        "config": json.dumps(data.config, indent=2, default=str),
    }


# --- result -------------------------------------------------------------------------------------------------


def _by_output(data: ReportData) -> dict[str, Any] | None:
    """Table of the errors of each output, a row per arm; None for labels of one value and for classes."""
    task = data.task
    if not task.parts or not data.arms:
        return None
    head = [f"{part}, {unit}" if (unit := task.unit_of(part)) else part for part in task.parts]
    rows = []
    for arm in data.arms:
        found = [mean_stderr(arm.values_of(part)) for part in task.parts]
        # Of one student there is no standard error.
        rows.append((arm.title, [f"{mean:.3g}" + f" ± {error:.1g}" * math.isfinite(error) for mean, error in found]))
    return {"head": head, "rows": rows}


def _seeds(arms: Sequence[ArmResult]) -> str:
    """Number of students of an arm, or its range; empty if no arm has more than one."""
    counts = [len(arm.seeds) for arm in arms]
    least, most = min(counts, default=0), max(counts, default=0)
    return "" if most < 2 else str(most) if least == most else f"{least} to {most}"


def _ends(arms: Sequence[ArmResult], places: int) -> str:
    """Values at the ends of the strip of single seeds."""
    values = [value for arm in arms for value in arm.values if math.isfinite(value)]
    return f"{fixed(min(values), places)} to {fixed(max(values), places)}" if values else ""


def _tiles(data: ReportData, places: int) -> list[dict[str, str]]:
    """The few numbers that readers look for first: of the controls, the hardest to beat at equal updates and of all."""
    tiles = []
    unit = data.task.metric_unit
    shown = [arm for arm in data.arms if arm.name == data.choice.method]
    controls = [arm for arm in data.arms if arm.role == "control" and arm.name != data.choice.method]
    if shown and shown[0].vs:
        method = shown[0]
        judged = [arm for arm in controls if arm.name in method.vs]
        equal = [arm for arm in judged if arm.updates == method.updates]
        hardest = [min(group, key=lambda arm: method.vs[arm.name].diff) for group in (equal, judged) if group]
        controls = [arm for arm in controls if arm in hardest]
    for arm in [*shown, *controls]:
        mean, _ = mean_stderr(arm.values)
        tiles.append({"name": f"Student: {arm.title}", "value": fixed(mean, places), "unit": unit})
    costs = {model.role: model for model in data.models}
    teacher, student = costs.get("teacher"), costs.get("student")
    if teacher and data.task.metric in teacher.metrics.get("test", {}):
        value = teacher.metrics["test"][data.task.metric]
        tiles.append({"name": "Teacher", "value": fixed(value, places), "unit": unit})
    if teacher and student and student.card.get("parameters"):
        times = teacher.card["parameters"] / student.card["parameters"]
        tiles.append({"name": "Fewer parameters", "value": f"{times:.3g}", "unit": "times"})
    if data.seconds:
        tiles.append({"name": "Time for everything", "value": duration(data.seconds), "unit": ""})
    return tiles


def _arm_rows(data: ReportData, places: int) -> list[dict[str, Any]]:
    values = [value for arm in data.arms for value in arm.values if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    rows = []
    for arm in data.arms:
        mean, error = mean_stderr(arm.values)
        rows.append(
            {
                "arm": arm,
                "role": _role(arm, data),
                "mean": fixed(mean, places),
                "error": "" if math.isnan(error) else fixed(error, places),
                "points": [percent(value, low, high) for value in arm.values if math.isfinite(value)],
                "mean_at": percent(mean, low, high) if math.isfinite(mean) else None,
                "each": ", ".join(
                    f"{arm.over} {seed}: {fixed(value, places)}"
                    for seed, value in zip(arm.seeds, arm.values, strict=True)
                ),
                "vs": {name: {"text": gain.text(places), "verdict": gain.verdict} for name, gain in arm.vs.items()},
            }
        )
    return rows


def _role(arm: ArmResult, data: ReportData) -> str:
    if arm.name == data.choice.method:
        return "chosen"
    return "control" if arm.role == "control" else ""


def _matched(data: ReportData) -> bool:
    """True if all arms with generated images get as many updates as each control, or fewer than one at equal time; of
    several lengths, if there are controls of each.
    """
    generated = {arm.updates for arm in data.arms if arm.generated}
    controls = {arm.updates for arm in data.arms if arm.role == "control"}
    longer = len(generated) == 1 and min(controls, default=0) >= max(generated)
    return not generated or longer or generated <= controls


def _forest(data: ReportData, places: int) -> dict[str, Any] | None:
    """Gains of every arm over its controls, with the paired difference of each seed."""
    by_name = {arm.name: arm for arm in data.arms}
    sign = 1 if data.task.higher_is_better else -1
    rows = []
    for arm in data.arms:
        if arm.role == "control" or not arm.vs:
            continue
        bars = []
        for name in tables.control_titles(data.arms, data.choice):
            if name in arm.vs:
                pairs = paired_values(arm, by_name[name]) if name in by_name else []
                bars.append(Gain(name, arm.vs[name], [sign * (value - other) for value, other in pairs]))
        rows.append(GainRow(arm.title, _role(arm, data), bars))
    return forest(rows, places)


# --- images -------------------------------------------------------------------------------------------------


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """Items evenly spread, `count` at most, first and last among them."""
    if len(items) <= count:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _sweep(sweep: LabelSweep | None) -> dict[str, Any] | None:
    if sweep is None or sweep.images.numel() == 0:
        return None
    columns = _spread(range(sweep.images.shape[1]), SWEEP_COLUMNS)
    return {
        "labels": [sweep.labels[column] for column in columns],
        "real": [] if sweep.real is None else [sweep.real[column] for column in columns],
        "rows": [[row[column] for column in columns] for row in sweep.images[:SWEEP_ROWS]],
    }


def _scored(scored: ScoredImages) -> list[dict[str, Any]]:
    items = []
    for index, image in enumerate(scored.images[:SCORED_IMAGES]):
        scores = []
        if len(scored.log_ratio):
            scores.append(("log ratio", signed(float(scored.log_ratio[index]))))
        if len(scored.chance):
            scores.append(("chance", f"{scored.chance[index]:.0%}".replace("%", " %")))
        if len(scored.disagreement):
            scores.append(("off by", f"{scored.disagreement[index]:.2g}"))
        if len(scored.cutoff) and scored.cutoff[index] is not None:
            scores.append(("limit", f"{scored.cutoff[index]:.2g}"))
        items.append({"image": image, "label": scored.labels[index], "scores": scores})
    return items


def _left(labels: LabelFacts | None) -> str:
    """Sentence on the number of images that each step left."""
    if labels is None or not labels.left:
        return ""
    pool, subsampled, filtered, used = (
        f"{labels.left[step]:,}" for step in ("generated", "accepted", "consistent", "kept")
    )
    rest = "" if used == filtered else f"; of these, {used} are used, as many as select.count asks for"
    return f"Of {pool} images, subsampling left {subsampled} and the filter {filtered}{rest}."


def _disagreement_words(task: Task) -> str:
    """Disagreement of the teacher in words, with its unit."""
    unit = getattr(task, "unit", "nats")
    return task.disagreement_name + (f", {unit}" if unit else "")


def _export(file: ExportFacts, task: Task, places: int) -> dict[str, str]:
    """Cells of the row of an exported file."""
    check, speedup = file.check, file.check["speedup"]
    return {
        "file": file.file.rpartition("/")[2],
        "student": file.student,
        "form": f"{file.form}, {'int8' if file.int8 else 'float32'}",
        "metric": interval(check["metrics"][task.metric], check["low"], check["high"], places, sign=False),
        "expected": fixed(check["expected"][task.metric], places),
        "difference": f"{check['difference']:.1e}",
        "size": storage_size(file.bytes / 1024),
        "speedup": "" if speedup is None else f"{speedup:.2f}",
    }


def _small_images(data: ReportData) -> bool:
    shape = data.data.shape if data.data else next((group.real.shape for group in data.groups), (64,))
    return max(shape[-2:]) <= 32


# --- charts -------------------------------------------------------------------------------------------------


def _chart(title: str, svg: str, text: str = "") -> dict[str, str]:
    return {"title": title, "svg": svg, "text": text}


def _selection_charts(data: ReportData) -> list[dict[str, str]]:
    charts = []
    if data.ratio:
        svg = plots.ratio_histogram(data.ratio.log_ratio_real, data.ratio.log_ratio_fake)
        charts.append(_chart("Density ratio", svg, _ratio_text(data.ratio)))
    if data.disagreement:
        cutoffs = data.disagreement.cutoffs
        label = _disagreement_words(data.task)
        svg = plots.disagreement_histogram(data.disagreement.real, data.disagreement.fake, cutoffs, label)
        text = "The filter drops images to the right of its limit, the solid line."
        if len(cutoffs) > plots.MAX_CUTOFF_LINES:
            text = "Each label group has a limit, and the filter drops images to the right of it. "
            text += "Band: from the smallest limit to the largest; line: their median."
        texts = [text if len(cutoffs) else "", _spread_text(data.labels)]
        charts.append(_chart("Teacher's disagreement", svg, " ".join(filter(None, texts))))
    if data.labels and data.labels.counts:
        svg = plots.group_chart("labels", data.labels.groups, data.labels.counts, "generated images")
        charts.append(_chart("Labels after each step", svg, _acceptance_text(data.labels)))
    return charts


def _ratio_text(facts: RatioFacts) -> str:
    sentences = ["Dotted line: as likely among generated images as among real ones."]
    if facts.auc is not None:
        sentences.append(
            f"Held-out AUC {facts.auc:.3f}: how often a real image gets a higher ratio than a generated one "
            "(0.5: they cannot be told apart)."
        )
    if facts.mean_ratio_fake is not None:
        sentences.append(f"Mean ratio on generated images {facts.mean_ratio_fake:.3g} (should be 1).")
    if facts.mean_ratio_real is not None:
        sentences.append(f"On real images {facts.mean_ratio_real:.3g}.")
    if facts.advice:
        sentences.append(f"{facts.advice[0].upper()}{facts.advice[1:].rstrip('.')}.")
    return " ".join(sentences)


def _spread_text(labels: LabelFacts | None) -> str:
    steps = {"generated": "of the pool", "accepted": "after subsampling", "consistent": "after the filter"}
    values = labels.teacher_stddev if labels else {}
    shown = [f"{values[name]:.4f} {words}" for name, words in steps.items() if values.get(name) is not None]
    words = (
        "T.stddev, how much the teacher's mean output varies between groups of images; lower is softer and more varied"
    )
    return f"{words}: {', '.join(shown)}." if shown else ""


def _acceptance_text(labels: LabelFacts) -> str:
    if not len(labels.acceptance):
        return ""
    shares = np.asarray(labels.acceptance, dtype=float)
    least, most = int(shares.argmin()), int(shares.argmax())
    return (
        f"Subsampling accepted {shares.mean():.0%} of the pool: fewest for {labels.groups[least]} "
        f"({shares[least]:.0%}), most for {labels.groups[most]} ({shares[most]:.0%})."
    ).replace("%", " %")


def _generator_charts(data: ReportData) -> list[dict[str, str]]:
    history, unit = data.generator_history, data.task.metric_unit
    health = {"teacher", "real_teacher", "variance_ratio", "frechet"}
    names = dict.fromkeys(name for line in history for name, value in line.items() if _is_number(value))
    lines = []
    for index, name in enumerate([name for name in names if name not in {*health, "step"}][: len(plots.SERIES)]):
        steps, values = _series(history, name)
        color, dash = plots.SERIES[index], plots.DASHES[index]
        lines.append(plots.Line(GAN_LOSSES.get(name, name.replace("_", " ")), steps, values, color, dash))
    charts = []
    if lines:
        text = "The two networks are trained against each other, so neither loss has to fall."
        charts.append(_chart("Generator: losses", plots.line_chart("gan", lines, "loss"), text))

    def health_chart(name: str, title: str, label: str, text: str, reference: float | None, logarithmic: bool) -> None:
        steps, values = _series(history, name)
        if values:
            svg = plots.line_chart(
                name,
                [plots.Line(title, steps, values, plots.FAKE)],
                label,
                reference=reference,
                logarithmic=logarithmic and min(values) > 0,
            )
            charts.append(_chart(title, svg, text))

    on_real = next((line["real_teacher"] for line in reversed(history) if "real_teacher" in line), None)
    text = "The teacher's metric on generated images, with their assigned labels as the truth"
    text += f"; dotted line: on real images ({on_real:.3g})." if on_real is not None else "."
    label = f"{data.task.metric}{f', {unit}' if unit else ''}"
    health_chart("teacher", "Generator: label fidelity", label, text, on_real, False)
    text = "Variance of images with the same label, generated divided by real; 1, the dotted line, means as varied."
    health_chart("variance_ratio", "Generator: diversity", "variance ratio", text, 1.0, False)
    text = "Fréchet distance: how far the distribution of the teacher's features on generated images is from that on "
    text += "real ones; smaller is closer, 0 is equal."
    health_chart("frechet", "Generator: distance to real images", "Fréchet distance", text, None, True)
    return charts


def _network_charts(data: ReportData) -> list[dict[str, str]]:
    """Loss and validation metric of teacher and students, with controls and the chosen arm emphasised."""
    charts = []
    unit = f", {data.task.metric_unit}" if data.task.metric_unit else ""
    panels = (("loss", "training loss"), (f"val_{data.task.metric}", f"validation {data.task.metric}{unit}"))
    for role, words in (("teacher", "Teacher"), ("student", "Students")):
        for key, label in panels:
            lines = []
            for curve in (curve for curve in data.curves if curve.role == role):
                steps, values = _series(curve.history, key)
                if len(values) >= 2:
                    color, dash, width = _curve_style(curve, data)
                    title = curve.title if color != plots.LIGHT["faint"] else "other arms"
                    lines.append(plots.Line(title, steps, values, color, dash, width))
            if lines:
                lines.sort(key=lambda line: line.width)  # thick ones last, on top of the many thin ones
                svg = plots.line_chart(f"{role}-{key}", lines, label, logarithmic=_spans_decades(lines))
                charts.append(_chart(f"{words}: {label.partition(',')[0]}", svg, CURVE_TEXTS.get((role, key), "")))
    return charts


def _curve_style(curve: Curve, data: ReportData) -> tuple[str, tuple[float, ...], float]:
    if curve.role == "teacher":
        index = [other for other in data.curves if other.role == "teacher"].index(curve)
        return plots.SERIES[index % len(plots.SERIES)], plots.DASHES[index % len(plots.DASHES)], 1.8
    if curve.arm == data.choice.method:
        return plots.LIGHT["green"], (), 2.4
    controls = [arm.name for arm in data.arms if arm.role == "control"]
    if curve.arm not in controls:
        return plots.LIGHT["faint"], (), 1.2
    place = controls.index(curve.arm)  # colours as in the key of the controls
    return plots.LIGHT[CONTROL_COLOURS[place % len(CONTROL_COLOURS)]], plots.DASHES[1 + place % 4], 2.1


def _spans_decades(lines: Sequence[plots.Line]) -> bool:
    values = [value for line in lines for value in line.values]
    return min(values) > 0 and max(values) / min(values) > 50


def _series(history: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    lines = [line for line in history if _is_number(line.get(name)) and _is_number(line.get("step"))]
    return [float(line["step"]) for line in lines], [float(line[name]) for line in lines]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _data_chart(data: ReportData) -> str:
    facts = data.data
    if facts is None or not len(facts.groups):
        return ""
    return plots.group_chart("train-labels", facts.groups, {"train": facts.train_counts}, "training images")


def _model(model: ModelFacts, task: Task) -> dict[str, Any]:
    card = model.card
    rows = [("Architecture", str(card.get("name", "")))]
    for key, words, show in (
        ("parameters", "Parameters", compact),
        ("macs", "Multiply-accumulates per image", compact),
        ("size_kib", "Weights as stored", storage_size),
        ("latency_ms", "Latency, one image, one CPU thread", lambda value: f"{value:.3g} ms"),
    ):
        if card.get(key) is not None:
            rows.append((words, show(card[key])))
    for split, metrics in model.metrics.items():
        for name, value in metrics.items():
            rows.append(
                (
                    f"{tables.METRIC_WORDS.get(name, name).capitalize()}, {split}",
                    f"{value:.4g} {task.unit_of(name)}".rstrip(),
                )
            )
    return {"role": model.role, "rows": rows}
