"""Code of the user's own that settings and arms name, found without importing any."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from gankd.config import read_value
from gankd.errors import ConfigError
from gankd.generators.external import is_code
from gankd.hub import is_hub
from gankd.models import is_own
from gankd.own_code import IN_MEMORY
from gankd.training.objective import own_losses

PLAIN = {"root", "class_list", "weights", "class_names", "virtual", "device", "title", "name", "label"}
"""Settings whose text is never code: paths, names of classes, and words for people."""
NETWORKS = {"model", "teacher", "assistants"}


def named_code(settings: Any) -> set[str]:
    """Networks, losses and generators in plain data, as module:name; other texts of this form count as well.

    Args:
        settings: of a recipe, or arms, as dicts and lists.
    """
    named = {name for setting, text in _texts(settings) if setting not in PLAIN for name in _code_in(setting, text)}
    return {name for name in named if not name.startswith(IN_MEMORY)}


def _texts(value: Any, setting: str = "") -> Iterator[tuple[str, str]]:
    """Every text, with the name of its setting; of an arm's NAME=VALUE the value."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, setting)
    elif isinstance(value, str) and setting in ("settings", "changes"):
        path, _, assigned = value.partition("=")
        read = read_value(assigned.strip())  # as `config.override` does, which splits texts for settings that are lists
        yield from _texts(read.split(",") if isinstance(read, str) else read, path.strip().rpartition(".")[2])
    elif isinstance(value, str):
        yield setting, value.strip()


def _code_in(setting: str, text: str) -> set[str]:
    if setting == "external":
        return {text} if is_code(text) and ":" in text else set()
    if is_hub(text):
        return set()
    found = {text.partition("+")[0]} if setting != "loss" and is_own(text) else set()
    if setting not in NETWORKS:
        with suppress(ConfigError):
            found |= own_losses(text)
    return found
