"""The recipe and the run folder that a command line names."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gankd.errors import RunError
from gankd.seals import trust as trust_files

if TYPE_CHECKING:
    from gankd.recipes.config import Recipe

NAMES = (
    "target",
    "out",
    "data",
    "size",
    "task",
    "label",
    "channels",
    "val",
    "test",
    "skip_broken",
    "config",
    "set",
    "seeds",
    "pipelines",
    "loss",
    "teacher",
    "trust",
    "reduce",
    "device",
)
"""Keyword arguments of `prepared`. A command whose function takes one of them itself keeps it."""


def prepared(
    target: str,
    *,
    out: Path | None = None,
    data: str | None = None,
    config: Path | None = None,
    set: Sequence[str] = (),
    seeds: int | None = None,
    pipelines: int | None = None,
    loss: str | None = None,
    teacher: str | None = None,
    reduce: str | None = None,
    device: str | None = None,
    trust: bool = False,
    **images: Any,
) -> tuple["Recipe", Path]:
    """The recipe with all changes applied, and its run folder.

    Args:
        target: name of a recipe, or an earlier run folder.
        out: run folder; default: runs/RECIPE, or the earlier folder.
        data: file or folder of the images.
        config: TOML file of settings.
        set: changes as NAME=VALUE, applied after the file.
        seeds, pipelines: students per arm, and repetitions of the whole pipeline.
        loss: what students learn from the teacher.
        teacher: auto, to try better ones where it is weak.
        reduce: how several processes add up gradients.
        device: where networks compute.
        trust: run the code that an earlier run names.
        **images: size, task, label, channels, val, test and skip_broken of the user's own images.

    Raises:
        ConfigError: there is no such recipe, or a setting is refused. RunError: the run folder is a file.
    """
    from gankd.commands.stages import find_recipe
    from gankd.config import override, override_from_file

    if trust:
        trust_files(target)
    recipe, folder = find_recipe(target, out)
    if config is not None:
        recipe = override_from_file(recipe, config)
    changes = images if data is None else {**images, "root": data}
    recipe = replace(recipe, data=replace(recipe.data, **changes))
    if seeds is not None:
        recipe = replace(recipe, seeds=seeds)
    if pipelines is not None:
        recipe = replace(recipe, pipelines=pipelines)
    recipe = override(recipe, set, "--set")
    if loss is not None:
        recipe = replace(recipe, student=replace(recipe.student, loss=loss))
    if teacher == "auto":
        recipe = replace(recipe, weak_teacher="improve")
    if reduce is not None:
        recipe = override(recipe, [f"reduce={reduce}"], "--reduce")
    if device is not None:
        recipe = replace(recipe, device=device)
    if trust:
        trust_files(folder)  # that of a new run, too
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file, expected a run folder; choose another --out")
    return with_absolute_paths(recipe), folder


def stored(target: str, *, trust: bool = False, device: str | None = None) -> tuple["Recipe", Path]:
    """The settings of a run and its folder.

    Args:
        target: the folder, or the recipe whose folder is runs/RECIPE.
        trust: run the code that the run names.
        device: where networks compute; default: as the run has it.
    """
    from gankd.commands.stages import found_run

    recipe, folder = found_run(target, trust=trust)
    return (recipe if device is None else replace(recipe, device=device)), folder


def with_absolute_paths(recipe: "Recipe") -> "Recipe":
    """Settings whose paths hold in any working directory: `resume` may be called from another folder."""
    from gankd.hub import is_hub
    from gankd.models.network_files import is_network_file

    def absolute(path: str | None) -> str | None:
        return path if path is None or is_hub(path) else os.path.abspath(path)

    names, model = recipe.teacher.class_names, recipe.teacher.model
    external = recipe.gan.external  # may also be module:name or diffusers:FOLDER
    return replace(
        recipe,
        data=replace(
            recipe.data,
            root=absolute(recipe.data.root),
            val=absolute(recipe.data.val),
            test=absolute(recipe.data.test),
            class_list=absolute(recipe.data.class_list),
        ),
        teacher=replace(
            recipe.teacher,
            model=os.path.abspath(model) if is_network_file(model) and not is_hub(model) else model,
            weights=absolute(recipe.teacher.weights),
            class_names=names if len(names) != 1 else (os.path.abspath(names[0]),),  # one item is a file of names
        ),
        student=replace(recipe.student, virtual=absolute(recipe.student.virtual)),
        gan=replace(recipe.gan, external=absolute(external) if external and os.path.exists(external) else external),
    )
