"""Files that are not weights: the kind of each, told from its first bytes or list of contents, and the remedy."""

import tarfile
import zipfile
from pathlib import Path

from gankd.errors import CheckpointError

STATE_DICT = "save only its state_dict(), best as safetensors (safetensors.torch.save_file)"
CONVERT = "convert it to a PyTorch state_dict, or export the network to ONNX"

BEGINNINGS = {
    b"\x89HDF\r\n\x1a\n": f"is an HDF5 file, as Keras writes it; {CONVERT}",
    b"GGUF": f"is a GGUF file, of a language model; {CONVERT}",
    b"\x93NUMPY": "is one NumPy array; save the weights by name, as safetensors (safetensors.numpy.save_file)",
    b"version https://git-lfs": "is only a pointer of Git LFS, without the weights; fetch them with: git lfs pull",
    b"<!DOCTYPE": "is a web page, not the file that it links to; download it again",
    b"<html": "is a web page, not the file that it links to; download it again",
}
"""First bytes of a file, and the rest of the message that begins with its path."""


def why_not_weights(path: Path) -> str:
    """Reason, and remedy, why a file holds no state dict that could be read; empty if it may hold one."""
    if path.is_dir():
        return _folder(path)
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "is empty (0 bytes); copy or download it again"
    for beginning, reason in BEGINNINGS.items():
        if start.startswith(beginning):
            return reason
    if start[4:8] == b"TFL3":
        return f"is a TensorFlow Lite network; {CONVERT}"
    is_safetensors = start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
    if is_safetensors != (path.suffix == ".safetensors") and (is_safetensors or start[:2] in (b"PK", b"\x80\x02")):
        kind, suffix = ("safetensors", ".safetensors") if is_safetensors else ("PyTorch", ".pt")
        return f"is a {kind} file under another ending; rename it to {path.stem}{suffix}"
    if path.suffix == ".onnx":
        return f"is a whole network; give it as teacher.model={path}, without teacher.weights"
    return _archive(path, start)


def _folder(path: Path) -> str:
    """Reason for a folder, with the file in it that is likely meant."""
    if (path / "saved_model.pb").is_file():
        return f"is a TensorFlow SavedModel; {CONVERT}"
    names = ("model.safetensors", "pytorch_model.bin", "model.pt")
    inside = [*(path / name for name in names if (path / name).is_file()), *sorted(path.glob("*.safetensors"))]
    return f"is a folder; give the file of weights in it{f', such as {inside[0]}' if inside else ''}"


def _archive(path: Path, start: bytes) -> str:
    """Reason for a zip or tar archive that is not a state dict of PyTorch."""
    if start[:2] != b"PK":
        if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") or not tarfile.is_tarfile(path):
            return ""
        return f"is a tar archive, as PyTorch wrote before 2017 or an archiver now; unpack it, or {STATE_DICT}"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "is truncated: the end of the archive is missing; copy or download it again"
    own = {name.partition("/")[2] for name in names}
    if "constants.pkl" in own:
        return (
            "is a TorchScript archive, a whole network with its code; if you trust it: --trust and "
            f"teacher.model={path}, without teacher.weights"
        )
    if "archive_format" in own:
        return (
            "is a network from torch.export, with its code; if you trust it: --trust and "
            f"teacher.model={path}, without teacher.weights"
        )
    if ".data/extern_modules" in own:
        return f"is a torch.package archive, which holds Python code; {STATE_DICT}"
    if "model.weights.h5" in names:
        return f"is a Keras network; {CONVERT}"
    if names and all(name.endswith(".npy") for name in names):
        return "is a NumPy archive; save its arrays as safetensors (safetensors.numpy.save_file)"
    if "data.pkl" not in own:
        return f"is a zip archive without PyTorch weights; unpack it, or {STATE_DICT}"
    return ""


def refuse_other_files(path: Path) -> None:
    """Raise CheckpointError unless the file may hold weights."""
    if not path.exists():
        raise CheckpointError(f"no weights file {path}")
    reason = why_not_weights(path)
    if reason:
        raise CheckpointError(f"{path} {reason}")
