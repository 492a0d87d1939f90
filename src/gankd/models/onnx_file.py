"""ONNX files as networks, computed by onnxruntime: graphs of known operators, which bring no code along."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gankd.errors import ModelError
from gankd.models.finished import NetworkFile, one_line

KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Sets of operators that onnxruntime has; those of others would need a library of the user's."""
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class OnnxNetwork(NetworkFile):
    """The graph of an ONNX file, for images (N, C, H, W) or (N, H, W, C); without gradients.

    Raises:
        ModelError: onnx or onnxruntime is missing, or the graph cannot be used.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnx  # noqa: F401
            import onnxruntime
        except ImportError as error:
            raise ModelError(f"{path} needs onnx and onnxruntime ({error}): pip install 'gankd[onnx]'") from None
        super().__init__(path, *_files_of_weights(path))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # what goes wrong is raised
        available = onnxruntime.get_available_providers()
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:
            raise ModelError(f"{path} cannot be run by onnxruntime: {one_line(error)}") from None
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in TYPES:
            found = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
            raise ModelError(f"{path} takes {found or 'nothing'}; expected one input of float images (N, C, H, W)")
        self._name, self._type = inputs[0].name, TYPES[inputs[0].type]
        batch, *sides = [side if isinstance(side, int) and side > 0 else None for side in inputs[0].shape]
        self._channels_last = sides[2] in (1, 3) and sides[0] not in (1, 3)  # as TensorFlow has them
        self.shape = (batch, sides[2], *sides[:2]) if self._channels_last else (batch, *sides)

    def _outputs(self, x: Tensor) -> Tensor:
        pixels = x.detach().permute(0, 2, 3, 1) if self._channels_last else x.detach()
        array = np.ascontiguousarray(pixels.float().cpu().numpy(), self._type)
        return torch.from_numpy(self._session.run(None, {self._name: array})[0]).float().to(x.device)


def _files_of_weights(path: Path) -> list[Path]:
    """Further files in the folder of a graph that hold its weights.

    Raises:
        ModelError: it is not a graph, has operators of other libraries, or its weights lie elsewhere or are missing.
    """
    import onnx
    from onnx.external_data_helper import uses_external_data

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise ModelError(f"{path} is not an ONNX graph, or is truncated: {one_line(error)}") from None
    own = {(function.domain, function.name) for function in model.functions}
    files: set[Path] = set()
    for graph in _graphs([model.graph, *model.functions]):
        for node in graph.node:
            if node.domain not in KNOWN_DOMAINS and (node.domain, node.op_type) not in own:
                raise ModelError(
                    f"{path} uses the operator {node.domain}:{node.op_type}, which is not part of ONNX and needs a "
                    "library of its own; export the network without it"
                )
        files |= {_in_folder(path, tensor) for tensor in _tensors(graph) if uses_external_data(tensor)}
    return sorted(files)


def _graphs(graphs: list[Any]) -> Iterator[Any]:
    """Graphs and functions, and the graphs in the attributes of their nodes, as loops have them."""
    for graph in graphs:
        yield graph
        for attribute in _attributes(graph):
            yield from _graphs([*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])])


def _tensors(graph: Any) -> Iterator[Any]:
    yield from getattr(graph, "initializer", ())
    for attribute in _attributes(graph):
        yield from [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]


def _attributes(graph: Any) -> Iterator[Any]:
    return (attribute for node in graph.node for attribute in node.attribute)


def _in_folder(path: Path, tensor: Any) -> Path:
    """The file with a tensor's data, which must lie in the folder of the graph, also after links are followed."""
    named = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    folder = path.parent.resolve()
    found = (folder / named).resolve()
    if not found.is_relative_to(folder):
        raise ModelError(f"{path} has weights in {named}, outside of its folder, which is never read; move them")
    if not found.is_file():
        raise ModelError(f"{path} has weights in {named}, which is missing; copy that file too, into {path.parent}")
    return found
