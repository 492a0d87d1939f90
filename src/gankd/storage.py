"""Files that survive a kill and run no code when read: nested state in safetensors, plain data in JSON."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from gankd.errors import CheckpointError
from gankd.processes import leads
from gankd.regular import require_regular

N = TypeVar("N", bound=torch.nn.Module)

FORMAT = 1
"""Version of every file and folder that gankd writes; a stage of another version is not reused."""


PART = ".part"
"""Ending of the temporary files of `atomic`, so that none of the user's own is taken for one."""
REMEDY = "if it belongs to a stage, delete that stage's folder and run again"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it is renamed to `path` once it is complete and on disk.

    Temporary files of the same `path` are deleted if the process that wrote them was killed. Of several processes only
    the first one keeps what it writes.
    """
    if not leads():
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch) / path.name
        return
    temporary, handle = path, -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        handle, temporary = _locked_temporary(path)
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
        if handle >= 0:
            temporary.unlink(missing_ok=True)
            os.close(handle)


def _locked_temporary(path: Path) -> tuple[int, Path]:
    """Open file and path of a new temporary file for `path`, locked as long as this process writes it."""
    while True:
        handle, name = tempfile.mkstemp(suffix=PART, prefix=f".{path.name}.", dir=path.parent)
        _lock(handle)
        if os.path.exists(name):  # else another process took it for abandoned before it was locked
            return handle, Path(name)
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file until it is closed; False if another process has it, or on file systems without locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_abandoned(path: Path) -> None:
    """Delete temporary files for `path` that no living process has locked."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.????????{PART}"):
        if temporary.is_file():  # a pipe would block
            with suppress(OSError), temporary.open("r+b") as file:
                if _lock(file.fileno()):
                    temporary.unlink()


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
    for path in folder.glob(f".{name}.????????{PART}") if leads() else ():
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


def write_hashed_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain data atomically, with a hash that `read_json` compares."""
    with atomic(path) as temporary:
        temporary.write_text(hashed_json(values, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read plain data, of `write_hashed_json` without the hash.

    Raises:
        CheckpointError: the file is missing or not JSON, or has changed since it was written.
    """
    try:
        require_regular(path)
        text = path.read_text()
        values = json.loads(text)
    except FileNotFoundError:
        raise CheckpointError(f"no file {path}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}); {REMEDY}") from None
    if isinstance(values, dict) and not intact_json(text.rstrip("\n"), values):
        raise CheckpointError(f"{path} has {CHANGED}; {REMEDY}")
    return values


HASH = "blake2b"
"""Name of the hash in files that carry one."""
CHANGED = "changed since it was written (its hash differs)"


def hashed_json(values: Mapping[str, Any], indent: int | None = None) -> str:
    """Plain data as JSON whose last item is the hash of this text with zeros in place of the hash."""
    return with_hash(json.dumps({**values, HASH: NO_HASH}, indent=indent).encode()).decode()


def intact_json(text: str, values: dict[str, Any]) -> bool:
    """Take the hash out of the `values` of a `text` and compare it; True without one, as earlier versions wrote it."""
    stored = values.pop(HASH, None)
    return stored is None or is_hash(str(stored), text.encode())


NO_HASH = "0" * 32
"""Placeholder of the hash while it is computed."""


def with_hash(content: bytes) -> bytes:
    """A file's content that ends in `NO_HASH` and something more, with the hash of this content in that place."""
    start, _, end = content.rpartition(NO_HASH.encode())
    return start + _hash(content).encode() + end


def is_hash(text: str, content: bytes) -> bool:
    """True if `text` is what `with_hash` has put in its place into this content."""
    if not text:
        return False
    start, _, end = content.rpartition(text.encode())
    return text == _hash(start, NO_HASH.encode(), end)


def append_json_line(path: Path, values: Mapping[str, Any]) -> None:
    """Add plain data with its hash as one line in one write, so that a kill leaves whole lines but for the last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        os.write(file, (b"\n" if torn else b"") + hashed_json(values).encode() + b"\n")
        os.fsync(file)
    finally:
        os.close(file)


def read_json_lines(path: Path) -> list[Any]:
    """Plain data of all whole lines of `append_json_line`, without the hashes.

    Raises:
        CheckpointError: a line has changed since it was written.
    """
    found = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # cut short by a kill
            continue
        if isinstance(values, dict) and not intact_json(line, values):
            raise CheckpointError(f"{path} has a line that has {CHANGED}: delete that line, and run again")
        found.append(values)
    return found


def _hash(*parts: bytes | memoryview) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


_digests: dict[tuple[str, int, int, int], str] = {}
"""Hashes of files that this process has read or written, by path, size, time and inode."""


def digest(path: Path) -> str:
    """Hash of a file's content, computed once per process unless the file is replaced."""
    status = path.stat()
    key = (str(path), status.st_size, status.st_mtime_ns, status.st_ino)
    if key not in _digests:
        with path.open("rb") as file:
            _digests[key] = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return _digests[key]


