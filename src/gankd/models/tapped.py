"""Read feature maps and embedding of any network from outside, along with its outputs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from gankd.errors import ModelError
from gankd.models.contract import ImageModel
from gankd.models.read_out import ReadOut


@dataclass(frozen=True)
class Tap:
    """A module whose output is read as a feature map."""

    path: str
    """Dotted path of the module in the user's network (in each member of an ensemble)."""
    shape: tuple[int, int, int]
    """(C, H, W) of the map as it is read, all members of an ensemble together."""
    image_sides: tuple[int, int]
    """Height and width of the images that the network reads."""
    overwritten: bool = False
    """A later module works on the map in place, so that it has to be copied."""

    @property
    def relative_side(self) -> float:
        """Side of the map over the side of the image."""
        return math.sqrt(self.shape[1] * self.shape[2] / math.prod(self.image_sides))


def alike(height: int, width: int, image: tuple[int, int]) -> bool:
    """True if a map of this height and width has the form of images (height, width), up to a row or column."""
    return abs(height * image[1] - width * image[0]) < max(image)


def as_map(output: Tensor, image: tuple[int, int]) -> Tensor:
    """Output of a module as a map (N, C, H, W), by its shape: maps have the form of the images (height, width).

    (N, C, H, W) stays; (N, H, W, C) is turned where H and W have that form, and W and C have not. A token sequence
    (N, T, C) becomes (N, C, h, w) from its last h w tokens, as many as there are in that form: class and register
    tokens come first and are dropped.
    """
    if output.ndim == 4:
        _, first, second, third = output.shape
        turned = alike(first, second, image) and not alike(second, third, image)
        return output.permute(0, 3, 1, 2) if turned else output
    num_rows, num_tokens, width = output.shape
    high = math.isqrt(num_tokens * image[0] // image[1])
    wide = high * image[1] // image[0]
    return output[:, num_tokens - high * wide :].transpose(1, 2).reshape(num_rows, width, high, wide)


class Signals(NamedTuple):
    """Results of a forward pass of `Tapped`, in the type in which the network computes."""

    outputs: Tensor
    """Outputs of the model, in user units."""
    embedding: Tensor | None
    """(N, F): input of the last linear layer, all members concatenated; None if there is no such layer."""
    features: list[Tensor]
    """Maps (N, C, H, W) at the taps, the members' concatenated along C."""
    preactivations: list[Tensor]
    """Maps at the taps before their ReLU; empty unless requested."""


class Tapped(nn.Module):
    """A model whose feature maps and embedding are outputs too; gradients flow through all of them.

    The model gets hooks, which do nothing outside of this module's forward pass and are removed by `close` or at the
    end of a `with` block. They are set once, here, so that the whole can be compiled.

    Args:
        model: shares its parameters; store its own `state_dict`.
        taps: where to read maps; for a bare path the map is always copied.
        preactivations: also read the maps before their ReLU (or ReLU6, or clamp at 0). A sum that the next block
            normalises before its ReLU, as in a Wide ResNet, is read as that batch normalisation gives it; any other
            map that is not directly the output of a ReLU is read as it is.
    """

    def __init__(self, model: ImageModel, taps: Sequence[Tap | str], *, preactivations: bool = False) -> None:
        super().__init__()
        self.model = model
        self.preactivations = preactivations
        self._paths = [tap if isinstance(tap, str) else tap.path for tap in taps]
        self._caught: dict[tuple[str, int], tuple[Tensor, Tensor]] | None = None
        self._relus: _Relus | None = None
        self._read_out = ReadOut(model.members, type(model.net).__name__)
        self._hooks = [
            member.get_submodule(path).register_forward_hook(
                self._catch((path, number), isinstance(tap, str) or tap.overwritten)
            )
            for path, tap in zip(self._paths, taps, strict=True)
            for number, member in enumerate(model.members)
        ]

    @property
    def why_not_compile(self) -> str:
        """Reason why this must not be given to `torch.compile`; empty if it may be."""
        if not self.preactivations:
            return ""
        return "maps before their ReLU are found by watching every call as it happens, which compiled code leaves out"

    @property
    def why_no_embedding(self) -> str:
        """Reason why the embedding is None, if it is."""
        return self._read_out.reason

    def forward(self, images: Tensor) -> Signals:
        caught = self._caught = {}
        self._read_out.start()
        before: dict[tuple[str, int], Tensor] = {}
        if self.preactivations:
            with _Relus() as self._relus:
                outputs = self.model(images)
            before = {key: self._as_map(self._relus.before(output)) for key, (_, output) in caught.items()}
            self._relus = None
        else:
            outputs = self.model(images)
        self._caught = None
        read = self._read_out.finish(outputs)
        embedding = torch.cat([features for _, features in read], 1) if read else None
        features, preactivations = [], []
        for path in self._paths:
            keys = [(path, number) for number in range(len(self.model.members))]
            if not all(key in caught for key in keys):
                raise ModelError(f"tap {path!r} of {type(self.model.net).__name__} did not run this time; name another")
            features.append(_side_by_side([caught[key][0] for key in keys]))
            if self.preactivations:
                preactivations.append(_side_by_side([before[key] for key in keys]))
        return Signals(outputs, embedding, features, preactivations)

    def _as_map(self, output: Tensor) -> Tensor:
        return as_map(output, self.model.sides)

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._read_out.close()

    def __enter__(self) -> "Tapped":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _catch(self, key: tuple[str, int], copy: bool) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_: nn.Module, inputs: Any, output: Tensor) -> None:
            if self._caught is not None:
                after = output.clone() if copy else output
                if self._relus is not None:
                    self._relus.watch(output, after)
                self._caught[key] = self._as_map(after), output

        return hook


