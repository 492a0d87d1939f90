"""The pool: generated images on disk with labels, teacher outputs and density ratios, scored once."""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gankd.errors import CheckpointError
from gankd.storage import FORMAT, read_json
from gankd.synthetic.files import MANIFEST, PARTS, REMEDY, UNFINISHED, check_file, open_array
from gankd.tasks import Task, task_from_dict


class SyntheticSet:
    """A folder of generated images with assigned labels, teacher outputs and log-ratios, written by `generate`.

    Files are memory-mapped after their hashes are compared, once per process; only the parts asked for are kept.

    Args:
        folder: contains `manifest.json`.

    Raises:
        CheckpointError: the set is unfinished or of another format version, or a file is missing, truncated or changed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / MANIFEST).is_file():
            if (folder / UNFINISHED).is_file():
                done = len(read_json(folder / UNFINISHED)["shards"])
                raise CheckpointError(
                    f"{folder} holds {done} shards of an unfinished synthetic set; "
                    "repeat the command that made it to resume there"
                )
            raise CheckpointError(f"{folder} holds no synthetic set ({MANIFEST} is missing); generate one")
        manifest = read_json(folder / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise CheckpointError(
                f"{folder / MANIFEST} has format {manifest.get('format')}, this version reads {FORMAT}; "
                "use the gankd that wrote it, or " + REMEDY
            )
        try:
            self.task: Task = task_from_dict(manifest["task"])
            self._count, self._shard_size = int(manifest["count"]), int(manifest["shard_size"])
            channels, height, width = manifest["shape"]
            self.shape: tuple[int, int, int] = (channels, height, width)
            self.provenance: dict[str, Any] = manifest["provenance"]
            self._shards: list[dict[str, dict[str, Any]]] = manifest["shards"]
            assert len(self._shards) == -(-self._count // self._shard_size)
            for number, files in enumerate(self._shards):
                for part in PARTS:
                    check_file(folder, part, number, files[part])
        except (KeyError, TypeError, ValueError, AssertionError):
            raise CheckpointError(f"{folder / MANIFEST} is damaged; {REMEDY}") from None

    def __len__(self) -> int:
        return self._count

    def fingerprint(self) -> str:
        """Hash of the content and origin of every file."""
        return hashlib.blake2b((self.folder / MANIFEST).read_bytes(), digest_size=16).hexdigest()

    @cached_property
    def labels(self) -> Tensor:
        """(M,) assigned labels in user units."""
        return self._gather("labels")

    @cached_property
    def log_ratio(self) -> Tensor:
        """(M,) float32 log p_real / p_fake."""
        return self._gather("log_ratio")

    @cached_property
    def disagreement(self) -> Tensor:
        """(M,) float32 disagreement of the teacher with the assigned labels (`Task.disagreement`)."""
        # Shard by shard: the outputs of all images together may not fit in memory.
        parts = [
            self.task.disagreement(torch.from_numpy(np.array(outputs)), labels)
            for outputs, labels in zip(
                self._arrays("teacher_outputs"), self.labels.split(self._shard_size), strict=True
            )
        ]
        return torch.cat(parts)

    def images(self, index: Tensor | None = None) -> Tensor:
        """(K, C, H, W) uint8 images at `index` (K,), or all."""
        return self._gather("images", index)

    def teacher_outputs(self, index: Tensor | None = None) -> Tensor:
        """(K, classes) float16 logits or (K,) float32 values at `index` (K,), or all."""
        return self._gather("teacher_outputs", index)

    def _arrays(self, part: str) -> Iterator[NDArray[Any]]:
        for number in range(len(self._shards)):
            yield open_array(self.folder, part, number)

    def _gather(self, part: str, index: Tensor | None = None) -> Tensor:
        if index is None:
            return torch.cat([torch.from_numpy(np.array(array)) for array in self._arrays(part)])
        # Read shard by shard in ascending order, which is fastest from disk; then restore the order of `index`.
        ordered, order = index.sort()
        edges = torch.arange(len(self._shards) + 1) * self._shard_size
        pieces = []
        for number, (first, last) in enumerate(pairwise(torch.searchsorted(ordered, edges).tolist())):
            if last > first or number == 0:
                local = (ordered[first:last] - number * self._shard_size).numpy()
                pieces.append(torch.from_numpy(open_array(self.folder, part, number)[local]))
        gathered = torch.cat(pieces)
        result = torch.empty_like(gathered)
        result[order] = gathered
        return result
