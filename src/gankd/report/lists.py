"""`gankd list`: the stored lists of losses, models, generators, recipes and settings, as people read them.

Printing a list computes nothing and imports no heavy library: lists.json holds every row, with costs measured once and
the machine that they were measured on. `make lists` writes the file; a test compares it with the code.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, get_args

from gankd.config import require, suggest
from gankd.text import Table, duration

What = Literal["losses", "inputs", "sources", "models", "generators", "recipes", "settings"]
Row = dict[str, Any]
LISTS = Path(__file__).with_name("lists.json")
LOSS_FOLDERS = ("losses/distillation", "virtual/losses")
ROTATED = "rotated_student_..., rotated_teacher_..."


@dataclass(frozen=True)
class Machine:
    """The machine on which costs were measured."""

    processor: str
    """Name of the processor, or of the GPU where one computed."""
    threads: int
    torch: str
    operations_per_second: float
    """Floating-point operations per second of training resnet14 at 32 pixels (`bench.cost.machine_speed`)."""
    here: bool = False
    """Measured just now on this machine."""

    @property
    def name(self) -> str:
        """The machine in a sentence."""
        if self.here:
            return "this machine"
        return f"{self.processor}, {self.threads} thread{'s' * (self.threads > 1)}, torch {self.torch}"


@dataclass(frozen=True)
class Listing:
    """Result of `gankd list`."""

    what: What
    rows: list[Row]
    machine: Machine
    """Machine on which costs of losses were measured, whose speed the estimates of tables assume."""
    tables: list[Row] = field(default_factory=list)
    """Published tables, for the list of recipes."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        if self.what == "recipes":
            return {self.what: self.rows, "tables": self.tables, "machine": vars(self.machine)}
        return {self.what: self.rows} | ({"machine": vars(self.machine)} if self.what == "losses" else {})

    @property
    def text(self) -> str:
        """Tables for a terminal."""
        if self.what == "recipes":
            parts = [_recipes(self.rows).plain()] if self.rows else []
            return "\n\n".join([*parts, tables_text(self.tables, self.machine)])
        if self.what == "losses":
            return _losses(self.rows, self.machine).plain()
        tables = {
            "inputs": _inputs,
            "sources": _sources,
            "models": _models,
            "generators": _generators,
            "settings": settings_table,
        }
        return tables[self.what](self.rows).plain()


def stored(what: What, names: Sequence[str] = ()) -> Listing | None:
    """The list as it is stored; None if the package has files of losses that the list does not know.

    Args:
        what: which list.
        names: for recipes, published tables of which all is told; for settings, beginnings of their names; default: a
            line for each.

    Raises:
        ConfigError: there is no such list, table or setting, or the list takes no names.
    """
    require(what in get_args(What), f"no list {what!r}; {suggest(what, get_args(What))}")
    require(
        not names or what in ("recipes", "settings"),
        f"names are for gankd list recipes and gankd list settings, got gankd list {what} {' '.join(names)}",
    )
    content = read_lists()
    if what == "losses" and content["loss_files"] != loss_files():
        return None
    machine = Machine(**content["machine"])
    if what == "settings":
        return Listing(what, _beginning_with(names, content[what]), machine)
    if what != "recipes":
        return Listing(what, content[what], machine)
    known = {row["name"]: row for row in content["tables"]}
    for name in names:
        require(name in known, f"no published table {name!r}; {suggest(name, known)}; all: gankd list recipes")
    tables = [known[name] for name in names or known]
    return Listing(what, [] if names else content[what], machine, tables)


def _beginning_with(names: Sequence[str], rows: list[Row]) -> list[Row]:
    known = [row["name"] for row in rows]
    for name in names:
        require(any(each.startswith(name) for each in known), f"no setting {name!r}; {suggest(name, known)}")
    return [row for row in rows if row["name"].startswith(tuple(names))] if names else rows


@cache
def read_lists() -> dict[str, Any]:
    """Content of lists.json; not to be changed."""
    content: dict[str, Any] = json.loads(LISTS.read_text())
    return content


def loss_files() -> list[str]:
    """Names of the files that may hold distillation losses, relative to the package."""
    package = LISTS.parents[1]
    return sorted(f"{folder}/{path.name}" for folder in LOSS_FOLDERS for path in (package / folder).glob("[!_]*.py"))


# --- one table per list -------------------------------------------------------------------------------------


def _losses(rows: Sequence[Row], machine: Machine) -> Table:
    lines = []
    for row in rows:
        tasks = {("classification",): "classes", ("regression",): "values"}.get(tuple(row["tasks"]), "both")
        cost = "" if row["cost"] is None else f"{row['cost']:.2f}"
        settings = ", ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value!r}"
            for name, value in row["settings"].items()
        )
        facts = [row["paper"], f"reads {', '.join(row['inputs'])}", f"settings {settings}" if settings else ""]
        facts.append(f"needs {row['needs']}" if row["needs"] else "")
        lines += [
            [row["name"], f"{row['weight']:.4g}" + " *" * row["own_weight"], tasks, cost, row["summary"]],
            ["", "", "", "", "; ".join(filter(None, facts))],
        ]
    notes = (
        "All losses work on real and on generated images.",
        "weight: used where none is written; as published, or * chosen here. For values it is divided by 100 unless "
        "the loss reads outputs.",
        "cost: time of an update in units of a student trained on labels only; resnet14 -> cnn16, 16 px, batch 64, the "
        f"teacher runs at every update. Measured on {machine.name}"
        + ("." if machine.here else "; gankd list losses --measure measures here."),
    )
    return Table(("loss", "weight", "labels", "cost", "what the student learns"), lines, "lrlrl", notes=notes)


