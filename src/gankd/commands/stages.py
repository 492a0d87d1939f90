"""The commands as Python functions: each works in a run folder, reads what is there and makes what is missing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gankd.bench.compare import Cell, cells, chosen_by_validation, compare, train_students
from gankd.bench.results import ArmResult
from gankd.config import from_dict, require, suggest, to_dict
from gankd.console import Console
from gankd.data.images import Splits
from gankd.errors import CheckpointError, ConfigError
from gankd.recipes.arms import ARMS
from gankd.recipes.cgan_kd import CganKd
from gankd.recipes.config import Recipe
from gankd.recipes.published import TABLES
from gankd.recipes.ready import RECIPES
from gankd.report.tables import evidence_rows, headline, results_table
from gankd.runs import Run
from gankd.storage import read_json, write_json
from gankd.tasks import Task
from gankd.virtual import Inspection

RUNS = Path("runs")
"""Where runs lie by default, each in a folder of its recipe's name."""
RUN_FILE = "run.json"
"""What `resume` needs to know: the settings and arms that a run was last given."""


@dataclass(frozen=True)
class RunResult:
    """What a run found on the test (or validation) images."""

    recipe: str
    task: Task
    arms: tuple[ArmResult, ...]
    headline_arm: str | None
    """Chosen on validation images."""
    report: Path | None = None
    split: Literal["val", "test"] = "test"

    @property
    def table(self) -> str:
        """Plain text, at most 100 columns."""
        return results_table(self.arms, self.task, "validation" if self.split == "val" else self.split)

    @property
    def headline(self) -> str:
        """The result in one sentence; none on validation images, on which settings are chosen."""
        if self.split == "val":
            return ""
        return headline(self.arms, self.task, self.headline_arm).text

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row per arm and control, as in docs/evidence.json."""
        return evidence_rows(self.arms, self.task, self.recipe)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        arms = [{"arm": arm.arm, "seeds": list(arm.seeds), "values": list(arm.values)} for arm in self.arms]
        report = str(self.report) if self.report else None
        return {
            "recipe": self.recipe,
            "headline": self.headline,
            "arms": arms,
            "rows": self.rows,
            "report": report,
        }


def find_recipe(target: str, out: Path | None = None) -> tuple[Recipe, Path]:
    """The recipe of this name with its default folder, or the recipe and folder of an earlier run.

    Raises:
        ConfigError: neither a recipe nor a run folder.
    """
    if target in RECIPES:
        return RECIPES[target](), out or RUNS / target
    folder = Path(target)
    if (folder / RUN_FILE).is_file():
        return stored_run(folder)[0], out or folder
    if target in TABLES:
        raise ConfigError(f"{target} is a published table; run it with: gankd bench {target}")
    if folder.exists():
        raise ConfigError(
            f"{folder} is no run folder (it has no {RUN_FILE}); for your own images: "
            f"gankd run {'npz' if folder.suffix == '.npz' else 'folder'} --data {folder}"
        )
    raise ConfigError(f"no recipe and no run folder {target!r}; {suggest(target, [*RECIPES, *TABLES])}")


def find_run(target: str) -> Path:
    """The folder of an earlier run; a recipe's name stands for its default folder.

    Raises:
        ConfigError: no run there.
    """
    for folder in (Path(target), RUNS / target):
        if (folder / RUN_FILE).is_file():
            return folder
    known = [str(path.parent) for path in RUNS.glob(f"*/{RUN_FILE}")]
    remedy = suggest(str(RUNS / target), known) if known else "start one with: gankd run RECIPE"
    raise ConfigError(f"no run in {target} (it has no {RUN_FILE}); {remedy}")


def stored_run(folder: Path) -> tuple[Recipe, list[str] | None]:
    """The settings that a run was last given, and its arms; None for all.

    Raises:
        CheckpointError: its file is damaged. ConfigError: it has settings that this version does not know, or its
            images were given in memory.
    """
    path = folder / RUN_FILE
    try:
        stored = read_json(path)
        recipe, arms = dict(stored["recipe"]), stored["arms"] and [str(name) for name in stored["arms"]]
        in_memory = stored.get("in_memory")
    except (CheckpointError, KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{path} is damaged: it does not hold the settings of a run; give them anew with: "
            f"gankd run RECIPE --out {folder} (finished stages are reused)"
        ) from None
    if in_memory:
        raise ConfigError(f"{folder} was given its images in memory; go on in Python: run(recipe, folder, splits=...)")
    return from_dict(Recipe, recipe, str(path)), arms


@contextmanager
def opened(
    recipe: Recipe, folder: Path, console: Console | None = None, splits: Splits | None = None
) -> Iterator[CganKd]:
    """The method in its run folder, held by this process alone.

    Raises:
        DataError: the images cannot be used; no folder is made then.
        RunError: the folder is in use or cannot be written.
    """
    run = Run(folder, console)
    method = CganKd(recipe, run, splits)
    _ = method.splits
    with run:
        yield method


@contextmanager
def started(
    recipe: Recipe,
    folder: Path,
    console: Console | None,
    splits: Splits | None = None,
    wanted: Sequence[Cell] = (),
    by: str | None = None,
) -> Iterator[CganKd]:
    """`opened`, with the settings kept for `resume` once the students wanted are known to fit; says so where settings
    are not those of the last time.
    """
    with opened(recipe, folder, console, splits) as method:
        wirings = method.check_students([ARMS[name] for name in dict.fromkeys(name for name, _ in wanted)])
        objective = recipe.student.objective
        if any(ARMS[name].kd for name, _ in wanted) and objective.for_task(method.splits.task) != objective:
            method.run.console.say(f"loss               {objective.for_task(method.splits.task)}")
        if any(ARMS[name].kd for name, _ in wanted) and objective.needs_virtual:
            for caution in objective.cautions(method.virtual_temperature):
                method.run.console.say(f"loss               {caution}")
        for what, wiring in wirings.items():
            pairs = ", ".join(f"{own.path} <- {other.path}" for own, other in wiring.pairs)
            method.run.console.say(f"maps that meet     student <- {what}: {pairs}")
        before, arms = recipe, None
        with suppress(CheckpointError, ConfigError):  # none or damaged: written anew
            before, arms = stored_run(folder)
        changed = _changed(to_dict(before), to_dict(recipe))
        if changed:
            method.run.console.say(
                f"settings           changed since the last use of {folder}: {', '.join(changed)}; "
                "name the folder in place of the recipe to keep them"
            )
        _store_run(method, arms, by)
        yield method


def _store_run(method: CganKd, arms: Sequence[str] | None, by: str | None = None) -> None:
    in_memory = method.given_splits is not None
    facts: dict[str, Any] = {"recipe": to_dict(method.recipe), "arms": list(arms) if arms else None}
    facts |= {"in_memory": in_memory} | ({"by": by} if by else {})
    write_json(method.run.folder / RUN_FILE, facts)


def _changed(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ, as people read them."""
    lines = []
    for name, value in now.items():
        old = before.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            lines += _changed(old, value, f"{prefix}{name}.")
        elif value != old:
            lines.append(f"{prefix}{name} {value} (was {old})")
    return lines


