"""Choose from a pool: subsample by density ratio, filter by the teacher, adjust labels, spread over label groups."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from gankd.config import check_ranges, to_dict
from gankd.errors import DataError
from gankd.ranges import Count, UpToOne
from gankd.seeds import rng
from gankd.settings import explained
from gankd.subsampling.rejection import accept, budgeted_acceptance, running_max_acceptance
from gankd.synthetic.pool import SyntheticSet
from gankd.synthetic.relabel import FilterRule, keep_most_consistent
from gankd.synthetic.variety import teacher_stddevs
from gankd.tasks import Adjust, Classification, Regression

RUNNING_MAX_SHARE = 0.1
"""Assumed acceptance of rejection with a running maximum, a safe lower bound; 0.25 was measured on digits."""


@explained
@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """Choice of the generated images that a student sees, and of their labels. All combinations are allowed."""

    where: ClassVar[str] = "select."

    subsample: Literal["budget", "running_max", "none"] = "budget"
    """Subsampling by density ratio. budget: a fixed share of each label group; running_max: rejection with a running
    maximum, as published; none: keep all."""
    accept_share: UpToOne = 0.5
    """Share of each label group that `budget` keeps: 1 / K for a pool of K candidates per image."""
    burn_in: Count = 500
    """Samples per label group that set the first maximum of `running_max`."""
    keep_burn_in: bool = True
    """`running_max` judges these samples, too; published: they are thrown away."""
    judged: Count = 1
    """Samples per label group that `running_max` judges by one maximum, that of all of them and those before;
    published: a batch of 500 to 1,000."""
    per_label: bool = False
    """Subsampling works on each distinct label by itself, as published, not on ranges of values."""
    order: Literal["turns", "random"] = "turns"
    """Order in which `count` images are taken. turns: label group by label group; random: as published for values."""
    cap_quantile: UpToOne = 1.0
    """Upper limit of `running_max`, as a quantile of a label group's ratios; published: 1."""
    filter: FilterRule = "published"
    """Rule that drops images by the teacher's disagreement with the assigned label: none, published, per_group, global
    or real_calibrated (see `gankd.synthetic.relabel.keep_most_consistent`)."""
    rho: UpToOne | None = None
    """Quantile of the filter. Default: as published, 0.9 for classes, 0.7 for scalar labels."""
    adjust: Literal["auto", "none", "argmax", "soft", "prediction"] = "auto"
    """Label of a kept image. none: the assigned label; argmax, soft, prediction: the teacher's class, probabilities or
    value; auto: keeps assigned classes and replaces assigned values by the teacher's."""
    count: Count | None = None
    """M^g, the largest number of images to keep, spread evenly over label groups. Default: all that are left."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def accepted_share(self) -> float:
        """Share of a pool that subsampling leaves, at least."""
        return {"budget": self.accept_share, "running_max": RUNNING_MAX_SHARE, "none": 1.0}[self.subsample]

    @property
    def kept_share(self) -> float:
        """Share of a pool that subsampling and filter leave, at least."""
        rho = min(Classification.filter_share, Regression.filter_share) if self.rho is None else self.rho
        return self.accepted_share * (1.0 if self.filter == "none" else rho)

    @property
    def identity(self) -> dict[str, Any]:
        """These settings as plain data, without those at their default that came later than stored results."""
        settings = to_dict(self)
        later = {"keep_burn_in": True, "judged": 1, "per_label": False, "order": "turns"}
        return {name: value for name, value in settings.items() if later.get(name) != value or name not in later}

    @property
    def reads_teacher(self) -> bool:
        """True if the teacher's outputs choose images or labels."""
        return self.filter != "none" or self.adjust != "none"


@dataclass(frozen=True)
class Selection:
    """The generated images that a student sees. Their first k are the selection of `count=k`."""

    source: SyntheticSet
    index: Tensor
    """(K,) int64 positions in the pool of M images, in the order in which they were taken."""
    labels: Tensor
    """(K,) adjusted labels in user units, or (K, classes) probabilities."""
    chance: Tensor
    """(M,) probability with which the density ratio keeps each image."""
    accepted: Tensor
    """(M,) bool: kept by the density ratio."""
    consistent: Tensor
    """(M,) bool: kept by the density ratio and the teacher's filter."""
    report: dict[str, Any]
    """Plain data: counts and T.stddev after each step; per label group the acceptance, threshold, and labels before and
    after."""

    def __len__(self) -> int:
        return len(self.index)

    def images(self) -> Tensor:
        """(K, C, H, W) uint8 images, read from disk."""
        return self.source.images(self.index)

    @cached_property
    def teacher_outputs(self) -> Tensor:
        """(K, classes) float16 logits or (K,) float32 values, read from disk."""
        return self.source.teacher_outputs(self.index)


