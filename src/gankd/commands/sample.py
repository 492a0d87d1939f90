"""Images from a trained generator, read from only its checkpoint."""

import csv
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from gankd.commands.stages import RUNS, stored_run
from gankd.config import require, to_dict
from gankd.errors import CheckpointError, ConfigError, GankdError
from gankd.hub import is_hub
from gankd.recipes.code import named_code
from gankd.recipes.from_hub import pulled_generator
from gankd.recipes.generated import load_generator, sample_images
from gankd.report.grids import image_grid
from gankd.storage import atomic
from gankd.tasks import Task

MOST_IMAGES = 10_000
"""Maximum images per call; larger grids are unreadable."""


def sample(source: Path | str, labels: str, *, count: int, out: Path | str, seed: int = 0, trust: bool = False) -> Path:
    """Write `count` images per label: one grid (a row per label) where `out` ends in .png, else a folder of files.

    Args:
        source: generator.safetensors, the folder of a gan stage, a run folder (its newest generator), a recipe
            (for runs/RECIPE), or hf:user/name.
        labels: "cat,dog", with quotes around a name whose parts between commas are classes, too; "0,1,2", unless
            numbers are names of classes; values "10,20.5" or a range "0:90:10", both ends included; labels of several
            values one after the other, where ranges give all combinations: "3,5,8:24:4" is five labels of three.
        count: images per label.
        out: a file ending in .png, or a folder.
        seed: of the noise.
        trust: run the code that the file names if the generator is somebody's own.

    Raises:
        CheckpointError: no generator there. TrustError: it is code that is not trusted. ConfigError: labels that the
            generator does not know.
    """
    require(count >= 1, f"--count must be at least 1, got {count}")
    if is_hub(str(source)):
        source = pulled_generator(str(source))
    path, out = _find(Path(source)), Path(out)
    generator = load_generator(path, trust=trust, trusted=_trusted(path.parent.parent))
    task = generator.task
    wanted = parse_labels(labels, task)
    total = len(wanted) * count
    require(total <= MOST_IMAGES, f"--count {count} for {len(wanted)} labels is more than {MOST_IMAGES:,} images")
    images = sample_images(generator, wanted.repeat_interleave(count, 0), seed, "sample")
    if out.suffix.lower() == ".png":
        grid = image_grid(images, columns=count, scale=max(1, 64 // images.shape[-1]))
        with atomic(out) as temporary:
            grid.save(temporary, format="png")
        return out
    for number, image in enumerate(images):
        label = wanted[number // count]
        name = task.label_name(label)
        if name in ("", ".", "..") or "/" in name or "\\" in name:  # no path that leads elsewhere
            name = f"label {label.tolist()}"
        path = out / name / f"{number:05d}.png"
        with atomic(path) as temporary:
            image_grid(image[None], columns=1, padding=0).save(temporary, format="png")
    return out


def _find(source: Path) -> Path:
    if source.is_file():
        return source
    folder = source if source.exists() else RUNS / source
    found = [*folder.glob("generator.safetensors"), *folder.glob("gan-*/generator.safetensors")]
    if not found:
        raise CheckpointError(f"no generator.safetensors in {source}; train one with: gankd gan RECIPE")
    return max(found, key=lambda path: path.stat().st_mtime)


def _trusted(folder: Path) -> set[str]:
    """Code that the user's own run around a generator names."""
    with suppress(GankdError):
        recipe, arms = stored_run(folder)
        return named_code([to_dict(recipe), arms])
    return set()


def parse_labels(text: str, task: Task) -> Tensor:
    """Labels as typed by a person, in the task's type.

    Raises:
        ConfigError: not labels of this task.
    """
    cells = next(csv.reader([text], skipinitialspace=True), [])  # quotes hold a name with a comma together
    parts = [part.strip() for part in cells if part.strip()]
    require(bool(parts), "--labels needs at least one label, got none")
    try:
        return task.labels_from(parts, MOST_IMAGES)
    except ConfigError as error:
        raise ConfigError(f"--labels: {error}") from None
