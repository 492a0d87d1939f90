"""Target sources in training: targets for the images of a step, by policy."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from gankd.config import require
from gankd.errors import ConfigError
from gankd.seeds import rng
from gankd.tasks import Task
from gankd.virtual.networks import read_table
from gankd.virtual.samplers import make_sampler
from gankd.virtual.sources import CHOOSING, FOR_VALUES, Source
from gankd.virtual.teacher import VirtualTeacher, quantiles

CANDIDATES = 4
"""Samples from which agree=reject chooses."""
LARGEST_BLOCK = 1 << 22
"""Numbers sampled ahead at once, at most."""


class SourceReader(nn.Module):
    """One target source ready for training: targets for the images of a step.

    Args:
        source: name and settings.
        virtual: the virtual teacher; may be None where the label is enough.
        task: of the labels.
        labels: (M,) of all training images, generated ones last: classes, or values on the [0, 1] scale.
        seed: of the noise.

    Raises:
        ConfigError: something that the source needs is missing, or it is for classes only.
    """

    confidence: Tensor
    quantile: Tensor

    def __init__(self, source: Source, virtual: VirtualTeacher | None, task: Task, labels: Tensor, seed: int) -> None:
        super().__init__()
        _check_available(source, virtual, task)
        self.source, self.settings, self.seed, self.labels = source, source.chosen, seed, labels
        self.temperature = 1.0 if virtual is None else virtual.temperature
        self._hints = None if virtual is None else virtual.hints
        self._sampler = make_sampler(source, virtual, task)
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
            step: number of the update, on which the noise depends.
            index: (N,) numbers of the training images.
            outputs: (N, K) logits of the student for them, or its values (N,); read by best and rank only.
            upcoming: gives the index of any step; samples are then made for many steps at once.
        """
        policy = self.settings.get("policy", "fresh")
        if policy in ("fresh", *CHOOSING):
            draws = self._fresh(step, index, upcoming)  # (D, N, K)
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
        elif len(draws) > 1:  # KD to several samples has the gradient of KD to their mean
            chosen = self.temperature * (draws / self.temperature).softmax(2).mean(0).clamp_min(1e-12).log()
        else:
            chosen = draws[0]
        return chosen if self._shuffled is None else chosen.gather(1, self._shuffled[labels])

    # --- samples --------------------------------------------------------------------------------------------

    @property
    def _candidates(self) -> int:
        return CANDIDATES if self.settings.get("agree") == "reject" else int(self.settings.get("draws", 1))

    def _fresh(self, step: int, index: Tensor, upcoming: Callable[[int], Tensor] | None) -> Tensor:
        """Samples (D, N, K); those of step k depend only on (seed, k), also when many steps are sampled at once."""
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
        """Noise (N, W) of each image, the same at every step or for one pass over the data."""
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
        """The sample q of least KL(q || student), both at the temperature; for values, of least distance to it."""
        log_q = (draws / self.temperature).log_softmax(2)
        if outputs.ndim == 1:
            centres = (torch.arange(draws.shape[2], device=draws.device) + 0.5) / draws.shape[2]
            distance = (log_q.exp() @ centres - outputs).abs()
        else:
            log_p = (outputs.float() / self.temperature).log_softmax(1)
            distance = (log_q.exp() * (log_q - log_p)).sum(2)
        return _take(draws, distance.argmin(0))

    def _ranked(self, draws: Tensor, labels: Tensor, index: Tensor, outputs: Tensor, step: int) -> Tensor:
        """The sample at the image's quantile within its class, samples sorted by the probability of the label."""
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
        """The sample nearest to the quantile of the image's hint, among those with its runner-up if there are any.

        Generated images have no hint and take the first sample.
        """
        assert self._hints is not None
        at = index.clamp_max(len(self._hints.rank) - 1)
        own = labels.expand(len(draws), -1)[..., None]
        place = ((draws / self.temperature).softmax(2).gather(2, own)[..., 0].argsort(0).argsort(0) + 0.5) / len(draws)
        runner_up = draws.scatter(2, own, float("-inf")).argmax(2)
        cost = (place - self._hints.rank[at] / 255).abs() + (runner_up != self._hints.runner_up[at])
        return _take(draws, torch.where(index < len(self._hints.rank), cost.argmin(0), 0))

    def _agreeing(self, draws: Tensor, labels: Tensor) -> Tensor:
        """A sample whose likeliest class is the label.

        reject takes the first such sample, or the table if there is none; swap exchanges the two probabilities.
        """
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
    """All target sources of an objective; their memory is in `state_dict`.

    Args:
        wanted: inputs of losses as "teacher_logits@virtual", by source.
        virtual, task, labels, seed: see `SourceReader`.

    Raises:
        ConfigError: a source lacks what it needs, or a loss for values reads something other than distributions.
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
            # Distributions over bins of values are not logits that another loss could read as a value.
            if not task.has_classes and any(not name.startswith("teacher_distribution") for name in names):
                raise ConfigError(
                    f"for values @{source.name} gives only distributions; write Distribution@{source.name}"
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
            stored: rows with stored logits of the real teacher, and these logits; used by sources with stored=True.
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


def _check_available(source: Source, virtual: VirtualTeacher | None, task: Task) -> None:
    """Raise ConfigError if something that the source needs is missing, or it is for classes only."""
    settings = source.chosen
    if virtual is None and source.needs_virtual:
        raise ConfigError(f"@{source.name} needs a virtual teacher, and none is given; train one: gankd vkd train")
    if source.needs_bank and (virtual is None or virtual.bank is None):
        raise ConfigError(
            f"@{source.name} needs stored outputs of the real teacher, which only the run that made it keeps"
        )
    for what, needs_classes in {
        f"@{source}: {settings.get('policy')}": settings.get("policy") in ("rank", "hint"),
        f"@{source}: agree": settings.get("agree", "keep") != "keep",
        f"@{source}: shuffle": settings.get("shuffle", False),
        f"@{source}: stored": settings.get("stored", False),
        f"@{source.name}": source.name not in FOR_VALUES,
    }.items():
        # Order of logits, agreement with a class and stored logits have no meaning for values.
        require(task.has_classes or not needs_classes, f"{what} is for classes, the labels are values")
    if settings.get("policy") == "hint" and (virtual is None or virtual.hints is None):
        raise ConfigError(f"@{source}: only the teacher's own run keeps hints of the training images")


def _take(draws: Tensor, which: Tensor) -> Tensor:
    """Sample `which` (N,) of each row, from samples (D, N, K)."""
    return draws.gather(0, which[None, :, None].expand(1, -1, draws.shape[2]))[0]


def _permutations(classes: int, seed: int, device: torch.device) -> Tensor:
    """(C, C) a fixed order of all classes for every class, which stays in place while the others move."""
    generator = rng(seed, "shuffled classes")
    rows = []
    for label in range(classes):
        others = [other for other in range(classes) if other != label]
        mixed = [others[place] for place in torch.randperm(len(others), generator=generator).tolist()]
        rows.append([*mixed[:label], label, *mixed[label:]])
    return torch.tensor(rows, device=device)
