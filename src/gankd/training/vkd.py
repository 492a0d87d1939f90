"""Train the virtual teacher: beside the teacher on the outputs of its steps, and on stored outputs once it is finished.

Kim, IEEE Access 10 (2022), as reconstructed from its abstract; see `gankd.virtual`.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.data.augment import Augmentation, apply_views, draw_views
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.models.contract import ImageModel, predict, predict_with_features
from gankd.run import Stage
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
    """A linear layer on standardised features (N, F), to logits (N, B)."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, bins: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, bins)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    @torch.no_grad()
    def start(self, features: Tensor) -> None:
        """Take mean and spread from features, and begin with a distribution that is even."""
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0).clamp_min(1e-6))
        self.layer.weight.zero_()
        self.layer.bias.zero_()

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.layer((features - self.mean) / self.std)
        return logits


class OutputReader:
    """A finished teacher's outputs as the generator learns them: logits of classes, or of bins of the label range.

    A regressor gives one value. Its predictive distribution is read off its features by a linear layer, trained on
    the labels with the teacher frozen, and stopped where it is best on validation images: on training images an
    over-fitted teacher knows every label.

    Args:
        teacher: in eval mode.
        task: of the labels.
        bins: of a distribution over values.
        engine: where it runs.
    """

    def __init__(self, teacher: ImageModel, task: Task, bins: int, engine: Engine) -> None:
        self._teacher, self._task, self._engine = teacher, task, engine
        self.read_out: ReadOut | None = None
        if task.kind == "regression":
            width = _features(teacher, torch.zeros(1, *_shape(teacher), dtype=torch.uint8), engine).shape[1]
            self.read_out = engine.place(ReadOut(width, bins))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K) for images (N, C, H, W), uint8 or float in [0, 1]."""
        if self.read_out is None:
            return self._task.on_unit_scale(predict(self._teacher, images, self._engine))
        found: Tensor = self.read_out(_features(self._teacher, images, self._engine))
        return found

    def fit(self, train: LabelledImages, val: LabelledImages, seed: int) -> None:
        """Train the layer that reads a distribution over values; for classes there is nothing to do."""
        if self.read_out is None:
            return
        features, targets = self._on(train)
        val_features, val_targets = self._on(val)
        self.read_out.start(features)
        optimizer = torch.optim.AdamW(self.read_out.layer.parameters(), 1e-2, weight_decay=1e-2)
        batches = Batches(len(features), 256, seed, "read-out")
        best, kept = float("inf"), {name: value.clone() for name, value in self.read_out.state_dict().items()}
        for step in range(READ_OUT_UPDATES):
            index = batches(step).to(features.device)
            loss = F.cross_entropy(self.read_out(features[index]), targets[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if step % 20 == 19:
                with torch.no_grad():
                    now = F.cross_entropy(self.read_out(val_features), val_targets).item()
                if now < best:
                    best, kept = now, {name: value.clone() for name, value in self.read_out.state_dict().items()}
        self.read_out.load_state_dict(kept)

    def _on(self, data: LabelledImages) -> tuple[Tensor, Tensor]:
        """Features (N, F) and smoothed label histograms (N, B)."""
        assert self.read_out is not None
        features = _features(self._teacher, data.images, self._engine).to(self._engine.device)
        labels = self._task.hard_labels(data.labels).to(features.device)
        return features, label_histogram(labels, self.read_out.layer.out_features)


def label_histogram(labels: Tensor, bins: int) -> Tensor:
    """Gaussians (N, B) of one bin's width about labels (N,) in [0, 1], integrated over B equal bins and rescaled.

    Neighbouring bins share the mass of each label, as HL-Gauss does (Imani, White, ICML 2018).
    """
    edges = torch.linspace(0, 1, bins + 1, device=labels.device)
    below = torch.special.ndtr((edges - labels[:, None]) * bins)
    return below.diff(dim=1) / (below[:, -1:] - below[:, :1])


def _shape(teacher: ImageModel) -> tuple[int, int, int]:
    return teacher.mean.shape[1], teacher.size, teacher.size


def _features(teacher: ImageModel, images: Tensor, engine: Engine) -> Tensor:
    return predict_with_features(teacher, images, engine)[1].float()


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
    for view in range(views if kinds else 1):
        images = data.images
        if kinds:
            draws = draw_views(len(data), kinds, rng(seed, "virtual view", view)).to(images.device)
            parts = zip(images.split(1024), draws.split(1024), strict=True)
            logits += [reader(apply_views(part, kinds, draw)).cpu() for part, draw in parts]
        else:
            logits.append(reader(images).cpu())
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
