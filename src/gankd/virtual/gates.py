"""Gates: distances between a virtual teacher's samples and the real teacher's outputs, with bounds; their result."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gankd.text import Table, fixed
from gankd.virtual.failures import Failure


@dataclass(frozen=True)
class Gate:
    """One distance between a teacher's outputs and samples, and the bounds within which it passes."""

    name: str
    title: str
    value: float
    floor: float
    """The distance between two halves of the teacher's outputs."""
    low: float = -math.inf
    high: float = math.inf

    @property
    def passed(self) -> bool:
        """True if the value is within its bounds."""
        return self.low <= self.value <= self.high

    @property
    def bound(self) -> str:
        """The bounds in words."""
        if math.isinf(self.low):
            return f"at most {self.high:.4f}"
        return f"at least {self.low:.4f}" if math.isinf(self.high) else f"{self.low:.3g} to {self.high:.3g}"


@dataclass(frozen=True)
class Gates:
    """Agreement of samples with a teacher's outputs: gates, failures, and numbers for charts."""

    gates: tuple[Gate, ...]
    warnings: tuple[Failure, ...]
    facts: dict[str, Tensor]
    """Numbers by group, a class or a bin of labels: `mean_p`, `mean_q` (G, K) mean probabilities of outputs and of
    samples, `sd_p`, `sd_q` (G,) spread within the group, `count` (G,). Classes: `rank` (C,) rank correlation of the
    mean wrong probabilities. Values: `value_p`, `value_q` (G,) mean read-out, `pit` (10,) places of outputs among
    samples. Groups without an output have zeros."""

    @property
    def passed(self) -> bool:
        """True if every gate passes."""
        return all(gate.passed for gate in self.gates)

    @property
    def num_passed(self) -> int:
        """Number of gates that pass."""
        return sum(gate.passed for gate in self.gates)

    @property
    def table(self) -> str:
        """Plain text, as wide as the terminal."""
        rows = [
            [gate.title, fixed(gate.value, 4), fixed(gate.floor, 4), gate.bound, "" if gate.passed else "missed"]
            for gate in self.gates
        ]
        notes = [f"{self.num_passed} of {len(self.gates)} passed"]
        notes += [f"{failure.code} {failure.text}; {failure.remedy}" for failure in self.warnings]
        return Table(["gate", "samples", "floor", "bound", ""], rows, align="lrrll", notes=notes).plain()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, numbers to four digits."""
        return {
            "passed": self.passed,
            "gates": [
                {
                    "name": gate.name,
                    "title": gate.title,
                    "value": _short(gate.value),
                    "floor": _short(gate.floor),
                    "bound": gate.bound,
                    "passed": gate.passed,
                }
                for gate in self.gates
            ],
            "warnings": [{"code": one.code, "text": one.text, "remedy": one.remedy} for one in self.warnings],
            "facts": {name: _short(value.tolist()) for name, value in self.facts.items()},
        }


def _short(value: Any) -> Any:
    return [_short(item) for item in value] if isinstance(value, list) else float(f"{value:.4g}")
