"""Speed beside other people's programs, which the reader brings: student steps, GAN steps, losses and sampling.

    python benchmarks/peers.py --peer PATH --commit SHA [--peer PATH --commit SHA ...]

PATH is a checkout of one of `PEERS` at the commit SHA; the rows of those that are not given say "not measured". Needs
torchvision (`pip install --no-deps torchvision`) for their loaders. In a round everything compared runs in turn, in one
process and one thread; `x gankd` is the median of the rounds' ratios. Changed in their code: arrays of noise take the
place of a download, `.cuda()` does nothing, `.next()` is `next()`. "+ autocast" and "+ channels_last" are what a user
of theirs would add first, one line each. Writes benchmarks/results/peers.json and .md.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
from losses import BATCH, NEGATIVES, Ours, build_peer, import_torchvision, load_torchdistill, objectives, peer_inputs
from losses import NUM_IMAGES as LOSS_IMAGES
from losses import toy as toy_for_losses
from pipeline import RESULTS, ROUNDS
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.generators.diff_augment import Stored
from gankd.generators.label_embedding import LabelToEmbedding
from gankd.models import build_net
from gankd.models.contract import ImageModel
from gankd.recipes.generated import sample_images
from gankd.report.gather import machine_facts
from gankd.runs import Stage
from gankd.seeds import rng
from gankd.tasks import Classification, Regression
from gankd.training.distill import updates
from gankd.training.gan import GanConfig, GanTrainer
from gankd.training.lesson import DistillConfig, Lesson

Name = Literal["RepDistiller", "cGAN-KD", "torchdistill"]
PEERS: dict[Name, str] = {
    "RepDistiller": "helper/loops.py",
    "cGAN-KD": "CIFAR-100/BigGAN/train_fns.py",
    "torchdistill": "torchdistill/losses/mid_level.py",
}
"""Names and a file by which a checkout is recognised: github.com/HobbitLong/RepDistiller, UBCDingXin/cGAN-KD and
yoshitomo-matsubara/torchdistill."""
STEPS = 2
"""Steps, or calls, of everything compared in a round."""
CLASSES = 100
CHANGES: tuple[Stored, ...] = ("color", "translation", "cutout")
LAST_LINES = """\
- CPU is processor time, wall is time on the clock; on a busy machine only the first counts.
- Share of the peak: FLOPs of gankd's step (convolutions and matrix products, by torch's counter) per second, over the
  rate of the best bfloat16 matrix product or convolution measured in this run. One over it is the most that any
  program could gain with the same arithmetic.
- student.views=8 makes 8 views of each image once and stores the teacher's outputs for them, so a step runs no teacher.
- CRD is not equal work: gankd draws one set of negatives for the batch, the others one for each image; RepDistiller's
  are drawn in the call, torchdistill's beforehand. torchdistill's training loop is not measured.
- Steps: the target was 4 times as published, and 2 to 2.5 times with their users' two lines. What limits them, by a
  profile: convolutions take 67 % of the student step, 69 % of BigGAN's and 47 % of SAGAN's, and these kernels
  (oneDNN, bfloat16, channels_last) run at 170 to 225 GFLOP/s alone, this core's rate for large ones. Users get the
  same kernels from their two lines. The rest is batch norm (14 % of the student step), ReLU, sums and casts, each of
  which moves all activations through the cache once.
- Sampling: the target was 5 times. It stays in float32, where authors are too, since pixels of a trained generator were
  up to 5 of 255 off in bfloat16.
- Tried without gain: parts of a batch (a convolution of 16 or 32 images at a time is 3 to 12 % slower); weights
  reordered beforehand and ReLU fused into the convolution (0 to 5 %); softmax of the attention in bfloat16, by parts,
  or by `scaled_dot_product_attention` (0.9 to 1.7 times the time). The teacher's batch norm, ReLU and sums, which
  folding could save, are a fifth of its pass, so less than a tenth of the step.
