"""Train the virtual teacher: beside the teacher on the outputs of its steps, and on stored outputs once it is finished.

Kim, IEEE Access 10 (2022), as reconstructed from its abstract; see `gankd.virtual`.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.data.augment import Augmentation, apply_views, draw_views
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.models.contract import ImageModel, predict
from gankd.runs import Stage
from gankd.seeds import Batches, rng
from gankd.tasks import Task
from gankd.virtual.gan import KnowledgeGan, label_means
from gankd.virtual.gates import Gates, measure
from gankd.virtual.teacher import Bank, VirtualTeacher

SNAPSHOTS = 10
"""Generators that are kept along the teacher's training."""
READ_OUT_UPDATES = 600
"""Of the layer that reads a distribution over values off the teacher's features."""


class Beside(nn.Module):
    """A generator that watches a teacher's training; the teacher does not notice.

    Args:
        gan: what learns.
        task: of the labels.
        updates: of the teacher.
        folder: where a snapshot of the generator is written after every tenth of the updates.
        look: gives the teacher's outputs (N, K) for its training images; called once, a tenth before the end.
    """

    earlier: Tensor

    def __init__(
        self, gan: KnowledgeGan, task: Task, updates: int, folder: Path, look: Callable[[], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.gan, self._task, self._folder, self._look = gan, task, folder, look
        self._period = max(1, updates // SNAPSHOTS)
        self._late = updates - self._period
        self.register_buffer("earlier", torch.zeros(0, gan.num_outputs))
        if look is not None:  # of this shape from the start, so that a checkpoint fits at any time
            self.earlier = look()

    def observe(self, step: int, outputs: Tensor, labels: Tensor) -> None:
        """Outputs (N, K) of one update of the teacher and labels (N,) in user units."""
        self.gan.observe(outputs, self._task.hard_labels(labels))
        if (step + 1) % self._period == 0 and self.gan.ready:
            VirtualTeacher.of(self.gan, updates=step + 1).save(self._folder / f"{step + 1:06d}.safetensors")
        if step + 1 == self._late and self._look is not None:
            self.earlier.copy_(self._look())


class ReadOut(nn.Module):
    """A distribution about a teacher's value: a linear layer on bumps at bin centres, to logits (N, B)."""

    centres: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.layer = nn.Linear(bins, bins)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.register_buffer("centres", (torch.arange(bins) + 0.5) / bins, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Logits (N, B) for values (N,) on the [0, 1] scale; values beyond count as its ends."""
        bins = len(self.centres)
        logits: Tensor = self.layer((-0.5 * ((values.clamp(0, 1)[:, None] - self.centres) * bins / 2).square()).exp())
        return logits


class OutputReader:
    """A finished teacher's outputs as the generator learns them: logits of classes, or of bins of the label range.

    A regressor gives one value. How labels are distributed about that value is learnt from the labels of the very
    views of the training images of which outputs are stored, and stopped where it is best on validation images. From
    the teacher's features it could be told for each image, but an over-fitted teacher's features know the labels of
    its training images by heart.

    Args:
        teacher: in eval mode.
        task: of the labels.
        bins: of a distribution over values.
        engine: where it runs.
    """

    def __init__(self, teacher: ImageModel, task: Task, bins: int, engine: Engine) -> None:
        self._teacher, self._task, self._engine = teacher, task, engine
        self.read_out = engine.place(ReadOut(bins)) if task.kind == "regression" else None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K) for images (N, C, H, W), uint8 or float in [0, 1]."""
        outputs = self._task.on_unit_scale(predict(self._teacher, images, self._engine))
        if self.read_out is None:
            return outputs
        found: Tensor = self.read_out(outputs)
        return found

    def fit(
        self, train: LabelledImages, val: LabelledImages, kinds: tuple[Augmentation, ...], views: int, seed: int
    ) -> None:
        """Learn how labels are distributed about the teacher's values; for classes there is nothing to do.

        Args:
            train, val, kinds, views, seed: as for `store_outputs`, and images by which to stop.
        """
        if self.read_out is None:
            return
        values, labels = [], []
        for images in all_views(train, kinds, views, seed):
            values.append(self._values(images))
            labels.append(self._task.hard_labels(train.labels).to(self._engine.device))
        bins = self.read_out.layer.out_features
        x, targets = torch.cat(values), label_histogram(torch.cat(labels), bins)
        val_x = self._values([val.images])
        val_targets = label_histogram(self._task.hard_labels(val.labels).to(x.device), bins)
        optimizer = torch.optim.AdamW(self.read_out.parameters(), 3e-2, weight_decay=1e-3)
        batches = Batches(len(x), 256, seed, "read-out")
        best, kept = float("inf"), {name: value.clone() for name, value in self.read_out.state_dict().items()}
        for step in range(READ_OUT_UPDATES):
            index = batches(step).to(x.device)
            loss = F.cross_entropy(self.read_out(x[index]), targets[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if step % 20 == 19:
                with torch.no_grad():
                    now = F.cross_entropy(self.read_out(val_x), val_targets).item()
                if now < best:
                    best, kept = now, {name: value.clone() for name, value in self.read_out.state_dict().items()}
        self.read_out.load_state_dict(kept)

    def _values(self, parts: Iterable[Tensor]) -> Tensor:
        """The teacher's values (N,) on the [0, 1] scale."""
        outputs = [predict(self._teacher, part, self._engine) for part in parts]
        return self._task.on_unit_scale(torch.cat(outputs)).to(self._engine.device)


def all_views(
    data: LabelledImages, kinds: tuple[Augmentation, ...], views: int, seed: int
) -> Iterator[Iterator[Tensor]]:
    """Augmented views of all images, each in parts; without augmentation the images as they are, once."""
    if not kinds:
        yield iter([data.images])
        return
    for view in range(views):
        draws = draw_views(len(data), kinds, rng(seed, "virtual view", view)).to(data.images.device)
        parts = zip(data.images.split(1024), draws.split(1024), strict=True)
        yield (apply_views(images, kinds, draw) for images, draw in parts)


def label_histogram(labels: Tensor, bins: int) -> Tensor:
    """Gaussians (N, B) of one bin's width about labels (N,) in [0, 1], integrated over B equal bins and rescaled.

    Neighbouring bins share the mass of each label, as HL-Gauss does (Imani, White, ICML 2018).
    """
    edges = torch.linspace(0, 1, bins + 1, device=labels.device)
    below = torch.special.ndtr((edges - labels[:, None]) * bins)
    return below.diff(dim=1) / (below[:, -1:] - below[:, :1])


def store_outputs(
    reader: OutputReader, data: LabelledImages, kinds: tuple[Augmentation, ...], views: int, seed: int
) -> Bank:
    """Outputs for augmented views of all images: what the generator is polished on and measured by.

    Args:
        reader: gives the outputs.
        data: the training images.
        kinds: how the teacher's images were augmented; without augmentation one view is all there is.
        views: of each image.
        seed: of the views.
    """
    logits, labels = [], []
    for parts in all_views(data, kinds, views, seed):
        logits += [reader(images).cpu() for images in parts]
        labels.append(data.task.hard_labels(data.labels).cpu())
    return Bank(torch.cat(logits).float(), torch.cat(labels))


def check(gan: KnowledgeGan, bank: Bank, earlier: Tensor) -> Gates:
    """Measure a finished generator with what is known now alone: draws without averaging, and outputs of before.

    Args:
        gan: as it is at the end.
        bank: the teacher's stored outputs, view after view.
        earlier: (N, K) logits for its images a tenth of the training before the end; (0, K) if there are none.
    """
    device = gan.mean_sum.device
    labels = bank.labels.to(device)
    z = torch.randn(len(labels), gan.ema.z_dim, generator=rng(gan.seed, "check", device=device), device=device)
    with torch.no_grad():
        averaged, raw = (net(z, labels).softmax(1) for net in (gan.ema, gan.generator))
    before = None
    if len(earlier):
        before = (earlier / gan.temperature).softmax(1).repeat(len(labels) // len(earlier), 1)
    probs = (bank.logits / gan.temperature).softmax(1)
    return measure(probs, averaged, labels, raw=raw, earlier=before, seed=gan.seed)


def polish(gan: KnowledgeGan, bank: Bank, stage: Stage) -> None:
    """Train the generator on stored outputs, with exact label means and a learning rate that falls to 0."""
    steps, device = gan.config.polish, gan.mean_sum.device
    probs = (bank.logits.to(device) / gan.temperature).softmax(1)
    labels = bank.labels.to(device)
    gan.set_means(*label_means(probs, labels, len(gan.mean_weight)))
    if not gan.ready:
        gan.start()
    batches = Batches(len(probs), gan.config.batch_size, gan.seed, "polish")
    for step in stage.steps(steps, gan=gan):
        gan.set_lr(1 - step / steps)
        index = batches(step).to(device)
        terms = gan.step(probs[index], labels[index])
        stage.report(len(index), **terms)
