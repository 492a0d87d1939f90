"""Cost of every distillation loss, relative to the plain student and to the same loss of torchdistill.

    python benchmarks/losses.py        # or: make bench

Both sides have the same networks, images, augmentation, optimiser and settings, in one process, one thread and float32.
Times are processor times, medians over rounds in which everything compared runs in turn.

A step is a complete update: batch, both forward passes, loss, backward, optimiser. torchdistill's losses run under the
best conditions: they are called directly, features come from a forward pass written for these networks instead of
hooks, and CRD gets negatives that were drawn beforehand. "Loss only" is forward and backward from given features, with
the layers that belong to the loss. Writes benchmarks/results/losses.md; without torchdistill it prints gankd's own
numbers and writes nothing.
"""

import ctypes
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from pipeline import RESULTS, ROUNDS
from torch import Tensor, nn

from gankd.bench.loss_costs import StartingAt
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.losses.distillation.crd import CRD
from gankd.models import build_net
from gankd.models.contract import ImageModel
from gankd.models.resnet import ResNet
from gankd.report.gather import machine_facts
from gankd.seeds import rng
from gankd.tasks import Classification, Regression, Task
from gankd.training import distill as loop
from gankd.training.criterion import Signals
from gankd.training.distill import Feed, updates
from gankd.training.lesson import DistillConfig, Lesson
from gankd.training.losses import all_losses, find_loss
from gankd.training.objective import Objective, term
from gankd.training.supervised import make_optimizer
from gankd.training.wiring import Connection, connect

TEACHER, STUDENT, SIZE, BATCH = "resnet14x2", "resnet8", 32, 64
NUM_IMAGES, NEGATIVES, DIM = 50_000, 16_384, 128
"""Negatives of CRD, as published for CIFAR-100."""
TASKS: dict[str, Task] = {
    "classification": Classification(num_classes=100),
    "regression": Regression(low=0.0, high=1.0),
}
# The learning rate is so low that the networks hardly change. The teacher runs at every step, since each view is new.
CONFIG = DistillConfig(updates=10_000, batch_size=BATCH, augment=("shift",), optimizer="sgd", lr=1e-6)
ENGINE = Engine(torch.device("cpu"), bf16=False, channels_last=True)
TARGETS = {"CRD": 1.5, "SSKD": 1.5, "RKD": 1.5}
"""Required speed-up over the peer's loss; 1 for all others, and for whole steps, which mostly run the networks."""
SECONDS = 0.03
"""Short functions are repeated for at least this long."""
PEAK_RESET = Path("/proc/self/clear_refs")
"""Linux: writing 5 to this file resets the peak memory use."""
EXPLANATION = """\
- step / plain: time of an update with the loss, relative to the plain student. The teacher runs at every step.
- loss, ms: forward and backward of only the loss, from given features, with the layers that belong to it.
- torchdistill, ms: the same time for torchdistill's loss, on the same features.
- times faster: torchdistill's time over gankd's, for only the loss and for a whole step with the same networks, batch,
  augmentation and optimiser: batch, forward passes, loss, backward, optimiser.

torchdistill's losses are called directly, without its hooks. Features come from a forward pass written for these
networks. CRD's negatives are drawn beforehand and cost it nothing. SSKD includes cross-entropy and KD on upright
images. Freed memory stays with the process, since the time to allocate it again is not part of a loss.

A loss is repeated for 30 ms in a row, so its data stay in the cache. With two calls in a row (measured separately),
torchdistill's RKD took 1.64 [1.44, 1.86] times the time of gankd's, and its SSKD 8.84 [7.97, 10.3] times. CRD is not
equal work: gankd draws one set of negatives for the batch, torchdistill one for each image."""
KEPT: list[object] = []
"""Keeps operator definitions alive, which vanish with the library object that made them."""
INSTALL = 'for the comparison: pip install "torch<2.14" torchdistill'


# --- gankd ---------------------------------------------------------------------------------------------------------


