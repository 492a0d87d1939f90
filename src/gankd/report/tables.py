"""Arms of a comparison against their controls: as a table, as rows of evidence, as one sentence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gankd.bench.results import ArmResult, Choice, paired_values
from gankd.bench.stats import Interval, Verdict, mean_stderr, paired_interval
from gankd.config import require, suggest
from gankd.tasks import Task
from gankd.text import Table, fixed, interval, plus_minus

METRIC_WORDS = {
    "top1": "top-1 accuracy",
    "nll": "negative log-likelihood",
    "balanced": "balanced accuracy",
    "ece": "calibration error (ECE)",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
}

MARKS: dict[Verdict, str] = {"better": ">", "worse": "<", "no difference found": "=", "no interval": "?"}
MOST_CLASSES = 20
"""Largest number of classes in a table on a terminal."""
WORDS: dict[Verdict, str] = {verdict: f"({verdict})" for verdict in MARKS}
EXPLAINED = (
    "An arm is one way to train the student. A control is an arm that sees no generated image: what a gain is measured "
    "against. An update is one step of the optimiser."
)
"""Clause for the first place of a page that mentions arms."""


# --- one sentence -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Headline:
    """The result in one sentence."""

    text: str
    verdict: Verdict


def headline(arms: Sequence[ArmResult], task: Task, choice: Choice) -> Headline:
    """One sentence on the method's arm that validation images chose, against the strongest control.

    That is the control which validation images chose, unless the comparison with another one allows less:
    `better` needs an interval above zero against *every* control; one interval below zero makes it `worse`.

    Raises:
        ConfigError: no such arm.
    """
    if choice.method is None:
        text = "No arm was chosen on validation images, so this run makes no claim; the table has every arm."
        return Headline(text, "no interval")
    by_name = {arm.name: arm for arm in arms}
    require(choice.method in by_name, f"headline: no arm {choice.method}; {suggest(choice.method, by_name)}")
    arm = by_name[choice.method]
    places = decimals(arms, task)
    reaches = f"{fixed(mean_stderr(arm.values)[0], places)} {task.metric_unit}".rstrip()
    reaches = f'"{arm.title}" reaches {reaches} {METRIC_WORDS.get(task.metric, task.metric)}'
    seeds = _counted(len(arm.seeds), arm)
    if not arm.vs:
        return Headline(f"The arm {reaches}; there is no control to compare it with ({seeds}).", "no interval")

    verdicts = {found.verdict for found in arm.vs.values()}
    order: tuple[Verdict, ...] = ("no interval", "worse", "no difference found", "better")
    verdict = next(candidate for candidate in order if candidate in verdicts)
    # The comparison that decides: of those with this verdict the strongest control, or the one that flatters least.
    control, gain = min(
        ((name, found) for name, found in arm.vs.items() if found.verdict == verdict),
        key=lambda item: (item[0] != choice.control, item[1].diff),
    )
    against = f"the control {control}"
    if control in by_name:
        other = by_name[control]
        against = f'the control "{other.title}"'
        same = "equal updates" if arm.updates == other.updates else f"{arm.updates} updates, not {other.updates}"
        seeds = f"{_counted(len(paired_values(arm, other)), arm)}, {same}"
    return Headline(_sentence(f"arm {reaches}", against, gain, seeds, places, difference_unit(task)), verdict)


def _sentence(reaches: str, against: str, gain: Interval, seeds: str, places: int, unit: str) -> str:
    if gain.verdict in ("better", "worse"):
        better = gain.verdict == "better"
        size = gain if better else Interval(-gain.diff, -gain.high, -gain.low)
        amount = f"{interval(size.diff, size.low, size.high, places, sign=False)} {unit}".rstrip()
        return f"The {reaches}, {gain.verdict} by {amount} than {against} ({seeds})."
    difference = f"against {against}: {gain.text(places)} {unit}".rstrip()
    if gain.verdict == "no difference found":
        return f"No difference found: the {reaches} ({difference}, + is better; {seeds})."
    return f"The {reaches} ({difference}, + is better; {seeds}, without an interval)."


def best_arm(arms: Sequence[ArmResult], choice: Choice) -> str:
    """Sentence on the arm that `gankd export` takes; empty if it is the one in the headline."""
    if choice.best in (None, choice.method):
        return ""
    best = next(arm for arm in arms if arm.name == choice.best)
    what = {"control": "a control", "step": "an arm of one step only", "method": "an arm"}[best.role]
    return f'On validation images {what} is best, which gankd export takes: "{best.title}".'


# --- tables -------------------------------------------------------------------------------------------------


def results_table(
    arms: Sequence[ArmResult], task: Task, choice: Choice, split: str = "test", width: int | None = None
) -> str:
    """The table of all arms as plain text, `width` columns wide (default: as the terminal)."""
    over, notes, caption = arms[0].over, [], _caption(arms, task, split)
    if any(arm.vs for arm in arms):
        notes.append(f"difference [95 % paired interval over {over}s], + is better:")
        notes.append(f"> better   < worse   = no difference found   ? one {over}, no interval")
    notes += [*time_note(arms), *length_note(arms, task)]
    return _table(arms, task, choice, MARKS, caption, notes).plain(width)


def _caption(arms: Sequence[ArmResult], task: Task, split: str) -> str:
    words = METRIC_WORDS.get(task.metric, task.metric)
    direction = "higher" if task.higher_is_better else "lower"
    unit = f" in {task.metric_unit}" if task.metric_unit else ""
    return f"{words}{unit} on the {split} split ({direction} is better), mean ± standard error over {arms[0].over}s"


def classes_rows(arms: Sequence[ArmResult], choice: Choice) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of accuracy per class: of the best control, the method and the arm that is best of all.

    The last row is balanced accuracy, the mean over classes. Empty for values.
    """
    wanted = dict.fromkeys(filter(None, (choice.control, choice.method, choice.best)))
    shown = [arm for arm in arms if arm.name in wanted and arm.by_class]
    if not shown:
        return [], []
    rows = [[name, *(fixed(arm.by_class[name], 1) for arm in shown)] for name in shown[0].by_class]
    means = [fixed(mean_stderr(arm.values_of("balanced"))[0], 1) for arm in shown]
    return ["class", *(arm.title for arm in shown)], [*rows, ["mean (balanced accuracy)", *means]]


