"""A given classifier: the order of its outputs, and outputs that are not logits."""

import json
from collections.abc import Sequence

import torch
from torch import Tensor

from gankd.config import require


def order_of_outputs(names: Sequence[str], own: Sequence[str], setting: str) -> Tensor:
    """Number of the output (K,) of each class of the data, `own`, for a network whose outputs are the classes `names`.

    Raises:
        ConfigError: `names`, from this setting, are not the classes, each once.
    """
    missing, unknown = [name for name in own if name not in names], [name for name in names if name not in own]
    require(
        sorted(names) == sorted(own),
        f"{setting} must name each of the {len(own)} classes of the data once, got {len(names)} names"
        + f"; missing: {', '.join(missing[:5])}" * bool(missing)
        + f"; not a class: {', '.join(unknown[:5])}" * bool(unknown),
    )
    return torch.tensor([names.index(name) for name in own])


def logits_problem(outputs: Tensor) -> tuple[str, str]:
    """A reason to refuse these outputs (N, K) as logits, and advice about them; each may be empty."""
    if (outputs >= 0).all() and ((outputs.sum(1) - 1).abs() < 0.02).all():
        return (
            "ends in a softmax: its outputs are probabilities, and logits are expected; set teacher.ends_in=softmax, "
            "and their log is read, or remove the softmax from its forward",
            "",
        )
    # Sure logits with 0 for the best class look the same, and there is nothing to say about them.
    if (outputs.logsumexp(1).abs() < 0.02).all() and outputs.amax(1).min() < -0.05:
        return "", (
            "ends in a log_softmax; its outputs serve as logits, whose softmax is the same; losses that compare "
            "logits themselves see them shifted: to avoid this, remove it from forward"
        )
    if outputs.min() >= 0 and outputs.max() <= 1 and outputs.min() < 0.1 and outputs.max() > 0.9:
        return (
            "ends in a sigmoid: all its outputs lie in [0, 1], and logits are expected; set teacher.ends_in=sigmoid, "
            "and their log-odds are read, or remove it from its forward",
            "",
        )
    return "", ""


def in_best_order(answers: Tensor, labels: Tensor, names: Sequence[str]) -> tuple[Tensor, str]:
    """Errors (N,) of answers (N,) with the outputs in the order of classes that fits best, and that order in words.

    Each half of the images is judged by the order that fits the other half.
    """
    half = torch.arange(len(labels)) % 2
    errors = torch.zeros(len(labels), dtype=torch.float64)
    for part in (0, 1):
        order, here = _best_order(answers[half != part], labels[half != part], len(names)), half == part
        errors[here] = 100.0 * (order[answers[here]] != labels[here]).double()
    found = [names[number] for number in _best_order(answers, labels, len(names)).tolist()]
    listed = ",".join(found[:30]) + ",..." * (len(found) > 30)
    if any("," in name for name in found):
        listed = json.dumps(found[:30])
    as_text = " (the names sorted as text)" if found == sorted(names) else ""
    return errors, (
        f"has its outputs in another order of classes, likely{as_text} teacher.class_names={listed}; set "
        "teacher.class_names to the order that it was trained with, as a list or a file with one name per line"
    )


def _best_order(answers: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Class (K,) that each output stands for, so that most answers are right; ties stay as they are."""
    from scipy.optimize import linear_sum_assignment

    table = (answers * classes + labels).bincount(minlength=classes**2)
    counts = table.view(classes, classes).double() + 0.5 * torch.eye(classes)
    return torch.from_numpy(linear_sum_assignment(counts.numpy(), maximize=True)[1])


def odds_rise(value: float, base: float, factor: float) -> bool:
    """True if the odds of accuracy `value` are more than `factor` times those of `base`, both in per cent."""
    return value * (100.0 - base) > factor * base * (100.0 - value)
