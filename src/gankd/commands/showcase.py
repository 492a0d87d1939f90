"""The demonstration and the evidence: a class recipe and a regression recipe, one page, honest numbers."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gankd.commands.stages import RunResult, opened, run
from gankd.console import Console, duration
from gankd.recipes.arms import CONTROLS, METHODS
from gankd.recipes.config import RECIPES
from gankd.report.gather import gather, machine_facts
from gankd.report.page import write_index
from gankd.report.tables import markdown_table
from gankd.storage import atomic, write_json

DEMO = ("digits", "rotated-digits")
EVIDENCE = ("digits", "rotated-digits", "turntable")


def demo(out: Path, *, seeds: int | None, workers: int, console: Console, as_json: bool) -> None:
    """Run both recipes, print their tables, the time taken and the path of the page."""
    start = time.monotonic()
    results = _run_all(DEMO, out, seeds or 3, workers, console)
    page = _index(results, out)
    if as_json:
        print(json.dumps({"event": "result", "runs": [result.to_dict() for result in results], "report": str(page)}))
        return
    for result in results:
        print(f"\n{result.recipe}\n{result.table}\n\n{result.headline}")
    print(f"\ntime:   {duration(time.monotonic() - start)}\nreport: {page}")


def evidence(out: Path, docs: Path, *, seeds: int | None, workers: int, console: Console) -> None:
    """Run all embedded recipes with five seeds or more; write docs/evidence.json and docs/evidence.md."""
    start = time.monotonic()
    results = _run_all(EVIDENCE, out, seeds or 5, workers, console)
    _index(results, out)
    rows = [row for result in results for row in result.rows]
    write_json(docs / "evidence.json", rows)
    with atomic(docs / "evidence.md") as temporary:
        temporary.write_text(evidence_page(results, time.monotonic() - start))
    for result in results:
        print(f"\n{result.recipe}\n{result.table}\n\n{result.headline}")
    print(f"\nwritten: {docs / 'evidence.md'}, {docs / 'evidence.json'}")


def evidence_page(results: Sequence[RunResult], seconds: float) -> str:
    """The evidence as Markdown: where the method pays and where it does not."""
    machine = ", ".join(f"{name} {value}" for name, value in machine_facts().items())
    lines = [
        "# Evidence",
        "",
        "Written by `make evidence`; do not edit. Each student is measured at its last update on test images that no "
        "setting was chosen on. Differences are paired by seed, with Student's 95 % interval; positive is better. "
        "Seeds vary the student (weights, order, augmentation), over one teacher, generator and synthetic set.",
        "",
        f"Machine: {machine}. Time: {duration(seconds)}.",
    ]
    for result in results:
        lines += ["", f"## {result.recipe}", "", result.headline, "", markdown_table(result.arms, result.task)]
    lines += ["", "## Where it pays", ""]
    for result in results:
        for arm in result.arms:
            if arm.arm not in METHODS:
                continue
            above = [name for name in CONTROLS if name in arm.vs and arm.vs[name].low > 0]
            verdict = {0: "beats neither control", 1: f"beats {' '.join(above)} only"}.get(
                len(above), "beats both update-matched controls"
            )
            lines.append(f"- {result.recipe}, {arm.title}: {verdict}.")
    return "\n".join(lines) + "\n"


def _run_all(names: Sequence[str], out: Path, seeds: int, workers: int, console: Console) -> list[RunResult]:
    results = []
    for name in names:
        console.say(f"== {name}")
        recipe = replace(RECIPES[name](), seeds=seeds)
        results.append(run(recipe, out / name, workers=workers, console=console))
    return results


def _index(results: Sequence[RunResult], out: Path) -> Path:
    pages = []
    for result in results:
        recipe = replace(RECIPES[result.recipe](), seeds=len(result.arms[0].seeds))
        with opened(recipe, out / result.recipe) as method:
            pages.append((gather(method, result.arms, result.headline_arm), f"{result.recipe}/report.html"))
    write_index(pages, out / "report.html")
    return out / "report.html"
