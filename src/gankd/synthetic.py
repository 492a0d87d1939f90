"""Generated images on disk, scored once. Selections for students are made from the stored scores."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gankd.config import check_ranges, require
from gankd.errors import CheckpointError, DataError, ModelError, RunError
from gankd.ranges import Count, UpToOne
from gankd.relabel import FilterRule, keep_most_consistent, label_histogram
from gankd.seeds import BLOCK, rng
from gankd.storage import FORMAT, atomic, read_json, write_json
from gankd.subsampling.rejection import accept, budgeted_acceptance, running_max_acceptance
from gankd.tasks import Adjust, Task, task_from_dict, task_to_dict

SHARD = 4096
"""Samples per file."""
PARTS = ("images", "labels", "teacher_outputs", "log_ratio")
MANIFEST = "manifest.json"
REMEDY = "delete the folder and generate again"
UNFINISHED = "unfinished.json"
"""Manifest of an unfinished set; renamed to MANIFEST when generation ends."""


class Sampler(Protocol):
    """Maps labels (n,) in user units to uint8 images (n, C, H, W), all randomness from `generator` on the CPU."""

    def __call__(self, labels: Tensor, /, *, generator: torch.Generator) -> Tensor:
        """Generate one image per label."""


Score = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""uint8 images (n, C, H, W) and labels (n,) -> teacher outputs (n, K) or (n,), and log-ratios (n,)."""


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """Choice of the generated images that a student sees, and of their labels. All combinations are allowed."""

    where: ClassVar[str] = "select."

    subsample: Literal["budget", "running_max", "none"] = "budget"
    """Subsampling by density ratio. budget: a fixed share of each label group; running_max: rejection with a running
    maximum, as published; none: keep all."""
    accept_share: UpToOne = 0.5
    """Share of each label group that `budget` keeps: 1 / K for a pool of K candidates per image."""
    burn_in: Count = 500
    """Samples per label group that set the first maximum of `running_max`."""
    cap_quantile: UpToOne = 1.0
    """Upper limit of `running_max`, as a quantile of a label group's ratios; published: 1."""
    filter: FilterRule = "published"
    """Rule that drops images by the teacher's disagreement with the assigned label: none, published, per_group, global
    or real_calibrated (see `gankd.relabel.keep_most_consistent`)."""
    rho: UpToOne | None = None
    """Quantile of the filter. Default: as published, 0.9 for classes, 0.7 for scalar labels."""
    adjust: Literal["auto", "none", "argmax", "soft", "prediction"] = "auto"
    """Label of a kept image. none: the assigned label; argmax, soft, prediction: the teacher's class, probabilities or
    value; auto: keeps assigned classes and replaces assigned values by the teacher's."""
    count: Count | None = None
    """M^g, the largest number of images to keep, spread evenly over label groups. Default: all that are left."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Selection:
    """The generated images that a student sees. Their first k are the selection of `count=k`."""

    source: "SyntheticSet"
    index: Tensor
    """(K,) int64 positions in the pool of M images, turn by turn over the label groups."""
    labels: Tensor
    """(K,) adjusted labels in user units, or (K, classes) probabilities."""
    accepted: Tensor
    """(M,) bool: kept by the density ratio."""
    consistent: Tensor
    """(M,) bool: kept by the density ratio and the teacher's filter."""
    report: dict[str, Any]
    """Plain data: counts after each step; per label group the acceptance, threshold and labels before and after."""

    def __len__(self) -> int:
        return len(self.index)

    def images(self) -> Tensor:
        """(K, C, H, W) uint8 images, read from disk."""
        return self.source.images(self.index)

    @cached_property
    def teacher_outputs(self) -> Tensor:
        """(K, classes) float16 logits or (K,) float32 values, read from disk."""
        return self.source.teacher_outputs(self.index)


