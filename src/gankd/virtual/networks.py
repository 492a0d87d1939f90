"""Generator and discriminator of output distributions, given a class or a value on the [0, 1] scale."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gankd.tasks import Task

DiscriminatorInput = Literal["sqrt", "p", "clr"]

GRID = 256
"""Number of rows of a table over a continuous label."""
FREQUENCIES = 8
"""Number of frequencies of the Fourier features of a continuous label."""


def table_rows(task: Task) -> int:
    """Number of rows of a table over labels: one per class, or one per point of a grid over [0, 1]."""
    return task.distribution_size(GRID)


class LabelTable(nn.Module):
    """A row of numbers for every label: looked up for classes, linearly interpolated for values.

    Args:
        task: of the labels.
        width: numbers per row.
    """

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(table_rows(task), width))

    def forward(self, labels: Tensor) -> Tensor:
        """(N, width) for classes (N,), or values (N,) on the [0, 1] scale."""
        return read_table(self.rows, labels)


def read_table(rows: Tensor, labels: Tensor) -> Tensor:
    """Rows (N, W) of a table (R, W) for classes (N,), or for values (N,) in [0, 1] between its rows."""
    if not labels.is_floating_point():
        return rows[labels]
    place = labels.clamp(0, 1) * (len(rows) - 1)
    below = place.floor().clamp_max(len(rows) - 2).long()
    return torch.lerp(rows[below], rows[below + 1], (place - below)[:, None])


class LabelCode(nn.Module):
    """Label as a vector: an embedding of classes, or a small network on Fourier features of a value.

    Args:
        task: of the labels.
        width: of the vector.
        normed: bound the Lipschitz constant by spectral normalisation.
    """

    def __init__(self, task: Task, width: int, *, normed: bool = False) -> None:
        super().__init__()
        wrap = spectral_norm if normed else _as_it_is
        self.code: nn.Module
        if task.has_classes:  # classes have no order that Fourier features could use
            self.code = wrap(nn.Embedding(table_rows(task), width))
        else:
            inputs = 1 + 2 * FREQUENCIES
            self.code = nn.Sequential(wrap(nn.Linear(inputs, width)), nn.LeakyReLU(0.2), wrap(nn.Linear(width, width)))

    def forward(self, labels: Tensor) -> Tensor:
        """(N, width) for classes (N,), or values (N,) on the [0, 1] scale."""
        if not labels.is_floating_point():
            return self.code(labels)
        angles = math.pi * labels[:, None] * torch.arange(1, FREQUENCIES + 1, device=labels.device)
        return self.code(torch.cat([labels[:, None], angles.sin(), angles.cos()], 1))


def _as_it_is(module: nn.Module) -> nn.Module:
    return module


class KnowledgeGenerator(nn.Module):
    """Noise and a label to centred logits of a softened output: softmax(g) is at the teacher's temperature.

        g = W3 h(z, y) + B[y], less its mean

    The table B carries the mean of each label, so that the network only has to learn the spread about it.

    Args:
        task: of the labels.
        num_outputs: K, classes or bins.
        z_dim: size of the noise.
        width: of the two hidden layers.
        mean_table: add the table B.
    """

    def __init__(self, task: Task, num_outputs: int, z_dim: int, width: int, *, mean_table: bool = True) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.code = LabelCode(task, z_dim)
        self.hidden = nn.Sequential(
            nn.Linear(2 * z_dim, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2)
        )
        self.last = nn.Linear(width, num_outputs, bias=False)
        self.table = LabelTable(task, num_outputs) if mean_table else None

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Centred logits (N, K) for noise (N, Z) and classes, or values on the [0, 1] scale, (N,)."""
        logits: Tensor = self.last(self.hidden(torch.cat([z, self.code(labels)], 1)))
        if self.table is not None:
            logits = logits + self.table(labels)
        return logits - logits.mean(1, keepdim=True)

    @torch.no_grad()
    def start_at(self, mean_probs: Tensor) -> None:
        """Start at a table (R, K) of mean probabilities, with a tenth of the usual spread about it."""
        if self.table is not None:
            log = mean_probs.clamp_min(1e-8).log()
            self.table.rows.copy_(log - log.mean(1, keepdim=True))
            self.last.weight.mul_(0.1)


class KnowledgeDiscriminator(nn.Module):
    """Score of probabilities (N, K) given their labels (N,), by projection.

        D(p, y) = psi . phi(f(p)) + code(y) . phi(f(p))

    Projection: Miyato, Koyama. cGANs with projection discriminator. ICLR 2018. Spectral normalisation: Miyato et al.
    ICLR 2018.

    Args:
        task: of the labels.
        num_outputs: K.
        width: of the two hidden layers.
        reads: f; sqrt is sqrt(K p), bounded and steadying the variance of small probabilities; p is K p; clr is
            log p less its mean.
        normed: spectral normalisation of every layer.
    """

    def __init__(
        self, task: Task, num_outputs: int, width: int, *, reads: DiscriminatorInput = "sqrt", normed: bool = True
    ) -> None:
        super().__init__()
        wrap = spectral_norm if normed else _as_it_is
        self.reads = reads
        self.first = wrap(nn.Linear(num_outputs, width))
        self.second = wrap(nn.Linear(width, width))
        self.psi = wrap(nn.Linear(width, 1))
        self.code = LabelCode(task, width, normed=normed)

    def forward(self, probs: Tensor, labels: Tensor) -> Tensor:
        """Scores (N,)."""
        count = probs.shape[1]
        if self.reads == "sqrt":
            x = (count * probs).clamp_min(1e-12).sqrt()
        elif self.reads == "p":
            x = count * probs
        else:
            log = probs.clamp_min(1e-8).log()
            x = log - log.mean(1, keepdim=True)
        phi = F.leaky_relu(self.second(F.leaky_relu(self.first(x), 0.2)), 0.2)  # (N, width)
        return self.psi(phi)[:, 0] + (self.code(labels) * phi).sum(1)