- `student.compile=true` (cnn16, 8 px, batch 64) takes 0.87 of a step, after 2.8 s with a warm cache, and 6.2 s and that
  of its compilers with a cold one: it pays after 5,000 to 10,000 updates, more than a student on small images has."""


@dataclass
class Row:
    """One piece of work, by gankd and by everybody else."""

    work: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Processor seconds of each round, gankd first."""
    wall: dict[str, list[float]] = field(default_factory=dict)
    flops: float | None = None
    """Of one call of gankd's."""

    def ratio(self, name: str) -> tuple[float, float, float]:
        """Median, least and largest ratio of a peer's processor time to gankd's, round by round."""
        ours = self.seconds["gankd"]
        found = [other / mine for other, mine in zip(self.seconds[name], ours, strict=True)]
        return statistics.median(found), min(found), max(found)


Works = dict[str, Callable[[], object]]


def in_turn(work: str, works: Works, *, count: bool = True) -> Row:
    """Measure every one of `works` in each round, there and back; a round before warms up.

    Args:
        work: title.
        works: calls by name, gankd's first.
        count: also count gankd's FLOPs, which torch does not in `autograd.grad` of a given tensor.
    """
    row = Row(work, {name: [] for name in works}, {name: [] for name in works})
    with contextlib.redirect_stdout(io.StringIO()):
        for call in works.values():
            call()
        if count:
            with FlopCounterMode(display=False) as counter:
                works["gankd"]()
            row.flops = float(counter.get_total_flops())
        for number in range(ROUNDS):
            for name in list(works)[:: -1 if number % 2 else 1]:
                cpu, clock = time.process_time(), time.perf_counter()
                works[name]()
                row.seconds[name].append(round(time.process_time() - cpu, 5))
                row.wall[name].append(round(time.perf_counter() - clock, 5))
    return row


# --- checkouts


@dataclass(frozen=True)
class Checkout:
    """A peer's files."""

    name: Name
    path: Path
    commit: str

    @classmethod
    def at(cls, path: Path, commit: str) -> "Checkout":
        """Recognise a checkout by its files; of a git work tree, compare the commit."""
        name = next((name for name, file in PEERS.items() if (path / file).is_file()), None)
        if name is None:
            sys.exit(f"peers.py: {path} is none of {', '.join(PEERS)}")
        if (path / ".git").exists():
            found = subprocess.check_output(["git", "-C", str(path), "rev-parse", "HEAD"], text=True).strip()
            if not found.startswith(commit):
                sys.exit(f"peers.py: {path} is at {found}, not at {commit}")
        return cls(name, path, commit)


@contextlib.contextmanager
def importing(folder: Path, *arguments: str) -> Iterator[None]:
    """Import modules from `folder`, and forget their names afterwards: several peers have one called models."""

    def named_alike(name: str) -> bool:
        top = name.partition(".")[0]
        return (folder / top).is_dir() or (folder / f"{top}.py").is_file()

    others = {name: sys.modules.pop(name) for name in list(sys.modules) if named_alike(name)}
    sys.path.insert(0, str(folder))
    try:
        with patch.object(sys, "argv", ["peer", *arguments]), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        sys.path.remove(str(folder))
        for name in list(sys.modules):
            if named_alike(name):
                del sys.modules[name]
        sys.modules.update(others)


def bf16() -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16)


# --- student steps


def noise(count: int, size: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=rng(0, "benchmark"), dtype=torch.uint8)


def classes(count: int, size: int) -> LabelledImages:
    labels = torch.randint(CLASSES, (count,), generator=rng(0, "benchmark labels"))
    return LabelledImages(noise(count, size), labels, Classification(num_classes=CLASSES))


def student_step(peers: dict[Name, Checkout]) -> Iterator[Row]:
    """A step with images and augmentation, resnet56 to resnet20, KD, 32 px, batch 64."""
    data, works = classes(50_000, 32), Works()
    works["gankd"] = own_student(data)
    works["gankd, student.views=8: stored outputs"] = own_student(data.subset(torch.arange(128)), views=8)
    if "RepDistiller" in peers:
        works |= rep_distiller(peers["RepDistiller"], data)
    yield in_turn("student step, resnet56 to resnet20, KD, 32 px, batch 64", works)


