"""Settings are frozen dataclasses; this file checks them, reads them from plain data and changes them by name."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from gankd.errors import ConfigError

T = TypeVar("T")


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with `message` (the name, the rule, the value) unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def suggest(name: str, known: Iterable[str]) -> str:
    """A remedy for a misspelt name: the closest known names, or all of them."""
    known = sorted(known)
    by_small = {word.lower(): word for word in reversed(known)}
    close = [by_small[word] for word in difflib.get_close_matches(name.lower(), by_small, n=3)]
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


@cache
def _adapter(cls: type) -> Any:
    from pydantic import TypeAdapter  # imported on use, so that `gankd --help` stays fast

    return TypeAdapter(cls)


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "settings") -> T:
    """Build dataclass `cls` from plain data, strictly by name and type.

    Raises:
        ConfigError: an unknown name (with a suggestion), a wrong type or a value out of range.
    """
    from pydantic import ValidationError

    _refuse_unknown(cls, values, where, "")
    try:
        result: T = _adapter(cls).validate_python(values)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: {name}: {first['msg']}, got {first['input']!r}") from None
    return result


def _refuse_unknown(cls: type, values: Mapping[str, Any], where: str, prefix: str) -> None:
    known = _types(cls)
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{where}: no setting {prefix}{name}; {suggest(name, known)}")
        inner = known[name]
        if isinstance(inner, type) and is_dataclass(inner):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: {prefix}{name} is a group of settings; write {prefix}{name}.NAME=VALUE")
            _refuse_unknown(inner, value, where, f"{prefix}{name}.")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain data of a dataclass, as written to config.json."""
    return asdict(config)


def override(config: T, assignments: Iterable[str]) -> T:
    """Change settings by name: `override(recipe, ["gan.steps=500", "student.lr=0.01"])`.

    Raises:
        ConfigError: not of the form NAME=VALUE, or refused by `from_dict`.
    """
    values = to_dict(config)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        require(bool(equals and name), f"--set takes NAME=VALUE, for example gan.steps=500; got {assignment!r}")
        _assign(type(config), values, name.strip().split("."), text.strip())
    return from_dict(type(config), values, "--set")


def override_from_file(config: T, path: Path) -> T:
    """Change settings by a TOML file whose tables are the groups of settings."""
    try:
        changes = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"no settings file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from None
    return from_dict(type(config), _merge(to_dict(config), changes), str(path))


def _value(text: str, kind: Any) -> Any:
    """TOML's reading of a value (numbers, booleans, lists); anything else is the text itself."""
    # Where None is not allowed, none may be the name of a choice, as in gan.penalty.
    if text.lower() in {"none", "null"} and type(None) in get_args(kind):
        return None
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _assign(cls: Any, values: dict[str, Any], path: list[str], text: str) -> None:
    for name in path[:-1]:
        inner = values.get(name)
        if not isinstance(inner, dict):
            raise ConfigError(
                f"--set: no group of settings {name} in {'.'.join(path)}; "
                f"{suggest(name, [key for key, item in values.items() if isinstance(item, dict)])}"
            )
        cls, values = _types(cls)[name], inner
    kind = _types(cls).get(path[-1])
    value = _value(text, kind)
    if isinstance(value, str) and get_origin(kind) is tuple:
        value = [part.strip() for part in value.split(",") if part.strip()]
    values[path[-1]] = value


def _types(cls: Any) -> dict[str, Any]:
    return {field.name: field.type for field in fields(cls)}


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged
