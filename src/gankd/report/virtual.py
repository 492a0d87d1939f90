"""The report's section on a virtual teacher: mean outputs, spread and gates, next to those of the real teacher."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gankd.report import plots
from gankd.tasks import Task
from gankd.virtual import NAME, Gate, Gates, Inspection

MAX_CLASSES = 200
"""Number of rows and columns of a heat map; of more classes as many are shown, evenly spread."""
WORST = 3
"""Number of classes named for the worst order of their wrong classes."""
BASELINES = {"gauss": "Gaussian per class", "bank": "Stored outputs", "table": "Table of means"}

Chart = dict[str, str]


def virtual_section(found: Inspection, task: Task) -> dict[str, Any]:
    """Content of the template's section on a virtual teacher, by name."""
    facts = found.virtual.facts
    others = {BASELINES[name]: gates for name, gates in found.stand_ins.items()}
    if found.test is not None:
        others["Samples, test images"] = found.test
    return {
        "name": NAME,
        "size": _size(found.facts),
        "sentences": _sentences(found),
        "charts": _value_charts(facts, task) if "pit" in facts else _class_charts(facts, task),
        "others": list(others),
        "rows": [
            {"gate": gate, "others": [_same(gates, gate) for gates in others.values()]} for gate in found.virtual.gates
        ],
        "counts": [count_words(gates) for gates in (found.virtual, *others.values())],
        "warnings": found.virtual.warnings,
    }


def count_words(gates: Gates) -> str:
    """`7 of 9`: number of gates passed."""
    return f"{gates.num_passed} of {len(gates.gates)}"


def label_share(facts: Mapping[str, Tensor]) -> float:
    """Share of the variance of a teacher's outputs that lies between labels rather than within (eta squared).

    Args:
        facts: of `Gates`. For values, whose labels also differ within a bin, the variance is that of the read-out,
            and the variance within is that about the label.
    """
    count, within = facts["count"].double(), facts["sd_p"].square()
    mean = facts["value_p"][:, None] if "value_p" in facts else facts["mean_p"]
    apart = float(count @ (mean - count @ mean / count.sum()).square().sum(1))
    inside = float((count - 1).clamp_min(0) @ within)
    return apart / (apart + inside) if apart else 0.0


def _same(gates: Gates, gate: Gate) -> Gate:
    return next(other for other in gates.gates if other.name == gate.name)


def _size(facts: Mapping[str, Any]) -> str:
    words = f"{facts['parameters']:,} parameters"
    if facts.get("kilobytes"):
        words += f", {facts['kilobytes']:.0f} KB"
    return f"{words}; compared at temperature {facts['temperature']:g} on {facts['outputs']:,} stored outputs."


def _sentences(found: Inspection) -> list[str]:
    """Sentences on how much of the teacher it carries."""
    share, on_test, passes = label_share(found.virtual.facts), "", ""
    if found.test is not None:
        on_test = f" ({100 * label_share(found.test.facts):.3g} % for test images)"
        passes = f", and {count_words(found.test)} against those for test images"
    sentences = [
        "It knows what a label says about an output, not what an image says: the label explains "
        f"{100 * share:.3g} % of the variance of the teacher's outputs for training images{on_test}; the rest is noise "
        "in its samples.",
        f"It passes {count_words(found.virtual)} gates against outputs for training images, from which it learned"
        f"{passes}.",
        # P1 of the reference: the gradient is linear in the target, and the noise independent of the image.
        "With a loss that is linear in its targets, such as KD, a student learns from it on average what it would "
        f"learn from a table of the mean outputs. The table passes {count_words(found.stand_ins['table'])}; only a "
        "gain over the table counts.",
    ]
    if found.needless:
        sentences.append("A Gaussian per class passes every gate too: for these outputs the generator is not needed.")
    return sentences


# --- charts -------------------------------------------------------------------------------------------------


