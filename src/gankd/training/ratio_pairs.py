"""Pairs of real and generated samples of like labels, and which samples are held out."""

import torch
from torch import Tensor

from gankd.seeds import rng
from gankd.tasks import Task

NEAREST = 16
"""A real label is paired with generated samples of equal label and, where these are fewer, of the nearest labels."""


class Pairs:
    """Random (real, fake) index pairs of like labels, evenly over the label groups that have both.

    Relies on groups that rise with the label, as classes and bins of one value do. Labels of several values have no
    order: those of generated samples are searched for the nearest ones, by distance on the [0, 1] scale.
    """

    def __init__(self, task: Task, real: Tensor, fake: Tensor, use_real: Tensor, use_fake: Tensor) -> None:
        one = real.ndim == 1
        self._real, self._fake = (
            index[(labels if one else task.groups(labels))[index].argsort(stable=True)]
            for labels, index in ((real, use_real.nonzero()[:, 0]), (fake, use_fake.nonzero()[:, 0]))
        )
        y, z = real[self._real], fake[self._fake]  # labels in rising order, or those of several values group by group
        self._count = task.groups(y).bincount(minlength=task.num_groups)
        self._start = self._count.cumsum(0) - self._count
        fakes = task.groups(z).bincount(minlength=task.num_groups)
        self._groups = ((self._count > 0) & (fakes > 0)).nonzero()[:, 0]
        self.groups = len(self._groups)
        if not one:
            self._low, self._high, self._fake = _nearest(task, y, z, self._fake)
            return

        # Generated samples of equal label, widened to at least NEAREST by neighbours in label order within the group.
        low, high = torch.searchsorted(z, y, right=False), torch.searchsorted(z, y, right=True)
        missing = (NEAREST - (high - low)).clamp_min(0)
        end = fakes.cumsum(0)[task.groups(y)]
        self._low = torch.maximum(low - (missing + 1) // 2, end - fakes[task.groups(y)])
        self._high = torch.minimum(high + (missing + 1) // 2, end)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` real and as many generated indices (on the CPU)."""
        turn = torch.randperm(self.groups, generator=generator)
        group = self._groups[turn[torch.arange(count) % self.groups]]
        which, whose = torch.rand(2, count, generator=generator, dtype=torch.float64)
        # Places in label order, so that a group is a range and its nearest labels are neighbours.
        real = self._start[group] + (which * self._count[group]).long()
        low = self._low[real]
        return self._real[real], self._fake[low + (whose * (self._high[real] - low)).long()]


class ByLabel:
    """Random indices of samples, evenly over their distinct labels (N,) or (N, n)."""

    def __init__(self, labels: Tensor, use: Tensor) -> None:
        index = use.nonzero()[:, 0]
        label = labels[index].unique(dim=0, return_inverse=True)[1]
        self._index, self._count = index[label.argsort(stable=True)], label.bincount()
        self._start = self._count.cumsum(0) - self._count

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` indices (on the CPU)."""
        turn = torch.randperm(len(self._count), generator=generator)
        label = turn[torch.arange(count) % len(turn)]
        which = torch.rand(count, generator=generator, dtype=torch.float64)
        return self._index[self._start[label] + (which * self._count[label]).long()]


def _nearest(task: Task, y: Tensor, z: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Range (N,), (N,) of each real label (N, n) in an index that lists the `NEAREST` fakes of its own group, nearest
    first; and that index.
    """
    from scipy.spatial import cKDTree

    labels, others, groups = task.targets(y).numpy(), task.targets(z).numpy(), task.groups(z)
    low, high = torch.zeros(len(y), dtype=torch.int64), torch.zeros(len(y), dtype=torch.int64)
    lists: list[Tensor] = []
    length = 0
    for group in groups.unique().tolist():
        mine = (task.groups(y) == group).nonzero()[:, 0]
        theirs = (groups == group).nonzero()[:, 0]
        nearest = min(NEAREST, len(theirs))
        found = cKDTree(others[theirs.numpy()]).query(labels[mine.numpy()], k=range(1, nearest + 1))[1]  # (N, nearest)
        lists.append(fake[theirs[torch.from_numpy(found)]].flatten())
        low[mine] = length + nearest * torch.arange(len(mine))
        high[mine] = low[mine] + nearest
        length += len(lists[-1])
    return low, high, torch.cat(lists)


def held_out(groups: Tensor, share: float, seed: int, name: str) -> Tensor:
    """(N,) bool: about `share` of each group, at random, and never a group's only sample."""
    shuffled = torch.randperm(len(groups), generator=rng(seed, "ratio", "held-out", name))
    order = shuffled[groups[shuffled].argsort(stable=True)]  # by group, at random within
    count = groups.bincount()
    # Rank of each sample within its group.
    rank = torch.arange(len(order)) - (count.cumsum(0) - count)[groups[order]]
    late = torch.minimum((share * count).round().long().clamp_min(1), count - 1)
    return torch.empty(len(groups), dtype=torch.bool).scatter(0, order, rank < late[groups[order]])
