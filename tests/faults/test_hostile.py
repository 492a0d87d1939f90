"""Inputs made to harm: each is refused in one line, within memory and time."""

import json
import multiprocessing
import os
import runpy
from pathlib import Path

from outcomes import PRELOAD

VARIANTS = 6 if "NIGHTLY" in os.environ else 1
"""Inputs per cause: `make nightly` tries more."""


def test_hostile_inputs_are_refused_within_limits(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    names = {"ROOT": str(tmp_path), "VARIANTS": VARIANTS, "NAMES": None}
    child = context.Process(target=runpy.run_path, args=(str(Path(__file__).parent / "hostile.py"), names))
    child.start()
    child.join()
    assert child.exitcode == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["problems"] == {}
    assert report["causes"] >= 40
    print(f"{report['causes'] * VARIANTS} inputs of {report['causes']} causes, {report['seconds']:.0f} s")
