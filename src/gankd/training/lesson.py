"""Lesson of a student, images and losses, and the settings of its training."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gankd.config import require
from gankd.models.contract import ImageModel
from gankd.ranges import Count, UpToOne
from gankd.settings import explained
from gankd.training.objective import Objective
from gankd.training.supervised import SupervisedConfig
from gankd.virtual import VirtualTeacher

NewStudent = Callable[[str, int], ImageModel]
"""(name or "" for the student's own architecture, seed) -> a student with new random weights."""


@explained
@dataclass(frozen=True, kw_only=True)
class DistillConfig(SupervisedConfig):
    """Settings of a student's training."""

    fake_share: UpToOne = 0.5
    """Share of generated images in each batch, where there are any."""
    fake_until: UpToOne = 1.0
    """Share of the updates with generated images; batches after it are all of real images."""
    fake_choices: Count = 1
    """Generated images drawn for each one in a batch: those are taken that the student fits least."""
    kd_on: Literal["both", "real", "fake"] = "both"
    """Images on which losses that read the teacher work."""
    views: Literal["online"] | int = "online"
    """Number of augmented views: online augments afresh at every step; K makes K views of each image once, so that the
    teacher's outputs for them can be stored."""
    compile: bool = False
    """Compile student and teacher by torch.compile, with what losses read of them; pays on a GPU in long trainings."""
    store_features: bool = False
    """Also store the teacher's features for images or views that stay the same; its outputs always are."""
    student_taps: tuple[str, ...] = ()
    """Modules of the student whose feature maps are paired in this order with those of the teacher, as dotted paths;
    default: stage boundaries, see `gankd inspect`."""
    teacher_taps: tuple[str, ...] = ()
    """Modules of the teacher for `student_taps`, as dotted paths; default: stage boundaries."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            round(self.fake_share * self.batch_size) >= 1,
            f"fake_share {self.fake_share} of batch_size {self.batch_size} is less than one image",
        )
        require(
            self.fake_until == 1 or self.kd_on == "both",
            f"{self.where}fake_until={self.fake_until:g} ends with real images, so {self.where}kd_on must be both, "
            f"got {self.kd_on}",
        )
        require(
            self.views == "online" or self.views >= 1,
            f"{self.where}views must be online or at least 1, got {self.views}",
        )
        require(
            self.views == "online" or bool(self.augment),
            f"{self.where}views={self.views} needs an augmentation to draw; set {self.where}augment",
        )
        require(
            self.mix == "none" or self.views == "online",
            f"{self.where}mix={self.mix} makes new images at every step, so {self.where}views must be online, "
            f"got {self.views}",
        )
        require(
            self.mix == "none" or self.kd_on == "both",
            f"{self.where}mix={self.mix} joins real and generated images, so {self.where}kd_on must be both, "
            f"got {self.kd_on}",
        )

    @property
    def generated_seen(self) -> int:
        """Generated images in all batches of a training, and those that are drawn for them but not taken."""
        in_batch = round(self.fake_share * self.batch_size)
        return round(self.fake_until * self.updates) * in_batch * self.fake_choices

    @property
    def identity(self) -> dict[str, Any]:
        """These settings as plain data, without those that choose generated images where all are taken alike."""
        settings = super().identity
        for name in ("fake_until", "fake_choices"):
            if settings[name] == 1:
                del settings[name]
        return settings


@dataclass(frozen=True)
class Fakes:
    """Generated images for a student: uint8 images (M, C, H, W) and labels (M,) or class probabilities (M, K)."""

    images: Tensor
    labels: Tensor
    teacher_outputs: Tensor | None = None
    """(M,) or (M, K) in user units, from the same teacher that the student learns from; default: computed."""
    folder: Path | None = None
    """Folder that keeps other outputs of the teacher for the next student."""
    every_view: bool = False
    """The outputs count for every view of an image: the teacher is not there to look at views."""

    def to(self, device: torch.device) -> "Fakes":
        """These images on another device."""
        outputs = None if self.teacher_outputs is None else self.teacher_outputs.to(device)
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), teacher_outputs=outputs)


@dataclass(frozen=True)
class Lesson:
    """Losses of a student, and everything that they read besides images and labels.

        Lesson("KD + FitNet", teacher=teacher)

    Raises:
        ConfigError: `loss` is not a sum of losses.
    """

    loss: Objective | str = "Label"
    """The losses; the label loss joins them where they name none."""
    teacher: ImageModel | None = None
    """Read where a loss asks for it: frozen, in eval mode, with its own normalisation."""
    virtual: VirtualTeacher | None = None
    """Read by losses written as LOSS@virtual, and by other target sources."""
    new_student: NewStudent | None = None
    """Makes further networks, for losses that train peers of the student."""
    folder: Path | None = None
    """Folder that keeps the teacher's outputs for real images for the next student."""

    def __post_init__(self) -> None:
        if isinstance(self.loss, str):
            Objective.parse(self.loss)  # refuses a wrong text here, where it was written

    @cached_property
    def objective(self) -> Objective:
        """The losses as a weighted sum."""
        return Objective.parse(self.loss) if isinstance(self.loss, str) else self.loss
