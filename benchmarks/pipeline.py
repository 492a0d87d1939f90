"""Speed of every part of the pipeline, as ratios of two variants run in turn in one process.

    python benchmarks/pipeline.py        # or: make bench

Each number is the median of several rounds. In a round both variants run one after the other, so a busy machine slows
both alike. Writes benchmarks/results/pipeline.json and .md.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.generators.networks import to_uint8
from gankd.losses.vicinal import Vicinity
from gankd.models import build_net
from gankd.models.contract import ImageModel, predict
from gankd.recipes import turntable
from gankd.recipes.generated import sample_images
from gankd.report.gather import machine_facts
from gankd.seeds import BLOCK, rng
from gankd.subsampling.rejection import accept, budgeted_acceptance, running_max_acceptance
from gankd.tasks import Regression
from gankd.training.distill import distill
from gankd.training.gan import GanTrainer
from gankd.training.lesson import DistillConfig, Fakes, Lesson
from gankd.training.ratio import RatioConfig, train_ratio

ROUNDS = 7
STUDENTS = 3
RESULTS = Path(__file__).parent / "results"
NOTES = """\
Each row compares gankd with itself or with a plain way to do the same. Two rows show only a part:

- vicinity: the search for a window. A whole draw takes 1/54 of the time of CcGAN's code at batch 512 and 1/5.5 at
  batch 16 (7,683 labels; measured separately).
- passes: log-ratios are simulated (normal), with a burn-in of 500. On stored pools, with the sizes in the authors'
  scripts, the running maximum takes 3.2 passes (digits) and 23.7 (rotated-digits); measured separately.

