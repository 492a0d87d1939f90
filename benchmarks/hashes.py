"""Cost of the hashes that files carry: time spent in hashing against the time of each stage, in one process.

    python benchmarks/hashes.py        # or: make bench; python benchmarks/hashes.py turntable measures one recipe

Two recipes with their networks, image sizes and files, and with fewer steps than they have: hashes cost the same then,
so their share is an upper bound. Every call of BLAKE2b counts, reading the file that is hashed included. Writes
benchmarks/results/hashes.md.
"""

import hashlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import RESULTS

import gankd
from gankd.config import override
from gankd.recipes import RECIPES
from gankd.report.gather import machine_facts
from gankd.runs import Stage

SHORT = ("seeds=1", "weak_teacher=accept", "teacher.members=1", "teacher.updates=300", "gan.steps=150")
SHORT += ("gan.health_checks=2", "ratio.epochs=10", "synth.pool=4096", "select.count=1000", "student.updates=300")
SHORTER = ("teacher.updates=100", "gan.steps=30", "synth.pool=1024", "select.count=500", "student.updates=100")
RECIPE_SETTINGS = {"digits": SHORT, "turntable": SHORT + SHORTER}
OUTSIDE = "opening, reading data, report"


class Clock:
    """Seconds of hashing and of everything, by stage."""

    def __init__(self) -> None:
        self.hashing: Counter[str] = Counter()
        self.spent: Counter[str] = Counter()
        self.stage, self.since, self.inside = OUTSIDE, time.perf_counter(), False

    def enter(self, stage: str) -> None:
        now = time.perf_counter()
        self.spent[self.stage] += now - self.since
        self.stage, self.since = stage, now

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.inside:
                return function(*arguments, **named)
            self.inside, begun = True, time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.hashing[self.stage] += time.perf_counter() - begun
                self.inside = False

        return call


def watched(clock: Clock) -> None:
    """Let a clock see stages and hashes."""
    blake2b, file_digest, begin, finish = hashlib.blake2b, hashlib.file_digest, Stage.begin, Stage.finish

    class Digest:
        def __init__(self, data: Any = b"", **settings: Any) -> None:
            self.digest_object = clock.timed(blake2b)(data, **settings)
            self.update = clock.timed(self.digest_object.update)
            self.digest, self.hexdigest = self.digest_object.digest, self.digest_object.hexdigest

    def begun(self: Stage) -> None:
        if self._whole is None:
            clock.enter(self.name.partition("-")[0])
        begin(self)

    def finished(self: Stage, **result: Any) -> None:
        finish(self, **result)
        if self._whole is None:
            clock.enter(OUTSIDE)

    def whole(file: Any, _: Any) -> Any:
        return file_digest(file, lambda: blake2b(digest_size=16))

    hashlib.blake2b = Digest  # type: ignore[misc,assignment]
    hashlib.file_digest = clock.timed(whole)
    Stage.begin, Stage.finish = begun, finished  # type: ignore[method-assign]


def main() -> None:
    """Run both recipes, and look at each finished run again."""
    clock, lines = Clock(), []
    watched(clock)
    for name in sys.argv[1:] or RECIPE_SETTINGS:
        recipe = override(RECIPES[name](), RECIPE_SETTINGS[name])
        with tempfile.TemporaryDirectory() as folder:
            clock.hashing.clear(), clock.spent.clear()
            clock.enter(OUTSIDE)
            gankd.run(recipe, Path(folder) / "run", arms=["real_matched", "adjusted_kd"])
            clock.enter(OUTSIDE)
            stages = {stage: (clock.hashing[stage], clock.spent[stage]) for stage in clock.spent}
            total = sum(spent for _, spent in stages.values())
            stages["all"] = (sum(clock.hashing.values()), total)
            clock.hashing.clear()
            gankd.run(recipe, Path(folder) / "run", arms=["real_matched", "adjusted_kd"])
            stages["the finished run again, against the time above"] = (sum(clock.hashing.values()), total)
        for stage, (hashing, spent) in stages.items():
            lines.append(f"| {name} | {stage} | {spent:.1f} | {1000 * hashing:.1f} | {100 * hashing / spent:.3f} |")
            print(lines[-1], flush=True)
    text = [
        "# Hashes",
        "",
        f"Written on {time.strftime('%Y-%m-%d')} by `python benchmarks/hashes.py`, gankd {gankd.__version__}, "
        f"{', '.join(str(fact) for fact in machine_facts().values())}. Settings: `{' '.join(SHORT)}`; turntable with "
        f"`{' '.join(SHORTER)}`. Seconds of the clock, in one process; hashing includes reading the files.",
        "",
        "| recipe | stage | seconds | hashing, ms | share % |",
        "|---|---|---|---|---|",
        *lines,
    ]
    (RESULTS / "hashes.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
