"""The user's images without labels: the teacher labels them, and the filter chooses among them, as in the pool."""

import hashlib

import torch
from torch import Tensor

from gankd.config import require
from gankd.models.contract import ImageModel, predict
from gankd.parted import is_parted
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import open_pool, select_images
from gankd.runs import Stage
from gankd.seeds import in_blocks
from gankd.synthetic import SelectConfig, Selection, SyntheticSet, generate


def unlabelled_stage(experiment: Experiment, teacher: Stage) -> Stage:
    """Identity and state of the images with the teacher's labels.

    Raises:
        ConfigError: there are none.
    """
    images = experiment.splits.unlabelled
    require(images is not None, "an arm shows images without labels; name some: --set data.unlabelled=FOLDER")
    assert images is not None
    key = "images without labels"
    if key not in experiment.memory:
        digest = hashlib.blake2b(repr(tuple(images.shape)).encode(), digest_size=16)
        digest.update(images.contiguous().numpy().data)
        experiment.memory[key] = digest.hexdigest()
    return experiment.stage("unlabelled", {}, teacher=teacher.fingerprint, images=experiment.memory[key])


def make_unlabelled(experiment: Experiment, teacher: ImageModel, stage: Stage) -> SyntheticSet:
    """Store the images with the teacher's labels and outputs, as generated ones are, or open what is stored.

    The label of an image is what the teacher says of it: its class, or its value within the label range. All density
    ratios are 1.

    Raises:
        RunError: the disk is too small. ModelError: an output is not finite.
    """
    if stage.done:
        return open_pool(experiment, stage)
    images, task, seed = experiment.splits.unlabelled, experiment.splits.task, experiment.recipe.seed
    assert images is not None
    stage.begin()
    outputs = predict(teacher, images, experiment.engine).cpu()
    labels = task.adjust(outputs, outputs, "prediction").to(task.label_dtype)
    read = in_blocks(images, torch.arange(len(images)), seed, "sample")

    def score(pixels: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return predict(teacher, pixels, experiment.engine), torch.zeros(len(pixels))

    path, together = stage.path("pool"), is_parted(teacher)
    pool = generate(path, read, score, task, labels, seed, provenance={}, progress=stage.progress, together=together)
    stage.finish(count=len(pool))
    return pool


def select_unlabelled(experiment: Experiment, teacher: ImageModel, config: SelectConfig, stage: Stage) -> Selection:
    """Choose among the images of a finished stage by the teacher's filter; see `select_images`."""
    return select_images(experiment, open_pool(experiment, stage), teacher, config, stage)