def own_student(data: LabelledImages, **settings: Any) -> Callable[[], None]:
    """Steps with a fresh view of every image, unless `settings` say otherwise."""
    engine = Engine.pick(32, "cpu")
    teacher, student = (
        ImageModel.for_data(build_net(name, in_channels=3, image_size=32, num_outputs=CLASSES, seed=0), data)
        for name in ("resnet56", "resnet20")
    )
    config = DistillConfig(
        updates=10_000, augment=("crop", "flip"), optimizer="sgd", lr=0.05, weight_decay=5e-4, **settings
    )
    steps = updates(
        student, data, config, engine, 0, lesson=Lesson("KD", teacher), fakes=None, stage=Stage("benchmark")
    )
    return lambda: [next(steps) for _ in range(STEPS)] and None


class Some:
    """The first batches of a loader, as a loader."""

    def __init__(self, loader: Any, count: int) -> None:
        self.loader, self.count = loader, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self.loader, self.count)


def rep_distiller(checkout: Checkout, data: LabelledImages) -> Works:
    """Its loop, loader, networks and loss."""
    import_torchvision()
    with importing(checkout.path):
        loops, models, zoo, cifar = map(import_module, ("helper.loops", "models", "distiller_zoo", "dataset.cifar100"))

    def filled(self: Any, *_: object, transform: Any, **__: object) -> None:
        self.data, self.targets = data.images.permute(0, 2, 3, 1).contiguous().numpy(), data.labels.tolist()
        self.transform, self.target_transform = transform, None

    with (
        patch.object(cifar.datasets.CIFAR100, "__init__", filled),
        patch.object(cifar, "get_data_folder", lambda: ""),
    ):
        loader = Some(cifar.get_cifar100_dataloaders(batch_size=64, num_workers=0, is_instance=True)[0], STEPS)
    opt = SimpleNamespace(distill="kd", gamma=0.1, alpha=0.9, beta=0, print_freq=100)
    criteria = [nn.CrossEntropyLoss(), zoo.DistillKL(4.0), zoo.DistillKL(4.0)]

    def side(*, tuned: bool) -> Callable[[], None]:
        student, teacher = (models.model_dict[name](num_classes=CLASSES) for name in ("resnet20", "resnet56"))
        if tuned:
            student, teacher = (net.to(memory_format=torch.channels_last) for net in (student, teacher))
        optimizer = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)

        def run() -> None:
            with bf16() if tuned else nullcontext():
                loops.train_distill(1, loader, [student, teacher], criteria, optimizer, opt)

        return run

    return {
        "RepDistiller": side(tuned=False),
        "RepDistiller + autocast + channels_last": side(tuned=True),
    }


# --- GAN steps


def gan_steps(data: LabelledImages, config: GanConfig, ili: LabelToEmbedding | None = None) -> Callable[[], None]:
    trainer = GanTrainer(data, config, Engine.pick(data.shape[1], "cpu"), 0, ili)
    numbers = itertools.count()

    def run() -> None:
        for _ in range(STEPS):
            step = next(numbers)
            trainer.discriminator_step(step)
            trainer.generator_step(step)

    return run


def sagan_config(**settings: Any) -> GanConfig:
    return GanConfig(
        architecture="sagan",
        width_g=16,
        width_d=16,
        batch_size=16,
        z_dim=128,
        label_input="ili",
        diff_augment=CHANGES,
        flip=True,
        **settings,
    )


def angles() -> LabelledImages:
    """2,000 images of noise at 64 px with an angle."""
    labels = 90 * torch.rand(2_000, generator=rng(0, "benchmark labels"))
    return LabelledImages(noise(2_000, 64), labels, Regression(low=0.0, high=90.0, unit="degrees"))


