"""A command is declared by its name, its help, its options and the function that it calls.

An option reaches the function by name: `--pairs` becomes the keyword argument `pairs`. An option that is not given is
left out of the call, so its default value is written only once, in the function. To add an option, add it to the
command's declaration; `tests/test_cli.py` checks that the function takes it.
"""

import argparse
import inspect
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from gankd.cli.together import run_together
from gankd.errors import ConfigError, ModelError
from gankd.stops import Stopped
from gankd.text import Form, speed_of

if TYPE_CHECKING:
    from gankd.recipes.workers import Workers


class Result(Protocol):
    """Result of a command, as it is printed."""

    @property
    def text(self) -> str:
        """Text for a terminal."""

    @property
    def exit_code(self) -> int:
        """Exit code of the process; 0 for a result without it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for scripts, with --json."""


class Tabulated(Protocol):
    """Result of a command that has `--table`."""

    def table_as(self, form: Form) -> str:
        """The one table of the result, in this form."""


@dataclass(frozen=True)
class Shown:
    """A result made of text and facts."""

    text: str
    facts: dict[str, Any]
    exit_code: int = 0
    tabulated: Tabulated | None = None

    def table_as(self, form: Form) -> str:
        """The table of what is shown."""
        assert self.tabulated is not None
        return self.tabulated.table_as(form)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return self.facts


View = Callable[[Any, float], Result]
"""Turns the value that the function returned, and the seconds that it took, into a result."""


def as_it_is(value: Any, seconds: float) -> Any:
    """The view of a value that is a `Result` already."""
    return value


class Option:
    """One argument of a command: flags, or the name of a positional argument, and keywords of argparse."""

    def __init__(self, *flags: str, **settings: Any) -> None:
        self.flags, self.settings = flags, settings

    @property
    def name(self) -> str:
        """Keyword argument that the function gets."""
        return str(self.settings.get("dest") or self.flags[0].lstrip("-").replace("-", "_"))


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of the command line."""

    name: str
    """One word, or two for an action of a group, as in `vkd train`."""
    help: str
    calls: str
    """module:function, imported when the command runs."""
    options: tuple[Option, ...] = ()
    opens: Literal["recipe", "run", ""] = ""
    """Kind of its first argument: a recipe (or run folder) to train, or the folder of a run. The function then gets the
    settings as `recipe` and the folder as `folder`."""
    view: View = as_it_is

    @property
    def function(self) -> Callable[..., Any]:
        """The function that it calls."""
        module, _, name = self.calls.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function


OUTPUT = (
    Option("--quiet", action="store_true", help="print only the result"),
    Option("--json", action="store_true", help="print JSON lines, for scripts"),
)
"""Options that every command has."""

TABLE = Option("--table", choices=["csv", "latex", "markdown"], help="print only the table, in this form")

TRACK = Option(
    "--track",
    choices=["tensorboard", "wandb", "mlflow"],
    help="also show the numbers of the training there, as they come",
)

THREADS = Option("--threads", type=int, help="threads that compute (default: as many as there are free cores)")

ENGINES = (
    Option("--on", metavar="ENGINE", help="who trains students: ray, ray://HOST:PORT, slurm (docs/many_machines.md)"),
    Option("--store", metavar="FOLDER", help="where --on keeps stages, as s3://bucket/x (default: the run folder)"),
)
"""Options of a command whose students other machines can train."""

PROCESSES = Option(
    "--processes", type=int, help="processes that share every batch, one per GPU or core (see docs/many_machines.md)"
)


def call(command: Command, args: argparse.Namespace, words: Sequence[str]) -> None:
    """Run a command with parsed arguments, the `words` of the command line, and print its result.

    Raises:
        GankdError: the command refuses its arguments, or fails.
        SystemExit: the result has an exit code other than 0.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":  # as torchrun sets it
        if getattr(args, "processes", 1) == 1:
            _call(command, args)
        else:
            run_together(args.processes, words)
        return
    if PROCESSES not in command.options:
        started = f"WORLD_SIZE={os.environ['WORLD_SIZE']}"
        raise ConfigError(f"gankd {command.name} does not run as several processes ({started}); start it once")
    from gankd.processes import joined, leads

    with joined():
        _call(command, args, leads=leads())


