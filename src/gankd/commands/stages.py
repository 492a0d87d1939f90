"""The commands as Python functions: each works in a run folder, reads what is there and makes what is missing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, Unpack

from gankd.bench.budget import at_equal_time, with_updates
from gankd.bench.compare import chosen_by_validation, compare_pipelines
from gankd.bench.results import ArmResult, Choice, Comparison
from gankd.bench.trained import Trained
from gankd.commands.plan import outlook
from gankd.commands.sizes import fitted, keep_sizes, sizes
from gankd.config import from_dict, require, suggest, to_dict
from gankd.console import Console
from gankd.errors import CheckpointError, ConfigError, TrustError
from gankd.generators.external import Generator
from gankd.models.contract import ImageModel
from gankd.models.network_files import holds_code
from gankd.processes import count, join
from gankd.recipes.arms import Arm, arm_named, at_other_lengths, chosen_arms, default_arms
from gankd.recipes.cgan_kd import arm_images, cgan_kd
from gankd.recipes.code import named_code
from gankd.recipes.config import Recipe
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import make_generator, make_ratio, make_ratio_features
from gankd.recipes.live import Given, named
from gankd.recipes.published import TABLES
from gankd.recipes.ready import RECIPES
from gankd.recipes.stages import declare
from gankd.recipes.students import check_students
from gankd.recipes.teacher import make_teacher, teacher_stage, with_suited_augmentation
from gankd.recipes.virtual import virtual_temperature
from gankd.recipes.weak_teacher import with_strong_teacher
from gankd.recipes.workers import Workers, one_thread
from gankd.report.tables import (
    arms_table,
    best_arm,
    classes_table,
    evidence_rows,
    headline,
    numbers_table,
    results_table,
)
from gankd.runs import Run
from gankd.seals import require_trust, require_trusted_file, seals
from gankd.seals import trust as trust_files
from gankd.storage import read_json, write_hashed_json
from gankd.tasks import Task
from gankd.text import Form
from gankd.version import __version__
from gankd.virtual import Inspection

if TYPE_CHECKING:
    import pandas

RUNS = Path("runs")
"""Default folder of runs, which has one folder per recipe."""
RUN_FILE = "run.json"
"""File with the settings and arms that a run was last given, for `resume`."""


@dataclass(frozen=True)
class RunResult:
    """Result of a run on the test (or validation) images."""

    recipe: str
    comparison: Comparison
    choice: Choice
    """Made on validation images."""
    report: Path | None = None
    trained: Trained | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"{self.table}\n{self.headline}".rstrip()

    @property
    def student(self) -> ImageModel:
        """The student that is best on validation images, which `export` would write; see `Trained`."""
        return self._trained.student

    @property
    def teacher(self) -> ImageModel:
        """The teacher; see `Trained`."""
        return self._trained.teacher

    @property
    def generator(self) -> Generator:
        """The generator; see `Trained`."""
        return self._trained.generator

    @property
    def _trained(self) -> Trained:
        if self.trained is None:
            raise ConfigError("this result was read without its networks; call run or evaluate")
        return self.trained

    @property
    def arms(self) -> tuple[ArmResult, ...]:
        """Results of each arm."""
        return self.comparison.arms

    @property
    def task(self) -> Task:
        """Task of the labels."""
        return self.comparison.task

    @property
    def table(self) -> str:
        """Plain text that fits the terminal."""
        split = self.comparison.split
        return results_table(self.arms, self.task, self.choice, "validation" if split == "val" else split)

    def table_as(self, form: Form) -> str:
        """The table of all arms for another program; `csv` has a number in each cell."""
        if form == "csv":
            return numbers_table(self.arms, self.choice).rendered(form)
        split = "validation" if self.comparison.split == "val" else self.comparison.split
        return arms_table(self.arms, self.task, self.choice, split).rendered(form)

    def to_pandas(self) -> "pandas.DataFrame":
        """A data frame with a row per student: recipe, split, arm, seed, its metrics, updates and seconds.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ConfigError(f"to_pandas needs pandas ({error}): pip install 'gankd[pandas]'") from None
        return pandas.DataFrame(
            [
                {
                    "recipe": self.recipe,
                    "split": self.comparison.split,
                    "arm": arm.name,
                    "title": arm.title,
                    "role": arm.role,
                    arm.over: number,
                    **metrics,
                    "updates": arm.updates,
                    "seconds": arm.seconds,
                }
                for arm in self.arms
                for number, metrics in zip(arm.seeds, arm.metrics, strict=True)
            ]
        )

    @property
    def classes(self) -> str:
        """Accuracy on each class as plain text, of the best control and the method; empty for values."""
        return classes_table(self.arms, self.choice)

    @property
    def headline(self) -> str:
        """The result in one sentence; empty on validation images, on which settings are chosen."""
        if self.comparison.split == "val":
            return ""
        return headline(self.arms, self.task, self.choice).text

    @property
    def best(self) -> str:
        """Sentence on the arm that `export` takes, if it is not the one in the headline."""
        return best_arm(self.arms, self.choice)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row per arm and control, as in docs/evidence.json."""
        return evidence_rows(self.arms, self.task, self.recipe)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        arms = [
            {
                "arm": arm.name,
                "seeds": list(arm.seeds),
                "values": list(arm.values),
                **(
                    {"balanced": list(arm.values_of("balanced")), "by_class": dict(arm.by_class)}
                    if arm.by_class
                    else {}
                ),
            }
            for arm in self.arms
        ]
        report = str(self.report) if self.report else None
        return {
            "recipe": self.recipe,
            "headline": self.headline,
            "best": self.choice.best,
            "arms": arms,
            "rows": self.rows,
            "report": report,
        }


def find_recipe(target: str, out: Path | str | None = None) -> tuple[Recipe, Path]:
    """The recipe of this name with its default folder, or the recipe and folder of an earlier run.

    Raises:
        ConfigError: neither a recipe nor a run folder. TrustError: the run names code that is not trusted.
    """
    if target in RECIPES:
        return RECIPES[target](), Path(out or RUNS / target)
    folder = Path(target)
    if (folder / RUN_FILE).is_file():
        return stored_run(folder)[0], Path(out or folder)
    if target in TABLES:
        raise ConfigError(f"{target} is a published table; run it with: gankd bench {target}")
    if folder.exists():
        raise ConfigError(
            f"{folder} is not a run folder (it has no {RUN_FILE}); for your own images: "
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


def found_run(target: str, *, trust: bool = False) -> tuple[Recipe, Path]:
    """The settings of a run and its folder.

    Args:
        target: the folder, or the recipe whose folder is runs/RECIPE.
        trust: run the code that the run names.

    Raises:
        ConfigError: no run there. TrustError: it names code that is not trusted.
    """
    folder = find_run(target)
    if trust:
        trust_files(folder)
    return stored_run(folder)[0], folder


def stored_run(folder: Path, *, given: bool = False) -> tuple[Recipe, list[str | dict[str, Any]] | None]:
    """Settings that a run was last given, and its arms: names, or plain data of a user's own; None for the default.

    Args:
        folder: run folder.
        given: what the run had in memory is given again.

    Raises:
        CheckpointError: its file is damaged. ConfigError: it has settings that this version does not know, or
            something was given in memory. TrustError: it names code that is not trusted (`gankd.trust`); none is run.
    """
    path = folder / RUN_FILE
    try:
        stored = read_json(path)
        recipe, arms = dict(stored["recipe"]), stored["arms"] and [_arm(item) for item in stored["arms"]]
        in_memory, sealed = stored.get("in_memory") or [], stored.get("seals")
        missing = ["splits"] if in_memory is True else [str(name) for name in in_memory]  # True: versions before 0.2
    except (CheckpointError, KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{path} is damaged: it does not hold the settings of a run; give them again with: "
            f"gankd run RECIPE --out {folder} (finished stages are reused)"
        ) from None
    if missing and not given:
        raise ConfigError(
            f"{folder} was given {', '.join(missing)} in memory; resume in Python: "
            f"run(recipe, folder, {', '.join(f'{name}=...' for name in missing)})"
        )
    require_trust(path, named_code([recipe, arms]), sealed)
    made_by = stored.get("version")
    return from_dict(Recipe, recipe, f"{path}, made by gankd {made_by}" if made_by else str(path)), arms


def _arm(stored: Any) -> str | dict[str, Any]:
    """An arm as a run has it: the name of a default arm, never that of a file, or plain data.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(stored, dict):
        return dict(stored)
    if not isinstance(stored, str) or stored.endswith(".toml"):
        raise ValueError(stored)
    return stored