def run(
    recipe: Recipe,
    folder: Path | str,
    *,
    arms: Sequence[str] | None = None,
    workers: int = 1,
    console: Console | None = None,
    splits: Splits | None = None,
) -> RunResult:
    """The whole method with its controls, and report.html.

    Args:
        recipe: settings; see `gankd.recipes.config`, ready-made ones in `gankd.recipes.ready`.
        folder: run folder; whatever in it was made with the same settings and inputs is reused.
        arms: names of the rows of the table; all if not given.
        workers: students trained side by side.
        console: where progress is shown; nowhere if not given.
        splits: images in memory in place of the recipe's data.

    Raises:
        GankdError: with one line that says what to do.
    """
    from gankd.report.gather import gather
    from gankd.report.page import write_report

    wanted = cells(recipe, arms or ARMS)
    with started(recipe, Path(folder), console, splits, wanted) as method:
        _store_run(method, arms)
        train_students(method, wanted, workers)
        page = method.run.folder / "report.html"
        result = replace(_result(method, wanted, "test"), report=page)
        write_json(method.run.folder / "results.json", result.to_dict())
        write_report(gather(method, result.arms, result.headline_arm), page)
    return result


def resume(folder: Path | str, *, workers: int = 1, console: Console | None = None) -> RunResult:
    """Go on with the run that this folder holds, with the settings and arms it was last given.

    Raises:
        ConfigError: what was interrupted is another command's work; the same command goes on with it.
    """
    recipe, arms = stored_run(Path(folder))
    by = read_json(Path(folder) / RUN_FILE).get("by")
    require(by is None, f"{folder} was last used by gankd {by}, which goes on when it is called again in the same way")
    return run(recipe, folder, arms=arms, workers=workers, console=console)


