"""Whom a loss reads in place of the real teacher: the virtual teacher, or a stand-in that any gain of it must beat.

    KD@virtual    SoftTargets(T=4)@virtual(draws=8, policy="best")    KD@table    DKD@bank    SoftTargets@gauss(rank=4)

A source needs labels alone. With a loss that is linear in its target, such as KD, fresh draws and the table of class
means have the same expected gradient; the policies best, rank and hint let the target depend on the image.
"""

import ast
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gankd.config import require, suggest
from gankd.errors import ConfigError
from gankd.seeds import rng
from gankd.tasks import Task
from gankd.virtual.gan import BANDWIDTH
from gankd.virtual.networks import read_table
from gankd.virtual.teacher import Bank, VirtualTeacher, quantiles

POLICIES = {
    "fresh": "new noise for every image at every step; several draws are averaged",
    "epoch": "new noise for every image in every pass over the data",
    "fixed": "one noise for every image, for ever; a control",
    "zero": "no noise; a control",
    "best": "of several draws the one nearest to the student's present output",
    "rank": "of several draws the one whose confidence stands where the image stands among its class",
    "hint": "of several draws the one most like three bytes that are kept of the teacher's output for the image",
}
CHOOSING = ("best", "rank", "hint")
"""Policies by which the target depends on the image."""
AGREEMENTS = ("keep", "reject", "swap")
DRAWS: dict[str, Any] = {"draws": 1, "policy": "fresh", "agree": "keep", "shuffle": False, "stored": False}
SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "virtual": ("the generator", DRAWS),
    "table": ("mean output of each label", {"shuffle": False, "stored": False}),
    "bank": ("a random stored output of the same label", DRAWS),
    "gauss": ("a Gaussian of logits fitted to each class, of low rank and a diagonal", {"rank": 8, **DRAWS}),
    "smooth": ("the label smoothed evenly; epsilon none: as soft as the table on average", {"epsilon": None}),
    "tf": ("a hand-made teacher that gives the label probability a (Tf-KD)", {"a": 0.99}),
}
FOR_VALUES = ("virtual", "table", "bank")
"""Sources that also work for values; the others are for classes."""
READABLE = ("teacher_logits", "teacher_outputs", "teacher_distribution")
"""What a source can give in a teacher's place."""
CANDIDATES = 4
"""Draws from which an agreeing one is chosen."""
LARGEST_BLOCK = 1 << 22
"""Numbers that are drawn ahead at once, at most."""


@dataclass(frozen=True)
class Source:
    """A source by name, with the settings that differ from its defaults."""

    name: str
    settings: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        require(self.name in SOURCES, f"no source @{self.name}; {suggest(self.name, SOURCES)}")
        for name, value in self.settings:
            known = SOURCES[self.name][1]
            require(name in known, f"@{self.name} has no setting {name!r}; {suggest(name, known) if known else 'none'}")
            default = known[name]
            number = isinstance(value, int | float) and not isinstance(value, bool)
            fits = number if default is None else type(value) is type(default) or (number and type(default) is float)
            require(fits, f"@{self.name}: {name} must be of the kind of its default {default!r}, got {value!r}")
        chosen = self.chosen
        policy, draws = chosen.get("policy", "fresh"), chosen.get("draws", 1)
        require(policy in POLICIES, f"@{self.name}: no policy {policy!r}; {suggest(policy, POLICIES)}")
        require(1 <= draws <= 1024, f"@{self.name}: draws must lie in 1..1024, got {draws}")
        require(
            draws >= 2 or policy not in CHOOSING,
            f"@{self.name}: policy {policy} chooses among draws; set draws to 2 or more, for example draws=8",
        )
        require(
            draws == 1 or policy in ("fresh", *CHOOSING),
            f"@{self.name}: policy {policy} has one draw per image, got draws={draws}",
        )
        require(
            policy != "zero" or self.name == "virtual",
            f"@{self.name} has no noise to leave out; policy zero is for @virtual",
        )
        agree = chosen.get("agree", "keep")
        require(agree in AGREEMENTS, f"@{self.name}: no agree {agree!r}; {suggest(agree, AGREEMENTS)}")
        require(
            agree == "keep" or (policy == "fresh" and draws == 1),
            f"@{self.name}: agree={agree} is for single fresh draws",
        )
        require(chosen.get("rank", 1) >= 1, f"@{self.name}: rank must be at least 1, got {chosen.get('rank')}")
        epsilon, a = chosen.get("epsilon"), chosen.get("a", 0.5)
        require(epsilon is None or 0 < epsilon < 1, f"@smooth: epsilon must lie in (0, 1), got {epsilon}")
        require(0 < a < 1, f"@tf: a must lie in (0, 1), got {a}")

    @property
    def chosen(self) -> dict[str, Any]:
        """All settings."""
        return {**SOURCES[self.name][1], **dict(self.settings)}

    @property
    def needs_virtual(self) -> bool:
        """Does it need a virtual teacher, or is the label enough?"""
        return not (self.name == "tf" or (self.name == "smooth" and self.chosen["epsilon"] is not None))

    @property
    def needs_bank(self) -> bool:
        """Does it need stored outputs of the real teacher?"""
        return self.name in ("bank", "gauss")

    def __str__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.settings)
        return f"{self.name}{f'({inside})' if inside else ''}"


