"""Vicinal sampling for GANs with a scalar label: HVDL and SVDL of CcGAN, on labels scaled to [0, 1].

Few real images share an exact label, so the discriminator sees, for a target label t, real images whose
labels lie near t (the vicinity) and fakes made for labels near t, weighted by how near:

    hard (HVDL)  |y - t| <= kappa, weight 1
    soft (SVDL)  weight exp(-nu (y - t)^2), 0 where it falls below 0.001; nu = 1 / kappa^2

Source: Ding, Wang, Xu, Welch, Wang. CcGAN: continuous conditional generative adversarial networks. ICLR 2021,
eq. 9, 10. As in the authors' code and unlike eq. 10, weights are not divided by their sum over the window.
Everything here stays on the CPU, where the search for empty windows needs no device synchronisation.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gankd.config import require
from gankd.errors import DataError

VicinityKind = Literal["hard", "soft"]

_SMALLEST_WEIGHT = 1e-3
"""Soft weights below this count as zero."""

_ROUNDS = 16
"""Number of times that a target with an empty window gets new noise before it is used without noise."""


def sigma_rule_of_thumb(labels01: Tensor) -> float:
    """Width of the label noise, 1.06 std N^(-1/5), with the population std; labels (N,) in [0, 1]."""
    return 1.06 * float(labels01.double().std(correction=0)) * math.pow(len(labels01), -0.2)


def kappa_base(labels01: Tensor) -> float:
    """Largest gap between neighbouring distinct labels (N,) in [0, 1]; of labels (N, n), the largest distance of one to
    its nearest other one.

    Raises:
        DataError: there are no two distinct labels.
    """
    distinct = labels01.double().unique(dim=0)
    if len(distinct) < 2:
        raise DataError(
            f"all {len(labels01)} training labels are equal; a vicinity needs at least 2 distinct labels: "
            "check the label column, or train a generator without labels"
        )
    if distinct.ndim == 1:
        return float(distinct.diff().max())
    from scipy.spatial import cKDTree

    points = distinct.cpu().numpy()
    return float(cKDTree(points).query(points, k=2)[0][:, 1].max())


class VicinalDraw(NamedTuple):
    """Batch of a discriminator step: B targets, with one real image and one fake label for each."""

    target: Tensor
    """(B,) float32 condition of the discriminator for both images, (B, n) of labels of n values; noise may move it out
    of [0, 1]."""
    real_index: Tensor
    """(B,) int64 index of the real image."""
    real_weight: Tensor
    """(B,) float32 in [0.001, 1]."""
    fake_label: Tensor
    """(B,) or (B, n) float32 in [0, 1], condition of the generator."""
    fake_weight: Tensor
    """(B,) float32 in [0.001, 1]."""


@dataclass(frozen=True, eq=False)
class Vicinity:
    """Sorted training labels, for fast window search. Made by `Vicinity.fit`."""

    labels: Tensor
    """(N,) ascending; float64, so that window edges do not depend on rounding."""
    order: Tensor
    """(N,) int64 original position of each sorted label."""
    distinct: Tensor
    """(K,) float64 distinct labels."""
    kind: VicinityKind
    sigma: float
    """Standard deviation of the noise on targets."""
    kappa: float
    """Half-width of the hard vicinity, 1 / sqrt(nu) of the soft one."""
    nu: float
    """Decay of the weights; 0 for hard, whose weights are all one."""
    radius: float
    """Half-width of the window."""

    @classmethod
    def fit(
        cls,
        labels01: Tensor,
        kind: VicinityKind,
        sigma: float | None = None,
        kappa: float | None = None,
        m: float = 2.0,
    ) -> "Vicinity":
        """Sort the labels and set the widths.

        Args:
            labels01: (N,) labels in [0, 1].
            kind: shape of the vicinity.
            sigma: standard deviation of the noise on targets; default: `sigma_rule_of_thumb`.
            kappa: half-width of the hard vicinity, 1 / sqrt(nu) of the soft one; default: m `kappa_base`.
            m: multiple of the largest label gap. Published: 1 and 2 (UTKFace), 5 (SteeringAngle), 2 (RC-49).

        Raises:
            ConfigError: a setting is out of range.
            DataError: all labels are equal.
        """
        require(kind in ("hard", "soft"), f"the vicinity must be hard or soft, got {kind!r}")
        require(sigma is None or 0 <= sigma <= 1, f"sigma must lie in [0, 1] (labels do), got {sigma}")
        require(kappa is None or 0 < kappa <= 1, f"kappa must lie in (0, 1] (labels do), got {kappa}")
        require(0 < m < math.inf, f"m must be a positive number, got {m}")
        labels01 = labels01.detach().cpu().double()
        by_rule = m * kappa_base(labels01)  # refuses equal labels, also when kappa is given
        kappa = by_rule if kappa is None else kappa
        nu, radius = 0.0, kappa
        if kind == "soft":
            nu = 1 / kappa**2
            radius = math.sqrt(-math.log(_SMALLEST_WEIGHT) / nu)
        labels, order = labels01.sort(stable=True)
        return cls(
            labels=labels,
            order=order,
            distinct=labels.unique_consecutive(),
            kind=kind,
            sigma=sigma_rule_of_thumb(labels01) if sigma is None else sigma,
            kappa=kappa,
            nu=nu,
            radius=radius,
        )

    def window(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Sorted positions [first, last), (B,) int64 each, of the labels within `radius` of (B,) targets."""
        first = torch.searchsorted(self.labels, targets - self.radius)
        last = torch.searchsorted(self.labels, targets + self.radius, right=True)
        return first, last

    def draw(self, count: int, generator: torch.Generator) -> VicinalDraw:
        """Draw one discriminator batch of `count` targets; `generator` is a CPU generator.

        Targets are balanced over the distinct labels, plus noise. A target with no real label in its window
        gets new noise, and after 16 rounds no noise. The real image is uniform over the window, the fake label
        uniform over the part of the window within [0, 1].
        """
        centre = self._pick_distinct(count, generator)
        target = centre + self._noise(count, generator)
        first, last = self.window(target)
        for round_ in range(_ROUNDS + 1):
            (empty,) = (first == last).nonzero(as_tuple=True)
            if len(empty) == 0:
                break
            # a label is within its own window, so no window is empty after the round without noise
            noise = self._noise(len(empty), generator) if round_ < _ROUNDS else 0.0
            target[empty] = centre[empty] + noise
            first[empty], last[empty] = self.window(target[empty])

        uniform = torch.rand((2, count), generator=generator, dtype=torch.float64)
        position = first + (uniform[0] * (last - first)).long()
        low = (target - self.radius).clamp(0, 1)
        high = (target + self.radius).clamp(0, 1)
        fake_label = low + uniform[1] * (high - low)
        return VicinalDraw(
            target=target.float(),
            real_index=self.order[position],
            real_weight=self._weight(self.labels[position] - target),
            fake_label=fake_label.float(),
            fake_weight=self._weight(fake_label - target),
        )

    def draw_targets(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw (count,) float32 labels for a generator step: distinct labels plus noise, which may leave [0, 1]."""
        return (self._pick_distinct(count, generator) + self._noise(count, generator)).float()

    def _pick_distinct(self, count: int, generator: torch.Generator) -> Tensor:
        return self.distinct[torch.randint(len(self.distinct), (count,), generator=generator)]

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        return self.sigma * torch.randn(count, generator=generator, dtype=torch.float64)

    def _weight(self, distance: Tensor) -> Tensor:
        return (-self.nu * distance.square()).exp().float()