def objectives() -> dict[str, Objective]:
    """Each loss in its main phase, with the terms that its paper always adds to it."""
    found = {}
    for name, loss in all_losses().items():
        if loss.needs or loss.needs_source:  # see benchmarks/vkd.py
            continue
        settings = {key: value for key, value in {"first": 0.0, "pretrain": 1e-4}.items() if key in loss.settings}
        found[name] = term(name, **settings)
    del found["Label"]  # the plain student
    found["SSKD"] = 0.1 * term("CE") + 0.9 * term("KD") + found["SSKD"]
    found["LSKD"] = term("KD", T=2.0, standardise=True)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def toy(task: Task, images: Tensor) -> LabelledImages:
    random = rng(0, "benchmark labels")
    labels = task.sample_labels(len(images), torch.arange(task.head_size), "uniform", random)
    return LabelledImages(images, labels, task)


def network(name: str, seed: int, task: Task) -> ImageModel:
    net = build_net(name or STUDENT, in_channels=3, image_size=SIZE, num_outputs=task.head_size, seed=seed)
    return ImageModel(net, size=SIZE, mean=torch.full((3,), 0.5), std=torch.full((3,), 0.25))


class Ours:
    """A student of gankd with an objective: a whole step, and only the losses, on their inputs of one step."""

    def __init__(self, objective: Objective | None, data: LabelledImages) -> None:
        made: list[Connection] = []

        def spied(*given: Any) -> Connection:
            made.append(connect(*given))
            return made[-1]

        task = data.task
        lesson = Lesson(
            objective or "Label",
            network(TEACHER, 0, task),
            new_student=lambda name, seed: network(name, seed, task),
        )
        self.steps = updates(
            network(STUDENT, 1, task),
            data,
            CONFIG,
            ENGINE,
            0,
            lesson=lesson,
            fakes=None,
            stage=StartingAt(CONFIG.updates // 2),  # after every warm-up
        )
        with patch.object(loop, "connect", spied):
            self.step()
        (self.net,) = made
        inputs: Signals = {}
        hook = self.net.criterion.register_forward_pre_hook(lambda _, args: inputs.update(args[0]))
        self.step()
        hook.remove()
        self.inputs = as_leaves(inputs) | {"generator": torch.Generator()}

    def step(self) -> None:
        next(self.steps)

    def alone(self) -> Callable[[], None]:
        """Forward and backward of only the losses."""
        losses = [item for item in self.net.criterion.losses if item.label != "Label"]
        calls = [(partial(item.function, *(self.inputs[name] for name in item.reads)), item.weight) for item in losses]
        leaves = wanting_gradients(self.inputs, self.net.criterion)

        def run() -> None:
            if len(calls) == 1:  # no weights needed
                total = calls[0][0]().mean()
            else:
                total = torch.stack([weight * loss().mean() for loss, weight in calls]).sum()
            differentiate(total, leaves)

        return run


def as_leaves(inputs: Signals) -> Signals:
    """Inputs detached from the networks; the student's require gradients."""

    def cut(value: Any, wants: bool) -> Any:
        if isinstance(value, list):
            return [cut(item, wants) for item in value]
        if not isinstance(value, Tensor):
            return value
        return value.detach().clone().requires_grad_(wants and value.is_floating_point())

    return {name: cut(value, "student_" in name) for name, value in inputs.items()}


def wanting_gradients(inputs: Signals, module: nn.Module) -> list[Tensor]:
    flat = [item for value in inputs.values() for item in (value if isinstance(value, list) else [value])]
    return [x for x in (*flat, *module.parameters()) if isinstance(x, Tensor) and x.requires_grad]


def differentiate(loss: Tensor, leaves: list[Tensor]) -> None:
    if loss.requires_grad:
        torch.autograd.grad(loss, leaves, allow_unused=True)


# --- torchdistill --------------------------------------------------------------------------------------------------


def import_torchvision() -> None:
    """Import torchvision, also where its wheel does not fit this build of torch."""
    try:
        import_module("torchvision")
    except RuntimeError:
        # torchvision's wheels are built for CUDA: with a CPU build of torch its operators do not load, and the import
        # fails where it extends one of them. Nothing here calls them, so it is enough that the names exist.
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)


