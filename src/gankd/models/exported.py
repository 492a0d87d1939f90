"""Exported students, written as a graph of ONNX or of torch.export and opened again to label images."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gankd.config import from_dict
from gankd.errors import CheckpointError, ConfigError, ModelError
from gankd.hub import pulled_file
from gankd.models.files import load_model
from gankd.models.portable import Portable
from gankd.sizes import sides
from gankd.storage import CHANGED, HASH, NO_HASH, atomic, is_hash, read_card, with_hash
from gankd.tasks import Task, task_from_dict

Pixels = npt.NDArray[np.uint8]
Outputs = npt.NDArray[np.float32]

Format = Literal["safetensors", "onnx", "torch-export", "executorch"]
SUFFIXES: dict[Format, str] = {
    "safetensors": ".safetensors",
    "onnx": ".onnx",
    "torch-export": ".pt2",
    "executorch": ".pte",
}
"""Endings of the files of each format."""
CARD = "card.json"
"""Name of the card in files of torch.export."""
CARD_FOLLOWS = b"\ngankd card\n"
"""Bytes between a program of ExecuTorch, which ends where its header says, and its card."""
LARGEST_SIDE = 4096
"""Side in pixels of the largest images that a program of ExecuTorch takes: its memory is planned beforehand."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A limit to the answers of a student, set on validation images, and how it did on test images."""

    limit: float
    """Half the width of an interval around a value, or the probability up to which a class is left open."""
    risk: float
    """Share of new images for which the limit may fail: a label outside the interval, or a wrong class."""
    images: int
    """Number of validation images."""
    missed: float
    """Share of test images for which it failed."""
    unanswered: float | None = None
    """Share of test images whose class it leaves open; None for values."""


