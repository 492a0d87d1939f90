"""The best trained student of a run as one file: plain weights, with a card that says how to feed it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gankd.bench.compare import chosen_by_validation, student_of
from gankd.commands.stages import finished_arms, opened
from gankd.config import require, suggest
from gankd.models.files import save_model
from gankd.recipes.arms import Role
from gankd.recipes.config import Recipe
from gankd.recipes.stages import declare


@dataclass(frozen=True)
class Exported:
    """The exported student and its file."""

    path: Path
    model: str
    arm: str
    seed: int
    val: dict[str, float]
    role: Role

    @property
    def text(self) -> str:
        """One line."""
        measured = ", ".join(f"{name} {value:.4g}" for name, value in self.val.items())
        arm = f"arm {self.arm}{' (a control: no generated images)' if self.role == 'control' else ''}"
        return f"{self.path}: {self.model}, {arm}, seed {self.seed}; on validation images {measured}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "path": str(self.path)}


def export(
    recipe: Recipe, folder: Path | str, out: Path | None = None, *, arm: str | None = None, seed: int | None = None
) -> Exported:
    """Write one finished student, chosen on validation images if it is not named; `load_model` reads it.

    Args:
        recipe: settings of the run.
        folder: its folder.
        out: the file, student.safetensors in the folder if not given.
        arm: which one; default: the best of all arms on validation images, controls included.
        seed: which one; default: the best of the arm on validation images.

    Raises:
        ConfigError: no such student is finished, or a name that is none.
    """
    path = Path(folder) / "student.safetensors" if out is None else out
    require(path.suffix == ".safetensors", f"--to must end in .safetensors, got {path}")
    with opened(recipe, Path(folder)) as experiment:
        arms = {each.name: each for each in finished_arms(experiment)}
        require(arm is None or arm in arms, f"no arm {arm!r}; {suggest(arm or '', arms)}")
        seeds = range(recipe.seeds)
        stages = declare(experiment, list(arms.values()), seeds)
        done = [cell for cell, stage in stages.students.items() if stage.done]
        wanted = arm or chosen_by_validation(experiment, list(arms.values()), seeds).best
        mine = [cell for cell in done if cell[0] == wanted and seed in (None, cell[1])]
        which = f"student{f' of arm {wanted}' if wanted else ''}{f' with seed {seed}' if seed is not None else ''}"
        require(bool(mine), f"no finished {which} in {folder}; train it with: gankd student {folder}")
        task = experiment.splits.task
        measured = {cell: dict((stages.students[cell].result or {})["val"]) for cell in mine}
        best = max(mine, key=lambda cell: (1 if task.higher_is_better else -1) * measured[cell][task.metric])
        model = arms[best[0]].recipe(recipe).student.model
        found = Exported(path, model, best[0], best[1], measured[best], arms[best[0]].role)
        facts = {"arm": found.arm, "seed": found.seed, "val": found.val}
        save_model(path, student_of(experiment, arms[best[0]], best[1], stages), model, task, facts)
    return found
