"""`gankd vkd`: train and inspect a virtual teacher, and students from it, from themselves or from one another.

VKD as reconstructed from its abstract: Kim, IEEE Access 10 (2022).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gankd.bench.rows import Row, Rows, run_rows, train_rows
from gankd.commands.stages import started, write_page
from gankd.config import require
from gankd.console import Console
from gankd.models.contract import evaluate
from gankd.recipes.cgan_kd import CganKd
from gankd.recipes.config import Recipe
from gankd.tasks import Task
from gankd.training.objective import Objective
from gankd.virtual import Inspection, VirtualTeacher

CONTROL = "labels alone"


def train(recipe: Recipe, folder: Path | str, *, console: Console | None = None) -> dict[str, Any]:
    """Train a virtual teacher, and with it the teacher if that is not there; returns where it is and how big."""
    with started(recipe, Path(folder), console, by="vkd train") as method:
        virtual = method.virtual
        stage, validation = method.virtual_stage, (method.teacher_stage.result or {}).get("val", {})
        return {
            "file": str(stage.path("virtual.safetensors")),
            "kilobytes": (stage.result or {}).get("kilobytes"),
            "parameters": virtual.num_parameters,
            f"teacher_val_{method.splits.task.metric}": validation.get(method.splits.task.metric),
            "seconds": stage.seconds,
        }


def inspect(recipe: Recipe, folder: Path | str, *, console: Console | None = None) -> Inspection:
    """Measure a virtual teacher by the gates, and show it in report.html; it is trained if it is not there."""
    with started(recipe, Path(folder), console, by="vkd inspect") as method:
        found = method.inspection()
        return replace(found, report=write_page(method, found))


def default_loss(task: Task, source: str, temperature: float) -> str:
    """What a student minimises that learns from a source: the form with the student at temperature 1."""
    if task.kind == "classification":
        return f"0.1*Label + 0.9*SoftTargets(T={temperature:g})@{source}"
    return f"Label + Distribution@{source}"


def student(
    recipe: Recipe,
    folder: Path | str,
    *,
    loss: str | None = None,
    source: Path | None = None,
    workers: int = 1,
    console: Console | None = None,
) -> Rows:
    """Students from the virtual teacher beside the controls that it must beat; on test images.

    Args:
        recipe: settings.
        folder: run folder.
        loss: what they learn; without it the virtual teacher alone, and its table.
        source: file of a virtual teacher from elsewhere; no teacher is then needed.
        workers: trained side by side.
        console: where progress is shown.

    Raises:
        GankdError: with one line that says what to do.
    """
    objective = None if loss is None else Objective.parse(loss)
    if source is not None:
        require(source.is_file(), f"no virtual teacher {source}; gankd vkd train writes virtual.safetensors")
        VirtualTeacher.load(source)  # refused before anything is written
    with started(recipe, Path(folder), console, by="vkd student") as method:
        if source is not None:  # in this command alone: the run keeps its own
            own = replace(recipe, student=replace(recipe.student, virtual=str(source.absolute())))
            method = CganKd(own, method.run, method.splits)
        task = method.splits.task
        temperature = method.virtual_temperature
        rows = [Row(CONTROL)]
        if objective is not None:
            if source is not None and objective.needs_teacher:
                method.run.console.say("loss               a term reads the teacher itself, so one is trained here")
            beside = re.sub(r"@virtual(\([^)]*\))?", "@table", str(objective))
            if beside != str(objective):  # what a gain must be shown against
                rows.append(Row("the same @table", beside))
            rows.append(Row(str(objective), str(objective)))
            return _run(method, rows, workers, [row.title for row in rows[1:-1]])
        if task.kind == "classification":
            rows.append(Row("label smoothing", "LS"))
        if source is None:
            _ = method.virtual  # first, so that the teacher is trained once, with the generator beside it
            rows.append(Row("KD as in the recipe", recipe.student.loss))
            if task.kind == "classification":
                rows.append(Row("the teacher itself", default_loss(task, "teacher", temperature)))
        for title, name in {"table": "table", "virtual": "virtual", "virtual, best of 8": BEST}.items():
            rows.append(Row(title, default_loss(task, name, temperature)))
        return _run(method, rows, workers, ["table"])


BEST = 'virtual(draws=8, policy="best")'


def self(recipe: Recipe, folder: Path | str, *, workers: int = 1, console: Console | None = None) -> Rows:
    """Students that learn from a generator of their own outputs, without any teacher; on test images."""
    with started(recipe, Path(folder), console, by="vkd self") as method:
        _for_classes(method.splits.task, "self")
        rows = [Row(CONTROL), Row("label smoothing", "LS"), Row("Tf-KD", "0.9*CE + 0.1*TfKD"), Row("self", "SelfVKD")]
        return _run(method, rows, workers, ["label smoothing"])


@dataclass(frozen=True)
class Peers:
    """A student that learnt with peers, and the peers."""

    rows: Rows
    peers: list[dict[str, Any]]
    """Network, seed and test metrics of each that was trained along."""
    told: tuple[str, ...] = ()
    """Who was heard of peers elsewhere, and what was wrong with their files."""

    @property
    def text(self) -> str:
        """Plain text."""
        lines = [self.rows.text]
        metric = self.rows.task.metric
        lines += [f"peer {peer['network']}, seed {peer['seed']}: {metric} {peer[metric]:.2f}" for peer in self.peers]
        return "\n".join([*lines, *self.told])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.rows.to_dict(), "peers": self.peers, "told": list(self.told)}


def peers(
    recipe: Recipe,
    folder: Path | str,
    *,
    networks: Sequence[str] = (),
    exchange: Path | None = None,
    name: str | None = None,
    workers: int = 1,
    console: Console | None = None,
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
    with started(recipe, Path(folder), console, by="vkd peers") as method:
        _for_classes(method.splits.task, "peers")
        rows = [Row(CONTROL)]
        title = f"peer {name}" if exchange is not None else "with peers"
        if exchange is not None:  # the others wait; and in this process it can say what is wrong with their files
            train_rows(method, [Row(title, loss)], [0], workers=1)
        else:
            kinds = list(dict.fromkeys(networks or [recipe.student.model]))
            rows += [
                Row(f"{kind}, {CONTROL}", settings=(f"student.model={kind}",))
                for kind in kinds
                if kind != recipe.student.model
            ]
            if len(kinds) == 1:  # peers that see one another's outputs
                rows.append(Row("DML", f"DML(peers={max(1, len(networks))}, network={kinds[0]!r})"))
        table = _run(method, [*rows, Row(title, loss)], workers, [])
        found = []
        each = CganKd(replace(recipe, student=replace(recipe.student, loss=loss)), method.run, method.splits)
        for seed in range(recipe.seeds):
            for network, peer in each.peers("kd_matched", seed):
                metrics = evaluate(peer, method.splits.test, method.engine)
                found.append({"network": network, "seed": seed, **metrics})
        history = each.student_stage("kd_matched", 0).stored_history()
        told = [str(line["problem"]) for line in history if "problem" in line] if exchange is not None else []
    return Peers(table, found, tuple(dict.fromkeys(told)))


def _for_classes(task: Task, action: str) -> None:
    require(task.kind == "classification", f"gankd vkd {action} is for classes; for values: gankd vkd student")


def _run(method: CganKd, rows: Sequence[Row], workers: int, controls: Sequence[str]) -> Rows:
    return run_rows(method, rows, seeds=method.recipe.seeds, workers=workers, controls=controls)
