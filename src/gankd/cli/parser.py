"""The command line: every command with its arguments."""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from gankd.cli import handlers as do
from gankd.config import suggest
from gankd.errors import ConfigError
from gankd.version import __version__

EXAMPLES = """examples:
  gankd run digits                                   classes, on embedded data
  gankd run rotated-digits --set gan.steps=4000      regression, with a setting changed
  gankd run folder --data photos --size 32           your own images
  gankd sample runs/digits --labels 3,5,8 --count 8  images from the trained generator
  gankd data show photos                             what is in there, and which recipe reads it
  gankd bench cifar10-c10k --data cifar-10 --seeds 3 a published table at the scale of two cores
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
    run = command("run", do.run, "the whole method: every stage, all controls, report.html")
    _target(run)
    _students(run)
    for name, text in stages.items():
        sub = command(name, do.stage(name), text + " (and what it needs, if missing)")
        _target(sub)
        if name == "teach":
            sub.add_argument("--virtual", action="store_true", help="and beside it a virtual teacher")
    student = command("student", do.student, "train students (and what they need, if missing)")
    _target(student)
    _students(student)
    score = command("eval", do.eval, "table of the finished students")
    _folder(score)
    score.add_argument("--split", choices=["val", "test"], default="test", help="default: test")
    export = command("export", do.export, "the best trained student as one file of plain weights")
    _folder(export)
    export.add_argument("--arm", help="default: the whole method that is best on validation images")
    export.add_argument("--seed", type=int, help="default: the best of the arm on validation images")
    export.add_argument("--to", type=Path, help="default: student.safetensors in the run folder")
    _folder(command("report", do.report, "write report.html from what a run folder holds"))
    plan = command("plan", do.plan, "which stages are reused, which will run, estimated time and disk")
    _target(plan)
    _students(plan)
    plan.add_argument("--scale", choices=["tiny", "small", "full"], default="small", help="of a published table")
    resume = command("resume", do.resume, "go on with an interrupted run, with the settings it was started with")
    _folder(resume)
    _workers(resume)

    sample = command("sample", do.sample, "images from a trained generator's checkpoint, for given labels")
    sample.add_argument("source", type=Path, help="run folder, recipe, or generator.safetensors")
    sample.add_argument("--labels", required=True, help="0,1,2 or cat,dog for classes; 10,20.5 or 0:90:10 for values")
    sample.add_argument("--count", type=int, default=8, help="images per label (default 8)")
    sample.add_argument("--out", type=Path, default=Path("samples.png"), help="a .png grid, or a folder of images")
    sample.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    _output(sample)

    text = "losses, their inputs, sources behind @, models, generators, recipes with the published tables"
    listing = command("list", do.list_, text)
    listing.add_argument("what", choices=["losses", "inputs", "sources", "models", "generators", "recipes"])
    listing.add_argument("name", nargs="*", metavar="TABLE", help="recipes: all that is known of a published table")
    listing.add_argument("--measure", action="store_true", help="measure the costs on this machine, in about 15 s")
    _output(listing)
    look = command("inspect", do.inspect, "which layers of two networks meet, which adapters and losses fit them")
    look.add_argument("teacher", metavar="TEACHER", help="zoo name or module:name")
    look.add_argument("student", metavar="STUDENT", help="zoo name or module:name")
    look.add_argument("--size", type=int, default=32, help="side of the images in pixels (default 32)")
    look.add_argument("--channels", type=int, default=3, help="of the images (default 3)")
    look.add_argument("--classes", type=int, help="number of classes; without it the label is a number")
    look.add_argument("--loss", action="append", default=[], metavar="LOSS", help="also try this one; repeat for more")
    look.add_argument("--teacher-taps", help="comma-separated dotted paths; default: found")
    look.add_argument("--student-taps", help="comma-separated dotted paths; default: found")
    _output(look)
    against = command("compare", do.compare, "several losses on one or more recipes, alone and with cGAN-KD; a table")
    against.add_argument("recipes", metavar="RECIPE", nargs="+", help="recipes; finished stages are reused")
    against.add_argument("--loss", action="append", metavar="LOSS", help="repeat for more; default: all that fit")
    against.add_argument("--out", type=Path, default=Path("runs/compare"), help="default runs/compare")
    against.add_argument("--page", type=Path, help="Markdown file for the table, with a .json beside it")
    against.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="for all recipes")
    against.add_argument("--seeds", type=int, default=3, help="students per cell (default 3)")
    _workers(against)
    _output(against)

    _published(command)
    _data(command)

    virtual = command("vkd", do.vkd_help, "a virtual teacher: a small generator of a teacher's softened outputs")
    actions = virtual.add_subparsers(metavar="ACTION", dest="action")

    def action(name: str, handler: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
        sub.set_defaults(handler=handler, parser=sub)
        _target(sub)
        return sub

    train = action("train", do.vkd_train, "train the teacher and, beside it, its generator of softened outputs")
    train.add_argument("--preset", choices=["robust", "faithful"], default="robust", help="faithful: adversary alone")
    action("inspect", do.vkd_inspect, "how well its draws match the teacher: distances with floors, warnings by name")
    taught = action("student", do.vkd_student, "students from it, beside labels alone and the table of class means")
    taught.add_argument(
        "--loss", help='for example "KD(T=4)@virtual + 0.8*CRD"; default: the virtual teacher alone; gankd list sources'
    )
    taught.add_argument("--from", dest="source", type=Path, metavar="FILE", help="a virtual.safetensors from elsewhere")
    own = action("self", do.vkd_self, "students that learn from a generator of their own outputs, without a teacher")
    peers = action("peers", do.vkd_peers, "students that teach one another through such generators")
    peers.add_argument("--networks", help="comma-separated: the others, in this process; default: one more student")
    peers.add_argument("--exchange", type=Path, metavar="FOLDER", help="shared with peers in other processes")
    peers.add_argument("--name", help="of this peer in the shared folder")
    text = "the ablations: every source tuned, trained and compared, about 150 + 23 students a seed; a page"
    table = action("table", do.vkd_table, text)
    table.add_argument("--page", type=Path, help="Markdown file, with a .json beside it; other recipes on it stay")
    for sub in (taught, own, peers, table):
        sub.add_argument("--seeds", type=int, help="students per row")
        _workers(sub)

    real = command("results", do.results, "the evidence on real images; writes docs/results.md, .json and pictures")
    real.add_argument("names", metavar="RECIPE", nargs="*", help="default: all; see gankd list recipes")
    real.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="holds cifar.npz, faces.npz ...")
    real.add_argument("--students", default="cnn16,resnet8", help="comma-separated networks (default cnn16,resnet8)")
    real.add_argument("--out", type=Path, default=Path("runs/results"))
    real.add_argument("--docs", type=Path, default=Path("docs"))
    _output(real)
    real.add_argument("--seeds", type=int, default=3, help="students per arm (default 3)")
    _workers(real)

    demo = command("demo", do.demo, "a class recipe and a regression recipe, 3 seeds each, one page")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"))
    evidence = command("evidence", do.evidence, "the same with more seeds; writes docs/evidence.md and .json")
    evidence.add_argument("--out", type=Path, default=Path("runs/evidence"))
    evidence.add_argument("--docs", type=Path, default=Path("docs"))
    for sub in (demo, evidence):
        _output(sub)
        sub.add_argument("--seeds", type=int, help="students per arm")
        _workers(sub)
    return root


def _published(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The tables of the papers, and what bounds a run."""
    bench = command("bench", do.bench, "a published table: every pair, row and seed, cell by cell; a page")
    verify = command("verify", do.verify, "train one committed cell of a table anew: does it agree?")
    for sub in (bench, verify):
        sub.add_argument("table", metavar="TABLE", help="see gankd list recipes")
        sub.add_argument("--data", help="file or folder of the images; scale tiny has its own")
        sub.add_argument("--out", type=Path, help="folder (default runs/bench-TABLE-SCALE; verify: a temporary one)")
    bench.add_argument("--scale", choices=["tiny", "small", "full"], default="small", help="default: small, two cores")
    bench.add_argument("--seeds", type=int, default=3, help="students per cell (default 3)")
    bench.add_argument("--pairs", help="comma-separated; default: all")
    bench.add_argument("--methods", help="comma-separated rows; default: all; the controls are always run")
    bench.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="for all cells")
    bench.add_argument("--untimed", action="store_true", help="without the control at equal time")
    _workers(bench)
    verify.add_argument(
        "--cell",
        required=True,
        metavar="PAIR/METHOD/SEED",
        help="as in cells.jsonl; /STAGE behind it where there are several",
    )
    verify.add_argument("--results", type=Path, required=True, metavar="FILE", help="cells.jsonl or bench.json")
    for sub in (bench, verify):
        _output(sub)

    bound = command("bound", do.bound, "the terms of the error bound, estimated from a run; how many images it advises")
    _folder(bound)
    bound.add_argument("--measure", action="store_true", help="train the students that the measured curve lacks")
    bound.add_argument("--counts", help="comma-separated numbers of generated images")
    bound.add_argument("--rhos", help="comma-separated levels of the filter")
    bound.add_argument("--accept-shares", help="comma-separated acceptance budgets")
    bound.add_argument("--mix", choices=["pooled", "share"], default="pooled", help="what a batch holds (pooled)")
    bound.add_argument("--delta", type=float, default=0.05, help="the bound may fail so often (default 0.05)")
    bound.add_argument("--split", choices=["val", "test"], default="val", help="held-out images (default val)")
    bound.add_argument("--seeds", type=int, help="students per number of images")
    _workers(bound)


