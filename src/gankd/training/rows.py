"""Rows of what losses read: three for each image where the name starts with rotated_."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Signals = dict[str, Any]
"""Inputs of losses by name: tensors of N rows (3 N if the name starts with rotated_), or lists of such."""


def by_row(call: Callable[[Tensor], tuple[Tensor, Signals]]) -> Callable[[Tensor], tuple[Tensor, Signals]]:
    """Reader that gives each signal N rows, so that shards of a batch can be put together."""

    def called(images: Tensor) -> tuple[Tensor, Signals]:
        outputs, signals = call(images)
        return outputs, {name: rotations_last(name, value, len(images)) for name, value in signals.items()}

    return called


def rotations_last(name: str, value: Any, count: int) -> Any:
    """(3 N, ...) -> (N, 3, ...) of a rotated signal: the three rotations of each row in place of those of all rows."""
    if isinstance(value, list):
        return [rotations_last(name, item, count) for item in value]
    return value.unflatten(0, (3, count)).transpose(0, 1) if name.startswith("rotated_") else value


def rotations_first(name: str, value: Any) -> Any:
    """Inverse of `rotations_last`: losses read rotation by rotation."""
    if isinstance(value, list):
        return [rotations_first(name, item) for item in value]
    return value.transpose(0, 1).flatten(0, 1) if name.startswith("rotated_") else value


def rows_of(value: Any, rows: slice | Tensor) -> Any:
    """These rows of a tensor, or of each tensor of a list."""
    return [item[rows] for item in value] if isinstance(value, list) else value[rows]


def joined(parts: Sequence[Any]) -> Any:
    """Tensors, or lists of tensors, one after the other along their rows."""
    if isinstance(parts[0], list):
        return [torch.cat(items) for items in zip(*parts, strict=True)]
    return torch.cat(list(parts))


def restricted_to(name: str, value: Any, rows: slice, count: int) -> Any:
    """These rows of one input; of a rotated one, these rows of each of the three rotations."""
    if isinstance(value, list):
        return [restricted_to(name, item, rows, count) for item in value]
    if not isinstance(value, Tensor):
        return value
    if name.startswith("rotated_"):
        return value.unflatten(0, (3, count))[:, rows].flatten(0, 1)  # (3 N, ...) -> (3, N, ...) -> (3 M, ...)
    return value[rows]
