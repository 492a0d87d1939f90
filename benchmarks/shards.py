"""Cost of updates in shards on one process, as a ratio to updates on whole batches.

    python benchmarks/shards.py        # or: make bench

Processor times of complete updates with one thread and float32, run in turn, medians over rounds. Shards pay when
processes share them: W processes take this cost over W, and what the network between them takes. Writes
benchmarks/results/shards.md.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from pipeline import RESULTS
from vkd import PLAIN, network, toy

from gankd.data.images import LabelledImages
from gankd.report.gather import machine_facts
from gankd.runs import Stage
from gankd.shards import Shards
from gankd.training.distill import distill
from gankd.training.gan import GanConfig, GanTrainer, logistic
from gankd.training.lesson import DistillConfig, Lesson
from gankd.training.supervised import SupervisedConfig, train_supervised

ROUNDS = 3
SHARDS = (1, 4, 12)
SIDES = {  # channels, classes, teacher, student, updates in a round
    8: (1, 10, "resnet8x2", "cnn16", 16),
    32: (3, 100, "resnet14x2", "resnet8", 2),
}
Update = Callable[[int, int], None]
"""Makes a number of updates in a number of shards."""


def updates_of(data: LabelledImages, large: str, small: str) -> dict[str, Update]:
    """Updates of each kind of network."""
    few = data.subset(torch.arange(2))

    def teacher(count: int, shards: int) -> None:
        engine, config = replace(PLAIN, shards=Shards(shards)), SupervisedConfig(updates=count)
        train_supervised(network(large, data, 0), data, few, config, engine, 0)

    def student(count: int, shards: int) -> None:
        engine, config = replace(PLAIN, shards=Shards(shards)), DistillConfig(updates=count, augment=("shift",))
        lesson = Lesson("0.1*Label + 0.9*KD", network(large, data, 0))
        distill(network(small, data, 1), data, few, config, engine, 0, lesson=lesson, stage=Stage("student"))

    def generator(count: int, shards: int) -> None:
        trainer = GanTrainer(data, logistic(GanConfig()), replace(PLAIN, shards=Shards(shards)), 0, None)
        for step in range(count):
            trainer.discriminator_step(step)
            trainer.generator_step(step)

    found = {f"teacher {large}": teacher, f"student {small}, KD": student}
    return found | ({"generator and discriminator": generator} if data.shape[1] == 8 else {})  # else many minutes


def milliseconds(update: Update, count: int, shards: int) -> float:
    """Processor time of one update: the difference of many and one, so that set-up does not count."""
    spent = []
    for number in (1, count + 1):
        start = time.process_time()
        update(number, shards)
        spent.append(time.process_time() - start)
    return 1000 * (spent[1] - spent[0]) / count


def main() -> None:
    torch.set_num_threads(1)
    lines = ["Shards of a batch of 64 images:" + "".join(f"{shards:>18}" for shards in SHARDS)]
    for side, (channels, classes, large, small, count) in SIDES.items():
        lines.append(f"{side} px, {classes} classes")
        for name, update in updates_of(toy(side, channels, classes), large, small).items():
            update(1, SHARDS[-1])  # warm up
            rounds = [[milliseconds(update, count, shards) for shards in SHARDS] for _ in range(ROUNDS)]
            ratios = [statistics.median(each[place] / each[0] for each in rounds) for place in range(len(SHARDS))]
            times = [statistics.median(each[place] for each in rounds) for place in range(len(SHARDS))]
            cells = [f"{spent:>9.1f} ms x{ratio:<5.2f}" for spent, ratio in zip(times, ratios, strict=True)]
            lines.append(f"  {name:<29}{''.join(cells)}")
            print(lines[-1], flush=True)
    facts = ", ".join(f"{name} {value}" for name, value in machine_facts().items())
    text = [
        "# Cost of shards\n",
        f"Written by `python benchmarks/shards.py` on {facts}; one process, one thread, float32, processor time of an "
        f"update, medians of {ROUNDS} rounds in turn; x is the ratio to whole batches (1 shard).\n",
        "```text",
        *lines,
        "```\n",
    ]
    (RESULTS / "shards.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