def _class_charts(facts: Mapping[str, Tensor], task: Task) -> list[Chart]:
    shown = np.linspace(0, task.num_groups - 1, min(task.num_groups, MAX_CLASSES)).round().astype(int)
    names = [task.group_name(group) for group in shown]
    text = "Rows are labels, columns the classes of the output."
    if len(shown) < task.num_groups:
        text += f" {len(shown)} of {task.num_groups} classes."
    means = [facts[key].numpy()[np.ix_(shown, shown)] for key in ("mean_p", "mean_q")]
    charts = [*_maps(means, 4, names, names, "class", text), _spread_chart(facts, task, "standard deviation", 1.0)]
    if task.num_groups > 2:  # with two classes, only one is wrong
        rank, there = facts["rank"], facts["count"] > 0
        worst = [group for group in rank.argsort(stable=True).tolist() if there[group]][:WORST]
        words = ", ".join(f"{task.group_name(group)} ({rank[group]:.2f})" for group in worst)
        text = (
            "By mean probability, samples against outputs; 1 means equal order. "
            f"Median {rank[there].median():.2f}, least for {words}."
        )
        title = "Order of the wrong classes"
        charts.append(_label_chart("rank", title, facts, task, {"correlation": rank}, "rank correlation", text))
    return charts


def _value_charts(facts: Mapping[str, Tensor], task: Task) -> list[Chart]:
    offset, factor = task.output_scale
    assert not isinstance(offset, tuple)  # distributions are of one value
    assert not isinstance(factor, tuple)
    unit = f", {task.metric_unit}" if task.metric_unit else ""
    there = facts["count"] > 0
    names = [task.group_name(group) for group in there.nonzero()[:, 0].tolist()]
    means = [facts[key][there].numpy() for key in ("mean_p", "mean_q")]
    text = "Rows are labels, columns the values of the output."
    read = {"teacher": offset + factor * facts["value_p"], "generator": offset + factor * facts["value_q"]}
    by_label = "Read-out of the mean distribution, by label."
    return [
        *_maps(means, 2, names, (offset, offset + factor), f"value{unit}", text),
        _label_chart("value", "Mean value", facts, task, read, f"mean value{unit}", by_label),
        _spread_chart(facts, task, f"standard deviation{unit}", factor),
        _chart(
            "Place of outputs among samples",
            plots.place_histogram("virtual-pit", facts["pit"].tolist()),
            "PIT: even (dotted line) if samples follow the teacher's law; high at the ends if they vary too little.",
        ),
    ]


def _chart(title: str, svg: str, text: str) -> Chart:
    return {"title": title, "svg": svg, "text": text}


def _maps(
    means: Sequence[NDArray[Any]],
    decades: int,
    rows: Sequence[str],
    columns: Sequence[str] | Sequence[float],
    label: str,
    text: str,
) -> list[Chart]:
    """Mean outputs of the teacher and of the generator, on one scale of at most `decades` decades."""
    both = np.stack(means)
    high = max(float(both.max()), 1e-9)
    # The smallest probabilities fill most of a large map: the scale begins where it tells them apart.
    low = min(max(float(np.percentile(both, 1)), high * 10.0**-decades), high / 2)
    titles = {"Teacher: mean output": text, "Generator: mean sample": "On the same scale."}
    return [
        _chart(title, plots.heat_map(f"virtual-map-{n}", mean, (low, high), rows, columns, label, title), words)
        for n, ((title, words), mean) in enumerate(zip(titles.items(), means, strict=True))
    ]


def _spread_chart(facts: Mapping[str, Tensor], task: Task, label: str, factor: float) -> Chart:
    spread = {"teacher": factor * facts["sd_p"], "generator": factor * facts["sd_q"]}
    text = "Differences between outputs for one label."
    return _label_chart("spread", "Spread within a label", facts, task, spread, label, text)


def _label_chart(
    name: str, title: str, facts: Mapping[str, Tensor], task: Task, values: Mapping[str, Tensor], label: str, text: str
) -> Chart:
    """Chart of numbers of the labels that have outputs; in ascending order if the labels are too many to be named."""
    shown = (facts["count"] > 0).nonzero()[:, 0]
    if len(shown) > plots.MAX_NAMED_GROUPS:
        first = next(iter(values))
        shown = shown[values[first][shown].argsort(stable=True)]
        text += f" Labels are sorted by the {first}."
    series = {key: value[shown].tolist() for key, value in values.items()}
    groups = [task.group_name(group) for group in shown.tolist()]
    return _chart(title, plots.group_chart(f"virtual-{name}", groups, series, label), text)
