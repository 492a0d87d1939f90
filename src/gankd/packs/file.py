"""The file of a pack, checked piece by piece before a network is built from it."""

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from gankd.config import from_dict, require, to_dict
from gankd.data.own import shown
from gankd.engine import Engine
from gankd.errors import CheckpointError, GankdError
from gankd.generators.networks import LatentGenerator, start_side
from gankd.models import ZOO
from gankd.packs.card import Card
from gankd.packs.outputs import decode
from gankd.recipes.config import StudentConfig
from gankd.regular import require_regular
from gankd.seeds import BLOCK, rng
from gankd.storage import FORMAT, fill, fitting, load_state, save_state
from gankd.tasks import Adjust, Task, task_from_dict, task_to_dict
from gankd.training.gan import GanConfig, build_generator
from gankd.virtual import VirtualTeacher

KIND = "pack"
LARGEST_FILE = 512 * 2**20
"""Bytes of a pack at most; one of a published data set has a few million."""
LARGEST_IMAGES = 8 * 2**30
"""Bytes of all its images at most."""
MOST_CLASSES = 32_767
LONGEST_NAME = 200
"""Characters of a class name, or of a unit, at most."""
STUDENT = ("model", "loss", "updates", "batch_size", "optimizer", "lr", "schedule", "weight_decay", "augment")
"""Settings of students that a pack hands on: none that names code, files or a teacher's features."""


@dataclass(frozen=True, kw_only=True)
class Pack:
    """A generator, and for each kept image of its pool the label, the latent seed and the teacher's output.

    Image `p` of the pool is number p % 256 of block p // 256: the labels of a block and the random numbers of
    (seed, block) make it again. On the machine that made the pool the bits are the same; elsewhere a few pixels may
    differ by a level.
    """

    task: Task
    shape: tuple[int, int, int]
    """(C, H, W) of an image."""
    config: GanConfig
    generator: LatentGenerator
    """Evaluation mode."""
    seed: int
    """Seed of the latents."""
    labels: Tensor
    """(P,) or (P, n) assigned labels of the whole pool, in user units: blocks are made as a whole."""
    index: Tensor
    """(M,) int64 rising positions in the pool of the images that were kept."""
    encoded: dict[str, Any]
    """The teacher's outputs as they are stored (`packs.outputs`)."""
    adjust: Adjust
    """Labels that students get: the assigned ones, or made of the teacher's outputs."""
    student: StudentConfig
    """Settings with which the run trained its students."""
    card: Card
    """Origin, audit and controls."""
    virtual: VirtualTeacher | None = None
    fingerprint: str = ""
    """Hash of the file that it was read from."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def blocks(self) -> Tensor:
        """(M,) block of the pool that each kept image is in."""
        return self.index // BLOCK

    @cached_property
    def outputs(self) -> Tensor:
        """(M, K) log-probabilities, or (M,) values in user units, of the teacher."""
        return decode(self.encoded, self.task, len(self))

    @property
    def adjusted(self) -> Tensor:
        """(M,) labels of the kept images as students get them, or (M, K) probabilities."""
        return self.task.adjust(self.outputs, self.labels[self.index], self.adjust)

    def images(self, progress: Callable[[int, int], None] | None = None) -> Tensor:
        """(M, C, H, W) uint8 on the CPU, made again from their seeds.

        Args:
            progress: called with (images done, M) after each block.
        """
        images = torch.empty((len(self), *self.shape), dtype=torch.uint8)
        for block in self.blocks.unique().tolist():
            first, mine = block * BLOCK, (self.blocks == block).nonzero()[:, 0]
            labels = self.labels[first : first + BLOCK]
            made = self.generator.sample(labels, generator=rng(self.seed, "sample", block)).cpu()
            images[mine] = made[self.index[mine] - first]
            if progress:
                progress(int(mine[-1]) + 1, len(self))
        return images

    def save(self, path: Path) -> None:
        """Write it as one safetensors file, atomically."""
        content = {
            "task": task_to_dict(self.task),
            "shape": list(self.shape),
            "config": to_dict(self.config),
            "generator": self.generator.state_dict(),
            "seed": self.seed,
            "labels": _narrow(self.labels),
            "index": _narrow(self.index),
            "outputs": self.encoded,
            "adjust": self.adjust,
            "student": {name: value for name, value in to_dict(self.student).items() if name in STUDENT},
            "virtual": None if self.virtual is None else self.virtual.stored(),
            "card": to_dict(self.card),
        }
        save_state(path, {"format": FORMAT, "kind": KIND, **content})

    @classmethod
    def load(cls, path: Path | str) -> "Pack":
        """Read a pack, which may be a file from a stranger: nothing in it is run, and every part is checked first.

        Raises:
            CheckpointError: missing, damaged, not a pack, or not as `save` writes it.
        """
        path = Path(path)
        stored, digest = _read(path)
        try:
            return _checked(stored, digest)
        except GankdError as error:
            reason = str(error)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
            reason = f"{type(error).__name__} {error}"
        raise CheckpointError(f"{shown(path)} is not a sound pack: {shown(' '.join(reason.split())[:300])}")


def is_pack(target: str) -> bool:
    """True for the path of a file that can only be a pack where a recipe or a run folder is expected."""
    return target.endswith(".safetensors") and not Path(target).is_dir()


def loss_from_strangers(text: str) -> bool:
    """True if a loss has neither code of somebody's own nor a text among its settings, such as a path."""
    return re.fullmatch(r"(?:[\w\s+*(),=@]|(?<=\d)\.(?=\d))+", text) is not None