def load_torchdistill() -> Any:
    """torchdistill's losses and their layers under one name; None if it is not installed."""
    if find_spec("torchdistill") is None:
        return None
    import_torchvision()
    parts = ("losses.mid_level", "models.wrapper", "models.adaptation")
    return SimpleNamespace(
        **{key: value for part in parts for key, value in vars(import_module(f"torchdistill.{part}")).items()}
    )


@dataclass
class Peer:
    """A loss of torchdistill on inputs under gankd's names, and the layers that belong to it."""

    loss: Callable[[Signals], Tensor]
    layers: nn.ModuleList
    has_labels: bool = False
    """True for SSKD, whose loss includes the label loss and reads images and their rotations in turn."""

    def alone(self, inputs: Signals) -> Callable[[], None]:
        """Forward and backward of only the loss."""
        leaves = wanting_gradients(inputs, self.layers)
        return lambda: differentiate(self.loss(inputs), leaves)


def io(*values: Any) -> dict[str, dict[str, Any]]:
    """Inputs in the form of torchdistill's hooks: modules 0, 1, 2 ... with their outputs."""
    return {str(place): {"output": value} for place, value in enumerate(values)}


def pairs(count: int) -> dict[str, dict[str, dict[str, str]]]:
    return {
        str(place): {side: {"path": str(place), "io": "output"} for side in ("student", "teacher")}
        for place in range(count)
    }


def build_peer(name: str, td: Any, example: Signals) -> Peer | None:
    """torchdistill's loss of this name with the same settings and layers; None if it has none."""
    output = ("0", "output", "0", "output")
    plain: dict[str, tuple[str, Callable[[], Any]]] = {
        "KD": ("outputs", lambda: td.KDLoss(*output, temperature=4.0, alpha=0, beta=1)),
        "LSKD": ("outputs", lambda: td.LogitStdKDLoss(*output, temperature=2.0, alpha=0, beta=1)),
        "DIST": ("logits", lambda: td.DISTLoss(*output)),
        "PKT": ("embedding", lambda: td.PKTLoss(*output)),
        "RKD": ("embedding", lambda: td.RKDLoss("0", "0", 25, 50, "mean")),
        "SP": ("features", lambda: td.SPKDLoss("0", "0", "batchmean")),
        "AT": ("features", lambda: td.ATLoss(pairs(3))),
    }
    if name in plain:
        kind, make = plain[name]
        loss = make()

        def run(inputs: Signals) -> Tensor:
            both = [inputs[f"{side}_{kind}"] for side in ("student", "teacher")]
            if name == "SP":
                both = [maps[-1] for maps in both]
            return loss(*(io(*value) if isinstance(value, list) else io(value) for value in both))

        return Peer(run, nn.ModuleList())
    others = {
        "FitNet": fitnet,
        "VID": vid,
        "AB": ab,
        "FSP": fsp,
        "FT": ft,
        "ReviewKD": reviewkd,
        "CC": cc,
        "CRD": crd,
        "SSKD": sskd,
    }
    return others[name](td, example) if name in others else None


def widths(example: Signals, kind: str = "features") -> list[tuple[int, int]]:
    """Channels of student and teacher, map by map."""
    maps = zip(example[f"student_{kind}"], example[f"teacher_{kind}"], strict=True)
    return [(own.shape[1], other.shape[1]) for own, other in maps]


def embedding_widths(example: Signals) -> tuple[int, int]:
    return example["student_embedding"].shape[1], example["teacher_embedding"].shape[1]


