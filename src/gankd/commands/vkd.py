"""`gankd vkd`: train and inspect a virtual teacher, and students from it, from themselves or from one another.

VKD as reconstructed from its abstract: Kim, IEEE Access 10 (2022).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from gankd.bench.compare import compare
from gankd.bench.results import Comparison
from gankd.commands.stages import check_arms, started, write_page
from gankd.config import require
from gankd.console import Console
from gankd.models.contract import evaluate
from gankd.recipes.arms import Arm
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.config import Recipe
from gankd.recipes.experiment import Experiment
from gankd.recipes.live import Given
from gankd.recipes.stages import declare
from gankd.recipes.students import check_students, restore_peers
from gankd.recipes.teacher import teacher_stage
from gankd.recipes.virtual import inspected, make_virtual, virtual_stage, virtual_temperature
from gankd.tasks import Task
from gankd.training.objective import Objective
from gankd.virtual import Inspection, VirtualTeacher

CONTROL = Arm(name="labels only", role="control")


def train(
    recipe: Recipe, folder: Path | str, *, console: Console | None = None, **given: Unpack[Given]
) -> dict[str, Any]:
    """Train a virtual teacher, and the teacher if it is not done yet; returns where it is and how big."""
    with started(recipe, folder, console, by="vkd train", **given) as experiment:
        recipe = experiment.recipe
        teacher = teacher_stage(experiment, recipe.teacher)
        stage = virtual_stage(experiment, recipe.virtual, teacher)
        virtual = make_virtual(experiment, recipe.virtual, teacher, stage)
        metric, validation = experiment.splits.task.metric, (teacher.result or {}).get("val", {})
        return {
            "file": str(stage.path("virtual.safetensors")),
            "kilobytes": (stage.result or {}).get("kilobytes"),
            "parameters": virtual.num_parameters,
            f"teacher_val_{metric}": validation.get(metric),
            "seconds": stage.seconds,
        }


def inspect(
    recipe: Recipe, folder: Path | str, *, console: Console | None = None, **given: Unpack[Given]
) -> Inspection:
    """Measure a virtual teacher by the gates, and show it in report.html; it is trained if it is not there."""
    with started(recipe, folder, console, by="vkd inspect", **given) as experiment:
        recipe = experiment.recipe
        found = inspected(experiment)
        return replace(found, report=write_page(experiment, found))


def student(
    recipe: Recipe,
    folder: Path | str,
    *,
    loss: str | None = None,
    source: Path | str | None = None,
    workers: int = 1,
    console: Console | None = None,
    **given: Unpack[Given],
) -> Comparison:
    """Train students of the virtual teacher and the controls that it has to beat; on test images.

    Args:
        recipe: settings.
        folder: run folder.
        loss: what they minimise; default: the virtual teacher, and its table.
        source: file of a virtual teacher from elsewhere; no teacher is then needed.
        workers: trained side by side.
        console: where progress is shown.
        given: splits, networks and a generator in memory; see `Given`.

    Raises:
        GankdError: with one line that says what to do.
    """
    objective = None if loss is None else Objective.parse(loss)
    if source is not None:
        source = Path(source)
        require(source.is_file(), f"no virtual teacher {source}; gankd vkd train writes virtual.safetensors")
        VirtualTeacher.load(source)  # refused before anything is written
    with started(recipe, folder, console, by="vkd student", **given) as experiment:
        recipe = experiment.recipe
        if source is not None:  # in this command only: the run keeps its own
            own = replace(recipe, student=replace(recipe.student, virtual=str(source.absolute())))
            experiment = experiment.with_recipe(own)
        task, temperature = experiment.splits.task, virtual_temperature(experiment)
        if objective is not None:
            if source is not None and objective.needs_teacher:
                experiment.say("loss", "a term reads the teacher itself, so one is trained here")
            return _run(experiment, _arms_of_loss(str(objective)), workers)
        arms = [CONTROL, Arm(name="label smoothing", loss="LS")]
        if source is None:
            arms.append(Arm(name="KD as in the recipe", loss=recipe.student.loss))
            arms.append(Arm(name="the teacher itself", loss=f"0.1*Label + 0.9*SoftTargets(T={temperature:g})@teacher"))
        arms.append(Arm(name="table", loss=task.target_loss("table", temperature), role="control"))
        arms.append(Arm(name="virtual", loss=task.target_loss("virtual", temperature)))
        arms.append(Arm(name="virtual, best of 8", loss=task.target_loss(BEST, temperature)))
        return _run(experiment, [arm for arm in arms if arm.objective is None or arm.objective.fits(task)], workers)


def _arms_of_loss(loss: str) -> list[Arm]:
    """A loss and its controls: the labels only, and the table instead of the virtual teacher."""
    arms, with_table = [CONTROL], re.sub(r"@virtual(\([^)]*\))?", "@table", loss)
    if with_table != loss:
        arms.append(Arm(name="with @table instead", loss=with_table, role="control"))
    return [*arms, Arm(name=loss, loss=loss)]


BEST = 'virtual(draws=8, policy="best")'


def self(
    recipe: Recipe, folder: Path | str, *, workers: int = 1, console: Console | None = None, **given: Unpack[Given]
) -> Comparison:
    """Students that learn from a generator of their own outputs, without any teacher; on test images."""
    with started(recipe, folder, console, by="vkd self", **given) as experiment:
        recipe = experiment.recipe
        for_classes(experiment.splits.task, "self")
        arms = [
            CONTROL,
            Arm(name="label smoothing", loss="LS", role="control"),
            Arm(name="Tf-KD", loss="0.9*CE + 0.1*TfKD"),
            Arm(name="self", loss="SelfVKD"),
        ]
        return _run(experiment, arms, workers)


@dataclass(frozen=True)
class Peers:
    """A student trained with peers, and the peers."""

    comparison: Comparison
    peers: list[dict[str, Any]]
    """Network, seed and test metrics of each that was trained along."""
    told: tuple[str, ...] = ()
    """Messages about peers in other processes and about their files."""

    @property
    def text(self) -> str:
        """Plain text."""
        lines = [self.comparison.text]
        metric = self.comparison.task.metric
        lines += [f"peer {peer['network']}, seed {peer['seed']}: {metric} {peer[metric]:.2f}" for peer in self.peers]
        return "\n".join([*lines, *self.told])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.comparison.to_dict(), "peers": self.peers, "told": list(self.told)}


def peers(
    recipe: Recipe,
    folder: Path | str,
    *,
    networks: Sequence[str] = (),
    exchange: Path | str | None = None,
    name: str | None = None,
    workers: int = 1,
    console: Console | None = None,
    **given: Unpack[Given],
) -> Peers:
    """Collaborative learning: peers that tell one another nothing but generators of their outputs; on test images.

    Args:
        recipe: settings; `student.model` is the first peer.
        folder: run folder.
        networks: the other peers, in lock-step with the first in one process; one more of its kind if not given.
        exchange: a folder that is shared with other processes, each of them one peer, in place of `networks`.
        name: this peer's name there.
        workers: students trained side by side.
        console: where progress is shown.
        given: splits, networks and a generator in memory; see `Given`.

    Raises:
        GankdError: with one line that says what to do.
    """
    require(exchange is None or not networks, "--networks are peers in this process, --exchange is for peers elsewhere")
    require((exchange is None) == (name is None), "--exchange FOLDER and --name NAME go together")
    if exchange is not None:
        recipe = replace(recipe, seeds=1)  # one process is one peer
        every = max(10, min(200, recipe.student.updates // 10))  # several versions also in a short training
        loss = f"ExchangeVKD(folder={str(Path(exchange).absolute())!r}, name={name!r}, every={every})"
    else:
        loss = f"PeerVKD(networks={','.join(networks)!r})" if networks else "PeerVKD"
    with started(recipe, folder, console, by="vkd peers", **given) as experiment:
        recipe = experiment.recipe
        for_classes(experiment.splits.task, "peers")
        own = Arm(name=f"peer {name}" if exchange is not None else "with peers", loss=loss)
        arms = [CONTROL]
        if exchange is not None:  # the others wait; and in this process it can say what is wrong with their files
            check_students(experiment, [own])
            cgan_kd(experiment, [own], [0])
        else:
            arms += _peers_apart(recipe.student.model, networks)
        table = _run(experiment, [*arms, own], workers)
        stages = declare(experiment, [own], range(recipe.seeds)).students
        found = []
        for (_, seed), stage in stages.items():
            for network, peer in restore_peers(experiment, stage):
                metrics = evaluate(peer, experiment.splits.test, experiment.engine)
                found.append({"network": network, "seed": seed, **metrics})
        history = stages[own.name, 0].stored_history()
        told = [str(line["problem"]) for line in history if "problem" in line] if exchange is not None else []
    return Peers(table, found, tuple(dict.fromkeys(told)))


def _peers_apart(model: str, networks: Sequence[str]) -> list[Arm]:
    """Arms to compare peers with: each network trained on the labels only, and peers that see each other's outputs."""
    kinds = list(dict.fromkeys(networks or [model]))
    arms = [Arm(name=f"{kind}, labels only", settings=(f"student.model={kind}",)) for kind in kinds if kind != model]
    if len(kinds) == 1:
        arms.append(Arm(name="DML", loss=f"DML(peers={max(1, len(networks))}, network={kinds[0]!r})"))
    return arms


def for_classes(task: Task, action: str) -> None:
    """Raise ConfigError if the labels are values, which this command is not for."""
    # Self-distillation, peers and the table of ablations are defined on logits of classes.
    require(task.has_classes, f"gankd vkd {action} is for classes; for values: gankd vkd student")


def _run(experiment: Experiment, arms: Sequence[Arm], workers: int) -> Comparison:
    """Train and measure arms on test images."""
    seeds = range(experiment.recipe.seeds)
    check_arms(experiment, arms)
    cgan_kd(experiment, arms, seeds, workers=workers)
    return compare(experiment, arms, seeds)