class SyntheticSet:
    """A folder of generated images with assigned labels, teacher outputs and log-ratios, written by `generate`.

    Files are memory-mapped, and only the parts asked for are read.

    Args:
        folder: contains `manifest.json`.
        verify: also compare every file's hash, which reads all files.

    Raises:
        CheckpointError: the set is unfinished or of another format version, or a file is missing, truncated or changed.
    """

    def __init__(self, folder: Path, *, verify: bool = False) -> None:
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
                    _check_file(folder, part, number, files[part], verify=verify)
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

    def select(
        self,
        config: SelectConfig,
        seed: int,
        real_disagreement: Tensor | None = None,
        real_groups: Tensor | None = None,
    ) -> Selection:
        """Select images by their stored scores: subsample, filter, adjust labels, spread over label groups.

        Nothing is generated or scored again, so another budget or rho costs a fraction of a second.

        Args:
            config: settings.
            seed: seed of the rejection.
            real_disagreement: (R,) the teacher's scores on held-out real images, for `filter=real_calibrated`.
            real_groups: (R,) their label groups.

        Raises:
            ConfigError: a setting does not fit (see `keep_most_consistent`).
            DataError: no image is left.
        """
        groups = self.task.groups(self.labels)
        num_groups = self.task.num_groups
        if config.subsample == "budget":
            accepted = accept(budgeted_acceptance(self.log_ratio, groups, config.accept_share), seed)
        elif config.subsample == "running_max":
            chances = running_max_acceptance(self.log_ratio, groups, config.burn_in, config.cap_quantile)
            accepted = accept(chances, seed)
        else:
            accepted = torch.ones(len(self), dtype=torch.bool)

        mask, thresholds = keep_most_consistent(
            self.disagreement[accepted],
            groups[accepted],
            config.filter,
            self.task.filter_share if config.rho is None else config.rho,
            num_groups=num_groups,
            per_class=self.task.filter_per_group,
            real_disagreement=real_disagreement,
            real_groups=real_groups,
        )
        consistent = torch.zeros_like(accepted)
        consistent[accepted.nonzero()[:, 0][mask]] = True

        index = _turn_by_turn(consistent.nonzero()[:, 0], groups)[: config.count]
        if len(index) == 0:
            raise DataError(
                f"none of {len(self)} generated images is left after subsample={config.subsample} and "
                f"filter={config.filter}; raise accept_share or rho, or set subsample=none"
            )
        how: Adjust = self.task.default_adjust if config.adjust == "auto" else config.adjust
        labels = self.task.adjust(self.teacher_outputs(index), self.labels[index], how)

        pool = groups.bincount(minlength=num_groups)
        kept = groups[accepted].bincount(minlength=num_groups)
        report = {
            "groups": [self.task.group_name(group) for group in range(num_groups)],
            "counts": {
                "generated": len(self),
                "accepted": int(accepted.sum()),
                "consistent": int(consistent.sum()),
                "kept": len(index),
            },
            "missing": max(0, (config.count or 0) - len(index)),
            "adjust": how,
            "acceptance": _plain(kept / pool),
            "thresholds": _plain(thresholds),
            "labels_generated": label_histogram(self.labels, self.task),
            "labels_assigned": label_histogram(self.labels[index], self.task),
            "labels_adjusted": label_histogram(labels, self.task),
        }
        return Selection(self, index, labels, accepted, consistent, report)

    def _arrays(self, part: str) -> Iterator[NDArray[Any]]:
        for number in range(len(self._shards)):
            yield _open(self.folder, part, number)

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
                pieces.append(torch.from_numpy(_open(self.folder, part, number)[local]))
        gathered = torch.cat(pieces)
        result = torch.empty_like(gathered)
        result[order] = gathered
        return result


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
) -> SyntheticSet:
    """Generate and score one image per label, and store images and scores in `folder`.

    Each block of 256 has its own random numbers, so content depends on neither shard size nor interruptions.
    Generation resumes after the last complete shard; a finished set is opened as it is.

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
        for leftover in folder.glob(".*.npy.*"):  # temporary files of a process that was killed while writing
            leftover.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from None
    state = _resume(folder, plan)
    if (folder / MANIFEST).is_file():
        return SyntheticSet(folder)

    shards: list[dict[str, Any]] = state["shards"]
    for start in range(len(shards) * shard_size, len(labels), shard_size):
        arrays: dict[str, NDArray[Any]] = {}
        mine = labels[start : start + shard_size]
        for first in range(0, len(mine), BLOCK):
            some = mine[first : first + BLOCK]
            block = _block(sampler, score, task, some, seed, (start + first) // BLOCK)
            if not arrays:
                remaining = len(labels) - start
                check_space(folder, remaining * sum(part[0].nbytes for part in block.values()))
                arrays = {name: np.empty((len(mine), *part.shape[1:]), part.dtype) for name, part in block.items()}
            for name, part in block.items():
                arrays[name][first : first + BLOCK] = part
            if progress:
                progress(start + first + len(some), len(labels))
        try:
            shards.append({name: _write(folder, name, len(shards), array) for name, array in arrays.items()})
            state["shape"] = list(arrays["images"].shape[1:])
            write_json(folder / UNFINISHED, state)
        except OSError as error:
            raise _unwritable(folder, error) from None
    (folder / UNFINISHED).replace(folder / MANIFEST)
    return SyntheticSet(folder)


def _block(
    sampler: Sampler, score: Score, task: Task, labels: Tensor, seed: int, number: int
) -> dict[str, NDArray[Any]]:
    """Generate, score and check one block of all four parts."""
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
                    _check_file(folder, part, number, files[part], verify=False)
            except CheckpointError:
                del state["shards"][number:]
                break
    return state


def _path(folder: Path, part: str, number: int) -> Path:
    return folder / f"{part}-{number:05d}.npy"


def _open(folder: Path, part: str, number: int) -> NDArray[Any]:
    path = _path(folder, part, number)
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {REMEDY}") from None
    return array


def _write(folder: Path, part: str, number: int, array: NDArray[Any]) -> dict[str, Any]:
    """Write one file atomically; return its size and hash for the manifest."""
    with atomic(_path(folder, part, number)) as temporary:
        with temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        return {"bytes": temporary.stat().st_size, "blake2b": _digest(temporary)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _check_file(folder: Path, part: str, number: int, entry: dict[str, Any], *, verify: bool) -> None:
    path = _path(folder, part, number)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; {REMEDY}")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise CheckpointError(f"{path} has {size} bytes instead of {entry['bytes']}; {REMEDY}")
    if verify and _digest(path) != entry["blake2b"]:
        raise CheckpointError(f"{path} has changed since it was written (its hash differs); {REMEDY}")


def check_space(folder: Path, needed: int) -> None:
    """Raise RunError unless the disk that holds `folder` has `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RunError(
            f"{folder}: the images need {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free; "
            "free some space, choose another folder or generate fewer images"
        )


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"{folder} cannot be written: {error.strerror}; "
        "complete shards are kept: fix this and repeat the command to resume"
    )


def _turn_by_turn(index: Tensor, groups: Tensor) -> Tensor:
    """Reorder ascending pool positions: the first of each group, then the second of each, and so on."""
    mine = groups[index]
    order = mine.argsort(stable=True)
    count = mine.bincount()
    start = count.cumsum(0) - count
    rank = torch.empty_like(index)
    rank[order] = torch.arange(len(index)) - start[mine[order]]
    return index[order][rank[order].argsort(stable=True)]


def _plain(values: Tensor) -> list[float | None]:
    """Numbers for JSON, which has neither infinity nor NaN."""
    return [value if abs(value) < float("inf") else None for value in values.tolist()]
