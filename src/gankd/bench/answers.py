"""Answers of one network on test images: errors by label, confusions, calibration, and an interval that should hold."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gankd.bench.conformal import conformal_limit
from gankd.data.images import LabelledImages
from gankd.tasks import Task
from gankd.tasks.calibration import reliability


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers of one network on N test images with G label groups."""

    labels: Tensor
    """(N,) true labels."""
    answers: Tensor
    """(N, K) probabilities, or values (N,)."""
    by_group: Tensor
    """(G,) mean error: in per cent of the images of a class, or in the unit of the metric; NaN without images."""
    confusion: Tensor | None = None
    """(K, K) number of images of each class (rows) that got each answer (columns); None for values."""
    reliability: Tensor | None = None
    """(bins, 3) of `tasks.calibration.reliability`; None for values."""
    limit: float | None = None
    """Half the width of the interval around a value that holds 95 % of new labels, from validation images; None for
    classes, and where these are too few."""
    missed: Tensor | None = None
    """(G,) per cent of the labels outside of it, NaN without images."""
    missed_in_all: float | None = None
    """Per cent of all N labels outside of it."""


def answers_of(outputs: Tensor, test: LabelledImages, val_outputs: Tensor, val: LabelledImages) -> Answers:
    """Answers of a network with these outputs (N, ...) for test images and (n, ...) for validation images."""
    task, labels = test.task, test.labels.cpu()
    answers = task.answers(outputs)
    found = Answers(labels=labels, answers=answers, by_group=group_means(task, task.errors(outputs, labels), labels))
    sure = task.confidence(answers)
    if sure is not None:
        chosen, classes = task.predict(outputs), task.num_groups
        pairs = (labels * classes + chosen).bincount(minlength=classes * classes)
        rows = reliability(sure, chosen == labels)
        return replace(found, confusion=pairs.view(classes, classes), reliability=rows)
    limit = conformal_limit(task.doubt(task.answers(val_outputs), val.labels.cpu()))
    if limit is None:
        return found
    missed = 100.0 * (task.doubt(answers, labels) > limit).double()
    by_group = group_means(task, missed, labels)
    return replace(found, limit=limit, missed=by_group, missed_in_all=missed.mean().item())


def group_means(task: Task, values: Tensor, labels: Tensor) -> Tensor:
    """(G,) means of values (N,) over the images of each label group; NaN without images."""
    groups = task.groups(labels)
    sums = torch.zeros(task.num_groups, dtype=torch.float64).index_add(0, groups, values.double())
    return sums / groups.bincount(minlength=task.num_groups)


def confusions(found: Answers, most: int) -> list[tuple[int, int, int]]:
    """(class, answer, number of images) of the wrong answers that are given most often, `most` at most."""
    if found.confusion is None:
        return []
    wrong = found.confusion.clone().fill_diagonal_(0)
    counts, places = wrong.flatten().sort(descending=True, stable=True)
    size = len(wrong)
    return [
        (place // size, place % size, count)
        for place, count in zip(places[:most].tolist(), counts[:most].tolist(), strict=True)
        if count
    ]
