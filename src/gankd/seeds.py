"""Random numbers by name: each use gets its own generator, seeded by (seed, purpose, step or block).

No state is carried from step to step, so a resumed run draws the same numbers as an uninterrupted one, and
samples do not depend on the batch size or the number of processes.
"""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 256
"""Samples per block of random numbers."""


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, unrelated to those of other purposes."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def rng(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *purpose))


def in_blocks(rows: Tensor, index: Tensor, seed: int, purpose: str) -> Callable[..., Tensor]:
    """A sampler (labels, generator) that returns the rows at `index` in order, also if it begins with a later block.

    A block is identified by its random numbers, rng(seed, purpose, block), which do not depend on earlier blocks.
    """
    blocks = {rng(seed, purpose, block).initial_seed(): part for block, part in enumerate(index.split(BLOCK))}

    def sample(_: Tensor, *, generator: torch.Generator) -> Tensor:
        return rows[blocks[generator.initial_seed()]]

    return sample


def seed_own_layers(seed: int, step: int) -> None:
    """Seed the global generator for one step: the user's dropout and the like draw from it, so that a resumed run and
    a paired arm then draw the same numbers.
    """
    seed_layers(derive_seed(seed, "own layers", step))


def seed_layers(seed: int) -> None:
    """Seed the global generators, of which layers draw."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed keeps a stack trace where there is no GPU
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


def of_shard(random: torch.Generator, shard: int) -> torch.Generator:
    """A generator for one shard of a batch, unrelated to those of other shards and to `random`."""
    return rng(random.initial_seed(), "shard", shard, device=random.device)


class Batches:
    """Endless shuffled passes over `size` items; the indices of step k depend only on (seed, k).

    Batches run across the end of a pass, so every batch is full, even if it is larger than the data.
    """

    def __init__(self, size: int, batch_size: int, seed: int, *purpose: str | int) -> None:
        self.size, self.batch_size = size, batch_size
        self._seed, self._purpose = seed, purpose
        self._passes: dict[int, Tensor] = {}

    def __call__(self, step: int) -> Tensor:
        """(batch_size,) int64 indices on the CPU."""
        start = step * self.batch_size
        first, last = start // self.size, (start + self.batch_size - 1) // self.size
        self._passes = {n: self._passes[n] if n in self._passes else self._shuffle(n) for n in range(first, last + 1)}
        # Each pass is sliced before the parts are joined: a step must not cost more the more items there are.
        parts = [
            order[max(start - n * self.size, 0) : start + self.batch_size - n * self.size]
            for n, order in self._passes.items()
        ]
        return torch.cat(parts)

    def _shuffle(self, number: int) -> Tensor:
        return torch.randperm(self.size, generator=rng(self._seed, *self._purpose, "pass", number))
