"""The report's section on errors: by label, confusions, calibration or intervals, and images with wrong answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from gankd.bench.answers import Answers, confusions
from gankd.report import plots
from gankd.report.facts import ModelFacts, ReportData
from gankd.tasks import Task
from gankd.text import fixed, number

MAX_CLASSES = 200
"""Largest number of classes of a confusion matrix; more would be finer than a pixel."""
CONFUSIONS = 6
"""Number of confusions in words."""

Chart = dict[str, str]


def answers_section(data: ReportData) -> dict[str, Any] | None:
    """Content of the template's section on errors, by name; None where no student is finished."""
    found = {str(model.role): model.answers for model in data.models if model.answers is not None}
    if "student" not in found:
        return None
    charts = [_by_label(found, data), *_confusion_charts(found, data), *_interval_charts(found, data)]
    return {
        "student": next(model.card["name"] for model in data.models if model.role == "student"),
        "charts": charts + _calibration_charts(found, data.models),
        "confusions": _confusions(found, data.task),
        "mistakes": data.mistakes,
    }


def _groups(data: ReportData) -> list[str]:
    return [data.task.group_name(group) for group in range(data.task.num_groups)]


def _by_label(found: Mapping[str, Answers], data: ReportData) -> Chart:
    unit = f", {data.task.metric_unit}" if data.task.metric_unit else ""
    label = f"{data.task.metric}{unit}" if found["student"].confusion is None else "wrong answers, %"
    series = {role: answers.by_group for role, answers in found.items()}
    svg = plots.group_chart("errors", _groups(data), series, label)
    return {"title": "Error by label", "svg": svg, "text": "Mean over the test images of each label group."}


def _confusion_charts(found: Mapping[str, Answers], data: ReportData) -> list[Chart]:
    counts, groups = found["student"].confusion, _groups(data)
    if counts is None or len(counts) > MAX_CLASSES:
        return []
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
    svg = plots.heat_map("confusion", shares, (0.01, 1.0), groups, groups, "answer", "Confusions of the student")
    text = "Rows: the true class; columns: the student's answer; the darker, the larger its share of the row."
    return [{"title": "Confusions", "svg": svg, "text": text}]


def _confusions(found: Mapping[str, Answers], task: Task) -> list[str]:
    """Most frequent confusions of the student in words, each with how often the teacher has it."""
    student, teacher, lines = found["student"], found.get("teacher"), []
    for true, answer, count in confusions(student, CONFUSIONS):
        assert student.confusion is not None
        own = int(student.confusion[true].sum())
        line = f"{task.group_name(true)} taken for {task.group_name(answer)}: {count} of {own} images"
        if teacher is not None and teacher.confusion is not None:
            line += f", by the teacher {int(teacher.confusion[true, answer])}"
        lines.append(line)
    return lines


def _calibration_charts(found: Mapping[str, Answers], models: Sequence[ModelFacts]) -> list[Chart]:
    series = {role: answers.reliability for role, answers in found.items() if answers.reliability is not None}
    if not series:
        return []
    words = [
        f"{model.role} {fixed(metrics['ece'])} % and {number(metrics['nll'])} nats"
        for model in models
        if {"ece", "nll"} <= (metrics := model.metrics.get("test", {})).keys()
    ]
    text = "Confidence is the probability of the answer; larger marks stand for more images. On the dotted line a "
    text += "network is as often right as it says; below it, it is too sure."
    if words:
        text += (
            " Mean distance to the line (ECE) and negative log-likelihood of the true class (NLL), smaller is better: "
        )
        text += f"{'; '.join(words)}."
    return [{"title": "Calibration", "svg": plots.reliability_chart("calibration", series), "text": text}]


def _interval_charts(found: Mapping[str, Answers], data: ReportData) -> list[Chart]:
    series = {role: answers.missed for role, answers in found.items() if answers.missed is not None}
    if not series:
        return []
    svg = plots.group_chart("missed", _groups(data), series, "labels outside, %")
    unit, words = f" {data.task.metric_unit}".rstrip(), []
    for role, answers in found.items():
        if answers.limit is not None and answers.missed_in_all is not None:
            words.append(f"{role} ± {number(answers.limit)}{unit}, {fixed(answers.missed_in_all, 1)} % outside")
    text = "An interval around each value, as wide as validation images ask for, should hold 95 % of new labels: "
    return [{"title": "Labels outside the 95 % interval", "svg": svg, "text": f"{text}{'; '.join(words)}."}]
