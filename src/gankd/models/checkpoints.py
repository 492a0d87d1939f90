"""Trained weights of the user's, as other programs write them: with the names of wrappers in front, or of another shape
than the network.
"""

from collections.abc import Iterable, Mapping
from itertools import product

from torch import Tensor, nn

from gankd.errors import CheckpointError
from gankd.models.causes import likely_cause

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
    """A state dict under the names that `net` has, and what was done to it in words for the user.

    Removed from the beginning of its names are `module.`, `_orig_mod.`, `model.`, `net.` or several of these, or else
    the only beginning (`backbone.`) under which it has all of the names. It stays as it is if there is no such one.
    """
    names = {name for name in net.state_dict() if not name.endswith("num_batches_tracked")}  # missing in old files
    if not weights or names <= set(weights):
        return weights, ""
    remark = ""
    if any(COMPILED in name for name in weights) and not any(COMPILED in name for name in names):
        weights, remark = {name.replace(COMPILED, ""): value for name, value in weights.items()}, COMPILED
    prefixes = _prefixes(weights, names)
    usual = ["".join(parts) for length in range(3) for parts in product(PREFIXES, repeat=length)]
    prefix = next((prefix for prefix in usual if prefix in prefixes), prefixes[0] if len(prefixes) == 1 else None)
    if prefix is None:
        return weights, ""
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    remark = " and ".join(part for part in (remark, prefix) if part)
    others = [name for name in weights if not name.startswith(prefix)]
    without = f"; {_some(others)} not used" if others else ""
    return own, f"read without {remark} in the names of its weights{without}"


def _prefixes(weights: Mapping[str, Tensor], names: set[str]) -> list[str]:
    """Beginnings, "" or up to a point, under which weights have all of the names."""
    last = min(names)
    ends = [name.removesuffix(last) for name in weights if name.endswith(last)]
    return [
        prefix
        for prefix in dict.fromkeys(ends)
        if (prefix == "" or prefix.endswith(".")) and all(f"{prefix}{name}" in weights for name in names)
    ]


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
        differing = [f"{name} {list(found[name].shape)} instead of {list(expected[name].shape)}" for name in other]
        facts.append(f"size mismatch, the file has {_some(differing)}")
    if facts:
        names = {name for name in expected if not name.endswith("num_batches_tracked")}
        shapes_found = {name: value.shape for name, value in found.items() if isinstance(value, Tensor)}
        shapes = {name: value.shape for name, value in expected.items()}
        facts.append(likely_cause(shapes_found, shapes, _prefixes(found, names) if names else ()))
    return "; ".join(facts)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
