"""Objective of a student: a weighted sum of named losses, written as text or added up in Python.

    Objective.parse("KD(T=4) + 0.8*CRD")
    Objective.parse("SoftTargets(T=4)@virtual + 0.8*CRD")
    term("KD", T=4) + 0.8 * term("CRD") + 0.5 * term(my_loss) + term("DKD") @ Source("table")

`@name` selects what a loss reads in place of the teacher (`gankd.virtual.sources`). The label loss is added if no term
is one; a name without a number has the weight of `gankd list losses`.
"""

import ast
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from gankd.config import require, suggest
from gankd.errors import ConfigError
from gankd.losses.distillation.spec import Loss
from gankd.tasks import Regression, Task
from gankd.training.losses import all_losses, find_loss
from gankd.virtual import READABLE, Source, read_source


@dataclass(frozen=True)
class Term:
    """One loss with its settings; `weight` None is that of `Loss.weight_for`, unknown without a task."""

    loss: Loss
    spelling: str
    """Name as it was written: its name, or "module:name"."""
    settings: tuple[tuple[str, Any], ...] = ()
    weight: float | None = None
    source: Source | None = None
    """Target source that it reads in place of the teacher; default: the teacher itself."""

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """Names of its inputs at every step; those from a target source end in @source."""
        return tuple(map(self._full, self.loss.inputs))

    @cached_property
    def build_reads(self) -> tuple[str, ...]:
        """Names of the inputs of its constructor."""
        return tuple(map(self._full, self.loss.build_inputs))

    def _full(self, name: str) -> str:
        return f"{name}@{self.source}" if self.source is not None and name in READABLE else name

    @property
    def coefficient(self) -> float:
        """The weight in force: that of the loss if none is set."""
        return self.loss.weight if self.weight is None else self.weight

    def __str__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.settings)
        # A weight of 1 that is in force anyway is left out, so that text and parsed sum are equal.
        plain = self.weight is None or (self.weight == 1 and self.loss.weight_for(Regression.weight_divisor) == 1)
        factor = "" if plain else f"{self.weight:g}*"
        source = "" if self.source is None else f"@{self.source}"
        return f"{factor}{self.spelling}{f'({inside})' if inside else ''}{source}"


