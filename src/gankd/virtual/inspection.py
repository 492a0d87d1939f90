"""Inspection: a virtual teacher and its baselines, measured against the real teacher's outputs."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gankd.config import require
from gankd.data.images import LabelledImages
from gankd.errors import DataError
from gankd.text import Table
from gankd.virtual.failures import Failure
from gankd.virtual.gates import Gates
from gankd.virtual.measurement import measure
from gankd.virtual.readers import SourceReader
from gankd.virtual.sources import FOR_VALUES, Source
from gankd.virtual.teacher import VirtualTeacher

NAME = "VKD as reconstructed from its abstract"


@dataclass(frozen=True)
class Inspection:
    """Gates of a virtual teacher and of its baselines, against outputs of the real teacher."""

    virtual: Gates
    stand_ins: dict[str, Gates]
    test: Gates | None
    """Gates against outputs for test images, which show overfitting; None if there are too few of each label."""
    facts: dict[str, Any]
    report: Path | None = None
    """The page with its charts."""

    @property
    def needless(self) -> bool:
        """True if a Gaussian per class passes every gate, so that no generator is needed."""
        return "gauss" in self.stand_ins and self.stand_ins["gauss"].passed

    @property
    def text(self) -> str:
        """Plain text."""
        lines = [f"virtual teacher ({NAME})", "  ".join(f"{name} {value}" for name, value in self.facts.items()), ""]
        lines += ["against the teacher's outputs for training images", self.virtual.table, ""]
        counts = {"virtual": self.virtual, **self.stand_ins}
        if self.test is not None:
            counts["virtual, test images"] = self.test
        rows = [
            [
                name,
                f"{gates.num_passed} of {len(gates.gates)}",
                ", ".join(gate.name for gate in gates.gates if not gate.passed),
            ]
            for name, gates in counts.items()
        ]
        notes = []
        count = self.virtual.facts["count"]
        typical = int(count[count > 0].median())
        if typical < 50:
            notes.append(f"{typical} outputs of a typical label: too few to blame the generator for one missed gate")
        if self.needless:
            notes.append("a Gaussian per class passes every gate: the generator is not needed for these outputs")
        lines.append(Table(["gates of", "passed", "missed"], rows, align="lll", notes=notes).plain())
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


def inspect_virtual(
    virtual: VirtualTeacher,
    read_teacher: Callable[[Tensor], Tensor],
    test: LabelledImages,
    seed: int,
    stored: Mapping[str, Any],
) -> Inspection:
    """Measure a virtual teacher and its baselines by the gates, against outputs of the real teacher.

    Args:
        virtual: with its bank.
        read_teacher: logits (N, K) of the real teacher for images (N, C, H, W); called once, for the test images.
        test: images that neither of the two was trained on.
        seed: of noise, of splits and of the two-sample classifier.
        stored: result of the virtual stage: `kilobytes`, and `warnings` that only training could see (F5, F10).

    Raises:
        ConfigError: the virtual teacher has no bank, because another run made it. DataError: too few stored outputs.
    """
    bank, task = virtual.bank, test.task
    require(bank is not None, "this virtual teacher has no stored outputs; inspect it in the run that made it")
    assert bank is not None
    labels = bank.labels

    def soften(logits: Tensor) -> Tensor:
        return (logits / virtual.temperature).softmax(1).cpu()

    def drawn(name: str, for_labels: Tensor) -> Tensor:
        reader = SourceReader(Source(name), virtual, task, for_labels, seed)
        index = torch.arange(len(for_labels), device=for_labels.device)
        return soften(reader(0, index, torch.empty(0)))

    # --- test images
    test_labels = task.hard_labels(test.labels).to(labels.device)
    test_probs = soften(read_teacher(test.images.to(labels.device)))  # (N, K)
    on_test = None
    with suppress(DataError):  # too few test images of each label
        on_test = measure(test_probs, drawn("virtual", test_labels), test_labels.cpu(), seed=seed)

    # --- training images, whose outputs the bank holds
    probs = soften(bank.logits)  # (M, K)
    found = measure(probs, drawn("virtual", labels), labels.cpu(), seed=seed)
    codes = {one.code for one in found.warnings}
    told = [Failure(**one) for one in stored.get("warnings", ())]
    found = replace(found, warnings=(*found.warnings, *(one for one in told if one.code not in codes)))

    # A Gaussian in the space of logits is a baseline for classes only.
    baselines = [name for name in ("gauss", "bank", "table") if task.has_classes or name in FOR_VALUES]
    return Inspection(
        found,
        {name: measure(probs, drawn(name, labels), labels.cpu(), seed=seed) for name in baselines},
        on_test,
        {
            "parameters": virtual.num_parameters,
            "kilobytes": stored.get("kilobytes"),
            "temperature": virtual.temperature,
            "outputs": len(labels),
        },
    )
