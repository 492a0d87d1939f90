"""The `gankd` command. Nothing heavy is imported until a command needs it, so that help is instant."""

import argparse
import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gankd.config import suggest
from gankd.errors import ConfigError, GankdError, RunError
from gankd.version import __version__

if TYPE_CHECKING:
    from gankd.commands.stages import RunResult
    from gankd.console import Console
    from gankd.recipes.config import Recipe

EXAMPLES = """examples:
  gankd run digits                                   classes, on embedded data
  gankd run rotated-digits --set gan.steps=4000      regression, with a setting changed
  gankd run folder --data photos --size 32           your own images
  gankd sample runs/digits --labels 3,5,8 --count 8  images from the trained generator
  gankd vkd student digits                           from a generator of the teacher's outputs
  gankd plan turntable                               what would run, how long, how much disk
  gankd student digits --loss "KD(T=4) + 0.8*CRD"    distil by other losses; gankd list losses
  gankd inspect resnet20 my_nets:Tiny --classes 10   which layers meet, which losses fit
"""


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as every other error: one line, exit code 2, a suggestion where there is one."""

    def __init__(self, **options: Any) -> None:
        # Abbreviations would read --seed, a word people try, as --seeds.
        super().__init__(allow_abbrev=False, **options)
        self._negative_number_matcher = re.compile(r"-[.\d]")  # so that -30,0,30 is a value and no option

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Raise ConfigError for arguments that this command does not take."""
        first, options = unknown[0].partition("=")[0], self._option_string_actions
        if not first.startswith("-"):
            self.error(f"unexpected {first!r} (settings are given as --set NAME=VALUE)")
        if first in options:
            self.error(f"write {first} after the command: {self.prog} ... {first}")
        self.error(f"{self.prog} has no option {first}; {suggest(first, options)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what = "/".join(action.option_strings) or "command"
            self.error(f"no {what} {value!r}; {suggest(str(value), action.choices)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exit code 0 done, 2 an error of the user's to fix, 130 interrupted."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    args = argparse.Namespace()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _, unknown = parser().parse_known_args(words, args)
        if args.command is None:
            raise ConfigError("no command; try: gankd run digits (all commands: gankd --help)")
        if unknown:
            args.parser.refuse(unknown)
        args.handler(args)
        sys.stdout.flush()
    except GankdError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C is one too many
        _say(f"interrupted; go on with: {_again(args, words)}")
        # Threads of torch and of the worker pool must not hold the exit up.
        os._exit(130)
    except BrokenPipeError:
        os._exit(141)
    except OSError as error:
        if error.strerror is None:
            raise
        where = f"cannot use {error.filename}" if error.filename else "cannot read or write"
        remedy = "check path, permissions and free space, or choose another --out"
        _fail(f"{where}: {error.strerror}; {remedy}; then: {_again(args, words)}")
    except (MemoryError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        if not isinstance(error, MemoryError) and not re.search("out of memory|allocate memory", reason):
            raise
        _fail(f"out of memory ({reason[:200]}); choose a smaller width, batch_size, data.size or fewer --workers")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _again(args: argparse.Namespace, words: Sequence[str]) -> str:
    """The command that goes on with the work of this one."""
    folder = getattr(args, "folder", None)
    if folder is not None and args.command in ("run", "resume") and (folder / "run.json").is_file():
        words = ["resume", str(folder)]
    return shlex.join(["gankd", *words])


def _say(message: str) -> None:
    """A last line on standard error, on a line of its own."""
    from gankd.console import Console

    Console.end_line()
    print(f"gankd: {' '.join(message.splitlines())}", file=sys.stderr, flush=True)


def _fail(message: str) -> NoReturn:
    _say(message)
    sys.exit(2)


def _print(text: Any) -> None:
    """The result, on standard output."""
    from gankd.console import Console

    Console.end_line()
    print(text, flush=True)


def _print_json(**facts: Any) -> None:
    print(json.dumps({"event": "result", **facts}), flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = Parser(
        prog="gankd",
        description="Distil a big vision model into a small one through what a conditional generator makes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"gankd {__version__}")
    commands = root.add_subparsers(metavar="COMMAND", dest="command")

    def command(name: str, handler: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(handler=handler, parser=sub)
        return sub

    stages = {
        "teach": "train the teacher",
        "gan": "train the conditional generator",
        "ratio": "estimate the density ratio of real to generated images",
        "synth": "generate, score and select the synthetic set",
    }
    run = command("run", _run, "the whole method: every stage, all controls, report.html")
    _target(run)
    _students(run)
    for name, text in stages.items():
        sub = command(name, _stage(name), text + " (and what it needs, if missing)")
        _target(sub)
        if name == "teach":
            sub.add_argument("--virtual", action="store_true", help="and beside it a virtual teacher")
    student = command("student", _student, "train students (and what they need, if missing)")
    _target(student)
    _students(student)
    score = command("eval", _eval, "table of the finished students")
    _folder(score)
    score.add_argument("--split", choices=["val", "test"], default="test", help="default: test")
    _folder(command("report", _report, "write report.html from what a run folder holds"))
    plan = command("plan", _plan, "which stages are reused, which will run, estimated time and disk")
    _target(plan)
    _students(plan)
    resume = command("resume", _resume, "go on with an interrupted run, with the settings it was started with")
    _folder(resume)
    _workers(resume)

    sample = command("sample", _sample, "images from a trained generator's checkpoint, for given labels")
    sample.add_argument("source", type=Path, help="run folder, recipe, or generator.safetensors")
    sample.add_argument("--labels", required=True, help="0,1,2 or cat,dog for classes; 10,20.5 or 0:90:10 for values")
    sample.add_argument("--count", type=int, default=8, help="images per label (default 8)")
    sample.add_argument("--out", type=Path, default=Path("samples.png"), help="a .png grid, or a folder of images")
    sample.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    _output(sample)

    listing = command("list", _list, "losses, their inputs, sources that they read behind @, models or recipes")
    listing.add_argument("what", choices=["losses", "inputs", "sources", "models", "recipes"])
    _output(listing)
    look = command("inspect", _inspect, "which layers of two networks meet, which adapters and losses fit them")
    look.add_argument("teacher", metavar="TEACHER", help="zoo name or module:name")
    look.add_argument("student", metavar="STUDENT", help="zoo name or module:name")
    look.add_argument("--size", type=int, default=32, help="side of the images in pixels (default 32)")
    look.add_argument("--channels", type=int, default=3, help="of the images (default 3)")
    look.add_argument("--classes", type=int, help="number of classes; without it the label is a number")
    look.add_argument("--loss", action="append", default=[], metavar="LOSS", help="also try this one; repeat for more")
    look.add_argument("--teacher-taps", help="comma-separated dotted paths; default: found")
    look.add_argument("--student-taps", help="comma-separated dotted paths; default: found")
    _output(look)
    against = command("compare", _compare, "several losses on one or more recipes, alone and with cGAN-KD; a table")
    against.add_argument("recipes", metavar="RECIPE", nargs="+", help="recipes; finished stages are reused")
    against.add_argument("--loss", action="append", metavar="LOSS", help="repeat for more; default: all that fit")
    against.add_argument("--out", type=Path, default=Path("runs/compare"), help="default runs/compare")
    against.add_argument("--page", type=Path, help="Markdown file for the table, with a .json beside it")
    against.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="for all recipes")
    against.add_argument("--seeds", type=int, default=3, help="students per cell (default 3)")
    _workers(against)
    _output(against)

    virtual = command("vkd", _vkd_help, "a virtual teacher: a small generator of a teacher's softened outputs")
    actions = virtual.add_subparsers(metavar="ACTION", dest="action")

    def action(name: str, handler: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
        sub.set_defaults(handler=handler, parser=sub)
        _target(sub)
        return sub

    train = action("train", _vkd_train, "train the teacher and, beside it, its generator of softened outputs")
    train.add_argument("--preset", choices=["robust", "faithful"], default="robust", help="faithful: adversary alone")
    action("inspect", _vkd_inspect, "how well its draws match the teacher: distances with floors, warnings by name")
    taught = action("student", _vkd_student, "students from it, beside labels alone and the table of class means")
    taught.add_argument(
        "--loss", help='for example "KD(T=4)@virtual + 0.8*CRD"; default: the virtual teacher alone; gankd list sources'
    )
    taught.add_argument("--from", dest="source", type=Path, metavar="FILE", help="a virtual.safetensors from elsewhere")
    own = action("self", _vkd_self, "students that learn from a generator of their own outputs, without a teacher")
    peers = action("peers", _vkd_peers, "students that teach one another through such generators")
    peers.add_argument("--networks", help="comma-separated: the others, in this process; default: one more student")
    peers.add_argument("--exchange", type=Path, metavar="FOLDER", help="shared with peers in other processes")
    peers.add_argument("--name", help="of this peer in the shared folder")
    text = "the ablations: every source tuned, trained and compared, about 150 + 23 students a seed; a page"
    table = action("table", _vkd_table, text)
    table.add_argument("--page", type=Path, help="Markdown file, with a .json beside it; other recipes on it stay")
    for sub in (taught, own, peers, table):
        sub.add_argument("--seeds", type=int, help="students per row")
        _workers(sub)

    demo = command("demo", _demo, "a class recipe and a regression recipe, 3 seeds each, one page")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"))
    evidence = command("evidence", _evidence, "the same with more seeds; writes docs/evidence.md and .json")
    evidence.add_argument("--out", type=Path, default=Path("runs/evidence"))
    evidence.add_argument("--docs", type=Path, default=Path("docs"))
    for sub in (demo, evidence):
        _output(sub)
        sub.add_argument("--seeds", type=int, help="students per arm")
        _workers(sub)
    return root


def _target(sub: argparse.ArgumentParser) -> None:
    what = "recipe (digits, rotated-digits, turntable, folder, npz ...) or run folder"
    sub.add_argument("target", metavar="RECIPE", help=what)
    sub.add_argument("--out", type=Path, help="run folder (default runs/RECIPE)")
    sub.add_argument("--data", help="your own images: a folder (recipe folder) or an .npz file (recipe npz)")
    sub.add_argument("--size", type=int, help="side in pixels to which images are brought")
    sub.add_argument("--task", choices=["auto", "classification", "regression"], help="of your own images")
    sub.add_argument("--channels", choices=["auto", "grey", "rgb"], help="of your own images")
    sub.add_argument("--config", type=Path, help="TOML file of settings")
    sub.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="for example gan.steps=4000")
    _output(sub)


def _folder(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("target", metavar="FOLDER", help="run folder, or the recipe whose folder is runs/RECIPE")
    _output(sub)


def _output(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--quiet", action="store_true", help="print only the result")
    sub.add_argument("--json", action="store_true", help="print JSON lines, for scripts")


def _students(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--seeds", type=int, help="students per arm")
    sub.add_argument("--arms", help="comma-separated; default: all")
    sub.add_argument("--loss", help='what students learn from the teacher, as in "KD(T=4) + 0.8*CRD"; see gankd list')
    _workers(sub)


def _workers(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--workers", type=int, help="students trained side by side (default: one per core)")


# --- commands -----------------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> None:
    from gankd.commands.stages import run

    recipe, folder, console = _prepare(args)
    start = time.monotonic()
    result = run(recipe, folder, arms=_arms(args), workers=_worker_count(args), console=console)
    _print_result(args, result, time.monotonic() - start)


def _resume(args: argparse.Namespace) -> None:
    from gankd.commands.stages import find_run, resume

    args.folder = find_run(args.target)
    start = time.monotonic()
    result = resume(args.folder, workers=_worker_count(args), console=_console(args))
    _print_result(args, result, time.monotonic() - start)


def _stage(name: str) -> Callable[[argparse.Namespace], None]:
    def handler(args: argparse.Namespace) -> None:
        from gankd.commands import stages

        recipe, folder, console = _prepare(args)
        if getattr(args, "virtual", False):
            from gankd.commands import vkd

            made = vkd.train(recipe, folder, console=console)
        facts = getattr(stages, name)(recipe, folder, console=console)
        if getattr(args, "virtual", False):
            facts["virtual"] = made["file"]
        if args.json:
            _print_json(stage=name, **facts)
        else:
            _print(f"{name}: " + "  ".join(f"{key} {_show(value)}" for key, value in facts.items()))

    return handler


def _student(args: argparse.Namespace) -> None:
    from gankd.commands.stages import student

    recipe, folder, console = _prepare(args)
    table = student(recipe, folder, arms=_arms(args), workers=_worker_count(args), console=console)
    _print_result(args, table, None)


def _eval(args: argparse.Namespace) -> None:
    from gankd.commands.stages import evaluate, find_run, stored_run

    folder = find_run(args.target)
    _print_result(args, evaluate(stored_run(folder)[0], folder, split=args.split), None)


def _report(args: argparse.Namespace) -> None:
    from gankd.commands.stages import find_run, report, stored_run

    folder = find_run(args.target)
    path = report(stored_run(folder)[0], folder)
    _print_json(report=str(path)) if args.json else _print(path)


def _plan(args: argparse.Namespace) -> None:
    from gankd.commands.plan import plan, plan_table

    recipe, folder, _ = _prepare(args)
    rows = plan(recipe, folder, arms=_arms(args), workers=_worker_count(args))
    _print_json(stages=[vars(row) for row in rows]) if args.json else _print(plan_table(rows, folder))


def _sample(args: argparse.Namespace) -> None:
    from gankd.commands.sample import sample

    written = sample(args.source, args.labels, count=args.count, out=args.out, seed=args.seed)
    _print_json(written=str(written)) if args.json else _print(written)


def _list(args: argparse.Namespace) -> None:
    from gankd.commands.listing import list_table, listing

    rows = listing(args.what)
    _print_json(**{args.what: rows}) if args.json else _print(list_table(rows, args.what))


def _inspect(args: argparse.Namespace) -> None:
    from gankd.commands.inspect import inspect_networks

    found = inspect_networks(
        args.teacher,
        args.student,
        size=args.size,
        channels=args.channels,
        classes=args.classes,
        teacher_taps=_split(args.teacher_taps),
        student_taps=_split(args.student_taps),
        losses=args.loss,
    )
    _print_json(**found.to_dict()) if args.json else _print(found.text)


def _compare(args: argparse.Namespace) -> None:
    from gankd.commands.compare import compare_losses

    page = compare_losses(
        args.recipes,
        args.out,
        losses=args.loss,
        changes=args.set,
        seeds=args.seeds,
        workers=_worker_count(args),
        console=_console(args),
    )
    written = page.write(args.page) if args.page is not None else None
    _print_json(rows=page.rows, page=written and str(written)) if args.json else _print(page.text)


def _vkd_help(args: argparse.Namespace) -> None:
    raise ConfigError("no action; choose train, inspect, student, self, peers or table; see gankd vkd --help")


def _vkd_train(args: argparse.Namespace) -> None:
    from gankd.commands import vkd
    from gankd.virtual.gan import faithful

    recipe, folder, console = _prepare(args)
    if args.preset == "faithful":
        recipe = replace(recipe, virtual=faithful(recipe.virtual))
    facts = vkd.train(recipe, folder, console=console)
    if args.json:
        _print_json(**facts)
    else:
        _print("virtual teacher: " + "  ".join(f"{key} {_show(value)}" for key, value in facts.items()))


def _vkd_inspect(args: argparse.Namespace) -> None:
    from gankd.commands import vkd

    recipe, folder, console = _prepare(args)
    _print_found(args, vkd.inspect(recipe, folder, console=console))


def _vkd_student(args: argparse.Namespace) -> None:
    from gankd.commands import vkd

    loss, args.loss = args.loss, None  # it is a row of the table, not a setting of the run
    recipe, folder, console = _prepare(args)
    workers = _worker_count(args)
    found = vkd.student(recipe, folder, loss=loss, source=args.source, workers=workers, console=console)
    _print_found(args, found)


def _vkd_self(args: argparse.Namespace) -> None:
    from gankd.commands import vkd

    recipe, folder, console = _prepare(args)
    _print_found(args, vkd.self(recipe, folder, workers=_worker_count(args), console=console))


def _vkd_peers(args: argparse.Namespace) -> None:
    from gankd.commands import vkd

    recipe, folder, console = _prepare(args)
    found = vkd.peers(
        recipe,
        folder,
        networks=_split(args.networks),
        exchange=args.exchange,
        name=args.name,
        workers=_worker_count(args),
        console=console,
    )
    _print_found(args, found)


def _vkd_table(args: argparse.Namespace) -> None:
    from gankd.commands.vkd_table import vkd_table

    recipe, folder, console = _prepare(args)
    found = vkd_table(recipe, folder, page=args.page, workers=_worker_count(args), console=console)
    _print_found(args, found)


def _print_found(args: argparse.Namespace, found: Any) -> None:
    _print_json(**found.to_dict()) if args.json else _print(found.text)


def _demo(args: argparse.Namespace) -> None:
    from gankd.commands.showcase import demo

    start = time.monotonic()
    results, page = demo(args.out, seeds=args.seeds, workers=_worker_count(args), console=_console(args))
    _print_runs(args, results, page, time.monotonic() - start)


def _evidence(args: argparse.Namespace) -> None:
    from gankd.commands.showcase import evidence

    start = time.monotonic()
    results, page = evidence(args.out, args.docs, seeds=args.seeds, workers=_worker_count(args), console=_console(args))
    _print_runs(args, results, page, time.monotonic() - start)


# --- from arguments to settings -----------------------------------------------------------------------------


def _console(args: argparse.Namespace) -> "Console":
    from gankd.console import Console

    return Console("json" if args.json else "quiet" if args.quiet else "auto")


def _arms(args: argparse.Namespace) -> list[str] | None:
    return [name.strip() for name in args.arms.split(",")] if args.arms else None


def _split(names: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",")) if names else ()


def _worker_count(args: argparse.Namespace) -> int:
    if args.workers is not None and args.workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {args.workers}")
    return int(args.workers or _cores())


def _cores() -> int:
    """Cores that this process may use; not every system can tell them from all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare(args: argparse.Namespace) -> tuple["Recipe", Path, "Console"]:
    """The recipe with all changes applied, and the run folder."""
    from gankd.commands.stages import find_recipe
    from gankd.config import override, override_from_file

    recipe, folder = find_recipe(args.target, args.out)
    if args.config is not None:
        recipe = override_from_file(recipe, args.config)
    changes = {name: getattr(args, name) for name in ("size", "task", "channels") if getattr(args, name) is not None}
    if args.data is not None:
        changes["root"] = os.path.abspath(args.data)  # `resume` may be called in another folder
    recipe = replace(recipe, data=replace(recipe.data, **changes))
    if getattr(args, "seeds", None) is not None:
        recipe = replace(recipe, seeds=args.seeds)
    recipe = override(recipe, args.set)
    if getattr(args, "loss", None) is not None:
        recipe = replace(recipe, student=replace(recipe.student, loss=args.loss))
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file, expected a run folder; choose another --out")
    args.folder = folder
    return recipe, folder, _console(args)


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_result(args: argparse.Namespace, result: "RunResult", seconds: float | None) -> None:
    from gankd.console import duration

    if args.json:
        _print_json(**result.to_dict())
        return
    lines = [result.table]
    if result.headline:
        lines += ["", result.headline]
    if result.report is not None:
        lines += ["", f"report: {result.report}"]
    if seconds is not None:
        lines.append(f"time:   {duration(seconds)}")
    _print("\n".join(lines))


def _print_runs(args: argparse.Namespace, results: "Sequence[RunResult]", page: Path, seconds: float) -> None:
    from gankd.console import duration

    if args.json:
        _print_json(runs=[result.to_dict() for result in results], report=str(page))
        return
    for result in results:
        _print(f"\n{result.recipe}\n{result.table}\n\n{result.headline}")
    _print(f"\nreport: {page}\ntime:   {duration(seconds)}")


if __name__ == "__main__":
    main()
