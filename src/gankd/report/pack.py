"""A pack in words, for the terminal and as a page of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gankd.config import to_dict
from gankd.data.own import shown
from gankd.packs.audit import Pairs
from gankd.packs.card import Control
from gankd.packs.file import Pack
from gankd.report.page import write_page
from gankd.report.tables import METRIC_WORDS
from gankd.seeds import BLOCK
from gankd.tasks import Task
from gankd.text import Table, compact, fixed, plus_minus, wrap

SHOWN_IMAGES = 32
"""Generated images on the page."""
MOST_NAMES = 20
"""Class names that are written out."""


@dataclass(frozen=True)
class Inspected:
    """Contents of a pack."""

    path: Path
    pack: Pack

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Contents: a name and its words each."""
        pack, card, task = self.pack, self.pack.card, self.pack.task
        real = ", ".join(f"{count:,} {name}" for name, count in card.images.items())
        channels, side, _ = pack.shape
        weights = sum(value.numel() for value in pack.generator.state_dict().values())
        score = ", ".join(f"{name} {value:.4g}" for name, value in card.teacher_val.items())
        student = pack.student
        rows = [
            ("made from", f"{card.data.get('name', '?')}, {real} images (recipe {card.recipe}, gankd {card.version})"),
            *((name, text) for name, text in card.data.items() if name != "name"),
            ("task", _task(task)),
            (
                "images",
                f"{len(pack):,} of {side} x {side} px, {'grey' if channels == 1 else 'colour'}, in "
                f"{len(pack.blocks.unique())} blocks of {BLOCK}; made again from seed {pack.seed}",
            ),
            ("labels", "as assigned" if pack.adjust == "none" else f"from the teacher's outputs ({pack.adjust})"),
            ("generator", f"{pack.config.architecture}, {compact(weights)} weights in float32"),
            ("teacher outputs", f"{_bytes(pack.encoded) / len(pack):.3g} bytes per image"),
            ("teacher", f"not in the pack: {card.teacher}{f', on validation images {score}' if score else ''}"),
            (
                "virtual teacher",
                "none" if pack.virtual is None else f"{compact(pack.virtual.num_parameters)} parameters in float16",
            ),
            ("students", f"by default {student.model}, {student.updates:,} updates, {student.loss}"),
            ("size", f"{self.path.stat().st_size / 1e6:.2f} MB"),
        ]
        return [(shown(name), shown(text[:500])) for name, text in rows]

    @property
    def audit(self) -> tuple[str, ...]:
        """The audit in sentences."""
        audit = self.pack.card.audit
        return ("This pack has no audit: ask whoever made it for one.",) if audit is None else audit.sentences

    @property
    def text(self) -> str:
        """Contents, audit and controls, for a terminal."""
        width = max(len(name) for name, _ in self.rows)
        lines = [f"{shown(self.path)}: a pack of gankd"]
        for name, text in self.rows:
            first, *rest = wrap(text, 116 - width)
            lines += [f"  {name:<{width}}  {first}", *(" " * (width + 4) + line for line in rest)]
        lines += ["", "audit", *(line for one in self.audit for line in wrap(f"- {one}", 118, "  "))]
        if self.pack.card.controls:
            lines += ["", controls_table(self.pack.card.controls, self.pack.task).plain()]
        return "\n".join([*lines, "", f"next: gankd student {shown(self.path)} --set student.model=my_nets:Tiny"])

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        return {"pack": str(self.path), **dict(self.rows), "card": to_dict(self.pack.card)}


def controls_table(controls: Sequence[Control], task: Task) -> Table:
    """Students of a pack and their controls on real test images."""
    unit = f" {task.metric_unit}" if task.metric_unit else ""
    rows = [
        (
            shown(row.title),
            f"{row.images:,}",
            plus_minus(*row.summary),
            ", ".join(fixed(value) for value in row.values),
        )
        for row in controls
    ]
    better = "higher" if task.higher_is_better else "lower"
    return Table(
        ("student trained on", "images", f"{task.metric}{unit}", "each seed"),
        rows,
        caption=f"{METRIC_WORDS.get(task.metric, task.metric)} on real test images, {better} is better",
        notes=("Mean ± standard error over seeds; equal settings and updates; no student sees the teacher.",),
    )


def write_pack_page(inspected: Inspected, images: Tensor, pairs: Pairs, path: Path) -> None:
    """Write the page of a pack: what is in it, the audit with the nearest pairs, and the controls.

    Args:
        inspected: the pack.
        images: its images (M, C, H, W).
        pairs: generated images with the training images that they are nearest to.
        path: the page.

    Raises:
        RunError: the page cannot be written.
    """
    from gankd.report import plots  # matplotlib takes a second to import
    from gankd.report.view import template

    pack = inspected.pack
    chosen = torch.linspace(0, len(images) - 1, min(SHOWN_IMAGES, len(images))).round().long()
    names = [pack.task.caption(label) for label in pack.labels[pack.index[chosen]]]
    page = template("pack.html").render(
        title=f"{pack.card.recipe}: a pack of gankd",
        light=plots.LIGHT,
        dark=plots.DARK,
        name=inspected.path.name,
        recipe=pack.card.recipe,
        version=pack.card.version,
        images=list(zip(images[chosen], names, strict=True)),
        pixelated=pack.shape[1] <= 32,
        rows=inspected.rows,
        audit=pack.card.audit,
        sentences=inspected.audit,
        pairs=list(zip(pairs.generated, pairs.real, [fixed(ratio, 2) for ratio in pairs.ratio], strict=True)),
        table=controls_table(pack.card.controls, pack.task) if pack.card.controls else None,
    )
    write_page(path, page)


def _task(task: Task) -> str:
    names = task.label_names
    if not names:
        return task.description
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return f"{task.description}: {', '.join(names[:MOST_NAMES])}{more}"


def _bytes(stored: dict[str, object]) -> int:
    return sum(value.numel() * value.element_size() for value in stored.values() if isinstance(value, Tensor))
