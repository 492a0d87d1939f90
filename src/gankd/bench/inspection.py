"""A virtual teacher of a run against the real one's outputs, beside what stands in for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gankd.config import require
from gankd.recipes.taught import Taught
from gankd.virtual.gates import Gates, measure
from gankd.virtual.sources import Source, SourceReader

NAME = "VKD as reconstructed from its abstract"


@dataclass(frozen=True)
class Inspection:
    """A virtual teacher against the real one's outputs, and what stands in for it against the same."""

    virtual: Gates
    stand_ins: dict[str, Gates]
    test: Gates
    """Against outputs for test images: how much of what it carries is over-fitting."""
    facts: dict[str, Any]
    report: Path | None = None
    """The page that shows it."""

    @property
    def needless(self) -> bool:
        """Does a Gaussian per class pass every gate, so that no generator is needed?"""
        return "gauss" in self.stand_ins and self.stand_ins["gauss"].passed

    @property
    def text(self) -> str:
        """Plain text."""
        lines = [f"virtual teacher ({NAME})", "  ".join(f"{name} {value}" for name, value in self.facts.items()), ""]
        lines += ["against the teacher's outputs for training images", self.virtual.table, ""]
        lines += ["gates passed"]
        for name, gates in {"virtual": self.virtual, **self.stand_ins, "virtual, test images": self.test}.items():
            failed = ", ".join(gate.name for gate in gates.gates if not gate.passed)
            passed = sum(gate.passed for gate in gates.gates)
            lines.append(f"  {name:<22} {passed} of {len(gates.gates)}{f'   not: {failed}' if failed else ''}")
        if self.needless:
            lines.append("  a Gaussian per class passes every gate: the generator is not needed for these outputs")
        lines += [f"warning {warning}" for warning in self.virtual.warnings]
        if self.report is not None:
            lines += ["", f"report: {self.report}"]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": NAME,
            **self.facts,
            "virtual": self.virtual.to_dict(),
            "test": self.test.to_dict(),
            "stand_ins": {name: gates.to_dict() for name, gates in self.stand_ins.items()},
            "report": str(self.report) if self.report else None,
        }


def inspection(method: Taught) -> Inspection:
    """Measure the virtual teacher of a run by the gates; it is trained if it is not there.

    Raises:
        ConfigError: it comes from elsewhere, without outputs to compare with. DataError: they are too few.
    """
    virtual, task = method.virtual, method.splits.task
    require(virtual.bank is not None, "there are no stored outputs of the teacher to compare with")
    seed = method.recipe.seed
    bank = virtual.bank
    assert bank is not None
    probs = (bank.logits / virtual.temperature).softmax(1).cpu()
    labels = bank.labels

    def drawn(name: str, for_labels: torch.Tensor) -> torch.Tensor:
        reader = SourceReader(Source(name), virtual, task, for_labels, seed)
        index = torch.arange(len(for_labels), device=for_labels.device)
        logits = reader(0, index, torch.empty(0))
        return (logits / virtual.temperature).softmax(1).cpu()

    names = ("gauss", "bank", "table") if task.kind == "classification" else ("bank", "table")
    test = method.splits.test
    test_labels = task.hard_labels(test.labels).to(labels.device)
    test_probs = (method.output_reader(test.images.to(labels.device)) / virtual.temperature).softmax(1).cpu()
    return Inspection(
        measure(probs, drawn("virtual", labels), labels.cpu(), seed=seed),
        {name: measure(probs, drawn(name, labels), labels.cpu(), seed=seed) for name in names},
        measure(test_probs, drawn("virtual", test_labels), test_labels.cpu(), seed=seed),
        {
            "parameters": virtual.num_parameters,
            "kilobytes": (method.virtual_stage.result or {}).get("kilobytes"),
            "temperature": virtual.temperature,
            "outputs": len(labels),
        },
    )
