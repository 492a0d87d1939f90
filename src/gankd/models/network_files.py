"""Whole networks in files as teachers: ONNX, and for files that the user trusts TorchScript and torch.export."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gankd.errors import CheckpointError, ModelError
from gankd.models.contract import main_output
from gankd.models.finished import NetworkFile, one_line
from gankd.models.onnx_file import OnnxNetwork

SUFFIXES = (".onnx", ".pt", ".pth", ".ts", ".torchscript", ".pt2")


def is_network_file(name: str) -> bool:
    """True if the name of a network is that of a file that holds it whole."""
    return Path(name).suffix.lower() in SUFFIXES


def holds_code(name: str) -> bool:
    """True if the network of this name is a file whose reading can run code."""
    return is_network_file(name) and Path(name).suffix.lower() != ".onnx"


def open_network(name: str) -> NetworkFile:
    """The network in a file, ready for use.

    Raises:
        CheckpointError: there is no such file. ModelError: it does not hold a network that can be used.
    """
    path = Path(name)
    if not path.is_file():
        raise CheckpointError(f"no file {path}, which teacher.model names")
    return OnnxNetwork(path) if path.suffix.lower() == ".onnx" else TorchNetwork(path)


def fixed_side(name: str) -> int | None:
    """Side in pixels of the images that the network in a file takes, if it takes no others.

    Raises:
        CheckpointError, ModelError: see `open_network`; or the images are not square.
    """
    return _fixed_side(name, file_state(name))


def file_state(name: str) -> tuple[int, int] | None:
    """Time and size of a file, by which a change is noticed; None if the name is not that of a file."""
    if not is_network_file(name) or not Path(name).is_file():
        return None
    found = Path(name).stat()
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=8)
def _fixed_side(name: str, _: tuple[int, int] | None) -> int | None:
    height, width = open_network(name).image_sides
    if height != width:
        raise ModelError(f"{name} takes images of {height or 'any'}x{width or 'any'} pixels; expected square ones")
    return height


class TorchNetwork(NetworkFile):
    """A TorchScript archive or a program of torch.export; reading either runs code that the file brings along."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        exported = path.suffix.lower() == ".pt2"
        try:
            if exported:
                program = torch.export.load(path)
                self.net: Any = program.module()
                self.shape = _shape_of_input(program)
            else:
                self.net = torch.jit.load(path, map_location="cpu").eval()
        except Exception as error:
            kind = "a program of torch.export" if exported else "a TorchScript archive"
            raise ModelError(
                f"{path} cannot be read as {kind} ({one_line(error)}); a state_dict is given as teacher.weights, and "
                "its network as teacher.model"
            ) from None

    def _outputs(self, x: Tensor) -> Tensor:
        return main_output(self.net(x), self.net)


def _shape_of_input(program: Any) -> tuple[int | None, ...]:
    """Shape of the only input, None where it may vary."""
    names = program.graph_signature.user_inputs
    inputs = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(inputs) != 1 or inputs[0].ndim != 4:
        raise ModelError("it has other inputs than images (N, C, H, W)")
    return tuple(side if isinstance(side, int) else None for side in inputs[0].shape)
