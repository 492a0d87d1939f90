"""Trains tiny networks on 1, 2, 3 and 4 processes that talk through gloo (or on 1 and 2 GPUs, through NCCL), and prints
a hash of each result in each process. Started by test_shards.py: `python together.py "CASE; CASE" FOLDER cpu`.
"""

import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gankd import processes
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.generators.networks import LatentGenerator
from gankd.models import build_net
from gankd.models.contract import ImageModel, predict
from gankd.parted import divide, is_parted, whole_state
from gankd.runs import Run, Stage
from gankd.shards import Shards
from gankd.synthetic import generate
from gankd.tasks import Classification, Regression, Task
from gankd.training.distill import distill
from gankd.training.gan import GanConfig, GanTrainer, build_generator, logistic, relativistic
from gankd.training.lesson import DistillConfig, Fakes, Lesson
from gankd.training.ratio import RatioConfig, train_ratio
from gankd.training.supervised import SupervisedConfig, train_supervised
from gankd.virtual import KnowledgeGan, VirtualConfig, Watcher

SHARDS = 12
CLASSES, VALUES = Classification(num_classes=3), Regression(low=0.0, high=90.0, unit="degrees")
ENGINE = Engine(torch.device("cpu"), bf16=False, channels_last=False)
GAN = GanConfig(steps=3, width_g=4, width_d=4, z_dim=4, embedding_width=4, health_checks=0)


class Dropping(nn.Module):
    """Somebody's network: batch normalisation, dropout from the global random numbers, and a count of its own."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten())
        self.head = nn.Linear(4 * 36, 3)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor) -> Tensor:
        self.count += self.training
        result: Tensor = self.head(self.layers(images))
        return result


def data(task: Task) -> LabelledImages:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (90,), generator=random)
    pictures = torch.randint(0, 256, (90, 1, 8, 8), dtype=torch.uint8, generator=random) // 2 + 40 * labels.view(
        90, 1, 1, 1
    ).to(torch.uint8)
    return LabelledImages(pictures, labels if task is CLASSES else labels * 30.0, task)


def network(task: Task, net: nn.Module | str = "resnet8") -> ImageModel:
    train = data(task)
    if isinstance(net, str):
        net = build_net(net, in_channels=1, image_size=8, num_outputs=task.head_size, seed=0)
    return ImageModel.for_data(net, train)


def teacher(task: Task, engine: Engine, net: str = "resnet8", **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    config = replace(SupervisedConfig(updates=3, augment=("shift",)), **settings)
    model = network(task, Dropping() if net == "dropping" else net)
    return train_supervised(model, data(task), data(task), config, engine, 0)


def gan(task: Task, engine: Engine, config: GanConfig) -> nn.Module:
    trainer = GanTrainer(data(task), config, engine, 0, None, network(task))
    for step in range(config.steps):
        trainer.discriminator_step(step)
        trainer.generator_step(step)
    return nn.ModuleList([trainer.networks, trainer.ema])


def student(task: Task, engine: Engine, loss: str, **settings: Any) -> nn.Module:
    fakes = Fakes(data(task).images.flip(3), data(task).labels)
    lesson, config = Lesson(loss, network(task)), DistillConfig(updates=3, **settings)
    return distill(network(task, "cnn4"), data(task), data(task), config, engine, 0, lesson=lesson, fakes=fakes)


def ratio(task: Task, engine: Engine) -> nn.Module:
    real, config = data(task), RatioConfig(epochs=1, hidden=(32,), dropout=(0.2,), batch_size=64)
    features = real.images.flatten(1).float()
    return train_ratio(features, real.labels, features.flip(1), real.labels, task, config, 0)


def watched(engine: Engine) -> nn.Module:
    """A virtual teacher that learns from the outputs of a teacher's updates."""
    config = VirtualConfig(warmup=1, every=1, width=32, batch_size=64)
    with tempfile.TemporaryDirectory() as folder:
        watcher = Watcher(KnowledgeGan(CLASSES, config, 0), CLASSES, 4, Path(folder))
        settings = SupervisedConfig(updates=4)
        train_supervised(network(CLASSES), data(CLASSES), data(CLASSES), settings, engine, 0, beside=watcher)
    return watcher.gan


class Stopping(Stage):
    """A stage that is interrupted in an update, after a checkpoint of the one before."""

    stop = 0

    def report(self, images: int, **terms: Tensor) -> None:
        super().report(images, **terms)
        if self._step + 1 == self.stop:
            raise InterruptedError


def relay(engine: Engine, folder: Path) -> nn.Module:
    """A training that each number of processes takes up where the one before was interrupted."""
    stage = Stopping("teacher", folder, checkpoint_seconds=-1.0)
    stage.stop = 1 + processes.count() if processes.count() < 4 else 0
    model, config = network(CLASSES), SupervisedConfig(updates=5, augment=("shift",))
    with suppress(InterruptedError):
        train_supervised(model, data(CLASSES), data(CLASSES), config, engine, 0, stage)
    return model


