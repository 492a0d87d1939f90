"""Time per image and peak memory of everything that grows with the number of images, from 1,000 to 1,000,000.

    python benchmarks/growth.py       # all; the part with Ray stays as it is where Ray is not installed
    python benchmarks/growth.py ray   # only students on local processes and on Ray workers

Images of 8x8 grey pixels and networks that cost next to nothing, so that what is timed is gankd's own work. Each number
is of a process of its own with one thread. Writes benchmarks/results/scale.md.
"""

import gc
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pipeline import RESULTS
from torch import Tensor

from gankd.config import override
from gankd.data.images import LabelledImages
from gankd.data.npz import load_npz
from gankd.engine import Engine
from gankd.models import build_net
from gankd.models.contract import ImageModel, measured, predict
from gankd.processes import joined
from gankd.recipes import RECIPES
from gankd.recipes.arms import arm_named
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.experiment import Experiment
from gankd.recipes.ray_workers import RayWorkers
from gankd.recipes.workers import Workers
from gankd.report.gather import machine_facts
from gankd.runs import Run
from gankd.seeds import rng
from gankd.synthetic import SelectConfig, generate, select
from gankd.tasks import Classification
from gankd.training.distill import Feed
from gankd.training.lesson import DistillConfig, Fakes

SIZES = (1_000, 10_000, 100_000, 1_000_000)
CLASSES = (10, 100, 1000)
CASES = [*((size, 10) for size in SIZES), *((100_000, classes) for classes in CLASSES[1:])]
"""Numbers of images and classes."""
PROCESSES = (1, 2, 4)
LIMIT = 2048
"""Megabytes that an operation may take above the pixels."""
PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=False)
SLOW = 0.0005
"""Processor seconds that the stand-in for a generator takes per image where processes share the work."""
REPEATS = 3
WAYS = {
    ("local", 1): "this process",
    ("local", 2): "2 processes",
    ("ray", 1): "1 Ray worker",
    ("ray", 2): "2 Ray workers",
}
STUDENTS = 8
UPDATES = 500
ARM = "adjusted_kd"
RECIPE = (
    "device=cpu",
    "weak_teacher=accept",
    "time_cap=1",
    "teacher.model=resnet8",
    "teacher.updates=200",
    "gan.steps=20",
    "gan.width_g=8",
    "gan.width_d=8",
    "ratio.epochs=2",
    "synth.pool=2000",
    f"student.updates={UPDATES}",
)
"""A run whose time is that of its students."""
HEADING = "\n## Students on several workers\n"


def images(count: int, classes: int) -> LabelledImages:
    pixels = torch.randint(256, (count, 1, 8, 8), generator=rng(0, "growth"), dtype=torch.uint8)
    return LabelledImages(pixels, torch.arange(count) % classes, Classification(num_classes=classes))


def opening(folder: Path, count: int, classes: int) -> Callable[[], object]:
    """Reading a file of arrays: labels, splits, copies on two sides of a split."""
    data = images(count, classes)
    np.savez(folder / "data.npz", images=data.images.numpy(), label=data.labels.numpy())
    return lambda: load_npz(folder / "data.npz", task="classification")


