"""A trained network as one graph that a device can run: pixels of any size in, probabilities or values out."""

import torch
from torch import Tensor, nn

from gankd.models.contract import ImageModel
from gankd.tasks import Task


class Portable(nn.Module):
    """Cropping, resampling and normalisation, a network, and what turns its outputs into what people read.

    Input: uint8 (N, C, H, W), upright, of any height and width. Output: class probabilities (N, K), or values in user
    units as the network gives them. The central square, or part of the form that the network reads, is resampled as
    gankd's readers do it: bicubic, antialiased, rounded to whole levels after each of the two passes.

    Every operation has a counterpart in ONNX for sizes that are known only when the graph runs.
    """

    def __init__(self, model: ImageModel, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, image: Tensor) -> Tensor:
        return self.task.answers(self.model(self.resampled(image) / 255))

    def resampled(self, image: Tensor) -> Tensor:
        """Whole levels 0 .. 255 (N, C, H, W) as float32."""
        height, width = image.shape[2], image.shape[3]
        # Tensors, not numbers: a comparison of two numbers would fix in the graph which part is taken.
        high, wide = (torch.ones(1, device=image.device) * count for count in (height, width))
        tall, broad = self.model.sides
        cut_wide = torch.minimum(wide, (high * broad / tall).floor().clamp_min(1))
        cut_high = torch.minimum(high, (wide * tall / broad).floor().clamp_min(1))
        across = resampling_weights(width, ((wide - cut_wide) / 2).floor(), cut_wide, broad)
        down = resampling_weights(height, ((high - cut_high) / 2).floor(), cut_high, tall)
        return _levels(down @ _levels(image.float() @ across.T))


def resampling_weights(count: int, first: Tensor, length: Tensor, side: int) -> Tensor:
    """Share (side, count) of each of `count` pixels in each of `side` new ones.

    Row i is the cubic kernel (a = -1/2) around the centre of new pixel i, stretched by the factor of reduction so that
    every pixel counts (antialiasing), cut off where the part ends, and scaled to a sum of 1: the weights of Pillow.

    Args:
        count: pixels in a row of the image.
        first: number of the part's first pixel, (1,).
        length: length of the part in pixels, (1,).
        side: length of the new row.
    """
    scale = length / side
    pixel = torch.arange(count, device=length.device) + 0.5
    centre = first + (torch.arange(side, device=length.device) + 0.5) * scale
    weights = _cubic((pixel - centre[:, None]) / scale.clamp_min(1))
    weights = weights * ((pixel > first) & (pixel < first + length))
    return weights / weights.sum(1, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    x = x.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _levels(x: Tensor) -> Tensor:
    return (x + 0.5).floor().clamp(0, 255)
