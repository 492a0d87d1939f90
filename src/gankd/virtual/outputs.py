"""Outputs of a teacher as the virtual teacher learns them: distributions over classes, or over bins of values."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.data.augment import Augmentation, apply_views, draw_views
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.models.contract import ImageModel, predict
from gankd.seeds import Batches, rng
from gankd.storage import fill, load_state, save_state
from gankd.tasks import Task
from gankd.virtual.gan import VirtualConfig
from gankd.virtual.teacher import Bank

READ_OUT_UPDATES = 600
"""Updates of the layer that turns a teacher's value into a distribution."""


class ReadOut(nn.Module):
    """Distribution about a teacher's value: a linear layer on Gaussian bumps at bin centres, to logits (N, B)."""

    centres: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.layer = nn.Linear(bins, bins)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.register_buffer("centres", (torch.arange(bins) + 0.5) / bins, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Logits (N, B) for values (N,) on the [0, 1] scale; values outside it count as its ends."""
        bins = len(self.centres)
        distance = (values.clamp(0, 1)[:, None] - self.centres) * bins / 2  # (N, B), in units of two bins
        logits: Tensor = self.layer((-0.5 * distance.square()).exp())
        return logits


class OutputReader:
    """Logits of a trained teacher: of classes, or of bins of the label range.

    A regressor gives one value. The distribution of labels about that value is learned from the labels of the same
    views of the training images whose outputs are stored, with early stopping on validation images. The teacher's
    features could predict a distribution for each image, but those of an overfitted teacher have memorised the labels
    of its training images.

    Args:
        teacher: in eval mode.
        task: of the labels.
        bins: number of bins of a distribution over values.
        engine: device and precision.
    """

    def __init__(self, teacher: ImageModel, task: Task, bins: int, engine: Engine) -> None:
        self._teacher, self._task, self._engine = teacher, task, engine
        # One value has no distribution: it is read out of the labels around it; logits of classes are one already.
        self.read_out = None if task.has_classes else engine.place(ReadOut(bins))

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
        """Learn the distribution of labels about the teacher's values; does nothing for classes.

        Args:
            train: training images.
            val: images for early stopping.
            kinds, views, seed: see `store_outputs`.
        """
        if self.read_out is None:
            return
        # --- the teacher's values x and the labels as histograms
        values, labels = [], []
        for images in all_views(train, kinds, views, seed):
            values.append(self._values(images))
            labels.append(self._task.hard_labels(train.labels).to(self._engine.device))
        bins = self.read_out.layer.out_features
        x, targets = torch.cat(values), label_histogram(torch.cat(labels), bins)  # (M,), (M, B)
        val_x = self._values([val.images])
        val_targets = label_histogram(self._task.hard_labels(val.labels).to(x.device), bins)
        # --- cross-entropy, keeping the best weights on validation images
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
        """Teacher's values (N,) on the [0, 1] scale."""
        outputs = [predict(self._teacher, part, self._engine) for part in parts]
        return self._task.on_unit_scale(torch.cat(outputs)).to(self._engine.device)


def make_output_reader(
    teacher: ImageModel,
    train: LabelledImages,
    val: LabelledImages,
    config: VirtualConfig,
    path: Path,
    *,
    augment: tuple[Augmentation, ...],
    engine: Engine,
    seed: int,
) -> OutputReader:
    """Reader of a trained teacher's outputs; for values its read-out is fitted, or restored from `path`.

    Args:
        teacher: in eval mode.
        train: its training images.
        val: images for early stopping of the read-out.
        config: number of bins and of views.
        path: file of the read-out; classes need none.
        augment: augmentation of the teacher's training images.
        engine: device and precision.
        seed: of views and batches.

    Raises:
        CheckpointError: the file at `path` is damaged or of another size.
    """
    reader = OutputReader(teacher, train.task, config.bins, engine)
    if reader.read_out is None:
        return reader
    if path.is_file():
        fill(reader.read_out, load_state(path), f"{path} does not fit; delete {path.parent} and run again")
    else:
        reader.fit(train.to(engine.device), val, augment, config.views, seed)
        save_state(path, reader.read_out.state_dict())
    return reader


def all_views(
    data: LabelledImages, kinds: tuple[Augmentation, ...], views: int, seed: int
) -> Iterator[Iterator[Tensor]]:
    """Augmented views of all images, each in parts; without augmentation one view, the images themselves."""
    if not kinds:
        yield iter([data.images])
        return
    for view in range(views):
        draws = draw_views(len(data), kinds, rng(seed, "virtual view", view)).to(data.images.device)
        parts = zip(data.images.split(1024), draws.split(1024), strict=True)
        yield (apply_views(images, draw) for images, draw in parts)


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
    """Outputs for augmented views of all images, on which the generator is polished and measured.

    Args:
        reader: gives the outputs.
        data: the training images.
        kinds: augmentation of the teacher's training images; without augmentation there is one view.
        views: number of views of each image.
        seed: of the views.
    """
    logits, labels = [], []
    for parts in all_views(data, kinds, views, seed):
        logits += [reader(images).cpu() for images in parts]
        labels.append(data.task.hard_labels(data.labels).cpu())
    return Bank(torch.cat(logits).float(), torch.cat(labels))
