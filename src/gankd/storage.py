"""Files that survive a kill and run no code when read: nested state in safetensors, plain data in JSON."""

import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from gankd.errors import CheckpointError
from gankd.regular import require_regular

N = TypeVar("N", bound=torch.nn.Module)

FORMAT = 1
"""Version of every file and folder that gankd writes; a stage of another version is not reused."""


_REMEDY = "if it belongs to a stage, delete that stage's folder and run again"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it is renamed to `path` once it is complete and on disk."""
    temporary = path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        error.filename = str(path)  # instead of the temporary file, or of no name after a failed write
        raise
    finally:
        if temporary != path:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    """Permissions that new files must not have; `mkstemp` makes files for their owner only."""
    try:  # os.umask can only be read by changing it, which other threads would notice
        found = re.search(r"^Umask:\s*([0-7]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return int(found[1], 8)
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Write a folder's entries to disk: a file that was only renamed can be gone after a power cut."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # a system that cannot open folders, or one without the right to list it
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot sync folders
            raise
    finally:
        os.close(handle)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Delete temporary files of `atomic` left by a process that was killed while writing; `name` is a pattern."""
    for path in folder.glob(f".{name}.????????"):
        if path.is_file():
            path.unlink()


NOTES = "<!-- notes -->"
"""Text below this line on a page of results is written by hand."""


def write_results_page(path: Path, text: str) -> None:
    """Write a page of results (Markdown) atomically and keep its hand-written notes."""
    before = path.read_text() if path.is_file() else ""
    notes = before.split(NOTES, 1)[1] if NOTES in before else "\n"
    with atomic(path) as temporary:
        temporary.write_text(f"{text.rstrip()}\n\n{NOTES}{notes}")


def write_json(path: Path, values: Any) -> None:
    """Write plain data atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read plain data.

    Raises:
        CheckpointError: the file is missing or not JSON.
    """
    try:
        require_regular(path)
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"no file {path}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}); {_REMEDY}") from None


def save_state(path: Path, state: Any) -> None:
    """Write nested dicts, lists and tuples of tensors and plain values to one safetensors file, atomically."""
    tensors: dict[str, Tensor] = {}
    tree = _pack(state, tensors)
    _write_tensors(path, tensors, {"gankd": str(FORMAT), "tree": json.dumps(tree)})


def save_weights(path: Path, weights: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write weights under their own names and a card of plain data, for any program that reads safetensors."""
    _write_tensors(path, weights, {"card": json.dumps(dict(card))})


def read_card(path: Path) -> dict[str, Any]:
    """Card stored by `save_weights`; empty for weights from elsewhere."""
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(min(length, path.stat().st_size)))
            card = json.loads(header["__metadata__"]["card"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return {}
    return card if isinstance(card, dict) else {}


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # Copies, because safetensors refuses tensors that share memory or are not contiguous.
    copies = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    with atomic(path) as temporary:
        try:
            save_file(copies, temporary, metadata=metadata)
            _sort_metadata(temporary)
        except SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))
            if code is None:
                raise
            # safetensors hides the operating system's error, mostly a full disk.
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from None


def _sort_metadata(path: Path) -> None:
    """Give the texts in a safetensors header the order of their names, which the library leaves to chance, so that
    equal content makes equal files.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length
        file.seek(8)
        file.write(text.ljust(length))


def load_state(path: Path) -> Any:
    """Inverse of `save_state`; tensors come back on the CPU.

    Raises:
        CheckpointError: the file is missing, truncated, of another version, or not a safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}; {_REMEDY}")
    # Not safe_open: it turns a Ctrl-C into a ValueError, which would be reported as a damaged file.
    content = path.read_bytes()
    # A safetensors file starts with its header's length, which may look like the start of a pickle (640 does);
    # but its ninth byte is the header's brace.
    if content[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") and content[8:9] != b"{":
        raise CheckpointError(
            f"{path} is a pickle or zip archive, which can run code when read and is never loaded; "
            "convert it to safetensors"
        )
    try:
        tensors = load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}); {_REMEDY}") from None
    if "tree" not in metadata:
        raise CheckpointError(f"{path} was not written by gankd: its weights have no description")
    if metadata.get("gankd") != str(FORMAT):
        raise CheckpointError(
            f"{path} has format {metadata.get('gankd')}, this version reads {FORMAT}; "
            "use the gankd that wrote it, or retrain the stage"
        )
    try:
        return _unpack(json.loads(metadata["tree"]), tensors)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__} {error}); {_REMEDY}") from None


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        key = f"{len(tensors):05d}"
        tensors[key] = value
        return {"tensor": key}
    if isinstance(value, dict):  # pairs, because the keys of optimiser states are integers
        return {"dict": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_pack(item, tensors) for item in value]}
    return {"value": value}


def _unpack(tree: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in content}
    if kind in ("list", "tuple"):
        items = [_unpack(item, tensors) for item in content]
        return tuple(items) if kind == "tuple" else items
    return content


def restore(module: N, path: Path) -> N:
    """Give `module` the weights that a stage stored, and put it in eval mode.

    Raises:
        CheckpointError: the file is missing, damaged, or of another network.
    """
    fill(module, load_state(path), f"{path} does not fit; delete {path.parent} and run again")
    return module.eval()


def fill(module: torch.nn.Module, state: Any, problem: str) -> None:
    """Give `module` these weights, or raise CheckpointError with `problem` and the reason."""
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{problem}: {' '.join(str(error).split())[:300]}") from None


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's state; each moment gets the memory layout of its parameter, which fused steps need."""
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