def _side_by_side(maps: list[Tensor]) -> Tensor:
    return maps[0] if len(maps) == 1 else torch.cat(maps, 1)


class _Relus(TorchFunctionMode):
    """Remembers the input of every ReLU-like call for as long as its result lives, and finds that of watched maps."""

    def __init__(self) -> None:
        super().__init__()
        self._inputs = WeakIdKeyDictionary()  # result of a ReLU -> its input, and the result's version
        self._watched = WeakIdKeyDictionary()  # map -> its values before the ReLU, as far as known
        self._normalised = WeakIdKeyDictionary()  # result of a batch normalisation -> the watched map that it read

    def watch(self, output: Tensor, after: Tensor) -> None:
        """Look for the values before the ReLU of `output`, a map just made; `after` stands for it where it has none."""
        before, version = self._inputs.get(output, (None, None))
        found = version == output._version
        self._watched[output] = before if found else after, found

    def before(self, output: Tensor) -> Tensor:
        """Values of a watched map before its own ReLU, or before the next one behind a batch normalisation."""
        found: Tensor = self._watched[output][0]
        return found

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _NORMS:
            read, output = args[0] if args else kwargs["input"], func(*args, **kwargs)
            if not self._watched.get(read, (None, True))[1]:
                self._normalised[output] = read
            return output
        if not _is_relu(func, args, kwargs):
            return func(*args, **kwargs)
        read = args[0] if args else kwargs["input"]
        source = self._normalised.get(read)
        in_place = func.__name__.endswith("_") or kwargs.get("inplace", False)
        before = read.clone() if in_place else read
        if source is not None and not self._watched[source][1]:
            self._watched[source] = before, True
        output = func(*args, **kwargs)
        self._inputs[output] = before, output._version
        return output


_NORMS = {F.batch_norm, torch.batch_norm}
_RELUS = {torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu, F.relu6}
_FLOORS = {
    *(F.hardtanh, torch.clamp, torch.clamp_, torch.clamp_min, torch.clamp_min_),
    *(Tensor.clamp, Tensor.clamp_, Tensor.clamp_min, Tensor.clamp_min_),
}
"""Calls that are a ReLU if their lower bound is 0."""


def _is_relu(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    if func in _FLOORS:
        low = args[1] if len(args) > 1 else kwargs.get("min", kwargs.get("min_val"))
        return isinstance(low, int | float) and low == 0
    return func in _RELUS
