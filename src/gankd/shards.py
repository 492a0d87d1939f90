"""Batches in shards that several processes share: the same weights, bit for bit, on any number of processes.

A batch is split into a fixed number of shards, whatever the number of processes. Each process runs its shards through
the network, one after the other; all processes gather the outputs and compute the loss of the whole batch. Gradients
are gathered and summed in the order of the shards, so that every process takes the same step.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from gankd.errors import ConfigError
from gankd.processes import count, gathered, number, summed
from gankd.seeds import derive_seed, of_shard, seed_layers

AT_A_TIME = 2**22
"""Weights whose gradients are gathered at a time: all at once would need as much memory as there are shards."""


@dataclass(frozen=True)
class Shards:
    """Division of a batch, and sum of the gradients of its parts.

        outputs = shards(model, images, trains=model)  # in place of model(images)

    Losses see the whole batch. Batch normalisation works shard by shard, as on the GPUs of DistributedDataParallel;
    running statistics move by the mean over shards. Vectors of spectral norms, which depend on no image, advance once.

    Args:
        count: number of shards; 1 calls the network as it is.
        fast: sum gradients by all-reduce, whose last bits depend on the number of processes.

    Raises:
        ConfigError: the processes cannot share the shards equally.
    """

    count: int = 1
    fast: bool = False

    def __post_init__(self) -> None:
        if self.count > 1 and self.count % count():
            fitting = [str(each) for each in range(1, self.count + 1) if self.count % each == 0]
            raise ConfigError(
                f"{count()} processes cannot share shards={self.count} equally; start {' or '.join(fitting)} "
                "processes, or change the setting shards, which trains networks again"
            )

    def __call__(self, call: Callable[..., Any], *inputs: Any, trains: nn.Module | None = None) -> Any:
        """Result of `call(*inputs)`, computed shard by shard, each by one process.

        Args:
            call: gives tensors of N rows, or lists, tuples and dicts of such.
            inputs: tensors of N rows, without gradient; or generators of random numbers, of which each shard gets one.
            trains: networks in it whose weights get gradients and whose running statistics move; default: none.
        """
        rows = next(len(value) for value in inputs if isinstance(value, Tensor))
        if self.count == 1 or rows < self.count:  # too few to share: all processes compute the same
            return call(*inputs)
        work = _Work(self, call, inputs, trains, _slices(rows, self.count))
        if torch.is_grad_enabled() and work.weights:
            return work.result(_Spread.apply(work, *work.weights))
        return work.result(work.forward())

    @property
    def own(self) -> range:
        """Numbers of the shards of this process."""
        each = self.count // count()
        return range(number() * each, (number() + 1) * each)

    def sum(self, parts: Tensor) -> Tensor:
        """Sum (P,) over all shards of (S / W, P) numbers of each shard of this process."""
        if self.fast:
            return summed(parts.sum(0))
        total = torch.empty_like(parts[0])
        for start in range(0, len(total), AT_A_TIME):
            some = slice(start, start + AT_A_TIME)
            every = gathered(parts[:, some].contiguous()).flatten(0, 1)  # (S, ...)
            total[some] = every[0]
            for part in every[1:]:  # one after the other: a sum over a dimension may take any order
                total[some] += part
        return total


def _slices(rows: int, shards: int) -> list[slice]:
    """Consecutive rows of each shard; sizes differ by one at most."""
    sizes = [rows // shards + (shard < rows % shards) for shard in range(shards)]
    ends = [sum(sizes[: shard + 1]) for shard in range(shards)]
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


class _Work:
    """One call of a network on the shards of this process, with what its backward pass needs."""

    def __init__(
        self,
        shards: Shards,
        call: Callable[..., Any],
        inputs: Sequence[Any],
        trains: nn.Module | None,
        slices: Sequence[slice],
    ) -> None:
        self.shards, self._call, self._inputs, self._slices = shards, call, inputs, slices
        self._buffers = _Buffers(trains)
        self.weights = [] if trains is None else [weight for weight in trains.parameters() if weight.requires_grad]
        self._outputs: list[list[Tensor]] = []
        self._structure: Any = None

    def forward(self, *, differentiate: bool = False) -> list[Tensor]:
        """Outputs of all shards, each of N rows; keeps those of this process for the backward pass."""
        seed = torch.initial_seed()
        with torch.set_grad_enabled(differentiate), self._buffers:
            for shard in self.shards.own:
                seed_layers(derive_seed(seed, "shard", shard))  # of the user's dropout and the like
                self._buffers.begin()
                leaves, self._structure = tree_flatten(self._call(*self._rows(shard)))
                self._outputs.append(leaves)
                self._buffers.end()
        seed_layers(derive_seed(seed, "after shards"))
        self._buffers.combine([rows.stop - rows.start for rows in self._slices])
        together = [self._of_all([leaves[place] for leaves in self._outputs]) for place in range(len(leaves))]
        if not differentiate:
            self._outputs.clear()
        return together

    def _rows(self, shard: int) -> Iterator[Any]:
        for value in self._inputs:
            if isinstance(value, torch.Generator):
                yield of_shard(value, shard)
            else:
                yield value[self._slices[shard]] if isinstance(value, Tensor) else value

    def _of_all(self, parts: Sequence[Tensor]) -> Tensor:
        """(N, ...) rows of all shards, from those of this process's; always in the same memory format."""
        own = torch.cat([part.detach() for part in parts]).contiguous()
        if count() == 1:
            return own
        each = self.shards.count // count()
        held = [self._slices[(process + 1) * each - 1].stop for process in range(count())]
        sizes = [end - start for start, end in zip([0, *held], held, strict=False)]
        padded = own.new_zeros((max(sizes), *own.shape[1:]))
        padded[: len(own)] = own
        return torch.cat([rows[:size] for rows, size in zip(gathered(padded), sizes, strict=True)])

    def result(self, outputs: Sequence[Tensor]) -> Any:
        """Outputs in the structure in which the network gives them."""
        return tree_unflatten(list(outputs), self._structure)

    @property
    def differentiable(self) -> list[bool]:
        """One bool for each output: True if it depends on the weights."""
        return [leaf.requires_grad for leaf in self._outputs[0]]

    def backward(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients of the weights, summed over all shards, from those of the outputs (N, ...)."""
        flat: list[Tensor] = []
        used: list[int] = []
        for shard, outputs in zip(self.shards.own, self._outputs, strict=True):
            pairs = [
                (output, gradient[self._slices[shard]])
                for output, gradient in zip(outputs, gradients, strict=True)
                if output.requires_grad and gradient is not None
            ]
            ends, starts = [output for output, _ in pairs], [start for _, start in pairs]
            found = torch.autograd.grad(ends, self.weights, starts, allow_unused=True)
            used = [place for place, gradient in enumerate(found) if gradient is not None]
            flat.append(torch.cat([gradient.reshape(-1) for gradient in found if gradient is not None]))
        self._outputs.clear()
        total = self.shards.sum(torch.stack(flat)).split([self.weights[place].numel() for place in used])
        result: list[Tensor | None] = [None] * len(self.weights)
        for place, part in zip(used, total, strict=True):
            result[place] = part.view(self.weights[place].shape).to(self.weights[place].dtype)
        return result


class _Spread(torch.autograd.Function):
    """A network on all shards as one step of autograd, so that a loss of its outputs is minimised as ever."""

    @staticmethod
    def forward(ctx: Any, work: _Work, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.work = work
        ctx.set_materialize_grads(False)
        outputs = work.forward(differentiate=True)
        kept = zip(outputs, work.differentiable, strict=True)
        ctx.mark_non_differentiable(*[output for output, differentiable in kept if not differentiable])
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *ctx.work.backward(gradients)


class _Buffers:
    """Running statistics of networks in training mode: each shard starts from those of the step before.

    Each shard writes to tensors of its own, as the backward pass of another one may still read them.
    """

    def __init__(self, module: nn.Module | None) -> None:
        owners = [] if module is None else [owner for owner in module.modules() if owner.training]
        self._places = [
            (owner, name, value)
            for owner in owners
            for name, value in owner._buffers.items()
            if value is not None and value.numel()
        ]
        self._after: list[Tensor] = []

    def __enter__(self) -> None:
        self._after.clear()

    def __exit__(self, *_: object) -> None:
        for owner, name, before in self._places:
            owner._buffers[name] = before

    def begin(self) -> None:
        """Give the networks copies for one shard."""
        for owner, name, before in self._places:
            owner._buffers[name] = before.clone()

    def end(self) -> None:
        """Note what one shard has made of them."""
        after = [owner._buffers[name] for owner, name, _ in self._places]
        if after:
            # float64 holds float32 and counts exactly
            self._after.append(torch.cat([value.detach().flatten().double() for value in after if value is not None]))

    def combine(self, sizes: Sequence[int]) -> None:
        """Set each to the mean over shards, weighted by their sizes; where all agree, to just that."""
        if not self._places:
            return
        every = gathered(torch.stack(self._after)).flatten(0, 1)  # (S, B)
        mean = every[0].clone()
        for size, after in zip(sizes, every, strict=True):
            mean += size / sum(sizes) * (after - every[0])
        with torch.no_grad():
            for (_, _, before), new in zip(
                self._places, mean.split([b.numel() for *_, b in self._places]), strict=True
            ):
                before.copy_(new.view(before.shape))
