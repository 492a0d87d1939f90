"""Distil a large vision model into a small one through generated images.

`gankd.run(recipe, folder)` and the other commands are imported on first use, so that `import gankd` is fast.
"""

from typing import TYPE_CHECKING, Any

from gankd.version import __version__

if TYPE_CHECKING:
    from gankd.commands import compare_losses, evaluate, find_recipe, inspect_networks, resume, run, student
    from gankd.seals import trust

__all__ = [
    "__version__",
    "compare_losses",
    "evaluate",
    "find_recipe",
    "inspect_networks",
    "resume",
    "run",
    "student",
    "trust",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gankd' has no attribute {name!r}")
    if name == "trust":
        from gankd.seals import trust

        return trust
    from gankd import commands

    return getattr(commands, name)
