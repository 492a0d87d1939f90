"""`gankd demo` and `gankd evidence`: recipes for classes and for values on one page."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gankd.bench.stats import mean_stderr
from gankd.commands.stages import RunResult, opened, run
from gankd.console import Console
from gankd.recipes.arms import DEFAULT_ARMS, methods_of
from gankd.recipes.config import Recipe
from gankd.recipes.ready import RECIPES
from gankd.report.gather import gather, machine_facts
from gankd.report.page import write_index
from gankd.report.tables import EXPLAINED, length_note, markdown_table, time_note
from gankd.storage import atomic, write_json
from gankd.text import Table, duration, plus_minus, wrap

METHODS = methods_of(DEFAULT_ARMS.values())
DEMO = ("digits", "rotated-digits")
DEMO_CAP = 2.0
"""Most updates of the demo's controls at equal time, in units of the others': with the default of 8 they would take
longer than all else together."""
EVIDENCE = ("digits", "digits-all", "rotated-digits", "turntable")


def demo(out: Path, *, seeds: int | None, workers: int, console: Console) -> tuple[list[RunResult], Path]:
    """Run both recipes.

    Returns:
        Their results and the path of one page on both.
    """
    recipes = _recipes(DEMO, 3 if seeds is None else seeds)
    recipes = [replace(recipe, time_cap=min(recipe.time_cap, DEMO_CAP)) for recipe in recipes]
    results = _run_all(recipes, out, workers, console)
    page, _ = _index(results, recipes, out)
    return results, page


def evidence(
    out: Path, docs: Path, *, seeds: int | None, pipelines: int | None, workers: int, console: Console
) -> tuple[list[RunResult], Path]:
    """Run all embedded recipes over several pipelines; write docs/evidence.json, docs/evidence.md and the summary in
    README.md.

    Args:
        out: a folder for each run.
        docs: folder of the pages.
        seeds: students per arm and pipeline; default: 1.
        pipelines: repetitions of everything; default: 3.
        workers: students trained at a time.
        console: shows progress.

    Returns:
        The results and the path of evidence.md.
    """
    recipes = _recipes(EVIDENCE, 1 if seeds is None else seeds, 3 if pipelines is None else pipelines)
    results = _run_all(recipes, out, workers, console)
    _, seconds = _index(results, recipes, out)
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


PAGE_WIDTH = 120
"""Longest line of the README."""
OPENING, CLOSING = "<!-- evidence -->", "<!-- end of evidence -->"


def with_summary(readme: str, results: Sequence[RunResult]) -> str:
    """`readme` with a summary of the results between its two markers; unchanged where it has none."""
    if OPENING not in readme or CLOSING not in readme:
        return readme
    rows = []
    for result in results:
        controls = [arm for arm in result.arms if arm.role == "control"]
        method = next(arm for arm in reversed(result.arms) if arm.name == (result.choice.method or METHODS[-1]))
        matched = [arm for arm in controls if arm.updates == method.updates]
        gains = []
        for against in (matched, controls):
            closest = min((method.vs[control.name] for control in against), key=lambda gain: gain.diff)
            verdict = "none" if closest.verdict == "no difference found" else closest.verdict  # fits PAGE_WIDTH
            gains.append(f"{closest.text()} {verdict}")
        name = f"{result.recipe}, {result.task.metric_unit}"
        rows.append([name, method.title, plus_minus(*mean_stderr(method.values)), *gains])
    head = ["recipe", "chosen arm", "its result", "gain at equal updates", "gain at equal time"]
    note = (
        "Accuracy (%) or mean absolute error on test images, mean ± standard error, and the difference to the control "
        f"that is hardest to beat, with its paired 95 % interval. {_over(results)}"
    )
    lines = [Table(head, rows, align="llrrr").markdown(), "", *wrap(note, PAGE_WIDTH)]
    before, after = readme.split(OPENING)[0], readme.split(CLOSING, 1)[1]
    return "\n".join([before + OPENING, *lines, CLOSING + after])


def evidence_page(results: Sequence[RunResult], seconds: float) -> str:
    """The evidence as Markdown: where generated images help and where they do not."""
    machine = ", ".join(f"{name} {value}" for name, value in machine_facts().items())
    lines = [
        "# Evidence",
        "",
        "Written by `make evidence`; do not edit. Each student is measured at its last update on test images that no "
        "setting was chosen on. Differences are paired, with Student's 95 % interval; positive is better. "
        f"{_over(results)}",
        "",
        EXPLAINED,
        "",
        f"Machine: {machine}. Computing time of all stages: {duration(seconds)}.",
    ]
    for result in results:
        lines += ["", f"## {result.recipe}", "", " ".join(filter(None, [result.headline, result.best])), ""]
        lines += [
            markdown_table(result.arms, result.task, result.choice),
            *(f"\n{note}." for note in (*time_note(result.arms), *length_note(result.arms, result.task))),
        ]
    lines += ["", "## Where generated images help", ""]
    for result in results:
        titles = {arm.name: arm.title for arm in result.arms}
        for arm in result.arms:
            if arm.role == "method" and arm.vs:
                above = [f'"{titles[name]}"' for name, gain in arm.vs.items() if gain.verdict == "better"]
                beaten = f"only {' and '.join(above)}" if above else "no control"
                beaten = "every control" if len(above) == len(arm.vs) else beaten
                lines.append(f'- {result.recipe}, "{arm.title}": beats {beaten}.')
    return "\n".join(lines) + "\n"


def _over(results: Sequence[RunResult]) -> str:
    """Unit over which the intervals are, as a sentence."""
    arm = results[0].arms[0]
    if arm.over == "pipeline":
        return f"Intervals are over {len(arm.seeds)} pipelines, each with a teacher, generator and students of its own."
    return (
        f"Intervals are over {len(arm.seeds)} students (weights and order of batches), which share one teacher, "
        "generator and pool."
    )


def _recipes(names: Sequence[str], seeds: int, pipelines: int = 1) -> list[Recipe]:
    return [replace(RECIPES[name](), seeds=seeds, pipelines=pipelines) for name in names]


def _run_all(recipes: Sequence[Recipe], out: Path, workers: int, console: Console) -> list[RunResult]:
    results = []
    for recipe in recipes:
        console.say(f"== {recipe.name}")
        results.append(run(recipe, out / recipe.name, workers=workers, console=console))
    return results


def _index(results: Sequence[RunResult], recipes: Sequence[Recipe], out: Path) -> tuple[Path, float]:
    """Write one page on all runs.

    Returns:
        Its path and the computing time of all stages.
    """
    pages = []
    for result, recipe in zip(results, recipes, strict=True):
        with opened(recipe, out / result.recipe) as experiment:
            data = gather(experiment, [found.arm for found in result.arms], result.comparison, result.choice)
            pages.append((data, f"{result.recipe}/report.html"))
    write_index(pages, out / "report.html")
    return out / "report.html", sum(data.seconds for data, _ in pages)
