"""Modules of the user's own, named as "module:name" wherever a network or a loss is."""

import sys
from importlib import import_module
from types import ModuleType

from gankd.errors import GankdError


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