def fitnet(td: Any, example: Signals) -> Peer:
    regressor = td.ConvReg(*widths(example)[-2], 1, 1, 0, uses_relu=False)
    ends = [{"is_from_teacher": teacher, "module_path": "0", "io": "output"} for teacher in (False, True)]
    loss = td.SimpleLossWrapper(nn.MSELoss(), input=ends[0], target=ends[1])
    return Peer(
        lambda s: loss(io(regressor(s["student_features"][-2])), io(s["teacher_features"][-2]), None),
        nn.ModuleList([regressor]),
    )


def vid(td: Any, example: Signals) -> Peer:
    layers = nn.ModuleList(td.Regressor4VID(own, other, other, 1e-5, 5.0) for own, other in widths(example))
    loss = td.VIDLoss(pairs(len(layers)))
    return Peer(
        lambda s: loss(io(*map(call, layers, s["student_features"])), io(*s["teacher_features"])),
        layers,
    )


def ab(td: Any, example: Signals) -> Peer:
    layers = nn.ModuleList(
        td.Connector4DAB.build_connector(
            {"in_channels": own, "out_channels": other, "kernel_size": 1, "bias": False}, {"num_features": other}
        )
        for own, other in widths(example, "preactivations")
    )
    loss = td.AltActTransferLoss(pairs(len(layers)), 1.0, "mean")
    return Peer(
        lambda s: loss(io(*map(call, layers, s["student_preactivations"])), io(*s["teacher_preactivations"])),
        layers,
    )


def fsp(td: Any, example: Signals) -> Peer:
    # It needs equal widths, so it gets the layers that gankd inserts.
    layers = nn.ModuleList(td.ConvReg(own, other, 1, 1, 0, uses_relu=False) for own, other in widths(example))
    places = {
        str(place): {
            f"{side}_{end}": {"path": str(place + (end == "second")), "io": "output"}
            for side in ("student", "teacher")
            for end in ("first", "second")
        }
        for place in range(len(layers) - 1)
    }
    loss = td.FSPLoss(places)
    return Peer(
        lambda s: loss(io(*map(call, layers, s["student_features"])), io(*s["teacher_features"])),
        layers,
    )


def ft(td: Any, example: Signals) -> Peer:
    own, other = widths(example)[-1]
    paraphraser = td.Paraphraser4FactorTransfer(0.5, other, uses_bn=False, uses_decoder=False).requires_grad_(False)
    translator = td.Translator4FactorTransfer(own, other // 2)
    loss = td.FTLoss(paraphraser_path="0", translator_path="0")
    return Peer(
        lambda s: loss(io(translator(s["student_features"][-1])), io(paraphraser(s["teacher_features"][-1]))),
        nn.ModuleList([translator]),
    )


def reviewkd(td: Any, example: Signals) -> Peer:
    own, other = ([*example[name], example[end][:, :, None, None]] for name, end in _review_inputs())
    width = own[-1].shape[1]
    layers = nn.ModuleList(
        td.AttentionBasedFusion(mine.shape[1], width, theirs.shape[1], uses_attention=place < len(own) - 1)
        for place, (mine, theirs) in enumerate(zip(own, other, strict=True))
    )
    loss = td.HierarchicalContextLoss(*("0", "output"), *("0", "output"))

    def run(s: Signals) -> Tensor:
        own, other = ([*s[name], s[end][:, :, None, None]] for name, end in _review_inputs())
        total, fused = torch.zeros(()), None
        for layer, mine, theirs in zip(reversed(layers), reversed(own), reversed(other), strict=True):
            output, fused = layer(mine, fused, mine.shape[2])
            total = total + loss(io((output, fused)), io(theirs))
        return total

    return Peer(run, layers)


def _review_inputs() -> list[tuple[str, str]]:
    return [("student_features", "student_embedding"), ("teacher_preactivations", "teacher_embedding")]


def cc(td: Any, example: Signals) -> Peer:
    layers = nn.ModuleList(nn.Linear(width, DIM) for width in embedding_widths(example))
    loss = td.CCKDLoss("0", "0", {"type": "gaussian", "gamma": 0.4, "max_p": 2}, "batchmean")
    return Peer(lambda s: loss(io(layers[0](s["student_embedding"])), io(layers[1](s["teacher_embedding"]))), layers)


def crd(td: Any, example: Signals) -> Peer:
    layers = nn.ModuleList(td.Normalizer4CRD(nn.Linear(width, DIM)) for width in embedding_widths(example))
    loss = td.CRDLoss("0", "1", "0", DIM, NUM_IMAGES, NEGATIVES, NUM_IMAGES)
    # Its data set wrapper draws negatives in numpy for each image; here one sample, drawn beforehand, serves all steps.
    drawn = torch.randint(NUM_IMAGES, (len(example["index"]), NEGATIVES + 1), generator=rng(0, "negatives"))

    def run(s: Signals) -> Tensor:
        drawn[:, 0] = s["index"]
        given = {"pos_idx": s["index"], "contrast_idx": drawn}
        student, teacher = layers[0](s["student_embedding"]), layers[1](s["teacher_embedding"])
        return loss(io(student) | {"1": {"input": given}}, io(teacher))

    return Peer(run, nn.ModuleList([*layers, loss]))


def sskd(td: Any, example: Signals) -> Peer:
    def projection(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, width))

    own, other = embedding_widths(example)
    student, teacher = projection(own), projection(other).requires_grad_(False)
    loss = td.SSKDLoss(
        *("0", "0", "1", "1"),  # outputs, then projections
        kl_temp=4.0,
        ss_temp=0.5,
        tf_temp=4.0,
        ss_ratio=0.75,
        tf_ratio=1.0,
        loss_weights=[0.1, 0.9, 10.0, 2.7],
    )

    def run(s: Signals) -> Tensor:
        return loss(
            io(s["student_outputs"], student(s["student_embedding"])),
            io(s["teacher_outputs"], teacher(s["teacher_embedding"])),
            s["labels"],
        )

    return Peer(run, nn.ModuleList([student]), has_labels=True)


