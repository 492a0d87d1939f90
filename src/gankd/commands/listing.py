"""`gankd list`: what there is, with what a user must know to choose."""

import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

import torch
from torch import nn

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.generators.architectures import ARCHITECTURES
from gankd.losses.distillation import Loss
from gankd.losses.distillation.spec import BUILD_INPUTS, OTHER_INPUTS, network_inputs
from gankd.models import ZOO, build_net
from gankd.models.contract import ImageModel
from gankd.recipes.ready import RECIPES, recipe_summary
from gankd.runs import Stage
from gankd.seeds import rng
from gankd.tasks import Classification, Regression, Task
from gankd.training import gan_published
from gankd.training.distill import distill
from gankd.training.gan import GanConfig, build_discriminator, build_generator
from gankd.training.lesson import DistillConfig, Lesson
from gankd.training.losses import all_losses
from gankd.training.objective import term_of
from gankd.virtual import POLICIES, SOURCES, VirtualConfig, VirtualTeacher

What = Literal["losses", "inputs", "sources", "models", "generators", "recipes"]
Row = dict[str, Any]
CLASSES, VALUES = Classification(num_classes=10), Regression(low=0.0, high=1.0)
ROTATED = "rotated_student_..., rotated_teacher_...: the same for images turned by 90, 180 and 270 degrees, 3 N rows"
TEACHER, STUDENT, SIZE, BATCH = "resnet14", "cnn16", 16, 64
"""On what the cost of a loss is measured."""
MODEL_NAMES = (
    "Stems and poolings follow the side of the images, in the published forms for 32, 64 and 128 px. NAME+mlp: with "
    "the head of the published regression networks. timm:NAME, torchvision:NAME: of these libraries, where installed. "
    "module:name: your own."
)


def listing(what: What) -> list[Row]:
    """One row per loss, input of losses, model or recipe; what losses cost is measured here, in some seconds."""
    if what == "inputs":
        known = (network_inputs() | OTHER_INPUTS | BUILD_INPUTS).items()
        return [{"name": name, "meaning": text, "constructor_only": name in BUILD_INPUTS} for name, text in known]
    if what == "sources":
        rows = [{"name": f"@{name}", "summary": text, "settings": known} for name, (text, known) in SOURCES.items()]
        return rows + [{"name": f"policy={name}", "summary": text, "settings": {}} for name, text in POLICIES.items()]
    if what == "models":
        return [_model_row(name) for name in ZOO]
    if what == "generators":
        return list_generators()
    if what == "recipes":
        return [_recipe_row(name) for name in RECIPES]
    costs = measure_costs([found for found in all_losses().values() if not found.needs])
    return [_loss_row(found, costs.get(name)) for name, found in all_losses().items()]


def list_table(rows: list[Row], what: What) -> str:
    """The list as people read it, at most 120 columns."""
    if what == "inputs":
        lines = [f"{row['name']:<33}{row['meaning']}{' (constructor)' * row['constructor_only']}" for row in rows]
        return "\n".join(line for line in lines if not line.startswith("rotated_")) + "\n" + ROTATED
    if what == "sources":
        return "\n".join(
            f"{row['name']:<14} {row['summary']}"
            + "".join(
                f"{', ' if number else '; '}{key}={value}"
                for number, (key, value) in enumerate(row["settings"].items())
            )
            for row in rows
        )
    if what == "models":
        lines = [f"{'':<19}{'parameters':>11}{'M mult-adds':>13}   at 3x32x32 pixels and 10 classes"]
        for family, members in groupby(rows, key=itemgetter("family")):
            lines += ["", family]
            lines += [f"  {m['name']:<17}{m['parameters']:>11,}{m['multiply_adds'] / 1e6:>13.1f}" for m in members]
        return "\n".join([*lines, "", *textwrap.wrap(MODEL_NAMES, 120)])
    if what == "generators":
        return generators_table(rows)
    if what == "recipes":
        return "\n".join(f"{row['name']:<20} {row['summary']}" for row in rows)
    lines = []
    for row in rows:
        tasks = {("classification",): "classes", ("regression",): "values"}.get(tuple(row["tasks"]), "both")
        cost = "" if row["cost"] is None else f"{row['cost']:.2f}"
        line = f"{row['name']:<15}{row['weight']:<8.4g}{tasks:<8}{cost:>5}  {row['summary']}"
        lines += textwrap.wrap(line, 120, subsequent_indent=" " * 38)
        settings = ", ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value!r}"
            for name, value in row["settings"].items()
        )
        facts = [row["paper"], f"reads {', '.join(row['inputs'])}", f"settings {settings}" if settings else ""]
        facts.append(f"needs {row['needs']}" if row["needs"] else "")
        lines += textwrap.wrap("; ".join(filter(None, facts)), 116, initial_indent=" " * 4, subsequent_indent=" " * 4)
    head = f"{'loss':<15}{'weight':<8}{'labels':<8}{'cost':>5}  what it asks of the student"
    foot = (
        "All work on real and on generated images. Weight: published, in force where none is written; for values a "
        "hundredth of it where a loss does not read outputs. Cost: time of "
        f"an update in units of the plain student's, {TEACHER} -> {STUDENT}, {SIZE} px, batch {BATCH}, teacher run in "
        "step, measured just now on this machine."
    )
    return "\n".join([head, *lines, "", *textwrap.wrap(foot, 120)])


def list_generators() -> list[Row]:
    """One row per architecture of `gan.architecture`: sizes, labels, preset, and parameters at that preset's widths."""
    rows: list[Row] = []
    for name, found in ARCHITECTURES.items():
        preset: Callable[[], GanConfig] = getattr(gan_published, found.preset) if found.preset else GanConfig
        config, size = replace(preset(), init="default"), found.preset_size
        task = VALUES if config.label_input == "ili" else CLASSES
        with torch.device("meta"):  # counted, not made
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


def generators_table(rows: list[Row]) -> str:
    """The architectures as people read them, at most 120 columns."""
    lines = []
    for row in rows:
        counts = row["parameters"]
        millions = f"{counts['generator'] / 1e6:.1f} + {counts['discriminator'] / 1e6:.1f} M at {counts['size']} px"
        lines.append(f"{row['name']:<13}{row['sizes']:<13}{millions:<24} {row['summary']}")
        preset = f"preset {row['preset']}" if row["preset"] else ""
        lines.append(" " * 26 + "; ".join(filter(None, (row["labels"], row["paper"], preset))))
    foot = (
        "Set gan.architecture. Parameters are those of generator and discriminator at the widths of the preset, which "
        "gankd.training.gan_published holds. A generator that is there already: "
        "gan.external=module:name, a folder or .npz file of labelled images, or diffusers:FOLDER."
    )
    head = f"{'architecture':<13}{'pixels':<13}{'parameters':<24} "
    return "\n".join([head.rstrip(), *lines, "", *textwrap.wrap(foot, 120)])


def measure_costs(losses: list[Loss], rounds: int = 3) -> dict[str, float]:
    """Time of an update with each loss, the label loss included, over that of the plain student: medians of rounds, in
    each of which everything runs in turn.
    """
    steps = {found.name: _stepper(found, _task_of(found)) for found in losses}
    plain = {task.kind: _stepper(None, task) for task in (CLASSES, VALUES)}
    ratios: dict[str, list[float]] = {found.name: [] for found in losses}
    for number in range(rounds + 1):
        base = {kind: run() for kind, run in plain.items()}
        for found in losses:
            ratio = steps[found.name]() / base[_task_of(found).kind]
            if number:  # the first round warms up
                ratios[found.name].append(ratio)
    return {name: sorted(values)[rounds // 2] for name, values in ratios.items()}


def _task_of(found: Loss) -> Task:
    return CLASSES if "classification" in found.tasks else VALUES


def _loss_row(found: Loss, cost: float | None) -> Row:
    return {
        "name": found.name,
        "summary": found.summary,
        "paper": found.paper,
        "weight": found.weight,
        "inputs": list(found.inputs),
        "tasks": list(found.tasks),
        "generated": True,
        "settings": found.settings,
        "needs": "@virtual or a stand-in" if found.needs_source else found.needs,
        "cost": cost,
    }


def _stepper(found: Loss | None, task: Task) -> Callable[[], float]:
    """A function that trains for a few updates and gives the seconds of one, set-up not counted."""
    count = 4 * BATCH
    images = torch.randint(256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=rng(0, "cost"))
    labels = task.sample_labels(count, torch.arange(task.head_size), "uniform", rng(0, "cost labels"))
    data = LabelledImages(images, labels, task)

    def network(name: str, seed: int) -> ImageModel:
        net = build_net(name or STUDENT, in_channels=3, image_size=SIZE, num_outputs=task.head_size, seed=seed)
        return ImageModel.for_data(net, data)

    # One thread and float32, as a student on the CPU is trained; the teacher runs in step, as for augmented images.
    config = DistillConfig(updates=10_000, batch_size=BATCH, augment=("shift",))
    virtual = VirtualTeacher.untrained(task, VirtualConfig())
    lesson = Lesson("Label" if found is None else term_of(found), network(TEACHER, 0), virtual, network)
    # After every warm-up, except for losses that work only in an opening phase.
    first = 0 if found is not None and "first" in found.settings else config.updates // 2

    def run() -> float:
        stage = _Timed("cost", first)
        distill(
            network(STUDENT, 1),
            data,
            data.subset(torch.arange(2)),
            config,
            Engine.pick(SIZE),
            0,
            lesson=lesson,
            stage=stage,
        )
        return stage.seconds_per_step

    return run


class _Timed(Stage):
    """A stage of a few steps in the middle of a training, with their time; parts of it have none."""

    def __init__(self, name: str, first: int, count: int = 3) -> None:
        super().__init__(name)
        self._range = range(first, first + count)
        self.seconds_per_step = 0.0

    def steps(self, total: int, **state: Any) -> Iterator[int]:
        start = 0.0
        for number, step in enumerate(self._range):
            if number == 1:  # the first one warms up
                start = time.perf_counter()
            self._step, self._total = step, total
            yield step
        self.seconds_per_step = (time.perf_counter() - start) / max(len(self._range) - 1, 1)

    def part(self, name: str, *, counted: bool = True) -> Stage:
        return _Timed(name, 0, 0)


def _model_row(name: str) -> Row:
    """Counted on shapes alone, without weights; multiply-adds are those of convolutions and linear layers."""
    counts: list[int] = []

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        assert isinstance(layer.weight, torch.Tensor)
        counts.append(layer.weight.numel() * output[0, 0].numel())  # each weight is used once per pixel

    with torch.device("meta"):
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


def _recipe_row(name: str) -> Row:
    return {"name": name, "summary": recipe_summary(name)}
