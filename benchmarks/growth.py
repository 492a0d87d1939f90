"""Time per image and peak memory of everything that grows with the number of images, from 1,000 to 1,000,000.

    python benchmarks/growth.py

Images of 8x8 grey pixels and networks that cost next to nothing, so that what is timed is gankd's own work. Each number
is of a process of its own with one thread. Writes benchmarks/results/scale.md.
"""

import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pipeline import RESULTS
from torch import Tensor

from gankd.data.images import LabelledImages
from gankd.data.npz import load_npz
from gankd.engine import Engine
from gankd.models import build_net
from gankd.models.contract import ImageModel, measured, predict
from gankd.processes import joined
from gankd.report.gather import machine_facts
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
    return json.loads(printed[0])


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


def main() -> None:
    if len(sys.argv) == 2:
        measure(sys.argv[1])
        return
    if len(sys.argv) == 3:
        shared(int(sys.argv[2]))
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
        "Simulated: the work divided by the number of processes, and what the first of four takes besides its part. "
        "Ray workers train students that do not depend on one another, each from the same stages: not measured here.\n",
    ]
    (RESULTS / "scale.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
