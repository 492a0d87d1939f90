"""Teacher outputs in few bytes: one per class, only the likeliest where there are many classes; values as float16."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gankd.config import require
from gankd.tasks import Task

ALL = 20
"""Most classes of which each has its own byte."""
TOP = 20
"""Classes per image that are stored where there are more than `ALL`; the others share what is left."""
DEEPEST = 32.0
"""Largest -log p that is told from larger ones: a byte is then a step of at most an eighth."""


def encode(outputs: Tensor, task: Task) -> dict[str, Any]:
    """Plain data and small tensors for the outputs (M, K), (M,) or (M, n) of a teacher.

    Classes: -log p of the softmax at temperature 1, rounded to whole multiples of `step`, a byte each. Above `ALL`
    classes these are the `TOP` likeliest, with their numbers, and in a last column the mean of all others. Values: the
    place in the label range less a half, in float16.
    """
    if task.output_dtype == torch.float32:
        return {"values": (task.on_unit_scale(outputs) - 0.5).half()}
    probs, classes = outputs.double().softmax(1), None
    if task.head_size > ALL:
        probs, classes = probs.topk(TOP, 1)  # (M, TOP)
        rest = (1 - probs.sum(1, keepdim=True)).clamp_min(0) / (task.head_size - TOP)
        probs = torch.cat([probs, rest], 1)
    depth = -probs.clamp_min(math.exp(-DEEPEST)).log()
    step = max(depth.max().item(), 1.0) / 255
    codes = (depth / step).round().to(torch.uint8)
    found: dict[str, Any] = {"step": step, "codes": codes}
    return found if classes is None else found | {"classes": classes.to(torch.int32)}


def decode(stored: Mapping[str, Any], task: Task, count: int) -> Tensor:
    """Inverse of `encode`: log-probabilities (count, K), or values (count,) or (count, n) in label units.

    Raises:
        ConfigError: not what `encode` gives for this task and so many images.
    """
    values, codes, classes, step = (stored.get(name) for name in ("values", "codes", "classes", "step"))
    if task.output_dtype == torch.float32:
        shape = (count, *task.label_shape)
        require(_fits(values, torch.float16, shape), f"teacher outputs must be float16 {shape}")
        assert isinstance(values, Tensor)
        require(bool(values.isfinite().all()), "teacher outputs must be finite")
        low, factor = (torch.tensor(part) for part in task.output_scale)
        return low + factor * (values.float() + 0.5)
    columns = task.head_size if task.head_size <= ALL else TOP + 1
    require(_fits(codes, torch.uint8, (count, columns)), f"teacher outputs must be uint8 ({count}, {columns})")
    require(isinstance(step, float) and 0 < step <= DEEPEST / 255 + 1e-6, f"step of outputs out of range: {step!r}")
    assert isinstance(codes, Tensor)
    assert isinstance(step, float)
    log_probs = -step * codes.float()  # (count, columns)
    if task.head_size > ALL:
        require(_fits(classes, torch.int32, (count, TOP)), f"classes of outputs must be int32 ({count}, {TOP})")
        assert isinstance(classes, Tensor)
        rising = classes.sort(1).values
        known = bool((rising >= 0).all() and (rising < task.head_size).all() and (rising.diff(dim=1) > 0).all())
        require(known, f"classes of outputs must be different numbers below {task.head_size}")
        log_probs = log_probs[:, -1:].repeat(1, task.head_size).scatter(1, classes.long(), log_probs[:, :-1])
    return log_probs.log_softmax(1)


def _fits(value: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    return isinstance(value, Tensor) and value.dtype == dtype and tuple(value.shape) == shape
