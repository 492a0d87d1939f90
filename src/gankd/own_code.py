"""The user's own modules: networks and losses named "module:name"."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

from gankd.errors import GankdError, ModelError


def import_own(module_name: str, what: str, error: type[GankdError]) -> ModuleType:
    """Import a module by name, also from the current folder; `what` names its content in the message.

    Raises:
        error: the module cannot be imported.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return import_module(module_name)
    except Exception as reason:  # the user's code may raise anything
        missing = isinstance(reason, ModuleNotFoundError) and reason.name == module_name
        remedy = f"; run the command in the folder that contains {module_name}.py" if missing else ""
        raise error(f"cannot import {module_name!r} for {what}: {reason}{remedy}") from reason


@contextmanager
def user_errors_in_one_line(name: str, what: str) -> Iterator[None]:
    """Turn an error in the user's network during training into one line with file and line number.

    Args:
        name: name of the network; errors are left as they are unless it has the form module:name.
        what: how the message refers to the network.

    Raises:
        ModelError: the network failed; the original error is its cause.
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
            f"{what} fails while it is trained: {reason} ({Path(place.filename).name}, line {place.lineno}); fix it "
            "and run the command again; finished stages are kept"
        ) from error
