"""The `gankd` command. Nothing heavy is imported until a command needs it, so that help and lists print at once."""

import argparse
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from gankd.cli.command import call
from gankd.cli.parser import COMMANDS, parser
from gankd.cli.together import LAUNCHED, LOST
from gankd.errors import ConfigError, GankdError, LostProcessError
from gankd.stops import STOPS, Stopped, handle_stops

LONGEST = 1500
"""Characters of an error, at most."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exit code 0 for done, 2 for an error that the user can fix, and 130, 143 or 129 after Ctrl-C,
    SIGTERM or SIGHUP.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    args = argparse.Namespace()
    handle_stops()
    try:
        _, unknown = parser().parse_known_args(words, args)
        if args.command is None:
            raise ConfigError("no command; try: gankd run digits (all commands: gankd --help)")
        if unknown:
            args.parser.refuse(unknown)
        if args.declared is None:
            actions = [command.name.split()[1] for command in COMMANDS if command.name.startswith(f"{args.command} ")]
            choice = " or ".join(filter(None, (", ".join(actions[:-1]), actions[-1])))
            raise ConfigError(f"no action; choose {choice}; see gankd {args.command} --help")
        call(args.declared, args, words)
        sys.stdout.flush()
    except LostProcessError as error:
        if LAUNCHED in os.environ:  # the process that waits for this one knows which was lost
            os._exit(LOST)
        _fail(str(error))
    except GankdError as error:
        _fail(str(error))
    except KeyboardInterrupt as stop:
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)  # a second one must not kill the message
        what = stop.args[0] if isinstance(stop, Stopped) else signal.SIGINT
        by = "" if what == signal.SIGINT else f" by {what.name}"
        if LAUNCHED not in os.environ:  # or else the process that waits for this one says why it ended it
            with suppress(OSError):  # the terminal may be gone
                _say(f"interrupted{by}; resume with: {_again(args, words)}")
        # Threads of torch and of the worker pool must not delay the exit.
        os._exit(128 + what)
    except BrokenPipeError:
        os._exit(141)
    except OSError as error:
        if error.strerror is None:
            raise
        where = f"cannot use {error.filename}" if error.filename else "cannot read or write"
        remedy = "check path, permissions and free space, or choose another --out"
        _fail(f"{where}: {error.strerror}; {remedy}; then: {_again(args, words)}")
    except (MemoryError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        if not isinstance(error, MemoryError) and not re.search("out of memory|allocate memory", reason):
            raise
        _fail(f"out of memory ({reason[:200]}); choose a smaller width, batch_size, data.size or fewer --workers")


def _again(args: argparse.Namespace, words: Sequence[str]) -> str:
    """The command that resumes the work of this one."""
    folder = getattr(args, "folder", None)
    if folder is not None and args.command in ("run", "resume") and (folder / "run.json").is_file():
        words = ["resume", str(folder)]
    return shlex.join(["gankd", *words])


def _say(message: str) -> None:
    """Print a last message on standard error, on a line of its own."""
    from gankd.console import Console

    Console.end_line()
    line = " ".join(message.splitlines())
    if len(line) > LONGEST:  # it quotes something endless: keep what is wrong and what to do
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    print(f"gankd: {line}", file=sys.stderr, flush=True)


def _fail(message: str) -> NoReturn:
    _say(message)
    if LAUNCHED in os.environ:
        os._exit(2)  # the others are still there, and the end of the process group would wait for them
    sys.exit(2)