@contextmanager
def opened(
    recipe: Recipe, folder: Path | str, console: Console | None = None, **given: Unpack[Given]
) -> Iterator[Experiment]:
    """The experiment of a run folder, which no other process can use meanwhile; its recipe names what is given.

    Raises:
        DataError: the images cannot be used; the folder is not created then.
        RunError: the folder is in use or cannot be written. TrustError: the teacher is a file with code.
    """
    if holds_code(recipe.teacher.model):
        require_trusted_file(Path(recipe.teacher.model), Path(folder))
    console = console or Console.of_python()
    run = Run(Path(folder), console)
    experiment = with_suited_augmentation(Experiment.open(recipe, run, **given))
    try:
        with run:
            yield experiment
    finally:
        console.close()


@contextmanager
def started(
    recipe: Recipe,
    folder: Path | str,
    console: Console | None,
    arms: Sequence[Arm] = (),
    by: str | None = None,
    *,
    resumed: bool = False,
    **given: Unpack[Given],
) -> Iterator[Experiment]:
    """`opened`, with the settings stored for `resume` once the arms are known to fit; tells which settings changed.

    Args:
        recipe, folder, console, given: as for `run`.
        arms: whose students will be trained.
        by: the command, if it is not one that `resume` can continue.
        resumed: `resume` trains these arms, instead of those that it trained before.
    """
    join()
    with opened(recipe, folder, console, **given) as experiment, _in_shards(experiment):
        for warning in experiment.splits.card.get("warnings", ()):
            experiment.say("data", warning)
        check_arms(experiment, arms)
        experiment = with_suited_augmentation(experiment, make=True)
        before, kept = experiment.recipe, None
        with suppress(CheckpointError, ConfigError, TrustError):  # missing, damaged or a stranger's: written again
            before, kept = stored_run(Path(folder), given=True)
        _tell_changed_code(experiment, arms)
        changed = changed_settings(to_dict(before), to_dict(experiment.recipe))
        if changed:
            experiment.say(
                "settings",
                f"changed since the last use of {folder}: {', '.join(changed)}; name the folder instead of the recipe "
                "to keep them",
            )
        store_run(experiment, _stored_arms(experiment.recipe, arms) if resumed else kept, by)
        yield experiment


