"""`gankd push`: a student, teacher or generator of a run, with its card, on the Hugging Face Hub or in a folder."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

from gankd.bench.trained import Trained
from gankd.commands.export import export
from gankd.commands.stages import opened
from gankd.config import require
from gankd.console import Console
from gankd.errors import ModelError
from gankd.hub import HubName, client, is_hub, parse, upload
from gankd.models.contract import Ensemble
from gankd.models.exported import SUFFIXES
from gankd.models.files import save_model
from gankd.recipes.config import Recipe
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import gan_stage
from gankd.recipes.live import Given
from gankd.recipes.teacher import teacher_stage
from gankd.report.hub_page import generator_card, hub_page, teacher_card
from gankd.storage import atomic

Part = Literal["student", "teacher", "generator"]
CARD = "README.md"
USES: dict[Part, str] = {
    "student": "gankd predict {name} PHOTO...",
    "teacher": "gankd run folder --data photos --set teacher.model={name}",
    "generator": "gankd sample {name} --labels LABELS --out samples",
}


@dataclass(frozen=True)
class Pushed:
    """A part of a run on the hub, or in a folder."""

    part: Part
    target: str
    address: str
    """Address of the repository, or the folder."""
    files: tuple[str, ...]
    use: str
    """The command that uses it."""

    @property
    def text(self) -> str:
        """Two lines."""
        return f"{self.address}: {', '.join(self.files)}\nto use it: {self.use}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "files": list(self.files)}


def push(
    recipe: Recipe,
    folder: Path | str,
    to: str,
    *,
    part: Part = "student",
    arm: str | None = None,
    seed: int | None = None,
    form: Literal["safetensors", "onnx"] = "safetensors",
    licence: str = "",
    public: bool = False,
    console: Console | None = None,
    **given: Unpack[Given],
) -> Pushed:
    """Put a part of a finished run, and a page about it, into a repository of the Hugging Face Hub, or into a folder.

    The files are those that gankd reads again under the name hf:user/name; they stay in the folder `push` of the run.

    Args:
        recipe: settings of the run.
        folder: its folder.
        to: hf:user/name, or a folder, which may be looked at before it is pushed by other means.
        part: what is pushed. A generator can repeat some of its training images.
        arm, seed: which student; default: as for `export`.
        form: kind of file of a student.
        licence: of what is pushed, as the hub names it (mit, cc-by-4.0); default: the page says only that of the data.
        public: a new repository is open to everybody; default: private.
        console: progress.
        given: what the run had in memory, as for `run`.

    Raises:
        ConfigError: that part is not finished, or cannot be pushed. ModelError: the extra hub is missing. HubError: the
            hub cannot be reached, or refuses the files.
    """
    wanted = _wanted(to)
    require(part == "student" or (arm is None and seed is None), f"--arm and --seed choose a student, not the {part}")
    require(part == "student" or form == "safetensors", f"--format {form} is for students, not the {part}")
    made = Path(folder) / "push" / part
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    if part == "student":
        found = export(
            recipe, folder, made / f"model{SUFFIXES[form]}", arm=arm, seed=seed, form=form, console=console, **given
        )
        task, page = found.task, found.page.read_text()
        found.page.unlink()
    else:
        with opened(recipe, folder, console, **given) as experiment:
            task = experiment.splits.task
            page = _teacher(experiment, made) if part == "teacher" else _generator(experiment, made)
    use, name = USES[part], to if wanted else ""
    _write(made / CARD, hub_page(page, task, licence, name, use))
    files = tuple(sorted(path.name for path in made.iterdir()))
    if wanted:
        address = upload(made, to, f"{part.capitalize()} of gankd", public=public)
    else:
        address, target = to, Path(to)
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            with atomic(target / file) as temporary:
                shutil.copyfile(made / file, temporary)
        name = str(target / next(file for file in files if file != CARD))
        use = use.replace(
            "teacher.model={name}", f"teacher.model={recipe.teacher.model} --set teacher.weights={{name}}"
        )
    return Pushed(part, to, address, files, use.format(name=name))


def _wanted(to: str) -> HubName | None:
    """The repository, if it is one; refuses early what could not be pushed at the end."""
    if not is_hub(to):
        require(not Path(to).is_file(), f"{to} is a file; give a folder, or hf:user/name")
        return None
    wanted = parse(to)
    require(
        wanted.file is None and wanted.revision is None, f"{to} names more than a repository; give hf:{wanted.repo}"
    )
    client()
    return wanted


def _write(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text)


def _teacher(experiment: Experiment, folder: Path) -> str:
    config, splits = experiment.recipe.teacher, experiment.splits
    require(not config.is_given, "the teacher was given to this run, which did not train it; push its own file")
    teacher = Trained(experiment, ()).teacher.cpu()
    if isinstance(teacher.net, Ensemble):
        raise ModelError("the teacher is the mean of several networks, and a file holds one; set teacher.members=1")
    val = dict((teacher_stage(experiment, config).result or {})["val"])
    save_model(
        folder / "model.safetensors", teacher, config.network, splits.task, {"format": "safetensors", "val": val}
    )
    return teacher_card(config.network, splits, val)


def _generator(experiment: Experiment, folder: Path) -> str:
    config = experiment.recipe.gan
    require(config.external is None, f"the generator is {config.external}, which this run did not train; push that")
    stage = gan_stage(experiment, config, teacher_stage(experiment, experiment.recipe.teacher))
    require(stage.done, f"no finished generator in {experiment.run.folder}; train it with gan or run")
    shutil.copyfile(stage.path("generator.safetensors"), folder / "generator.safetensors")
    return generator_card(experiment.splits, dict((stage.result or {}).get("health", {})))
