"""Feature maps of any network, before training: find the modules that give them, check those that the user names, and
pair the maps of two networks.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from gankd.config import suggest
from gankd.errors import ModelError
from gankd.models.contract import ImageModel
from gankd.models.read_out import ReadOut
from gankd.models.tapped import Tap, alike, as_map

NUM_BLOCKS = 4
"""Number of taps in a network that keeps one resolution throughout, such as a vision transformer."""
ONE_RESOLUTION = 0.9
"""Such a network has more than this share of its layers with weights at its last resolution."""
SAME_LEVEL = 0.7
"""Maps whose sides differ by less than this factor, as convolutions without padding make them, share a stage."""


def find_taps(model: ImageModel, images: Tensor) -> tuple[Tap, ...]:
    """Stage boundaries, shallow to deep, from a dry run of two of the `images` that leaves the model as it was.

    A stage is what works at one resolution, its boundary the last map of that resolution; of several modules that hand
    on the same map, the outermost is named that holds no earlier stage. These do not count:

    - a resolution at which no layer has weights (what a pooling gives at the very end), or of one pixel;
    - the layers with which a block that lowers the resolution begins at the old one (a bottleneck's first convolution),
      and what a block does at another resolution in between (squeeze and excitation);
    - a lone first convolution that shrinks the image, if three stages remain;
    - modules that run more than once, and a convolution that gives the outputs.

    A network that works at one resolution throughout, such as a vision transformer, is tapped after four blocks at
    equal distances. There are no taps where there are no maps, as in an MLP.
    """
    calls = _dry_run(model, images)
    return tuple(_tap(call, model) for call in _boundaries(calls))


def check_taps(model: ImageModel, images: Tensor, paths: Sequence[str], what: str = "network") -> tuple[Tap, ...]:
    """Taps at dotted paths that the user names, checked by a dry run of `images`.

    Raises:
        ModelError: an unknown path, one that is given twice, or out of the order in which they run; a module that
            never runs, that runs more than once, or that gives no feature map.
    """
    net = model.members[0]
    calls = _dry_run(model, images)
    taps: list[Tap] = []
    for path in paths:
        runs = [call for call in calls if call.path == path]
        fault = ""
        if path in [tap.path for tap in taps]:
            fault = "is given twice"
        elif path not in [name for name, _ in net.named_modules() if name]:
            fault = (
                f"is not a module of {type(net).__name__}; {_suggest(path, calls) or 'it has no feature maps at all'}"
            )
        elif not runs:
            fault = "never runs in eval mode; name a module that does"
        elif len(runs) > 1:
            fault = f"runs {len(runs)} times for a batch, so it has more than one map; name the modules around its uses"
        elif not runs[0].shape:
            given = f"a {type(runs[0].output).__name__}"
            if isinstance(runs[0].output, Tensor):
                given = f"shape {tuple(runs[0].output.shape)}"
            fault = f"gives {given}, but a feature map is (N, C, H, W) or tokens (N, T, C); name an earlier module"
        if fault:
            raise ModelError(f"tap {path!r} of the {what} {fault} (see gankd inspect TEACHER STUDENT)")
        taps.append(_tap(runs[0], model))
    order = [call.path for call in calls if call.path in paths]
    if order != list(paths):
        raise ModelError(
            f"taps of the {what} must be given in the order in which they run, shallow to deep: {', '.join(order)} "
            "(see gankd inspect TEACHER STUDENT)"
        )
    return tuple(taps)


def pair_taps(student: Sequence[Tap], teacher: Sequence[Tap]) -> list[tuple[Tap, Tap]]:
    """Paired feature maps, shallow to deep: as many pairs as the network with fewer taps has, in order.

    The deepest maps are a pair: both networks decide from them, whatever their sizes. The others are chosen so that
    paired maps resolve the image alike: least sum of |log2 (student's relative side / teacher's)|, deeper ones among
    equals.
    """
    if not student or not teacher:
        return []

    def distance(i: int, j: int) -> float:
        return abs(math.log2(student[i].relative_side / teacher[j].relative_side))

    # best[i, j]: cheapest way to pair all of the shorter of student[:i] and teacher[:j].
    best: dict[tuple[int, int], tuple[float, list[tuple[int, int]]]] = {}
    for i in range(len(student)):
        for j in range(len(teacher)):
            if i == 0 or j == 0:
                best[i, j] = 0.0, []
                continue
            cost, pairs = best[i - 1, j - 1]
            paired = cost + distance(i - 1, j - 1), [*pairs, (i - 1, j - 1)]
            skipping = best[i - 1, j] if i > j else best[i, j - 1]
            best[i, j] = paired if i == j or paired[0] <= skipping[0] + 1e-9 else skipping
    pairs = [*best[len(student) - 1, len(teacher) - 1][1], (len(student) - 1, len(teacher) - 1)]
    return [(student[i], teacher[j]) for i, j in pairs]


@dataclass(frozen=True, eq=False)
class _Call:
    """A module that ran, in the order in which they ended."""

    path: str
    shape: tuple[int, int, int] | None
    """(C, H, W) of the map that it gave, if it gave one."""
    side_in: int
    """Height of the map that it read; 0 if it read none, or one in another form than the images."""
    side: int
    """Height of the map that it gave, likewise."""
    has_weights: bool
    """It mixes channels or pixels by weights of its own."""
    kind: type[nn.Module]
    is_leaf: bool
    output: Any
    version: int
    """Number of times that its output had been written to."""

    @property
    def channels(self) -> int:
        """Number of channels of the map that it gave."""
        return self.shape[0] if self.shape else 0


def _dry_run(model: ImageModel, images: Tensor) -> list[_Call]:
    """Every call of a module of the network (of an ensemble's first member) other than the network itself."""
    images = images[torch.arange(2, device=images.device) % len(images)]
    calls: list[_Call] = []

    def watch(path: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            shape = _shape(output, len(images), model.sides)
            read = (_shape(item, len(images), model.sides) for item in _flat([*args, *kwargs.values()]))
            given = next((_side(each, model.sides) for each in read), 0)
            calls.append(
                _Call(
                    *(path, shape, given, _side(shape, model.sides)),
                    has_weights=isinstance(module, nn.Conv2d | nn.Linear)
                    or any(parameter.ndim > 1 for parameter in module.parameters(recurse=False)),
                    kind=type(module),
                    is_leaf=next(module.children(), None) is None,
                    output=output,
                    version=output._version if isinstance(output, Tensor) else 0,
                )
            )

        return hook

    modules = [(path, module) for path, module in model.members[0].named_modules() if path]
    hooks = [
        module.register_forward_hook(watch(path), with_kwargs=True)
        for path, module in modules
        if not isinstance(module, torch.jit.ScriptModule)  # which takes none
    ]
    try:
        with ReadOut(model.members, type(model.net).__name__) as read_out, undisturbed(model, images):
            read_out.start()
            read = read_out.finish(model(images))
    finally:
        for hook in hooks:
            hook.remove()
    if read and isinstance(read[0][0], nn.Conv2d):
        head = next(path for path, module in modules if module is read[0][0])
        calls = calls[: max(number for number, call in enumerate(calls) if call.path == head)]
    return calls


@contextmanager
def undisturbed(model: ImageModel, images: Tensor) -> Iterator[None]:
    """Eval mode without gradients; afterwards modes and random numbers are as before."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng([images.device] if images.is_cuda else []), torch.no_grad():
        try:
            model.eval()
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def _flat(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among nested lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _flat(value)


def _shape(output: Any, num_rows: int, image: tuple[int, int]) -> tuple[int, int, int] | None:
    """(C, H, W) of a map; None for anything else."""
    if not isinstance(output, Tensor) or output.ndim not in (3, 4) or len(output) != num_rows or not output.numel():
        return None
    _, channels, height, width = as_map(output, image).shape
    return channels, height, width


def _side(shape: tuple[int, int, int] | None, image: tuple[int, int]) -> int:
    """Height of a map in the form of the images; 0 for another."""
    return shape[1] if shape and alike(*shape[1:], image) else 0


def _boundaries(calls: list[_Call]) -> list[_Call]:
    """Stage boundaries among all calls, as `find_taps` describes them."""
    calls = [call for call in calls if call.kind is not nn.Identity]
    levels = _levels(side for call in calls for side in (call.side_in, call.side) if side)
    ranks = _ranks(calls, levels)
    counts = Counter(call.path for call in calls)
    working = [call for call in calls if call.has_weights and call.side > 1 and ranks[call] < math.inf]
    found: list[_Call] = []
    stem = None
    for level in sorted({levels[call.side] for call in working}):
        least = min(ranks[call] for call in working if levels[call.side] == level)
        stage = [call for call in calls if call.side > 1 and levels[call.side] == level and ranks[call] <= least]
        layers = [call for call in stage if call.has_weights]
        # A pooling to a fixed size may come back to this resolution later on.
        coarser = (call for call in calls[calls.index(layers[-1]) :] if levels.get(call.side, -1) > level)
        left = next((calls.index(call) for call in coarser if ranks[call] < math.inf), len(calls))
        stage = [call for call in stage if calls.index(call) < left and counts[call.path] == 1 and call.channels > 1]
        if stage:
            found.append(_outermost(stage[-1], stage, found))
            if len(found) == 1 and level > 0 and len(layers) == 1:
                stem = found[0]
    if stem is not None and len(found) > 3:
        found.remove(stem)
    if found:
        last = [call for call in working if levels[call.side] == levels[found[-1].side]]
        if len(last) > ONE_RESOLUTION * len(working):
            found = _evenly_spaced_blocks([call for call in calls if counts[call.path] == 1]) or found
    return sorted(found, key=calls.index)


def _levels(sides: Iterable[int]) -> dict[int, int]:
    """Number of the resolution that each side belongs to, from 0 for the finest."""
    levels: dict[int, int] = {}
    largest, level = math.inf, -1
    for side in sorted(set(sides), reverse=True):
        if side <= SAME_LEVEL * largest:
            largest, level = side, level + 1
        levels[side] = level
    return levels


def _ranks(calls: list[_Call], levels: dict[int, int]) -> dict[_Call, float]:
    """Distance of each call from the main line of its resolution: 0 is on it, infinity has no part in it.

    Infinity: inside a block that goes on to a coarser resolution and works there too, or that works on another one and
    returns. Plus 1: inside a block that only ends in a pooling; such layers make a stage where no others do.

    Not a block: a plain nn.Sequential with weights at its first resolution, for what that runs is as good as run by the
    network itself; and a module with weights at more than two resolutions, or with none before it, as a backbone is.
    """
    ranks = dict.fromkeys(calls, 0.0)
    for block in calls:
        before, after = levels.get(block.side_in), levels.get(block.side)
        inside = [call for call in calls if call.side and call.path.startswith(block.path + ".")]
        if not inside or before is None or after is None:
            continue
        works_at = {
            levels[call.side] for call in inside if call.has_weights and call.side > 1 and ranks[call] < math.inf
        }
        is_main_line = block.kind is nn.Sequential and before in works_at
        is_first = not any(call.has_weights for call in calls[: calls.index(inside[0])])
        if before == after or (works_at <= {before, after} and not is_main_line and not is_first):
            early = math.inf if after in works_at else 1.0
            distances = {before: early, after: 0.0}
            ranks.update({call: ranks[call] + distances.get(levels[call.side], math.inf) for call in inside})
    return ranks


def _outermost(call: _Call, stage: list[_Call], earlier: list[_Call]) -> _Call:
    """Module to name among those that hand on the same map: the one that made it, or the outermost around it that holds
    no earlier stage.
    """
    same = [other for other in stage if other.output is call.output and other.version == call.version]
    outer = same[0]
    for other in same[1:]:
        inner = other.path + "."
        if not outer.path.startswith(inner) or any(tap.path.startswith(inner) for tap in earlier):
            break
        outer = other
    return outer


def _evenly_spaced_blocks(calls: list[_Call]) -> list[_Call]:
    """Four modules at equal distances of the largest family of like modules side by side, the last one included."""
    families: dict[tuple[Any, ...], list[_Call]] = {}
    for call in calls:
        if not call.is_leaf and call.side > 1:
            families.setdefault((call.path.rpartition(".")[0], call.kind, call.shape), []).append(call)
    blocks = max(families.values(), key=len, default=[])
    count = min(NUM_BLOCKS, len(blocks))
    return [blocks[math.ceil((number + 1) * len(blocks) / count) - 1] for number in range(count)] if count > 1 else []


def _suggest(path: str, calls: list[_Call]) -> str:
    """Modules of like names that give maps, else the stage boundaries."""
    names = [call.path for call in calls if call.shape]
    known = names if get_close_matches(path, names) else [call.path for call in _boundaries(calls)]
    return suggest(path, known) if known else ""


def _tap(call: _Call, model: ImageModel) -> Tap:
    assert call.shape
    channels, height, width = call.shape
    shape = (channels * len(model.members), height, width)
    return Tap(call.path, shape, model.sides, call.output._version != call.version)
