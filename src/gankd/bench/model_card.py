"""Cost of a network: parameters, multiply-accumulates, size and latency."""

import statistics
import time
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

WARM_UP, REPEATS = 3, 21


def model_card(model: nn.Module, shape: tuple[int, int, int], name: str) -> dict[str, Any]:
    """Cost of `model` for one image on this CPU; the model is left as it was found.

    Args:
        model: takes uint8 images (1, C, H, W); any device (the card always speaks of one CPU thread).
        shape: (C, H, W) of one image.
        name: what people call the model.

    Returns:
        `name`, `parameters`, `macs` (multiply-accumulates of convolutions and matrix products for one image),
        `size_kib` (parameters and buffers as stored), `latency_ms` (median of 21 single images, one thread).
    """
    tensors = [*model.parameters(), *model.buffers()]
    devices = {tensor.device for tensor in tensors}
    modes = [(module, module.training) for module in model.modules()]
    threads = torch.get_num_threads()
    image = torch.full((1, *shape), 127, dtype=torch.uint8)
    try:
        model.to("cpu").eval()
        torch.set_num_threads(1)
        with torch.no_grad():
            # The counter counts a multiply-accumulate as two operations.
            with FlopCounterMode(display=False) as counter:
                model(image)
            latency = _median_latency(model, image)
    finally:
        torch.set_num_threads(threads)
        for module, training in modes:
            module.training = training
        if len(devices) == 1:
            model.to(devices.pop())
    return {
        "name": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": counter.get_total_flops() // 2,
        "size_kib": sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1024,
        "latency_ms": 1000 * latency,
    }


def _median_latency(model: nn.Module, image: torch.Tensor) -> float:
    seconds = []
    for repeat in range(WARM_UP + REPEATS):
        start = time.perf_counter()
        model(image)
        if repeat >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
