"""Networks in parts: each of several processes holds a share of every weight, as for those too large for one of them.

By PyTorch's fully sharded data parallel (FSDP2), forward pass only: a block's weights are brought together when it
computes, and dropped after it. All processes must call the network equally often.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gankd.processes import count


def divide(net: nn.Module, device: torch.device) -> None:
    """Leave each process its share of the weights of `net`, in place and on `device`, a block at a time.

    Blocks are the elements of `Sequential` and `ModuleList`; the rest of the weights are brought together for the whole
    forward pass. One process keeps them all.

    Args:
        net: frozen, equal in all processes, and not yet on a GPU that it does not fit.
        device: of this process.
    """
    if count() == 1 or is_parted(net):
        return
    from torch.distributed.device_mesh import init_device_mesh  # seconds, which other runs need not wait for
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (count(),))
    net.requires_grad_(False).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # all that FSDP2 can divide
    blocks = [
        block
        for owner in reversed(list(net.modules()))  # inner ones first
        if isinstance(owner, nn.Sequential | nn.ModuleList)
        for block in owner
        if any(True for _ in block.parameters())
    ]
    for block in dict.fromkeys([*blocks, net]):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)


def is_parted(net: nn.Module) -> bool:
    """True if this process holds only its share of the weights."""
    return count() > 1 and any(_is_share(weight) for weight in net.parameters())


def whole_state(net: nn.Module) -> dict[str, Any]:
    """The state of a network, with whole weights on the CPU where it is in parts; all processes must call it."""
    if not is_parted(net):
        return net.state_dict()
    return {name: value.full_tensor().cpu() if _is_share(value) else value for name, value in net.state_dict().items()}


def _is_share(value: Any) -> bool:
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")
