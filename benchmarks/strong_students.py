"""Students that are as strong as their user could make them: augmented like the teacher, trained longer, mixed.

    python benchmarks/strong_students.py digits
    python benchmarks/strong_students.py cifar-scarce --data cifar.npz --runs runs/strong

Trains each arm of `GRID` for its recipe and appends the metric of every student on the VALIDATION images, as soon as it
is trained, to benchmarks/results/strong_students.jsonl; students in that file are not trained again. Settings may be
chosen by these figures; test images are not touched. The recipe's teacher, generator and pool are made once, in the
folder RUNS/RECIPE. `--page` writes benchmarks/results/strong_students.md from the file.
"""

import argparse
import json
import statistics
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from gankd.config import override
from gankd.console import Console
from gankd.data.augment import Augmentation
from gankd.recipes import RECIPES
from gankd.recipes.arms import Arm
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.experiment import Experiment
from gankd.runs import Run

RESULTS = Path(__file__).parent / "results"
FOUND = RESULTS / "strong_students.jsonl"
PAGE = RESULTS / "strong_students.md"
CHOSEN = "student.fake_choices=4", "student.fake_until=0.9"
"""Of four generated images the one that the student fits least; the last tenth of the updates on real images."""
ARMS = {
    "real": {},
    "KD": {"loss": True},
    "cGAN-KD": {"images": "adjusted"},
    "cGAN-KD + KD": {"images": "adjusted", "loss": True},
    "chosen + KD": {"images": "adjusted", "loss": True, "settings": CHOSEN},
    "no real image": {"images": "adjusted", "settings": ("student.fake_share=1",)},
    "no real image + KD": {"images": "adjusted", "loss": True, "settings": ("student.fake_share=1",)},
}
"""The columns: name to fields of the arm; `loss=True` stands for the recipe's student.loss."""
WITH_REAL = tuple(name for name in ARMS if not name.startswith("no real"))


@dataclass(frozen=True)
class Setting:
    """A row of the table: one way to be strong, for some columns."""

    text: str
    augment: tuple[Augmentation, ...]
    updates: int
    views: int | str = "online"
    mix: str = "none"
    arms: tuple[str, ...] = tuple(ARMS)


TEACHERS: dict[str, tuple[Augmentation, ...]] = {
    "digits": ("shift", "rotate", "scale"),
    "rotated-digits": ("shift", "scale"),
    "steering-scarce": ("shift", "scale", "colour", "rotate"),
    "cifar-scarce": ("shift", "scale", "flip", "colour"),
}
GRID: dict[str, list[Setting]] = {
    "digits": [
        Setting("no augmentation", (), 2000),
        Setting("teacher's augmentation", TEACHERS["digits"], 2000),
        Setting("teacher's augmentation, 4x", TEACHERS["digits"], 8000, arms=WITH_REAL),
        Setting("teacher's augmentation, mixup", TEACHERS["digits"], 2000, mix="mixup", arms=WITH_REAL),
        Setting("teacher's augmentation, CutMix", TEACHERS["digits"], 2000, mix="cutmix", arms=WITH_REAL),
    ],
    "rotated-digits": [
        Setting("no augmentation", (), 1200),
        Setting("no augmentation, 4x", (), 4800, arms=WITH_REAL),
        Setting("teacher's augmentation", TEACHERS["rotated-digits"], 1200),
        Setting("teacher's augmentation, 4x", TEACHERS["rotated-digits"], 4800, arms=WITH_REAL),
        Setting("teacher's augmentation, C-Mixup", TEACHERS["rotated-digits"], 1200, mix="mixup", arms=WITH_REAL),
    ],
    "steering-scarce": [
        Setting("no augmentation", (), 1200),
        Setting("teacher's augmentation", TEACHERS["steering-scarce"], 1200),
        Setting("teacher's augmentation, 4x", TEACHERS["steering-scarce"], 4800, arms=WITH_REAL),
    ],
    "cifar-scarce": [
        Setting("flip, 4 views", ("flip",), 2000, views=4),
        Setting("teacher's augmentation", TEACHERS["cifar-scarce"], 2000),
        Setting("teacher's augmentation, 3x", TEACHERS["cifar-scarce"], 6000, arms=WITH_REAL),
        Setting("teacher's augmentation, CutMix", TEACHERS["cifar-scarce"], 2000, mix="cutmix", arms=WITH_REAL),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=GRID, nargs="?")
    parser.add_argument("--data", help="file of the recipe's images")
    parser.add_argument("--runs", type=Path, default=Path("runs/strong"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--page", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    if options.recipe:
        train(options.recipe, options.data, options.runs / options.recipe, options.seeds)
    if options.page:
        PAGE.write_text(page())
        print(PAGE)


def train(name: str, data: str | None, folder: Path, seeds: int) -> None:
    """Train the students of a recipe's grid that are not in the file, each seed through all arms in turn."""
    recipe = RECIPES[name]()
    if data is not None:
        recipe = override(recipe, [f"data.root={data}"])
    done = {(row["recipe"], row["setting"], row["arm"], row["seed"]) for row in found()}
    with Run(folder, Console()) as run:
        for seed, setting in product(range(seeds), GRID[name]):
            student = replace(recipe.student, views=setting.views, mix=setting.mix, augment=setting.augment)
            experiment = Experiment.open(replace(recipe, student=student), run)
            for column in setting.arms:
                if (name, setting.text, column, seed) in done:
                    continue
                fields = dict(ARMS[column])
                loss = recipe.student.loss if fields.pop("loss", False) else None
                arm = Arm(name=column, loss=loss, updates=setting.updates, augment=setting.augment, **fields)
                stages = cgan_kd(experiment, [arm], [seed])
                stage = stages.students[column, seed]
                assert stage.result is not None
                metric = experiment.splits.task.metric
                row = {"recipe": name, "setting": setting.text, "arm": column, "seed": seed, "metric": metric}
                row |= {"value": stage.result["val"][metric], "updates": setting.updates, "seconds": stage.seconds}
                with FOUND.open("a") as file:
                    file.write(json.dumps(row) + "\n")


def found() -> list[dict[str, object]]:
    """All students trained so far."""
    return [json.loads(line) for line in FOUND.read_text().splitlines()] if FOUND.exists() else []


def page() -> str:
    """The table: mean and standard error over the seeds."""
    rows = found()
    lines = [
        "# Strong students, on validation images",
        "",
        "Written by `python benchmarks/strong_students.py --page` from strong_students.jsonl. Mean ± standard error of",
        "students (their number in brackets) of one teacher, generator and pool; equal updates in a row, last update.",
        f"Chosen: {', '.join(CHOSEN)}. No real image: student.fake_share=1.",
        "",
    ]
    for recipe, settings in GRID.items():
        own = [row for row in rows if row["recipe"] == recipe]
        if not own:
            continue
        lines += [f"## {recipe}, {own[0]['metric']}", "", f"| setting | updates | {' | '.join(ARMS)} |"]
        lines += [f"|---|---:|{'---:|' * len(ARMS)}"]
        for setting in settings:
            cells = []
            for arm in ARMS:
                values = [
                    float(str(row["value"])) for row in own if row["setting"] == setting.text and row["arm"] == arm
                ]
                cells.append(_cell(values))
            lines.append(f"| {setting.text} | {setting.updates:,} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    spread = f" ± {error:.3g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4g}{spread} ({len(values)})"


if __name__ == "__main__":
    main()
