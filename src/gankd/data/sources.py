"""Download published data sets."""

import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gankd.config import suggest
from gankd.data.own import shown
from gankd.data.sets import DATA_SETS, Archive, ByHand
from gankd.errors import ConfigError, DataError
from gankd.version import __version__

TIMEOUT = 30.0
"""Seconds without a byte before a transfer counts as broken off."""
ATTEMPTS = 4
"""Transfers of a file that may break off, one after the other; bytes that have arrived are kept."""
BLOCK = 1 << 18

Progress = Callable[[str, int, int, float], None]
"""(file, bytes or unpacked files so far, in all (0: not known), bytes per second): called while work is under way."""


@dataclass(frozen=True)
class Fetched:
    """A data set on disk."""

    name: str
    path: Path
    """Path that the reader takes."""
    files: tuple[Path, ...]
    """Files as published."""
    transferred: int
    """Bytes that came over the network; 0 if everything was on disk already."""
    data_set: str
    """Name for `data.name`."""


def fetch(name: str, folder: Path, progress: Progress = lambda *_: None) -> Fetched:
    """Download a data set's files, as published, into `folder`; files that are there already are only checked.

    A transfer that breaks off resumes where it stopped, now or in the next call: the bytes so far are in a file that
    ends in .part. A file gets its name when its checksum is right.

    Raises:
        ConfigError: no such data set. DataError: it cannot be fetched, cannot be downloaded, or the disk is too full.
    """
    known = {getattr(found.origin, "name", "") or own: own for own, found in DATA_SETS.items() if found.origin}
    if name not in known:
        raise ConfigError(f"no data set {name!r} to fetch; {suggest(name, known)}")
    origin = DATA_SETS[known[name]].origin
    if isinstance(origin, ByHand):
        raise DataError(
            f"{name} has to be fetched by hand: take {origin.take}, from {origin.address}, and put it into "
            f"{shown(folder)}"
        )
    assert origin is not None
    folder.mkdir(parents=True, exist_ok=True)
    unpacked = folder / origin.unpacks_to if origin.unpacks_to else None
    if unpacked is not None and unpacked.is_dir():
        return Fetched(name, unpacked, (), 0, known[name])
    files = tuple(folder / archive.name for archive in origin.archives)
    transferred = sum(_fetch(archive, file, progress) for archive, file in zip(origin.archives, files, strict=True))
    if unpacked is not None:
        _unpack(files[0], unpacked, progress)
    return Fetched(name, unpacked or folder, files, transferred, known[name])


def _fetch(archive: Archive, path: Path, progress: Progress) -> int:
    """Bytes transferred until `path` is complete."""
    if path.exists():
        if _sha256(path) != archive.sha256:
            raise DataError(
                f"{shown(path)}: expected sha256 {archive.sha256}, got another; move the file away, then fetch again"
            )
        return 0
    part = path.with_name(path.name + ".part")
    transferred = 0
    for attempt in range(1, ATTEMPTS + 1):
        try:
            transferred += _transfer(archive, part, progress)
            break
        except _BrokenOffError as error:
            transferred += error.transferred
            if attempt == ATTEMPTS or error.hopeless:
                raise DataError(
                    f"cannot download {archive.url}: {error}; repeat the command, which resumes where it stopped, or "
                    f"put the file into {shown(path.parent)} by hand (sha256 {archive.sha256})"
                ) from None
    if _sha256(part) != archive.sha256:
        part.unlink()
        raise DataError(
            f"{archive.url}: expected sha256 {archive.sha256}, got another file, which was removed; try again later, "
            f"or put the file into {shown(path.parent)} by hand"
        )
    part.replace(path)
    return transferred


class _BrokenOffError(Exception):
    """A transfer did not reach its end."""

    def __init__(self, reason: str, transferred: int = 0, *, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.transferred, self.hopeless = transferred, hopeless


def _transfer(archive: Archive, part: Path, progress: Progress) -> int:
    """Append the missing bytes to `part`; return their number."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(archive.url, headers={"User-Agent": f"gankd/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # no more bytes: the part is complete, or another file
            if _sha256(part) == archive.sha256:
                return 0
            part.unlink()
            return _transfer(archive, part, progress)
        raise _BrokenOffError(f"{error.code} {error.reason}", hopeless=400 <= error.code < 500) from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise _BrokenOffError(f"{getattr(reason, 'strerror', None) or reason}", hopeless=True) from None
    with response:
        if archive.url.startswith("https:") and not response.url.startswith("https:"):
            raise _BrokenOffError(f"it leads to {shown(response.url)}, which is not encrypted", hopeless=True)
        if response.status != 206:  # the server sends the whole file from its start
            have = 0
        missing = int(response.headers.get("Content-Length") or 0)
        if have + missing > archive.bytes:
            raise _too_long(archive, part)
        _check_space(part.parent, archive.name, missing)
        came, start = 0, time.monotonic()
        with part.open("ab" if have else "wb") as file:
            while block := _read(response, came):
                came += len(block)
                if have + came > archive.bytes:
                    raise _too_long(archive, part)
                file.write(block)
                rate = came / max(time.monotonic() - start, 1e-3)
                progress(archive.name, have + came, have + missing if missing else 0, rate)
    if came < missing:
        raise _BrokenOffError(f"the transfer broke off after {have + came:,} of {have + missing:,} bytes", came)
    return came


def _too_long(archive: Archive, part: Path) -> _BrokenOffError:
    """The server sends more than the file has; what came is of no use."""
    part.unlink(missing_ok=True)
    return _BrokenOffError(f"it sends more than the {archive.bytes:,} bytes of this file", hopeless=True)


def _read(response: Any, came: int) -> bytes:
    try:
        return response.read(BLOCK)
    except (http.client.HTTPException, OSError) as error:
        raise _BrokenOffError(f"the transfer broke off ({type(error).__name__})", came) from None


def _unpack(archive: Path, folder: Path, progress: Progress) -> None:
    """Unpack `folder` from the archive; it gets its name when it is complete."""
    begun = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(begun, ignore_errors=True)
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        _check_space(folder.parent, archive.name, sum(member.file_size for member in members))
        for number, member in enumerate(members, 1):
            file.extract(member, begun)  # never outside the folder
            progress(f"unpack {archive.name}", number, len(members), 0.0)
    (begun / folder.name).replace(folder)
    shutil.rmtree(begun)


def _check_space(folder: Path, name: str, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{shown(folder)}: {name} needs {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free; free some "
            "space, or choose another folder with --to"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
