"""The teacher's signals for images that stay the same, computed once: outputs always, features on request."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gankd.data.augment import Augmentation, Views, apply_views
from gankd.engine import Engine
from gankd.errors import CheckpointError
from gankd.parted import whole_state
from gankd.processes import agreed
from gankd.runs import fingerprint
from gankd.storage import FORMAT, load_state, save_state
from gankd.synthetic import check_space
from gankd.tasks import Task
from gankd.training.criterion import Reader
from gankd.training.rows import Signals, joined, rotations_last

BATCH = 512
LARGEST_HALF = 6e4
"""float16 ends at 65504."""


def stored_signals(
    reader: Reader,
    images: Tensor,
    engine: Engine,
    kinds: tuple[Augmentation, ...] = (),
    views: Views | None = None,
    *,
    paths: Sequence[str] = (),
    folder: Path | None = None,
) -> Signals:
    """A teacher's signals for all `images`, as they are or in fixed views of them, computed or read from a file.

    Logits and features are kept in float16, values in float32.

    Args:
        reader: reads the teacher.
        images: (n, C, H, W) uint8.
        engine: device and precision.
        kinds, views: augmentations and how they change each image, (K, n), see `gankd.data.augment`; default: images
            as they are.
        paths: modules that the reader taps.
        folder: keeps them for the next student; default: not kept.

    Returns:
        Tensors (or lists of these) of K n rows, view by view; rotated ones have their three rotations in a second
        dimension.

    Raises:
        CheckpointError: the file is damaged, or belongs to another teacher, other images or other views.
        RunError: the disk is too small.
    """
    # Everything that the signals depend on: a file under another key is never read.
    key = {
        "format": FORMAT,
        "teacher": _hash(whole_state(reader.model).values()),
        "images": _hash([images]),
        "augment": list(kinds) if views is not None else [],
        "views": None if views is None else _hash(views.key()),
        "signals": reader.names,
        "taps": list(paths),
        "bf16": engine.bf16,
    }
    path = None if folder is None else folder / f"teacher-{fingerprint(key)[:12]}.safetensors"
    if path is not None and agreed(path.is_file()):  # all compute, or none: a teacher in parts needs all
        return _to(_load(path, key), engine.device)
    signals = _compute(reader, images, engine, views)
    if path is not None:
        # Refused before writing, not when the disk is full.
        needed = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(signals))
        check_space(path.parent, needed)
        save_state(path, {"key": key, "signals": signals})
    return signals


@torch.no_grad()
def _compute(reader: Reader, images: Tensor, engine: Engine, views: Views | None) -> Signals:
    reader.model.eval()
    parts: list[Signals] = []  # view by view, batch by batch
    for number in range(1 if views is None else len(views)):
        for start in range(0, len(images), BATCH):
            some = images[start : start + BATCH].to(engine.device)
            if views is not None:
                some = apply_views(some, views[number, start : start + BATCH].to(engine.device))
            with engine.autocast():
                found = reader(some)[1]
            rows = {name: rotations_last(name, value, len(some)) for name, value in found.items()}
            parts.append({name: _small(value, name, reader.task) for name, value in rows.items()})
    return {name: joined([part[name] for part in parts]) for name in reader.names}


def _small(value: Any, name: str, task: Task) -> Any:
    if isinstance(value, list):
        return [_small(item, name, task) for item in value]
    # Values become targets on a scale where float16 is coarse; and what float16 cannot hold stays float32.
    exact = name.endswith(("_outputs", "_values")) and task.output_dtype == torch.float32
    return value.float() if exact or value.abs().amax() > LARGEST_HALF else value.half()


def _to(signals: Signals, device: torch.device) -> Signals:
    return {
        name: [item.to(device) for item in value] if isinstance(value, list) else value.to(device)
        for name, value in signals.items()
    }


def _tensors(signals: Signals) -> list[Tensor]:
    return [item for value in signals.values() for item in (value if isinstance(value, list) else [value])]


def _hash(tensors: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _load(path: Path, key: dict[str, Any]) -> Signals:
    stored = load_state(path)
    if not isinstance(stored, dict) or "key" not in stored or "signals" not in stored:
        raise CheckpointError(f"{path} holds no teacher outputs; delete it, they are computed again")
    for name, value in key.items():
        if stored["key"].get(name) != value:
            raise CheckpointError(
                f"{path} holds teacher outputs for other {name}, which would not fit these images; "
                "delete it, they are computed again"
            )
    signals: Signals = stored["signals"]
    return signals