def _narrow(whole: Tensor) -> Tensor:
    """The smallest type that holds these numbers; floats stay as they are."""
    if whole.is_floating_point():
        return whole
    most = int(whole.max())
    return whole.to(torch.uint8 if most < 256 else torch.int16 if most < 2**15 else torch.int32)


def _widened(stored: Any, dtype: torch.dtype, name: str, shape: tuple[int, ...] = ()) -> Tensor:
    """Inverse of `_narrow`; `shape` is that of one item."""
    whole = (torch.uint8, torch.int16, torch.int32)
    known = (torch.float32,) if dtype == torch.float32 else whole
    sound = (
        isinstance(stored, Tensor)
        and stored.ndim > 0
        and stored.shape[1:] == shape
        and len(stored) > 0
        and stored.dtype in known
    )
    require(sound, f"{name} must be a list of numbers")
    return stored.to(dtype)


# --- checks -------------------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """Content of the file, after its first checks, and its hash."""
    try:
        require_regular(path)
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"no pack {shown(path)}: {error.strerror}; make one with: gankd pack RUN") from None
    if size > LARGEST_FILE:
        raise CheckpointError(f"{shown(path)} has {size:,} bytes, expected a pack of at most {LARGEST_FILE:,}")
    try:
        stored = load_state(path)
    except CheckpointError as error:
        reason = str(error).partition("; if it belongs")[0]
        raise CheckpointError(f"{shown(reason)}; expected a pack, as gankd pack RUN writes it") from None
    if not isinstance(stored, dict) or stored.get("kind") != KIND:
        raise CheckpointError(f"{shown(path)} is not a pack; make one with: gankd pack RUN")
    return stored, hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _checked(stored: dict[str, Any], digest: str) -> Pack:
    """The pack of a file's content: first what it says, then the arrays, at last the networks.

    Raises:
        GankdError, and what plain data of another kind raise.
    """
    task, shape = _checked_task(stored["task"]), _checked_shape(stored["shape"])
    config = from_dict(GanConfig, stored["config"], "its generator")
    require(config.external is None, f"its generator is {config.external!r}, code or files that a pack cannot hold")
    seed, adjust = stored["seed"], stored["adjust"]
    require(type(seed) is int and -(2**63) <= seed < 2**63, f"its seed is {seed!r}")
    require(adjust in get_args(Adjust), f"its labels are adjusted by {adjust!r}")

    labels = _widened(stored["labels"], task.label_dtype, "labels", task.label_shape)
    task.check_labels(labels)
    index = _widened(stored["index"], torch.int64, "positions of images")
    rising = bool((index.diff() > 0).all()) and int(index[0]) >= 0 and int(index[-1]) < len(labels)
    require(rising, f"positions of images must rise within 0..{len(labels) - 1}")
    size = math.prod(shape) * len(index)
    require(size <= LARGEST_IMAGES, f"its images would take {size:,} bytes, expected at most {LARGEST_IMAGES:,}")
    encoded = dict(stored["outputs"])
    decode(encoded, task, len(index))
    return Pack(
        task=task,
        shape=shape,
        student=_checked_student(stored["student"]),
        card=from_dict(Card, stored["card"], "its card"),
        generator=_checked_generator(task, shape, config, stored["generator"]),
        virtual=_checked_virtual(stored["virtual"], task),
        config=config,
        seed=seed,
        labels=labels,
        index=index,
        encoded=encoded,
        adjust=adjust,
        fingerprint=digest,
    )