def call(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)


def in_turn(images: Tensor) -> Tensor:
    """(4 N, ...): each image followed by its three rotations, the order of torchdistill's SSKD."""
    return torch.stack([torch.rot90(images, turns, (2, 3)) for turns in range(4)], 1).flatten(0, 1)


def peer_inputs(inputs: Signals, peer: Peer) -> Signals:
    """Inputs of gankd's loss in the form that the peer needs."""
    if not peer.has_labels:
        return inputs
    merged: Signals = {"labels": inputs["labels"]}
    for name in ("student_outputs", "teacher_outputs", "student_embedding", "teacher_embedding"):
        upright, rotated = inputs[name], inputs[f"rotated_{name}"]
        merged[name] = torch.cat([upright[None], rotated.unflatten(0, (3, -1))]).transpose(0, 1).flatten(0, 1)
    return as_leaves(merged)


def look(side: str, model: ImageModel, images: Tensor) -> Signals:
    """All inputs that a loss can read from one of these networks, by a forward pass written out."""
    net = model.net
    assert isinstance(net, ResNet)
    x = net.stem(model.normalise(images))
    features: list[Tensor] = []
    preactivations: list[Tensor] = []
    for block in net.blocks:
        before = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))) + block.shortcut(x)  # type: ignore[operator]
        x = F.relu(before)
        if features and features[-1].shape == x.shape:
            features.pop()
            preactivations.pop()
        features.append(x)
        preactivations.append(before)
    embedding = x.mean((2, 3))
    outputs = net.head(embedding)
    found = {"features": features, "preactivations": preactivations, "embedding": embedding, "outputs": outputs}
    return {f"{side}_{name}": value for name, value in (found | {"logits": outputs}).items()}


