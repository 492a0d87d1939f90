"""Labels as typed by a person: names and numbers of classes, values and ranges of values."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gankd.config import require, suggest
from gankd.errors import ConfigError


def classes_from(texts: Sequence[str], own: Sequence[str]) -> Tensor:
    """Class numbers (N,) from names or numbers as typed by a person; `own` are the names of all classes.

    Numbers count from 0, unless classes have numbers as names. Neighbouring texts are one name where a class is
    called so, with a comma between them.

    Raises:
        ConfigError: no such class, or texts that are classes both each and together.
    """
    names = {_squeezed(name): number for number, name in enumerate(own)}
    by_number = {str(number): number for number in range(len(own))}
    only_names = names != by_number and any(map(_is_integer, names))
    known = names if only_names else by_number | names
    longest = 1 + max(name.count(",") for name in names)
    numbers: list[int] = []
    while len(texts):
        joined = (
            stop for stop in range(min(longest, len(texts)), 1, -1) if _squeezed(", ".join(texts[:stop])) in names
        )
        stop = next(joined, 1)
        text = ", ".join(texts[:stop])
        if stop > 1 and all(_squeezed(part) in known for part in texts[:stop]):
            raise ConfigError(f"{text!r} is one class, but each part is one, too; quote the name, or reorder the parts")
        if _squeezed(text) not in known:
            raise ConfigError(f"no class {text!r}; {_remedy(text, own, only_names)}")
        numbers.append(known[_squeezed(text)])
        texts = texts[stop:]
    return torch.tensor(numbers)


def _squeezed(name: str) -> str:
    """A name as it is compared: without spaces around commas."""
    return ",".join(part.strip() for part in name.split(","))


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").removeprefix("+").isdecimal()


def _remedy(text: str, own: Sequence[str], only_names: bool) -> str:
    if _is_integer(text) and not only_names:
        return f"numbers go up to {len(own) - 1}"
    why = "numbers are names here, " if _is_integer(text) else ""
    return why + suggest(text, own)


def values_from(texts: Sequence[str], most: int, low: float, high: float, unit: str) -> Tensor:
    """Values (N,) from numbers or ranges start:stop:step as typed by a person, at most `most` for each range.

    Raises:
        ConfigError: not a number or a range, or outside [low, high].
    """
    values: list[float] = []
    for text in texts:
        try:
            ends = [float(piece) for piece in text.split(":")]
        except ValueError:
            ends = [math.nan]
        require(all(map(math.isfinite, ends)), f"{text!r} is not a number or a range start:stop:step of numbers")
        if len(ends) == 3 and ends[2] > 0:
            steps = int((ends[1] - ends[0]) / ends[2] + 1e-9)
            require(steps < most, f"{text!r} is more than {most:,} labels")
            values += [ends[0] + ends[2] * step for step in range(steps + 1)]
        else:
            require(len(ends) == 1, f"a range is start:stop:step with a positive step, got {text!r}")
            values += ends
    for value in values:
        require(
            low <= value <= high,
            f"{value:g} is outside [{low:g}, {high:g}] {unit}, the labels trained on",
        )
    return torch.tensor(values)
