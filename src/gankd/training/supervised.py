"""Train one network on labelled images: the teacher, and each member of a teacher ensemble."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from gankd.config import check_ranges, require, to_dict
from gankd.data.augment import DRAWS, Augmentation, augment, known_as
from gankd.data.images import LabelledImages
from gankd.data.mix import Mix, check_mix, mix
from gankd.engine import Engine
from gankd.errors import ModelError
from gankd.models.contract import ImageModel, check_model, evaluate
from gankd.models.initial import Initial
from gankd.ranges import BelowOne, Count, CountFromTwo, UpToTen, Within
from gankd.runs import Stage
from gankd.seeds import Batches, rng, seed_own_layers
from gankd.settings import explained
from gankd.training.class_weights import ClassWeights, weights_of_classes, weights_of_images
from gankd.virtual import Watcher


@explained
@dataclass(frozen=True, kw_only=True)
class SupervisedConfig:
    """Settings of training on labels."""

    where: ClassVar[str] = ""
    """Group of settings that an error speaks of."""
    has_teacher: ClassVar[bool] = False
    """True if `teacher` may be among the kinds of augmentation; whoever trains with it replaces it before."""

    updates: Count = 2000
    """Number of optimiser steps."""
    batch_size: CountFromTwo = 64
    """Images in each step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """sgd: with momentum 0.9."""
    nesterov: bool = True
    """Nesterov's momentum in sgd; false: plain momentum, as most published results have it."""
    lr: UpToTen = 2e-3
    """Highest learning rate."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """cosine: linear warm-up over 5 % of the updates, then cosine to 0; steps: a tenth after each of `decay_at`."""
    decay_at: tuple[Within, ...] = (0.625, 0.75, 0.875)
    """Shares of the updates; the default is epochs 150, 180 and 210 of 240."""
    weight_decay: BelowOne = 1e-2
    """Pull of the weights towards 0."""
    augment: tuple[Augmentation, ...] = ()
    """Random changes of images; colour and color, and shift and translation, are the same."""

    initial: Initial = "gankd"
    """Initial weights of a network of the zoo. published: as the authors of cGAN-KD drew those of its family; pytorch:
    PyTorch's defaults, as in their first version."""
    class_weights: ClassWeights = "none"
    """Weights of classes in the label loss. balanced: every class has the same part of it, however rare; or a number
    for each class."""
    mix: Mix = "none"
    """Mixes every image, and its label, with another one of its batch; mixup for values prefers close labels
    (C-Mixup)."""
    mix_alpha: UpToTen = 1.0
    """Shares of the two images are drawn from Beta(mix_alpha, mix_alpha)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "augment", known_as(self.augment, DRAWS))  # as stored
        check_ranges(self)
        require(
            self.has_teacher or "teacher" not in self.augment,
            f"{self.where}augment=teacher is for students in a recipe; name kinds of change, such as shift,flip",
        )
        require(
            list(self.decay_at) == sorted(set(self.decay_at)),
            f"{self.where}decay_at must be rising shares within (0, 1), got {list(self.decay_at)}",
        )

        require(
            isinstance(self.class_weights, str) or all(0 < weight < math.inf for weight in self.class_weights),
            f"{self.where}class_weights must be positive numbers, got {list(self.class_weights)}",
        )

    @property
    def identity(self) -> dict[str, Any]:
        """These settings as plain data, without mixing and weights where these are off, and without the usual initial
        weights and momentum: results are the same then.
        """
        settings = to_dict(self)
        if self.mix == "none":
            del settings["mix"], settings["mix_alpha"]
        if self.class_weights == "none":
            del settings["class_weights"]
        if self.initial == "gankd":
            del settings["initial"]
        if self.nesterov:
            del settings["nesterov"]
        return settings


CURVE_POINTS = 8
"""Number of times that a network is measured on validation images, the last after its last update."""


def measure(stage: Stage, model: ImageModel, val: LabelledImages, engine: Engine, done: int, updates: int) -> None:
    """Log the metrics on validation images if `done` of all `updates` are one of CURVE_POINTS equal parts of them.

    Nothing random is drawn, and `model` is left in eval mode, so training continues bit for bit as without.
    """
    if done * CURVE_POINTS // updates > (done - 1) * CURVE_POINTS // updates:
        stage.log(step=done, **{f"val_{name}": value for name, value in evaluate(model, val, engine).items()})


def make_optimizer(
    model: torch.nn.Module, config: SupervisedConfig, updates: int | None = None
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Optimiser and schedule of `config`, over `updates` if given."""
    updates = updates or config.updates
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay, fused=True)
    else:
        optimizer = torch.optim.SGD(
            parameters, config.lr, momentum=0.9, weight_decay=config.weight_decay, nesterov=config.nesterov
        )
    if config.schedule == "steps":
        # Published schedules drop after whole epochs, that is, at shares of the updates.
        milestones = [round(share * updates) for share in config.decay_at]
        return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        config.lr,
        total_steps=updates + 1,
        pct_start=max(0.05, 2 / (updates + 1)),  # a warm-up of no step would divide by zero
        anneal_strategy="cos",
        cycle_momentum=False,
        div_factor=10,
        final_div_factor=1e4,
    )
    return optimizer, schedule