Students of one arm train one after another because all in one batched model (`torch.func.vmap`, which makes grouped
convolutions) takes longer on a processor, the more so the larger the images."""


def medians(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Median processor seconds of each, run in turn; the first round warms up and is not counted."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 1):
        for work, seconds in zip((first, second), times, strict=True):
            start = time.process_time()
            work()
            seconds.append(time.process_time() - start)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def toy(size: int, count: int = 512) -> LabelledImages:
    """Noise images with an angle; speed does not depend on the content."""
    random = rng(0, "benchmark", size)
    task = Regression(low=0.0, high=90.0, unit="degrees")
    images = torch.randint(0, 256, (count, 3, size, size), generator=random, dtype=torch.uint8)
    return LabelledImages(images, 90 * torch.rand(count, generator=random), task)


def gan(rows: list[dict[str, object]]) -> None:
    """bf16 + channels_last against float32, at 32 pixels."""
    data = toy(32)
    fast, plain = (Engine(torch.device("cpu"), bf16, bf16) for bf16 in (True, False))
    trainers = [GanTrainer(data, turntable().gan, engine, 0, None) for engine in (fast, plain)]
    images = 3 * turntable().gan.batch_size

    def train(trainer: GanTrainer) -> None:
        for step in range(3):
            trainer.discriminator_step(step)
            trainer.generator_step(step)

    a, b = medians(lambda: train(trainers[0]), lambda: train(trainers[1]))
    rows.append(row("GAN step, 32 px", "bf16 + channels_last", "float32", images / a, images / b, "images/s"))


def sampling(rows: list[dict[str, object]]) -> None:
    """The path of all commands, passes that fit the cache, against a block at once; both in float32, channels_last."""
    data = toy(32)
    generator = GanTrainer(data, turntable().gan, Engine.pick(32, "cpu"), 0, None).generator.eval()
    labels = data.labels[:BLOCK].repeat(4)

    def passes() -> None:
        sample_images(generator, labels, 0, "benchmark sample")

    @torch.no_grad()
    def at_once() -> None:
        for block, part in enumerate(labels.split(BLOCK)):
            z = torch.randn(len(part), generator.z_dim, generator=rng(0, "benchmark sample", block))
            to_uint8(generator(z, part))

    a, b = medians(passes, at_once)
    count = len(labels)
    rows.append(row("sampling, 32 px", "passes in the cache", f"{BLOCK} at once", count / a, count / b, "images/s"))


def students(rows: list[dict[str, object]]) -> None:
    """Student steps with half the batch generated: stored teacher outputs against outputs computed at every step."""
    data = toy(32, count=64)  # few, so that computing the teacher's outputs before the first step hardly counts
    engine = Engine.pick(32, "cpu")
    nets = {
        name: ImageModel.for_data(build_net(name, in_channels=3, image_size=32, num_outputs=1, seed=0), data)
        for name in ("cnn16", "resnet20")
    }
    fakes = Fakes(data.images, data.labels, predict(engine.place(nets["resnet20"]), data.images, engine).cpu())
    few = data.subset(torch.arange(2))
    config = DistillConfig(updates=20)

    def run(config: DistillConfig, teacher: ImageModel | None) -> None:
        distill(nets["cnn16"], data, few, config, engine, 0, fakes=fakes, lesson=Lesson("KD", teacher))

    a, b = medians(
        lambda: run(config, nets["resnet20"]), lambda: run(replace(config, augment=("shift",)), nets["resnet20"])
    )
    images = config.updates * config.batch_size
    rows.append(
        row("student step + KD, 32 px", "stored outputs", "teacher in step", images / a, images / b, "images/s")
    )


def seeds(rows: list[dict[str, object]], size: int, count: int) -> None:
    """Steps of three students of one arm: one after another, as gankd trains them, against all in one batched model."""
    engine = Engine.pick(size, "cpu")
    make = partial(build_net, "cnn16", in_channels=3, image_size=size, num_outputs=10)
    nets = [engine.place(make(seed=seed)).train() for seed in range(STUDENTS)]
    images = torch.randn(STUDENTS, count, 3, size, size, generator=rng(0, "benchmark images"))
    labels = torch.randint(10, (STUDENTS, count), generator=rng(0, "benchmark labels"))
    parameters, buffers = torch.func.stack_module_state(nets)
    skeleton = make(seed=0).to("meta")
    layout = torch.channels_last if engine.channels_last else torch.contiguous_format
    own = [part.contiguous(memory_format=layout) for part in images]
    together = torch.func.vmap(lambda *state: torch.func.functional_call(skeleton, state[:2], state[2:]))

    def in_turn() -> None:
        for net, part, classes in zip(nets, own, labels, strict=True):
            with engine.autocast():
                logits = net(part)
            torch.autograd.grad(F.cross_entropy(logits.float(), classes), list(net.parameters()))

    def batched() -> None:
        with engine.autocast():
            logits = together(parameters, buffers, images)
        loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum") / count
        torch.autograd.grad(loss, list(parameters.values()))

    a, b = medians(in_turn, batched)
    done = STUDENTS * count
    rows.append(row(f"steps of {STUDENTS} students, {size} px", "in turn", "batched", done / a, done / b, "images/s"))


def ratio(rows: list[dict[str, object]]) -> None:
    """The ratio network on stored features against features computed again at every step."""
    data = toy(32)
    engine = Engine.pick(32, "cpu")
    teacher = engine.place(
        ImageModel.for_data(build_net("resnet20", in_channels=3, image_size=32, num_outputs=1, seed=0), data)
    )
    features = torch.randn(len(data), 64, generator=rng(0, "benchmark features"))
    config = RatioConfig(epochs=3)
    steps = config.epochs * max(1, len(data) // config.batch_size)

    def train() -> None:
        train_ratio(features, data.labels, features + 0.1, data.labels, data.task, config, 0)

    def recompute() -> None:
        for _ in range(steps):
            predict(teacher, data.images[: config.batch_size], engine)
            predict(teacher, data.images[: config.batch_size], engine)

    a, b = medians(train, recompute)
    images = steps * config.batch_size
    rows.append(row("ratio step", "stored features", "features at every step", images / a, images / b, "images/s"))


def rejection(rows: list[dict[str, object]]) -> None:
    """All labels in one vectorised pass against a loop over labels; generator passes per kept image."""
    count, groups = 100_000, 100
    random = rng(0, "benchmark rejection")
    log_ratio = torch.randn(count, generator=random)
    labels = torch.randint(groups, (count,), generator=random)

    def together() -> None:
        accept(budgeted_acceptance(log_ratio, labels, 0.5), 0)

    def one_by_one() -> None:
        for group in range(groups):
            chosen = log_ratio[labels == group]
            accept(budgeted_acceptance(chosen, torch.zeros(len(chosen), dtype=torch.int64), 0.5), 0)

    a, b = medians(together, one_by_one)
    rows.append(row("rejection, 100 labels", "one pass", "label by label", count / a, count / b, "images/s"))
    budget = count / accept(budgeted_acceptance(log_ratio, labels, 0.5), 0).sum().item()
    running = count / accept(running_max_acceptance(log_ratio, labels, 500), 0).sum().item()
    rows.append(
        row("passes per kept image, simulated", "budget 1/2", "running maximum", budget, running, "passes", more=False)
    )


def vicinity(rows: list[dict[str, object]]) -> None:
    """Window search over 12,000 labels for a batch of 256 against a scan per target."""
    labels = torch.rand(12_000, generator=rng(0, "benchmark labels"), dtype=torch.float64)
    windows = Vicinity.fit(labels, "hard", kappa=0.01)
    targets = labels[:256].clone()

    def search() -> None:
        for _ in range(100):
            windows.window(targets)

    def scan() -> None:
        for target in targets:
            ((labels - target).abs() <= windows.radius).nonzero()

    a, b = medians(search, scan)
    rows.append(
        row("vicinity window, N=12,000, batch 256", "sorted search", "scan", 1e3 * a / 100, 1e3 * b, "ms", more=False)
    )


def row(part: str, ours: str, other: str, a: float, b: float, unit: str, *, more: bool = True) -> dict[str, object]:
    """One line of the table; the ratio is above 1 if ours is better."""
    return {
        "part": part, "ours": ours, "other": other, "value": a, "other_value": b, "unit": unit,
        "ratio": a / b if more else b / a,
    }  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for measure in (
        vicinity,
        rejection,
        ratio,
        students,
        partial(seeds, size=8, count=128),
        partial(seeds, size=32, count=32),
        gan,
        sampling,
    ):
        measure(rows)
    lines = [f"{'part':<37} {'ours':>22} {'against':>26} {'ratio':>7}"]
    for line in rows:
        ours, other = (f"{line[key]:,.3g} {line['unit']}" for key in ("value", "other_value"))
        lines.append(
            f"{line['part']:<37} {ours:>22} {other:>26} {line['ratio']:>7.2f}   {line['ours']} / {line['other']}"
        )
    text = "\n".join(lines)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pipeline.json").write_text(
        json.dumps({"machine": machine_facts(), "threads": 1, "rows": rows}, indent=2)
    )
    machine = ", ".join(f"{name} {value}" for name, value in machine_facts().items())
    (RESULTS / "pipeline.md").write_text(
        f"# Speed\n\nWritten by `make bench` on {machine}; one thread, processor time, medians of {ROUNDS} "
        f"rounds.\n\n```text\n{text}\n```\n\n{NOTES}\n"
    )


if __name__ == "__main__":
    main()