def teach(recipe: Recipe, folder: Path | str, *, console: Console | None = None) -> dict[str, Any]:
    """Train the teacher; returns its validation metrics."""
    with started(recipe, Path(folder), console) as method:
        _ = method.teacher
        return {"folder": str(method.teacher_stage.folder), **(method.teacher_stage.result or {}).get("val", {})}


def gan(recipe: Recipe, folder: Path | str, *, console: Console | None = None) -> dict[str, Any]:
    """Train the generator; returns its health."""
    with started(recipe, Path(folder), console) as method:
        _ = method.generator
        return {"folder": str(method.gan_stage.folder), **(method.gan_stage.result or {}).get("health", {})}


def ratio(recipe: Recipe, folder: Path | str, *, console: Console | None = None) -> dict[str, Any]:
    """Estimate the density ratio; returns its facts."""
    with started(recipe, Path(folder), console) as method:
        _ = method.density_ratio
        return {"folder": str(method.ratio_stage.folder), **(method.ratio_stage.result or {})}


def synth(recipe: Recipe, folder: Path | str, *, console: Console | None = None) -> dict[str, Any]:
    """Generate, score and select the synthetic set; returns how many images are left after each step."""
    with started(recipe, Path(folder), console) as method:
        selection = method.selection(ARMS["adjusted"])
        assert selection is not None
        return {"folder": str(method.synth_stage.folder), **selection.report["counts"]}


def student(
    recipe: Recipe,
    folder: Path | str,
    *,
    arms: Sequence[str] | None = None,
    workers: int = 1,
    console: Console | None = None,
) -> RunResult:
    """Train students; returns their validation metrics."""
    wanted = cells(recipe, arms or ARMS)
    with started(recipe, Path(folder), console, wanted=wanted) as method:
        train_students(method, wanted, workers)
        return _result(method, wanted, "val")


def evaluate(recipe: Recipe, folder: Path | str, *, split: Literal["val", "test"] = "test") -> RunResult:
    """Metrics of the students that are finished.

    Raises:
        ConfigError: none is.
    """
    with opened(recipe, Path(folder)) as method:
        return _result(method, cells(recipe), split)


def report(recipe: Recipe, folder: Path | str) -> Path:
    """Write report.html from what the run folder holds; a partial run gives a partial report."""
    with opened(recipe, Path(folder)) as method:
        return write_page(method)


def write_page(method: CganKd, inspected: Inspection | None = None) -> Path:
    """The same for a run at hand, whose virtual teacher may have been inspected already."""
    from gankd.report.gather import gather
    from gankd.report.page import write_report

    wanted = cells(method.recipe)
    path = method.run.folder / "report.html"
    write_report(gather(method, compare(method, wanted), chosen_by_validation(method, wanted), inspected), path)
    return path


def _result(method: CganKd, wanted: list[tuple[str, int]], split: Literal["val", "test"]) -> RunResult:
    arms = compare(method, wanted, split)
    if not arms:
        raise ConfigError(f"no finished student in {method.run.folder}; run: gankd student {method.run.folder}")
    return RunResult(method.recipe.name, method.splits.task, arms, chosen_by_validation(method, wanted), split=split)
