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

from gankd.data.store import build
from gankd.errors import CheckpointError
from gankd.storage import FORMAT, read_json
from gankd.synthetic.files import MANIFEST, PARTS, REMEDY, UNFINISHED, check_file, check_size, open_array
from gankd.tasks import Task, task_from_dict


class SyntheticSet:
    """A folder of generated images with assigned labels, teacher outputs and log-ratios, written by `generate`.

    Files are memory-mapped after their hashes are compared, once per process, as they are read: a selection reads no
    images.

    Args:
        folder: contains `manifest.json`.

    Raises:
        CheckpointError: the set is unfinished or of another format version, or a file is missing or truncated; when it
            is read, a file has changed.
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
                    check_size(folder, part, number, files[part])
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
        """(K, C, H, W) uint8 images at `index` (K,), or all; in a mapped file of the cache folder if they are many."""
        taken = torch.arange(len(self)) if index is None else index

        def key() -> str:
            return hashlib.blake2b(taken.numpy().tobytes(), key=self.fingerprint().encode(), digest_size=16).hexdigest()

        def fill(target: NDArray[np.uint8]) -> None:
            for place, rows in self._rows("images", taken):
                target[place.numpy()] = rows

        return build((len(taken), *self.shape), key, fill)

    def teacher_outputs(self, index: Tensor | None = None) -> Tensor:
        """(K, classes) float16 logits or (K,) float32 values at `index` (K,), or all."""
        return self._gather("teacher_outputs", index)

    def check(self) -> None:
        """Compare all files with their hashes, also those that nobody has read yet.

        Raises:
            CheckpointError: one has changed since it was written.
        """
        for number, files in enumerate(self._shards):
            for part in PARTS:
                check_file(self.folder, part, number, files[part])

    def _array(self, part: str, number: int) -> NDArray[Any]:
        check_file(self.folder, part, number, self._shards[number][part])
        return open_array(self.folder, part, number)

    def _arrays(self, part: str) -> Iterator[NDArray[Any]]:
        for number in range(len(self._shards)):
            yield self._array(part, number)

    def _gather(self, part: str, index: Tensor | None = None) -> Tensor:
        if index is None:
            return torch.cat([torch.from_numpy(np.array(array)) for array in self._arrays(part)])
        parts = list(self._rows(part, index))
        gathered = torch.from_numpy(np.concatenate([rows for _, rows in parts]))
        result = torch.empty_like(gathered)
        result[torch.cat([place for place, _ in parts])] = gathered
        return result

    def _rows(self, part: str, index: Tensor) -> Iterator[tuple[Tensor, NDArray[Any]]]:
        """Rows at `index` (K,) with their places in it, shard by shard in ascending order: fastest from disk."""
        ordered, order = index.sort()
        edges = torch.arange(len(self._shards) + 1) * self._shard_size
        for number, (first, last) in enumerate(pairwise(torch.searchsorted(ordered, edges).tolist())):
            if last > first or number == 0:
                local = (ordered[first:last] - number * self._shard_size).numpy()
                yield order[first:last], self._array(part, number)[local]
