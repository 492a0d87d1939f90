"""Likely causes why trained weights do not fit a network, in words for the user."""

import re
from collections.abc import Mapping, Sequence

from torch import Size

Shapes = Mapping[str, Size]
"""Shapes of tensors by their names, in the order of the network or file."""

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
MARKS = {
    r"\.lora_[AB]\b|\.lora_(up|down)\b": "it holds low-rank adapters: merge them into the weights before saving",
    r"(_packed_params|\.zero_point|\.SCB|\.qweight)\b": "its weights are quantised: save those before quantisation",
    r"\.weight_mask$": "its weights are pruned under masks: torch.nn.utils.prune.remove(...) before saving",
    r"\.parametrizations\.|\.weight_(g|v|orig|u)$": (
        "its weights are parametrised (weight or spectral normalisation): remove that before saving, or build the "
        "network with it"
    ),
}
"""Signs in names that only the file has, and what they mean."""
LIBRARIES = {
    r"^layer1\.0\.conv1\.": ("ResNets", "torchvision:resnet18 or timm:resnet18"),
    r"^encoder\.layers\.encoder_layer_0\.": ("vision transformers", "torchvision:vit_b_16"),
    r"^blocks\.0\.attn\.qkv\.": ("vision transformers", "timm:vit_tiny_patch16_224"),
    r"^conv_stem\.": ("EfficientNets and MobileNets", "timm:efficientnet_b0"),
    r"^features\.0\.(0\.)?weight": ("VGGs, MobileNets and DenseNets", "torchvision:vgg11 or torchvision:mobilenet_v2"),
    r"^stages\.0\.(blocks\.)?0\.": ("ConvNeXts and RegNets", "timm:convnext_tiny"),
}
"""First names of networks of torchvision and timm, and names to write for them."""


def likely_cause(found: Shapes, expected: Shapes, prefixes: Sequence[str] = ()) -> str:
    """Likely cause why a file and a network differ, and what to do, in one clause.

    Args:
        found: what the file has.
        expected: what the network has.
        prefixes: beginnings under which the file has every name of the network, if there are several.
    """
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    other = [name for name in expected if name in found and found[name] != expected[name]]
    if len(prefixes) > 1:
        return f"it holds several such networks, under {' and '.join(prefixes)}: save the one that you want by itself"
    for sign, cause in MARKS.items():
        if any(re.search(sign, f".{name}") for name in unknown):
            return cause
    if not other and missing and not unknown and all(name.endswith(STATISTICS) for name in missing):
        return "it lacks the statistics of batch normalisation: save model.state_dict(), and not parameters alone"
    if not other and unknown and not missing and all(name.endswith(STATISTICS) for name in unknown):
        return "the network keeps no statistics of batch normalisation, as track_running_stats=False makes it"
    if _only_head(missing, unknown, other, found, expected):
        return _another_head(missing, unknown, other, found, expected)
    known = len(missing) < len(expected)
    if (
        known
        and (missing or unknown)
        and _patterns(missing) <= _patterns(expected)
        and _patterns(unknown) <= _patterns(expected)
    ):
        return f"it is the same kind of network with another depth ({_depth(found)} instead of {_depth(expected)})"
    other_names = _other_names(found, expected) if 2 * len(missing) > len(expected) else ""
    if other_names:
        return other_names
    if len(missing) == len(expected):
        return "no name is the same: it is another network, or its names have a prefix to remove"
    if missing or unknown:
        return "it is another network, or the same with another depth or other layers"
    return "it has another width, or reads images with other channels"


def _only_head(
    missing: Sequence[str], unknown: Sequence[str], other: Sequence[str], found: Shapes, expected: Shapes
) -> bool:
    """True if all that differs belongs to the last layers, and at least as much before them is equal."""
    different = {*missing, *other}
    order = list(expected)
    first = min((order.index(name) for name in different), default=len(order))
    equal = order[:first]
    if len(equal) < max(2, len(order) // 2) or not (different or unknown):
        return False
    last_equal = max((place for place, name in enumerate(found) if name in equal), default=0)
    return all(list(found).index(name) > last_equal for name in unknown)


def _another_head(
    missing: Sequence[str], unknown: Sequence[str], other: Sequence[str], found: Shapes, expected: Shapes
) -> str:
    if other and not missing and not unknown and all(found[name][1:] == expected[name][1:] for name in other):
        name = other[0]
        return f"it has another number of outputs ({found[name][0]} instead of {expected[name][0]})"
    layers = [name for name in unknown if name.endswith("weight") and len(found[name]) == 2]
    if len(layers) > 1:
        ends = f"{_module(layers[0])} to {_module(layers[-1])}"
        return f"it ends in a head of {len(layers)} layers ({ends}), and the network in another"
    return "only the last layers differ: it has another head"


def _other_names(found: Shapes, expected: Shapes) -> str:
    """Cause where only names differ, or names are those of another library; else empty."""
    same = [shape for shape in found.values() if len(shape)] == [shape for shape in expected.values() if len(shape)]
    for sign, (kind, names) in LIBRARIES.items():
        if any(re.search(sign, name) for name in found):
            like = "; its shapes are the network's" if same else ""
            return f"its names are those of {kind} of torchvision or timm: name that network, for example {names}{like}"
    if same:
        return "its shapes are the network's, in the same order, so only names differ: rename them, or save it again"
    return ""


def _patterns(names: Sequence[str] | Shapes) -> set[str]:
    """Names without their numbers."""
    return {re.sub(r"\d+", "#", name) for name in names}


def _depth(shapes: Shapes) -> str:
    """Number of layers with weights, which are matrices or kernels."""
    return f"{sum(len(shape) > 1 for shape in shapes.values())} layers"


def _module(name: str) -> str:
    return name.rpartition(".")[0]
