"""Classification and regression of one value or several: everything that differs between them.

Code elsewhere asks which of them it has only where a comment says why.
"""

from typing import Any

from gankd.config import from_dict, require, to_dict
from gankd.tasks.choices import Adjust, LabelSampling, Scale
from gankd.tasks.classification import Classification
from gankd.tasks.regression import Regression
from gankd.tasks.vector import VectorRegression

__all__ = [
    "Adjust",
    "Classification",
    "LabelSampling",
    "Regression",
    "Scale",
    "Task",
    "Values",
    "VectorRegression",
    "task_from_dict",
    "task_to_dict",
]

Values = Regression | VectorRegression
Task = Classification | Values


def task_to_dict(task: Task) -> dict[str, Any]:
    """Plain data of a task, with its kind."""
    return {"kind": task.kind, **to_dict(task)}


def task_from_dict(values: dict[str, Any]) -> Task:
    """Inverse of `task_to_dict`.

    Raises:
        ConfigError: unknown kind or values out of range.
    """
    kind = values.get("kind")
    require(kind in ("classification", "regression"), f"task kind must be classification or regression, got {kind!r}")
    rest = {name: value for name, value in values.items() if name != "kind"}
    if kind == "classification":
        return from_dict(Classification, rest, "task")
    return from_dict(VectorRegression, rest, "task") if "outputs" in rest else from_dict(Regression, rest, "task")
