"""Batches of a conditional GAN: by class, or from the vicinity of a continuous label."""

from typing import NamedTuple

import torch
from torch import Tensor

from gankd.data.images import LabelledImages
from gankd.losses.nearest import NearestVicinity
from gankd.losses.vicinal import Vicinity
from gankd.seeds import Batches
from gankd.tasks import Values


class Draw(NamedTuple):
    """One discriminator batch: real images by index, labels of fakes, and the label both are judged by."""

    real_index: Tensor
    fake_labels: Tensor
    target: Tensor
    real_weight: Tensor | None
    fake_weight: Tensor | None


class ClassBatches:
    """Real images in shuffled order, and as many fakes of the same classes."""

    def __init__(self, train: LabelledImages, batch_size: int, seed: int) -> None:
        self.labels = train.labels.cpu()
        self._order = Batches(len(train), batch_size, seed, "gan real")

    def draw(self, draw: int, generator: torch.Generator) -> Draw:
        """The `draw`-th discriminator batch."""
        index = self._order(draw)  # (N,)
        labels = self.labels[index]
        return Draw(index, labels, labels, None, None)  # generated images of the same classes, without weights

    def targets(self, count: int, generator: torch.Generator) -> Tensor:
        """Labels for a generator step, as often as they occur."""
        return self.labels[torch.randint(len(self.labels), (count,), generator=generator)]


class VicinalBatches:
    """Real images from the vicinity of noisy target labels (HVDL and SVDL of CcGAN)."""

    def __init__(self, task: Values, vicinity: Vicinity | NearestVicinity, batch_size: int) -> None:
        self.task, self.vicinity, self.batch_size = task, vicinity, batch_size

    def draw(self, draw: int, generator: torch.Generator) -> Draw:
        """The `draw`-th discriminator batch."""
        batch = self.vicinity.draw(self.batch_size, generator)  # labels on the [0, 1] scale
        return Draw(
            batch.real_index,
            self.task.denormalise(batch.fake_label),
            self.task.denormalise(batch.target),
            batch.real_weight,
            batch.fake_weight,
        )

    def targets(self, count: int, generator: torch.Generator) -> Tensor:
        """Labels for a generator step: distinct labels, plus noise."""
        return self.task.denormalise(self.vicinity.draw_targets(count, generator))