def _call(command: Command, args: argparse.Namespace, leads: bool = True) -> None:
    """Run a command in this process, which prints progress and result if it leads."""
    from gankd.cli import recipe

    function = command.function
    takes = inspect.signature(function).parameters
    values = {option.name: getattr(args, option.name) for option in command.options if hasattr(args, option.name)}
    values.pop(PROCESSES.name, None)
    form = values.pop(TABLE.name, None) if TABLE in command.options else None
    tracker = values.pop(TRACK.name, None) if TRACK in command.options else None
    if THREADS in command.options:
        _choose_threads(values.pop(THREADS.name, None))
    if "workers" in takes:
        given = {name: values.pop(name) for name in ("workers", "on", "store") if name in values}
        if "on" in takes and speed_of(given.get("on", "")) is not None:
            values["on"] = given.pop("on")
        values["workers"] = _workers(**given)
    if command.opens == "recipe":
        changes = {name: values.pop(name) for name in recipe.NAMES if name in values and name not in takes}
        values["recipe"], values["folder"] = recipe.prepared(**changes)
    elif command.opens == "run":
        device = values.pop("device", None) if "device" not in takes else None
        stored, values["folder"] = recipe.stored(values.pop("target"), trust=values.pop("trust", False), device=device)
        values |= {"recipe": stored} if "recipe" in takes else {}
    args.folder = values.get("folder")
    as_json = hasattr(args, "json")
    if form and as_json:
        raise ConfigError("--table and --json both say how the result is printed; give one of them")
    if "console" in takes:
        from gankd.console import Console

        quiet = hasattr(args, "quiet") or not leads
        values["console"] = Console("json" if as_json and leads else "quiet" if quiet else "auto")
    start = time.monotonic()
    try:
        with _tracked(tracker if leads else None, args.folder):
            found = function(**values)
    except Stopped:
        raise
    except (SystemExit, GeneratorExit, KeyboardInterrupt) as end:  # a user's network may raise anything
        place = traceback.extract_tb(end.__traceback__)[-1]
        reason = f"raises {type(end).__name__} {end}".rstrip()
        raise ModelError(f"{Path(place.filename).name}, line {place.lineno}, {reason}, which would end gankd") from end
    result = command.view(found, time.monotonic() - start)
    if leads:
        text = cast(Tabulated, result).table_as(form) if form else result.text
        _print(json.dumps({"event": "result", **result.to_dict()}) if as_json else text)
    if getattr(result, "exit_code", 0):
        sys.exit(result.exit_code)


def _tracked(tracker: Any, folder: Path | None) -> AbstractContextManager[None]:
    """Block whose numbers go to a tracker, if one is asked for."""
    if tracker is None or folder is None:
        return nullcontext()
    from gankd.trackers import tracked

    return tracked(tracker, folder)


def _workers(workers: int | None = None, on: str | None = None, store: str | None = None) -> "int | Workers":
    """Workers that train students: processes here, one per core if nothing is said, or those of a cluster."""
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {workers}")
    if on is None:
        from gankd.threads import cores

        if store is not None:
            raise ConfigError("--store is where other machines find finished stages; add --on ray or --on slurm")
        return workers or cores()
    from gankd.recipes.clusters import connected

    return connected(on, workers, store)


def _print(text: str) -> None:
    """Print the result on standard output."""
    from gankd.console import Console

    Console.end_line()
    print(text, flush=True)


def _choose_threads(count: int | None) -> None:
    """Compute with this number of threads, or with as many as there are free cores."""
    from gankd.threads import choose, fix

    if count is None:
        choose()
    elif count >= 1:
        fix(count)
    else:
        raise ConfigError(f"--threads must be at least 1, got {count}")
