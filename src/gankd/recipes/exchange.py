"""Finished stages on a disk or in object storage that all machines reach: how they meet those of workers far away."""

import os
import platform
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from gankd.errors import ConfigError, RunError
from gankd.runs import Stage

DONE = "done.json"
"""Last file of a stage to arrive: a stage with it is whole."""


@dataclass(frozen=True)
class Exchange:
    """A folder of finished stages, by the names that they have in run folders.

    Names hold a part of the fingerprint of everything that a stage is made of, so one folder serves many runs, and two
    workers that bring the same stage bring the same files. What is read from it is checked like a run folder's own.
    """

    url: str
    """A path, or what fsspec reads: s3://bucket/folder, memory://folder ..."""

    @classmethod
    def open(cls, url: str) -> "Exchange":
        """Make the folder where it is missing.

        Raises:
            ConfigError: it cannot be used.
        """
        found = cls(url if "://" in url else os.path.abspath(url))
        try:
            files, root = found._files()
            files.makedirs(root, exist_ok=True)
        except (ImportError, OSError, ValueError) as error:  # what the file system needs, access, its name
            reason = " ".join(str(error).split())
            raise ConfigError(f"--store {url} cannot be used: {reason[:200]}; check its name and your access") from None
        return found

    def check(self) -> None:
        """Refuse a folder that is not there.

        Raises:
            RunError: this machine does not reach it.
        """
        files, root = self._files()
        if not files.isdir(root):
            raise RunError(
                f"worker {platform.node()} does not see {self.url}; choose an --out on a disk that all machines share, "
                "or --store with a folder that all of them reach, such as s3://bucket/folder"
            )

    def take(self, stages: Iterable[Stage]) -> None:
        """Copy finished stages of a run folder here, except those that are here; the last file makes one valid."""
        files, root = self._files()
        for stage in stages:
            folder = stage.path(DONE).parent
            there = f"{root}/{folder.name}"
            if not stage.done or files.exists(f"{there}/{DONE}"):
                continue
            for path in folder.rglob("*"):
                if path.is_file() and path != folder / DONE:
                    target = f"{there}/{path.relative_to(folder).as_posix()}"
                    files.makedirs(target.rpartition("/")[0], exist_ok=True)
                    files.put_file(str(path), target)
            part = f"{there}/{DONE}-{uuid4().hex}"
            files.put_file(str(folder / DONE), part)
            files.mv(part, f"{there}/{DONE}")

    def bring(self, stages: Iterable[Stage], *, link: bool = False) -> None:
        """Copy stages that are finished here to where a run folder has them.

        Args:
            stages: those that the run folder may be missing.
            link: link folders of a disk instead.
        """
        files, root = self._files()
        for stage in stages:
            folder = stage.path(DONE).parent
            there = f"{root}/{folder.name}"
            if stage.done or not files.exists(f"{there}/{DONE}"):
                continue
            shutil.rmtree(folder, ignore_errors=True)  # begun, but not finished
            folder.parent.mkdir(parents=True, exist_ok=True)
            if link and isinstance(files, LocalFileSystem):
                folder.symlink_to(there, target_is_directory=True)
                continue
            part = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            files.get(there, str(part), recursive=True)
            part.rename(folder)

    def _files(self) -> tuple[Any, str]:
        """The file system, and the folder's path on it."""
        files, root = url_to_fs(self.url)
        return files, root.rstrip("/")
