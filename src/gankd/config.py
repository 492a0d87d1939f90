"""Settings are frozen dataclasses; this file checks them, reads them from plain data and changes them by name."""

import difflib
import math
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from gankd.errors import ConfigError
from gankd.regular import require_regular

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


# --- ranges of numbers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Range:
    """Numbers that a setting may have."""

    whole: bool
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    optional: bool = False
    """None is allowed too."""

    def broken(self, value: Any) -> str | None:
        """The rule that `value` breaks, worded to follow "must"; None if the setting may have this value."""
        if value is None and self.optional:
            return None
        rule = None
        is_number, is_whole = isinstance(value, Real), isinstance(value, Integral)
        if isinstance(value, bool) or not is_number:
            rule = "be a whole number" if self.whole else "be a number"
        elif not (self.low < value or (value == self.low and not self.low_open)):
            rule = self._rule(above=False)
        elif not (value < self.high or (value == self.high and not self.high_open)):
            rule = self._rule(above=True)
        elif abs(value) > sys.float_info.max:
            rule = "be finite"
        elif self.whole and not is_whole:
            rule = "be a whole number"
        return rule and rule + " or be none" * self.optional

    @property
    def text(self) -> str:
        """The range in words: `whole number, at least 1`."""
        kind = "whole number" if self.whole else "number"
        rule = self._rule(above=False).removeprefix("be ").removeprefix("lie ")
        return kind if self.low < -1e5 else f"{kind}, {rule}"  # beyond, bounds guard against slips

    def _rule(self, *, above: bool) -> str:
        low, high = (f"{bound:g}" if abs(bound) < 1e5 else str(bound) for bound in (self.low, self.high))
        guard = self.whole and self.high > 1000  # guards against slips: shown only to those who exceed it
        if self.low == -math.inf and self.high == math.inf:
            return "be finite"
        if above and guard:
            return f"be {'less than' if self.high_open else 'at most'} {high}"
        if guard or self.high == math.inf:
            if not self.low_open:
                return f"be at least {low}"
            return "be positive" if self.low == 0 else f"be greater than {low}"
        if self.whole:
            return f"lie in {low}..{high}"
        return f"lie in {'(' if self.low_open else '['}{low}, {high}{')' if self.high_open else ']'}"


@cache
def range_of(kind: Any) -> Range | None:
    """Range of a setting of this type, or of each of its items if it is a tuple; None if it is not a number."""
    kinds = get_args(kind)
    if get_origin(kind) is Annotated:
        base, *marks = kinds
        if (plain := range_of(base)) is None:
            return None
        marks = [mark for outer in marks for mark in getattr(outer, "metadata", [outer])]  # pydantic's Field holds them
        bounds = {
            name: getattr(mark, name) for mark in marks for name in ("ge", "gt", "le", "lt") if hasattr(mark, name)
        }
        low, high = bounds.get("gt", bounds.get("ge", -math.inf)), bounds.get("lt", bounds.get("le", math.inf))
        return Range(plain.whole, low, high, "gt" in bounds, "lt" in bounds)
    if get_origin(kind) is tuple:
        return range_of(kinds[0])
    if type(None) in kinds and len(kinds) == 2:
        inner = range_of(next(one for one in kinds if one is not type(None)))
        return None if inner is None else replace(inner, optional=True)
    return Range(kind is int) if kind in (int, float) else None


def check_ranges(config: Any) -> None:
    """Check that every number among the settings of a dataclass is finite and in the range of its type.

    For `__post_init__`: the types are plain `int` and `float`, or those with bounds, as in `gankd.ranges`.

    Raises:
        ConfigError: with the name of the setting, its range and its value.
    """
    for field in fields(config):
        kind: Any = field.type
        value = getattr(config, field.name)
        if (allowed := range_of(kind)) is not None:
            for one in value if isinstance(value, tuple) else (value,):
                _check(type(config), field.name, allowed, one)


