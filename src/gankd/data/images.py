"""Labelled images in memory, and the three splits that every recipe starts from."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gankd.errors import DataError
from gankd.tasks import Task


@dataclass(frozen=True)
class LabelledImages:
    """uint8 images (N, C, H, W) with labels (N,), or (N, n) of n values, in user units, on one device.

    Raises:
        DataError: wrong type or shape, no images, or labels outside the task's range.
    """

    images: Tensor
    labels: Tensor
    task: Task

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(f"images must be uint8 (N, C, H, W), got {self.images.dtype} {tuple(self.images.shape)}")
        if len(self.images) == 0:
            raise DataError("a data set needs at least one image, got none")
        shape = (len(self.images), *self.task.label_shape)
        if self.labels.shape != shape or self.labels.dtype != self.task.label_dtype:
            raise DataError(
                f"labels must be {self.task.label_dtype} {shape}, got {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        self.task.check_labels(self.labels)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"<{len(self)} images {'x'.join(map(str, self.shape))}, {self.task.description}>"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def subset(self, index: Tensor) -> "LabelledImages":
        """Images at `index` (indices or a mask)."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def to(self, device: torch.device | str) -> "LabelledImages":
        """These images on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    @cached_property
    def pixel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and spread (C,) of each channel's pixels on the [0, 1] scale, float64 on the CPU; computed once."""
        counts = torch.zeros(self.images.shape[1], 256, dtype=torch.int64)
        for part in self.images.split(256):  # small enough for the cache
            counts += torch.stack([channel.flatten().bincount(minlength=256) for channel in part.unbind(1)]).cpu()
        levels = torch.arange(256).float().div(255).double()  # the values that networks read
        total = counts.double() @ torch.stack([levels, levels.square()], 1)  # (C, 2)
        mean, square = (total / counts[0].sum()).unbind(1)
        return mean, (square - mean**2).clamp_min(0).sqrt()

    def fingerprint(self) -> str:
        """Hash of pixels, labels and task: equal for equal data under any name."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.task, tuple(self.images.shape))).encode())
        digest.update(self.images.cpu().contiguous().numpy().data)
        digest.update(self.labels.cpu().contiguous().numpy().data)
        return digest.hexdigest()


def concat(*parts: LabelledImages) -> LabelledImages:
    """Join data sets of one task and one image shape."""
    return LabelledImages(
        torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]), parts[0].task
    )


def join(first: LabelledImages, second: LabelledImages) -> LabelledImages:
    """Two data sets as one; no pixel is copied if the second's follow the first's in memory or in one file."""
    images, rest = first.images, second.images
    apart = (
        images.untyped_storage().data_ptr() != rest.untyped_storage().data_ptr()
        or not (images.is_contiguous() and rest.is_contiguous())
        or rest.storage_offset() != images.storage_offset() + images.numel()
    )
    if apart:
        return concat(first, second)
    both = images.as_strided((len(images) + len(rest), *images.shape[1:]), images.stride(), images.storage_offset())
    return LabelledImages(both, torch.cat([first.labels, second.labels]), first.task)


@dataclass(frozen=True)
class Splits:
    """Training, validation (chooses settings) and test images (read once, at the end)."""

    train: LabelledImages
    val: LabelledImages
    test: LabelledImages
    name: str
    card: dict[str, Any] = field(default_factory=dict)
    """Facts for the report: origin, licence, how it was split."""
    unlabelled: Tensor | None = None
    """uint8 images (M, C, H, W) of the user's without labels, which only the teacher labels; none is in a split."""

    def __repr__(self) -> str:
        counts = f"{len(self.train)} train, {len(self.val)} val, {len(self.test)} test"
        return f"<splits {self.name}: {counts} images {'x'.join(map(str, self.train.shape))}, {self.task.description}>"

    @property
    def task(self) -> Task:
        """Task of all three splits."""
        return self.train.task

    def to(self, device: torch.device | str) -> "Splits":
        """These splits on another device."""
        return replace(self, train=self.train.to(device), val=self.val.to(device), test=self.test.to(device))

    def fingerprint(self) -> str:
        """Hash of all three splits; images without labels are not part of it."""
        parts = (self.train, self.val, self.test)
        return hashlib.blake2b("".join(p.fingerprint() for p in parts).encode(), digest_size=16).hexdigest()
