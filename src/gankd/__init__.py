"""Distil a large vision model into a small one through generated images.

`gankd.run(recipe, folder)` and the other commands are imported on first use, so that `import gankd` is fast.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gankd.version import __version__

# Before torch is imported: its threads otherwise spin while they wait for one another, which on a busy machine makes a
# step three to eight times slower, and hardly saves time on a quiet one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from gankd.commands.advise import advise
    from gankd.commands.compare import compare_losses
    from gankd.commands.export import export
    from gankd.commands.inspect import inspect_networks
    from gankd.commands.listing import listing
    from gankd.commands.plan import plan
    from gankd.commands.sample import sample
    from gankd.commands.stages import evaluate, find_recipe, gan, ratio, resume, run, student, synth, teach
    from gankd.config import override
    from gankd.console import Console
    from gankd.data.given import splits_of
    from gankd.models.files import load_model
    from gankd.recipes.arms import Arm
    from gankd.seals import trust
    from gankd.training.distill import distill

__all__ = [
    "Arm",
    "Console",
    "__version__",
    "advise",
    "compare_losses",
    "distill",
    "evaluate",
    "export",
    "find_recipe",
    "gan",
    "inspect_networks",
    "listing",
    "load_model",
    "override",
    "plan",
    "ratio",
    "resume",
    "run",
    "sample",
    "splits_of",
    "student",
    "synth",
    "teach",
    "trust",
]

_ELSEWHERE = {
    "Arm": "recipes.arms",
    "Console": "console",
    "distill": "training.distill",
    "load_model": "models.files",
    "override": "config",
    "splits_of": "data.given",
    "trust": "seals",
}
"""Module of each public name that is not a command."""


def __getattr__(name: str) -> Any:
    if name == "recipes":
        return import_module("gankd.recipes")
    if name not in __all__:
        raise AttributeError(f"module 'gankd' has no attribute {name!r}")
    return getattr(import_module(f"gankd.{_ELSEWHERE.get(name, 'commands')}"), name)
