"""Classification and scalar regression: everything that differs between the two.

Code elsewhere asks which of the two it has only where a comment says why.
"""

from typing import Any

from gankd.config import from_dict, require, to_dict
from gankd.tasks.choices import Adjust, LabelSampling
from gankd.tasks.classification import Classification
from gankd.tasks.regression import Regression

__all__ = [
    "Adjust",
    "Classification",
    "LabelSampling",
    "Regression",
    "Task",
    "task_from_dict",
    "task_to_dict",
]

Task = Classification | Regression


def task_to_dict(task: Task) -> dict[str, Any]:
    """Plain data of a task, with its kind."""
    return {"kind": task.kind, **to_dict(task)}


def task_from_dict(values: dict[str, Any]) -> Task:
    """Inverse of `task_to_dict`.

    Raises:
        ConfigError: unknown kind or values out of range.
    """
    kinds: dict[str, type[Classification] | type[Regression]] = {
        "classification": Classification,
        "regression": Regression,
    }
    kind = values.get("kind")
    require(kind in kinds, f"task kind must be classification or regression, got {kind!r}")
    rest = {name: value for name, value in values.items() if name != "kind"}
    return from_dict(kinds[str(kind)], rest, "task")
