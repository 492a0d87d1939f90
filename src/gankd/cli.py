"""The `gankd` command. Nothing heavy is imported until a command needs it, so that help is instant."""

import argparse
import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gankd.errors import ConfigError, GankdError, RunError
from gankd.version import __version__

if TYPE_CHECKING:
    from gankd.console import Console
    from gankd.recipes.config import Recipe

EXAMPLES = """examples:
  gankd run digits                                   classes, on embedded data
  gankd run rotated-digits --set gan.steps=4000      regression, with a setting changed
  gankd run folder --data photos --size 32           your own images
  gankd sample runs/digits --labels 3,5,8 --count 8  images from the trained generator
  gankd plan turntable                               what would run, how long, how much disk
"""


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as every other error: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exit code 0 done, 2 an error of the user's to fix, 130 interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    folder: list[Path] = []
    try:
        args = parser().parse_args(arguments)
        args.folder = folder
        args.handler(args)
    except GankdError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        hint = f"; go on with: gankd resume {folder[0]}" if folder else ""
        print(f"\ngankd: interrupted{hint}", file=sys.stderr, flush=True)
        # Threads of torch and of the worker pool must not hold the exit up.
        os._exit(130)
    except BrokenPipeError:
        os._exit(141)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            where = f" {error.filename}" if error.filename else ""
            again = f"; then: gankd resume {folder[0]}" if folder else ""
            _fail(f"cannot write{where}: {error.strerror}; free space or choose another --out{again}")
        raise


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _fail(message: str) -> NoReturn:
    print(f"gankd: {' '.join(message.splitlines())}", file=sys.stderr, flush=True)
    sys.exit(2)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = Parser(
        prog="gankd",
        description="Distil a big vision model into a small one through what a conditional generator makes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"gankd {__version__}")
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, handler: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(handler=handler)
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
        _target(command(name, _stage(name), text + " (and what it needs, if missing)"))
    student = command("student", _student, "train students (and what they need, if missing)")
    _target(student)
    _students(student)
    score = command("eval", _eval, "table of the finished students")
    _target(score)
    score.add_argument("--split", choices=["val", "test"], default="test", help="default: test")
    report = command("report", _report, "write report.html from what a run folder holds")
    _target(report)
    plan = command("plan", _plan, "which stages are reused, which will run, estimated time and disk")
    _target(plan)
    _students(plan)
    resume = command("resume", _run, "go on with an interrupted run")
    _target(resume, recipes=False)
    _students(resume)

    sample = command("sample", _sample, "images from a trained generator's checkpoint, for given labels")
    sample.add_argument("source", type=Path, help="run folder, gan stage folder, or generator.safetensors")
    sample.add_argument("--labels", required=True, help="0,1,2 or cat,dog for classes; 10,20.5 or 0:90:10 for values")
    sample.add_argument("--count", type=int, default=8, help="images per label (default 8)")
    sample.add_argument("--out", type=Path, default=Path("samples.png"), help="a .png grid, or a folder of images")
    sample.add_argument("--seed", type=int, default=0)

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


def _target(sub: argparse.ArgumentParser, *, recipes: bool = True) -> None:
    what = "recipe (digits, rotated-digits, turntable, folder) or run folder" if recipes else "run folder"
    sub.add_argument("target", help=what)
    if recipes:
        sub.add_argument("--out", type=Path, help="run folder (default runs/RECIPE)")
        sub.add_argument("--data", help="folder of your own images, for the recipe folder")
        sub.add_argument("--size", type=int, help="side in pixels to which images are brought")
        sub.add_argument("--task", choices=["auto", "classification", "regression"], help="of your own images")
        sub.add_argument("--channels", choices=["auto", "grey", "rgb"], help="of your own images")
    sub.add_argument("--config", type=Path, help="TOML file of settings")
    sub.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="for example gan.steps=4000")
    _output(sub)