def _check(cls: type, name: str, allowed: Range, value: Any) -> None:
    if rule := allowed.broken(value):
        raise ConfigError(f"{getattr(cls, 'where', '')}{name} must {rule}, got {value!r}")


# --- plain data ---------------------------------------------------------------------------------------------


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

    _refuse(cls, values, where, "")
    try:
        result: T = _adapter(cls).validate_python(values)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
    else:
        return result
    owner: Any = cls
    kind: Any = cls
    for part in first["loc"]:
        if is_dataclass(kind) and part in _types(kind):
            owner, kind = kind, _types(kind)[part]
            if (allowed := range_of(kind)) is not None:
                _check(owner, str(part), allowed, first["input"])
    name = ".".join(str(part) for part in first["loc"])
    raise ConfigError(f"{where}: {name}: {first['msg']}, got {first['input']!r}")


def _refuse(cls: type, values: Mapping[str, Any], where: str, prefix: str) -> None:
    """Refuse what pydantic would accept: unknown names, and truth values for numbers."""
    known = _types(cls)
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{where}: no setting {prefix}{name}; {suggest(name, known)}")
        inner = known[name]
        if isinstance(inner, type) and is_dataclass(inner):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: {prefix}{name} is a group of settings; write {prefix}{name}.NAME=VALUE")
            _refuse(inner, value, where, f"{prefix}{name}.")
        elif (allowed := range_of(inner)) is not None:
            for one in value if isinstance(value, list | tuple) else (value,):
                if isinstance(one, bool):
                    _check(cls, name, allowed, one)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain data of a dataclass, as written to config.json."""
    return asdict(config)


def override(config: T, assignments: Iterable[str], where: str = "settings") -> T:
    """Change settings by name: `override(recipe, ["gan.steps=500", "student.lr=0.01"])`.

    Args:
        config: the settings.
        assignments: changes, each as NAME=VALUE.
        where: beginning of messages.

    Raises:
        ConfigError: not of the form NAME=VALUE, or refused by `from_dict`.
    """
    values = to_dict(config)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        require(bool(equals and name), f"{where}: expected NAME=VALUE, for example gan.steps=500; got {assignment!r}")
        _assign(type(config), values, name.strip().split("."), text.strip(), where)
    return from_dict(type(config), values, where)


def override_from_file(config: T, path: Path) -> T:
    """Change settings by a TOML file whose tables are the groups of settings."""
    try:
        require_regular(path)
        changes = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"no settings file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: not a readable TOML file: {reason}") from None
    return from_dict(type(config), _merge(to_dict(config), changes), str(path))


def _value(text: str, kind: Any) -> Any:
    # Where None is not allowed, none may be the name of a choice, as in gan.penalty.
    return None if text.lower() in {"none", "null"} and type(None) in get_args(kind) else read_value(text)


def read_value(text: str) -> Any:
    """A value as TOML reads it (numbers, booleans, lists); anything else is the text itself."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _assign(cls: Any, values: dict[str, Any], path: list[str], text: str, where: str) -> None:
    for name in path[:-1]:
        inner = values.get(name)
        if not isinstance(inner, dict):
            raise ConfigError(
                f"{where}: no group of settings {name} in {'.'.join(path)}; "
                f"{suggest(name, [key for key, item in values.items() if isinstance(item, dict)])}"
            )
        cls, values = _types(cls)[name], inner
    kind = _types(cls).get(path[-1])
    value = _value(text, kind)
    if value is not None and not isinstance(value, list) and _is_list(kind):
        value = [part.strip() for part in text.split(",") if part.strip()]  # a lone item, too
    values[path[-1]] = value


def _is_list(kind: Any) -> bool:
    """True for settings that are lists, or none."""
    kinds = [one for one in get_args(kind) if one is not type(None)]
    return get_origin(kind) is tuple or (len(kinds) == 1 and get_origin(kinds[0]) is tuple)


def _types(cls: Any) -> dict[str, Any]:
    return {field.name: field.type for field in fields(cls)} if is_dataclass(cls) else {}


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged
