"""Kinds of augmentation that suit a given teacher: gankd cannot know what it was trained with."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gankd.batches import in_batches
from gankd.data.augment import Augmentation, apply_views, draw_views
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.models.contract import ImageModel, predict
from gankd.seeds import rng
from gankd.text import number

ONE_SIDED = 1.645
"""Standard errors that a mean exceeds by chance in one case of twenty."""
NOTICEABLE = 1.1
"""Factor by which a kind must raise the teacher's error to be left out."""
VIEWS = 4
"""Augmented views of each validation image."""


def clearly_smaller(errors: Tensor, others: Tensor) -> bool:
    """True if `errors` (N,) of some images are smaller than `others` (N,) on average, and not only by luck.

    Paired over the images, one-sided at 5 %; equal errors are not smaller.
    """
    gain = others - errors
    return bool(gain.mean() > ONE_SIDED * gain.std() / math.sqrt(len(gain)))


@torch.no_grad()
def suited_kinds(
    teacher: ImageModel,
    kinds: Sequence[Augmentation],
    val: LabelledImages,
    engine: Engine,
    say: Callable[[str, str], None] = lambda *_: None,
) -> list[Augmentation]:
    """Those of `kinds` that do not clearly raise the teacher's error on validation images, by a tenth or more.

    Args:
        teacher: in eval mode, on the device.
        kinds: one is tried at a time.
        val: validation images.
        engine: device.
        say: tells which kinds are left out.
    """
    before, suited = val.task.errors(predict(teacher, val.images, engine).cpu(), val.labels.cpu()), []
    for kind in kinds:
        after = torch.stack([_errors(teacher, kind, which, val, engine) for which in range(VIEWS)]).mean(0)
        if clearly_smaller(before, after) and after.mean() >= NOTICEABLE * before.mean():
            rise = f"from {number(before.mean().item())} to {number(after.mean().item())} on validation images"
            say("teacher", f"{kind} raises its error {rise}; students are not augmented by it")
        else:
            suited.append(kind)
    return suited


def _errors(teacher: ImageModel, kind: Augmentation, which: int, val: LabelledImages, engine: Engine) -> Tensor:
    """Error (N,) of each validation image, changed at random by one kind of augmentation."""
    views = draw_views(len(val), (kind,), rng(0, f"suited {kind}", which))

    def outputs(part: slice) -> Tensor:
        images = val.images[part].to(engine.device)
        return teacher(apply_views(images, views[part].to(engine.device))).float()

    found = torch.cat(in_batches(outputs, len(val), engine.device)).cpu()
    return val.task.errors(found, val.labels.cpu())