@contextlib.contextmanager
def on_the_cpu() -> Iterator[None]:
    """`.cuda()` does nothing; loaders' iterators have `.next()`."""
    stay: dict[str, Any] = {"cuda": lambda self, *_, **__: self}
    iterator = import_module("torch.utils.data.dataloader")._BaseDataLoaderIter
    with (
        patch.multiple(Tensor, **stay),
        patch.multiple(nn.Module, **stay),
        patch.object(iterator, "next", iterator.__next__, create=True),
    ):
        yield


def ccgan(checkout: Checkout) -> ModuleType:
    """The authors' module that trains and samples a CcGAN, with their networks in it."""
    import_torchvision()
    arguments = ["--gan_DiffAugment", "--gan_dim_g", "128", "--gan_niters", str(STEPS)]
    arguments += ["--gan_batch_size_disc", "16", "--gan_batch_size_gene", "16"]
    with importing(checkout.path / "UTKFace", *arguments):
        module = import_module("train_ccgan")
        vars(module)["networks"] = import_module("models")
    return module


def sagan_step(peers: dict[Name, Checkout]) -> Iterator[Row]:
    """SAGAN for values at 64 px: SVDL and ILI, an update of each network."""
    data = angles()
    assert isinstance(data.task, Regression)
    works: Works = {"gankd": gan_steps(data, sagan_config(), LabelToEmbedding(data.task))}
    if "cGAN-KD" in peers:
        module = ccgan(peers["cGAN-KD"])
        images, labels = data.images.numpy(), data.labels.double().numpy() / 90

        def side(*, tuned: bool) -> Callable[[], None]:
            nets = module.networks
            pair = nets.SAGAN_Generator(z_dim=128, gene_ch=16), nets.SAGAN_Discriminator(disc_ch=16)
            to_embedding = nets.model_y2h()

            def run() -> None:
                with on_the_cpu(), bf16() if tuned else nullcontext():
                    module.train_ccgan(0.02, 1e3, images.copy(), labels, *pair, to_embedding, "", None)

            return run

        works |= {"the authors": side(tuned=False), "the authors + autocast": side(tuned=True)}
    yield in_turn("GAN step, SAGAN width 16, 64 px, batch 16, SVDL, ILI, DiffAugment", works)


def sampling(peers: dict[Name, Checkout]) -> Iterator[Row]:
    """128 images to uint8."""
    data = angles()
    assert isinstance(data.task, Regression)
    ili = LabelToEmbedding(data.task)
    generator = GanTrainer(data, sagan_config(), Engine.pick(64, "cpu"), 0, ili).generator.eval()
    labels = data.labels[:128]
    works: Works = {"gankd": lambda: sample_images(generator, labels, 0, "benchmark sample")}
    if "cGAN-KD" in peers:
        module = ccgan(peers["cGAN-KD"])
        net, to_embedding = module.networks.SAGAN_Generator(z_dim=128, gene_ch=16), module.networks.model_y2h()

        def side(*, tuned: bool) -> None:
            with on_the_cpu(), bf16() if tuned else nullcontext():
                images, _ = module.SampCcGAN_given_labels(net, to_embedding, labels.numpy() / 90, 128, verbose=False)
                ((images * 0.5 + 0.5) * 255.0).astype(np.uint8)

        works |= {"the authors": partial(side, tuned=False)}
    yield in_turn("sampling of 128 images, SAGAN width 16, 64 px", works)


def biggan_step(peers: dict[Name, Checkout]) -> Iterator[Row]:
    """BigGAN at 32 px, an update of each network and of the average."""
    data = classes(10_000, 32)
    config = GanConfig(
        architecture="biggan", width_g=16, width_d=16, batch_size=16, z_dim=128, diff_augment=CHANGES, flip=True
    )
    works: Works = {"gankd": gan_steps(data, config)}
    if "cGAN-KD" in peers:
        works |= biggan(peers["cGAN-KD"], data)
    yield in_turn("GAN step, BigGAN width 16, 32 px, batch 16, DiffAugment, with average", works)


