"""Generators trained elsewhere: the user's own network or function, labelled images in a folder or a file, or a
class-conditional diffusion pipeline. All of them return uint8 images.
"""

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gankd.config import require
from gankd.data.arrays import fit
from gankd.data.folder import load_folder
from gankd.data.h5 import is_h5, load_h5
from gankd.data.images import concat
from gankd.data.npz import load_npz
from gankd.data.own import counted, shown
from gankd.errors import ConfigError, DataError, GankdError, ModelError
from gankd.generators.networks import LatentGenerator, to_float, to_uint8
from gankd.hub import is_hub
from gankd.identity import Identity, identity_of_new
from gankd.models import build_net
from gankd.own_code import import_own
from gankd.seeds import in_blocks
from gankd.sizes import size_of
from gankd.tasks import Task

Shape = tuple[int, int, int]
CHUNK = 32
"""Images that a diffusion pipeline makes at a time."""
SETTINGS = "sampling.json"
"""File in a pipeline's folder with arguments of its call, such as num_inference_steps and guidance_scale."""
RESERVED = {"class_labels", "generator", "batch_size", "output_type", "return_dict"}


class Generator(Protocol):
    """Source of images for labels, trained here or elsewhere."""

    task: Task

    def sample(self, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """Labels (N,) in user units to uint8 images (N, C, H, W); all randomness from `generator` on the CPU."""

    def sweep(self, labels: Tensor, rows: int, *, generator: torch.Generator) -> Tensor:
        """uint8 images (rows, N, C, H, W): labels (N,) along each row, everything else as equal as possible."""


class ExternalGenerator(Generator, Protocol):
    """A generator trained elsewhere."""

    what: str
    """Origin, for messages."""
    fingerprint: str
    """Hash of its files, source code and weights."""


def is_code(source: str) -> bool:
    """True if `gan.external` names the user's own code, module:name, and not images or a pipeline."""
    return not source.startswith("diffusers:") and not is_hub(source) and not Path(source).exists()


def open_external(source: str, task: Task, shape: Shape, device: torch.device, found: Any = None) -> ExternalGenerator:
    """Open the generator that `gan.external` names, for images (C, H, W) of `task`.

    Args:
        source: "module:name", an `nn.Module` called as (z, labels) with an attribute z_dim (or a class or function
            without other arguments that gives one), or a function (labels, generator) to images; a folder, .npz
            or .h5 file of labelled images; or "diffusers:FOLDER". Images are uint8, or floats in [-1, 1]. Results are
            reused as long as the code, its own imports included, the weights and the files that the code names are the
            same; files whose names it computes count if an attribute `files` lists their paths:
            `function.files = ["weights.pt"]`.
        task: owns the labels.
        shape: (C, H, W) of the data's images. Images of folders, files and pipelines are resized to it; own code has
            to return it.
        device: device of networks.
        found: the code itself, if it is in memory; or an object whose method `sample` is such a function.

    Raises:
        ConfigError: `source` is none of these. ModelError, DataError: it cannot be used.
    """
    module = source.rpartition(":")[0]
    if found is not None:
        found = found if callable(found) or not hasattr(found, "sample") else found.sample
        return _own_code(found, source, task, shape, device)
    kind, colon, rest = source.partition(":")
    if colon and kind == "diffusers":
        return Pipeline(Path(rest), task, shape, device)
    if Path(source).exists():
        return ImagePool(Path(source), task, shape)
    require(
        bool(colon) and "/" not in source,
        f"gan.external: no folder or file {shown(source)}, and not of the form module:name or diffusers:FOLDER",
    )
    code = import_own(module, f"generator {source}", ModelError)
    return _own_code(getattr(code, source.rpartition(":")[2], None), source, task, shape, device, module)


def _own_code(
    found: Any, source: str, task: Task, shape: Shape, device: torch.device, *modules: str
) -> ExternalGenerator:
    """The generator behind a function, a network, or what makes a network; `modules` are those that it comes from."""
    own = callable(found) and not isinstance(found, nn.Module | type)
    if callable(found) and own and "generator" in inspect.signature(found).parameters:
        return OwnFunction(found, source, task, shape)
    if isinstance(found, nn.Module):
        return OwnNetwork(found, source, task, shape, Identity(found, *modules)).to(device).eval()

    factory = None if modules else found

    def build() -> nn.Module:
        channels, size = shape[0], size_of(*shape[1:])
        sizes: Any = {"in_channels": channels, "image_size": size, "num_outputs": task.head_size}
        return build_net(source, **sizes, seed=0, factory=factory)

    return OwnNetwork(build(), source, task, shape, identity_of_new(build, *modules)).to(device).eval()


def check_images(images: object, count: int, shape: Shape, what: str) -> Tensor:
    """Images from the user's code as uint8.

    Raises:
        ModelError: not uint8 (count, C, H, W), nor floats of that shape in [-1, 1].
    """
    if not isinstance(images, Tensor):
        raise ModelError(f"{what} gives a {type(images).__name__}, expected a tensor of images {(count, *shape)}")
    if tuple(images.shape) != (count, *shape):
        raise ModelError(
            f"{what} gives images {tuple(images.shape)} for {count} labels, expected {(count, *shape)} as the data's; "
            "resize them in its code, or set data.size"
        )
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise ModelError(f"{what} gives images of type {images.dtype}, expected uint8, or floats in [-1, 1]")
    low, high = (value.item() for value in images.float().aminmax())
    if not (low >= -1.001 and high <= 1.001):  # nan too
        raise ModelError(
            f"{what} gives floats from {low:.3g} to {high:.3g}, expected [-1, 1]; end it in tanh, or rescale"
        )
    return to_uint8(images)


class OwnNetwork(LatentGenerator):
    """The user's network, called as (z, labels) with z (N, z_dim) standard normal and labels in user units."""

    def __init__(self, net: nn.Module, source: str, task: Task, shape: Shape, identity: Identity) -> None:
        super().__init__()
        z_dim = getattr(net, "z_dim", None)
        if not (isinstance(z_dim, int) and z_dim >= 1):
            raise ModelError(f"generator {source} needs an attribute z_dim, the size of its latent, got {z_dim!r}")
        self.net, self.task, self.shape, self.z_dim = net, task, shape, z_dim
        self.what = f"generator {source}"
        self.fingerprint = _digest(source.encode(), identity.fingerprint.encode(), *_files(net, self.what))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        with _guarded(self.what):
            images = self.net(z, labels)
        return to_float(check_images(images, len(labels), self.shape, self.what))


class OfAnotherRun(LatentGenerator):
    """A generator that gankd trained in another run, for labels of the same kind and images of the same shape.

    Raises:
        DataError: it is for other labels, or gives other images.
    """

    def __init__(self, net: LatentGenerator, path: Path, task: Task, shape: Shape) -> None:
        super().__init__()
        self.net, self.task, self.z_dim = net, net.task, net.z_dim
        self.what, self.fingerprint = f"generator {shown(path)}", _digest(path)
        labels = task.sample_labels(256, torch.zeros(0), "uniform", torch.Generator())
        same = type(net.task) is type(task) and net.task.label_names == task.label_names
        if same and not task.label_names and net.task.head_size == task.head_size:
            low, high = net.task.targets(labels).aminmax()
            same = bool(low >= -0.01 and high <= 1.01)  # of its own range
        if not same or net.task.head_size != task.head_size:
            raise DataError(
                f"{self.what} is for {net.task.description}, and the data have {task.description}; the labels must be "
                "the same, in the same order"
            )
        check_images(self.sample(labels[:2], generator=torch.Generator()), 2, shape, self.what)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.net(z, labels)


class _Sampled(ABC):
    """A generator whose latents are not accessible."""

    task: Task

    @abstractmethod
    def sample(self, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Generator`."""

    def sweep(self, labels: Tensor, rows: int, *, generator: torch.Generator) -> Tensor:
        """See `Generator`: the images of a row begin with the same random numbers."""
        seeds = torch.randint(2**62, (rows,), generator=generator).tolist()
        images = [
            self.sample(labels[at : at + 1], generator=torch.Generator().manual_seed(seed))
            for seed in seeds
            for at in range(len(labels))
        ]
        return torch.cat(images).unflatten(0, (rows, len(labels)))


class OwnFunction(_Sampled):
    """The user's function from (labels, generator) to images; its labels and generator are on the CPU."""

    def __init__(self, function: Callable[..., object], source: str, task: Task, shape: Shape) -> None:
        self.function, self.task, self.shape = function, task, shape
        self.what = f"generator {source}"
        identity = Identity(function).fingerprint
        self.fingerprint = _digest(source.encode(), identity.encode(), *_files(function, self.what))

    @torch.no_grad()
    def sample(self, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Generator`; the global random numbers are seeded too, for code that uses these."""
        with _guarded(self.what), torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            images = self.function(labels, generator=generator)
        return check_images(images, len(labels), self.shape, self.what)


class ImagePool(_Sampled):
    """Labelled images from elsewhere as a generator that can run out of images.

    `sample` gives images of the labels asked for (for values: of the nearest), none twice in a call before all were
    used; `take` gives none twice at all.
    """

    def __init__(self, path: Path, task: Task, shape: Shape) -> None:
        channels, size = shape[0], size_of(*shape[1:])
        wanted: Any = {**task.reading, "size": size, "channels": "grey" if channels == 1 else "rgb"}
        if path.is_dir():
            splits = load_folder(path, **wanted)
        elif path.suffix.lower() == ".npz":
            splits = load_npz(path, **wanted)
        elif is_h5(path):
            splits = load_h5(path, **wanted)
        else:
            raise DataError(f"gan.external: expected a folder, .npz or .h5 file of labelled images, got {shown(path)}")
        whole = concat(splits.train, splits.val, splits.test)
        self.task, self.what = task, f"gan.external {shown(path)}"
        self._exact = task.has_classes  # close values may replace each other, classes not
        self.images, self.labels = whole.images, whole.labels
        if whole.task.label_names:
            self.labels = _renumbered(self.labels, whole.task.label_names, task.label_names, self.what)
        self.fingerprint = _digest(_bytes(self.images), _bytes(self.labels))

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Generator`.

        Raises:
            DataError: a class without any image.
        """
        if self._exact and not torch.isin(labels, self.labels).all():
            missing = labels[~torch.isin(labels, self.labels)][0]
            raise DataError(f"{self.what} has no image of class {self.task.label_name(missing)}; add some")
        index = self._match(labels, generator)
        while (index < 0).any():
            index[index < 0] = self._match(labels[index < 0], generator)
        return self.images[index]

    def take(self, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """Images for labels (N,), none twice: indices (M,), M <= N, fewer if images of a label are used up."""
        index = self._match(labels, generator)
        return index[index >= 0]

    def in_blocks(self, index: Tensor, seed: int, purpose: str) -> Callable[..., Tensor]:
        """A sampler that returns the images at `index` in order; see `gankd.seeds.in_blocks`."""
        return in_blocks(self.images, index, seed, purpose)

    def _match(self, wanted: Tensor, generator: torch.Generator) -> Tensor:
        """Index (N,) of an image for each label, none twice; -1 if there is none left.

        Labels choose in random order, classes among equal ones, values the nearest that is left.
        """
        if self.labels.ndim == 2:
            return self._match_rows(wanted, generator)
        order = torch.randperm(len(self), generator=generator)
        order = order[self.labels[order].argsort(stable=True)]
        labels: list[float] = self.labels[order].tolist()
        above, below = list(range(len(labels) + 1)), list(range(len(labels) + 1))  # below is shifted by one
        index = torch.full((len(wanted),), -1)
        values = wanted.tolist()
        for number in torch.randperm(len(wanted), generator=generator).tolist():
            value = values[number]
            start = bisect_left(labels, value)
            right, left = _free(above, start), _free(below, start) - 1
            fits = right < len(labels) and (not self._exact or labels[right] == value)
            if not self._exact and left >= 0 and (not fits or value - labels[left] < labels[right] - value):
                right, fits = left, True
            if fits:
                index[number] = order[right]
                above[right], below[right + 1] = right + 1, right
        return index

    def _match_rows(self, wanted: Tensor, generator: torch.Generator) -> Tensor:
        """Index as `_match` gives it, for labels of several values (N, n): nearest by distance on the [0, 1] scale."""
        from scipy.spatial import cKDTree

        tree = cKDTree(self.task.targets(self.labels).numpy())
        index, free = torch.full((len(wanted),), -1), torch.ones(len(self), dtype=torch.bool)
        points = self.task.targets(wanted.cpu()).numpy()
        for number in torch.randperm(len(wanted), generator=generator)[: len(self)].tolist():
            count, nearest = 1, torch.zeros(0, dtype=torch.int64)
            while len(nearest) == 0:  # more and more neighbours, until one is left
                count = min(2 * count, len(self))
                found = torch.from_numpy(tree.query(points[number], k=range(1, count + 1))[1])
                nearest = found[free[found]]
            index[number] = nearest[0]
            free[nearest[0]] = False
        return index


class Pipeline(_Sampled):
    """A class-conditional pipeline of diffusers (DiT, consistency models ...) in a folder; nothing is downloaded.

    Classes go by their names where the pipeline knows these, else by their numbers. Steps and guidance are the
    pipeline's own, unless its folder holds a sampling.json that says otherwise.
    """

    def __init__(self, folder: Path, task: Task, shape: Shape, device: torch.device) -> None:
        self.task, self.shape, self.what = task, shape, f"gan.external diffusers:{shown(folder)}"
        if not task.has_classes:  # diffusers has no pipelines that take a number
            raise ConfigError(f"{self.what}: pipelines take classes, but the labels are values")
        if not (folder / "model_index.json").is_file():
            raise ModelError(f"{self.what}: no model_index.json there; expected the folder of a pipeline")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        code = next((path for path in files if path.suffix == ".py"), None)
        if code is not None:
            raise ModelError(f"{self.what} holds Python code ({shown(code.name)}), which is never run; remove it")
        try:
            from diffusers import DiffusionPipeline  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise ModelError(f"{self.what} needs diffusers ({error}): pip install 'gankd[diffusers]'") from None
        with _guarded(self.what):
            self.pipe = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
            self.pipe.to(device)
        self.pipe.set_progress_bar_config(disable=True)
        accepted = inspect.signature(self.pipe.__call__).parameters
        if "class_labels" not in accepted:
            raise ModelError(f"{self.what}: a {type(self.pipe).__name__} takes no class_labels")
        self.settings = _settings(folder / SETTINGS, set(accepted) - RESERVED)
        self.sized = "batch_size" in accepted
        known: dict[str, int] = getattr(self.pipe, "labels", None) or {}
        names = task.label_names
        self.numbers = [known[name] for name in names] if all(name in known for name in names) else [*range(len(names))]
        contents = [part for path in files for part in (str(path.relative_to(folder)).encode(), path)]
        self.fingerprint = _digest(*contents)

    @torch.no_grad()
    def sample(self, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Generator`; images are resized to the data's size and channels."""
        return torch.cat([self._some(part, generator) for part in labels.cpu().split(CHUNK)])

    def _some(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        given: dict[str, Any] = {"class_labels": [self.numbers[label] for label in labels.tolist()]}
        given |= {"batch_size": len(labels)} if self.sized else {}
        channels, size = self.shape[0], size_of(*self.shape[1:])
        with _guarded(self.what):
            images = self.pipe(**given, **self.settings, generator=generator, output_type="np").images
            levels = to_uint8(2 * torch.as_tensor(images) - 1).numpy()
            levels = fit(levels, size, "grey" if channels == 1 else "rgb")
        return check_images(torch.from_numpy(levels), len(labels), self.shape, self.what)


@contextmanager
def _guarded(what: str) -> Iterator[None]:
    """Turn any error of the user's or a library's code into one line."""
    try:
        yield
    except GankdError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(f"{what} failed: {type(error).__name__}: {reason[:300]}") from error


def _free(following: list[int], at: int) -> int:
    """End of the chain that leads past everything taken; the chain is shortened on the way."""
    while following[at] != at:
        following[at] = following[following[at]]
        at = following[at]
    return at


def _renumbered(labels: Tensor, found: tuple[str, ...], wanted: tuple[str, ...], what: str) -> Tensor:
    """Class numbers by the names `found` to those by the names `wanted`, or by their own if all `found` are numbers."""
    known = {name: number for number, name in enumerate(wanted)}
    if not set(found) & set(wanted):  # as arrays have them
        known = {str(number): number for number in range(len(wanted))}
    strange = [name for name in found if name not in known]
    if strange:
        raise DataError(
            f"{what}: {counted(len(strange), 'class')} unknown to the data, such as {shown(strange[0])}; "
            f"expected some of {', '.join(wanted[:5])}{' ...' if len(wanted) > 5 else ''}"
        )
    return torch.tensor([known[name] for name in found])[labels]


def _settings(path: Path, accepted: set[str]) -> dict[str, Any]:
    """Settings of the call in the folder of a pipeline."""
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{shown(path)}: not readable JSON ({error})") from None
    require(isinstance(settings, dict), f"{shown(path)}: expected names and values, got a {type(settings).__name__}")
    strange = sorted(set(settings) - accepted)
    require(
        not strange, f"{shown(path)}: the pipeline takes no {', '.join(strange)}; known: {', '.join(sorted(accepted))}"
    )
    return dict(settings)


def _files(thing: object, what: str) -> list[Path]:
    """Further files that the user's code says it depends on."""
    named = getattr(thing, "files", ())
    if not isinstance(named, list | tuple) or not all(isinstance(each, str | Path) for each in named):
        raise ModelError(f"{what}: expected a list of paths as its attribute files, got {shown(repr(named)[:80])}")
    paths = [Path(each) for each in named]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise ModelError(f"{what}: no file {shown(missing)}, which its attribute files names; correct the path")
    return paths


def _bytes(value: Tensor) -> bytes:
    return value.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes() if value.ndim else str(value).encode()


def _digest(*parts: bytes | Path) -> str:
    """Hash of texts and of the content of files."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Path):
            digest.update(part.stat().st_size.to_bytes(8, "big"))
            with part.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
        else:
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()