def _output(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--quiet", action="store_true", help="print only the result")
    sub.add_argument("--json", action="store_true", help="print JSON lines, for scripts")


def _students(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--seeds", type=int, help="students per arm")
    sub.add_argument("--arms", help="comma-separated; default: all")
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


def _stage(name: str) -> Callable[[argparse.Namespace], None]:
    def handler(args: argparse.Namespace) -> None:
        from gankd.commands import stages as api

        recipe, folder, console = _prepare(args)
        facts = getattr(api, name)(recipe, folder, console=console)
        if args.json:
            print(json.dumps(facts))
        else:
            text = "  ".join(f"{key} {_show(value)}" for key, value in facts.items())
            print(f"{name}: {text}")

    return handler


def _student(args: argparse.Namespace) -> None:
    from gankd.commands.stages import student

    recipe, folder, console = _prepare(args)
    table = student(recipe, folder, arms=_arms(args), workers=_worker_count(args), console=console)
    _print_result(args, table, None)


def _eval(args: argparse.Namespace) -> None:
    from gankd.commands.stages import evaluate

    recipe, folder, _ = _prepare(args)
    _print_result(args, evaluate(recipe, folder, split=args.split), None)


def _report(args: argparse.Namespace) -> None:
    from gankd.commands.stages import report

    recipe, folder, _ = _prepare(args)
    path = report(recipe, folder)
    print(json.dumps({"report": str(path)}) if args.json else path)


def _plan(args: argparse.Namespace) -> None:
    from gankd.commands.plan import plan, plan_table

    recipe, folder, _ = _prepare(args)
    rows = plan(recipe, folder, arms=_arms(args), workers=_worker_count(args))
    print(json.dumps([vars(row) for row in rows]) if args.json else plan_table(rows, folder))


def _sample(args: argparse.Namespace) -> None:
    from gankd.commands.sample import sample

    written = sample(args.source, args.labels, count=args.count, out=args.out, seed=args.seed)
    print(written)


def _demo(args: argparse.Namespace) -> None:
    from gankd.commands.showcase import demo

    args.folder.append(args.out)
    demo(args.out, seeds=args.seeds, workers=_worker_count(args), console=_console(args), as_json=args.json)


def _evidence(args: argparse.Namespace) -> None:
    from gankd.commands.showcase import evidence

    args.folder.append(args.out)
    evidence(args.out, args.docs, seeds=args.seeds, workers=_worker_count(args), console=_console(args))


# --- from arguments to settings -----------------------------------------------------------------------------


def _console(args: argparse.Namespace) -> "Console":
    from gankd.console import Console

    return Console("json" if args.json else "quiet" if args.quiet else "auto")


def _arms(args: argparse.Namespace) -> list[str] | None:
    return [name.strip() for name in args.arms.split(",")] if args.arms else None


def _worker_count(args: argparse.Namespace) -> int:
    if args.workers is not None and args.workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {args.workers}")
    return int(args.workers or len(os.sched_getaffinity(0)))


def _prepare(args: argparse.Namespace) -> tuple["Recipe", Path, "Console"]:
    """The recipe with all changes applied, and the run folder."""
    from gankd.commands.stages import find_recipe
    from gankd.config import override, override_from_file

    recipe, folder = find_recipe(args.target, getattr(args, "out", None))
    if args.config is not None:
        recipe = override_from_file(recipe, args.config)
    changes: dict[str, Any] = {
        "data.root": getattr(args, "data", None),
        "data.size": getattr(args, "size", None),
        "data.task": getattr(args, "task", None),
        "data.channels": getattr(args, "channels", None),
        "seeds": getattr(args, "seeds", None),
    }
    given = [f"{name}={json.dumps(value)}" for name, value in changes.items() if value is not None]
    recipe = override(recipe, [*given, *args.set])
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file, expected a run folder; choose another --out")
    args.folder.append(folder)
    return recipe, folder, _console(args)


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_result(args: argparse.Namespace, result: Any, seconds: float | None) -> None:
    from gankd.console import duration

    if args.json:
        print(json.dumps({"event": "result", **result.to_dict()}))
        return
    print(result.table)
    if result.headline:
        print(f"\n{result.headline}")
    if result.report is not None:
        print(f"\nreport: {result.report}")
    if seconds is not None:
        print(f"time:   {duration(seconds)}")


if __name__ == "__main__":
    main()
