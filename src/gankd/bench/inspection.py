"""A virtual teacher of a run against the real one's outputs, beside what stands in for it."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gankd.config import require
from gankd.errors import DataError
from gankd.recipes.taught import Taught
from gankd.virtual.gates import Failure, Gates, measure
from gankd.virtual.sources import Source, SourceReader

NAME = "VKD as reconstructed from its abstract"


@dataclass(frozen=True)
class Inspection:
    """A virtual teacher against the real one's outputs, and what stands in for it against the same."""

    virtual: Gates
    stand_ins: dict[str, Gates]
    test: Gates | None
    """Against outputs for test images: how much of what it carries is over-fitting. None: too few of each label."""
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
        counts = {"virtual": self.virtual, **self.stand_ins}
        if self.test is not None:
            counts["virtual, test images"] = self.test
        for name, gates in counts.items():
            failed = ", ".join(gate.name for gate in gates.gates if not gate.passed)
            passed = sum(gate.passed for gate in gates.gates)
            lines.append(f"  {name:<22} {passed} of {len(gates.gates)}{f'   not: {failed}' if failed else ''}")
        count = self.virtual.facts["count"]
        typical = int(count[count > 0].median())
        if typical < 50:
            lines.append(f"  {typical} outputs of a typical label: too few to blame the generator for a single gate")
        if self.needless:
            lines.append("  a Gaussian per class passes every gate: the generator is not needed for these outputs")
        if self.report is not None:
            lines += ["", f"report: {self.report}"]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": NAME,
            **self.facts,
            "virtual": self.virtual.to_dict(),
            "test": None if self.test is None else self.test.to_dict(),
            "stand_ins": {name: gates.to_dict() for name, gates in self.stand_ins.items()},
            "report": str(self.report) if self.report else None,
        }


def inspection(method: Taught) -> Inspection:
    """Measure the virtual teacher of a run by the gates; it is trained if it is not there.

    Raises:
        ConfigError: it comes from elsewhere, without outputs to compare with. DataError: they are too few.
    """
    virtual, task = method.virtual, method.splits.task
    require(
        virtual.bank is not None,
        "the run that made this virtual teacher keeps what to compare with; inspect it there",
    )
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
    found = measure(probs, drawn("virtual", labels), labels.cpu(), seed=seed)
    # What could be seen at the end of training alone: F5, F10.
    told = [Failure(**one) for one in (method.virtual_stage.result or {}).get("warnings", ())]
    codes = {one.code for one in found.warnings}
    found = replace(found, warnings=(*found.warnings, *(one for one in told if one.code not in codes)))
    on_test = None
    with suppress(DataError):  # too few test images of each label
        on_test = measure(test_probs, drawn("virtual", test_labels), test_labels.cpu(), seed=seed)
    return Inspection(
        found,
        {name: measure(probs, drawn(name, labels), labels.cpu(), seed=seed) for name in names},
        on_test,
        {
            "parameters": virtual.num_parameters,
            "kilobytes": (method.virtual_stage.result or {}).get("kilobytes"),
            "temperature": virtual.temperature,
            "outputs": len(labels),
        },
    )
