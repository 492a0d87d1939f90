"""Measure finished students arm by arm, against the controls among them."""

from collections.abc import Sequence

from gankd.bench.results import ArmResult, Comparison, Split, with_intervals
from gankd.models.contract import ImageModel, evaluate
from gankd.recipes.arms import Arm, methods_of
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import Stages, declare
from gankd.recipes.students import restore_student


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
        students = (restore_student(experiment, arm, stage) for stage in own)
        results.append(
            ArmResult(
                arm=arm,
                seeds=done,
                metrics=tuple(evaluate(student, data, experiment.engine) for student in students),
                metric=data.task.metric,
                updates=arm.recipe(experiment.recipe).student.updates,
                seconds=sum(stage.seconds for stage in own) / len(own),
                loss="Label" if arm.objective is None else str(arm.objective.for_task(data.task)),
            )
        )
    return Comparison(with_intervals(results, data.task), data.task, split)


def student_of(experiment: Experiment, arm: Arm, seed: int, stages: Stages) -> ImageModel:
    """One finished student, in eval mode."""
    return restore_student(experiment, arm, stages.students[arm.name, seed])


def chosen_by_validation(experiment: Experiment, arms: Sequence[Arm], seeds: Sequence[int]) -> str | None:
    """Name of the method arm whose students do best on validation images; None if none is finished."""
    methods = [arm for arm in arms if arm.name in methods_of(arms)]
    sign = 1 if experiment.splits.task.higher_is_better else -1
    found = compare(experiment, methods, seeds, "val").arms
    means = {arm.name: sign * sum(arm.values) / len(arm.values) for arm in found}
    return max(means, key=lambda name: means[name]) if means else None
