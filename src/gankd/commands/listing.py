"""The lists of losses, inputs, target sources, models, generators, recipes and settings, from the code, and their costs
here.

`make lists` writes them to `gankd/report/lists.json`, which `gankd list` prints, and the settings also to
docs/settings.md; `make costs` also measures all costs.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gankd.bench.cost import estimate, machine_speed
from gankd.bench.loss_costs import CLASSES, VALUES, measure_costs
from gankd.commands.table_costs import costs_page
from gankd.config import require
from gankd.generators.architectures import ARCHITECTURES
from gankd.losses.distillation import Loss
from gankd.losses.distillation.spec import BUILD_INPUTS, OTHER_INPUTS, network_inputs
from gankd.models import ZOO, build_net
from gankd.recipes.config import MATTER, Recipe
from gankd.recipes.published import TABLES, PublishedTable, Scale
from gankd.recipes.published.table import Closed
from gankd.recipes.ready import RECIPES, recipe_summary
from gankd.report.gather import machine_facts
from gankd.report.lists import LISTS, Listing, Machine, Row, What, loss_files, read_lists, stored
from gankd.settings import settings_of
from gankd.storage import atomic
from gankd.text import Table
from gankd.training import gan_published
from gankd.training.gan import GanConfig, build_discriminator, build_generator
from gankd.training.losses import all_losses
from gankd.virtual import POLICIES, SOURCES

SCALES: tuple[Scale, ...] = ("small", "full")
ROUNDS = 15
"""Rounds of a measurement that is stored."""


def listing(what: What, names: Sequence[str] = (), *, measure: bool = False) -> Listing:
    """A list: one row per loss, input, target source, model, generator architecture, or recipe.

    Args:
        what: which list.
        names: as in `stored`.
        measure: measure the costs of losses, or the speed that estimates of tables assume, on this machine in some
            seconds; default: those measured once, with the machine they were measured on.

    Raises:
        ConfigError: there is no such list or table, or nothing in the list is measured.
    """
    found = stored(what, names)
    require(not measure or what in ("losses", "recipes"), f"nothing in the list of {what} is measured; omit --measure")
    if found is None:  # a loss was added since the list was stored
        found = Listing(what, loss_rows(_stored_costs()), Machine(**read_lists()["machine"]))
    if not measure:
        return found
    here = _this_machine()
    if what == "losses":
        return replace(found, rows=loss_rows(measure_costs(_measurable())), machine=here)
    factor = found.machine.operations_per_second / here.operations_per_second
    tables = [
        row | {"estimate": {scale: _scaled(cost, factor) for scale, cost in row["estimate"].items()}}
        for row in found.tables
    ]
    return replace(found, tables=tables, machine=here)


def write_lists(
    *, measure: bool = False, page: Path = Path("docs/settings.md"), costs_file: Path = Path("docs/costs.md")
) -> None:
    """Write lists.json from the code, one row a line, and the pages of settings and of what published tables cost.

    Args:
        measure: measure all costs again; default: those that the file holds stay.
        page: the page of settings.
        costs_file: the page of costs.
    """
    before = read_lists() if LISTS.exists() and not measure else {}
    costs = _stored_costs() if before else {}
    measured = measure_costs([found for found in _measurable() if found.name not in costs], ROUNDS)
    costs |= {name: round(cost, 3) for name, cost in measured.items()}
    machine = Machine(**before["machine"]) if before else replace(_this_machine(), here=False)
    content: dict[str, Any] = {"machine": vars(machine), "loss_files": loss_files()}
    content |= all_rows(costs, machine.operations_per_second)
    parts = (
        f'"{name}": ' + ("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]" if name != "machine" else json.dumps(rows))
        for name, rows in content.items()
    )
    with atomic(LISTS) as temporary:
        temporary.write_text("{\n" + ",\n".join(parts) + "\n}\n")
    with atomic(page) as temporary:
        temporary.write_text(settings_page(setting_rows()))
    with atomic(costs_file) as temporary:
        temporary.write_text(costs_page())


def all_rows(costs: dict[str, float], speed: float) -> dict[str, list[Row]]:
    """Every list, from the code.

    Args:
        costs: relative costs of losses by name.
        speed: operations per second that the estimates of tables assume.
    """
    return {
        "losses": loss_rows(costs),
        "inputs": input_rows(),
        "sources": source_rows(),
        "models": [model_row(name) for name in ZOO],
        "generators": generator_rows(),
        "recipes": recipe_rows(),
        "settings": setting_rows(),
        "tables": [table_row(table, speed) for table in TABLES.values()],
    }


# --- rows ---------------------------------------------------------------------------------------------------


def loss_rows(costs: dict[str, float]) -> list[Row]:
    """One row per loss, with its cost where it is known."""
    return [
        {
            "name": found.name,
            "summary": found.summary,
            "paper": found.paper,
            "weight": found.weight,
            "own_weight": found.own_weight,
            "inputs": list(found.inputs),
            "tasks": list(found.tasks),
            "generated": True,
            "settings": found.settings,
            "needs": "@virtual or a baseline in its place" if found.needs_source else found.needs,
            "cost": costs.get(found.name),
        }
        for found in all_losses().values()
    ]


def input_rows() -> list[Row]:
    """One row per argument that a loss may name."""
    known = (network_inputs() | OTHER_INPUTS | BUILD_INPUTS).items()
    return [{"name": name, "meaning": text, "constructor_only": name in BUILD_INPUTS} for name, text in known]


def source_rows() -> list[Row]:
    """One row per target source, and one per policy by which the virtual teacher's samples are used."""
    rows = [{"name": f"@{name}", "summary": text, "settings": dict(known)} for name, (text, known) in SOURCES.items()]
    return rows + [{"name": f"policy={name}", "summary": text, "settings": {}} for name, text in POLICIES.items()]