def _inputs(rows: Sequence[Row]) -> Table:
    lines = [
        (row["name"], row["meaning"] + " (only for constructors)" * row["constructor_only"])
        for row in rows
        if not row["name"].startswith("rotated_")
    ]
    turned = "as student_... and teacher_..., for the images turned by 90, 180 and 270 degrees: 3 N rows"
    return Table(("input", "meaning"), [*lines, (ROTATED, turned)], "ll")


def _sources(rows: Sequence[Row]) -> Table:
    lines = []
    for row in rows:
        settings = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
        lines.append((row["name"], row["summary"], settings))
    return Table(("target source", "what the loss reads instead of the teacher", "settings"), lines, "lll")


def _models(rows: Sequence[Row]) -> Table:
    lines = []
    for family, members in groupby(rows, key=itemgetter("family")):
        for number, row in enumerate(members):
            counts = f"{row['parameters']:,}", f"{row['multiply_adds'] / 1e6:.1f}"
            lines.append((row["name"], *counts, "" if number else family))
    notes = (
        "Counted at 3x32x32 pixels and 10 classes. Stems and poolings depend on the side of the images and follow the "
        "forms of cGAN-KD's authors for 32, 64 and 128 px; efficientnet_b0 is the paper's. NAME_2021, "
        "NAME_rc49 and NAME_sskd: those of their first version.",
        "NAME+mlp: with the head of the published regression networks; NAME+mlp128: of the first version. timm:NAME, "
        "torchvision:NAME: a network of these libraries, if installed. module:name: your own network.",
    )
    return Table(("model", "parameters", "M mult-adds", "family"), lines, "lrrl", notes=notes)


def _generators(rows: Sequence[Row]) -> Table:
    lines = []
    for row in rows:
        counts = row["parameters"]
        millions = f"{counts['generator'] / 1e6:.1f} + {counts['discriminator'] / 1e6:.1f} M at {counts['size']} px"
        preset = row["preset"] and f"preset {row['preset']}"
        facts = "; ".join(filter(None, (row["summary"], row["labels"], row["paper"], preset)))
        lines.append((row["name"], row["sizes"], millions, facts))
    notes = (
        "Choose one with --set gan.architecture=NAME. Parameters are those of generator + discriminator at the widths "
        "of the preset (gankd.training.gan_published).",
        "To use an existing generator: gan.external=module:name, a folder or .npz file of labelled images, or "
        "diffusers:FOLDER.",
    )
    return Table(("architecture", "pixels", "parameters", "what it is"), lines, "llll", notes=notes)


def settings_table(rows: Sequence[Row]) -> Table:
    """Settings with their defaults and ranges."""
    lines = [("* " * row["matters"] + row["name"], row["default"], row["range"], row["text"]) for row in rows]
    notes = (
        "* settings to look at first. Change one with --set NAME=VALUE. Defaults are those of the code; a recipe has "
        "its own for some, see run.json in the run folder.",
    )
    return Table(("setting", "default", "range", "meaning"), lines, "llll", notes=notes)


def _recipes(rows: Sequence[Row]) -> Table:
    return Table(("recipe", "images"), [(row["name"], row["summary"]) for row in rows], "ll")


def tables_text(rows: Sequence[Row], machine: Machine) -> str:
    """Published tables for a terminal; a single one with its source, protocol and deviations."""
    lines = []
    for row in rows:
        counts = str(len(row["pairs"])), str(len(row["methods"])), str(len(row["published"]) or "-")
        costs = (f"{duration(cost['seconds'])}, {cost['gigabytes']:.1f} GB" for cost in row["estimate"].values())
        lines.append((row["name"], row["summary"], *counts, *costs))
    notes = [
        "Run one with: gankd bench NAME --data PATH --scale small (or full, for a GPU).",
        "Estimates are for one seed with one student at a time, without the control at equal time: operations counted "
        f"from the shapes of the networks, at the speed of {machine.name}. They can be wrong by a factor of several; "
        + ("" if machine.here else "gankd list recipes --measure uses the speed of this machine, ")
        + "gankd plan NAME times a few updates.",
    ]
    if len(rows) == 1:
        (row,) = rows
        points = (
            *(row["source"], row["protocol"], "Differences:", *(f"- {text}" for text in row["deviations"])),
            *("Differences that --protocol published does not have:", *(f"- {text}" for text in row["closed"])),
            row["note"],
        )
        notes = [*filter(None, points), *notes]
    scales = list(rows[0]["estimate"]) if rows else []
    head = ("published table", "what", "pairs", "arms", "published numbers", *scales)
    return Table(head, lines, "llrrr" + "r" * len(scales), notes=notes).plain()