class Theirs:
    """The same student with torchdistill's loss: a whole step."""

    def __init__(self, peer: Peer, ours: Ours, data: LabelledImages) -> None:
        self.peer, self.feed = peer, Feed(data, None, CONFIG, ENGINE, 0)
        self.student = ENGINE.place(network(STUDENT, 1, data.task)).train()
        self.teacher = ENGINE.place(network(TEACHER, 0, data.task)).eval()
        self.optimizer, self.schedule = make_optimizer(nn.ModuleList([self.student, peer.layers]), CONFIG)
        self._numbers = itertools.count(CONFIG.updates // 2)
        self._check(ours.inputs)

    def step(self) -> None:
        batch = self.feed(next(self._numbers))
        images = in_turn(batch.images) if self.peer.has_labels else batch.images
        with torch.no_grad():
            signals = look("teacher", self.teacher, images)
        signals |= look("student", self.student, images)
        signals |= {"index": batch.index, "labels": batch.parts[0][1]}
        loss = self.peer.loss(signals)
        if not self.peer.has_labels:
            loss = loss + F.cross_entropy(signals["student_outputs"], signals["labels"])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()

    @torch.no_grad()
    def _check(self, inputs: Signals) -> None:
        """Check that both sides read the same from the teacher."""
        for name, value in look("teacher", self.teacher, inputs["images"]).items():
            if name in inputs:
                torch.testing.assert_close(inputs[name], value, atol=1e-4, rtol=1e-4)


# --- measuring -----------------------------------------------------------------------------------------------------


@dataclass
class Row:
    name: str
    over_plain: float
    loss: float
    """Seconds, like `peer_loss`."""
    peer_loss: float | None = None
    loss_speedup: float | None = None
    step_speedup: float | None = None

    @property
    def falls_short(self) -> bool:
        """True if a goal is missed by more than the difference between two runs."""
        wanted = ((self.loss_speedup, TARGETS.get(self.name, 1.0)), (self.step_speedup, 1.0))
        return any(found is not None and found < 0.95 * target for found, target in wanted)

    def __str__(self) -> str:
        def number(value: float | None, form: str) -> str:
            return "-" if value is None else format(value, form)

        peer_ms = None if self.peer_loss is None else 1e3 * self.peer_loss
        return (
            f"{self.name:<15} {self.over_plain:>12.2f} {1e3 * self.loss:>9.2f} {number(peer_ms, '.2f'):>16} "
            f"{number(self.loss_speedup, '.2f'):>12} {number(self.step_speedup, '.2f'):>12}"
        )


HEAD = (
    f"{'loss':<15} {'step / plain':>12} {'loss, ms':>9} {'torchdistill, ms':>16} {'times faster':>12} "
    f"{'whole step':>12}"
)


def medians(*works: Callable[[], object]) -> list[float]:
    """Median processor seconds of each function, run in turn; short ones several times in a row."""
    counts = []
    for work in works:
        work()
        counts.append(max(1, round(SECONDS / timed(work, 1))))
    seconds: list[list[float]] = [[] for _ in works]
    for number in range(ROUNDS):
        for place in range(len(works))[:: -1 if number % 2 else 1]:  # alternate directions, so each follows each
            seconds[place].append(timed(works[place], counts[place]))
    return [statistics.median(times) for times in seconds]


def timed(work: Callable[[], object], count: int) -> float:
    start = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - start) / count


def measure(name: str, objective: Objective, data: LabelledImages, plain: Ours, td: Any) -> Row:
    ours = Ours(objective, data)
    peer = None if td is None else build_peer(name, td, ours.inputs)
    if peer is None:
        step, plain_step = medians(ours.step, plain.step)
        return Row(name, step / plain_step, *medians(ours.alone()))
    step, plain_step, peer_step = medians(ours.step, plain.step, Theirs(peer, ours, data).step)
    loss, peer_loss = medians(ours.alone(), peer.alone(peer_inputs(ours.inputs, peer)))
    return Row(name, step / plain_step, loss, peer_loss, peer_loss / loss, peer_step / step)