@dataclass(frozen=True)
class ExportedModel:
    """A student from a file."""

    path: Path
    card: dict[str, Any]
    task: Task
    limit: Limit | None
    """None: it was exported with too few validation images, or by an earlier version."""
    run: Callable[[Pixels], Outputs]
    """Probabilities (N, K) or values of uint8 images (N, C, H, W) of any size."""

    @property
    def channels(self) -> int:
        """Channels of its images: 1 or 3."""
        return int(self.card["channels"])

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width in pixels of what the network reads."""
        return sides(self.card["size"])


def open_exported(
    path: Path | str, *, trust: bool = False, threads: int = 0, network: nn.Module | None = None
) -> ExportedModel:
    """A file that `gankd export` wrote, ready to run on the CPU.

    Args:
        path: .safetensors, .onnx, .pt2 or .pte; or hf:user/name.
        trust: run code that the file names or holds: the module of a network of one's own, and any .pt2 file.
        threads: threads of onnxruntime or ExecuTorch; 0: one per core.
        network: gets the weights of a .safetensors file, as in `load_model`.

    Raises:
        CheckpointError: the file is missing, damaged, not trusted, or was not written by gankd export.
        ModelError: onnxruntime or executorch is missing, or the network cannot be built.
    """
    path = pulled_file(path)
    if path.suffix not in SUFFIXES.values():
        raise CheckpointError(f"{path} is not an exported student; expected a file that ends in {endings()}")
    if not path.is_file():
        raise CheckpointError(f"no file {path}; write one with: gankd export RUN --to {path.name}")
    if path.suffix == ".onnx":
        card, run = _open_onnx(path, threads)
    elif path.suffix == ".pt2":
        card, run = _open_torch_export(path, trust)
    elif path.suffix == ".pte":
        card, run = _open_executorch(path, threads)
    else:
        model, task = load_model(path, trust=trust, network=network)
        card, run = read_card(path), run_by_torch(Portable(model, task))
    try:
        limit = card.get("limit")
        limit = None if limit is None else from_dict(Limit, limit)
        found = ExportedModel(path, card, task_from_dict(card["task"]), limit, run)
        assert found.channels in (1, 3)
        assert min(found.sides) > 0
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, ConfigError):
        raise CheckpointError(f"{path} was not written by gankd export (its card is missing or another one)") from None
    return found


def endings() -> str:
    """The endings in words."""
    first, *others = SUFFIXES.values()
    return ", ".join([first, *others[:-1]]) + f" or {others[-1]}"


def run_by_torch(graph: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Pixels], Outputs]:
    """Function from pixels to outputs, computed by PyTorch."""

    def run(images: Pixels) -> Outputs:
        with torch.inference_mode():
            return graph(torch.from_numpy(images)).numpy()

    return run


# --- ONNX ---------------------------------------------------------------------------------------------------


def to_onnx(portable: Portable, channels: int, what: str) -> bytes:
    """The graph of a student in ONNX's format, with any number of images of any size.

    Raises:
        ModelError: the extra onnx is missing, or the network has no counterpart in ONNX.
    """
    require_onnx("onnxscript")
    example = torch.zeros(2, channels, 45, 67, dtype=torch.uint8)  # of no special size, which the graph might keep
    any_size = torch.export.Dim.DYNAMIC
    try:
        with quiet():
            program = torch.onnx.export(
                portable.eval(),
                (example,),
                dynamo=True,
                verbose=False,
                input_names=["image"],
                output_names=[portable.task.answer_name],
                dynamic_shapes=({0: any_size, 2: any_size, 3: any_size},),
            )
        assert program is not None
        graph = _without_traces(program.model_proto)
        run_by_onnx(graph)  # onnxruntime has no convolutions in double, for example
        return graph
    except Exception as error:  # the user's network may raise anything
        raise _not_exportable(what, "ONNX", error) from None


def _without_traces(model: Any) -> bytes:
    """A graph of ONNX without what the exporter noted of its origin, paths on this machine among it."""
    graph = model.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer, *model.functions):
        part.ClearField("metadata_props")
    graph.ClearField("metadata_props")
    content: bytes = model.SerializeToString()
    return content


def run_by_onnx(graph: bytes | Path, threads: int = 0) -> tuple[dict[str, str], Callable[[Pixels], Outputs]]:
    """Texts that an ONNX graph carries, and the function from pixels to outputs, computed by onnxruntime."""
    runtime = require_onnx("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    content = str(graph) if isinstance(graph, Path) else graph
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (name,) = [each.name for each in session.get_inputs()]

    def run(images: Pixels) -> Outputs:
        outputs: Outputs = session.run(None, {name: images})[0]
        return outputs

    return dict(session.get_modelmeta().custom_metadata_map), run


def write_onnx(path: Path, graph: bytes, card: dict[str, Any]) -> None:
    """Write a graph with its card."""
    onnx = require_onnx("onnx")
    model = onnx.load_model_from_string(graph)
    onnx.helper.set_model_props(model, {"card": json.dumps(card), HASH: NO_HASH})
    with atomic(path) as temporary:
        temporary.write_bytes(with_hash(model.SerializeToString()))


def _open_onnx(path: Path, threads: int) -> tuple[dict[str, Any], Callable[[Pixels], Outputs]]:
    require_onnx("onnxruntime")
    try:
        texts, run = run_by_onnx(path, threads)
    except Exception as error:  # onnxruntime has a class of its own for every fault
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is not a readable ONNX file ({reason}); export or copy it again") from None
    if HASH in texts and not is_hash(texts[HASH], path.read_bytes()):
        raise CheckpointError(f"{path} has {CHANGED}; export or copy it again")
    return _card(texts.get("card", "")), run


def require_onnx(module: str) -> Any:
    """A module of the extra onnx.

    Raises:
        ModelError: it is missing.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ModelError(f"ONNX files need {module} ({error}): pip install 'gankd[onnx]'") from None


# --- torch.export -------------------------------------------------------------------------------------------


def to_torch_export(portable: Portable, channels: int, what: str) -> torch.export.ExportedProgram:
    """The graph of a student for PyTorch without gankd, with any number of images of any size.

    Raises:
        ModelError: the network cannot be traced.
    """
    example = torch.zeros(2, channels, 45, 67, dtype=torch.uint8)
    any_size = torch.export.Dim.DYNAMIC
    try:
        with quiet():
            shapes = ({0: any_size, 2: any_size, 3: any_size},)
            program = torch.export.export(portable.eval(), (example,), dynamic_shapes=shapes)
    except Exception as error:  # the user's network may raise anything
        raise _not_exportable(what, "torch.export", error) from None
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths on this machine
    return program


def write_torch_export(path: Path, program: torch.export.ExportedProgram, card: dict[str, Any]) -> None:
    """Write a graph with its card."""
    with atomic(path) as temporary, quiet(), temporary.open("wb") as file:
        torch.export.save(program, file, extra_files={CARD: json.dumps(card)})


