"""Commands of the method: the whole run, its stages, its students, and what they leave behind."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gankd.cli.command import ENGINES, PROCESSES, TABLE, THREADS, TRACK, Command, Option, Shown
from gankd.cli.options import QUALITIES, RECIPE, RUN, SHARED, STUDENTS, STUDENTS_PER_ARM, TIME, WORKERS, names, seconds
from gankd.cli.recipe import prepared
from gankd.cli.views import evaluated, facts, path, students_or_search, whole_run
from gankd.config import require

if TYPE_CHECKING:
    from gankd.commands.search import SearchResult
    from gankd.commands.stages import RunResult
    from gankd.console import Console
    from gankd.recipes.config import Recipe
    from gankd.recipes.published import Protocol, Scale
    from gankd.recipes.workers import Workers

NEEDS = " (and what it needs, if missing)"


def teach(recipe: "Recipe", folder: Path, *, virtual: bool = False, console: "Console | None" = None) -> dict[str, Any]:
    """Train the teacher, with a virtual teacher alongside if asked for."""
    from gankd.commands import stages, vkd

    if not virtual:
        return stages.teach(recipe, folder, console=console)
    made = vkd.train(recipe, folder, console=console)
    return {**stages.teach(recipe, folder, console=console), "virtual": made["file"]}


def student(
    recipe: "Recipe",
    folder: Path,
    *,
    search: bool = False,
    arms: list[str] | None = None,
    workers: "int | Workers" = 1,
    console: "Console | None" = None,
) -> "RunResult | SearchResult":
    """Train students, or search for their augmentation and length."""
    from gankd.commands import stages
    from gankd.commands.search import search as look

    if search:
        return look(recipe, folder, arms=arms, workers=workers, console=console)
    return stages.student(recipe, folder, arms=arms, workers=workers, console=console)


def run(
    recipe: "Recipe",
    folder: Path,
    *,
    time: float | None = None,
    quality: str | None = None,
    arms: list[str] | None = None,
    workers: "int | Workers" = 1,
    console: "Console | None" = None,
) -> "RunResult":
    """Run the whole method, in a time or with a quality if asked for."""
    from gankd.commands import stages
    from gankd.processes import count

    seconds = _time(time, quality)
    require(seconds is None or count() == 1, "--time is for one process, whose steps it times; leave --processes out")
    return stages.run(recipe, folder, arms=arms, workers=workers, time=seconds, console=console)


def _time(time: float | None, quality: str | None) -> float | None:
    require(time is None or quality is None, "give --time or --quality, not both")
    return time if quality is None else QUALITIES[quality]


def plan(
    target: str,
    *,
    scale: "Scale" = "small",
    protocol: "Protocol" = "gankd",
    time: float | None = None,
    quality: str | None = None,
    arms: list[str] | None = None,
    workers: "int | Workers" = 1,
    on: str | None = None,
    share: float | None = None,
    console: "Console | None" = None,
    **given: Any,
) -> Shown:
    """Estimate a run, or a published table at a scale; `given` are the options of the recipe."""
    from gankd.bench.cost import Peak, peak
    from gankd.bench.prices import Timer
    from gankd.commands.plan import plan, plan_table
    from gankd.commands.sizes import sizes
    from gankd.commands.tables import plan_table_on, plan_table_run
    from gankd.recipes.published import TABLES

    seconds = _time(time, quality)
    require(on is not None or share is None, "--share is a share of the speed that --on names; give both")
    require(on is None or seconds is None, "--on plans for another machine, --time for this one; give one of them")
    machine = None if on is None else peak(on, Peak.share if share is None else share)
    if target in TABLES:
        require(seconds is None, f"{target} is a published table, whose sizes are fixed; choose a --scale")
        folder = given.get(
            "out", Path("runs") / "-".join(["bench", target, scale, *["published"] * (protocol != "gankd")])
        )
        known = {"seeds": "seeds", "set": "changes"}
        options = {name: given[option] for option, name in known.items() if option in given}
        options |= {"scale": scale, "protocol": protocol}
        if machine is not None:
            rows = plan_table_on(target, machine, **options)
        else:
            data = given.get("data")
            rows = plan_table_run(target, folder, data=data, workers=workers, console=console, **options)
    else:
        recipe, folder = prepared(target, **given)
        if seconds is not None:
            found = sizes(recipe, folder, seconds, arms=arms, workers=workers)
            return Shown(found.text(folder), {"stages": [vars(row) for row in found.rows], "sizes": found.changes})
        rows = plan(recipe, folder, arms=arms, workers=workers, timer=Timer(on=machine))
    return Shown(plan_table(rows, folder, machine), {"stages": [vars(row) for row in rows]})


COMMANDS = (
    Command(
        name="run",
        help="run the whole method: every stage, all arms and controls, report.html",
        calls="gankd.cli.method:run",
        opens="recipe",
        options=(
            *RECIPE,
            *STUDENTS,
            *SHARED,
            TRACK,
            *TIME,
            Option(
                "--pipelines",
                type=int,
                help="repetitions of everything, teacher and generator included, over which intervals are (default: 1)",
            ),
        ),
        view=whole_run,
    ),
    Command(
        name="teach",
        help="train the teacher" + NEEDS,
        calls="gankd.cli.method:teach",
        opens="recipe",
        options=(
            *RECIPE,
            *SHARED,
            TRACK,
            Option("--virtual", action="store_true", help="train a virtual teacher alongside it"),
        ),
        view=facts("teach", stage="teach"),
    ),
    Command(
        name="gan",
        help="train the conditional generator" + NEEDS,
        calls="gankd.commands.stages:gan",
        opens="recipe",
        options=(*RECIPE, *SHARED, TRACK),
        view=facts("gan", stage="gan"),
    ),
    Command(
        name="ratio",
        help="estimate the density ratio of real to generated images" + NEEDS,
        calls="gankd.commands.stages:ratio",
        opens="recipe",
        options=(*RECIPE, *SHARED, TRACK),
        view=facts("ratio", stage="ratio"),
    ),
    Command(
        name="synth",
        help="generate images, score them and select the synthetic set" + NEEDS,
        calls="gankd.commands.stages:synth",
        opens="recipe",
        options=(*RECIPE, *SHARED),
        view=facts("synth", stage="synth"),
    ),
    Command(
        name="student",
        help="train students (and what they need, if missing), or students of a pack",
        calls="gankd.cli.packs:student",
        options=(
            *RECIPE,
            *STUDENTS,
            *SHARED,
            Option(
                "--search",
                action="store_true",
                help="choose augmentation and length for labels only, on validation images; the run folder keeps them",
            ),
        ),
        view=students_or_search,
    ),
    Command(
        name="tune",
        help="search settings of students on validation images, as often for the control as for the method (Optuna)",
        calls="gankd.commands.tune:tune",
        opens="recipe",
        options=(
            *RECIPE,
            Option("--time", type=seconds, metavar="TIME", help="end within this time, as in 30m or 2h"),
            Option(
                "--trials", type=int, help="settings to try for each arm (default: 20, or as many as --time allows)"
            ),
            Option(
                "--vary",
                action="append",
                metavar="NAME=VALUES",
                help="search only this setting (and others so named): student.lr=0.001..0.01 or select.rho=0.7,0.9",
            ),
            Option("--arms", type=names, help="arms to tune (default: kd_matched,adjusted_kd)"),
            STUDENTS_PER_ARM,
            WORKERS,
            *ENGINES,
        ),
    ),
    Command(
        name="eval",
        help="print the table of the finished students, and their accuracy per class",
        calls="gankd.commands.stages:evaluate",
        opens="run",
        options=(*RUN, Option("--split", choices=["val", "test"], help="images to measure on (default: test)"), TABLE),
        view=evaluated,
    ),
    Command(
        name="report",
        help="write report.html from what a run folder holds",
        calls="gankd.commands.stages:report",
        opens="run",
        options=RUN,
        view=path("report"),
    ),
    Command(
        name="plan",
        help="show which stages are reused and which would run, with estimates of time and disk space",
        calls="gankd.cli.method:plan",
        options=(
            *RECIPE,
            *STUDENTS,
            *TIME,
            Option("--scale", choices=["tiny", "small", "full"], help="scale of a published table (default: small)"),
            Option("--protocol", choices=["gankd", "published"], help="choices of a published table (default: gankd)"),
            Option(
                "--share",
                type=float,
                help='with --on "60 TFLOP/s", a machine that is not here, the share of it that training reaches '
                "(default: 0.2, a guess)",
            ),
        ),
    ),
    Command(
        name="advise",
        help="forecast from a probe of minutes what generated images will add, with the command to use",
        calls="gankd.commands.advise:advise",
        opens="recipe",
        options=(*RECIPE, WORKERS),
    ),
    Command(
        name="resume",
        help="resume an interrupted run with the settings it was started with",
        calls="gankd.commands.stages:resume",
        opens="run",
        options=(*RUN, WORKERS, *ENGINES, TRACK, PROCESSES),
        view=whole_run,
    ),
    Command(
        name="sample",
        help="generate images for given labels with a trained generator",
        calls="gankd.commands.sample:sample",
        options=(
            Option("source", type=Path, help="run folder, recipe, or generator.safetensors"),
            Option("--labels", required=True, help="0,1,2 or cat,dog for classes; 10,20.5 or 0:90:10 for values"),
            Option("--count", type=int, default=8, help="images per label (default: 8)"),
            Option(
                "--out",
                type=Path,
                default=Path("samples.png"),
                help="a .png grid, or a folder of images (default: samples.png)",
            ),
            Option("--seed", type=int, help="seed of the noise (default: 0)"),
            Option("--trust", action="store_true", help="run the module that the file names as its generator"),
            THREADS,
        ),
        view=path("written"),
    ),
)
