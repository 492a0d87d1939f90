"""Knowledge review: match each map of the student, fused with the deeper ones, to the teacher's."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.config import require
from gankd.losses.distillation.maps import BatchNorm2d, keep_layout, project
from gankd.losses.distillation.spec import loss


@loss("ReviewKD", paper="Chen et al., CVPR 2021", weight=5)
class ReviewKD(nn.Module):
    """Match maps fused from deep to shallow to the teacher's, at several scales.

        warm sum over levels l of HCL(out_l(f_l), T_l),
        f_L = in_L(S_L),   f_l = a in_l(S_l) + b up(f_(l+1)),   (a, b) = sigmoid(conv([in_l(S_l), up(f_(l+1))]))

    in_l and out_l are a 1x1 and a 3x3 convolution, each with batch normalisation; up is nearest-neighbour upsampling;
    HCL is `hierarchical_context`. As published, the embedding is the deepest level, of size 1x1, the teacher's maps are
    pre-activations, and a student's map is resized to the teacher's. The weight rises linearly over the first 20 of
    240 epochs: warm = min(1, progress / warmup).

    The published weight depends on the pair: 0.6 for ResNet-56 -> 20, 1 for ResNet-110 -> 32, 8 for ResNet-32x4 ->
    ShuffleNetV2, 5 for other pairs.

    Args:
        student_features, teacher_preactivations: paired maps (N, C, H, W); one pair is enough.
        student_embedding, teacher_embedding: (N, F) each.
        progress: share of the updates done.
        width: largest number of channels of the fused maps f_l; less if the student's embedding is narrower.
        warmup: share of the updates in which the weight rises; 0: no warm-up.

    Returns:
        (N,) one value per row.

    [1] Chen, Liu, Zhao, Jia. Distilling knowledge via knowledge review (CVPR 2021), section 3 and figure 3.
    """

    def __init__(
        self,
        student_features: list[Tensor],
        student_embedding: Tensor,
        teacher_preactivations: list[Tensor],
        teacher_embedding: Tensor,
        *,
        width: int = 512,
        warmup: float = 1 / 12,
    ) -> None:
        super().__init__()
        require(width >= 1, f"ReviewKD: width must be at least 1, got {width}")
        require(0 <= warmup <= 1, f"ReviewKD: warmup must lie in [0, 1], got {warmup}")
        self.warmup = warmup
        width = min(width, student_embedding.shape[1])
        student = [*student_features, student_embedding]
        teacher = [*teacher_preactivations, teacher_embedding]
        self.levels = nn.ModuleList(
            Fusion(own.shape[1], width, other.shape[1], deepest=own is student_embedding)
            for own, other in zip(student, teacher, strict=True)
        )

    def forward(
        self,
        student_features: list[Tensor],
        student_embedding: Tensor,
        teacher_preactivations: list[Tensor],
        teacher_embedding: Tensor,
        progress: float,
    ) -> Tensor:
        student = [*student_features, student_embedding[:, :, None, None]]
        teacher = [*teacher_preactivations, teacher_embedding[:, :, None, None]]
        losses, fused = [], None
        for level, own, other in reversed(list(zip(self.levels, student, teacher, strict=True))):
            output, fused = level(own, fused, other.shape[2:])
            losses.append(hierarchical_context(output, other))
        warm = min(1.0, progress / self.warmup) if self.warmup else 1.0
        return warm * torch.stack(losses).sum(0)


class Fusion(nn.Module):
    """Attention-based fusion of a map with the fused map of the next deeper level."""

    def __init__(self, channels: int, width: int, out_channels: int, *, deepest: bool) -> None:
        super().__init__()
        self.inward = project(channels, width)
        self.attention = None if deepest else nn.Conv2d(2 * width, 2, 1)
        self.outward = nn.Sequential(
            nn.Conv2d(width, out_channels, 3, padding=1, bias=False), BatchNorm2d(out_channels)
        )

    def forward(self, own: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Return the map compared with the teacher's of this size, and the fused map for the next shallower level."""
        fused = self.inward(own)
        if self.attention is not None and deeper is not None:
            deeper = _resize(deeper, fused.shape[2:])
            weights = self.attention(torch.cat([fused, deeper], 1)).sigmoid()
            fused = fused * weights[:, :1] + deeper * weights[:, 1:]
        fused = _resize(fused, size)
        return keep_layout(self.outward(fused)), fused


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """(N,) weighted mean of the squared differences of maps (N, C, H, W) at full size, 4x4, 2x2 and 1x1.

    Weights are 1, 1/2, 1/4, 1/8, divided by their sum; scales that are not smaller than the map are left out.
    """
    height, width = student.shape[2:]
    scales = [(min(s, height), min(s, width)) for s in (4, 2, 1) if s < max(height, width)]
    difference = student - teacher  # pooling is linear, so differences are pooled
    pooled = [difference, *(keep_layout(F.adaptive_avg_pool2d(difference, scale)) for scale in scales)]
    weights = [0.5**place for place in range(len(pooled))]
    losses = [weight * d.square().mean((1, 2, 3)) for weight, d in zip(weights, pooled, strict=True)]
    return torch.stack(losses).sum(0) / sum(weights)


def _resize(m: Tensor, size: torch.Size) -> Tensor:
    return m if m.shape[2:] == size else F.interpolate(m, tuple(size), mode="nearest")