def epoch(folder: Path, count: int, classes: int) -> Callable[[], object]:
    """All batches of one pass over real images, each with as many generated ones, cropped and flipped."""
    data = images(count, classes)
    fakes = Fakes(data.images, data.labels, torch.zeros(count, classes, dtype=torch.float16))
    feed = Feed(data, fakes, DistillConfig(augment=("crop", "flip"), batch_size=256), PLAIN, 0)
    return lambda: [feed.stored_outputs(feed(step)) for step in range(max(1, count // 128))]


def sample(labels: Tensor, *, generator: torch.Generator) -> Tensor:
    return torch.randint(256, (len(labels), 1, 8, 8), generator=generator, dtype=torch.uint8)


def pool(folder: Path, count: int, classes: int, each: float = 0.0) -> Callable[[], Any]:
    """Generating, scoring and storing images."""  # with `each`, at so many processor seconds an image

    def score(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        end = time.thread_time() + each * len(pixels)
        while time.thread_time() < end:
            pass
        outputs = pixels[:, 0, 0, :1].float() / 255 + torch.nn.functional.one_hot(labels, classes)
        return outputs, pixels[:, 0, 0, 0].float() / 255

    labels = torch.arange(count) % classes
    task = Classification(num_classes=classes)
    return lambda: generate(folder / "pool", sample, score, task, labels, 0, {})


def selection(folder: Path, count: int, classes: int) -> Callable[[], object]:
    """Choosing images from a stored pool by density ratio and filter."""
    made = pool(folder, count, classes)()
    return lambda: select(made, SelectConfig(count=max(count // 10, classes)), 0)


def report(folder: Path, count: int, classes: int) -> Callable[[], object]:
    """Outputs of a small network for all images, and their metrics."""
    data = images(count, classes)
    net = build_net("cnn8", in_channels=1, image_size=8, num_outputs=classes, seed=0)
    model = ImageModel.for_data(net, data).eval()
    return lambda: measured(data.task, predict(model, data.images, PLAIN), data.labels)


OPERATIONS = {"open": opening, "epoch": epoch, "pool": pool, "select": selection, "report": report}


def resident(what: str) -> float:
    """Megabytes of this process: now (VmRSS), or the peak since the last reset (VmHWM)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def measure(operation: str) -> None:
    """Print microseconds of processor time per image, and megabytes above those before, of each (size, classes)."""
    torch.set_num_threads(1)
    found = []
    for count, classes in [(1000, 10), *CASES]:  # the first of all warms up
        taken = []
        for _ in range(REPEATS if count <= 10_000 else 1):
            with tempfile.TemporaryDirectory() as folder:
                run = OPERATIONS[operation](Path(folder), count, classes)
                Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the peak
                before, start = resident("VmRSS"), time.process_time()
                run()
                taken.append((1e6 * (time.process_time() - start) / count, resident("VmHWM") - before))
            del run
            gc.collect()
        found.append((min(spent for spent, _ in taken), max(more for _, more in taken)))
    print(json.dumps(found[1:]))


def shared(count: int) -> None:
    """Print the first process's processor seconds and the hash of a pool that several processes fill."""
    torch.set_num_threads(1)
    folder = Path(os.environ["GROWTH_FOLDER"])
    with joined():
        start = time.process_time()
        made = pool(folder, count, 10, SLOW)()
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps([time.process_time() - start, made.fingerprint()]))


def descendants(pid: int) -> list[int]:
    """The process and all that it started, and so on."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [one for child in path.read_text().split() for one in descendants(int(child))]
    return found


def processor_seconds() -> float:
    """Of this process, of those that it started, as Ray's, and of those that these have waited for."""
    ticks = 0
    for pid in descendants(os.getpid()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / os.sysconf("SC_CLK_TCK")


def cluster(count: int) -> RayWorkers:
    """Ray workers of a cluster on this machine: a head that trains nothing, and `count` nodes of one core each."""
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 << 20}
    made = Cluster(initialize_head=True, head_node_args=options)
    for _ in range(count):
        made.add_node(num_cpus=1, object_store_memory=80 << 20)
    made.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = made.address
    return RayWorkers.connect("auto")


def students(where: str, count: int) -> None:
    """Print wall and processor seconds of students whose teacher and pool are there, and the hash of their weights."""
    torch.set_num_threads(1)
    folder = Path(os.environ["GROWTH_FOLDER"])
    workers: int | Workers = cluster(count) if where == "ray" else count
    recipe = override(RECIPES["digits"](), RECIPE)
    experiment = Experiment.open(recipe, Run(folder))
    start, before = time.monotonic(), processor_seconds()
    cgan_kd(experiment, [arm_named(recipe, ARM)], range(STUDENTS), workers=workers)
    spent = time.monotonic() - start, processor_seconds() - before
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.glob("student-*/model.safetensors")):
        digest.update(path.read_bytes())
    print(json.dumps([*spent, digest.hexdigest()]), flush=True)


def outcome(*words: object, **variables: object) -> Any:
    """What this script prints when it is called with `words`, as one process or as several."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    world = int(str(variables.get("WORLD_SIZE", 1)))
    base = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    base |= {name: str(value) for name, value in variables.items()}
    command = [sys.executable, __file__, *map(str, words)]
    started = [
        subprocess.Popen(command, env=base | ({"RANK": str(rank)} if world > 1 else {}), stdout=subprocess.PIPE)
        for rank in range(world)
    ]
    printed = [process.communicate()[0] for process in started]
    assert not any(process.returncode for process in started)
    return json.loads(printed[0].splitlines()[-1])


def growth() -> list[str]:
    def cell(spent: float, more: float) -> str:
        return f"{spent:>10.1f} ({more:>4.0f}) "

    sizes, by_class = f"{'us per image (MB more)':<24}", f"{'100,000 images, classes':<24}"
    rows = [sizes + "".join(f"{size:>18,}" for size in SIZES) + "   1M / 10k"]
    others = ["", by_class + "".join(f"{classes:>18,}" for classes in CLASSES)]
    for operation in OPERATIONS:
        found = dict(zip(CASES, outcome(operation), strict=True))
        assert all(more < LIMIT for _, more in found.values())
        own = [found[size, 10] for size in SIZES]
        rows.append(f"{operation:<24}{''.join(cell(*each) for each in own)}  {own[-1][0] / own[1][0]:>9.2f}")
        others.append(f"{operation:<24}{''.join(cell(*found[100_000, classes]) for classes in CLASSES)}")
        print(rows[-1], others[-1], sep="\n", flush=True)
    return [*rows, *others]


def processes() -> list[str]:
    count, found = 6 * 4096, {}
    for world in PROCESSES:
        with tempfile.TemporaryDirectory() as folder:
            found[world] = outcome("shared", count, WORLD_SIZE=world, GROWTH_FOLDER=folder)
    hashes = {digest for _, digest in found.values()}
    assert len(hashes) == 1, hashes
    work = count * SLOW
    own = found[4][0] - work / 4  # of the first process, which brings all together and writes: nobody shares it
    lines = [
        f"processor seconds of the first process, for a pool of {count:,} images at {1000 * SLOW:g} ms each; "
        "one hash whatever the number"
    ]
    lines += [f"  {world:>2} processes, measured:  {spent:>7.2f}" for world, (spent, _) in found.items()]
    lines += [f"  {world:>2} processes, simulated: {work / world + own:>7.2f}" for world in (8, 64)]
    print("\n".join(lines), flush=True)
    return lines


def on_workers() -> str:
    """The part of the page on students that several workers train."""
    found, recipe, load = {}, override(RECIPES["digits"](), RECIPE), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "shared"
        made.mkdir()
        cgan_kd(Experiment.open(recipe, Run(made)), [arm_named(recipe, ARM)], range(1))
        for where, count in WAYS:
            copy = Path(folder) / f"{where}-{count}"
            shutil.copytree(made, copy, ignore=shutil.ignore_patterns("student-*"))
            found[where, count] = outcome("students", where, count, GROWTH_FOLDER=copy)
            print(WAYS[where, count], found[where, count], flush=True)
    hashes = {digest for *_, digest in found.values()}
    assert len(hashes) == 1, hashes
    facts = ", ".join(f"{name} {value}" for name, value in machine_facts().items())
    ray = import_module("ray").__version__
    rows = [
        f"{WAYS[way]:<16}{wall:>8.1f}{wall / STUDENTS:>14.2f}{spent:>16.1f}" for way, (wall, spent, _) in found.items()
    ]
    return "\n".join(
        [
            f"\nWritten by `python benchmarks/growth.py ray` on {facts}, ray {ray}. {STUDENTS} students of `digits` "
            f"(arm `{ARM}`, {UPDATES:,} updates, seeds 0 to {STUDENTS - 1}) from finished teacher, generator and pool, "
            "one thread each; one run of each way, in this order. The weights are the same bit for bit. The times hold "
            "what the command does before and after, and starting the workers (not the Ray cluster, whose machines are "
            "nodes of one core on this machine); processor seconds are of all processes, Ray's own too. Load of the "
            f"machine at the start, by other programs: {load:.1f}; it lengthens the wall times.\n",
            "```text",
            f"{'':<16}{'wall s':>8}{'per student':>14}{'processor s':>16}",
            *rows,
            "```\n",
        ]
    )


def write(growth: str | None, workers: str | None) -> None:
    """Write parts of the page; the other one stays."""
    before, _, after = (RESULTS / "scale.md").read_text().partition(HEADING)
    (RESULTS / "scale.md").write_text((growth or before) + HEADING + (workers or after))


def main() -> None:
    match sys.argv[1:]:
        case ["ray"]:
            write(None, on_workers())
            return
        case ["shared", count]:
            shared(int(count))
            return
        case ["students", where, count]:
            students(where, int(count))
            return
        case [operation]:
            measure(operation)
            return
    lines = [*growth(), "", *processes()]
    facts = ", ".join(f"{name} {value}" for name, value in machine_facts().items())
    text = [
        "# Growth with the number of images\n",
        f"Written by `python benchmarks/growth.py` on {facts}. Processor time per image, one thread, least of "
        f"{REPEATS} (once from {SIZES[2]:,} images on), 8x8 grey pixels, seed 0; in brackets the peak memory in MB "
        "above that before the operation, less than 2,048 everywhere.\n",
        "| | |",
        "|---|---|",
        *(f"| {name} | {(each.__doc__ or '').rstrip('.')} |" for name, each in OPERATIONS.items()),
        "\n```text",
        *lines,
        "```\n",
        "`open` takes more from 27,000 images on, where nearly equal images are found by hashes: a constant time per "
        "image, while that of comparing all pairs grows with their number. Batches of an epoch read and write as many "
        "elements whatever the number of images (`tests/test_growth.py`); random reads of 64 MB fall out of the cache, "
        "which is probably the rest.\n",
        "Simulated: the work divided by the number of processes, and what the first of four takes besides its part. \n",
    ]
    write("\n".join(text), on_workers() if find_spec("ray") else None)


if __name__ == "__main__":
    main()