def save_state(path: Path, state: Any) -> None:
    """Write nested dicts, lists and tuples of tensors and plain values to one safetensors file, atomically."""
    tensors: dict[str, Tensor] = {}
    tree = _pack(state, tensors)
    _write_tensors(path, tensors, {"gankd": str(FORMAT), "tree": _plain(tree, path)})


def save_weights(path: Path, weights: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write weights under their own names and a card of plain data, for any program that reads safetensors.

    What modules keep besides tensors (`get_extra_state`) goes into the card.
    """
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    extra = {name: value for name, value in weights.items() if name not in tensors}
    _write_tensors(path, tensors, {"card": _plain({**card, **({"extra_state": extra} if extra else {})}, path)})


def _plain(values: Any, path: Path) -> str:
    """Values as JSON.

    Raises:
        CheckpointError: some are not plain data, as from `get_extra_state` of a user's module.
    """
    try:
        return json.dumps(values)
    except TypeError as error:
        raise CheckpointError(
            f"{path} cannot be written ({error}): a module's get_extra_state must return plain data (numbers, texts, "
            "lists, dicts), as nothing that is stored may run code"
        ) from None


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
    from safetensors.torch import save

    # Copies, because safetensors refuses tensors that share memory or are not contiguous. Not save_file: it writes to a
    # temporary file of its own name, which stays in the folder when the process is killed.
    copies = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    content = bytearray(save(copies, metadata={HASH: NO_HASH, **metadata}))
    _finish_header(content)
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def _finish_header(content: bytearray) -> None:
    """Give the texts in a safetensors header the order of their names, which the library leaves to chance, so that
    equal content makes equal files; and write the hash of the whole file, with zeros in its place.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    assert len(text) <= end - 8
    assert text.startswith(_HASHED)
    content[8:end] = text.ljust(end - 8)
    start = 8 + len(_HASHED)
    content[start : start + len(NO_HASH)] = _hash(memoryview(content)).encode()


_HASHED = b'{"__metadata__":{"%b":"' % HASH.encode()
"""Beginning of the header of a safetensors file with a hash, which follows."""


def intact(content: bytes) -> bool | None:
    """True if a safetensors file is as it was written; None if it carries no hash."""
    start = 8 + len(_HASHED)
    if content[8:start] != _HASHED:
        return None
    view, end = memoryview(content), start + len(NO_HASH)
    return content[start:end] == _hash(view[:start], NO_HASH.encode(), view[end:]).encode()


def load_state(path: Path) -> Any:
    """Inverse of `save_state`; tensors come back on the CPU.

    Raises:
        CheckpointError: the file is missing, truncated, of another version, or not a safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}; {REMEDY}")
    # Not safe_open: it turns a Ctrl-C into a ValueError, which would be reported as a damaged file.
    content = path.read_bytes()
    # A safetensors file starts with its header's length, which may look like the start of a pickle (640 does);
    # but its ninth byte is the header's brace.
    if content[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") and content[8:9] != b"{":
        raise CheckpointError(
            f"{path} is a pickle or zip archive, which can run code when read and is never loaded; "
            "convert it to safetensors"
        )
    if intact(content) is False:
        raise CheckpointError(f"{path} is truncated or damaged (it has {CHANGED}); {REMEDY}")
    try:
        tensors = load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}); {REMEDY}") from None
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
        raise CheckpointError(f"{path} is damaged ({type(error).__name__} {error}); {REMEDY}") from None


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


def fitting(make: Callable[[], N], state: Mapping[str, Tensor], problem: str) -> N:
    """The network that a file describes, built only if it is not larger than the weights in the file.

    Args:
        make: builds it; called without memory for weights before it is called in earnest.
        state: the weights.
        problem: beginning of the message.

    Raises:
        CheckpointError: the file describes a larger network.
    """
    try:
        held = sum(value.numel() for value in state.values())
        with torch.device("meta"):
            needed = sum(value.numel() for value in make().state_dict().values())
    except (RuntimeError, TypeError, ValueError, AttributeError, OverflowError) as error:  # absurd sizes, no tensors
        raise CheckpointError(f"{problem}: {' '.join(str(error).split())[:200]}") from None
    if needed > held:
        raise CheckpointError(f"{problem}: it describes a network of {needed:,} numbers and holds {held:,}")
    return make()


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's state; each moment gets the memory layout of its parameter, which fused steps need."""
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
