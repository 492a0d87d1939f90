"""Commands that train the tables of the papers, and that estimate the error bound."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gankd.cli.command import ENGINES, TABLE, THREADS, Command, Option
from gankd.cli.options import RUN, TRUST, WORKERS, changes, names, numbers
from gankd.errors import ConfigError

if TYPE_CHECKING:
    from gankd.console import Console

PUBLISHED = Option("name", metavar="TABLE", help="published table; see gankd list recipes")
PROTOCOL = Option(
    "--protocol",
    choices=["gankd", "published"],
    help="choices of gankd (default) or of the authors: initial weights, start, batch, precision, subsampling",
)
DATA = Option("--data", help="file or folder of the images; scale tiny needs none")


def verify(
    name: str,
    *,
    files: bool = False,
    cell: str | None = None,
    results: Path | None = None,
    console: "Console | None" = None,
    **options: Any,
) -> Any:
    """Check the files of a run, or train a cell again."""
    if files:
        from gankd.commands.files import check_files
        from gankd.commands.stages import find_run

        return check_files(find_run(name))
    if cell is None or results is None:
        raise ConfigError("gankd verify needs --cell and --results, or --files for a run folder")
    from gankd.commands import verify

    return verify.verify(name, cell, results, console=console, **options)


COMMANDS = (
    Command(
        name="bench",
        help="train a published table: every pair of networks, arm and seed, cell by cell; writes a page",
        calls="gankd.commands.bench:bench",
        options=(
            PUBLISHED,
            DATA,
            Option("--out", type=Path, help="folder (default: runs/bench-TABLE-SCALE)"),
            Option(
                "--scale",
                choices=["tiny", "small", "full"],
                help="size of the experiment (default: small, for two CPU cores; full is for a GPU)",
            ),
            PROTOCOL,
            Option("--seeds", type=int, help="students per cell (default: 3)"),
            Option("--pairs", type=names, help="pairs of networks, comma-separated (default: all)"),
            Option("--methods", type=names, help="arms, comma-separated (default: all); controls are always trained"),
            changes("cells"),
            Option("--untimed", dest="timed", action="store_false", help="leave out the control at equal time"),
            TABLE,
            WORKERS,
            THREADS,
            *ENGINES,
        ),
    ),
    Command(
        name="verify",
        help="train one committed cell of a table again and compare the two results, or check the files of a run",
        calls="gankd.cli.published:verify",
        options=(
            Option("name", metavar="TABLE", help="published table (see gankd list recipes), or a run for --files"),
            Option("--files", action="store_true", help="compare every file of a run folder with its hash"),
            Option(
                "--cell",
                metavar="PAIR/METHOD/SEED",
                help="cell as in cells.jsonl; append /STAGE if several are stored",
            ),
            Option("--results", type=Path, metavar="FILE", help="cells.jsonl or bench.json"),
            DATA,
            Option("--out", type=Path, help="folder to train in (default: a temporary one)"),
            TRUST,
            THREADS,
        ),
    ),
    Command(
        name="bound",
        help="estimate the terms of the error bound from a run, and how many generated images it advises",
        calls="gankd.commands.bound:bound",
        opens="run",
        options=(
            *RUN,
            Option("--measure", action="store_true", help="train the students that the measured curve is missing"),
            Option("--counts", type=numbers("--counts", int), help="numbers of generated images, comma-separated"),
            Option("--rhos", type=numbers("--rhos"), help="levels of the filter, comma-separated"),
            Option(
                "--accept-shares", type=numbers("--accept-shares"), help="shares that are accepted, comma-separated"
            ),
            Option(
                "--mix",
                choices=["pooled", "share"],
                help="how a batch mixes real and generated images: as in their pool, or by student.fake_share "
                "(default: pooled)",
            ),
            Option("--delta", type=float, help="probability that the bound fails (default: 0.05)"),
            Option("--split", choices=["val", "test"], help="held-out images (default: val)"),
            Option("--seeds", type=int, help="students per number of images"),
            WORKERS,
        ),
    ),
)
