"""Scarce settings: fewer training images, rare and missing labels, and labels that are partly wrong."""

import torch
from torch import Tensor

from gankd.config import require
from gankd.data.images import LabelledImages
from gankd.seeds import rng


def scarce(
    train: LabelledImages,
    *,
    num_train: int | None = None,
    per_label: int | None = None,
    tail: float = 1.0,
    gap: int = 1,
    label_noise: float = 0.0,
    seed: int = 0,
) -> LabelledImages:
    """Fewer images and noisier labels of a training split; validation and test splits stay as they are.

    Nested: with all else equal, a smaller `num_train` or `per_label` keeps a subset of what a larger one
    keeps, and an image's noise is drawn once, so a learning curve adds images and changes little else.

    Args:
        train: the training split.
        num_train: images kept in total, stratified over `task.groups`: one of each group first, then every
            group in proportion to its size.
        per_label: images kept, at most, of each class or value; of each of `task.groups` where values hardly
            repeat (fewer than two images per value on average). Applied before `num_train`.
        tail: images of the first of `task.groups` in units of those of the last, where these had equally many; the
            number falls exponentially in between [1]. 1 leaves all. Applied before `per_label`.
        gap: only the first of so many consecutive labels keeps its images, so that a student meets labels that it was
            never trained on; labels are distinct values, or 48 equal parts of the range where values hardly repeat. 1
            leaves all. Applied first, to values only.
        label_noise: for classes the share of kept labels, to the nearest image, that become another class,
            all others equally likely; for a regression the standard deviation of Gaussian noise as a share of
            high - low, clipped to [low, high].
        seed: draws images and noise.

    Returns:
        The kept images in their old order, pixels untouched.

    Raises:
        ConfigError: more images are asked for than there are, or a setting is out of range.

    [1] Cao, Wei, Gaidon, Arechiga, Ma. Learning imbalanced datasets with label-distribution-aware margin loss. NeurIPS
        2019, section 4.
    """
    require(num_train is None or num_train >= 1, f"num_train must be at least 1, got {num_train}")
    require(per_label is None or per_label >= 1, f"per_label must be at least 1, got {per_label}")
    require(tail >= 1, f"tail must be at least 1, got {tail}")
    require(gap >= 1, f"gap must be at least 1, got {gap}")
    require(0 <= label_noise <= 1, f"label_noise must lie in [0, 1], got {label_noise}")

    labels = train.labels.cpu()
    shuffled = torch.randperm(len(labels), generator=rng(seed, "scarce", "order"))
    if gap > 1:
        shuffled = shuffled[train.task.consecutive(labels)[shuffled] % gap == 0]
    if tail > 1:
        groups = train.task.groups(labels)[shuffled]
        count = groups.bincount(minlength=train.task.num_groups)
        place = torch.arange(len(count)) / max(1, len(count) - 1)  # 0 for the first group, 1 for the last
        left = (count * tail**-place).round().clamp_min(1).long()
        shuffled = shuffled[_rank(groups) < left[groups]]
    if per_label is not None:
        units = _units(train, labels)
        most = int(units.bincount().max())
        require(per_label <= most, f"per_label is {per_label}, but no label has more than {most} training images")
        shuffled = shuffled[_rank(units[shuffled]) < per_label]

    groups = train.task.groups(labels)[shuffled]
    share = _rank(groups).double() / groups.bincount()[groups]
    order = shuffled[share.sort(stable=True).indices]  # its first n images are stratified, for any n
    if num_train is not None:
        require(
            num_train <= len(order),
            f"num_train is {num_train}, but there are {len(order)} training images"
            + ("" if per_label is None else f" with per_label {per_label}"),
        )
        order = order[:num_train]

    kept = order.sort().values
    noisy = train.task.add_noise(labels, kept, label_noise, rng(seed, "scarce", "noise"))[kept]
    device = train.labels.device
    images = train.images if len(kept) == len(train) else train.images[kept.to(device)]  # a mapped file stays one
    return LabelledImages(images, noisy.to(device), train.task)


def _units(train: LabelledImages, labels: Tensor) -> Tensor:
    """Unit (N,) that `per_label` counts: the label, or its group if labels hardly repeat."""
    values, units = labels.unique(dim=0, return_inverse=True)
    return units if len(labels) >= 2 * len(values) else train.task.groups(labels)


def _rank(groups: Tensor) -> Tensor:
    """Number of earlier entries of the same group, for each entry (N,)."""
    order = groups.sort(stable=True).indices
    counts = groups.bincount()
    rank = torch.empty_like(groups)
    rank[order] = torch.arange(len(groups)) - (counts.cumsum(0) - counts)[groups[order]]
    return rank
