"""Commands that list what there is, inspect two networks, and compare losses."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gankd.cli.command import ENGINES, TABLE, THREADS, Command, Option, Shown
from gankd.cli.options import TRUST, WORKERS, changes, names
from gankd.seals import trust as trust_files

if TYPE_CHECKING:
    from gankd.console import Console
    from gankd.recipes.workers import Workers
    from gankd.report.lists import Listing, What


def listed(
    what: "What", names: Sequence[str] = (), *, measure: bool = False, console: "Console | None" = None
) -> "Listing":
    """A list, from its stored form if possible: the code takes seconds to import."""
    from gankd.report.lists import stored

    found = stored(what, names)
    if found is None or measure:
        from gankd.commands.listing import listing

        if measure and console is not None:
            console.say("measuring on this machine; this takes some seconds, a minute if it is busy")
        found = listing(what, names, measure=measure)
    return found


def compare(
    recipes: Sequence[str],
    out: Path = Path("runs/compare"),
    *,
    losses: Sequence[str] | None = None,
    changes: Sequence[str] = (),
    seeds: int = 3,
    page: Path | None = None,
    workers: "int | Workers" = 1,
    console: "Console | None" = None,
    trust: bool = False,
) -> Shown:
    """Compare losses, and write the page if one is asked for."""
    from gankd.commands.compare import compare_losses

    for name in recipes if trust else ():
        trust_files(name)

    found = compare_losses(recipes, out, losses=losses, changes=changes, seeds=seeds, workers=workers, console=console)
    written = None if page is None else str(found.write(page))
    return Shown(found.text, {"rows": found.rows, "page": written}, tabulated=found)


COMMANDS = (
    Command(
        name="list",
        help="list losses, their inputs, target sources, models, generators, settings, or recipes and published tables",
        calls="gankd.cli.losses:listed",
        options=(
            Option(
                "what",
                choices=["losses", "inputs", "sources", "models", "generators", "recipes", "settings"],
                help="the list to print; inputs and sources are those that losses read",
            ),
            Option(
                "names",
                nargs="*",
                metavar="NAME",
                help="for recipes: show all about these published tables; for settings: those that begin like this",
            ),
            Option(
                "--measure",
                action="store_true",
                help="measure the costs of losses, or the speed that estimates of tables assume, on this machine",
            ),
        ),
    ),
    Command(
        name="inspect",
        help="show which feature maps of two networks are paired, which adapters are built and which losses fit",
        calls="gankd.commands.inspect:inspect_networks",
        options=(
            Option("teacher", metavar="TEACHER", help="zoo name or module:name"),
            Option("student", metavar="STUDENT", help="zoo name or module:name"),
            Option("--size", type=int, help="side of the images in pixels (default: 32)"),
            Option("--channels", type=int, help="channels of the images (default: 3)"),
            Option("--classes", type=int, help="number of classes (default: the label is a number)"),
            Option(
                "--loss", dest="losses", action="append", metavar="LOSS", help="also try this loss; repeat for more"
            ),
            Option("--teacher-taps", type=names, help="comma-separated dotted paths (default: found)"),
            Option("--student-taps", type=names, help="comma-separated dotted paths (default: found)"),
        ),
    ),
    Command(
        name="compare",
        help="compare losses on recipes, each with and without generated images",
        calls="gankd.cli.losses:compare",
        options=(
            Option("recipes", nargs="+", metavar="RECIPE", help="recipes to train on; finished students are reused"),
            Option(
                "--loss",
                dest="losses",
                action="append",
                metavar="LOSS",
                help="loss to compare; repeat for more (default: all that fit)",
            ),
            Option("--out", type=Path, help="folder of the run folders (default: runs/compare)"),
            TRUST,
            Option("--page", type=Path, help="write the table to this Markdown file, with a .json alongside"),
            TABLE,
            changes("recipes"),
            Option("--seeds", type=int, help="students per loss and recipe (default: 3)"),
            WORKERS,
            THREADS,
            *ENGINES,
        ),
    ),
)