def pool(folder: Path) -> str:
    """900 images in two files, each block by one process."""
    generator: LatentGenerator = build_generator(CLASSES, (1, 8, 8), GAN, 0).eval()
    labels = torch.arange(900) % 3

    def score(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return nn.functional.one_hot(labels, 3).float(), images.float().mean((1, 2, 3))

    with Run(folder) as run:
        path = run.folder / "pool"
        return generate(path, generator.sample, score, CLASSES, labels, 0, {}, shard_size=512).fingerprint()


def in_parts(folder: Path, engine: Engine) -> str:
    """Outputs and state of a teacher that the processes hold in parts, its student, and a pool that it scores: 4
    blocks, one short, in two files, so that processes without a block have to follow.
    """
    model, whole = network(CLASSES), digest(network(CLASSES).state_dict())
    weights = sum(value.numel() for value in model.parameters())
    divide(model.net, engine.device)
    model = engine.place(model).eval()
    assert is_parted(model) == (processes.count() > 1)
    outputs = digest({"outputs": predict(model, data(CLASSES).images, engine)})
    student, config = network(CLASSES, "cnn4"), DistillConfig(updates=2)
    lesson = Lesson("Label + KD + FitNet", model)
    distill(student, data(CLASSES), data(CLASSES), config, engine, 0, lesson=lesson)
    held = sum(
        value.to_local().numel() if isinstance(value, DTensor) else value.numel() for value in model.parameters()
    )
    assert held < 0.1 * weights + weights / processes.count()  # what does not divide evenly is rounded up
    assert digest(whole_state(model)) == whole
    generator: LatentGenerator = build_generator(CLASSES, (1, 8, 8), GAN, 0).eval()

    def score(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return predict(model, images, engine), images.float().mean((1, 2, 3))

    labels, together = torch.arange(900) % 3, is_parted(model)
    with Run(folder) as run:
        path = run.folder / "pool"
        made = generate(path, generator.sample, score, CLASSES, labels, 0, {}, shard_size=512, together=together)
        return made.fingerprint() + outputs + digest(student.state_dict())


KD = "Label + KD + FitNet + RKD + CRD(negatives=16)"
CASES: dict[str, Callable[[Engine], nn.Module]] = {
    "teacher of classes": lambda engine: teacher(CLASSES, engine, mix="cutmix"),
    "teacher of values": lambda engine: teacher(VALUES, engine),
    "teacher with dropout, uneven shards": lambda engine: teacher(CLASSES, engine, "dropping", batch_size=61),
    "gan of classes": lambda engine: gan(
        CLASSES, engine, replace(GAN, accumulate=2, teacher_features=True, diff_augment=("color", "translation"))
    ),
    "gan of values with r1": lambda engine: gan(VALUES, engine, replace(logistic(GAN), penalty_every=2, batch_size=61)),
    "relativistic gan": lambda engine: gan(CLASSES, engine, replace(relativistic(GAN), spectral_norm=True, flip=True)),
    "student of classes": lambda engine: student(CLASSES, engine, KD, augment=("shift",), fake_choices=2),
    "student that sees rotations": lambda engine: student(CLASSES, engine, "Label + SSKD"),
    "student in bfloat16": lambda engine: student(
        CLASSES, replace(engine, bf16=True, channels_last=True), "Label + SP + AT", mix="mixup"
    ),
    "student of values": lambda engine: student(VALUES, engine, "Label + KD + RKD"),
    "ratio": lambda engine: ratio(CLASSES, engine),
    "virtual teacher": watched,
}


def digest(state: dict[str, Any]) -> str:
    values = [value.cpu() for value in state.values() if isinstance(value, Tensor)]
    return hashlib.md5(b"".join(value.contiguous().numpy().tobytes() for value in values)).hexdigest()


def process(number: int, count: int, port: int, names: list[str], folder: Path, device: str, answers: Any) -> None:
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        with processes.joined():
            engine = replace(ENGINE, shards=Shards(SHARDS))
            if device == "cuda":
                torch.cuda.set_device(number)
                engine = replace(engine, device=torch.device("cuda", number))
            found = {name: digest(CASES[name](engine).state_dict()) for name in names}
            found["pool"] = pool(folder / str(count))
            found["teacher in parts"] = in_parts(folder / f"parts {count}", engine)
            found["relay"] = digest(relay(engine, folder / "relay").state_dict())
            found["whole"] = digest(teacher(CLASSES, engine, updates=5).state_dict())
            answers.put((count, found))
    except BaseException:
        answers.put((count, {"error": traceback.format_exc()}))


def main(names: list[str], folder: Path, device: str) -> None:
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # imports much, which all processes then share
    forks = multiprocessing.get_context("fork")  # nothing is computed before, so that no thread is lost
    answers = forks.Queue()
    for count in (1, 2, 3, 4) if device == "cpu" else (1, 2):
        port = 20000 + os.getpid() % 10000 * 4 + count
        arguments = (count, port, names, folder, device, answers)
        started = [forks.Process(target=process, args=(number, *arguments)) for number in range(count)]
        for each in started:
            each.start()
        for _ in started:
            print(json.dumps(answers.get()), flush=True)
        for each in started:
            each.join()


if __name__ == "__main__":
    main(sys.argv[1].split("; "), Path(sys.argv[2]), sys.argv[3])
