"""Commands that write the pages of the documentation."""

from pathlib import Path

from gankd.cli.command import ENGINES, THREADS, Command, Option
from gankd.cli.options import WORKERS, changes, names, paths_by_name, seconds
from gankd.cli.views import several_runs

DOCS = Option("--docs", type=Path, default=Path("docs"), help="folder of the pages (default: docs)")

COMMANDS = (
    Command(
        name="results",
        help="train the evidence on real images; writes docs/results.md, .json and pictures",
        calls="gankd.commands.results:results",
        options=(
            Option("names", metavar="RECIPE", nargs="*", help="recipes to train on (default: all of the page)"),
            Option("--data", type=Path, required=True, metavar="FOLDER", help="folder with cifar.npz, faces.npz ..."),
            Option("--students", type=names, help="networks, comma-separated (default: cnn16,resnet8)"),
            Option("--out", type=Path, default=Path("runs/results"), help="run folders (default: runs/results)"),
            DOCS,
            Option("--seeds", type=int, help="students per arm (default: 3)"),
            WORKERS,
            THREADS,
        ),
    ),
    Command(
        name="demo",
        help="run a recipe for classes and one for values, three seeds each, and write one page",
        calls="gankd.commands.showcase:demo",
        options=(
            Option("--out", type=Path, default=Path("runs/demo"), help="run folders (default: runs/demo)"),
            Option("--seeds", type=int, default=None, help="students per arm (default: 3)"),
            WORKERS,
            THREADS,
        ),
        view=several_runs,
    ),
    Command(
        name="evidence",
        help="run the embedded recipes over several pipelines; writes docs/evidence.md and .json",
        calls="gankd.commands.showcase:evidence",
        options=(
            Option("--out", type=Path, default=Path("runs/evidence"), help="run folders (default: runs/evidence)"),
            DOCS,
            Option("--seeds", type=int, default=None, help="students per arm and pipeline (default: 1)"),
            Option("--pipelines", type=int, default=None, help="repetitions of everything (default: 3)"),
            WORKERS,
            THREADS,
        ),
        view=several_runs,
    ),
    Command(
        name="map",
        help="run the cells of the map of where generated images pay; writes docs/where_it_pays.md",
        calls="gankd.commands.map:run_map",
        options=(
            Option(
                "--plan", action="store_true", help="measure what the cells would take here instead of running them"
            ),
            Option("--page", action="store_true", help="only write the page, from the finished cells"),
            Option("--only", type=names, metavar="RECIPE", help="recipes, comma-separated (default: all)"),
            Option(
                "--data",
                action="append",
                type=paths_by_name,
                metavar="NAME=PATH",
                help="file of the images of a recipe that reads one; without it its cells are left out",
            ),
            Option(
                "--time", dest="seconds", type=seconds, help="begin no further cell after this time, as in 45m or 2h"
            ),
            changes("cells"),
            Option("--out", type=Path, help="run folders, one per recipe (default: runs/map)"),
            Option("--file", type=Path, help="finished cells, a line each (default: those that come with gankd)"),
            Option("--docs", type=Path, help="folder of the page (default: docs)"),
            WORKERS,
            THREADS,
            *ENGINES,
        ),
    ),
)
