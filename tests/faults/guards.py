"""Take away what refuses each hostile input, and see it accepted: a guard that no input tries would be found.

    python tests/faults/guards.py --page benchmarks/results/guards.md

The guard of a cause is found by its refusal: the statement of gankd that raised the error, or the one that turned an
error of a library into a line for the user. It is removed from the running code, in a process of its own, and the
input is tried again; where another guard refuses it, that one is removed as well, until the input is
no longer refused in one line.
"""

import argparse
import ast
import gc
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import CodeType, FunctionType, TracebackType

import hostile
import torch
from outcomes import PRELOAD

from gankd.errors import GankdError
from gankd.version import __version__

SOURCE = str(Path(sys.modules["gankd"].__file__ or "").parent)
LAYERS = 8
"""Guards behind one another that are removed."""
PATIENCE = 60
"""Seconds that all attempts at a cause may take."""


@dataclass
class Tried:
    """A cause without its guards."""

    cause: str
    guards: list[str]
    """Statements that were removed, in this order, as module:function."""
    harm: str
    """What the input then did; empty: it was still refused."""


@dataclass(frozen=True)
class Guard:
    """A statement that refuses."""

    code: CodeType
    line: int

    @property
    def name(self) -> str:
        """Module and function."""
        module = Path(self.code.co_filename).relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".")
        return f"{module}:{self.code.co_qualname.removesuffix('.<locals>')}"


def places(trace: TracebackType | None) -> Iterator[Guard]:
    """Code and line of each frame, from the outermost."""
    while trace is not None:
        yield Guard(trace.tb_frame.f_code, trace.tb_lineno)
        trace = trace.tb_next


def guard_of(error: BaseException) -> Guard | None:
    """The statement of gankd that raised the first error of a chain, or that turned a library's error into another."""
    chain = [error]
    while chain[-1].__context__ is not None:
        chain.append(chain[-1].__context__)
    for each in reversed(chain):
        found = [place for place in places(each.__traceback__) if place.code.co_name != "require"]
        if found and found[-1].code.co_filename.startswith(SOURCE) and _refuses(found[-1]):
            return found[-1]
    return None


def _refuses(place: Guard) -> bool:
    """True for a `raise` or a `require`, False where the error comes from what a statement calls."""
    tree = ast.parse(Path(place.code.co_filename).read_text())
    return any(
        node.lineno <= place.line <= (node.end_lineno or 0)
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise | ast.Assert)
        or (isinstance(node, ast.Expr) and ast.unparse(node).startswith("require("))
    )


class Removal(ast.NodeTransformer):
    """Replaces the smallest statements at some lines: by nothing, or, in an `except`, by raising what was caught."""

    def __init__(self, lines: set[int]) -> None:
        self.lines, self.depth = set(lines), 0

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if not isinstance(node, ast.Raise | ast.Expr | ast.Assert):
            return node
        here = {line for line in self.lines if node.lineno <= line <= (node.end_lineno or 0)}
        if here:
            self.lines -= here
            instead = ast.Raise() if self.depth else ast.Pass()
            # The statement stays behind `if False`, so that the function closes over the same variables.
            gone = ast.If(test=ast.Constant(False), body=[node], orelse=[instead])
            return ast.fix_missing_locations(ast.copy_location(gone, node))
        return node


_removed: dict[str, set[int]] = defaultdict(set)
"""Lines by file."""


def remove(guard: Guard) -> bool:
    """Remove a statement from the function that holds it, wherever the function is known; False if it is not simple."""
    _removed[guard.code.co_filename].add(guard.line)
    removal = Removal(_removed[guard.code.co_filename])
    tree = removal.visit(ast.parse(Path(guard.code.co_filename).read_text()))
    outer = guard.code.co_qualname.split(".<locals>")[0]
    changed = {code.co_qualname: code for code in _codes(compile(tree, guard.code.co_filename, "exec"))}[outer]
    holders = [
        each
        for each in gc.get_objects()
        if type(each) is FunctionType
        and each.__code__.co_filename == guard.code.co_filename
        and each.__code__.co_qualname == outer
    ]
    for holder in holders:
        holder.__code__ = changed
    return not removal.lines and bool(holders)


