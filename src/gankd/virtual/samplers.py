"""Samplers of target sources: logits for labels and noise, from the generator or from a baseline."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gankd.tasks import Task
from gankd.virtual.gan import BANDWIDTH
from gankd.virtual.networks import read_table
from gankd.virtual.sources import Source
from gankd.virtual.teacher import Bank, VirtualTeacher


@dataclass(frozen=True)
class Sampler:
    """Gives logits (N, width), of softmax at temperature 1, for labels (N,) and Gaussian noise (N, noise)."""

    make: Callable[[Tensor, Tensor], Tensor]
    noise: int
    width: int

    def __call__(self, labels: Tensor, noise: Tensor) -> Tensor:
        return self.make(labels, noise)


def make_sampler(source: Source, virtual: VirtualTeacher | None, task: Task) -> Sampler:
    """The sampler of a source; `virtual` may be None where the label is enough."""
    chosen = source.chosen
    if source.name == "tf":
        return _of_label(task.head_size, 1 - chosen["a"], 1.0, elsewhere=True)
    if virtual is None:
        return _of_label(task.head_size, chosen["epsilon"], 1.0)
    if source.name == "smooth":
        # Softened by the same temperature as the table, so that a loss reads the smoothed label itself.
        epsilon = chosen["epsilon"] or matched_epsilon(virtual.means)
        return _of_label(task.head_size, epsilon, virtual.temperature)
    if source.name == "virtual":
        return Sampler(virtual.draw, virtual.generator.z_dim, virtual.num_outputs)
    if source.name == "table":
        log = virtual.temperature * virtual.means.clamp_min(1e-12).log()
        return Sampler(lambda labels, _: read_table(log, labels), 0, virtual.num_outputs)
    assert virtual.bank is not None
    return (_from_bank if source.name == "bank" else _from_gauss)(virtual, virtual.bank, chosen)


def _of_label(classes: int, share: float, temperature: float, *, elsewhere: bool = False) -> Sampler:
    """The label with `share` of its probability spread evenly over all classes, or over the others (`elsewhere`)."""
    spread = share / (classes - 1) if elsewhere else share / classes
    probs = torch.full((classes, classes), spread)
    probs.fill_diagonal_(1 - share if elsewhere else 1 - share + spread)
    log = temperature * probs.log()
    return Sampler(lambda labels, _: log.to(labels.device)[labels], 0, classes)


def _from_bank(virtual: VirtualTeacher, bank: Bank, _: Mapping[str, Any]) -> Sampler:
    """A random stored output of the label, or of values within the kernel's bandwidth of it."""
    labels, order = bank.labels.sort(stable=True)
    logits = bank.logits[order]

    def make(wanted: Tensor, noise: Tensor) -> Tensor:
        reach = BANDWIDTH if wanted.is_floating_point() else 0
        first = torch.searchsorted(labels, wanted - reach)
        last = torch.searchsorted(labels, wanted + reach, right=True)
        # Where no output is stored for a label, take the nearest one above or below it.
        first = torch.where(first == last, first.clamp_max(len(labels) - 1), first)
        last = torch.maximum(last, first + 1)
        share = torch.special.ndtr(noise[:, 0])
        return logits[first + ((last - first) * share).long().clamp_max(last - first - 1)]

    return Sampler(make, 1, logits.shape[1])


def _from_gauss(virtual: VirtualTeacher, bank: Bank, chosen: Mapping[str, Any]) -> Sampler:
    """A Gaussian of centred logits for each class: covariance of low rank plus a diagonal."""
    classes, rank = virtual.num_outputs, min(int(chosen["rank"]), virtual.num_outputs)
    centred = bank.logits - bank.logits.mean(1, keepdim=True)  # (M, C)
    means = centred.new_zeros(classes, classes)
    factors = centred.new_zeros(classes, classes, rank)
    rest = centred.new_zeros(classes, classes)
    for label in range(classes):  # once, before training
        own = centred[bank.labels == label]
        if len(own) == 0:
            means[label] = virtual.temperature * virtual.means[label].clamp_min(1e-12).log()
            continue
        means[label] = own.mean(0)
        if len(own) < 2:
            continue
        spread = (own - own.mean(0)) / (len(own) - 1) ** 0.5
        _, values, directions = torch.linalg.svd(spread, full_matrices=False)
        kept = min(rank, len(values))
        factors[label, :, :kept] = directions[:kept].T * values[:kept]
        rest[label] = (spread.square().sum(0) - factors[label].square().sum(1)).clamp_min(0).sqrt()

    def make(labels: Tensor, noise: Tensor) -> Tensor:
        low = torch.bmm(factors[labels], noise[:, :rank, None])[..., 0]  # (N, C, R) (N, R, 1)
        return means[labels] + low + rest[labels] * noise[:, rank:]

    return Sampler(make, rank + classes, classes)


def matched_epsilon(means: Tensor) -> float:
    """The epsilon of label smoothing whose targets have the mean entropy of the rows of a table (C, C)."""
    from scipy.optimize import brentq

    classes = len(means)
    wanted = torch.special.entr(means.double()).sum(1).mean().item()

    def excess(epsilon: float) -> float:
        probs = torch.full((classes,), epsilon / classes, dtype=torch.float64)
        probs[0] += 1 - epsilon
        return float(torch.special.entr(probs).sum()) - wanted

    low, high = 1e-6, 1 - 1e-6
    if excess(low) >= 0 or excess(high) <= 0:  # entropy rises with epsilon, from 0 to ln C
        return low if excess(low) >= 0 else high
    return float(brentq(excess, low, high, xtol=1e-15))
