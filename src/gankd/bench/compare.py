"""Measure finished students arm by arm, against the controls among them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from gankd.bench.results import ArmResult, Choice, Comparison, Split, with_intervals
from gankd.data.images import LabelledImages
from gankd.models.contract import ImageModel, measured, predict
from gankd.recipes.arms import Arm
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import Stages, declare
from gankd.recipes.students import as_used, restore_student
from gankd.runs import Stage


def compare(experiment: Experiment, arms: Sequence[Arm], seeds: Sequence[int], split: Split = "test") -> Comparison:
    """Metrics, updates and time of finished students on one split; arms without one are left out.

    Raises:
        GankdError: a student's files are damaged.
    """
    stages = declare(experiment, arms, seeds)
    data = experiment.splits.test if split == "test" else experiment.splits.val
    results = []
    for arm in arms:
        done = tuple(seed for seed in seeds if stages.students[arm.name, seed].done)
        if not done:
            continue
        own = [stages.students[arm.name, seed] for seed in done]
        outputs = [_outputs(experiment, arm, stage, data) for stage in own]
        labels, task = data.labels.cpu(), data.task
        results.append(
            ArmResult(
                arm=arm,
                seeds=done,
                metrics=tuple(measured(task, each, labels) for each in outputs),
                metric=task.metric,
                updates=arm.recipe(experiment.recipe).student.updates,
                seconds=sum(stage.seconds for stage in own) / len(own),
                loss="Label" if arm.objective is None else str(arm.objective.for_task(task)),
                by_class=_mean([task.by_class(each, labels) for each in outputs]),
            )
        )
    return Comparison(with_intervals(results, data.task), data.task, split)


def _outputs(experiment: Experiment, arm: Arm, stage: Stage, data: LabelledImages) -> Tensor:
    student = restore_student(experiment, arm, stage)
    with as_used(student, arm):
        return predict(student, data.images, experiment.engine).cpu()


def _mean(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each entry; all have the same."""
    return {name: sum(each[name] for each in found) / len(found) for name in found[0]}


def compare_pipelines(experiment: Experiment, arms: Sequence[Arm], split: Split = "test") -> Comparison:
    """`compare` for all students of a run; over several pipelines, the means of each, paired by pipeline."""
    parts = [compare(each, arms, seeds, split) for each, seeds in experiment.pipelines()]
    if len(parts) == 1:
        return parts[0]
    results = []
    for arm in arms:
        own = {number: found for number, part in enumerate(parts) for found in part.arms if found.name == arm.name}
        if own:
            first = next(iter(own.values()))
            metrics = tuple(
                {name: sum(found.values_of(name)) / len(found.seeds) for name in first.metrics[0]}
                for found in own.values()
            )
            seconds = sum(found.seconds for found in own.values()) / len(own)
            by_class = _mean([found.by_class for found in own.values()])
            changed = replace(first, seeds=tuple(own), metrics=metrics, seconds=seconds, by_class=by_class)
            results.append(replace(changed, over="pipeline"))
    return Comparison(with_intervals(results, parts[0].task), parts[0].task, split)


def student_of(experiment: Experiment, arm: Arm, seed: int, stages: Stages) -> ImageModel:
    """One finished student, in eval mode."""
    return restore_student(experiment, arm, stages.students[arm.name, seed])


def chosen_by_validation(experiment: Experiment, arms: Sequence[Arm]) -> Choice:
    """The arms whose students do best on validation images: of all, of the method, of the controls.

    Of equal arms the first is chosen, so default controls come before arms with generated images.
    """
    sign = 1 if experiment.splits.task.higher_is_better else -1
    found = compare_pipelines(experiment, arms, "val").arms
    means = {arm.name: sign * sum(arm.values) / len(arm.values) for arm in found}

    def best(*roles: str) -> str | None:
        names = [arm.name for arm in found if arm.role in roles]
        return max(names, key=lambda name: means[name], default=None)

    return Choice(best("control", "step", "method"), best("method"), best("control"))