def _data(command: Callable[..., argparse.ArgumentParser]) -> None:
    data = command("data", do.data_help, "look at a data set, or download a published one")
    actions = data.add_subparsers(metavar="ACTION", dest="action")
    text = "download a published set: checked, resumable; or where to get it by hand"
    fetch = actions.add_parser("fetch", help=text, description=text)
    fetch.set_defaults(handler=do.data_fetch, parser=fetch)
    fetch.add_argument("name", metavar="NAME", help="cifar10, cifar100, tiny-imagenet, mnist ...")
    fetch.add_argument("--to", type=Path, help="folder (default data/NAME)")
    text = "format, counts, sizes, labels, duplicates across splits, unreadable files, a sheet of images"
    show = actions.add_parser("show", help=text, description=text)
    show.set_defaults(handler=do.data_show, parser=show)
    show.add_argument("path", metavar="PATH", help="file or folder")
    show.add_argument("--name", help="what it is, as data.name calls it; default: found out")
    show.add_argument("--sheet", type=Path, default=Path("contact-sheet.png"), help="default contact-sheet.png")
    show.add_argument("--size", type=int, help="side in pixels to which images are brought")
    show.add_argument("--task", choices=["auto", "classification", "regression"], default="auto")
    show.add_argument("--channels", choices=["auto", "grey", "rgb"], default="auto")
    show.add_argument("--low", type=float, help="lower end of the label range")
    show.add_argument("--high", type=float, help="upper end")
    for sub in (fetch, show):
        _output(sub)


def _target(sub: argparse.ArgumentParser) -> None:
    what = "recipe (digits, rotated-digits, folder, cifar10 ...; see gankd list recipes) or run folder"
    sub.add_argument("target", metavar="RECIPE", help=what)
    sub.add_argument("--out", type=Path, help="run folder (default runs/RECIPE)")
    sub.add_argument("--data", help="file or folder of the images, for recipes that read any")
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
    sub.add_argument("--workers", type=int, help="students side by side (default: one per core; on a GPU one)")
