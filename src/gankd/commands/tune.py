"""`gankd tune`: settings of students are searched on validation images, as often for the control as for the method."""

import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from gankd.bench.compare import compare
from gankd.bench.space import Space, default_space, space_for, space_of, variant
from gankd.bench.stats import mean_stderr
from gankd.commands.stages import Arms, started
from gankd.config import require, to_dict
from gankd.console import Console
from gankd.errors import ConfigError, RunError
from gankd.processes import count
from gankd.recipes.arms import Arm, arm_named, chosen_arms
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.config import Recipe
from gankd.recipes.experiment import Experiment
from gankd.recipes.workers import Workers, as_workers
from gankd.report.facts import TUNED, tuned
from gankd.runs import fingerprint
from gankd.seeds import derive_seed
from gankd.storage import atomic, write_hashed_json
from gankd.tasks import Task
from gankd.text import Table, fixed

TRIALS = 20
"""Settings that are tried for each arm where neither a time nor a number is given."""
ARMS = ("kd_matched", "adjusted_kd")
"""Arms that are tuned unless others are named: classic distillation, and the method with it."""
DATABASE = "tune.db"
"""SQLite file of a run folder with all trials, which Optuna reads."""
TOML = "tuned.toml"
"""File of a run folder with the arms at their best settings."""


@dataclass(frozen=True)
class Tuned:
    """The best settings that were found for one arm."""

    arm: Arm
    """The arm as it was."""
    tried: int
    """Settings that were tried, the recipe's own included."""
    failed: int
    """Settings among them whose training failed."""
    values: tuple[float, ...]
    """Mean of the task's metric on validation images, of each setting whose training ended; the recipe's own first."""
    settings: Mapping[str, str]
    """Settings of the best; none where the recipe's own are."""

    def best(self, task: Task) -> float:
        """Metric of the best settings."""
        return (max if task.higher_is_better else min)(self.values)


@dataclass(frozen=True)
class TuneResult:
    """Result of a search: for each arm how many settings were tried, and the best."""

    recipe: str
    arms: tuple[Tuned, ...]
    task: Task
    seeds: int
    seconds: float
    file: Path
    """Arms at their best settings, for `gankd run RUN --arms FILE`."""
    folder: Path = field(default=Path())

    @property
    def text(self) -> str:
        """A row per arm, its settings, and the command that measures them on test images."""
        task, places = self.task, 2 if self.task.metric_unit == "%" else 3
        unit = f"{task.metric} {task.metric_unit}".strip()
        head = ["arm", "tried", f"{unit}, recipe's settings", "best"]
        rows = [
            [each.arm.title, str(each.tried), fixed(each.values[0], places), fixed(each.best(task), places)]
            for each in self.arms
        ]
        caption = f"validation images, means over {self.seeds} seed{'s' * (self.seeds != 1)}"
        lines = [Table(head, rows, align="lrrr", caption=caption).plain(), ""]
        for each in self.arms:
            chosen = " ".join(f"{name}={value}" for name, value in each.settings.items())
            lines.append(f"{each.arm.title}: {chosen or 'the settings of the recipe'}")
            if each.failed:
                lines.append(f"  {each.failed} of {each.tried} settings failed in training")
        lines += [
            "",
            "the best of many is the luckiest on these images, too; on test images: "
            f"gankd run {self.folder} --arms {self.file}",
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "recipe": self.recipe,
            "metric": self.task.metric,
            "seeds": self.seeds,
            "arms": {
                each.arm.name: {
                    "title": each.arm.title,
                    "tried": each.tried,
                    "failed": each.failed,
                    "recipe": each.values[0],
                    "best": each.best(self.task),
                    "settings": dict(each.settings),
                }
                for each in self.arms
            },
            "file": str(self.file),
        }


