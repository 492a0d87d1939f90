"""Shared by losses on feature maps: resizing maps to a common size, layers that bring them to a common width."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def same_size(*maps: Tensor) -> list[Tensor]:
    """Average maps (N, C, H, W) down to the smallest height and width among them; channels may differ."""
    height, width = min(m.shape[-2] for m in maps), min(m.shape[-1] for m in maps)
    return [
        m if m.shape[-2:] == (height, width) else keep_layout(F.adaptive_avg_pool2d(m, (height, width))) for m in maps
    ]


def project(in_channels: int, out_channels: int) -> nn.Module:
    """1x1 convolution and batch normalisation from one width to another."""
    return _Projection(nn.Conv2d(in_channels, out_channels, 1, bias=False), BatchNorm2d(out_channels))


class _OfOneRow(nn.Module):
    """Batch normalisation that uses its running statistics where a channel has one value, hence no variance."""

    def forward(self, m: Tensor) -> Tensor:
        assert isinstance(self, nn.modules.batchnorm._BatchNorm)
        if self.training and m.numel() == m.shape[1]:
            return F.batch_norm(m, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(m)


class BatchNorm1d(_OfOneRow, nn.BatchNorm1d):
    """Batch normalisation of embeddings (N, F), from N = 1 on."""


class BatchNorm2d(_OfOneRow, nn.BatchNorm2d):
    """Batch normalisation of maps (N, C, H, W), also of a single pixel."""


class _Projection(nn.Sequential):
    def forward(self, m: Tensor) -> Tensor:
        return keep_layout(super().forward(m))


def keep_layout(m: Tensor) -> Tensor:
    """Return the map unchanged; its gradient is copied to the map's memory layout.

    The gradient of a sum is laid out channel by channel, whatever the map's layout. With mixed layouts, batch
    normalisation and pooling of channels-last maps take many times longer than this copy.
    """
    if m.requires_grad and m.is_contiguous(memory_format=torch.channels_last) and not m.is_contiguous():
        m = m.view_as(m)  # so that only the gradient of this use is copied
        m.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
    return m
