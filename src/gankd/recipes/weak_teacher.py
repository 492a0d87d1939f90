"""A teacher must be clearly better than its student on labels only, before the hours of a generator."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from gankd.errors import GankdError, ModelError
from gankd.models import ZOO
from gankd.models.contract import ImageModel, predict
from gankd.recipes.arms import Arm
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.config import TeacherConfig
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import check_disk
from gankd.recipes.stages import declare
from gankd.recipes.students import restore_student
from gankd.recipes.suited import clearly_smaller
from gankd.recipes.teacher import make_teacher, teacher_stage
from gankd.recipes.workers import Workers
from gankd.text import number


def with_strong_teacher(
    experiment: Experiment, arms: Sequence[Arm], seeds: Sequence[int], workers: int | Workers = 1
) -> Experiment:
    """Train the students on labels only, which are needed anyway, and compare the teacher with them.

    Its error must be clearly smaller than their mean error on validation images (`clearly_smaller`).

    Args:
        experiment: the run.
        arms: its arms; nothing is compared without such a control, or without an arm that sees generated images.
        seeds: of the students.
        workers: number of students trained side by side here, or workers on other machines.

    Returns:
        The experiment, with another teacher if `weak_teacher=improve` found one.

    Raises:
        ModelError: the teacher is not clearly better, and `weak_teacher` does not say to accept it.
    """
    recipe = experiment.recipe
    control = next((arm for arm in arms if arm.role == "control" and arm.loss is None and arm.updates == "equal"), None)
    generated = [arm for arm in arms if arm.images is not None]
    if recipe.weak_teacher == "accept" or control is None or not generated:
        return experiment
    stages = declare(experiment, generated)
    if stages.gan.done:
        return experiment
    check_disk(experiment, recipe.synth, stages.synth)  # as `cgan_kd` does, before anything is trained
    students = cgan_kd(experiment, [control], seeds, workers=workers).students.values()
    each = [_errors(experiment, restore_student(experiment, control, stage)) for stage in students]
    of_students = sum(each[1:], each[0]) / len(each)

    tried: list[Tensor] = []
    for what, config in _teachers(recipe.teacher, more=recipe.weak_teacher == "improve"):
        if tried:
            experiment.say("teacher", f"not clearly better than its student; trying it {what}")
        try:
            errors = _errors(experiment, make_teacher(experiment, config, teacher_stage(experiment, config)))
        except GankdError as error:
            if not tried:
                raise
            experiment.say("teacher", f"{what}: {error}")
            continue
        if clearly_smaller(errors, of_students):
            return experiment.with_recipe(replace(recipe, teacher=config))
        tried.append(errors)
    raise ModelError(_refusal(experiment, control, tried, of_students))


def _errors(experiment: Experiment, model: ImageModel) -> Tensor:
    """Error (N,) of each validation image."""
    val = experiment.splits.val
    return val.task.errors(predict(model, val.images, experiment.engine).cpu(), val.labels.cpu())


def _teachers(first: TeacherConfig, *, more: bool) -> Iterator[tuple[str, TeacherConfig]]:
    """The teacher as it is set, and `more` that may be better, each with what is changed in words."""
    yield "as it is", first
    if not more or first.weights is not None:
        return
    longer = replace(first, updates=3 * first.updates)
    yield "three times as long", longer
    if first.augment:
        yield "without augmentation", replace(first, augment=())
    if f"{first.model}x2" in ZOO:
        yield "twice as wide", replace(longer, model=f"{first.model}x2")
    yield "as the mean of five networks", replace(longer, members=max(5, first.members))


def _refusal(experiment: Experiment, control: Arm, tried: Sequence[Tensor], of_students: Tensor) -> str:
    recipe, unit = experiment.recipe, f" {experiment.splits.task.metric_unit}".rstrip()
    best, own = (number(errors.mean().item()) for errors in (min(tried, key=lambda one: one.mean()), of_students))
    remedy = "give better weights"
    if recipe.teacher.weights is None:
        remedy = "raise teacher.updates or teacher.members, or choose another teacher.model or less teacher.augment"
        remedy += "; --teacher auto tries these" if recipe.weak_teacher == "stop" else ""
    several = f" (best of {len(tried)} tried)" if len(tried) > 1 else ""
    return (
        f"teacher {recipe.teacher.model}{several} is not clearly better than its student on labels only: mean error "
        f"{best}{unit}, student {control.recipe(recipe).student.model} {own}{unit}, on {len(of_students)} validation "
        f"images; {remedy}; to go on with it: --set weak_teacher=accept"
    )
