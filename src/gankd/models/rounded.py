"""A network that computes as after quantisation to int8, with gradients, so that it can be trained on."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def rounded_to_int8(net: nn.Module) -> Iterator[None]:
    """Convolutions and linear layers of `net` read rounded inputs and weights, as `to_int8` rounds them.

    Inputs of a layer have 256 levels between the least and the largest of the batch, 0 among them. Each output channel
    of a weight has 129, symmetric around 0. A batch normalisation behind the layer, which an exported graph multiplies
    into the weights, only scales a channel, so it changes nothing. Gradients pass the rounding unchanged.

    There is no state: weights stay in float32, and a network is what it was when the block ends. Layers with a forward
    pass of their own, and those that a module only takes the weights of (attention), are left as they are.

    Source: Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference,
    CVPR 2018, with ranges of the batch in place of running ones.
    """
    layers = [
        layer
        for layer in net.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and type(layer).forward in (nn.Conv2d.forward, nn.Linear.forward)
    ]
    for layer in layers:
        layer.forward = partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def rounded_inputs(x: Tensor) -> Tensor:
    """`x` rounded to 256 levels over its range."""
    low, high = x.detach().amin().clamp_max(0).float(), x.detach().amax().clamp_min(0).float()
    scale = ((high - low) / 255).clamp_min(torch.finfo(torch.float32).eps)
    zero = (-low / scale).round().to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, 255).to(x.dtype)


def rounded_weight(weight: Tensor) -> Tensor:
    """`weight` (O, ...) rounded to 129 levels per output channel."""
    scale = (weight.detach().flatten(1).abs().amax(1).float() / 64).clamp_min(torch.finfo(torch.float32).eps)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight.float(), scale, zero, 0, -64, 64).to(weight.dtype)


def _forward(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    weight, x = rounded_weight(layer.weight), rounded_inputs(x)
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, layer.bias)
    return layer._conv_forward(x, weight, layer.bias)