def _codes(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _codes(each)


def without_guards(name: str, root: Path) -> Tried:
    """Try one cause, removing what refuses it until it does harm."""
    raised: list[GankdError] = []

    def record(self: GankdError, *arguments: object) -> None:
        Exception.__init__(self, *arguments)
        raised.append(self)

    GankdError.__init__ = record  # type: ignore[method-assign,assignment]
    removed: list[Guard] = []
    for number in range(LAYERS):
        raised.clear()
        folder = root / f"{name} {number}".replace(" ", "-")
        folder.mkdir()
        problem = hostile.tried(hostile.CAUSES[name](folder, random.Random(f"{name} 0")), folder)
        if problem:
            return Tried(name, [guard.name for guard in removed], _short(problem) if removed else "")
        guard = next(filter(None, (guard_of(error) for error in reversed(raised) if error.__traceback__)), None)
        if guard is None or guard in removed or not remove(guard):
            break
        removed.append(guard)
    return Tried(name, [guard.name for guard in removed], "")


def _short(problem: str) -> str:
    """What an input did, in a few words."""
    if problem.startswith("raised"):
        kinds = re.findall(r"^([\w.]+)(?::|$)", problem, re.MULTILINE)
        return f"ended in a traceback ({kinds[-1].rpartition('.')[2] if kinds else 'an error'})"
    return "was accepted" if problem.startswith("code") else problem.partition(":")[0]


def in_process(name: str, root: Path) -> Tried:
    """The same in a process that may die of it."""
    report = root / f"{name}.json"
    pid = os.fork()
    if not pid:
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + hostile.MEMORY, used + hostile.MEMORY))
            report.write_text(json.dumps(asdict(without_guards(name, root))))
        finally:
            os._exit(0)
    end = time.monotonic() + PATIENCE
    while not (found := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return Tried(name, [], f"did not end within {PATIENCE} s")
        time.sleep(0.02)
    status = found[1]
    if report.is_file():
        return Tried(**json.loads(report.read_text()))
    return Tried(name, [], f"the process died ({os.waitstatus_to_exitcode(status)})")


def page(found: Sequence[Tried], seconds: float) -> str:
    """The result as Markdown."""
    harmful = [one for one in found if one.harm]
    once = sum(len(one.guards) == 1 for one in harmful)
    lines = [
        "# Guards",
        "",
        f"Written on {time.strftime('%Y-%m-%d')} by `python tests/faults/guards.py --page "
        f"benchmarks/results/guards.md` (part of `make nightly`) with gankd {__version__}, in {seconds / 60:.0f} "
        "minutes. For each cause of the hostile inputs, the statement that refuses it is removed from the running "
        "code; where another one then refuses the input, that is removed as well, until the input is no longer refused "
        "in one line. A command that took more than 8 s went on as if nothing were wrong. Unreadable images are "
        "refused together by one line; the limits of format, size and kind behind it are tested in "
        "tests/data/test_folder.py.",
        "",
        f"{len(harmful)} of {len(found)} causes are no longer refused, {once} of them after one removal.",
        "",
        "| cause | removed, in this order | then |",
        "|---|---|---|",
    ]
    for one in found:
        guards = ", ".join(f"`{guard}`" for guard in one.guards)
        lines.append(f"| {one.cause} | {guards} | {one.harm or 'is still refused'} |")
    return "\n".join(lines) + "\n"


def run_script(arguments: Sequence[str] | None = None) -> int:
    """Try all causes; 1 if one is still refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(hostile.CAUSES))
    parser.add_argument("--page", type=Path)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    hostile.SECONDS = 8  # a command that is no longer refused may go on for long
    for name in PRELOAD:
        import_module(name)
    begun, found = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="guards-") as folder:
        os.environ["XDG_CONFIG_HOME"] = str(Path(folder) / "config")
        for name in given.only:
            found.append(in_process(name, Path(folder)))
            print(f"{name}: {', '.join(found[-1].guards)}: {found[-1].harm or 'STILL REFUSED'}", flush=True)
    if given.page is not None:
        given.page.write_text(page(found, time.monotonic() - begun))
    return int(not all(one.harm for one in found))


if __name__ == "__main__":
    sys.exit(run_script())
