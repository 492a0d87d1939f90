"""The commands as Python functions: `from gankd.commands import run, teach, gan, ratio, synth, student, ...`."""

from gankd.commands.advise import advise
from gankd.commands.compare import compare_losses
from gankd.commands.export import export
from gankd.commands.inspect import inspect_networks
from gankd.commands.listing import listing
from gankd.commands.plan import plan
from gankd.commands.sample import sample
from gankd.commands.search import search
from gankd.commands.stages import (
    RunResult,
    evaluate,
    find_recipe,
    gan,
    ratio,
    report,
    resume,
    run,
    student,
    synth,
    teach,
)
from gankd.commands.tune import tune

__all__ = [
    "RunResult",
    "advise",
    "compare_losses",
    "evaluate",
    "export",
    "find_recipe",
    "gan",
    "inspect_networks",
    "listing",
    "plan",
    "ratio",
    "report",
    "resume",
    "run",
    "sample",
    "search",
    "student",
    "synth",
    "teach",
    "tune",
]