def tune(
    recipe: Recipe,
    folder: Path | str,
    *,
    time: float | None = None,
    trials: int | None = None,
    vary: Sequence[str] = (),
    arms: Arms | None = None,
    workers: int | Workers = 1,
    console: Console | None = None,
) -> TuneResult:
    """Search settings of students and of the choice of their images, by validation images only, with Optuna.

    Every arm gets as many trials as the others, the recipe's own settings first. Teacher, generator and pool are made
    once. All trials are kept in the run folder, so that the same command continues a search; one that was interrupted
    is trained to its end.

    Args:
        recipe: settings; `seeds` is the number of students of each trial.
        folder: run folder.
        time: seconds, of everything; no trial begins that would not end in time.
        trials: settings to try for each arm, those of earlier calls included; default: 20 where no time is given.
        vary: settings and their values, as `student.lr=0.001..0.01` or `select.rho=0.7,0.9`; default: `default_space`.
        arms: ways to train students; default: classic distillation and cGAN-KD with it.
        workers: number of students trained side by side here, or workers on other machines.
        console: where progress is shown; default: nowhere.

    Raises:
        ConfigError: Optuna is not installed, or a setting cannot be varied. GankdError: with one line that says what to
            do.
    """
    optuna = _optuna()
    require(count() == 1, "tune is for one process, which hands out students; leave --processes and torchrun out")
    require(trials is None or trials >= 1, f"--trials must be at least 1, got {trials}")
    wanted = [arm_named(recipe, name) for name in ARMS] if arms is None else list(chosen_arms(recipe, arms))
    given = space_of(vary, recipe)
    with started(recipe, Path(folder), console, arms=wanted, by="tune") as experiment:
        space = given or default_space(experiment.recipe, experiment.splits.task)
        searches = [_Search.open(optuna, experiment, arm, space) for arm in wanted]
        most = trials if trials is not None or time is not None else TRIALS
        seconds = _try_all(experiment, searches, most, time, workers)
        found = tuple(search.result() for search in searches)
        file = experiment.run.folder / TOML
        _write_arms(file, found)
        result = TuneResult(
            recipe.name, found, experiment.splits.task, experiment.recipe.seeds, seconds, file, Path(folder)
        )
        write_hashed_json(experiment.run.folder / TUNED, result.to_dict())
    return result