def require_trainable(model: torch.nn.Module, what: str) -> None:
    """Raise ModelError if a network has no weights, or all of them are frozen."""
    parameters = list(model.parameters())
    if not any(parameter.requires_grad for parameter in parameters):
        state = "all its weights are frozen (requires_grad=False); unfreeze some" if parameters else "it has no weights"
        raise ModelError(f"{what} has nothing to train: {state}")


def train_supervised(
    model: ImageModel,
    train: LabelledImages,
    val: LabelledImages,
    config: SupervisedConfig,
    engine: Engine,
    seed: int,
    stage: Stage | None = None,
    beside: Watcher | None = None,
) -> ImageModel:
    """Train `model` in place on `train`; return it in eval mode, as it is after the last update.

    Args:
        model, train, val, config, engine, seed: what is trained, on which images and how; `val` is only measured.
        stage: where progress is shown and kept.
        beside: watches the outputs of every update; the model ends bit for bit as without.

    Raises:
        ConfigError: labels of this task cannot be mixed as asked, or a watcher would see mixed images.
        ModelError: outputs do not fit the task. TrainingError: the loss is not finite.
    """
    stage = stage or Stage("supervised")
    engine.place(model)
    train = train.to(engine.device)
    check_model(model, train, stage.name)
    check_mix(config.mix, train.task, config.where)
    require(
        config.mix == "none" or beside is None,
        f"{config.where}mix={config.mix}: a virtual teacher learns alongside from un-mixed images only; set it to none",
    )
    require_trainable(model, stage.name)
    optimizer, schedule = make_optimizer(model, config)
    batches = Batches(len(train), config.batch_size, seed, "supervised")  # a function of (seed, step)
    weights = weights_of_classes(config.class_weights, train.task, [(train.labels, 1.0)], config.where)

    state: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
    if beside is not None:
        state["beside"] = beside

    for step in stage.steps(config.updates, **state):
        model.train()
        seed_own_layers(seed, step)
        index = batches(step).to(engine.device)
        images, labels = train.images[index], train.labels[index]  # (N, C, H, W), (N,)
        if config.augment:
            images = augment(images, config.augment, rng(seed, "augment", step, device=engine.device))
        if config.mix != "none":
            draws = rng(seed, "mix", step, device=engine.device)
            images, labels = mix(images, train.task.mixable(labels), train.task, config.mix, config.mix_alpha, draws)
        with engine.autocast():
            outputs = engine.shards(model, images, trains=model)  # (N, K) or (N,)
        loss = train.task.loss(outputs, labels)  # (N,)
        if weights is not None:
            loss = loss * weights_of_images(weights, train.task, labels)
        loss = loss.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if beside is not None:
            beside.observe(step, outputs.detach(), labels)
        stage.report(len(images), loss=loss.detach())
        if step + 1 < config.updates:
            measure(stage, model, val, engine, step + 1, config.updates)

    measure(stage, model, val, engine, config.updates, config.updates)
    return model.eval()
