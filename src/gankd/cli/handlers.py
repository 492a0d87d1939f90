"""What each command does: from arguments to a call of `gankd.commands`, and its result on standard output."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gankd.errors import ConfigError, RunError

if TYPE_CHECKING:
    from gankd.commands.stages import RunResult
    from gankd.console import Console
    from gankd.recipes.config import Recipe


def _print(text: Any) -> None:
    """The result, on standard output."""
    from gankd.console import Console

    Console.end_line()
    print(text, flush=True)


def _print_json(**facts: Any) -> None:
    print(json.dumps({"event": "result", **facts}), flush=True)


# --- commands -----------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> None:
    from gankd.commands.stages import run

    recipe, folder, console = _prepare(args)
    start = time.monotonic()
    result = run(recipe, folder, arms=_arms(args), workers=_worker_count(args), console=console)
    _print_result(args, result, time.monotonic() - start)


def resume(args: argparse.Namespace) -> None:
    from gankd.commands.stages import find_run, resume

    args.folder = find_run(args.target)
    start = time.monotonic()
    result = resume(args.folder, workers=_worker_count(args), console=_console(args))
    _print_result(args, result, time.monotonic() - start)


def stage(name: str) -> Callable[[argparse.Namespace], None]:
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


def student(args: argparse.Namespace) -> None:
    from gankd.commands.stages import student

    recipe, folder, console = _prepare(args)
    table = student(recipe, folder, arms=_arms(args), workers=_worker_count(args), console=console)
    _print_result(args, table, None)


def eval(args: argparse.Namespace) -> None:
    from gankd.commands.stages import evaluate, find_run, stored_run

    folder = find_run(args.target)
    _print_result(args, evaluate(stored_run(folder)[0], folder, split=args.split), None)


def export(args: argparse.Namespace) -> None:
    from gankd.commands.export import export
    from gankd.commands.stages import find_run, stored_run

    folder = find_run(args.target)
    found = export(stored_run(folder)[0], folder, args.to, arm=args.arm, seed=args.seed)
    _print_found(args, found)


def report(args: argparse.Namespace) -> None:
    from gankd.commands.stages import find_run, report, stored_run

    folder = find_run(args.target)
    path = report(stored_run(folder)[0], folder)
    _print_json(report=str(path)) if args.json else _print(path)


def plan(args: argparse.Namespace) -> None:
    from gankd.commands.plan import plan, plan_table
    from gankd.commands.tables import plan_table_run
    from gankd.recipes.published import TABLES

    if args.target in TABLES:
        folder = args.out or Path("runs") / f"bench-{args.target}-{args.scale}"
        rows = plan_table_run(
            args.target,
            folder,
            scale=args.scale,
            data=args.data,
            seeds=args.seeds or 3,
            workers=_worker_count(args),
            changes=args.set,
            console=_console(args),
        )
    else:
        recipe, folder, _ = _prepare(args)
        rows = plan(recipe, folder, arms=_arms(args), workers=_worker_count(args))
    _print_json(stages=[vars(row) for row in rows]) if args.json else _print(plan_table(rows, folder))


def sample(args: argparse.Namespace) -> None:
    from gankd.commands.sample import sample

    written = sample(args.source, args.labels, count=args.count, out=args.out, seed=args.seed)
    _print_json(written=str(written)) if args.json else _print(written)


def list_(args: argparse.Namespace) -> None:
    from gankd.report.lists import stored

    found = stored(args.what, args.name)
    if found is None or args.measure:
        from gankd.commands.listing import listing

        found = listing(args.what, args.name, measure=args.measure)
    _print_found(args, found)


def inspect(args: argparse.Namespace) -> None:
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


def compare(args: argparse.Namespace) -> None:
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


def bench(args: argparse.Namespace) -> None:
    from gankd.commands.bench import bench

    found = bench(
        args.table,
        args.out,
        scale=args.scale,
        data=args.data,
        seeds=args.seeds,
        workers=_worker_count(args),
        pairs=_split(args.pairs) or None,
        methods=_split(args.methods) or None,
        changes=args.set,
        timed=not args.untimed,
        console=_console(args),
    )
    _print_found(args, found)
    sys.exit(found.exit_code)


def verify(args: argparse.Namespace) -> None:
    from gankd.commands.verify import verify

    found = verify(args.table, args.cell, args.results, data=args.data, out=args.out, console=_console(args))
    _print_found(args, found)
    sys.exit(found.exit_code)


def bound(args: argparse.Namespace) -> None:
    from gankd.commands.bound import ACCEPT_SHARES, RHOS, bound
    from gankd.commands.stages import find_run, stored_run

    folder = find_run(args.target)
    found = bound(
        stored_run(folder)[0],
        folder,
        measure=args.measure,
        counts=[int(number) for number in _numbers(args.counts, "--counts")] or None,
        seeds=args.seeds,
        rhos=_numbers(args.rhos, "--rhos") or RHOS,
        accept_shares=_numbers(args.accept_shares, "--accept-shares") or ACCEPT_SHARES,
        mix=args.mix,
        delta=args.delta,
        split=args.split,
        workers=_worker_count(args),
        console=_console(args),
    )
    _print_found(args, found)


def data_help(args: argparse.Namespace) -> None:
    raise ConfigError("no action; choose show or fetch; see gankd data --help")


def data_fetch(args: argparse.Namespace) -> None:
    from gankd.commands.data import fetch

    _print_found(args, fetch(args.name, to=args.to, console=_console(args)))


def data_show(args: argparse.Namespace) -> None:
    from gankd.commands.data import show

    found = show(
        args.path,
        name=args.name,
        task=args.task,
        size=args.size,
        channels=args.channels,
        low=args.low,
        high=args.high,
        sheet=args.sheet,
    )
    _print_found(args, found)
    sys.exit(found.exit_code)


def vkd_help(args: argparse.Namespace) -> None:
    raise ConfigError("no action; choose train, inspect, student, self, peers or table; see gankd vkd --help")


def vkd_train(args: argparse.Namespace) -> None:
    from gankd.commands import vkd
    from gankd.virtual import faithful

    recipe, folder, console = _prepare(args)
    if args.preset == "faithful":
        recipe = replace(recipe, virtual=faithful(recipe.virtual))
    facts = vkd.train(recipe, folder, console=console)
    if args.json:
        _print_json(**facts)
    else:
        _print("virtual teacher: " + "  ".join(f"{key} {_show(value)}" for key, value in facts.items()))


def vkd_inspect(args: argparse.Namespace) -> None:
    from gankd.commands import vkd

    recipe, folder, console = _prepare(args)
    _print_found(args, vkd.inspect(recipe, folder, console=console))


def vkd_student(args: argparse.Namespace) -> None:
    from gankd.commands import vkd

    loss, args.loss = args.loss, None  # it is a row of the table, not a setting of the run
    recipe, folder, console = _prepare(args)
    workers = _worker_count(args)
    found = vkd.student(recipe, folder, loss=loss, source=args.source, workers=workers, console=console)
    _print_found(args, found)


def vkd_self(args: argparse.Namespace) -> None:
    from gankd.commands import vkd

    recipe, folder, console = _prepare(args)
    _print_found(args, vkd.self(recipe, folder, workers=_worker_count(args), console=console))


def vkd_peers(args: argparse.Namespace) -> None:
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


def vkd_table(args: argparse.Namespace) -> None:
    from gankd.commands.vkd_table import vkd_table

    recipe, folder, console = _prepare(args)
    found = vkd_table(recipe, folder, page=args.page, workers=_worker_count(args), console=console)
    _print_found(args, found)


def _print_found(args: argparse.Namespace, found: Any) -> None:
    _print_json(**found.to_dict()) if args.json else _print(found.text)


def results(args: argparse.Namespace) -> None:
    from gankd.commands.results import results

    found = results(
        args.data,
        args.out,
        args.docs,
        names=args.names,
        students=_split(args.students),
        seeds=args.seeds,
        workers=_worker_count(args),
        console=_console(args),
    )
    _print_found(args, found)


def demo(args: argparse.Namespace) -> None:
    from gankd.commands.showcase import demo

    start = time.monotonic()
    results, page = demo(args.out, seeds=args.seeds, workers=_worker_count(args), console=_console(args))
    _print_runs(args, results, page, time.monotonic() - start)


def evidence(args: argparse.Namespace) -> None:
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


def _numbers(text: str | None, option: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")] if text else []
    except ValueError:
        raise ConfigError(f"{option} takes numbers with commas between them, got {text!r}") from None


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
        changes["root"] = args.data
    recipe = replace(recipe, data=replace(recipe.data, **changes))
    if getattr(args, "seeds", None) is not None:
        recipe = replace(recipe, seeds=args.seeds)
    recipe = override(recipe, args.set)
    if getattr(args, "loss", None) is not None:
        recipe = replace(recipe, student=replace(recipe.student, loss=args.loss))
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file, expected a run folder; choose another --out")
    args.folder = folder
    return _with_absolute_paths(recipe), folder, _console(args)


def _with_absolute_paths(recipe: "Recipe") -> "Recipe":
    """`resume` may be called in another folder."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else os.path.abspath(path)

    external = recipe.gan.external  # which may be module:name or diffusers:FOLDER, too
    return replace(
        recipe,
        data=replace(recipe.data, root=absolute(recipe.data.root), class_list=absolute(recipe.data.class_list)),
        teacher=replace(recipe.teacher, weights=absolute(recipe.teacher.weights)),
        student=replace(recipe.student, virtual=absolute(recipe.student.virtual)),
        gan=replace(recipe.gan, external=absolute(external) if external and os.path.exists(external) else external),
    )


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_result(args: argparse.Namespace, result: "RunResult", seconds: float | None) -> None:
    from gankd.text import duration

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
    from gankd.text import duration

    if args.json:
        _print_json(runs=[result.to_dict() for result in results], report=str(page))
        return
    for result in results:
        _print(f"\n{result.recipe}\n{result.table}\n\n{result.headline}")
    _print(f"\nreport: {page}\ntime:   {duration(seconds)}")
