"""The command line as an argparse parser, made of the declared commands."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from gankd.cli import images, losses, method, packs, pages, published, students, virtual
from gankd.cli.command import OUTPUT, Command
from gankd.config import suggest
from gankd.errors import ConfigError
from gankd.version import __version__

COMMANDS: tuple[Command, ...] = (
    *method.COMMANDS,
    *students.COMMANDS,
    *packs.COMMANDS,
    *losses.COMMANDS,
    *published.COMMANDS,
    *images.COMMANDS,
    *virtual.COMMANDS,
    *pages.COMMANDS,
)
GROUPS = {
    "data": "look at a data set, or download a published one",
    "vkd": "train and use a virtual teacher: a small generator of a teacher's softened outputs",
}
"""Commands of two words by their first one, with its help."""
EXAMPLES = """examples:
  gankd run digits                                   classes, on embedded images
  gankd run rotated-digits --set gan.steps=4000      values, with a setting changed
  gankd run folder --data photos --size 32           your own images
  gankd export runs/folder --to small.onnx           the best student, for a device
  gankd predict small.onnx photos                    label photographs with it
  gankd sample runs/digits --labels 3,5,8 --count 8  images from the trained generator
  gankd data show photos                             what a folder holds, and which recipe reads it
  gankd bench cifar10-c10k --data cifar-10 --seeds 3 a published table, scaled down to two cores
  gankd vkd student digits                           students from a generator of the teacher's outputs
  gankd plan turntable                               what would run, for how long, and how much disk it takes
  gankd student digits --loss "KD(T=4) + 0.8*CRD"    other losses; see gankd list losses
  gankd inspect resnet20 my_nets:Tiny --classes 10   paired feature maps, and which losses fit
"""


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line like every other error: one line, exit code 2, a suggestion if there is one."""

    def __init__(self, **options: Any) -> None:
        # Abbreviations would read --seed, a word people try, as --seeds. An option that is not given has no value at
        # all, so that the default of the function counts.
        super().__init__(allow_abbrev=False, argument_default=argparse.SUPPRESS, **options)
        self._negative_number_matcher = re.compile(r"-[.\d]")  # so that -30,0,30 is a value and not an option

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


def parser() -> Parser:
    """The parser of the command line. `declared` is the command found, None for a group without an action."""
    root = Parser(
        prog="gankd",
        description="Distil a large vision model into a small one through generated images.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"gankd {__version__}")
    words = root.add_subparsers(metavar="COMMAND", dest="command")
    groups = {}
    for command in COMMANDS:
        group, _, action = command.name.partition(" ")
        if action and group not in groups:
            sub = words.add_parser(group, help=GROUPS[group], description=_sentence(GROUPS[group]))
            sub.set_defaults(declared=None, parser=sub)
            groups[group] = sub.add_subparsers(metavar="ACTION", dest="action")
        place = groups[group] if action else words
        sub = place.add_parser(action or group, help=command.help, description=_sentence(command.help))
        for option in (*command.options, *OUTPUT):
            sub.add_argument(*option.flags, **option.settings)
        sub.set_defaults(declared=command, parser=sub)
    return root


def _sentence(phrase: str) -> str:
    return f"{phrase[0].upper()}{phrase[1:]}."
