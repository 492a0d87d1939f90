"""Processes that compute one run together, through torch.distributed. A process on its own is number 0 of 1.

`torchrun` and `gankd run --processes` start them. All follow the same program; the first one writes all files.
"""

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gankd.config import require
from gankd.errors import LostProcessError

T = TypeVar("T")
TRANSPORT = r"gloo/transport|NCCL"
"""Words of errors of the exchange between processes."""


def count() -> int:
    """Number of processes."""
    return dist.get_world_size() if _is_joined() else 1


def number() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _is_joined() else 0


def leads() -> bool:
    """True if this process writes the files of the run and speaks to the user."""
    return number() == 0


def local_number() -> int:
    """Number of this process among those on the same machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def started_together() -> bool:
    """True if this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join() -> None:
    """Compute together with the processes that were started with this one, if there are any, from now on."""
    if not started_together() or _is_joined():
        return
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    with _lost_ones_named():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


@contextmanager
def joined() -> Iterator[None]:
    """`join` for the time of the block; after an error nobody is waited for."""
    join()
    with _lost_ones_named(TRANSPORT):  # PyTorch's own exchanges, as of the weights of a network in parts
        yield
    wait()
    if _is_joined():
        dist.destroy_process_group()


def gathered(value: Tensor) -> Tensor:
    """(W, ...) a contiguous tensor of the same shape from each process, in their order."""
    if count() == 1:
        return value[None]
    every = value.new_empty((count(), *value.shape))
    with _lost_ones_named():
        dist.all_gather(list(every), value)
    return every


def summed(value: Tensor) -> Tensor:
    """Sum over processes, in an order that depends on their number."""
    if count() > 1:
        with _lost_ones_named():
            dist.all_reduce(value)
    return value


def brought_to_first(value: T) -> list[T]:
    """Plain data or arrays of each process, in their order; empty for all but the first process."""
    if count() == 1:
        return [value]
    every: list[Any] = [None] * count() if leads() else []
    with _lost_ones_named():
        dist.gather_object(value, every or None)
    return every


def agreed(value: T) -> T:
    """The first process's value, when all have come so far: of what each could have measured otherwise."""
    if count() == 1:
        return value
    every: list[Any] = [None] * count()
    with _lost_ones_named():
        dist.all_gather_object(every, value)
    first: T = every[0]
    return first


def wait() -> None:
    """Wait until all processes have come so far."""
    agreed(None)


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextmanager
def _lost_ones_named(words: str = "") -> Iterator[None]:
    """The errors that a process gets when it talks to one that has ended, in one line; only those with these words."""
    try:
        yield
    except RuntimeError as error:
        if not re.search(words, str(error)):
            raise
        reason = re.sub(r"\[/\S*\] ", "", " ".join(str(error).split()))  # without places in PyTorch's own code
        raise LostProcessError(
            "another process of this run has ended or cannot be reached; finished stages and the last checkpoint are "
            f"kept, and the same command resumes ({reason[:120]})"
        ) from error


def _end_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone: nobody else would."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def own_gpu(device: str) -> torch.device:
    """The GPU of this process, one of several on this machine.

    Raises:
        ConfigError: `device` names one GPU, or there are fewer GPUs than processes.
    """
    require(":" not in device, f"each process takes a GPU of its own, so device must be auto or cuda, got {device!r}")
    found = torch.cuda.device_count()
    require(
        local_number() < found,
        f"process {local_number() + 1} of this machine finds {found} GPUs; start as many processes, or use device=cpu",
    )
    torch.cuda.set_device(local_number())
    return torch.device("cuda", local_number())