class SourceReader(nn.Module):
    """One source ready for training: targets for the images of a step.

    Args:
        source: which.
        virtual: the virtual teacher; may be left out where the label is enough.
        task: what labels are.
        labels: (M,) of all training images, generated ones last: classes, or values on the [0, 1] scale.
        seed: of the noise.

    Raises:
        ConfigError: something that the source needs is missing, or it is for classes only.
    """

    confidence: Tensor
    quantile: Tensor

    def __init__(self, source: Source, virtual: VirtualTeacher | None, task: Task, labels: Tensor, seed: int) -> None:
        super().__init__()
        self.source, self.settings, self.seed, self.labels = source, source.chosen, seed, labels
        self.temperature = 1.0 if virtual is None else virtual.temperature
        if virtual is None and source.needs_virtual:
            raise ConfigError(f"@{source.name} needs a virtual teacher, and none is given; train one: gankd vkd train")
        if source.needs_bank and (virtual is None or virtual.bank is None):
            raise ConfigError(
                f"@{source.name} needs stored outputs of the real teacher, which only the run that made it keeps"
            )
        for name, needs_classes in {
            str(self.settings.get("policy")): self.settings.get("policy") in ("rank", "hint"),
            "agree": self.settings.get("agree", "keep") != "keep",
            "shuffle": self.settings.get("shuffle", False),
            "stored": self.settings.get("stored", False),
        }.items():
            require(task.has_classes or not needs_classes, f"@{source}: {name} is for classes, the labels are values")
        require(
            task.has_classes or source.name in FOR_VALUES,
            f"@{source.name} is for classes, the labels are values",
        )
        if self.settings.get("policy") == "hint" and (virtual is None or virtual.hints is None):
            raise ConfigError(f"@{source}: hints of the training images are kept by the teacher's own run alone")
        self._hints = None if virtual is None else virtual.hints
        self._sampler = _sampler(source, virtual, task)
        self._table = None if virtual is None else virtual.means
        self._shuffled = _permutations(task.head_size, seed, labels.device) if self.settings.get("shuffle") else None
        if self.settings.get("policy") == "rank":
            self.register_buffer("confidence", torch.full((len(labels),), float("nan"), device=labels.device))
            self.register_buffer("quantile", torch.full((len(labels),), 0.5, device=labels.device))
        self._block: tuple[int, Tensor] | None = None
        self._noise: tuple[int, Tensor] | None = None

    @torch.no_grad()
    def forward(
        self,
        step: int,
        index: Tensor,
        outputs: Tensor,
        upcoming: Callable[[int], Tensor] | None = None,
    ) -> Tensor:
        """Logits (N, K), of softmax at temperature 1.

        Args:
            step: number of the update; noise depends on it.
            index: (N,) which training images.
            outputs: (N, K) logits of the student for them, or its values, which only best and rank look at.
            upcoming: the index of any step; draws are then made for many steps at once.
        """
        policy = self.settings.get("policy", "fresh")
        if policy in ("fresh", *CHOOSING):
            draws = self._fresh(step, index, upcoming)
        else:
            noise = self._own_noise(index, step if policy == "epoch" else 0)
            draws = self._sampler(self.labels[index], noise)[None]
        labels = self.labels[index]
        if self.settings.get("agree", "keep") != "keep":
            chosen = self._agreeing(draws, labels)
        elif policy == "best":
            chosen = self._nearest(draws, outputs)
        elif policy == "rank":
            chosen = self._ranked(draws, labels, index, outputs, step)
        elif policy == "hint":
            chosen = self._hinted(draws, labels, index)
        elif len(draws) > 1:  # the loss against several draws is that against their mean
            chosen = self.temperature * (draws / self.temperature).softmax(2).mean(0).clamp_min(1e-12).log()
        else:
            chosen = draws[0]
        return chosen if self._shuffled is None else chosen.gather(1, self._shuffled[labels])

    # --- draws ----------------------------------------------------------------------------------------------

    @property
    def _candidates(self) -> int:
        return CANDIDATES if self.settings.get("agree") == "reject" else int(self.settings.get("draws", 1))

    def _fresh(self, step: int, index: Tensor, upcoming: Callable[[int], Tensor] | None) -> Tensor:
        """(draws, N, K): those of step k depend on (seed, k) alone, whoever asks first."""
        count = self._candidates
        if upcoming is None:
            return self._draw(index, rng(self.seed, "source", self.source.name, step, device=index.device), count)
        size = max(1, min(32, LARGEST_BLOCK // max(1, count * len(index) * self._sampler.width)))
        number = step // size
        if self._block is None or self._block[0] != number:
            every = torch.cat([upcoming(number * size + k).to(self.labels.device) for k in range(size)])
            noise = rng(self.seed, "source", self.source.name, number, device=index.device)
            self._block = number, self._draw(every, noise, count).unflatten(1, (size, len(index)))
        return self._block[1][:, step % size]

    def _draw(self, index: Tensor, generator: torch.Generator, count: int) -> Tensor:
        labels = self.labels[index].repeat(count)
        noise = torch.randn(len(labels), self._sampler.noise, generator=generator, device=labels.device)
        return self._sampler(labels, noise).unflatten(0, (count, len(index)))

    def _own_noise(self, index: Tensor, step: int) -> Tensor:
        """Noise (N, W) that belongs to each image, for ever or for one pass over the data."""
        if self.settings["policy"] == "zero":
            return torch.zeros(len(index), self._sampler.noise, device=index.device)
        number = step * len(index) // len(self.labels)
        if self._noise is None or self._noise[0] != number:
            device = self.labels.device
            generator = rng(self.seed, "source of an image", number, device=device)
            noise = torch.randn(len(self.labels), self._sampler.noise, generator=generator, device=device)
            self._noise = number, noise
        return self._noise[1][index]

    # --- choices --------------------------------------------------------------------------------------------

    def _nearest(self, draws: Tensor, outputs: Tensor) -> Tensor:
        """The draw q of least KL(q || student), both at the temperature; for values, of least distance to the value."""
        log_q = (draws / self.temperature).log_softmax(2)
        if outputs.ndim == 1:
            centres = (torch.arange(draws.shape[2], device=draws.device) + 0.5) / draws.shape[2]
            distance = (log_q.exp() @ centres - outputs).abs()
        else:
            log_p = (outputs.float() / self.temperature).log_softmax(1)
            distance = (log_q.exp() * (log_q - log_p)).sum(2)
        return _take(draws, distance.argmin(0))

    def _ranked(self, draws: Tensor, labels: Tensor, index: Tensor, outputs: Tensor, step: int) -> Tensor:
        """Sorted by the probability of the label, the draw at the quantile of the image within its class."""
        probability = (draws / self.temperature).softmax(2).gather(2, labels.expand(len(draws), -1)[..., None])[..., 0]
        place = (self.quantile[index] * len(draws)).long().clamp_max(len(draws) - 1)
        order = probability.argsort(0)
        chosen = _take(draws, order.gather(0, place[None])[0])
        now = outputs.float().softmax(1).gather(1, labels[:, None])[:, 0]
        before = self.confidence[index]
        self.confidence[index] = torch.where(before.isnan(), now, 0.5 * (before + now))
        passes = max(1, len(self.labels) // len(index))
        if step % passes == passes - 1:
            self.quantile.copy_(quantiles(self.confidence, self.labels))
        return chosen

    def _hinted(self, draws: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """Of draws with the runner-up of the image's hint, or else of all, the one nearest to its quantile.

        Generated images have no hint and take the first draw.
        """
        assert self._hints is not None
        at = index.clamp_max(len(self._hints.rank) - 1)
        own = labels.expand(len(draws), -1)[..., None]
        place = ((draws / self.temperature).softmax(2).gather(2, own)[..., 0].argsort(0).argsort(0) + 0.5) / len(draws)
        runner_up = draws.scatter(2, own, float("-inf")).argmax(2)
        cost = (place - self._hints.rank[at] / 255).abs() + (runner_up != self._hints.runner_up[at])
        return _take(draws, torch.where(index < len(self._hints.rank), cost.argmin(0), 0))

    def _agreeing(self, draws: Tensor, labels: Tensor) -> Tensor:
        """A draw whose likeliest class is the label: the first such, or else the table; or with the two exchanged."""
        wrong = draws.argmax(2) != labels
        if self.settings["agree"] == "swap":
            first, top = draws[0], draws[0].argmax(1, keepdim=True)
            at_top, at_label = first.gather(1, top), first.gather(1, labels[:, None])
            return first.scatter(1, top, at_label).scatter(1, labels[:, None], at_top)
        assert self._table is not None
        table = self.temperature * read_table(self._table, labels).clamp_min(1e-12).log()
        first = _take(draws, wrong.int().argmin(0))
        return torch.where(wrong.all(0)[:, None], table, first)


class Sources(nn.Module):
    """All sources of an objective; what they remember is in `state_dict`.

    Args:
        wanted: inputs of losses as "teacher_logits@virtual", by source.
        virtual, task, labels, seed: see `SourceReader`.
    """

    def __init__(
        self,
        wanted: Mapping[Source, Iterable[str]],
        virtual: VirtualTeacher | None,
        task: Task,
        labels: Tensor,
        seed: int,
    ) -> None:
        super().__init__()
        self._names = [sorted(set(names)) for names in wanted.values()]
        for source, names in wanted.items():
            if not task.has_classes and any(not name.startswith("teacher_distribution") for name in names):
                raise ConfigError(
                    f"for values @{source.name} gives distributions alone; write Distribution@{source.name}"
                )
        self._readers = [SourceReader(source, virtual, task, labels, seed) for source in wanted]
        self.readers = nn.ModuleList(self._readers)

    def forward(
        self,
        step: int,
        index: Tensor,
        outputs: Tensor,
        upcoming: Callable[[int], Tensor] | None = None,
        stored: tuple[slice, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Inputs of losses by their full names; see `SourceReader`.

        Args:
            stored: rows of which the real teacher's logits are at hand, and these; taken by sources that ask for it.
        """
        found = {}
        for reader, names in zip(self._readers, self._names, strict=True):
            logits = reader(step, index, outputs, upcoming)
            if stored is not None and reader.settings.get("stored"):
                logits = logits.clone()
                logits[stored[0]] = stored[1].to(logits)
            for name in names:
                found[name] = logits.log_softmax(1) if name.startswith("teacher_distribution") else logits
        return found


# --- samplers -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sampler:
    """Logits (N, width), of softmax at temperature 1, for labels (N,) and Gaussian noise (N, noise)."""

    make: Callable[[Tensor, Tensor], Tensor]
    noise: int
    width: int

    def __call__(self, labels: Tensor, noise: Tensor) -> Tensor:
        return self.make(labels, noise)


def _sampler(source: Source, virtual: VirtualTeacher | None, task: Task) -> _Sampler:
    chosen = source.chosen
    if source.name == "tf":
        return _of_label(task.head_size, 1 - chosen["a"], 1.0, elsewhere=True)
    if virtual is None:
        return _of_label(task.head_size, chosen["epsilon"], 1.0)
    if source.name == "smooth":
        # Softened by the same temperature as the table, a loss sees the smoothed label itself.
        epsilon = chosen["epsilon"] or matched_epsilon(virtual.means)
        return _of_label(task.head_size, epsilon, virtual.temperature)
    if source.name == "virtual":
        return _Sampler(virtual.draw, virtual.generator.z_dim, virtual.num_outputs)
    if source.name == "table":
        log = virtual.temperature * virtual.means.clamp_min(1e-12).log()
        return _Sampler(lambda labels, _: read_table(log, labels), 0, virtual.num_outputs)
    assert virtual.bank is not None
    return (_from_bank if source.name == "bank" else _from_gauss)(virtual, virtual.bank, chosen)


def _of_label(classes: int, share: float, temperature: float, *, elsewhere: bool = False) -> _Sampler:
    """The label with `share` spread evenly: over all classes, or over the others."""
    spread = share / (classes - 1) if elsewhere else share / classes
    probs = torch.full((classes, classes), spread)
    probs.fill_diagonal_(1 - share if elsewhere else 1 - share + spread)
    log = temperature * probs.log()
    return _Sampler(lambda labels, _: log.to(labels.device)[labels], 0, classes)


def _from_bank(virtual: VirtualTeacher, bank: Bank, _: Mapping[str, Any]) -> _Sampler:
    labels, order = bank.labels.sort(stable=True)
    logits = bank.logits[order]

    def make(wanted: Tensor, noise: Tensor) -> Tensor:
        reach = BANDWIDTH if wanted.is_floating_point() else 0
        first = torch.searchsorted(labels, wanted - reach)
        last = torch.searchsorted(labels, wanted + reach, right=True)
        # Where no output is stored for a label, the nearest one above or below it has to do.
        first = torch.where(first == last, first.clamp_max(len(labels) - 1), first)
        last = torch.maximum(last, first + 1)
        share = torch.special.ndtr(noise[:, 0])
        return logits[first + ((last - first) * share).long().clamp_max(last - first - 1)]

    return _Sampler(make, 1, logits.shape[1])


def _from_gauss(virtual: VirtualTeacher, bank: Bank, chosen: Mapping[str, Any]) -> _Sampler:
    classes, rank = virtual.num_outputs, min(int(chosen["rank"]), virtual.num_outputs)
    centred = bank.logits - bank.logits.mean(1, keepdim=True)
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
        low = torch.bmm(factors[labels], noise[:, :rank, None])[..., 0]
        return means[labels] + low + rest[labels] * noise[:, rank:]

    return _Sampler(make, rank + classes, classes)


def matched_epsilon(means: Tensor) -> float:
    """The epsilon of label smoothing whose targets have the mean entropy of the rows of a table (C, C)."""
    classes = len(means)
    wanted = torch.special.entr(means.double()).sum(1).mean().item()
    low, high = 0.0, 1.0
    for _ in range(50):  # entropy rises with epsilon, from 0 to ln C
        middle = (low + high) / 2
        probs = torch.full((classes,), middle / classes, dtype=torch.float64)
        probs[0] += 1 - middle
        low, high = (middle, high) if torch.special.entr(probs).sum().item() < wanted else (low, middle)
    return min(max((low + high) / 2, 1e-6), 1 - 1e-6)


def _take(draws: Tensor, which: Tensor) -> Tensor:
    """Of draws (D, N, K) the one at `which` (N,) for every row."""
    return draws.gather(0, which[None, :, None].expand(1, -1, draws.shape[2]))[0]


def _permutations(classes: int, seed: int, device: torch.device) -> Tensor:
    """(C, C) for every class a fixed order of all classes that leaves itself in place and moves the others."""
    generator = rng(seed, "shuffled classes")
    rows = []
    for label in range(classes):
        others = [other for other in range(classes) if other != label]
        mixed = [others[place] for place in torch.randperm(len(others), generator=generator).tolist()]
        rows.append([*mixed[:label], label, *mixed[label:]])
    return torch.tensor(rows, device=device)


def read_source(node: ast.expr, settings: Callable[[ast.Call], dict[str, Any]], text: str) -> Source | None:
    """A source from the syntax tree behind `@`; None for the real teacher.

    Raises:
        ConfigError: no such source or setting.
    """
    call = node if isinstance(node, ast.Call) else None
    name = call.func if call is not None else node
    require(isinstance(name, ast.Name), f"loss {text!r}: behind @ stands a source: {', '.join(('teacher', *SOURCES))}")
    assert isinstance(name, ast.Name)
    require(call is None or not call.args, f"loss {text!r}: settings of @{name.id} are written NAME=VALUE")
    if name.id == "teacher" and call is None:
        return None
    return Source(name.id, tuple(settings(call).items()) if call is not None else ())
