"""Modules of the user's own, named as "module:name" wherever a network or a loss is."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

from gankd.errors import GankdError, ModelError


def import_own(module_name: str, what: str, error: type[GankdError]) -> ModuleType:
    """Import a module by name, from the current folder too; `what` says what is looked for in it.

    Raises:
        error: it cannot be imported.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return import_module(module_name)
    except Exception as reason:  # the user's code may raise anything
        missing = isinstance(reason, ModuleNotFoundError) and reason.name == module_name
        remedy = f"; give the command in the folder where {module_name}.py lies" if missing else ""
        raise error(f"cannot import {module_name!r} for {what}: {reason}{remedy}") from reason


@contextmanager
def told_in_one_line(name: str, what: str) -> Iterator[None]:
    """What a network of the user's own raises while it is trained becomes one line with its place.

    Args:
        name: of the network; other errors than of one named module:name are left as they are.
        what: how the network is called in the line.

    Raises:
        ModelError: with the original error as its cause.
    """
    try:
        yield
    except (GankdError, MemoryError):
        raise
    except Exception as error:  # the user's code may raise anything
        if ":" not in name or "out of memory" in str(error):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(f"{type(error).__name__} {error}".split())[:300]
        raise ModelError(
            f"{what} fails while it is trained: {reason} ({Path(place.filename).name}, line {place.lineno}); mend it "
            "and give the command again, what is finished is kept"
        ) from error
