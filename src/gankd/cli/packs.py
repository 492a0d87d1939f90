"""Packs on the command line: `gankd pack`, and `gankd student` where it is given one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gankd.cli.command import Command, Option
from gankd.cli.options import RUN
from gankd.cli.recipe import prepared, stored
from gankd.config import require

if TYPE_CHECKING:
    from gankd.commands.pack import Packed, PackStudents
    from gankd.commands.search import SearchResult
    from gankd.commands.stages import RunResult
    from gankd.console import Console
    from gankd.recipes.workers import Workers
    from gankd.report.pack import Inspected

MEANINGFUL = {"set", "seeds", "loss", "device", "out", "test", "trust"}
"""Options of a recipe that mean something for the students of a pack."""


def student(
    target: str,
    *,
    search: bool = False,
    arms: list[str] | None = None,
    workers: "int | Workers" = 1,
    console: "Console | None" = None,
    **given: Any,
) -> "RunResult | SearchResult | PackStudents":
    """Train the students of a recipe or run, or those of a pack; `given` are the options of the recipe."""
    from gankd.packs.file import is_pack

    if not is_pack(target):
        from gankd.cli import method

        recipe, folder = prepared(target, **given)
        return method.student(recipe, folder, search=search, arms=arms, workers=workers, console=console)
    from gankd.commands.pack import student_from_pack
    from gankd.processes import count

    require(count() == 1, "one process trains the students of a pack, which are small; leave --processes out")
    strange = (
        ["arms"] * (arms is not None)
        + ["search"] * search
        + ["on"] * (not isinstance(workers, int))
        + sorted(set(given) - MEANINGFUL)
    )
    require(not strange, f"--{(strange or [''])[0].replace('_', '-')} means nothing for a pack; leave it out")
    as_settings = {"seeds": "seeds", "loss": "student.loss", "device": "device"}
    changes = [*given.get("set", ())]
    changes += [f"{name}={given[option]}" for option, name in as_settings.items() if option in given]
    return student_from_pack(target, given.get("out"), changes=changes, test=given.get("test"), console=console)


def pack(
    target: str, file: str | None = None, *, console: "Console | None" = None, **given: Any
) -> "Packed | Inspected":
    """Make a pack of a run, or show what is in one (`inspect`); `given` are the other options."""
    from gankd.commands.pack import inspect_pack, pack

    if target == "inspect":
        require(file is not None, "gankd pack inspect takes the file of a pack")
        require(not given, f"gankd pack inspect takes no --{', --'.join(given)}; leave it out")
        return inspect_pack(str(file))
    require(file is None, f"unexpected {file!r}; the file of the new pack is given as --to {file}")
    recipe, folder = stored(target, trust=given.pop("trust", False), device=given.pop("device", None))
    return pack(recipe, folder, console=console, **given)


COMMANDS = (
    Command(
        name="pack",
        help="write a file that trains students without teacher and real images; pack inspect FILE shows one",
        calls="gankd.cli.packs:pack",
        options=(
            *RUN,
            Option("file", metavar="FILE", nargs="?", help="after the word inspect: the pack to look at"),
            Option("--to", dest="out", type=Path, help="file to write (default: pack.safetensors in the run folder)"),
            Option("--evaluate", action="store_true", help="train students of the pack and controls, and compare"),
            Option("--other", metavar="PATH", help="public images of something else, for one more control"),
            Option("--seeds", type=int, help="students per row of --evaluate (default: as the run has)"),
        ),
    ),
)