def measures_rows(arms: Sequence[ArmResult], task: Task) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of the measures by which arms are not compared; those of single outputs left out."""
    names = [name for name in (arms[0].metrics[0] if arms else ()) if name not in (task.metric, *task.parts)]
    if not names:
        return [], []
    head = [f"{METRIC_WORDS.get(name, name)}, {task.unit_of(name)}".rstrip(", ") for name in names]
    values = [[mean_stderr(arm.values_of(name)) for name in names] for arm in arms]
    places = [value_decimals(max(abs(row[column][0]) for row in values)) for column in range(len(names))]
    rows = [[plus_minus(*pair, own) for pair, own in zip(row, places, strict=True)] for row in values]
    return ["student trained on", *head], [[arm.title, *row] for arm, row in zip(arms, rows, strict=True)]


def classes_table(arms: Sequence[ArmResult], choice: Choice) -> str:
    """Accuracy per class as plain text; of many classes those on which the last arm is worst."""
    head, rows = classes_rows(arms, choice)
    if not rows:
        return ""
    *classes, mean = rows
    notes = []
    if len(classes) > MOST_CLASSES:
        notes = [f"the {MOST_CLASSES} classes of {len(classes)} on which the last column is worst; all: results.json"]
        classes = sorted(classes, key=lambda row: float(row[-1]))[:MOST_CLASSES]
    return Table(
        head, [*classes, mean], "l" + "r" * (len(head) - 1), caption="accuracy per class in %", notes=notes
    ).plain()


def arms_table(arms: Sequence[ArmResult], task: Task, choice: Choice, split: str = "test") -> Table:
    """The table of all arms for a paper, verdicts in words."""
    return _table(arms, task, choice, WORDS, _caption(arms, task, split))


def numbers_table(arms: Sequence[ArmResult], choice: Choice) -> Table:
    """The table of all arms for a spreadsheet: a number in each cell, empty where there is none."""
    controls = [name for name in control_titles(arms, choice) if any(name in arm.vs for arm in arms)]
    names = list(arms[0].metrics[0]) if arms else []
    head = ["arm", "title", "students"]
    head += [f"{name}{end}" for name in names for end in ("", " stderr")]
    head += [f"gain over {name}{end}" for name in controls for end in ("", " low", " high")]
    rows = []
    for arm in arms:
        numbers = [number for name in names for number in mean_stderr(arm.values_of(name))]
        for name in controls:
            gain = arm.vs.get(name)
            numbers += [math.nan] * 3 if gain is None else [gain.diff, gain.low, gain.high]
        cells = ["" if math.isnan(number) else repr(number) for number in numbers]
        rows.append([arm.name, arm.title, str(len(arm.seeds)), *cells, str(arm.updates), repr(arm.seconds)])
    return Table([*head, "updates", "seconds"], rows, "ll" + "r" * len(head))


def markdown_table(arms: Sequence[ArmResult], task: Task, choice: Choice) -> str:
    """The table of all arms for a page, verdicts in words."""
    return _table(arms, task, choice, WORDS).markdown()


def _table(
    arms: Sequence[ArmResult],
    task: Task,
    choice: Choice,
    marks: Mapping[Verdict, str],
    caption: str = "",
    notes: Sequence[str] = (),
) -> Table:
    places = decimals(arms, task)
    controls = control_titles(arms, choice)
    head = ["student trained on", f"{task.metric} {task.metric_unit}".strip()]
    head += [*(f"vs {title}" for title in controls.values()), "updates", "seconds"]
    rows = []
    for arm in arms:
        gains = (arm.vs.get(control) for control in controls)
        rows.append(
            [
                arm.title,
                plus_minus(*mean_stderr(arm.values), places),
                *(f"{gain.text(places)} {marks[gain.verdict]}" if gain else "" for gain in gains),
                str(arm.updates),
                fixed(arm.seconds, 0 if arm.seconds >= 10 else 1),
            ]
        )
    return Table(head, rows, caption=caption, notes=notes)


def control_titles(arms: Sequence[ArmResult], choice: Choice) -> dict[str, str]:
    """Titles by name of the controls that have a column, in the order of the arms.

    Of controls with more updates than the arms with generated images, only the strongest has one.
    """
    used = {name for arm in arms for name in arm.vs}
    most = max((arm.updates for arm in arms if arm.generated), default=math.inf)
    longer = {arm.name for arm in arms if arm.updates > most and arm.name != choice.control}
    titles = {arm.name: arm.title for arm in arms if arm.name in used - longer}
    return titles | {name: name for name in sorted(used - {arm.name for arm in arms})}


def time_note(arms: Sequence[ArmResult]) -> list[str]:
    """Explanation of equal time, if an arm has it."""
    if not any("equal time" in arm.title for arm in arms):
        return []
    return [
        "equal time: more updates, in the time of generator, density ratio and pool (shared: divided among the "
        "students that learn from the pool); x8 of x43: 8 times the updates (time_cap), where 43 would fit"
    ]


def length_note(arms: Sequence[ArmResult], task: Task) -> list[str]:
    """Gain of arms that are trained longer over the same arms (`Recipe.lengths`): are the students done?"""
    by_name, places, found = {arm.name: arm for arm in arms}, decimals(arms, task), []
    for arm in arms:
        shorter = by_name.get(arm.name.rpartition("_x")[0])
        pairs = [] if shorter is None else paired_values(arm, shorter)
        if pairs:
            own, other = zip(*pairs, strict=True)
            gain = paired_interval(own, other, higher_is_better=task.higher_is_better)
            found.append(f"{arm.title} {gain.text(places)} {WORDS[gain.verdict]}")
    return [f"Longer training against the same at length 1, + is better: {'; '.join(found)}"] if found else []


def evidence_rows(arms: Sequence[ArmResult], task: Task, recipe: str) -> list[dict[str, Any]]:
    """One row of docs/evidence.json per arm and control; an undefined bound (one seed) is None."""
    by_name = {arm.name: arm for arm in arms}
    rows = []
    for arm in arms:
        for control, gain in arm.vs.items():
            other = by_name[control]
            seeds = [seed for seed in arm.seeds if seed in other.seeds]
            pairs = paired_values(arm, other)
            rows.append(
                {
                    "recipe": recipe,
                    "task": task.kind,
                    "arm": arm.name,
                    "control": control,
                    "metric": task.metric,
                    "higher_is_better": task.higher_is_better,
                    "seeds": seeds,
                    "mean": mean_stderr([value for value, _ in pairs])[0],
                    "control_mean": mean_stderr([value for _, value in pairs])[0],
                    "diff": gain.diff,
                    "ci_low": _or_none(gain.low),
                    "ci_high": _or_none(gain.high),
                    "updates": arm.updates,
                    "seconds": arm.seconds,
                }
            )
    return rows


def decimals(arms: Sequence[ArmResult], task: Task) -> int:
    """Decimals that show two or three significant digits of the metric."""
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


def _counted(count: int, arm: ArmResult) -> str:
    return f"{count} {arm.over}{'s' if count > 1 else ''}"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
