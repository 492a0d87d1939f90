"""Students that see a pack and nothing else: its images, labels and recorded teacher outputs."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gankd.config import require
from gankd.data.images import LabelledImages, Splits
from gankd.errors import ConfigError
from gankd.models.contract import ImageModel, evaluate
from gankd.own_code import user_errors_in_one_line
from gankd.packs.file import Pack
from gankd.packs.make import beyond_outputs
from gankd.recipes.config import StudentConfig
from gankd.recipes.experiment import Experiment
from gankd.recipes.students import new_student, own_losses
from gankd.runs import Stage
from gankd.seeds import derive_seed
from gankd.sizes import size_of
from gankd.storage import restore, save_state
from gankd.training.distill import distill
from gankd.training.lesson import Fakes, Lesson
from gankd.virtual import VirtualTeacher

HELD_OUT = 10
"""One block in so many is held out: its images only measure students."""
FEWEST = 4
"""Images on which losses are tried before training."""


@dataclass(frozen=True)
class Recording:
    """Images with labels and with a teacher's outputs: all that a student needs, whatever they come from."""

    images: Tensor
    """(M, C, H, W) uint8."""
    labels: Tensor
    """(M,) or (M, n) in user units, or (M, K) probabilities."""
    outputs: Tensor
    """(M, K) logits, or (M,) or (M, n) values, of the teacher."""
    virtual: VirtualTeacher | None = None

    def at(self, index: Tensor) -> "Recording":
        """Those at `index` (indices or a mask)."""
        return replace(self, images=self.images[index], labels=self.labels[index], outputs=self.outputs[index])


def divided(pack: Pack, images: Tensor) -> tuple[Recording, LabelledImages]:
    """The images that students learn from, and those of held-out blocks with the teacher's answers as labels.

    Args:
        pack: the pack.
        images: its images (M, C, H, W).

    Raises:
        ConfigError: all images are of one block.
    """
    blocks = pack.blocks.unique()
    require(len(blocks) > 1, "the images of the pack are of one block, and one has to be held out; pack a larger pool")
    held = torch.isin(pack.blocks, blocks[-max(1, len(blocks) // HELD_OUT) :])
    whole = Recording(images, pack.adjusted, pack.outputs, pack.virtual)
    answers = pack.task.adjust(pack.outputs[held], pack.labels[pack.index[held]], "prediction")
    require(int((~held).sum()) >= FEWEST, f"a student needs at least {FEWEST} images, got {int((~held).sum())}")
    return whole.at(~held), LabelledImages(images[held], answers, pack.task)


def splits_of(recording: Recording, val: LabelledImages, test: LabelledImages, name: str) -> Splits:
    """Splits whose training images are those of a recording; of soft labels the likeliest class counts."""
    soft = recording.labels.dtype != val.task.label_dtype
    labels = recording.labels.argmax(1) if soft else recording.labels
    return Splits(LabelledImages(recording.images, labels, val.task), val, test, name)


def only_generated(config: StudentConfig, virtual: VirtualTeacher | None) -> StudentConfig:
    """The settings of a student that has no real image, once they are known to need no teacher.

    Raises:
        ConfigError: a loss reads more of a teacher than its outputs, or the outputs for mixed images, or a virtual
            teacher that is missing; or the last updates would be on real images.
    """
    require(
        config.fake_until == 1,
        f"student.fake_until={config.fake_until:g} ends with real images, and a pack holds none; leave it out",
    )
    objective = config.objective
    beyond = beyond_outputs(objective)
    if beyond:
        raise ConfigError(
            f"the loss {objective} reads {beyond[0]}, which only the teacher itself has, and a pack holds its outputs; "
            "use losses that read no more, such as KD or DKD"
        )
    require(
        config.mix == "none" or not objective.needs_teacher,
        f"student.mix={config.mix} makes images that the teacher never saw, and a pack holds its outputs for plain "
        "ones; set student.mix=none, or student.loss=Label",
    )
    require(
        virtual is not None or not objective.needs_virtual,
        f"the loss {objective} reads a virtual teacher, and this pack has none; gankd vkd train RUN before packing",
    )
    return replace(config, fake_share=1.0, kd_on="both")


def train_on(experiment: Experiment, recording: Recording, seed: int, stage: Stage) -> ImageModel:
    """Train one student on a recording, or restore it; in eval mode.

    Args:
        experiment: its training split are the images of the recording, its recipe says how students are trained.
        recording: images, labels and outputs.
        seed: of the student's weights and batches.
        stage: where it is kept.

    Raises:
        ConfigError, ModelError: a loss or the network does not fit. TrainingError: the loss is not finite.
    """
    config, splits = only_generated(experiment.recipe.student, recording.virtual), experiment.splits
    student = experiment.model(config.network, derive_seed(seed, "student"), config.input_size)
    if stage.done:
        return restore(student, stage.path("model.safetensors"))
    objective = config.objective
    teacher = recorded(recording.outputs[:FEWEST], splits.train) if objective.needs_teacher else None
    lesson = Lesson(objective, teacher, recording.virtual, new_student(experiment, config))
    stage.begin()
    with user_errors_in_one_line(config.model, f"student {config.model}"):
        distill(
            student,
            splits.train.subset(torch.arange(FEWEST)),  # on which the losses are tried; no batch holds them
            splits.val,
            config,
            experiment.engine,
            seed,
            lesson=lesson,
            fakes=Fakes(recording.images, recording.labels, recording.outputs, every_view=True),
            stage=stage,
        )
    save_state(stage.path("model.safetensors"), student.state_dict())
    stage.finish(val=evaluate(student, splits.val, experiment.engine), updates=config.updates)
    return student


def student_stage(experiment: Experiment, name: str, seed: int, **inputs: str) -> Stage:
    """Identity and state of one student of a recording.

    Args:
        experiment: as for `train_on`.
        name: first part of the folder's name.
        seed: of the student.
        inputs: fingerprints of what the recording was made from.
    """
    config = experiment.recipe.student
    settings = {**config.identity, "seed": seed, "bf16": experiment.engine.bf16}
    rests_on = {
        "net": experiment.describe(config.network, config.input_size),
        "data": experiment.splits.train.fingerprint(),
        **own_losses(experiment, config),
    }
    return experiment.run.stage(f"student-{name}-{seed}", settings, {**rests_on, **inputs})


def recorded(outputs: Tensor, data: LabelledImages) -> ImageModel:
    """A teacher that knows its outputs (n, K) or (n,) for the first n images of `data`, and nothing else."""
    ones = torch.ones(data.shape[0])
    return ImageModel(_Record(outputs), size=size_of(*data.shape[1:]), mean=0 * ones, std=ones)


class _Record(nn.Module):
    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.register_buffer("outputs", outputs.float())

    def forward(self, x: Tensor) -> Tensor:
        outputs: Any = self.outputs
        return outputs[: len(x)]