def crd_memory(side: str) -> tuple[float, float]:
    """Megabytes of CRD's memory of all images, and the peak that steps add to it; run in a separate process."""
    torch.set_num_threads(1)
    labels = torch.randint(100, (NUM_IMAGES,))
    rows = torch.arange(BATCH)
    inputs: Signals = {
        "student_embedding": torch.randn(BATCH, 64, requires_grad=True),
        "teacher_embedding": torch.randn(BATCH, 128),
        "labels": labels[rows],
        "index": rows,
        "generator": torch.Generator(),
    }
    module: nn.Module
    if side == "gankd":
        module = CRD(inputs["student_embedding"], inputs["teacher_embedding"], labels)
        names = find_loss("CRD").inputs

        def run() -> Tensor:
            return module(*(inputs[name] for name in names)).mean()
    else:
        peer = crd(load_torchdistill(), inputs)
        module = peer.layers

        def run() -> Tensor:
            return peer.loss(inputs)

    bank = sum(buffer.nbytes for buffer in module.buffers() if buffer.numel() >= NUM_IMAGES * DIM)
    PEAK_RESET.write_text("5")
    before = resident("VmRSS")
    leaves = wanting_gradients(inputs, module)
    for _ in range(3):
        differentiate(run(), leaves)
    return bank / 1e6, resident("VmHWM") - before


def resident(which: str) -> float:
    """Megabytes of this process: now (VmRSS), or the peak since the last reset (VmHWM)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))
    return int(line.split()[1]) * 1024 / 1e6


def memory_lines(td: Any) -> list[str]:
    """Memory of CRD, if the system reports it."""
    if not PEAK_RESET.exists():
        return []
    # A setting of glibc: freed tensors go back to the system at once, so the peak is only theirs.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    lines = [f"CRD, {NUM_IMAGES:,} images, {NEGATIVES:,} negatives, batch {BATCH}, width {DIM}:"]
    for side in ("gankd", "torchdistill") if td else ("gankd",):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            bank, peak = pool.submit(crd_memory, side).result()
        lines.append(f"{side:<15} {bank:>7,.0f} MB for the memory of the images, {peak:>7,.0f} MB more during a step")
    return lines


def keep_freed_memory() -> None:
    """Make the process keep freed memory, if the C library allows it.

    glibc returns the top of its heap to the system and gets it back page by page in the next step. This may take a
    third of a step, on either side, depending on what happened to be freed last.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-4, 0)  # M_MMAP_MAX: no blocks outside of the heap


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    td = load_torchdistill()
    images = torch.randint(0, 256, (NUM_IMAGES, 3, SIZE, SIZE), generator=rng(0, "benchmark"), dtype=torch.uint8)
    data = {kind: toy(task, images) for kind, task in TASKS.items()}
    plain = {kind: Ours(None, data[kind]) for kind in TASKS}
    rows = []
    for name, objective in objectives().items():
        kind = "classification" if "classification" in objective.terms[-1].loss.tasks else "regression"
        rows.append(measure(name, objective, data[kind], plain[kind], td))
    rows.sort(key=lambda row: row.peer_loss is None)  # losses that torchdistill has come first
    short = [row.name for row in rows if row.falls_short]
    lines = [HEAD, *map(str, rows), "", *memory_lines(td)]
    if td is None:
        print("\n".join([*lines, "", INSTALL]))
        return
    goal = "never slower than torchdistill (within 5 %), losses CRD, SSKD and RKD 1.5 times faster"
    text = "\n".join([*lines, "", f"{goal}: " + (f"missed by {', '.join(short)}" if short else "met")])
    print(text)
    facts = machine_facts() | {"torchdistill": version("torchdistill")}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "losses.md").write_text(
        f"# Speed of distillation losses\n\nWritten by `python benchmarks/losses.py` on "
        f"{', '.join(f'{name} {value}' for name, value in facts.items())}; one thread, float32, medians of {ROUNDS} "
        f"rounds in turn, processor time. {TEACHER} to {STUDENT}, {SIZE} px, batch {BATCH}.\n\n{EXPLANATION}\n\n"
        f"```text\n{text}\n```\n"
    )


if __name__ == "__main__":
    main()
