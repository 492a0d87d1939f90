"""Arms of an experiment against their controls: as a table, as rows of evidence, as one sentence."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gankd.bench.results import ArmResult, paired_values
from gankd.bench.stats import Interval, Verdict, mean_stderr
from gankd.config import require, suggest
from gankd.recipes.arms import CONTROLS
from gankd.tasks import Task

METRIC_WORDS = {"top1": "top-1 accuracy", "mae": "mean absolute error"}

MARKS: dict[Verdict, str] = {"better": ">", "worse": "<", "no difference found": "=", "no interval": "?"}

_PHRASES = {
    "real": "real images for one schedule",
    "real_matched": "real images only",
    "raw": "real + generated images",
    "subsampled": "real + generated images (subsampled)",
    "filtered": "real + generated images (filtered)",
    "adjusted": "real + generated images (adjusted)",
}
WIDTH = 100
"""Columns of a terminal table."""


@dataclass(frozen=True)
class Headline:
    """The result in one sentence."""

    text: str
    verdict: Verdict


def headline(arms: Sequence[ArmResult], task: Task, headline_arm: str | None) -> Headline:
    """One sentence on the arm that validation chose, against the control that it beats least.

    `better` asks for an interval above zero against *every* control; one below zero makes it `worse`.

    Raises:
        ConfigError: no such arm.
    """
    if headline_arm is None:
        text = "No arm was chosen on validation data, so this run makes no claim; the table has every arm."
        return Headline(text, "no interval")
    by_name = {arm.arm: arm for arm in arms}
    require(headline_arm in by_name, f"headline: no arm {headline_arm}; {suggest(headline_arm, by_name)}")
    arm = by_name[headline_arm]
    mean, _ = mean_stderr(arm.values)
    places = decimals(arms, task)
    reaches = f"{_quantity(mean, places, task.metric_unit)} {METRIC_WORDS.get(task.metric, task.metric)}"
    phrase = _phrase(arm)
    if arm.arm in CONTROLS:
        text = f"Generated images did not pay on validation data, which chose {phrase}: {reaches} on test"
        return Headline(f"{text} ({_seeds(len(arm.seeds))}).", "no interval")
    if not arm.vs:
        text = f"The student trained on {phrase} reaches {reaches}; no control was run to compare it with"
        return Headline(f"{text} ({_seeds(len(arm.seeds))}).", "no interval")

    verdicts = {interval.verdict for interval in arm.vs.values()}
    order: tuple[Verdict, ...] = ("no interval", "worse", "no difference found", "better")
    verdict = next(candidate for candidate in order if candidate in verdicts)
    # The comparison that decides: among those with this verdict, the one that flatters least.
    control, interval = min(
        ((name, interval) for name, interval in arm.vs.items() if interval.verdict == verdict),
        key=lambda item: item[1].diff,
    )
    against, seeds = control, _seeds(len(arm.seeds))
    if control in by_name:
        against = _phrase(by_name[control])
        seeds = _seeds(len(paired_values(arm, by_name[control])))
        same = arm.updates == by_name[control].updates
        against += " at equal updates" if same else f" at {by_name[control].updates} updates, not {arm.updates}"
    student = f"the student trained on {phrase} reaches {reaches}"
    unit = difference_unit(task)
    if verdict == "better":
        text = f"{student}, better by {_amount(interval, places, unit)} than on {against} ({seeds})."
    elif verdict == "worse":
        mirrored = Interval(-interval.diff, -interval.high, -interval.low)
        text = f"{student}, worse by {_amount(mirrored, places, unit)} than on {against} ({seeds})."
    elif verdict == "no difference found":
        difference = f"{difference_text(interval, places)} {unit}".rstrip()
        text = f"no difference found: {student} (against {against}: {difference}, + is better, {seeds})."
    else:
        difference = f"{signed(interval.diff, places)} {unit}".rstrip()
        text = f"{student} (against {against}: {difference}, + is better); {seeds} without an interval."
    return Headline(text[0].upper() + text[1:], verdict)


def results_table(arms: Sequence[ArmResult], task: Task, split: str = "test") -> str:
    """The control table as plain text, at most 100 columns wide."""
    head, *rows = _cells(arms, task, MARKS)
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    widths[0] = max(16, widths[0] - max(0, sum(widths) + 2 * (len(widths) - 1) - WIDTH))
    lines = []
    for row in [head, *rows]:
        title, *more = textwrap.wrap(row[0], widths[0], subsequent_indent="  ") or [""]
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([title.ljust(widths[0]), *cells])[:WIDTH].rstrip())
        lines += more
    rule = "-" * max(map(len, lines))
    lines = [textwrap.fill(_caption(task, split), WIDTH), rule, lines[0], rule, *lines[1:], rule]
    if any(arm.vs for arm in arms):
        lines.append("difference [95 % paired interval over seeds], + is better:")
        lines.append("> better   < worse   = no difference found   ? one seed, no interval")
    return "\n".join(lines)


def markdown_table(arms: Sequence[ArmResult], task: Task) -> str:
    """The control table for the documentation, verdicts in words."""
    words: dict[Verdict, str] = {verdict: f"({verdict})" for verdict in MARKS}
    head, *rows = _cells(arms, task, words)
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines) + "\n"


def evidence_rows(arms: Sequence[ArmResult], task: Task, recipe: str) -> list[dict[str, Any]]:
    """One row of docs/evidence.json per arm and control; an undefined bound (one seed) is None."""
    by_name = {arm.arm: arm for arm in arms}
    rows = []
    for arm in arms:
        for control, interval in arm.vs.items():
            other = by_name[control]
            seeds = [seed for seed in arm.seeds if seed in other.seeds]
            pairs = paired_values(arm, other)
            rows.append(
                {
                    "recipe": recipe,
                    "task": task.kind,
                    "arm": arm.arm,
                    "control": control,
                    "metric": task.metric,
                    "higher_is_better": task.higher_is_better,
                    "seeds": seeds,
                    "mean": mean_stderr([value for value, _ in pairs])[0],
                    "control_mean": mean_stderr([value for _, value in pairs])[0],
                    "diff": interval.diff,
                    "ci_low": _or_none(interval.low),
                    "ci_high": _or_none(interval.high),
                    "updates": arm.updates,
                    "seconds": arm.seconds,
                }
            )
    return rows


def decimals(arms: Sequence[ArmResult], task: Task) -> int:
    """Decimals that show two or three telling digits of the metric."""
    typical = max((abs(value) for arm in arms for value in arm.values if math.isfinite(value)), default=1.0)
    return 2 if task.metric_unit == "%" else value_decimals(typical)


def value_decimals(typical: float) -> int:
    """Decimals of values of about this size."""
    if typical == 0:
        return 2
    order = math.floor(math.log10(typical))  # 0.35: -1, 3.07: 0, 30.7: 1
    return min(8, max(0, 3 - order if order >= 1 else 2 - order))


def difference_unit(task: Task) -> str:
    """Unit of a difference: a percentage differs by points."""
    return "points" if task.metric_unit == "%" else task.metric_unit


def signed(value: float, places: int) -> str:
    """A number with its sign; what rounds to zero has none."""
    if math.isnan(value):
        return "-"
    text = f"{value:+.{places}f}"
    return text[1:] if float(text) == 0 else text


def difference_text(interval: Interval, places: int) -> str:
    """`+1.30 [+0.71, +1.89]`, without brackets where there is no interval."""
    if interval.verdict == "no interval":
        return signed(interval.diff, places)
    return f"{signed(interval.diff, places)} [{signed(interval.low, places)}, {signed(interval.high, places)}]"


def mean_text(values: Sequence[float], places: int) -> str:
    """`95.12 ± 0.21`: mean and standard error, or the value alone."""
    mean, error = mean_stderr(values)
    return f"{mean:.{places}f}" if math.isnan(error) else f"{mean:.{places}f} ± {error:.{places}f}"


def control_names(arms: Sequence[ArmResult]) -> dict[str, str]:
    """Short names of the controls that some arm is compared with, in the order of `CONTROLS`."""
    titles = {arm.arm: short_title(arm) for arm in arms}
    used = dict.fromkeys(name for arm in arms for name in arm.vs)
    ordered = [name for name in CONTROLS if name in used] + [name for name in used if name not in CONTROLS]
    return {name: titles.get(name, name) for name in ordered}


def short_title(arm: ArmResult) -> str:
    """What heads a column on this control: without the words that all controls share."""
    return arm.title.replace("real, equal updates", "real only").removesuffix(", equal updates")


def _phrase(arm: ArmResult) -> str:
    """What the student of this arm was trained on, within a sentence."""
    if arm.arm == "kd_matched":
        return f"real images with {short_title(arm)}"
    if arm.arm == "adjusted_kd":
        return f"real + generated images (adjusted) with {arm.title.removeprefix('cGAN-KD + ')}"
    return _PHRASES.get(arm.arm, arm.title)


def _cells(arms: Sequence[ArmResult], task: Task, marks: Mapping[Verdict, str]) -> list[list[str]]:
    places = decimals(arms, task)
    controls = control_names(arms)
    head = ["student trained on", f"{task.metric}{f' {task.metric_unit}' if task.metric_unit else ''}"]
    head += [f"vs {name}" for name in controls.values()] + ["updates", "s"]
    rows = [head]
    for arm in arms:
        row = [arm.title, mean_text(arm.values, places)]
        for control in controls:
            interval = arm.vs.get(control)
            row.append(f"{difference_text(interval, places)} {marks[interval.verdict]}" if interval else "")
        rows.append([*row, str(arm.updates), f"{arm.seconds:.0f}" if arm.seconds >= 10 else f"{arm.seconds:.1f}"])
    return rows


def _caption(task: Task, split: str) -> str:
    words = METRIC_WORDS.get(task.metric, task.metric)
    direction = "higher" if task.higher_is_better else "lower"
    unit = f" in {task.metric_unit}" if task.metric_unit else ""
    return f"{words}{unit} on the {split} split ({direction} is better), mean ± standard error over seeds"


def _quantity(value: float, places: int, unit: str) -> str:
    return f"{value:.{places}f} {unit}".rstrip()


def _amount(interval: Interval, places: int, unit: str) -> str:
    return f"{interval.diff:.{places}f} [{interval.low:.{places}f}, {interval.high:.{places}f}] {unit}".rstrip()


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