@contextmanager
def _in_shards(experiment: Experiment) -> Iterator[None]:
    """Compute with one thread where batches are split: more would add up numbers in other orders."""
    shards = experiment.engine.shards.count
    if shards == 1:
        yield
        return
    who = f"{count()} processes" if count() > 1 else "one process"
    experiment.say("shards", f"batches in {shards} parts, on {who} of one thread")
    with one_thread(experiment.engine.device):
        yield


def _tell_changed_code(experiment: Experiment, arms: Sequence[Arm]) -> None:
    """Say which of the user's files, that networks and losses depend on, have changed since the run's last use."""
    declare(experiment, arms, [0])  # now all code of the user's is known
    before: Any = {}
    with suppress(CheckpointError):
        before = read_json(experiment.run.folder / RUN_FILE)
    stored = before.get("code", {}) if isinstance(before, dict) else {}
    known = stored if isinstance(stored, dict) else {}
    changed = [name for name, digest in experiment.code.items() if known.get(name, digest) != digest]
    if changed:
        experiment.say("code", f"changed: {', '.join(changed)}; what depends on it is trained again")


def check_arms(experiment: Experiment, arms: Sequence[Arm]) -> None:
    """Refuse arms that do not fit, and tell what their losses read.

    Raises:
        ConfigError, ModelError: a loss or a network does not fit.
    """
    task, wirings = experiment.splits.task, check_students(experiment, arms)
    losses = {str(arm.objective): arm.objective for arm in arms if arm.objective is not None}
    for objective in losses.values():
        if objective.for_task(task) != objective:
            experiment.say("loss", str(objective.for_task(task)))
        if objective.needs_virtual:
            for caution in objective.cautions(virtual_temperature(experiment)):
                experiment.say("loss", caution)
    for what, wiring in wirings.items():
        pairs = ", ".join(f"{own.path} <- {other.path}" for own, other in wiring.pairs)
        experiment.say("feature maps", f"student <- {what}: {pairs}")


