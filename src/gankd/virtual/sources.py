"""Target sources: what a loss reads instead of the teacher, the virtual teacher or a baseline it has to beat.

    KD@virtual    SoftTargets(T=4)@virtual(draws=8, policy="best")    KD@table    DKD@bank    SoftTargets@gauss(rank=4)

A source needs only labels. With a loss that is linear in its target, such as KD, fresh samples and the table of class
means have the same expected gradient; the policies best, rank and hint let the target depend on the image.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gankd.config import require, suggest

POLICIES = {
    "fresh": "new noise for every image at every step; several samples are averaged",
    "epoch": "new noise for every image in every pass over the data",
    "fixed": "the same noise for an image at every step; a control",
    "zero": "no noise; a control",
    "best": "of several samples the one nearest to the student's current output",
    "rank": "of several samples the one whose confidence has the image's rank within its class",
    "hint": "of several samples the one most like a stored three-byte summary of the teacher's output for the image",
}
CHOOSING = ("best", "rank", "hint")
"""Policies by which the target depends on the image."""
AGREEMENTS = ("keep", "reject", "swap")
DRAWS: dict[str, Any] = {"draws": 1, "policy": "fresh", "agree": "keep", "shuffle": False, "stored": False}
SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "virtual": ("the generator", DRAWS),
    "table": ("mean output of each label", {"shuffle": False, "stored": False}),
    "bank": ("a random stored output of the same label", DRAWS),
    "gauss": ("a Gaussian of logits fitted to each class, low rank plus diagonal", {"rank": 8, **DRAWS}),
    "smooth": ("the label, evenly smoothed; default epsilon: as soft as the table on average", {"epsilon": None}),
    "tf": ("a hand-made teacher that gives the label probability a (Tf-KD)", {"a": 0.99}),
}
FOR_VALUES = ("virtual", "table", "bank")
"""Sources that also work for values; the others are for classes."""
READABLE = ("teacher_logits", "teacher_outputs", "teacher_distribution")
"""Inputs of losses that a source can give instead of the teacher."""


@dataclass(frozen=True)
class Source:
    """A target source by name, with the settings that differ from its defaults.

    Raises:
        ConfigError: no such source or setting, or a value that makes no sense.
    """

    name: str
    settings: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        require(self.name in SOURCES, f"no source @{self.name}; {suggest(self.name, SOURCES)}")
        for name, value in self.settings:
            known = SOURCES[self.name][1]
            require(name in known, f"@{self.name} has no setting {name!r}; {suggest(name, known) if known else 'none'}")
            default = known[name]
            number = isinstance(value, int | float) and not isinstance(value, bool)
            fits = number if default is None else type(value) is type(default) or (number and type(default) is float)
            require(fits, f"@{self.name}: {name} must be of the kind of its default {default!r}, got {value!r}")
        chosen = self.chosen
        policy, draws = chosen.get("policy", "fresh"), chosen.get("draws", 1)
        require(policy in POLICIES, f"@{self.name}: no policy {policy!r}; {suggest(policy, POLICIES)}")
        require(1 <= draws <= 1024, f"@{self.name}: draws must lie in 1..1024, got {draws}")
        require(
            draws >= 2 or policy not in CHOOSING,
            f"@{self.name}: policy {policy} chooses among samples; set draws to 2 or more, for example draws=8",
        )
        require(
            draws == 1 or policy in ("fresh", *CHOOSING),
            f"@{self.name}: policy {policy} has one sample per image, got draws={draws}",
        )
        require(
            policy != "zero" or self.name == "virtual",
            f"@{self.name} has no noise to omit; policy zero is for @virtual",
        )
        agree = chosen.get("agree", "keep")
        require(agree in AGREEMENTS, f"@{self.name}: no agree {agree!r}; {suggest(agree, AGREEMENTS)}")
        require(
            agree == "keep" or (policy == "fresh" and draws == 1),
            f"@{self.name}: agree={agree} is for single fresh samples (policy=fresh, draws=1)",
        )
        require(chosen.get("rank", 1) >= 1, f"@{self.name}: rank must be at least 1, got {chosen.get('rank')}")
        epsilon, a = chosen.get("epsilon"), chosen.get("a", 0.5)
        require(epsilon is None or 0 < epsilon < 1, f"@smooth: epsilon must lie in (0, 1), got {epsilon}")
        require(0 < a < 1, f"@tf: a must lie in (0, 1), got {a}")

    @property
    def chosen(self) -> dict[str, Any]:
        """All settings, defaults included."""
        return {**SOURCES[self.name][1], **dict(self.settings)}

    @property
    def needs_virtual(self) -> bool:
        """True if it needs a virtual teacher, False if labels are enough."""
        return not (self.name == "tf" or (self.name == "smooth" and self.chosen["epsilon"] is not None))

    @property
    def needs_bank(self) -> bool:
        """True if it needs stored outputs of the real teacher."""
        return self.name in ("bank", "gauss")

    def __str__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.settings)
        return f"{self.name}{f'({inside})' if inside else ''}"


def read_source(node: ast.expr, settings: Callable[[ast.Call], dict[str, Any]], text: str) -> Source | None:
    """The source written after `@`, from its syntax tree; None for the real teacher.

    Args:
        node: of the syntax tree.
        settings: reads the settings of a call.
        text: the whole expression, for errors.

    Raises:
        ConfigError: no such source or setting.
    """
    call = node if isinstance(node, ast.Call) else None
    name = call.func if call is not None else node
    require(isinstance(name, ast.Name), f"loss {text!r}: expected one of {', '.join(('teacher', *SOURCES))} after @")
    assert isinstance(name, ast.Name)
    require(call is None or not call.args, f"loss {text!r}: settings of @{name.id} are written NAME=VALUE")
    if name.id == "teacher" and call is None:
        return None
    return Source(name.id, tuple(settings(call).items()) if call is not None else ())
