"""What tests of faults share: imports, tiny settings, and what a command leaves in a folder, compared bit by bit."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from gankd.storage import read_json
from gankd.synthetic import SyntheticSet

PRELOAD = ["gankd.commands", "gankd.report.page", "gankd.report.gather", "sklearn.datasets", "torch._dynamo"]
"""What commands import: a process that forks others imports it once."""
TINY = (
    "seeds=2",
    "time_cap=1",
    "weak_teacher=accept",
    "data.num_train=80",
    "teacher.model=cnn8",
    "teacher.members=1",
    "teacher.updates=60",
    "teacher.lr=0.02",
    "teacher.augment=[]",
    "gan.steps=6",
    "gan.batch_size=16",
    "gan.width_g=4",
    "gan.width_d=4",
    "gan.z_dim=4",
    "gan.embedding_width=8",
    "gan.health_checks=1",
    "gan.ili_updates=4",
    "ratio.epochs=3",
    "ratio.hidden=[32]",
    "ratio.dropout=[0.2]",
    "synth.pool=768",
    "select.count=100",
    "student.model=cnn4",
    "student.updates=6",
)
"""Every stage in about three seconds."""


PAGES = {".lock", "run.json", "report.html", "bench.md", "bench.html", "bench.json", "page.md", "exports.json"}
"""Files that hold times and paths."""


def outcome(folder: Path) -> dict[str, Any]:
    """All that a command has found, without times, paths and the order of lines; leftovers are found, too."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name in PAGES:
            continue
        if path.suffix == ".safetensors":
            found[name] = load_file(path)
        elif path.name == "done.json":
            found[name] = read_json(path)["result"]
        elif path.name == "manifest.json":
            pool = SyntheticSet(path.parent)
            found[name] = [pool.images(), pool.teacher_outputs(), pool.labels, pool.log_ratio]
        elif path.name == "results.json":
            results = read_json(path)
            found[name] = [results["headline"], results["arms"]]
        elif path.name == "cells.jsonl":
            cells = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = sorted((cell["method"], cell["seed"], cell["stage"], str(cell["test"])) for cell in cells)
        elif path.name == "page.json":
            found[name] = [
                [row["loss"], row["alone_values"], row["fakes_values"]] for row in json.loads(path.read_text())
            ]
        elif path.suffix == ".npy":
            pass  # arrays of a pool, which come with its manifest: their files may be smaller
        elif path.suffix == ".json" and "config" not in path.name:
            found[name] = None  # it is there
        else:
            found[name] = path.read_bytes()
    return found


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Names of what differs; empty: nothing."""
    names = sorted(found.keys() ^ expected.keys())
    names += [name for name in found.keys() & expected.keys() if not same(found[name], expected[name])]
    return ", ".join(names)
