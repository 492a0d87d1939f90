"""Trained weights of the user's, as other programs write them: with the names of wrappers in front, or of another shape
than the network.
"""

from collections.abc import Iterable, Mapping
from itertools import product

from torch import Tensor, nn

from gankd.errors import CheckpointError

PREFIXES = ("module.", "model.", "net.")
"""Beginnings of all names, from DataParallel, Lightning and common training scripts."""
COMPILED = "_orig_mod."
"""Beginning of the names of a part that `torch.compile` compiled."""
SHOWN = 3


def fill_from_checkpoint(net: nn.Module, weights: Mapping[str, Tensor], problem: str) -> None:
    """Give `net` the weights of a state dict, with the names of `own_names`, in the types that `net` has.

    Raises:
        CheckpointError: `problem`, and the names or shapes that differ from the network's.
    """
    found, _ = own_names(weights, net)
    try:
        net.load_state_dict(dict(found))
    except Exception as error:  # the user's network may load its weights in its own way
        reason = _mismatch(found, net.state_dict()) or " ".join(str(error).split())[:300]
        raise CheckpointError(f"{problem}: {reason}") from None


def own_names(weights: Mapping[str, Tensor], net: nn.Module) -> tuple[Mapping[str, Tensor], str]:
    """A state dict under the names that `net` has, without `module.`, `_orig_mod.`, `model.`, `net.` or several of
    these, and what was done to it in words for the user. It stays as it is if that does not give all of the names.
    """
    names = {name for name in net.state_dict() if not name.endswith("num_batches_tracked")}  # missing in old files
    if not weights or names <= set(weights):
        return weights, ""
    remark = ""
    if any(COMPILED in name for name in weights) and not any(COMPILED in name for name in names):
        weights, remark = {name.replace(COMPILED, ""): value for name, value in weights.items()}, COMPILED
    for length in range(3):
        for parts in product(PREFIXES, repeat=length):
            prefix = "".join(parts)
            if names <= {name.removeprefix(prefix) for name in weights if name.startswith(prefix)}:
                own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
                remark = " and ".join(part for part in (remark, prefix) if part)
                others = [name for name in weights if not name.startswith(prefix)]
                without = f"; {_some(others)} not used" if others else ""
                return own, f"read without {remark} in the names of its weights{without}"
    return weights, ""


def _mismatch(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    expected = {name: value for name, value in expected.items() if isinstance(value, Tensor)}  # not an extra state
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    other = [name for name in expected if name in found and found[name].shape != expected[name].shape]
    facts = []
    if missing:
        facts.append(f"the file has no {_some(missing)}")
    if unknown:
        facts.append(f"the network has no {_some(unknown)}")
    if other:
        shapes = [f"{name} {list(found[name].shape)} instead of {list(expected[name].shape)}" for name in other]
        facts.append(f"size mismatch, the file has {_some(shapes)}")
    if missing and unknown and len(missing) == len(expected):
        facts.append("no name is the same: it is another network, or its names have a prefix to remove")
    elif facts and (missing or unknown):
        facts.append("it is another network, or the same with another depth or other layers")
    elif facts:
        facts.append("it was made for another number of outputs, channels or another width")
    return "; ".join(facts)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
