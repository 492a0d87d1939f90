"""Train a student on real and generated images, from labels and, if asked, from the teacher's outputs.

Every arm of a comparison is this one loop with other inputs, so that arms differ in nothing else.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gankd.config import require
from gankd.data.augment import augment
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.models.contract import ImageModel, check_model, evaluate, predict
from gankd.run import Stage
from gankd.seeds import Batches, rng
from gankd.training.supervised import SupervisedConfig, make_optimizer, seed_own_layers


@dataclass(frozen=True, kw_only=True)
class DistillConfig(SupervisedConfig):
    """How a student learns."""

    fake_share: float = 0.5
    """Share of generated images in each batch, where there are any."""
    kd_weight: float = 0.5
    """Weight of the teacher's outputs in arms that use them; the labels get 1 - kd_weight."""
    kd_on: Literal["both", "real", "fake"] = "both"
    """Images on which the student also learns from the teacher's outputs, in arms that use them."""
    temperature: float = 4.0
    """Softens logits in classic KD (Hinton et al. 2015); regression has no use for it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.fake_share <= 1, f"{self.where}fake_share must lie in (0, 1], got {self.fake_share}")
        require(
            round(self.fake_share * self.batch_size) >= 1,
            f"fake_share {self.fake_share} of batch_size {self.batch_size} is less than one image",
        )
        require(0 <= self.kd_weight <= 1, f"{self.where}kd_weight must lie in [0, 1], got {self.kd_weight}")
        require(self.temperature > 0, f"{self.where}temperature must be positive, got {self.temperature}")


@dataclass(frozen=True)
class Fakes:
    """Generated images for a student: uint8 images (M, C, H, W), labels (M,) or class probabilities (M, K), and
    teacher outputs (M,) or (M, K).
    """

    images: Tensor
    labels: Tensor
    teacher_outputs: Tensor

    def to(self, device: torch.device) -> "Fakes":
        """The same on another device."""
        return Fakes(self.images.to(device), self.labels.to(device), self.teacher_outputs.to(device))


def distill(
    student: ImageModel,
    real: LabelledImages,
    val: LabelledImages,
    config: DistillConfig,
    engine: Engine,
    seed: int,
    *,
    fakes: Fakes | None = None,
    teacher: ImageModel | None = None,
    stage: Stage | None = None,
) -> ImageModel:
    """Train `student` in place; return it in eval mode, as it is after the last update.

    With `fakes`, a share of each batch is generated. With `teacher`, its outputs join the labels on the images that
    `config.kd_on` names: read once where images are not augmented, computed in step with the augmented view otherwise.

    Raises:
        ModelError: outputs do not fit the task. TrainingError: the loss is not finite.
    """
    stage = stage or Stage("student")
    task = real.task
    engine.place(student)
    real = real.to(engine.device)
    check_model(student, real, stage.name)
    optimizer, schedule = make_optimizer(student, config)

    num_fake = round(config.fake_share * config.batch_size) if fakes is not None else 0
    num_real = config.batch_size - num_fake
    real_batches = Batches(len(real), max(num_real, 1), seed, "student real")
    if fakes is not None:
        fakes = fakes.to(engine.device)
        fake_batches = Batches(len(fakes.images), num_fake, seed, "student fake")
    online = teacher is not None and bool(config.augment)
    if teacher is not None:
        engine.place(teacher).eval()
        real_outputs = None if online else predict(teacher, real.images, engine)

    for step in stage.steps(config.updates, student=student, optimizer=optimizer, schedule=schedule):
        student.train()
        seed_own_layers(seed, step)
        index = real_batches(step)[:num_real].to(engine.device)
        images, label_loss_inputs = real.images[index], [(slice(0, num_real), real.labels[index])]
        stored = [real_outputs[index]] if teacher is not None and not online and real_outputs is not None else []
        if fakes is not None:
            fake_index = fake_batches(step).to(engine.device)
            images = torch.cat([images, fakes.images[fake_index]])
            label_loss_inputs.append((slice(num_real, None), fakes.labels[fake_index]))
            if stored:
                stored.append(fakes.teacher_outputs[fake_index].float())
        if config.augment:
            images = augment(images, config.augment, rng(seed, "augment", step, device=engine.device))
        with engine.autocast():
            outputs = student(images)
            if online and teacher is not None:
                with torch.no_grad():
                    stored = [teacher(images)]
        losses = torch.cat([task.loss(outputs[part], labels) for part, labels in label_loss_inputs if len(labels)])
        terms = {"label": losses.detach().mean()}
        if teacher is not None:
            soft = task.distill_loss(outputs, torch.cat(stored), config.temperature)
            weight = torch.full_like(losses, config.kd_weight)
            if config.kd_on != "both":
                weight[num_real:] *= config.kd_on == "fake"
                weight[:num_real] *= config.kd_on == "real"
            losses = (1 - weight) * losses + weight * soft
            terms["teacher"] = soft.detach().mean()
        loss = losses.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        stage.report(len(images), loss=loss.detach(), **terms)

    stage.log(step=config.updates, **{f"val_{name}": value for name, value in evaluate(student, val, engine).items()})
    return student.eval()
