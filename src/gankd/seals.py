"""Code that a file names runs only if the user trusts the file.

A run folder names the user's networks and losses. It is trusted where it was made: its file carries seals, made with a
key in the user's configuration folder that nobody else has.
"""

import hashlib
import hmac
import json
import os
import secrets
import sys
from collections.abc import Collection, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from gankd.errors import ConfigError, TrustError

_trusted: set[Path] = set()
"""Files and folders that the user trusts for the rest of this process."""


def trust(path: Path | str) -> None:
    """Let this file, or the files of this folder, name code that is run, until the process ends."""
    _trusted.add(Path(path).resolve())


def require_trust(path: Path, code: Collection[str], sealed: Any = None) -> None:
    """Refuse a file that names code, unless the user trusts it, or it lies where the user's own run wrote it.

    Args:
        path: the file.
        code: what it names, as module:name.
        sealed: what `seals` gave when the file was written.

    Raises:
        TrustError: with the module and the file.
    """
    if not code or not _trusted.isdisjoint([path.resolve(), *path.resolve().parents]):
        return
    reason = "you did not name it here, or file or code were moved since"
    try:
        key = _key() if isinstance(sealed, Mapping) else None
    except OSError as error:
        key, reason = None, f"the key that seals your runs cannot be read: {error.strerror} ({error.filename})"
    for name in sorted(code):
        home = module_file(name)
        own = sealed.get(name) if isinstance(sealed, Mapping) else None
        if key is None or home is None or not isinstance(own, str) or not _is_seal(own, key, name, home, path):
            where = f"in {home}" if home else "in a module that is not found here"
            raise TrustError(
                f"{path} names {name!r}, code {where} that is not part of gankd and is not run unasked, as {reason}; "
                "if you trust both: add --trust (in Python: gankd.trust(FOLDER))"
            )


def require_trusted_file(path: Path, folder: Path) -> None:
    """Refuse a file whose reading can run code, unless the user trusts it or the run folder that names it.

    Raises:
        TrustError: with the file and the remedy.
    """
    if _trusted.isdisjoint([path.resolve(), *path.resolve().parents, folder.resolve()]):
        raise TrustError(
            f"{path} is a network with its code, which is not run unasked; if you trust the file: add --trust (in "
            f"Python: gankd.trust('{path}')); or export the network to ONNX, which brings no code along"
        )


def seals(path: Path, code: Collection[str]) -> dict[str, str]:
    """Proofs, for a file that this user is about to write, that the user named this code; made with the user's key.

    Raises:
        ConfigError: the key cannot be read or written.
    """
    if not code:
        return {}
    try:
        key = _key(make=True)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    assert key is not None
    homes = {name: module_file(name) for name in sorted(code)}
    return {name: _seal(key, name, home, path) for name, home in homes.items() if home is not None}


def module_file(name: str) -> Path | None:
    """File of the top module of module:name, found without running anything; None if there is none."""
    top = name.partition(":")[0].partition(".")[0]
    loaded = getattr(sys.modules.get(top), "__file__", None)
    if loaded is not None:
        return Path(loaded).resolve()
    found = PathFinder.find_spec(top, ["", *sys.path])
    if found is None:
        return None
    places = [found.origin, *(found.submodule_search_locations or ())]
    return Path(next(place for place in places if place is not None)).resolve()


def _seal(key: bytes, name: str, home: Path, path: Path) -> str:
    """Proof for code in one place, named by a file in one place."""
    return hmac.digest(key, json.dumps([name, str(home), str(path.resolve())]).encode(), hashlib.sha256).hex()


def _is_seal(text: str, *of: Any) -> bool:
    return hmac.compare_digest(text.encode(), _seal(*of).encode())


def key_path() -> Path:
    """The user's key, in the configuration folder."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "gankd" / "key"


def _key(*, make: bool = False) -> bytes | None:
    """The user's key; None if there is none and none is made.

    Raises:
        OSError: it cannot be used.
    """
    path = key_path()
    if make and not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_name(f".key.{secrets.token_hex(8)}")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        try:
            os.link(fresh, path)  # whole, and never over the key of another process
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    try:
        status, key = path.stat(), path.read_bytes()
    except FileNotFoundError:
        return None
    if status.st_mode & 0o077 or status.st_uid != os.getuid() or len(key) != 32:
        raise OSError(
            None, "others can read or write it, or it is damaged; delete it, and a new one is made", str(path)
        )
    return key