def _open_torch_export(path: Path, trust: bool) -> tuple[dict[str, Any], Callable[[Pixels], Outputs]]:
    if not trust:
        raise CheckpointError(
            f"{path} is a file of torch.export, which can run code when it is opened; if you trust it, add --trust, or "
            "export as .onnx or .safetensors"
        )
    extra = {CARD: ""}
    try:
        with quiet(), path.open("rb") as file:
            graph = torch.export.load(file, extra_files=extra).module()
    except Exception as error:  # whatever a broken archive makes of the reader
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is not a readable file of torch.export ({reason}); export it again") from None
    return _card(extra[CARD]), run_by_torch(graph)


# --- ExecuTorch ---------------------------------------------------------------------------------------------


def to_executorch(portable: Portable, channels: int, what: str) -> bytes:
    """The program of a student for ExecuTorch, with XNNPACK: one image (1, C, H, W) at a time, of sides up to
    `LARGEST_SIDE`.

    Raises:
        ModelError: the extra executorch is missing, or the network has no counterpart there.
    """
    lowering = _require_executorch("executorch.exir")
    xnnpack = _require_executorch("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    example = torch.zeros(1, channels, 45, 67, dtype=torch.uint8)
    high, wide = (torch.export.Dim(name, min=1, max=LARGEST_SIDE) for name in ("height", "width"))
    try:
        with quiet():
            program = torch.export.export(portable.eval(), (example,), dynamic_shapes=({2: high, 3: wide},))
            edge = lowering.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
            return bytes(edge.to_executorch().buffer)
    except Exception as error:  # the user's network may raise anything
        raise _not_exportable(what, "ExecuTorch", error) from None


class ExecutorchProgram:
    """Function from pixels to outputs, computed by ExecuTorch.

    Args:
        program: as `to_executorch` gives it; its bytes are not copied, so they are kept here.
        threads: threads that compute; 0: one per core.
    """

    def __init__(self, program: bytes, threads: int = 0) -> None:
        runtime = _require_executorch("executorch.runtime")
        if threads:
            _require_executorch("executorch.extension.pybindings.portable_lib")._unsafe_reset_threadpool(threads)
        loader, strict = runtime.Runtime.get(), runtime.Verification.InternalConsistency
        self._program = program
        self._loaded = loader.load_program(program, verification=strict)
        self._forward = self._loaded.load_method("forward")

    def __call__(self, images: Pixels) -> Outputs:
        """Outputs of uint8 images (N, C, H, W), computed one by one."""
        outputs = [self._forward.execute([torch.from_numpy(image[None])])[0].numpy() for image in images]
        return np.concatenate(outputs)


def write_executorch(path: Path, program: bytes, card: dict[str, Any]) -> None:
    """Write a program with its card behind it."""
    text = json.dumps({**card, HASH: NO_HASH}).encode()
    with atomic(path) as temporary:
        temporary.write_bytes(with_hash(program + CARD_FOLLOWS + text))


def _open_executorch(path: Path, threads: int) -> tuple[dict[str, Any], Callable[[Pixels], Outputs]]:
    content = path.read_bytes()
    program, found, text = content.rpartition(CARD_FOLLOWS)
    card = _card(text.decode(errors="replace")) if found else {}
    if not found or not is_hash(str(card.pop(HASH, "")), content):
        raise CheckpointError(f"{path} was not written by gankd export, or has {CHANGED}; export or copy it again")
    try:
        return card, ExecutorchProgram(program, threads)
    except ModelError:
        raise
    except Exception as error:  # of a runtime in another language
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} cannot be run by ExecuTorch ({reason}); export it again") from None


def _require_executorch(module: str) -> Any:
    """A module of the extra executorch.

    Raises:
        ModelError: it is missing.
    """
    try:
        with quiet():
            return import_module(module)
    except ImportError as error:
        raise ModelError(
            f"ExecuTorch files need executorch ({error}): pip install 'gankd[executorch]', best in an environment of "
            "its own"
        ) from None


# --- shared -------------------------------------------------------------------------------------------------


def _card(text: str) -> dict[str, Any]:
    try:
        card = json.loads(text)
    except ValueError:
        return {}
    return card if isinstance(card, dict) else {}


def _not_exportable(what: str, form: str, error: Exception) -> ModelError:
    cause = error.__cause__ or error  # the exporter wraps what the network raised in advice about itself
    reason = str(cause).strip().partition("\n")[0][:200]
    return ModelError(
        f"{what} has no counterpart in {form} ({type(cause).__name__} {reason}); write its forward without Python "
        "conditions on tensors, or export as .safetensors"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence for what exporters say of themselves: warnings, log lines, and whole graphs where they fail."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
