"""The demonstration and the evidence: a class recipe and a regression recipe, one page, honest numbers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gankd.bench.stats import mean_stderr
from gankd.commands.stages import RunResult, opened, run
from gankd.console import Console
from gankd.recipes.arms import CONTROLS, METHODS
from gankd.recipes.ready import RECIPES
from gankd.report.gather import gather, machine_facts
from gankd.report.page import write_index
from gankd.report.tables import markdown_table
from gankd.storage import atomic, write_json
from gankd.text import duration

DEMO = ("digits", "rotated-digits")
EVIDENCE = ("digits", "digits-all", "rotated-digits", "turntable")


def demo(out: Path, *, seeds: int | None, workers: int, console: Console) -> tuple[list[RunResult], Path]:
    """Run both recipes; returns their results and the path of one page on both."""
    results = _run_all(DEMO, out, 3 if seeds is None else seeds, workers, console)
    page, _ = _index(results, out)
    return results, page


def evidence(
    out: Path, docs: Path, *, seeds: int | None, workers: int, console: Console
) -> tuple[list[RunResult], Path]:
    """Run all embedded recipes with five seeds or more; write docs/evidence.json and docs/evidence.md.

    Returns:
        The results and the path of evidence.md.
    """
    results = _run_all(EVIDENCE, out, 5 if seeds is None else seeds, workers, console)
    _, seconds = _index(results, out)
    write_json(docs / "evidence.json", [row for result in results for row in result.rows])
    page = docs / "evidence.md"
    with atomic(page) as temporary:
        temporary.write_text(evidence_page(results, seconds))
    readme = docs.parent / "README.md"
    if readme.is_file():
        text = readme.read_text()
        with atomic(readme) as temporary:
            temporary.write_text(with_summary(text, results))
    return results, page


OPENING, CLOSING = "<!-- evidence -->", "<!-- end of evidence -->"


def with_summary(readme: str, results: Sequence[RunResult]) -> str:
    """`readme` with a summary of the results between its two markers; unchanged where it has none."""
    if OPENING not in readme or CLOSING not in readme:
        return readme
    lines = ["| recipe | student | real, equal updates | KD, equal updates | cGAN-KD | gain over the better control |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    for result in results:
        arms = {arm.arm: arm for arm in result.arms}
        method = arms[result.headline_arm or METHODS[-1]]
        controls = [arms[name] for name in CONTROLS]
        closest = min((method.vs[name] for name in CONTROLS), key=lambda interval: interval.diff)
        means = [mean_stderr(arm.values) for arm in (*controls, method)]
        cells = " | ".join(f"{mean:.2f} ± {error:.2f}" for mean, error in means)
        gain = f"{closest.diff:+.2f} [{closest.low:+.2f}, {closest.high:+.2f}] {closest.verdict}"
        name = f"{result.recipe} ({result.task.metric} {result.task.metric_unit})"
        lines.append(f"| {name} | {method.title} | {cells} | {gain} |")
    seeds = len(results[0].arms[0].seeds)
    lines += [
        "",
        f"Test images, mean ± standard error over {seeds} students, paired 95 % interval; a recipe's students share "
        "one teacher, one generator and one choice of training images.",
    ]
    before, after = readme.split(OPENING)[0], readme.split(CLOSING, 1)[1]
    return "\n".join([before + OPENING, *lines, CLOSING + after])


def evidence_page(results: Sequence[RunResult], seconds: float) -> str:
    """The evidence as Markdown: where the method pays and where it does not."""
    machine = ", ".join(f"{name} {value}" for name, value in machine_facts().items())
    lines = [
        "# Evidence",
        "",
        "Written by `make evidence`; do not edit. Each student is measured at its last update on test images that no "
        "setting was chosen on. Differences are paired by seed, with Student's 95 % interval; positive is better. "
        "Seeds vary the student (weights and order of batches), over one teacher, generator and synthetic set.",
        "",
        f"Machine: {machine}. Computing time of all stages: {duration(seconds)}.",
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
    recipes = {name: replace(RECIPES[name](), seeds=seeds) for name in names}
    results = []
    for name, recipe in recipes.items():
        console.say(f"== {name}")
        results.append(run(recipe, out / name, workers=workers, console=console))
    return results


def _index(results: Sequence[RunResult], out: Path) -> tuple[Path, float]:
    """One page on all runs, and the computing time that went into them."""
    pages = []
    for result in results:
        recipe = replace(RECIPES[result.recipe](), seeds=len(result.arms[0].seeds))
        with opened(recipe, out / result.recipe) as method:
            pages.append((gather(method, result.arms, result.headline_arm), f"{result.recipe}/report.html"))
    write_index(pages, out / "report.html")
    return out / "report.html", sum(data.seconds for data, _ in pages)
