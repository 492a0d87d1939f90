"""Controls of a pack's students: the same training on real, unlabelled or senseless images, judged on real ones."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gankd.models.contract import evaluate, predict
from gankd.packs.card import Control
from gankd.packs.file import Pack
from gankd.packs.student import Recording, divided, splits_of, student_stage, train_on
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import declare
from gankd.recipes.teacher import make_teacher
from gankd.runs import Stage
from gankd.seeds import rng


def evaluate_pack(
    experiment: Experiment, pack: Pack, images: Tensor, seeds: Sequence[int], other: Tensor | None = None
) -> list[Control]:
    """Train the students of a pack and their controls with equal settings and updates; finished ones are reused.

    Args:
        experiment: the run that was packed.
        pack: the pack.
        images: its images (M, C, H, W).
        seeds: of the students of each row.
        other: (L, C, H, W) public images of something else, for the teacher to label.
    """
    test, rows = experiment.splits.test, []
    teacher = declare(experiment, ()).teacher
    for name, title, recording in _recordings(experiment, teacher, pack, images, other):
        config = pack.student
        if name == "virtual":
            assert pack.virtual is not None
            config = replace(config, loss=pack.task.target_loss("virtual", pack.virtual.temperature))
        splits = splits_of(recording, experiment.splits.val, test, name)
        own = replace(experiment, splits=splits, recipe=replace(experiment.recipe, student=config))
        values = []
        for seed in seeds:
            stage = student_stage(own, f"packed-{name}", seed, teacher=teacher.fingerprint)
            values.append(evaluate(train_on(own, recording, seed, stage), test, own.engine)[pack.task.metric])
        rows.append(Control(name=name, title=title, images=len(recording.images), values=tuple(values)))
    return rows


def _recordings(
    experiment: Experiment, stage: Stage, pack: Pack, images: Tensor, other: Tensor | None
) -> Iterator[tuple[str, str, Recording]]:
    """Name, title and images of each row; the first is the pack itself."""
    train, task, seed = experiment.splits.train, pack.task, experiment.recipe.seed
    teacher = make_teacher(experiment, experiment.recipe.teacher, stage)
    packed, _ = divided(pack, images)
    yield "pack", "the pack", packed
    outputs = predict(teacher, train.images, experiment.engine).cpu()
    yield "real", "real images and labels, the ceiling", Recording(train.images.cpu(), train.labels.cpu(), outputs)
    if pack.virtual is not None:
        yield "virtual", "images of the pack, outputs of the virtual teacher only", packed
    noise = torch.randint(0, 256, packed.images.shape, dtype=torch.uint8, generator=rng(seed, "pack noise"))
    public = {"noise": ("noise images, labelled by the teacher", noise)}
    if other is not None:
        public["other"] = ("other public images, labelled by the teacher", other)
    for name, (title, unlabelled) in public.items():
        outputs = predict(teacher, unlabelled, experiment.engine).cpu()
        labels = task.adjust(outputs, outputs, "prediction" if pack.adjust == "none" else pack.adjust)
        yield name, title, Recording(unlabelled, labels, outputs)