def store_run(experiment: Experiment, arms: Sequence[Any] | None, by: str | None = None) -> None:
    """Keep the settings and arms of a run in its folder, and the command if `resume` cannot continue it."""
    stored = None if arms is None else [to_dict(arm) if isinstance(arm, Arm) else arm for arm in arms]
    facts: dict[str, Any] = {"recipe": to_dict(experiment.recipe), "arms": stored, "version": __version__}
    facts |= {"in_memory": list(experiment.in_memory), "code": experiment.code} | ({"by": by} if by else {})
    path = experiment.run.folder / RUN_FILE
    try:
        sealed = seals(path, named_code([facts["recipe"], stored]))
    except ConfigError as error:
        experiment.say("trust", f"the next command in this folder needs --trust for your own code: {error}")
    else:
        facts |= {"seals": sealed} if sealed else {}
    write_hashed_json(path, facts)


def changed_settings(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ, as people read them."""
    lines = []
    for name, value in now.items():
        old = before.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            lines += changed_settings(old, value, f"{prefix}{name}.")
        elif value != old:
            lines.append(f"{prefix}{name} {value} (was {old})")
    return lines


Arms = Sequence[str | Arm | Mapping[str, Any]]
"""Names of default arms, arms of your own, their plain data, or paths of TOML files with arms."""


def run(
    recipe: Recipe,
    folder: Path | str,
    *,
    arms: Arms | None = None,
    workers: int | Workers = 1,
    time: float | None = None,
    console: Console | None = None,
    **given: Unpack[Given],
) -> RunResult:
    """Run the whole method with its controls, and write report.html.

    Args:
        recipe: settings; see `gankd.recipes.config`, ready-made ones in `gankd.recipes.ready`.
        folder: run folder; finished stages with the same settings and inputs are reused.
        arms: ways to train the students; default: those of `gankd.recipes.arms.default_arms`.
        workers: number of students trained side by side here, or workers on other machines.
        time: seconds in which the run ends on this machine: chooses sizes, the number of seeds, and the arms if `arms`
            names none (`gankd.commands.sizes`). Default: the recipe as it is.
        console: where progress is shown; default: a bar on a terminal and in a notebook. `Console("quiet")` shows
            nothing.
        given: splits, teacher, student and generator in memory instead of the recipe's; see `Given`.

    Raises:
        GankdError: with one line that says what to do.
    """
    from gankd.report.gather import gather
    from gankd.report.page import write_report

    begun, chosen = monotonic(), None
    if time is not None:
        chosen = sizes(recipe, folder, time, arms=arms, workers=workers, keep=True, **given)
        recipe, arms = chosen.recipe, chosen.arms
    wanted = chosen_arms(named(recipe, given), arms)
    with started(recipe, folder, console, wanted, resumed=True, **given) as experiment:
        stored = _stored_arms(experiment.recipe, wanted)

        def fit(current: Experiment, arms: Sequence[Arm]) -> Experiment:
            assert chosen is not None
            current = fitted(current, arms, chosen, begun, workers)
            store_run(current, stored)
            keep_sizes(current.run.folder, chosen, current.recipe)
            return current

        if chosen is not None:
            keep_sizes(experiment.run.folder, chosen, experiment.recipe)
            experiment.run.console.say(chosen.table)
        if experiment.run.console.watched:
            experiment.run.console.outlook = outlook(experiment, wanted, workers)
        experiment, wanted = trained(experiment, wanted, workers, None if chosen is None else fit)
        store_run(experiment, stored)  # the teacher may be another one
        page = experiment.run.folder / "report.html"
        result = replace(_result(experiment, wanted, "test"), report=page)
        write_hashed_json(experiment.run.folder / "results.json", result.to_dict())
        write_report(gather(experiment, wanted, result.comparison, result.choice), page)
    return result


def trained(
    experiment: Experiment,
    arms: Sequence[Arm],
    workers: int | Workers,
    fit: Callable[[Experiment, Sequence[Arm]], Experiment] | None = None,
) -> tuple[Experiment, tuple[Arm, ...]]:
    """Train the students of all arms; those whose length follows from the time of generated images come last.

    Further pipelines take over the teacher's settings and these lengths.

    Args:
        experiment: the run.
        arms: its arms.
        workers: number of students trained side by side here, or workers on other machines.
        fit: changes the length of the students once the pool is there.

    Returns:
        The experiment, whose teacher may be another one (`with_strong_teacher`), and the arms with their lengths.
    """
    seeds = range(experiment.recipe.seeds)
    experiment = with_strong_teacher(experiment, arms, seeds, workers)
    if fit is not None:
        if any(arm.images is not None for arm in arms):
            cgan_kd(experiment, [arm_named(experiment.recipe, "adjusted")])
        experiment = fit(experiment, arms)
    recipe, arms = experiment.recipe, with_updates(experiment, arms)
    cgan_kd(experiment, [arm for arm in arms if not arm.timed], seeds, workers=workers)
    if any(arm.timed for arm in arms):
        generated = [arm_named(recipe, "adjusted")]
        if not declare(experiment, generated).synth.done:  # no other arm needed it
            cgan_kd(experiment, generated)
        students = recipe.seeds * sum(arm.images is not None for arm in arms)
        arms = at_equal_time(experiment, arms, students=students, workers=workers)
        cgan_kd(experiment, arms, seeds, workers=workers)
    for each, own in experiment.pipelines()[1:]:
        cgan_kd(each, arms, own, workers=workers)
    return experiment, tuple(arms)


def _stored_arms(recipe: Recipe, arms: Sequence[Arm]) -> list[str | Arm] | None:
    """Default arms by their names, so that they follow the recipe's loss, the user's own as they are; None for the
    default comparison. Those at other lengths follow from the others.
    """
    default, longer = default_arms(recipe), at_other_lengths(recipe, arms)
    if tuple(arms) == default:
        return None
    return [arm.name if arm in default else arm for arm in arms if arm not in longer]


def resume(
    folder: Path | str,
    *,
    workers: int | Workers = 1,
    device: str | None = None,
    console: Console | None = None,
    trust: bool = False,
) -> RunResult:
    """Continue the run of this folder with the settings and arms it was last given.

    Args:
        folder: the run folder.
        workers: number of students trained side by side here, or workers on other machines.
        device: where networks compute; default: as the run was given it.
        console: where progress is shown; default: nowhere.
        trust: run the code that the folder names, also if somebody else made it (`gankd.trust`).

    Raises:
        ConfigError: another command was interrupted; run that command again instead.
    """
    if trust:
        trust_files(folder)
    recipe, arms = stored_run(Path(folder))
    by = read_json(Path(folder) / RUN_FILE).get("by")
    require(by is None, f"{folder} was last used by gankd {by}; run that command again, and it resumes")
    if device is not None:
        recipe = replace(recipe, device=device)
    return run(recipe, folder, arms=arms, workers=workers, console=console)


def teach(
    recipe: Recipe, folder: Path | str, *, console: Console | None = None, **given: Unpack[Given]
) -> dict[str, Any]:
    """Train the teacher; returns its validation metrics."""
    with started(recipe, folder, console, **given) as experiment:
        recipe = experiment.recipe
        stage = teacher_stage(experiment, recipe.teacher)
        make_teacher(experiment, recipe.teacher, stage)
        return {"folder": str(stage.folder), **(stage.result or {}).get("val", {})}


def gan(
    recipe: Recipe, folder: Path | str, *, console: Console | None = None, **given: Unpack[Given]
) -> dict[str, Any]:
    """Train the generator, and the teacher that judges it; returns its health."""
    with started(recipe, folder, console, **given) as experiment:
        recipe = experiment.recipe
        stages = declare(experiment, [arm_named(recipe, "adjusted")])
        teacher = make_teacher(experiment, recipe.teacher, stages.teacher)
        make_generator(experiment, teacher, recipe.gan, stages.gan)
        return {"folder": str(stages.gan.folder), **(stages.gan.result or {}).get("health", {})}


def ratio(
    recipe: Recipe, folder: Path | str, *, console: Console | None = None, **given: Unpack[Given]
) -> dict[str, Any]:
    """Estimate the density ratio, and train what it needs; returns its facts."""
    with started(recipe, folder, console, **given) as experiment:
        recipe = experiment.recipe
        stages = declare(experiment, [arm_named(recipe, "adjusted")])
        teacher = make_teacher(experiment, recipe.teacher, stages.teacher)
        generator = make_generator(experiment, teacher, recipe.gan, stages.gan)
        features = make_ratio_features(experiment, teacher, recipe.ratio, recipe.teacher, stages.ratio)
        make_ratio(experiment, features, generator, recipe.ratio, stages.ratio)
        return {"folder": str(stages.ratio.folder), **(stages.ratio.result or {})}


def synth(
    recipe: Recipe, folder: Path | str, *, console: Console | None = None, **given: Unpack[Given]
) -> dict[str, Any]:
    """Generate, score and select the images; returns how many are left after each step."""
    arm = arm_named(recipe, "adjusted")
    with started(recipe, folder, console, **given) as experiment:
        recipe = experiment.recipe
        stages = cgan_kd(experiment, [arm])
        selection = arm_images(experiment, arm, stages)
        spread = selection.report["teacher_stddev"]
        shown = {f"T.stddev {step}": value for step, value in spread.items() if value is not None}
        return {"folder": str(stages.synth.folder), **selection.report["counts"], **shown}


def student(
    recipe: Recipe,
    folder: Path | str,
    *,
    arms: Arms | None = None,
    workers: int | Workers = 1,
    console: Console | None = None,
    **given: Unpack[Given],
) -> RunResult:
    """Train students; returns their validation metrics. Arguments as for `run`."""
    wanted = chosen_arms(recipe, arms)
    with started(recipe, folder, console, wanted, **given) as experiment:
        experiment, wanted = trained(experiment, wanted, workers)
        return _result(experiment, wanted, "val")


def evaluate(
    recipe: Recipe,
    folder: Path | str,
    *,
    arms: Arms | None = None,
    split: Literal["val", "test"] = "test",
    **given: Unpack[Given],
) -> RunResult:
    """Measure the students that are finished. Arguments as for `run`.

    Raises:
        ConfigError: no student is finished.
    """
    with opened(recipe, folder, **given) as experiment:
        return _result(experiment, finished_arms(experiment, arms), split)


def report(recipe: Recipe, folder: Path | str, **given: Unpack[Given]) -> Path:
    """Write report.html from what the run folder holds; a partial run gives a partial report."""
    with opened(recipe, folder, **given) as experiment:
        return write_page(experiment)


def finished_arms(experiment: Experiment, arms: Arms | None = None) -> list[Arm]:
    """Arms of a finished run with their lengths: those named, or all default arms and the user's own that the run was
    last given.
    """
    recipe = experiment.recipe
    if arms is not None:
        found = {arm.name: arm for arm in chosen_arms(recipe, arms)}
    else:
        found = {arm.name: arm for arm in default_arms(recipe)}
        with suppress(CheckpointError, ConfigError):
            stored = [item for item in stored_run(experiment.run.folder, given=True)[1] or () if isinstance(item, dict)]
            found |= {arm.name: arm for arm in (chosen_arms(recipe, stored) if stored else ())}
    return at_equal_time(experiment, with_updates(experiment, list(found.values()), keep=False), measure=False)


def write_page(experiment: Experiment, inspected: Inspection | None = None) -> Path:
    """Write report.html of an open run, whose virtual teacher may have been inspected already."""
    from gankd.report.gather import gather
    from gankd.report.page import write_report

    arms = finished_arms(experiment)
    path = experiment.run.folder / "report.html"
    found, choice = compare_pipelines(experiment, arms), chosen_by_validation(experiment, arms)
    write_report(gather(experiment, arms, found, choice, inspected), path)
    return path


def _result(experiment: Experiment, arms: Sequence[Arm], split: Literal["val", "test"]) -> RunResult:
    folder, found = experiment.run.folder, compare_pipelines(experiment, arms, split)
    if not found.arms:
        raise ConfigError(f"no finished student in {folder}; run: gankd student {folder}")
    chosen = chosen_by_validation(experiment, arms)
    return RunResult(experiment.recipe.name, found, chosen, trained=Trained(experiment, arms))