def biggan(checkout: Checkout, data: LabelledImages) -> Works:
    """The authors' networks and training function; their loader is written out."""
    import_torchvision()
    with importing(checkout.path / "CIFAR-100" / "BigGAN"):
        functions, networks, tools = map(import_module, ("train_fns", "BigGAN", "utils"))
        transforms, pil = import_module("torchvision.transforms"), import_module("PIL.Image")
    half = (0.5, 0.5, 0.5)
    view = transforms.Compose(
        [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(half, half)]
    )
    pixels = data.images.permute(0, 2, 3, 1).contiguous().numpy()

    class Images(torch.utils.data.Dataset[tuple[Tensor, int]]):
        def __len__(self) -> int:
            return len(pixels)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return view(pil.fromarray(pixels[index])), int(data.labels[index])

    def side(*, tuned: bool) -> Callable[[], None]:
        sizes: dict[str, Any] = {"resolution": 32, "n_classes": CLASSES, "G_init": "N02", "D_init": "N02"}
        sizes |= {"G_attn": "0", "D_attn": "0", "dim_z": 128, "G_lr": 2e-4, "D_lr": 2e-4}
        make = partial(networks.Generator, G_ch=16, **sizes)
        with contextlib.redirect_stdout(io.StringIO()):
            net, copy, critic = make(), make(skip_init=True, no_optim=True), networks.Discriminator(D_ch=16, **sizes)
            both = networks.G_D(net, critic)
            average = tools.ema(net, copy, 0.9999, 0)
        latents = tools.prepare_z_y(16, 128, CLASSES, device="cpu")
        config: dict[str, Any] = {"batch_size": 16, "toggle_grads": True, "num_D_steps": 1, "num_D_accumulations": 1}
        config |= {"num_G_accumulations": 1, "split_D": False, "D_ortho": 0.0, "G_ortho": 0.0, "ema": True}
        train = functions.GAN_training_function(net, critic, both, *latents, average, {"itr": 1}, config)
        loader = torch.utils.data.DataLoader(Images(), 16, shuffle=True, drop_last=True)

        def run() -> None:
            with bf16() if tuned else nullcontext():
                for images, labels in itertools.islice(loader, STEPS):
                    train(images, labels)

        return run

    return {"the authors": side(tuned=False), "the authors + autocast": side(tuned=True)}


# --- losses


def loss_rows(peers: dict[Name, Checkout]) -> Iterator[Row]:
    """CRD, RKD and SSKD, forward and backward from given features, resnet14x2 to resnet8."""
    images = noise(LOSS_IMAGES, 32)
    data = toy_for_losses(Classification(num_classes=CLASSES), images)
    td = None
    if "torchdistill" in peers:
        with importing(peers["torchdistill"].path):
            td = load_torchdistill()
    for name in ("CRD", "RKD", "SSKD"):
        ours = Ours(objectives()[name], data)
        works: Works = {"gankd": repeated(ours.alone())}
        if td is not None and (peer := build_peer(name, td, ours.inputs)) is not None:
            works["torchdistill"] = repeated(peer.alone(peer_inputs(ours.inputs, peer)))
        if "RepDistiller" in peers and name != "SSKD":
            works["RepDistiller"] = repeated(rep_distiller_loss(peers["RepDistiller"], name, ours.inputs))
        yield in_turn(f"loss {name}, batch {BATCH}", works, count=False)


def repeated(call: Callable[[], object]) -> Callable[[], None]:
    return lambda: [call() for _ in range(STEPS)] and None


def rep_distiller_loss(checkout: Checkout, name: str, inputs: dict[str, Any]) -> Callable[[], None]:
    """Its loss on the same embeddings; negatives are drawn in the call, as its loader would."""
    with importing(checkout.path):
        zoo, crd = import_module("distiller_zoo"), import_module("crd.criterion")
        memory = import_module("crd.memory")
    own, other = inputs["student_embedding"], inputs["teacher_embedding"]
    if name == "RKD":
        rkd = zoo.RKDLoss()
        return lambda: rkd(own, other).backward()
    opt = SimpleNamespace(s_dim=own.shape[1], t_dim=other.shape[1], feat_dim=128, n_data=LOSS_IMAGES)
    opt = SimpleNamespace(**vars(opt), nce_k=NEGATIVES, nce_t=0.07, nce_m=0.5)
    with patch.object(memory.AliasMethod, "cuda", lambda self: None):
        loss = crd.CRDLoss(opt)

    def run() -> None:
        drawn = np.random.default_rng(0).integers(LOSS_IMAGES, size=(len(own), NEGATIVES + 1))
        contrast = torch.from_numpy(drawn)
        contrast[:, 0] = inputs["index"]
        loss(own, other, inputs["index"], contrast).backward()

    return run


