"""A pack from a finished run: what a student needs in place of images and teacher."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gankd.config import require
from gankd.generators.networks import LatentGenerator
from gankd.models import ZOO
from gankd.models.contract import predict
from gankd.packs.card import Card
from gankd.packs.file import STUDENT, Pack, loss_from_strangers
from gankd.packs.outputs import encode
from gankd.recipes.arms import arm_named
from gankd.recipes.cgan_kd import arm_images
from gankd.recipes.config import StudentConfig
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import load_generator, open_pool
from gankd.recipes.stages import declare
from gankd.recipes.teacher import make_teacher
from gankd.recipes.virtual import finished_virtual
from gankd.seeds import BLOCK
from gankd.training.distill import OUTPUTS
from gankd.training.objective import Objective
from gankd.version import __version__
from gankd.virtual import load_virtual


def make_pack(experiment: Experiment, progress: Callable[[int, int], None] | None = None) -> tuple[Pack, Tensor]:
    """Pack the images that the arm `adjusted` of a run sees.

    Args:
        experiment: the run, whose pool is finished.
        progress: called with (images done, images) while they are made again.

    Returns:
        The pack, and its images (M, C, H, W): those of the pool, bit for bit, on the machine that made it. Where a
        pixel differs, the teacher looks at all of them again.

    Raises:
        ConfigError: the pool is not finished or too small, or the generator is not one that gankd trained.
    """
    recipe, splits, folder = experiment.recipe, experiment.splits, experiment.run.folder
    require(
        recipe.gan.external is None,
        f"a pack holds a generator that gankd trained, got gan.external={recipe.gan.external}; hand on its images",
    )
    arm = arm_named(recipe, "adjusted")
    stages = declare(experiment, [arm])
    require(stages.synth.done, f"{folder} has no finished pool of generated images; make it with: gankd synth {folder}")
    teacher = make_teacher(experiment, recipe.teacher, stages.teacher)
    pool, chosen = open_pool(experiment, stages.synth), arm_images(experiment, arm, stages)
    index = chosen.index.sort().values
    require(int(index[-1]) >= BLOCK, f"a pack needs images of more than one block of {BLOCK}; raise synth.pool")
    generator = load_generator(stages.gan.path("generator.safetensors"))
    assert isinstance(generator, LatentGenerator)
    virtual = finished_virtual(experiment, stages.teacher)
    pack = Pack(
        task=splits.task,
        shape=splits.train.shape,
        config=recipe.gan,
        generator=experiment.engine.place(generator),
        seed=recipe.seed,
        labels=pool.labels,
        index=index,
        encoded=encode(pool.teacher_outputs(index), splits.task),
        adjust=chosen.report["adjust"],
        student=handed_on(recipe.student),
        virtual=None if virtual is None else load_virtual(virtual, splits.task),
        card=_card(experiment, stages.teacher.result or {}),
    )
    images = pack.images(progress)
    if not torch.equal(images, pool.images(index)):
        experiment.say("pack", "images come out a little different than in the pool; the teacher looks at them again")
        pack = replace(pack, encoded=encode(predict(teacher, images, experiment.engine).cpu(), splits.task))
    return pack, images


def handed_on(config: StudentConfig) -> StudentConfig:
    """Settings of students that a pack may hold; code, and losses that read more than outputs, become the default."""
    default, values = StudentConfig(), {name: getattr(config, name) for name in STUDENT}
    if config.model not in ZOO:
        values["model"] = default.model
    if not loss_from_strangers(config.loss) or beyond_outputs(Objective.parse(config.loss)):
        values["loss"] = default.loss
    return StudentConfig(**values)


def beyond_outputs(objective: Objective) -> list[str]:
    """Inputs of losses that only the teacher itself could give, such as its feature maps."""
    return sorted(name for name in objective.inputs if "teacher_" in name and "@" not in name and name not in OUTPUTS)


def _card(experiment: Experiment, teacher: dict[str, Any]) -> Card:
    splits, config = experiment.splits, experiment.recipe.teacher
    return Card(
        version=__version__,
        recipe=experiment.recipe.name,
        data={"name": splits.name, **{name: str(value) for name, value in splits.card.items()}},
        images={"training": len(splits.train), "validation": len(splits.val), "test": len(splits.test)},
        teacher=config.model if config.members == 1 else f"{config.members} x {config.model}",
        teacher_val=teacher.get("val", {}),
    )
