"""Cost of a virtual teacher: a student's step, training alongside the teacher, file size and memory.

    python benchmarks/vkd.py        # or: make bench

Ratios of processor times, run in turn in one process, one thread and float32, medians over rounds. A student's step is
a complete update: batch, augmentation, forward passes, loss, backward, optimiser. Memory is the peak of a separate
process. Writes benchmarks/results/vkd.md.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch
from pipeline import RESULTS, ROUNDS

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.models import build_net
from gankd.models.contract import ImageModel
from gankd.report.gather import machine_facts
from gankd.runs import Stage
from gankd.seeds import rng
from gankd.tasks import Classification
from gankd.training.distill import updates
from gankd.training.lesson import DistillConfig, Lesson
from gankd.training.supervised import SupervisedConfig, make_optimizer
from gankd.virtual import KnowledgeGan, VirtualConfig, VirtualTeacher, Watcher

BATCH = 64
PAIRS = {  # name: side, channels, classes, teacher, student, updates in a round
    "digits, 8 px": (8, 1, 10, "resnet8x2", "cnn16", 64),
    "32 px, 100 classes": (32, 3, 100, "resnet14x2", "resnet8", 8),
}
LOSSES = {
    "plain student": None,
    "@virtual": "0.1*Label + 0.9*SoftTargets@virtual",
    "@virtual, best of 8": '0.1*Label + 0.9*SoftTargets@virtual(draws=8, policy="best")',
    "@table": "0.1*Label + 0.9*SoftTargets@table",
    "KD, teacher in step": "0.1*Label + 0.9*KD",
}
PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=True)
CONFIG = DistillConfig(updates=100_000, batch_size=BATCH, augment=("shift",), optimizer="sgd", lr=1e-6)


def toy(side: int, channels: int, classes: int) -> LabelledImages:
    random = rng(0, "benchmark", side)
    images = torch.randint(0, 256, (2048, channels, side, side), generator=random, dtype=torch.uint8)
    return LabelledImages(images, torch.arange(2048) % classes, Classification(num_classes=classes))


def network(name: str, data: LabelledImages, seed: int) -> ImageModel:
    channels, side, _ = data.shape
    net = build_net(name, in_channels=channels, image_size=side, num_outputs=data.task.head_size, seed=seed)
    return ImageModel.for_data(net, data)


def student_step(pair: str, loss: str | None) -> Callable[[], None]:
    """A function that trains a student for the updates of one round."""
    side, channels, classes, teacher, student, count = PAIRS[pair]
    steps = training(toy(side, channels, classes), student, teacher, loss)

    def run() -> None:
        for _ in range(count):
            next(steps)

    return run


def training(data: LabelledImages, student: str, teacher: str, loss: str | None) -> Iterator[int]:
    """The updates of a student, one at a time."""
    lesson = Lesson(loss or "Label", virtual=VirtualTeacher.untrained(data.task, VirtualConfig()))
    if lesson.objective.needs_teacher:
        lesson = replace(lesson, teacher=network(teacher, data, 0))
    small = network(student, data, 1)
    return updates(small, data, CONFIG, PLAIN, 0, lesson=lesson, fakes=None, stage=Stage("benchmark"))


def forward(pair: str, which: str) -> Callable[[], None]:
    """A function that runs the forward pass of one of the two networks for the updates of one round."""
    side, channels, classes, teacher, student, updates = PAIRS[pair]
    data = toy(side, channels, classes)
    model = PLAIN.place(network(teacher if which == "teacher" else student, data, 0)).eval()

    def run() -> None:
        with torch.no_grad():
            for _ in range(updates):
                model(data.images[:BATCH])

    return run


def teacher_step(pair: str, *, beside: bool) -> Callable[[], None]:
    """A function that trains a teacher for the updates of one round, with or without a generator alongside it."""
    side, channels, classes, name, _, updates = PAIRS[pair]
    data = toy(side, channels, classes)
    model = PLAIN.place(network(name, data, 0))
    optimizer, schedule = make_optimizer(model, SupervisedConfig(updates=1_000_000, optimizer="sgd", lr=1e-6))
    gan = KnowledgeGan(data.task, VirtualConfig(warmup=1), seed=0)
    folder = Path(tempfile.mkdtemp())
    watcher = Watcher(gan, data.task, 10**9, folder) if beside else None
    step = itertools.count()

    def run() -> None:
        for _ in range(updates):
            number = next(step)
            rows = torch.arange(number * BATCH, (number + 1) * BATCH) % len(data)
            outputs = model(data.images[rows])
            loss = data.task.loss(outputs, data.labels[rows]).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            if watcher is not None:
                watcher.observe(number, outputs.detach(), data.labels[rows])

    return run


def medians(works: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Seconds of every round of each function, run in turn; the first round warms up and is not counted."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            if number:
                times[name].append(time.process_time() - start)
    return times


def ratio(first: list[float], second: list[float]) -> float:
    """Median over rounds of first / second."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def peak_of(loss: str | None, teacher: str) -> float:
    """Peak memory in MB of a process that trains a student for a few updates with a teacher of this architecture."""
    torch.set_num_threads(1)
    steps = training(toy(32, 3, 100), "resnet8", teacher, loss)
    for _ in range(5):
        next(steps)
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def in_own_process(loss: str | None, teacher: str) -> float:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(peak_of, loss, teacher).result()