@dataclass(frozen=True)
class Objective:
    """A weighted sum of losses."""

    terms: tuple[Term, ...]

    @classmethod
    def parse(cls, text: str) -> "Objective":
        """Read an expression of losses, `+`, `*`, numbers and brackets; nothing in it is executed.

        A number in front of a loss replaces its own weight. Your own loss is `module:name`.

        Raises:
            ConfigError: not such an expression, an unknown loss or setting (with suggestions).
        """
        try:
            found = _read(_tree(text), text)
        except RecursionError:
            raise ConfigError(f"loss {text!r} is too long, or nests too deeply; {EXAMPLE}") from None
        if not isinstance(found, Objective):
            raise ConfigError(f"loss {text!r} is a number, expected a sum of losses; {EXAMPLE}")
        return found

    def __add__(self, other: "Objective") -> "Objective":
        return Objective(self.terms + other.terms) if isinstance(other, Objective) else NotImplemented

    def __radd__(self, other: object) -> "Objective":
        return self if other == 0 else NotImplemented  # where sum() starts

    def __mul__(self, factor: float) -> "Objective":
        if not isinstance(factor, int | float):
            return NotImplemented
        try:
            number = float(factor)
        except OverflowError:
            number = math.inf
        require(0 <= number < math.inf, f"the weight of a loss must be a number of at least 0, got {number:g}")
        return Objective(tuple(replace(t, weight=number * (1.0 if t.weight is None else t.weight)) for t in self.terms))

    __rmul__ = __mul__

    def __matmul__(self, source: Source) -> "Objective":
        """These losses, with `source` in place of the teacher for those that read it.

        Raises:
            ConfigError: no loss reads a teacher, or one reads what a source does not have.
        """
        if not isinstance(source, Source):
            return NotImplemented
        # Label losses and the like read no teacher and stay as they are.
        teachers = [item for item in self.terms if any("teacher_" in name for name in item.loss.all_inputs)]
        require(bool(teachers), f"the loss {self} reads no teacher, so @{source} cannot replace one")
        for item in teachers:
            require(item.source is None, f"{item} reads @{item.source} already; one loss reads one source")
            beyond = [name for name in item.loss.all_inputs if "teacher_" in name and name not in READABLE]
            if beyond:
                raise ConfigError(
                    f"loss {item.loss.name} reads {beyond[0]}, which only the teacher itself has; "
                    f"leave @{source.name} out"
                )
        return Objective(tuple(replace(t, source=source) if t in teachers else t for t in self.terms))

    def __str__(self) -> str:
        return " + ".join(map(str, self.terms))

    @property
    def complete(self) -> "Objective":
        """This sum with the task's label loss in front, unless a term is one."""
        if any(term.loss.is_label_loss for term in self.terms):
            return self
        return term("Label") + self

    @property
    def distilling(self) -> "Objective":
        """This sum without label losses."""
        return Objective(tuple(term for term in self.terms if not term.loss.is_label_loss))

    @property
    def inputs(self) -> set[str]:
        """Everything that one of the losses reads, at a step or when it is built."""
        return {name for term in self.terms for name in (*term.reads, *term.build_reads)}

    @property
    def needs_teacher(self) -> bool:
        """True if a loss reads the teacher itself."""
        return any("teacher_" in name and "@" not in name for name in self.inputs)

    @property
    def sources(self) -> dict[Source, set[str]]:
        """Target sources of losses, and the full names of the inputs that they give."""
        found: dict[Source, set[str]] = {}
        for item in self.terms:
            if item.source is not None:
                found.setdefault(item.source, set()).update(
                    name for name in (*item.reads, *item.build_reads) if "@" in name
                )
        return found

    @property
    def needs_virtual(self) -> bool:
        """True if a loss reads the virtual teacher, or what was stored with it."""
        return any(source.needs_virtual for source in self.sources)

    def cautions(self, temperature: float) -> list[str]:
        """Warnings for losses whose T is less than half this temperature: they magnify errors of the samples."""
        found = []
        for item in self.terms:
            own = dict(item.settings).get("T", item.loss.settings.get("T"))
            if item.source is not None and item.source.needs_virtual and own is not None and own < temperature / 2:
                found.append(
                    f"{item} reads at T={own:g} what is sampled at T={temperature:g}: errors of the samples count "
                    f"{temperature / own:g} times; train the virtual teacher at virtual.temperature={own:g}"
                )
        return found

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each term, unique in this sum."""
        names = [item.loss.name + (f"@{item.source.name}" if item.source else "") for item in self.terms]
        return tuple(
            name if names.count(name) == 1 else f"{name}-{names[: place + 1].count(name)}"
            for place, name in enumerate(names)
        )

    def for_task(self, task: Task) -> "Objective":
        """This sum with the label loss and with every weight that is in force for this task.

        Raises:
            ConfigError: a loss is for the other kind of task.
        """
        self.check(task)
        terms = self.complete.terms
        return Objective(
            tuple(
                replace(t, weight=t.loss.weight_for(task.weight_divisor) if t.weight is None else t.weight)
                for t in terms
            )
        )

    def fits(self, task: Task) -> bool:
        """True if every loss is for this kind of task."""
        return all(task.kind in item.loss.tasks for item in self.terms)

    def check(self, task: Task) -> None:
        """Raise ConfigError unless every loss is for this kind of task."""
        for item in self.terms:
            if task.kind not in item.loss.tasks:
                raise ConfigError(
                    f"loss {item.loss.name} is for {item.loss.tasks[0]} and the labels are for {task.kind}; "
                    "see: gankd list losses"
                )


EXAMPLE = 'write for example: "KD(T=4) + 0.8*CRD", "0.1*CE + 0.9*KD@virtual" or "FitNet + my_losses:margin"'


def term(what: str | Callable[..., Any], **settings: Any) -> Objective:
    """One loss with its own weight: a name, "module:name", or a function marked by `@loss`.

    Raises:
        ConfigError: no such loss, or it has no such setting (with suggestions).
    """
    found = find_loss(what) if isinstance(what, str) else getattr(what, "gankd_loss", None)
    if not isinstance(found, Loss):
        raise ConfigError(f"{what!r} is not a loss; mark it with @gankd.losses.distillation.loss")
    found.check()
    spelling = what if isinstance(what, str) else f"{found.make.__module__}:{found.name}"
    if all_losses().get(found.name) is found:
        spelling = found.name
    for name, value in settings.items():
        require(name in found.settings, _no_setting(found, name))
        default = found.settings[name]
        # An integer will do for a float, but True is not a number.
        fits = isinstance(value, type(default)) or (isinstance(default, float) and isinstance(value, int))
        require(
            default is None or (fits and isinstance(value, bool) == isinstance(default, bool)),
            f"{found.name}: {name} must be of the kind of its default {default!r}, got {value!r}",
        )
        if isinstance(value, float):
            require(math.isfinite(value), f"{found.name}: {name} must be finite, got {value}")
    return Objective((Term(found, spelling, tuple(settings.items())),))


def term_of(found: Loss) -> Objective:
    """One loss with its own weight, from @virtual if it reads only target sources."""
    return term(found.name) @ Source("virtual") if found.needs_source else term(found.name)


def own_losses(text: str) -> set[str]:
    """Losses of an expression that are the user's own, as module:name; nothing is imported.

    Raises:
        ConfigError: not an expression.
    """
    try:
        return {_name(node, text) for node in ast.walk(_tree(text)) if isinstance(node, ast.Attribute)}
    except RecursionError:
        raise ConfigError(f"loss {text!r} nests too deeply; {EXAMPLE}") from None


def _tree(text: str) -> ast.expr:
    """The expression, only parsed: the tree is read node by node, and nothing in it is called."""
    # Python's grammar has no a:b, its attributes a.b stand in for it; text in quotes stays as it is.
    pattern = r"\"[^\"]*\"|'[^']*'|([A-Za-z_][\w.]*):([A-Za-z_]\w*)"
    dotted = re.sub(pattern, lambda m: f"{m[1]}.{m[2]}" if m[1] else m[0], text)
    try:
        return ast.parse(dotted.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ConfigError(f"loss {text!r} cannot be read; {EXAMPLE}") from None


def _no_setting(found: Loss, name: str) -> str:
    remedy = suggest(name, found.settings) if found.settings else "it has none"
    return f"loss {found.name} has no setting {name!r}; {remedy}"


def _read(node: ast.expr, text: str) -> "Objective | float":
    """Evaluate a syntax tree of sums and products of losses and numbers."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
        left, right = _read(node.left, text), _read(node.right, text)
        if isinstance(node.op, ast.Mult):
            if isinstance(left, Objective) and isinstance(right, Objective):
                raise ConfigError(f"loss {text!r} multiplies two losses; a loss is multiplied by a number")
            return left * right  # type: ignore[operator]
        if isinstance(left, Objective) and isinstance(right, Objective):
            return left + right
        raise ConfigError(f"loss {text!r} adds a number to a loss; {EXAMPLE}")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        found = _read(node.left, text)
        require(isinstance(found, Objective), f"loss {text!r} puts @ after a number; it belongs after a loss")
        source = read_source(node.right, lambda call: _settings(call.keywords, ast.unparse(call.func), text), text)
        return found if source is None else found @ source  # type: ignore[operator]
    # bool is an int in Python.
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return node.value
    if isinstance(node, ast.UnaryOp | ast.BinOp) and isinstance(node.op, ast.USub | ast.Sub):
        raise ConfigError(f"loss {text!r} subtracts; weights must be at least 0")
    if isinstance(node, ast.Name | ast.Attribute):
        return term(_name(node, text))
    if isinstance(node, ast.Call):
        name = _name(node.func, text)
        require(not node.args, f"loss {text!r}: settings of {name} are written NAME=VALUE, as in KD(T=4)")
        return term(name, **_settings(node.keywords, name, text))
    raise ConfigError(f"loss {text!r} cannot be read; {EXAMPLE}")


def _settings(keywords: Iterable[ast.keyword], name: str, text: str) -> dict[str, Any]:
    settings = {}
    for keyword in keywords:
        try:
            value = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            raise ConfigError(f"loss {text!r}: {name}({keyword.arg}=...) must be a number, text or list") from None
        require(keyword.arg not in settings, f"loss {text!r}: {name} gets {keyword.arg} twice")
        require(keyword.arg is not None, f"loss {text!r}: settings of {name} are written NAME=VALUE, as in KD(T=4)")
        settings[str(keyword.arg)] = value
    return settings


def _name(node: ast.expr, text: str) -> str:
    """The name of a loss, or "module:name" from a dotted one."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value, text).replace(':', '.')}:{node.attr}"
    raise ConfigError(f"loss {text!r} cannot be read; {EXAMPLE}")
