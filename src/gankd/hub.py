"""Repositories of the Hugging Face Hub: what a name such as hf:user/name stands for, downloads, and uploads."""

import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gankd.config import require
from gankd.errors import HubError, ModelError

START = "hf:"
NAME = re.compile(r"hf:(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w.-]+))?(/(?P<file>[^/].*))?")
WEIGHTS = (".safetensors", ".onnx")
"""Endings of networks that are downloaded: weights and graphs, which hold no code."""
SAFE = (*WEIGHTS, ".data", ".json", ".txt", ".npz", ".h5", ".hdf5")
"""Endings of all files that are downloaded, `.data` for the weights of large graphs; never code, nor pickles."""
USUAL = ("model.safetensors", "model.onnx", "diffusion_pytorch_model.safetensors")
"""Files of weights that a repository is known by, where it has several."""


@dataclass(frozen=True)
class HubName:
    """A repository, or a file in it, at a branch, tag or commit."""

    repo: str
    revision: str | None = None
    file: str | None = None


def is_hub(name: str | None) -> bool:
    """True if a name is meant as one of the hub."""
    return name is not None and name.startswith(START)


def parse(name: str) -> HubName:
    """The parts of hf:user/name, hf:user/name@revision or hf:user/name/file.

    Raises:
        ConfigError: it has another form, or names a file of a kind that is never downloaded.
    """
    found = NAME.fullmatch(name)
    require(
        found is not None and ".." not in PurePosixPath(name).parts,
        f"{name!r} is not a repository of the Hugging Face Hub; write hf:user/name, hf:user/name@revision or "
        "hf:user/name/file.safetensors",
    )
    assert found is not None
    file = found["file"]
    require(
        file is None or file.endswith(SAFE),
        f"{name}: only files that hold no code are downloaded ({', '.join(SAFE)})",
    )
    return HubName(found["repo"], found["revision"], file)


