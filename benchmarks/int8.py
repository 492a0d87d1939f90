"""Do generated images still help after quantisation to int8, and does training in int8 pay?

    python benchmarks/int8.py                         5 seeds, digits and rotated-digits
    python benchmarks/int8.py digits --runs runs      with teacher, generator and pool of an earlier run

Every student is exported to ONNX three times: as it is, quantised after training (--int8), and quantised after a tenth
of its updates more in int8 (--train-int8). Figures are of the files, on test images; nothing was chosen by them. Writes
benchmarks/results/int8.json and int8.md.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gankd.bench.shipment import ship
from gankd.bench.stats import mean_stderr, paired_interval
from gankd.config import override
from gankd.console import Console
from gankd.recipes import RECIPES
from gankd.recipes.arms import Arm, arm_named
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.experiment import Experiment
from gankd.recipes.students import restore_student
from gankd.report.gather import machine_facts
from gankd.runs import Run
from gankd.storage import read_json, write_json
from gankd.text import Table, plus_minus

RESULTS = Path(__file__).parent / "results"
ARMS = {"real_matched": "labels", "kd_matched": "KD", "adjusted": "cGAN-KD", "adjusted_kd": "cGAN-KD + KD"}
PAIRS = (("adjusted", "real_matched"), ("adjusted_kd", "kd_matched"))
KINDS = {"float32": "float32", "int8": "int8", "trained": "int8, trained in it"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="default: digits rotated-digits")
    parser.add_argument("--runs", type=Path, default=Path("runs/int8"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = RESULTS / "int8.json"
    found: dict[str, Any] = read_json(kept) if kept.is_file() else {}
    for name in options.recipes or ["digits", "rotated-digits"]:
        found[name] = measured(name, options.runs / name, options.seeds)
        write_json(kept, found)
    (RESULTS / "int8.md").write_text(page(found))
    print(RESULTS / "int8.md")


def measured(name: str, folder: Path, seeds: int) -> dict[str, Any]:
    """The metric of every file by kind and arm, and the speed of int8."""
    recipe = override(RECIPES[name](), ["time_cap=1", f"seeds={seeds}"])
    with Run(folder, Console()) as run, tempfile.TemporaryDirectory() as files:
        experiment = Experiment.open(recipe, run)
        plain = [arm_named(recipe, arm) for arm in ARMS]
        trained = [replace(arm, name=f"{arm.name}_int8", int8=True) for arm in plain]
        stages = cgan_kd(experiment, [*plain, *trained], range(seeds))
        values: dict[str, dict[str, list[float]]] = {kind: {arm: [] for arm in ARMS} for kind in KINDS}
        speeds = []

        def check(arm: Arm, seed: int) -> tuple[float, float]:
            student = restore_student(experiment, arm, stages.students[arm.name, seed]).cpu().eval()
            path, network = Path(files) / "student.onnx", recipe.student.network
            found = ship(path, student, network, experiment.splits, {}, form="onnx", int8=True)[0]
            assert found.speedup is not None
            speeds.append(found.speedup)
            metric = experiment.splits.task.metric
            return found.expected[metric], found.metrics[metric]

        for arm, longer in zip(plain, trained, strict=True):
            for seed in range(seeds):
                exact, int8 = check(arm, seed)
                values["float32"][arm.name].append(exact)
                values["int8"][arm.name].append(int8)
                values["trained"][arm.name].append(check(longer, seed)[1])
        task = experiment.splits.task
    return {
        "student": recipe.student.model,
        "metric": f"{task.metric} {task.metric_unit}".strip(),
        "higher_is_better": task.higher_is_better,
        "seeds": seeds,
        "values": values,
        "speedup": statistics.median(speeds),
        "machine": machine_facts(),
    }


def page(found: dict[str, Any]) -> str:
    lines = [
        "# int8",
        "",
        "Written by `python benchmarks/int8.py`. Mean ± standard error over seeds, on test images, of the files that "
        "`gankd export` writes. Gains are paired by seed, with Student's 95 % interval; + is better. All students of a "
        "recipe share teacher, generator and pool.",
    ]
    for name, each in found.items():
        values, better = each["values"], each["higher_is_better"]

        def gain(own: Sequence[float], other: Sequence[float], better: bool = better) -> str:
            interval = paired_interval(own, other, higher_is_better=better)
            return f"{interval.text()} ({interval.verdict})"

        rows = [[ARMS[arm], *(plus_minus(*mean_stderr(values[kind][arm])) for kind in KINDS)] for arm in ARMS]
        rows += [
            [f"{ARMS[own]} against {ARMS[other]}", *(gain(values[kind][own], values[kind][other]) for kind in KINDS)]
            for own, other in PAIRS
        ]
        costs = [
            [ARMS[arm], *(gain(values[kind][arm], values["float32"][arm]) for kind in list(KINDS)[1:])] for arm in ARMS
        ]
        machine = ", ".join(f"{key} {value}" for key, value in each["machine"].items())
        lines += ["", f"## {name}: {each['student']}, {each['metric']}, {each['seeds']} seeds", ""]
        lines += [Table(["student", *KINDS.values()], rows).markdown(), "", "Against the same student in float32:", ""]
        lines += [Table(["student", *list(KINDS.values())[1:]], costs).markdown(), ""]
        lines += [
            f"One image at a time on one thread, int8 is {each['speedup']:.2f} times as fast as float32 ({machine})."
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