def kilobytes(classes: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "virtual.safetensors"
        VirtualTeacher.untrained(Classification(num_classes=classes), VirtualConfig()).save(path)
        return path.stat().st_size / 1000


def main() -> None:
    torch.set_num_threads(1)
    lines = []
    for pair in PAIRS:
        times = medians({name: student_step(pair, loss) for name, loss in LOSSES.items()})
        passes = medians({which: forward(pair, which) for which in ("teacher", "student")})
        r = ratio(passes["teacher"], passes["student"])
        updates = PAIRS[pair][-1]
        lines.append(f"{pair}: {PAIRS[pair][3]} -> {PAIRS[pair][4]}, batch {BATCH}; r = F_t / F_s = {r:.2f}")
        for name in LOSSES:
            milliseconds = statistics.median(times[name]) / updates * 1000
            lines.append(f"  {name:<22} {milliseconds:7.2f} ms   x{ratio(times[name], times['plain student']):.3f}")
        saved = 1 - ratio(times["@virtual"], times["KD, teacher in step"])
        lines.append(f"  saved against KD: {100 * saved:.0f} % of a step; r / (3 + r) = {100 * r / (3 + r):.0f} %")
        teachers = medians({name: teacher_step(pair, beside=name == "beside") for name in ("alone", "beside")})
        overhead = ratio(teachers["beside"], teachers["alone"])
        lines.append(f"  teacher's step with a generator alongside: x{overhead:.3f}")
        goals = {
            "@virtual": ratio(times["@virtual"], times["plain student"]) <= 1.03,
            "saved": saved >= r / (3 + r),
            "generator alongside": overhead <= 1.05,
        }
        lines.append("  goals: " + ", ".join(f"{goal} {'met' if met else 'missed'}" for goal, met in goals.items()))
    lines.append("file, KB: " + ", ".join(f"{classes} classes {kilobytes(classes):.0f}" for classes in (10, 100, 1000)))
    if Path("/proc/self/status").is_file():
        found = {name: in_own_process(LOSSES[name], "resnet20x2") for name in ("plain student", "@virtual")}
        found["KD, resnet20x2 in step"] = in_own_process(LOSSES["KD, teacher in step"], "resnet20x2")
        lines.append("memory, MB: " + ", ".join(f"{name} {value:.0f}" for name, value in found.items()))
    text = "\n".join(lines)
    print(text)
    facts = ", ".join(f"{name} {value}" for name, value in machine_facts().items())
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "vkd.md").write_text(
        "# Cost of a virtual teacher\n\n"
        f"Written by `python benchmarks/vkd.py` on {facts}; one thread, float32, processor time, medians of {ROUNDS} "
        "rounds in turn; x is the ratio to the plain student's step, median over rounds. Goals: @virtual at most "
        f"x1.03, saved at least r / (3 + r), generator alongside at most x1.05.\n\n```text\n{text}\n```\n"
    )


if __name__ == "__main__":
    main()