def client() -> Any:
    """The hub's own client, which knows the user's token.

    Raises:
        ModelError: it is missing.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise ModelError(f"{START} needs huggingface_hub ({error}): pip install 'gankd[hub]'") from None
    if not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi(library_name="gankd")


# --- downloads ----------------------------------------------------------------------------------------------

Choose = Callable[[list[str]], list[str]]
"""Function from the files of a repository, as paths in it, to the wanted ones; HubError where they are not there."""


def pull(name: str, choose: Choose) -> dict[str, Path]:
    """Files of a repository in the hub's cache on this machine, by their paths in it; checked against its checksums.

    What is there is not downloaded again, and is used where the hub cannot be reached.

    Raises:
        ConfigError: `name` is not one of the hub. ModelError: the extra hub is missing. HubError: there is no such
            repository, it cannot be reached, or a file is not what the hub says.
    """
    wanted, api = parse(name), client()
    try:
        found = api.model_info(wanted.repo, revision=wanted.revision, files_metadata=True)
    except Exception as error:  # of the client and of all that it uses
        return _kept(api, wanted, choose, error)
    there = {each.rfilename: each for each in found.siblings or ()}
    files = {}
    for file in _chosen(wanted, choose, there):
        try:
            path = Path(api.hf_hub_download(wanted.repo, file, revision=wanted.revision))
        except Exception as error:
            raise _cannot(wanted, error) from None
        checksum = getattr(there[file].lfs, "sha256", None) or there[file].blob_id
        _check(path, wanted, file, checksum)
        files[file] = path
    return files


def pull_network(name: str) -> dict[str, Path]:
    """The file of a network, by its path in the repository, and `config.json` if there is one; see `pull`."""
    return pull(name, lambda files: [the_one(files, WEIGHTS, name), *({"config.json"} & set(files))])


def pulled_file(name: str | Path) -> Path:
    """The file of a network where a name of the hub stands for it, downloaded if need be; or else the path itself.

    Raises:
        GankdError: see `pull`.
    """
    if not is_hub(str(name)):
        return Path(name)
    return next(iter(pull_network(str(name)).values()))


def the_one(files: Sequence[str], endings: tuple[str, ...], name: str) -> str:
    """The file that is meant where only the repository is named.

    Raises:
        HubError: there is none, or several.
    """
    of_kind = [file for file in files if file.endswith(endings)]
    usual = [file for file in USUAL if file in of_kind]
    if usual or len(of_kind) == 1:
        return (usual or of_kind)[0]
    if not of_kind:
        listed = f"; it has {', '.join(files[:5])}{' ...' * (len(files) > 5)}" if files else ""
        raise HubError(f"{name} has no {' or '.join(endings)} file, and no others are used{listed}")
    raise HubError(f"{name} has {len(of_kind)} such files; name one, as in {name}/{of_kind[0]}")


def _chosen(wanted: HubName, choose: Choose, there: Iterable[str]) -> list[str]:
    names = sorted(there)
    if wanted.file is not None and wanted.file not in names:
        raise HubError(f"no file {wanted.file} in {wanted.repo}; it has {', '.join(names[:5]) or 'none'}")
    chosen = choose(names) if wanted.file is None else [wanted.file]
    return [*chosen, *(file for file in names if file.endswith(".data") and file.removesuffix(".data") in chosen)]


def _kept(api: Any, wanted: HubName, choose: Choose, why: Exception) -> dict[str, Path]:
    """Files that are in the cache already."""
    try:
        folder = Path(api.snapshot_download(wanted.repo, revision=wanted.revision, local_files_only=True))
    except Exception:
        raise _cannot(wanted, why) from None
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files = {file: there[file] for file in _chosen(wanted, choose, there)}
    for file, path in files.items():
        _check(path, wanted, file, path.resolve().name)  # the cache keeps content under its checksum
    return files


def _check(path: Path, wanted: HubName, file: str, checksum: str | None) -> None:
    """Compare a file with the checksum of the hub: SHA-256 of large files, that of git of small ones."""
    if checksum is None or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", checksum):
        return
    large = len(checksum) == 64
    digest = hashlib.sha256() if large else hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as content:
        hashlib.file_digest(content, lambda: digest)
    if digest.hexdigest() != checksum:
        raise HubError(
            f"{path} is not the {file} that {wanted.repo} names (its checksum differs); delete that file, and run again"
        )


def _cannot(wanted: HubName, error: Exception) -> HubError:
    """The line for a download or upload that the client gave up."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    kind = type(error).__name__
    name = START + wanted.repo
    if kind == "GatedRepoError":
        return HubError(f"{name} is open only to those who have accepted its terms; do so on its page, and log in")
    if kind == "RevisionNotFoundError":
        return HubError(f"{name} has no branch, tag or commit {wanted.revision}")
    if status in (401, 403, 404):
        return HubError(
            f"{name}: there is no such repository, or you may not use it; check the name, or log in with: hf auth login"
        )
    reason = " ".join(str(error).split())[:200]
    return HubError(
        f"{name}: the hub cannot be reached ({kind} {reason}), and the files are not in its cache here; get them where "
        "there is a network, and name the file instead"
    )


# --- uploads ------------------------------------------------------------------------------------------------


def upload(folder: Path, name: str, message: str, *, public: bool = False) -> str:
    """Put the files of a folder into a repository, which is made if it is new; returns its address.

    Args:
        folder: the files; others in the repository stay.
        name: hf:user/name.
        message: of the commit.
        public: a new repository is open to everybody; default: private.

    Raises:
        GankdError: as for `pull`.
    """
    wanted, api = parse(name), client()
    require(
        wanted.file is None and wanted.revision is None,
        f"{name} names more than a repository; write {START}{wanted.repo}",
    )
    try:
        address = api.create_repo(wanted.repo, private=not public, exist_ok=True)
        api.upload_folder(repo_id=wanted.repo, folder_path=str(folder), commit_message=message)
    except Exception as error:
        raise _refused(wanted, error) from None
    return str(address)


def _refused(wanted: HubName, error: Exception) -> HubError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403, 404) or type(error).__name__ == "LocalTokenNotFoundError":
        return HubError(f"you may not write to {START}{wanted.repo}; log in with: hf auth login (a token that writes)")
    reason = " ".join(str(error).split())[:200]
    return HubError(
        f"{START}{wanted.repo}: the hub cannot be reached ({type(error).__name__} {reason}); run the same command "
        "where there is a network, or give a folder instead of hf:user/name"
    )