def model_row(name: str) -> Row:
    """Size of a network at 3x32x32 pixels and 10 classes; multiply-adds of convolutions and linear layers."""
    counts: list[int] = []

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        assert isinstance(layer.weight, torch.Tensor)
        counts.append(layer.weight.numel() * output[0].numel() // len(layer.weight))  # once per pixel or token

    with torch.device("meta"):  # shapes only, no weights
        net = build_net(name, in_channels=3, image_size=32, num_outputs=10, seed=0).eval()
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(count)
        net(torch.zeros(1, 3, 32, 32))
    return {
        "name": name,
        "family": (type(net).__doc__ or "").strip().splitlines()[0].rstrip("."),
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "multiply_adds": sum(counts),
    }


def generator_rows() -> list[Row]:
    """One row per architecture of `gan.architecture`: sizes, labels, preset, and parameters at that preset's widths."""
    rows: list[Row] = []
    for name, found in ARCHITECTURES.items():
        preset: Callable[[], GanConfig] = getattr(gan_published, found.preset) if found.preset else GanConfig
        config, size = replace(preset(), init="default"), found.preset_size
        task = VALUES if config.label_input == "ili" else CLASSES
        with torch.device("meta"):  # shapes only, no weights
            nets = [build(task, (3, size, size), config, 0) for build in (build_generator, build_discriminator)]
        counts = [sum(part.numel() for part in net.parameters() if part.requires_grad) for net in nets]
        rows.append(
            {
                "name": name,
                "sizes": found.sizes,
                "labels": found.labels,
                "summary": found.summary,
                "paper": found.paper,
                "preset": found.preset,
                "parameters": {"size": size, "generator": counts[0], "discriminator": counts[1]},
            }
        )
    return rows


def setting_rows() -> list[Row]:
    """One row per setting."""
    return [{**vars(setting), "matters": setting.name in MATTER} for setting in settings_of(Recipe)]


def settings_page(rows: Sequence[Row]) -> str:
    """The settings as a Markdown page, a table for each group."""
    titles = {field.name: field.type.__doc__ for field in fields(Recipe) if is_dataclass(field.type)}
    titles[""] = "The whole run."
    parts = [
        "# Settings",
        "Written by `make lists` from the code; `gankd list settings gan` prints the same. Change one with "
        "`--set gan.steps=4000`, or several in a TOML file with `--config`. `*`: settings to look at first, because "
        "they decide the time of a run and most of its result. Defaults are those of the code; a recipe has its own "
        "for some, and `run.json` in the run folder has those of a run.",
    ]
    whole_run_first = sorted(rows, key=lambda row: "." in row["name"])
    for group, own in groupby(whole_run_first, key=lambda row: row["name"].rpartition(".")[0]):
        lines = [("* " * row["matters"] + f"`{row['name']}`", row["default"], row["range"], row["text"]) for row in own]
        table = Table(("setting", "default", "range", "meaning"), lines, "llll").markdown()
        parts += [f"## {group or 'run'}", (titles[group] or "").splitlines()[0], table]
    return "\n\n".join(parts) + "\n"


def recipe_rows() -> list[Row]:
    """One row per ready-made recipe."""
    return [{"name": name, "summary": recipe_summary(name)} for name in RECIPES]


def table_row(table: PublishedTable, speed: float) -> Row:
    """A published table: protocol, numbers, deviations, and an estimate of time and memory for one seed.

    Args:
        table: which.
        speed: operations per second that the estimate assumes.
    """
    return {
        "name": table.name,
        "summary": table.title,
        "source": table.source,
        "pairs": [pair.name for pair in table.pairs],
        "methods": [arm.title for arm in table.arms],
        "unit": table.unit,
        "published": [
            {"pair": pair, "method": method, "printed": number} for (pair, method), number in table.printed.items()
        ],
        "protocol": table.protocol,
        "deviations": list(replace(table, under="published").differences),
        "closed": [text for text in table.deviations if isinstance(text, Closed)],
        "note": table.note,
        "estimate": {scale: _scaled(vars(estimate(table, scale, speed)), 1.0) for scale in SCALES},
    }


# --- costs --------------------------------------------------------------------------------------------------


def _measurable() -> list[Loss]:
    return [found for found in all_losses().values() if not found.needs]


def _stored_costs() -> dict[str, float]:
    return {row["name"]: row["cost"] for row in read_lists()["losses"] if row["cost"] is not None}


def _scaled(cost: dict[str, float], factor: float) -> dict[str, float]:
    """A cost on a machine that takes `factor` times as long, as exactly as an estimate deserves."""
    scaled = {name: round(factor * cost[name]) for name in ("seconds", "shared_seconds")}
    return {**scaled, "gigabytes": round(cost["gigabytes"], 2)}


def _this_machine() -> Machine:
    facts = machine_facts()
    return Machine(
        processor=facts.get("gpu", facts["processor"]),
        threads=torch.get_num_threads(),
        torch=facts["torch"],
        operations_per_second=machine_speed(),
        here=True,
    )
