"""A student's file: written, read back, compared with PyTorch on test images, and given its limit."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gankd import text
from gankd.bench.conformal import RISK, conformal_limit
from gankd.bench.timing import timed
from gankd.data.images import LabelledImages, Splits
from gankd.models.contract import ImageModel
from gankd.models.exported import (
    ExecutorchProgram,
    ExportedModel,
    Format,
    Limit,
    Outputs,
    Pixels,
    open_exported,
    run_by_onnx,
    run_by_torch,
    to_executorch,
    to_onnx,
    to_torch_export,
    write_executorch,
    write_onnx,
    write_torch_export,
)
from gankd.models.files import card_of
from gankd.models.int8 import to_int8
from gankd.models.portable import Portable
from gankd.own_code import IN_MEMORY
from gankd.storage import save_weights
from gankd.tasks import Task

BATCH = 64
CALIBRATION = 512
"""Training images that set the ranges of int8 activations."""
STRETCHED = 8
"""Test images that are also compared in another size."""


@dataclass(frozen=True)
class Shipment:
    """Comparison of a written file with the network in PyTorch, on test images."""

    metrics: dict[str, float]
    """Metrics of the file."""
    expected: dict[str, float]
    """Metrics of the network in PyTorch."""
    difference: float
    """Largest difference of a probability or value, some images of another size included."""
    low: float
    high: float
    """95 % interval of the metric over the test images."""
    images: int
    speedup: float | None
    """float32 time per int8 time of one image on one thread; None without int8."""

    def text(self, task: Task) -> str:
        """The comparison in a sentence without an end."""
        unit = f" {task.metric_unit}".rstrip()
        ours, theirs = self.metrics[task.metric], self.expected[task.metric]
        fast = "" if self.speedup is None else f"; int8 is {self.speedup:.2f} times as fast as float32 (one image)"
        own = text.interval(ours, self.low, self.high, sign=False)
        same = f"in PyTorch {theirs:.2f}{unit}, largest difference of an output {self.difference:.1e}"
        return f"{task.metric} {own}{unit}; {same}{fast}"


def ship(
    path: Path,
    model: ImageModel,
    name: str,
    splits: Splits,
    facts: dict[str, Any],
    *,
    form: Format = "safetensors",
    int8: bool = False,
) -> tuple[Shipment, ExportedModel]:
    """Write a student with its card, and compare the file with the network.

    Args:
        path: ends as the format demands.
        model: on the CPU, in eval mode.
        name: a zoo name or module:name.
        splits: validation images set the limit, test images measure, training images calibrate int8.
        facts: plain data to store in the card.
        form: kind of file.
        int8: compute in int8 (form onnx).

    Returns:
        The comparison, and the file, opened again.

    Raises:
        ModelError: the extra onnx is missing, or the network cannot be exported.
    """
    task, channels = splits.task, splits.train.shape[0]
    portable, speedup = Portable(model, task), None
    expected = run_by_torch(portable)
    write: Callable[[dict[str, Any]], None]
    if form == "onnx":
        graph = to_onnx(portable, channels, name)
        if int8:
            plain, graph = graph, to_int8(graph, _pixels(splits.train)[:CALIBRATION])
            speedup = _speedup(plain, graph, _pixels(splits.test)[:1])
        run, write = run_by_onnx(graph)[1], partial(write_onnx, path, graph)
    elif form == "torch-export":
        program = to_torch_export(portable, channels, name)
        run, write = run_by_torch(program.module()), partial(write_torch_export, path, program)
    elif form == "executorch":
        lowered = to_executorch(portable, channels, name)
        run, write = ExecutorchProgram(lowered), partial(write_executorch, path, lowered)
    else:
        run, write = expected, partial(save_weights, path, model.net.state_dict())
    limit = _limit(run, splits)
    facts = {**facts, "format": form, "int8": int8, "limit": None if limit is None else vars(limit)}
    write(card_of(model, name, task, facts))
    like = copy.deepcopy(model.net) if name.startswith(IN_MEMORY) else None  # nothing on disk could build it
    written = open_exported(path, trust=True, network=like)
    return _compare(written.run, expected, splits.test, speedup), written


def _compare(
    run: Callable[[Pixels], Outputs],
    expected: Callable[[Pixels], Outputs],
    test: LabelledImages,
    speedup: float | None,
) -> Shipment:
    task, labels = test.task, test.labels.cpu()
    ours, theirs = _outputs(run, test), _outputs(expected, test)
    stretched = _stretched(_pixels(test)[:STRETCHED])
    difference = max((ours - theirs).abs().max().item(), float(np.abs(run(stretched) - expected(stretched)).max()))
    low, high = task.metric_interval(task.errors(ours, labels))
    metrics, before = (task.metrics(task.outputs_of(answers), labels) for answers in (ours, theirs))
    return Shipment(metrics, before, difference, low, high, len(test), speedup)


def _pixels(data: LabelledImages) -> Pixels:
    return data.images.cpu().numpy()


def _outputs(run: Callable[[Pixels], Outputs], data: LabelledImages) -> Tensor:
    images = _pixels(data)
    return torch.cat([torch.from_numpy(run(images[at : at + BATCH])) for at in range(0, len(images), BATCH)])


def _limit(run: Callable[[Pixels], Outputs], splits: Splits) -> Limit | None:
    val, test, task = splits.val, splits.test, splits.task
    limit = conformal_limit(task.doubt(_outputs(run, val), val.labels.cpu()))
    if limit is None:
        return None
    answers = _outputs(run, test)
    missed = (task.doubt(answers, test.labels.cpu()) > limit).double().mean().item()
    unanswered = task.unanswered(answers, limit)
    return Limit(limit=limit, risk=RISK, images=len(val), missed=missed, unanswered=unanswered)


def _stretched(images: Pixels) -> Pixels:
    """Images of another height and width, neither of them a multiple of the old side."""
    height, width = images.shape[2:]
    rows, columns = (np.arange(new) * old // new for new, old in ((2 * height + 3, height), (3 * width + 1, width)))
    return np.ascontiguousarray(images[:, :, rows][:, :, :, columns])


def _speedup(plain: bytes, quantised: bytes, image: Pixels) -> float:
    slow, fast = (run_by_onnx(graph, threads=1)[1] for graph in (plain, quantised))
    return timed(lambda: slow(image), 0.3).percentiles[0] / timed(lambda: fast(image), 0.3).percentiles[0]