# --- the page


def peak() -> float:
    """Largest rate of a bfloat16 matrix product or convolution on this thread, in FLOP/s."""
    square = torch.randn(1024, 1024, generator=rng(0, "benchmark")).bfloat16()
    maps = torch.randn(16, 64, 16, 16, generator=rng(0, "benchmark")).bfloat16()
    maps = maps.contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(64, 64, 3, 3, generator=rng(0, "benchmark")).bfloat16()
    works = (
        (lambda: square @ square, 2 * 1024**3),
        (lambda: nn.functional.conv2d(maps, kernel, padding=1), 2 * 16 * 16**2 * 9 * 64**2),
    )
    best = 0.0
    for call, flops in works:
        for _ in range(4 * ROUNDS):
            start = time.process_time()
            call()
            best = max(best, flops / (time.process_time() - start))
    return best


HEAD = f"{'':<44} {'CPU, ms':>9} {'wall, ms':>9} {'x gankd':>8} {'range':>13} {'of peak':>8}"


def lines_of(row: Row, best: float) -> str:
    """One row of the table, a line for each program."""
    lines = [f"\n{row.work}"]
    for name, seconds in row.seconds.items():
        cpu, wall = (1000 * statistics.median(times) / STEPS for times in (seconds, row.wall[name]))
        ratio, low, high = row.ratio(name)
        share = f"{row.flops / (cpu * STEPS / 1000) / best:.0%}" if row.flops and name == "gankd" else "-"
        spread = f"{low:.2f}-{high:.2f}"
        lines.append(f"  {name:<42} {cpu:>9.1f} {wall:>9.1f} {ratio:>8.2f} {spread:>13} {share:>8}")
    if len(row.seconds) == 1:
        lines.append(f"  {'other programs':<42} not measured")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, action="append", default=[], help="a checkout")
    parser.add_argument("--commit", action="append", default=[], help="its commit, one for each --peer")
    given = parser.parse_args()
    checkouts = [Checkout.at(path.resolve(), commit) for path, commit in zip(given.peer, given.commit, strict=True)]
    peers = {checkout.name: checkout for checkout in checkouts}
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    best = peak()
    rows = []
    print(HEAD)
    for measure in (student_step, sagan_step, biggan_step, sampling, loss_rows):
        for row in measure(peers):
            rows.append(row)
            print(lines_of(row, best), flush=True)
    if not peers:
        return
    text = "\n".join([HEAD, *(lines_of(row, best) for row in rows)])
    facts = {
        **machine_facts(),
        "peak_bf16_gflops": round(best / 1e9),
        "load": f"{load:.1f} to {os.getloadavg()[0]:.1f}",
    }
    commits = {checkout.name: checkout.commit for checkout in checkouts}
    stored = {"machine": facts, "threads": 1, "commits": commits, "rows": [asdict(row) for row in rows]}
    (RESULTS / "peers.json").write_text(json.dumps(stored, indent=1) + "\n")
    options = " ".join(f"--peer {checkout.name} --commit {checkout.commit}" for checkout in checkouts)
    (RESULTS / "peers.md").write_text(
        f"# Speed beside other programs\n\n```sh\npython benchmarks/peers.py {options}\n```\n\n"
        f"Machine: {', '.join(f'{name} {value}' for name, value in facts.items())}. One thread; medians of {ROUNDS} "
        f"rounds in turn; ms for one step or call.\n\n```text\n{text}\n```\n\n{LAST_LINES}\n"
    )


if __name__ == "__main__":
    main()
