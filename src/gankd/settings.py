"""Text of settings for people, from one source: the string below each field of a class of settings.

`help(GanConfig)`, `gankd list settings` and docs/settings.md show the same rows.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from gankd.config import range_of

C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class Setting:
    """One setting, as people read it."""

    name: str
    """Its name as --set takes it, with its group: gan.steps."""
    default: str
    range: str
    text: str


@cache
def texts(cls: type) -> dict[str, str]:
    """Text of each setting that has one, by name: the string literal right below the field, on one line."""
    found = {name: text for base in cls.__bases__ if is_dataclass(base) for name, text in texts(base).items()}
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match below:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    found[field.target.id] = " ".join(text.split())
    return found


def settings_of(cls: type, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a class and of the groups in it, in the order of the code."""
    explained = texts(cls)
    for field in fields(cls):
        name = prefix + field.name
        if isinstance(field.type, type) and is_dataclass(field.type):
            yield from settings_of(field.type, f"{name}.")
        else:
            default = field.default if field.default_factory is MISSING else field.default_factory()
            yield Setting(name, _shown(default), _range(field.type), explained.get(field.name, ""))


def explained(cls: C) -> C:
    """Class of settings whose docstring goes on with a line for each setting, read when somebody asks for it."""
    cls.__doc__ = _Docstring(cls.__doc__ or "")  # type: ignore[assignment]
    return cls


class _Docstring:
    def __init__(self, summary: str) -> None:
        self.summary = summary

    def __get__(self, _: object, cls: type) -> str:
        own_prefix = getattr(cls, "where", "")
        lines = [
            f"    {own.name}: {own.text} ({own.range}; default: {own.default})" for own in settings_of(cls, own_prefix)
        ]
        return "\n".join([self.summary, "", "Settings:", *lines])


def _shown(value: Any) -> str:
    """A value as --set takes it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}={_shown(item)}" for name, item in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _range(kind: Any) -> str:
    """Values that a setting of this type may have, in words."""
    allowed, kinds = range_of(kind), get_args(kind)
    if get_origin(kind) is dict:
        return "{name=value, ...}"
    if get_origin(kind) is tuple:
        return f"list: {_range(kinds[0])}"
    if type(None) in kinds:
        return ", or ".join([*(_range(one) for one in kinds if one is not type(None)), "none"])
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_range(one) for one in kinds)
    if get_origin(kind) is Literal:
        return " or ".join(filter(None, (", ".join(map(str, kinds[:-1])), str(kinds[-1]))))
    if allowed is not None:
        return allowed.text
    return {bool: "true or false", str: "text"}[kinds[0] if get_origin(kind) is Annotated else kind]
