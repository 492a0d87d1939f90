"""Generate and score the images of a pool, in blocks with random numbers of their own."""

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gankd.config import require
from gankd.errors import CheckpointError, DataError, ModelError, RunError
from gankd.processes import brought_to_first, count, leads, number, wait
from gankd.seeds import BLOCK, rng
from gankd.storage import FORMAT, read_json, write_hashed_json
from gankd.synthetic.files import MANIFEST, PARTS, SHARD, UNFINISHED, check_file, check_space, write_array
from gankd.synthetic.pool import SyntheticSet
from gankd.tasks import Task, task_to_dict

KEPT = 32
"""An interruption costs one in so many of the finished files, or the one that is being made."""


class Sampler(Protocol):
    """Maps labels (n,) in user units to uint8 images (n, C, H, W), all randomness from `generator` on the CPU."""

    def __call__(self, labels: Tensor, /, *, generator: torch.Generator) -> Tensor:
        """Generate one image per label."""


Score = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""uint8 images (n, C, H, W) and labels (n,) -> teacher outputs (n, K) or (n,), and log-ratios (n,)."""


def generate(
    folder: Path,
    sampler: Sampler,
    score: Score,
    task: Task,
    labels: Tensor,
    seed: int,
    provenance: dict[str, Any],
    progress: Callable[[int, int], None] | None = None,
    *,
    shard_size: int = SHARD,
    together: bool = False,
) -> SyntheticSet:
    """Generate and score one image per label, and store images and scores in `folder`.

    Each block of 256 has its own random numbers, so content depends on neither shard size nor interruptions.
    Generation resumes after the last complete shard; a finished set is opened as it is. Several processes share the
    blocks, and the first one writes.

    Args:
        folder: a folder for this set only.
        sampler: the generator.
        score: the teacher and the density ratio.
        task: what the labels are.
        labels: (M,) one label per image, in user units.
        seed: seed of the generator's noise.
        provenance: plain data on the images' origin (fingerprints of generator, teacher and ratio).
        progress: called with (images done, M) after each block.
        shard_size: samples per file, a multiple of 256.
        together: all processes must call `score` equally often, as for a teacher in parts.

    Raises:
        CheckpointError: the folder holds a set with other labels, seed or provenance.
        DataError: labels lie outside the task's range.
        ModelError: an output of `sampler` or `score` has a wrong type, shape or value.
        RunError: the disk is full or cannot be written to.
    """
    require(
        shard_size > 0 and shard_size % BLOCK == 0,
        f"shard_size must be a multiple of {BLOCK}, got {shard_size}",
    )
    labels = labels.cpu()
    if len(labels) == 0:
        raise DataError("a synthetic set needs at least one label, got none")
    task.check_labels(labels)
    plan = {
        "format": FORMAT,
        "task": task_to_dict(task),
        "count": len(labels),
        "shard_size": shard_size,
        "seed": seed,
        "labels": hashlib.blake2b(labels.numpy().tobytes(), digest_size=16).hexdigest(),
        "provenance": provenance,
    }
    plan = json.loads(json.dumps(plan))  # as it is read back: tuples become lists
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in (
            folder.glob(".*.npy.*") if leads() else ()
        ):  # temporary files of a process that was killed while writing
            leftover.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from None
    state = _resume(folder, plan)
    if (folder / MANIFEST).is_file():
        return SyntheticSet(folder)

    shards: list[dict[str, Any]] = state["shards"]
    wait()  # the first process adds to them when all have read them
    for start in range(len(shards) * shard_size, len(labels), shard_size):
        arrays: dict[str, NDArray[Any]] = {}
        mine = labels[start : start + shard_size]
        numbers = range(start // BLOCK, -(-(start + len(mine)) // BLOCK))
        make = partial(_block, sampler, score, task, labels, seed)
        for place, block in (_in_step if together else _blocks)(make, numbers, len(labels) // BLOCK):
            first = place * BLOCK - start
            if not arrays:
                remaining = len(labels) - start
                check_space(folder, remaining * sum(part[0].nbytes for part in block.values()))
                arrays = {name: np.empty((len(mine), *part.shape[1:]), part.dtype) for name, part in block.items()}
            for name, part in block.items():
                arrays[name][first : first + BLOCK] = part
            if progress:
                progress(start + first + len(block["labels"]), len(labels))
        if not leads():
            continue
        try:
            shards.append({name: write_array(folder, name, len(shards), array) for name, array in arrays.items()})
            state["shape"] = list(arrays["images"].shape[1:])
            # The manifest grows with the set: written after each of thousands of files, it would take longer than they.
            if start + shard_size >= len(labels) or len(shards) % max(1, len(shards) // KEPT) == 0:
                write_hashed_json(folder / UNFINISHED, state)
        except OSError as error:
            raise _unwritable(folder, error) from None
    if leads():
        (folder / UNFINISHED).replace(folder / MANIFEST)
    wait()
    return SyntheticSet(folder)


Block = dict[str, NDArray[Any]]
"""The four parts of up to 256 generated images."""


def _blocks(make: Callable[[int], Block], numbers: range, _: int) -> Iterator[tuple[int, Block]]:
    """Blocks by number, in order; block b is made by process b mod W and brought to the first one, which writes."""
    for start in range(numbers.start, numbers.stop, count()):
        some = range(start, min(start + count(), numbers.stop))
        own = next((b for b in some if b % count() == number()), None)
        found = dict(entry for entry in brought_to_first(None if own is None else (own, make(own))) if entry)
        yield from sorted(found.items())


def _in_step(make: Callable[[int], Block], numbers: range, short: int) -> Iterator[tuple[int, Block]]:
    """`_blocks` in rounds in which every process makes as many batches: without a block of its own it makes another
    one's. All make every block of a round with block `short`, which has fewer images, and may have fewer batches.
    """
    for start in range(numbers.start, numbers.stop, count()):
        some = range(start, min(start + count(), numbers.stop))
        if short in some:
            made = [(b, make(b)) for b in some]
            yield from made if leads() else ()
            continue
        own = next((b for b in some if b % count() == number()), None)
        block = make(start if own is None else own)
        found = brought_to_first(None if own is None else (own, block))
        yield from sorted(entry for entry in found if entry)


def _block(sampler: Sampler, score: Score, task: Task, labels: Tensor, seed: int, number: int) -> Block:
    """Generate, score and check one block of all four parts."""
    labels = labels[number * BLOCK : (number + 1) * BLOCK]
    images = sampler(labels, generator=rng(seed, "sample", number))
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != len(labels):
        raise ModelError(
            f"the generator must give uint8 images ({len(labels)}, C, H, W) for {len(labels)} labels, "
            f"got {images.dtype} {tuple(images.shape)}"
        )
    outputs, log_ratio = score(images, labels)
    task.check_outputs(outputs, len(labels), "the teacher")
    outputs = outputs.detach().to("cpu", task.output_dtype)
    log_ratio = log_ratio.detach().to("cpu", torch.float32)
    if tuple(log_ratio.shape) != (len(labels),):
        raise ModelError(f"log-ratios must be ({len(labels)},), got {tuple(log_ratio.shape)}")
    for name, values in (("teacher's outputs", outputs), ("log-ratios", log_ratio)):
        if values.isnan().any() or values.isposinf().any():
            raise ModelError(
                f"the {name} are not finite for {int((~values.isfinite()).sum())} of {values.numel()} values "
                f"in block {number}; check that network, or use precision=fp32"
            )
    parts = {
        "images": images.detach().cpu(),
        "labels": labels,
        "teacher_outputs": outputs,
        "log_ratio": log_ratio,
    }
    return {name: part.contiguous().numpy() for name, part in parts.items()}


def _resume(folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Read the manifest of a finished set, or of an interrupted one without its damaged end, or start a new one."""
    path = next((folder / name for name in (MANIFEST, UNFINISHED) if (folder / name).is_file()), None)
    if path is None:
        return {**plan, "shape": [], "shards": []}
    state: dict[str, Any] = read_json(path)
    for name, value in plan.items():
        if state.get(name) != value:
            raise CheckpointError(
                f"{path} belongs to a synthetic set with other {name}; delete the folder or choose another one"
            )
    if path.name == UNFINISHED:
        for number, files in enumerate(state["shards"]):
            try:
                for part in PARTS:
                    check_file(folder, part, number, files[part])
            except CheckpointError:
                del state["shards"][number:]
                break
    return state


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"{folder} cannot be written: {error.strerror}; "
        "complete shards are kept: fix this and repeat the command to resume"
    )
