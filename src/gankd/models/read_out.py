"""Penultimate features of any network: the input of the layer that gives its outputs, read by hooks."""

from collections.abc import Callable, Sequence
from types import TracebackType

from torch import Tensor, nn


class ReadOut:
    """Watches for the layer of each member that gives the outputs: the last nn.Linear that runs.

    A 1x1 convolution of as many channels as outputs (SqueezeNet) counts too; it reads the global mean of its input.
    The hooks stay until `close`; they keep a tensor only between `start` and `finish`.

    Args:
        members: the networks of an ensemble, or one network.
        name: of the network, in the reason why there is no such layer.
    """

    def __init__(self, members: Sequence[nn.Module], name: str) -> None:
        closed = getattr(members[0], "only_outputs", None)  # a network in a file
        self.reason = closed or f"{name} has no nn.Linear to read features from; end it in a linear layer"
        candidates = [
            [
                module
                for module in member.modules()
                if isinstance(module, nn.Linear)
                or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1)
            ]
            for member in members
        ]
        self.can_be_found = all(candidates)
        self._num_members = len(candidates)
        self._read: dict[int, tuple[nn.Linear | nn.Conv2d, Tensor]] | None = None
        self._hooks = [
            module.register_forward_pre_hook(self._watch(number))
            for number, modules in enumerate(candidates)
            for module in modules
        ]

    def start(self) -> None:
        """Watch the forward pass to come."""
        self._read = {}

    def finish(self, outputs: Tensor) -> list[tuple[nn.Linear | nn.Conv2d, Tensor]]:
        """The layer of each member and its input (N, F) in the forward pass that gave `outputs`; an empty list, for
        `reason`, if a member has no such layer.
        """
        read, self._read = self._read or {}, None
        width = outputs.shape[1] if outputs.ndim == 2 else 1
        found = [
            (layer, x.flatten(1) if isinstance(layer, nn.Linear) else x.mean((2, 3)))
            for layer, x in (read[number] for number in sorted(read))
            if isinstance(layer, nn.Linear) or layer.out_channels == width
        ]
        return found if len(found) == self._num_members else []

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> "ReadOut":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _watch(self, member: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            if self._read is not None:
                self._read[member] = layer, inputs[0]

        return hook