def _optuna() -> Any:
    try:
        optuna = import_module("optuna")
    except ImportError as error:
        raise ConfigError(f"tune needs Optuna ({error}): pip install 'gankd[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _try_all(
    experiment: Experiment, searches: "Sequence[_Search]", most: int | None, limit: float | None, workers: int | Workers
) -> float:
    """Try settings, as many at a time as there are workers, until there are enough or the time is over; seconds."""
    start, longest = time.monotonic(), 0.0
    seeds = range(experiment.recipe.seeds)
    side_by_side = as_workers(workers).at_a_time(experiment.engine)
    each = max(1, -(-side_by_side // (len(searches) * len(seeds))))
    cgan_kd(experiment, [search.arm for search in searches])  # teacher, generator and pool
    while True:
        begun = time.monotonic()
        if limit is not None and begun - start + longest > limit and all(search.ended for search in searches):
            break
        asked = [
            trial
            for search in searches
            for trial in search.ask(each if most is None else min(each, most - search.ended))
        ]
        if not asked:
            break
        _train(experiment, asked, seeds, workers)
        longest = max(longest, time.monotonic() - begun)
    return time.monotonic() - start


def _train(experiment: Experiment, asked: "Sequence[_Trial]", seeds: Sequence[int], workers: int | Workers) -> None:
    """Train the students of several trials side by side; each trial is told as its last student ends."""
    waiting = {trial.arm.name: set(seeds) for trial in asked}
    errors: dict[str, Exception] = {}
    by_name = {trial.arm.name: trial for trial in asked}

    def settle(name: str) -> None:
        trial = by_name[name]
        if name in errors:
            trial.search.fail(trial, errors[name])
            return
        (result,) = compare(experiment, [trial.arm], seeds, "val").arms
        trial.search.tell(trial, mean_stderr(result.values)[0])

    def ended(cell: tuple[str, int], error: Exception | None) -> None:
        name, seed = cell
        waiting[name].discard(seed)
        if error is not None:
            errors[name] = error
        if not waiting[name]:
            settle(name)

    cgan_kd(experiment, [trial.arm for trial in asked], seeds, workers=workers, ended=ended)
    for name, left in waiting.items():
        if left:  # students that were finished before this call
            settle(name)


@dataclass
class _Trial:
    """Settings that are tried: a trial of Optuna and the arm that it stands for."""

    search: "_Search"
    trial: Any
    values: Mapping[str, str]
    arm: Arm


@dataclass
class _Search:
    """The search for one arm: a study of Optuna in the run folder."""

    optuna: Any
    study: Any
    experiment: Experiment
    arm: Arm
    space: Space

    @classmethod
    def open(cls, optuna: Any, experiment: Experiment, arm: Arm, space: Space) -> "_Search":
        """Begin a search, or continue the one with the same settings and images.

        Raises:
            RunError: its file cannot be used.
        """
        own = space_for(arm, space)
        require(bool(own), f"arm {arm.name} has none of the settings to vary: {', '.join(space)}")
        what = fingerprint(
            to_dict(arm.recipe(experiment.recipe)), to_dict(arm), {name: str(values) for name, values in own.items()}
        )
        path = experiment.run.folder / DATABASE
        try:
            study = optuna.create_study(
                storage=f"sqlite:///{path.resolve()}",
                study_name=f"{arm.name} {what} {experiment.data_fingerprint[:8]}",
                direction="maximize" if experiment.splits.task.higher_is_better else "minimize",
                load_if_exists=True,
            )
        except Exception as error:  # SQLAlchemy's own errors, many lines long
            raise RunError(
                f"{path} cannot be used ({str(error).splitlines()[0][:150]}); delete it to search anew"
            ) from None
        search = cls(optuna, study, experiment, arm, own)
        search._enqueue_first()
        return search

    def _enqueue_first(self) -> None:
        """Settings to try first: the recipe's own, and those of an earlier call that was interrupted."""
        state = self.optuna.trial.TrialState
        if not self.study.trials:
            self.study.enqueue_trial({}, user_attrs={"own": True})
        for trial in self.study.get_trials(states=(state.RUNNING,)):
            self.study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
            self.study.tell(trial.number, state=state.PRUNED)

    @property
    def ended(self) -> int:
        """Settings that were tried."""
        state = self.optuna.trial.TrialState
        return len(self.study.get_trials(deepcopy=False, states=(state.COMPLETE, state.FAIL)))

    def ask(self, number: int) -> list[_Trial]:
        """Settings to try next."""
        if number <= 0:
            return []
        seed = derive_seed(self.experiment.recipe.seed, "tune", self.arm.name, len(self.study.trials))
        with _quiet():  # new for each batch, so that a search that is continued goes as if it had not stopped
            self.study.sampler = self.optuna.samplers.TPESampler(seed=seed % 2**32, constant_liar=True)
        return [self._asked() for _ in range(number)]

    def _asked(self) -> _Trial:
        trial = self.study.ask()
        own = trial.user_attrs.get("own", False)
        values = {} if own else {name: each.suggested(trial, name) for name, each in self.space.items()}
        return _Trial(self, trial, values, variant(self.arm, f"{self.arm.name} #{trial.number}", values))

    def tell(self, trial: _Trial, value: float) -> None:
        """Keep a result."""
        trial.trial.set_user_attr("settings", dict(trial.values))
        self.study.tell(trial.trial, value)
        self._say(trial, f"{value:.4g} {self.experiment.splits.task.metric_unit}".strip())

    def fail(self, trial: _Trial, error: Exception) -> None:
        """Keep that a training failed; a value of NaN, say, tells the search to look elsewhere."""
        self.study.tell(trial.trial, state=self.optuna.trial.TrialState.FAIL)
        self._say(trial, f"failed: {error}")
        if trial.trial.user_attrs.get("own"):
            raise error  # the recipe's own settings: nothing would come of the others

    def _say(self, trial: _Trial, outcome: str) -> None:
        settings = " ".join(f"{name}={value}" for name, value in trial.values.items()) or "the settings of the recipe"
        self.experiment.say("tune", f"{self.arm.title} {self.ended}: {outcome}  {settings}")

    def result(self) -> Tuned:
        """The best settings so far."""
        state = self.optuna.trial.TrialState
        done = self.study.get_trials(states=(state.COMPLETE,))
        done.sort(key=lambda trial: not trial.user_attrs.get("own", False))
        sign = 1 if self.experiment.splits.task.higher_is_better else -1
        best = max(done, key=lambda trial: sign * trial.value)  # the first of equal ones: the recipe's own
        failed = len(self.study.get_trials(deepcopy=False, states=(state.FAIL,)))
        return Tuned(
            self.arm, self.ended, failed, tuple(trial.value for trial in done), best.user_attrs.get("settings", {})
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Block that hides Optuna's warnings of parts of it that may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _write_arms(path: Path, found: Sequence[Tuned]) -> None:
    """Write the arms at their best settings, each next to the arm as it was."""
    lines = ["# written by gankd tune; use: gankd run RUN --arms THIS_FILE", ""]
    for each in found:
        for arm in (each.arm, *([variant(each.arm, tuned(each.arm.title), each.settings)] if each.settings else [])):
            plain = {
                name: value for name, value in to_dict(arm).items() if value != Arm.__dataclass_fields__[name].default
            }
            lines += ["[[arm]]", *(f"{name} = {_toml(value)}" for name, value in plain.items()), ""]
    with atomic(path) as temporary:
        temporary.write_text("\n".join(lines))


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert isinstance(value, int | float)
    assert math.isfinite(value)
    return repr(value)
