"""Asked and taken time of `gankd run --time`, and the time of two runs side by side in units of one.

    python benchmarks/budgets.py --page benchmarks/results/budgets.md

Nothing else should run meanwhile.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from gankd.report.gather import machine_facts
from gankd.text import Table, duration
from gankd.version import __version__

SETS = ("digits", "rotated-digits", "turntable")
SIDE_BY_SIDE = "digits"
SHORT = (
    "teacher.updates=500",
    "gan.steps=1000",
    "student.updates=1000",
    "time_cap=1",
    "weak_teacher=accept",
    "seeds=2",
)


def started(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    command = [sys.executable, "-m", "gankd", "run", *words, "--out", folder, "--quiet"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def seconds(*commands: tuple[str, ...]) -> float:
    """Wall time until all of these runs, started together, have ended."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        runs = [started(Path(folder, str(number)), *words) for number, words in enumerate(commands)]
        codes = [run.wait() for run in runs]
        if any(codes):
            sys.exit("a run failed")
        return time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="time that is asked for (default: 5)")
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    asked, rows = 60 * args.minutes, []
    for name in SETS:
        taken = seconds((name, "--time", f"{args.minutes:g}m", "--set", "weak_teacher=accept"))
        rows.append([name, duration(asked), duration(taken), f"{taken / asked:.2f}"])
        print(*rows[-1], flush=True)
    run = (SIDE_BY_SIDE, *(word for setting in SHORT for word in ("--set", setting)))
    one, two = seconds(run), seconds(run, run)
    print("two side by side", duration(one), duration(two), f"{two / one:.2f}", flush=True)
    machine = ", ".join(f"{name} {value}" for name, value in machine_facts().items())
    lines = [
        "# Budgets",
        "",
        f"Written on {datetime.now(UTC):%Y-%m-%d} by `python benchmarks/budgets.py` with gankd {__version__}, one run "
        f"each. Machine: {machine}. "
        "`weak_teacher=accept`: minutes are too short for some teachers, at which a run would stop.",
        "",
        Table(["recipe", "asked for", "taken", "ratio"], rows, align="lrrr").markdown(),
        "",
        f"Two runs of `{SIDE_BY_SIDE}` with {', '.join(f'`{setting}`' for setting in SHORT)}, started together, took "
        f"{duration(two)}; one, {duration(one)}: {two / one:.2f} times as long. The threads of each are as many as "
        "there are free cores when it starts, or fewer.",
    ]
    if args.page is not None:
        args.page.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
