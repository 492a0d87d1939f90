"""The best trained student of a run as one file, for this package, for a device, and with a page that describes it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from gankd.bench.compare import chosen_by_validation, compare_pipelines, student_of
from gankd.bench.shipment import Shipment, ship
from gankd.bench.trained import Trained
from gankd.commands.predict import guarantee
from gankd.commands.stages import finished_arms, opened
from gankd.commands.stages import write_page as write_report_of
from gankd.config import require, suggest
from gankd.console import Console
from gankd.errors import ConfigError
from gankd.models.exported import SUFFIXES, Format, endings
from gankd.recipes.arms import Role
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.config import Recipe
from gankd.recipes.live import Given
from gankd.recipes.stages import declare
from gankd.report.facts import EXPORTS
from gankd.report.student_card import student_card
from gankd.report.tables import markdown_table
from gankd.storage import atomic, read_json, write_hashed_json
from gankd.tasks import Task


@dataclass(frozen=True)
class Exported:
    """The exported student, its file and its page."""

    path: Path
    page: Path
    model: str
    arm: str
    seed: int
    val: dict[str, float]
    role: Role
    task: Task
    check: Shipment
    limit: str

    @property
    def text(self) -> str:
        """The student, how its file compares with PyTorch, and its limit."""
        measured = ", ".join(f"{name} {value:.4g}" for name, value in self.val.items())
        arm = f"arm {self.arm}{' (a control: no generated images)' if self.role == 'control' else ''}"
        lines = [
            f"{self.path}: {self.model}, {arm}, seed {self.seed}; on validation images {measured}",
            f"on {self.check.images:,} test images: {self.check.text(self.task)}",
            self.limit,
            f"card: {self.page}",
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        plain = {name: value for name, value in vars(self).items() if name not in ("task", "check")}
        return {**plain, "path": str(self.path), "page": str(self.page), "check": vars(self.check)}


def export(
    recipe: Recipe,
    folder: Path | str,
    out: Path | str | None = None,
    *,
    arm: str | None = None,
    seed: int | None = None,
    form: Format | None = None,
    int8: bool = False,
    train_int8: bool = False,
    console: Console | None = None,
    **given: Unpack[Given],
) -> Exported:
    """Write one finished student, chosen on validation images if it is not named, and a page about it.

    `open_exported` and `gankd predict` read every format. A graph (.onnx, .pt2, .pte) takes uint8 images (N, C, H, W)
    of any size and returns probabilities (N, K) or values; a .safetensors file holds plain weights, see `load_model`.

    Args:
        recipe: settings of the run.
        folder: its folder.
        out: the file; default: student.safetensors, .onnx, .pt2 or .pte in the folder. The page has its name and ends
            in .md.
        arm: which one; default: the best of all arms on validation images, controls included.
        seed: which one; default: the best of the arm on validation images.
        form: kind of file; default: as `out` ends, or safetensors.
        int8: convolutions and linear layers in 8-bit whole numbers, calibrated on training images; onnx only. The
            report, if there is one, gets a row of it.
        train_int8: first train the student on for a tenth of its updates, rounded to int8 (`Arm.int8`); implies int8.
        console: where progress of that training is shown.
        given: what the run had in memory, as for `run`.

    Raises:
        ConfigError: no such student is finished, or a name that is none.
        ModelError: a network cannot be exported, or the extra onnx or executorch is missing.
    """
    int8 = int8 or train_int8
    form, path = _form_and_path(Path(folder), None if out is None else Path(out), form, int8)
    with opened(recipe, folder, console, **given) as experiment:
        arms = {each.name: each for each in finished_arms(experiment)}
        require(arm is None or arm in arms, f"no arm {arm!r}; {suggest(arm or '', arms)}")
        best = Trained(experiment, list(arms.values())).cell(arm, seed)
        if best is None:
            which = f"student{f' of arm {arm}' if arm else ''}{f' with seed {seed}' if seed is not None else ''}"
            raise ConfigError(f"no finished {which} in {folder}; train it with: gankd student {folder}")
        mine, task = arms[best[0]], experiment.splits.task
        stages = declare(experiment, [mine], [best[1]])
        if train_int8 and not mine.int8:
            mine = replace(mine, name=f"{mine.name}_int8", title=f"{mine.title}, trained in int8", int8=True)
            best = (mine.name, best[1])
            stages = cgan_kd(experiment, [mine], [best[1]])
        measured = dict((stages.students[best].result or {})["val"])
        name = mine.recipe(experiment.recipe).student.network
        student = student_of(experiment, mine, best[1], stages).cpu().eval()
        facts = {"arm": best[0], "seed": best[1], "val": measured}
        check, written = ship(path, student, name, experiment.splits, facts, form=form, int8=int8)
        limit = guarantee(written)
        page = path.with_suffix(".md")
        choice = chosen_by_validation(experiment, list(arms.values()))
        arms_table = markdown_table(compare_pipelines(experiment, list(arms.values())).arms, task, choice)
        with atomic(page) as temporary:
            temporary.write_text(student_card(path.name, written.card, check, experiment.splits, arms_table, limit))
        _record(experiment.run.folder, path, f"{mine.title}, seed {best[1]}", written.card, check)
        if int8 and (experiment.run.folder / "report.html").is_file():
            write_report_of(experiment)
    return Exported(path, page, name, *best, measured, mine.role, task, check, limit)


def _record(run: Path, path: Path, student: str, card: dict[str, Any], check: Shipment) -> None:
    """Keep what was measured on a file for the report; a file that is written again has one row."""
    kept, name = run / EXPORTS, str(path.absolute())
    rows = read_json(kept)["files"] if kept.is_file() else []
    row = {"file": name, "student": student, "form": card["format"], "int8": card["int8"]}
    row |= {"bytes": path.stat().st_size, "check": vars(check)}
    write_hashed_json(kept, {"files": [*(row for row in rows if row["file"] != name), row]})


def _form_and_path(folder: Path, out: Path | None, form: Format | None, int8: bool) -> tuple[Format, Path]:
    by_suffix: dict[str, Format] = {suffix: name for name, suffix in SUFFIXES.items()}
    require(out is None or out.suffix in by_suffix, f"--to must end in {endings()}, got {out}")
    form = form or (by_suffix[out.suffix] if out is not None else "onnx" if int8 else "safetensors")
    path = folder / f"student{SUFFIXES[form]}" if out is None else out
    require(path.suffix == SUFFIXES[form], f"--format {form} writes a file that ends in {SUFFIXES[form]}, got {path}")
    require(not int8 or form == "onnx", f"--int8 needs --format onnx, got {form}")
    return form, path
