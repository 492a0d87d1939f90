"""The user's own modules: networks and losses named "module:name"."""

import ast
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from gankd.errors import GankdError, ModelError

IN_MEMORY = "memory:"
"""Beginning of the names of networks and generators that were passed in Python."""


def with_arguments(name: str, arguments: Mapping[str, Any]) -> str:
    """Name of a network with arguments of its constructor: my_nets:Tiny(width=8)."""
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})" if arguments else name


def split_arguments(name: str) -> tuple[str, dict[str, Any]]:
    """Inverse of `with_arguments`.

    Raises:
        ModelError: the arguments are not plain values by name.
    """
    plain, bracket, inside = name.partition("(")
    if not (bracket and name.endswith(")")):
        return name, {}
    try:
        call = ast.parse(f"f({inside}", mode="eval").body
        assert isinstance(call, ast.Call)
        assert not call.args
        return plain, {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, AssertionError):
        raise ModelError(f"model {name}: the arguments are not plain values by name, as in {plain}(width=8)") from None


def import_own(module_name: str, what: str, error: type[GankdError]) -> ModuleType:
    """Import a module by name, also from the current folder; `what` names its content in the message.

    Raises:
        error: the module cannot be imported.
    """
    if module_name == IN_MEMORY.rstrip(":"):
        raise error(f"{what} was given in memory; give it again in Python: teacher=, student= or generator=")
    try:
        with running_own_code():
            return import_module(module_name)
    except Exception as reason:  # the user's code may raise anything
        missing = isinstance(reason, ModuleNotFoundError) and reason.name == module_name
        remedy = f"; run the command in the folder that contains {module_name}.py" if missing else ""
        raise error(f"cannot import {module_name!r} for {what}: {reason}{remedy}") from reason


@contextmanager
def running_own_code() -> Iterator[None]:
    """Import or call what a user wrote: the current folder is on the import path only meanwhile, and an attempt to end
    the process (`sys.exit()`, `raise KeyboardInterrupt`) is an error like any other, but a real Ctrl-C is not.

    Raises:
        RuntimeError: the code tried to end the process.
    """
    sys.path.insert(0, "")
    try:
        with _signals_noted() as seen:
            yield
    except (SystemExit, KeyboardInterrupt) as end:
        if seen:
            raise
        raise RuntimeError(f"it raises {type(end).__name__} {end}".rstrip()) from end
    finally:
        sys.path.remove("")


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Numbers of the signals that arrived and that a handler in Python answered."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen  # signals are answered in the main thread
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        handler = before[signal.Signals(number)]
        assert callable(handler)
        handler(number, frame)

    noted = [number for number, handler in before.items() if callable(handler)]
    for number in noted:
        signal.signal(number, note)
    try:
        yield seen
    finally:
        for number in noted:
            signal.signal(number, before[number])


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