def select(
    pool: SyntheticSet,
    config: SelectConfig,
    seed: int,
    real_disagreement: Tensor | None = None,
    real_groups: Tensor | None = None,
) -> Selection:
    """Select images by their stored scores: subsample, filter, adjust labels, spread over label groups.

    Nothing is generated or scored again, so another budget or rho costs a fraction of a second.

    Args:
        pool: scored images.
        config: settings.
        seed: seed of the rejection.
        real_disagreement: (R,) the teacher's scores on held-out real images, for `filter=real_calibrated`.
        real_groups: (R,) their label groups.

    Raises:
        ConfigError: a setting does not fit (see `keep_most_consistent`).
        DataError: no image is left.
    """
    groups = pool.task.groups(pool.labels)
    num_groups = pool.task.num_groups
    chance = acceptance_chances(pool, config)
    accepted = accept(chance, seed)

    mask, thresholds = keep_most_consistent(
        pool.disagreement[accepted],
        groups[accepted],
        config.filter,
        pool.task.filter_share if config.rho is None else config.rho,
        num_groups=num_groups,
        per_class=pool.task.filter_per_group,
        real_disagreement=real_disagreement,
        real_groups=real_groups,
    )
    consistent = torch.zeros_like(accepted)
    consistent[accepted.nonzero()[:, 0][mask]] = True

    index = consistent.nonzero()[:, 0]
    if config.order == "random":
        index = index[torch.randperm(len(index), generator=rng(seed, "order of selection"))]
    else:
        index = _turn_by_turn(index, groups)
    index = index[: config.count]
    if len(index) == 0:
        raise DataError(
            f"none of {len(pool)} generated images is left after subsample={config.subsample} and "
            f"filter={config.filter}; raise accept_share or rho, or set subsample=none"
        )
    how: Adjust = pool.task.default_adjust if config.adjust == "auto" else config.adjust
    labels = pool.task.adjust(pool.teacher_outputs(index), pool.labels[index], how)

    generated = groups.bincount(minlength=num_groups)
    kept = groups[accepted].bincount(minlength=num_groups)
    report = {
        "groups": [pool.task.group_name(group) for group in range(num_groups)],
        "counts": {
            "generated": len(pool),
            "accepted": int(accepted.sum()),
            "consistent": int(consistent.sum()),
            "kept": len(index),
        },
        "teacher_stddev": teacher_stddevs(
            pool, {"generated": torch.ones_like(accepted), "accepted": accepted, "consistent": consistent}, seed
        ),
        "missing": max(0, (config.count or 0) - len(index)),
        "adjust": how,
        "acceptance": _plain(kept / generated),
        "thresholds": _plain(thresholds),
        "labels_generated": pool.task.counts(pool.labels),
        "labels_assigned": pool.task.counts(pool.labels[index]),
        "labels_adjusted": pool.task.counts(labels),
    }
    return Selection(pool, index, labels, chance, accepted, consistent, report)


def acceptance_chances(pool: SyntheticSet, config: SelectConfig) -> Tensor:
    """Probability (M,) with which subsampling keeps each image of a pool."""
    groups = pool.task.groups(pool.labels)
    thinned = pool.labels.unique(dim=0, return_inverse=True)[1] if config.per_label else groups
    if config.subsample == "budget":
        return budgeted_acceptance(pool.log_ratio, thinned, config.accept_share)
    if config.subsample == "running_max":
        return running_max_acceptance(
            pool.log_ratio,
            thinned,
            config.burn_in,
            config.cap_quantile,
            judged=config.judged,
            keep_burn_in=config.keep_burn_in,
        )
    return torch.ones(len(pool), dtype=torch.float64)


def _turn_by_turn(index: Tensor, groups: Tensor) -> Tensor:
    """Reorder ascending pool positions: the first of each group, then the second of each, and so on."""
    mine = groups[index]
    order = mine.argsort(stable=True)
    count = mine.bincount()
    start = count.cumsum(0) - count
    rank = torch.empty_like(index)
    rank[order] = torch.arange(len(index)) - start[mine[order]]
    return index[order][rank[order].argsort(stable=True)]


def _plain(values: Tensor) -> list[float | None]:
    """Numbers for JSON, which has neither infinity nor NaN."""
    return [value if abs(value) < float("inf") else None for value in values.tolist()]