def _checked_task(stored: Any) -> Task:
    task = task_from_dict(dict(stored))
    require(task.head_size <= MOST_CLASSES, f"it has {task.head_size:,} classes, expected at most {MOST_CLASSES:,}")
    sound = all(word.isprintable() and len(word) <= LONGEST_NAME for word in _texts(task_to_dict(task)))
    require(sound, f"a class name or unit is longer than {LONGEST_NAME} characters, or cannot be printed")
    own = stored.get("class_names") or ()
    require(len(own) in (0, task.head_size), f"it names {len(own)} of {task.head_size} classes")
    return task


def _texts(stored: Any) -> Iterator[str]:
    """All texts in plain data."""
    if isinstance(stored, str):
        yield stored
    elif isinstance(stored, dict | list | tuple):
        for item in stored.values() if isinstance(stored, dict) else stored:
            yield from _texts(item)


def _checked_shape(stored: Any) -> tuple[int, int, int]:
    sound = isinstance(stored, list) and len(stored) == 3 and all(type(side) is int for side in stored)
    require(sound and stored[0] in (1, 3) and stored[1] == stored[2], f"its images have the shape {stored!r}")
    start_side(stored[1])
    return stored[0], stored[1], stored[2]


def _checked_student(stored: Any) -> StudentConfig:
    values = dict(stored)
    require(set(values) <= set(STUDENT), f"it sets {', '.join(sorted(set(values) - set(STUDENT)))} of students")
    require(values.get("model", "cnn8") in ZOO, f"its student is {values.get('model')!r}, not a network of gankd")
    loss = values.get("loss", "KD")
    require(isinstance(loss, str) and loss_from_strangers(loss), f"its loss {loss!r} names code or files")
    return from_dict(StudentConfig, values, "its student")


def _checked_generator(task: Task, shape: tuple[int, int, int], config: GanConfig, state: Any) -> LatentGenerator:
    problem = "its generator is damaged"
    generator = fitting(lambda: build_generator(task, shape, config, seed=0), state, problem)
    fill(generator, state, problem)
    finite = all(bool(weight.isfinite().all()) for weight in generator.state_dict().values())
    require(finite, f"{problem}: a weight is not finite")
    return Engine.pick(min(shape[1:]), "cpu").place(generator.eval())  # as in a run: other layouts round otherwise


def _checked_virtual(stored: Any, task: Task) -> VirtualTeacher | None:
    if stored is None:
        return None
    virtual = VirtualTeacher.restored(dict(stored), "its virtual teacher")
    virtual.check_task(task, "its virtual teacher")
    return virtual
