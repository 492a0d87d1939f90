"""A second discriminator that judges images by a frozen network's feature maps, see `FeatureDiscriminator`."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gankd.generators.label_embedding import LabelInput, LabelToEmbedding, make_embedding
from gankd.tasks import Task

COARSEST = 4
"""Maps are halved until their side is at most this."""


class FeatureDiscriminator(nn.Module):
    """(feature maps, labels) to scores (N, number of maps): a projected GAN's discriminator (Sauer, Chitta, Müller,
    Geiger, NeurIPS 2021) with label projection.

    Each map has a head of its own, deep enough to bring the map down to 4x4: faults that features at one depth miss may
    show at another. Every layer is spectrally normalised. Departures from the paper: the maps are not
    mixed by random projections, and the frozen network is the teacher.

    Args:
        task: owns the labels.
        shapes: (C, H, W) of each map.
        width: channels of the heads.
        label_input, embedding_width, ili: see `label_embedding`.
    """

    def __init__(
        self,
        task: Task,
        shapes: Sequence[tuple[int, int, int]],
        *,
        width: int,
        label_input: LabelInput,
        embedding_width: int,
        ili: LabelToEmbedding | None = None,
    ) -> None:
        super().__init__()
        self.embedding = make_embedding(task, label_input, embedding_width, ili)
        self.heads = nn.ModuleList(self._head(channels, side, width) for channels, side, _ in shapes)
        self.scores = nn.ModuleList(spectral_norm(nn.Linear(width, 1)) for _ in shapes)
        self.projections = nn.ModuleList(
            spectral_norm(nn.Linear(self.embedding.width, width, bias=False)) for _ in shapes
        )

    @staticmethod
    def _head(channels: int, side: int, width: int) -> nn.Sequential:
        layers: list[nn.Module] = [spectral_norm(nn.Conv2d(channels, width, 1)), nn.LeakyReLU(0.2)]
        while side > COARSEST:
            layers += [spectral_norm(nn.Conv2d(width, width, 4, 2, 1)), nn.LeakyReLU(0.2)]
            side //= 2
        return nn.Sequential(*layers)

    def forward(self, maps: Sequence[Tensor], labels: Tensor) -> Tensor:
        with torch.autocast(maps[0].device.type, enabled=False):
            embedded = self.embedding(labels)
        found = []
        for features, head, score, project in zip(maps, self.heads, self.scores, self.projections, strict=True):
            pooled = head(features).sum((2, 3)).float()
            pooled = pooled / pooled.shape[1] ** 0.5  # as in `ProjectionDiscriminator`
            with torch.autocast(pooled.device.type, enabled=False):
                found.append(score(pooled)[:, 0] + (pooled * project(embedded)).sum(1))
        return torch.stack(found, 1)
