"""Collect what a run folder holds into the data of a report; a stage that is missing leaves its part out."""

import platform
import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gankd.bench.answers import answers_of
from gankd.bench.compare import student_of
from gankd.bench.model_card import model_card
from gankd.bench.results import ArmResult, Choice, Comparison
from gankd.config import to_dict
from gankd.errors import GankdError
from gankd.models.contract import ImageModel, measured, predict
from gankd.recipes.arms import Arm, arm_named
from gankd.recipes.cgan_kd import arm_images
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import (
    copies,
    make_generator,
    make_ratio,
    make_ratio_features,
    open_pool,
    real_scores,
    sample_images,
)
from gankd.recipes.stages import Stages, declare
from gankd.recipes.students import as_used
from gankd.recipes.teacher import make_teacher, seen_images
from gankd.recipes.virtual import finished_virtual
from gankd.recipes.virtual import inspected as inspect_experiment
from gankd.report.facts import (
    EXPORTS,
    IMAGES_PER_GROUP,
    MISTAKES,
    SCORED_IMAGES,
    SEARCH,
    SWEEP_COLUMNS,
    SWEEP_ROWS,
    TUNED,
    CopyFacts,
    Curve,
    DataFacts,
    DisagreementFacts,
    ExportFacts,
    GroupImages,
    LabelFacts,
    LabelSweep,
    Mistakes,
    ModelFacts,
    RatioFacts,
    ReportData,
    ScoredImages,
    StageFacts,
    tuned,
)
from gankd.report.tables import best_arm
from gankd.seeds import rng
from gankd.storage import read_json
from gankd.synthetic import Selection
from gankd.threads import cores
from gankd.version import __version__
from gankd.virtual import Inspection


def machine_facts() -> dict[str, Any]:
    """Machine and versions: the numbers of a run depend on them besides its settings."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": cores(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def gather(
    experiment: Experiment,
    arms: Sequence[Arm],
    comparison: Comparison,
    choice: Choice,
    inspected: Inspection | None = None,
) -> ReportData:
    """Everything a report can show of this run; nothing is trained for it.

    Args:
        experiment: the open run folder.
        arms: its ways to train students, finished or not.
        comparison: what the finished ones reached.
        choice: the arms that validation images chose.
        inspected: its virtual teacher, if that was measured already.
    """
    recipe, splits, task = experiment.recipe, experiment.splits, experiment.splits.task
    generated = arm_named(recipe, "adjusted")
    stages = declare(experiment, [*arms, replace(generated, name="generated images")], range(recipe.seeds))
    virtual = finished_virtual(experiment, stages.teacher)
    notes = [*filter(None, [best_arm(comparison.arms, choice)]), *_notes(experiment, arms, stages)]
    if virtual is not None and inspected is None:
        try:
            inspected = inspect_experiment(experiment)
        except GankdError as error:
            notes.append(f"Virtual teacher: {str(error).rstrip('.')}.")
    shared = [stages.teacher, *filter(None, [virtual]), stages.gan, stages.ratio, stages.synth]
    students = [stages.students[arm.name, seed] for seed in range(recipe.seeds) for arm in arms]
    further = [stage for each, seeds in experiment.pipelines()[1:] for stage in declare(each, arms, seeds)]
    done = [stage for stage in [*shared, *students, *further] if stage.done]
    groups = [task.group_name(group) for group in range(task.num_groups)]
    counts = task.groups(splits.train.labels).bincount(minlength=task.num_groups)
    models = _models(experiment, stages, comparison.arms, choice.method)
    return ReportData(
        recipe=recipe.name,
        task=task,
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=__version__,
        commands=_commands(experiment, "vkd inspect" if inspected and not comparison.arms else "run"),
        seconds=sum(stage.seconds for stage in done),
        machine=machine_facts(),
        config=to_dict(recipe),
        notes=notes,
        stages=[
            StageFacts(name=stage.name, folder=stage.folder.name, seconds=stage.seconds)
            for stage in done
            if stage.folder is not None
        ],
        arms=comparison.arms,
        choice=choice,
        data=DataFacts(
            name=splits.name,
            counts={"train": len(splits.train), "validation": len(splits.val), "test": len(splits.test)},
            shape=splits.train.shape,
            card={name: value for name, value in splits.card.items() if isinstance(value, str)},
            groups=groups,
            train_counts=counts.tolist(),
        ),
        exports=_exports(experiment.run.folder),
        models=models,
        mistakes=_mistakes(experiment, models),
        generator_history=stages.gan.history if stages.gan.done else (),
        generator_seconds=stages.gan.seconds if stages.gan.done else None,
        virtual=inspected,
        curves=_curves(experiment, stages, arms),
        **(_generated(experiment, stages, groups) if stages.teacher.done and stages.gan.done else {}),
        **(_processed(experiment, stages, generated, groups) if all(stage.done for stage in shared) else {}),
    )


def _commands(experiment: Experiment, action: str) -> list[str]:
    folder = str(experiment.run.folder)
    again = shlex.join(["gankd", *action.split(), folder, "--out", f"{folder}-again"])
    return [again, shlex.join(["gankd", "report", folder])]


def _notes(experiment: Experiment, arms: Sequence[Arm], stages: Stages) -> list[str]:
    notes = [f"Data: {warning}." for warning in experiment.splits.card.get("warnings", ())]
    notes += [*_searched(experiment), *_tuned(experiment, arms)]
    teacher, student = experiment.recipe.teacher, experiment.recipe.student
    if teacher.augment and not student.augment and not teacher.is_given:
        notes.append(
            f"The teacher learned from augmented images ({', '.join(teacher.augment)}), all students from plain ones: "
            "augmenting the students (student.augment) may give them a part of the same gain."
        )
    if caution := seen_images(experiment, teacher):
        notes.append(f"{caution[0].upper()}{caution[1:]}.")
    if stages.unlabelled is not None:
        notes.append(
            f"Images without labels: {experiment.splits.card['unlabelled']}. The teacher labelled them, and its filter "
            "chose among them."
        )
    advice = (stages.ratio.result or {}).get("advice")
    if advice:
        notes.append(f"Density ratio: {advice}.")
    for arm in arms if stages.teacher.done and stages.synth.done else ():
        if arm.images in ("raw", "adjusted") and arm.loss is None:
            missing = arm_images(experiment, arm, stages).report["missing"]
            if missing:
                notes.append(
                    f"Arm {arm.name}: {missing} generated images fewer than select.count asks for; a larger synth.pool "
                    "would fill it."
                )
    return notes


def _searched(experiment: Experiment) -> list[str]:
    """Note on a search that chose the students' augmentation and length, if these are in force."""
    path = experiment.run.folder / SEARCH
    found = read_json(path) if path.is_file() else {}
    choice, student = found.get("choice", {}), experiment.recipe.student
    if [list(student.augment), student.updates] != [choice.get("augment"), choice.get("updates")]:
        return []
    tried = len(next(iter(found["values"].values())))
    return [
        f"Augmentation and length of all students were chosen for the labels only, on validation images, among {tried} "
        f"settings: {choice['setting']}."
    ]


def _tuned(experiment: Experiment, arms: Sequence[Arm]) -> list[str]:
    """Note on the settings that were tried for the arms of `gankd tune` that are shown."""
    path, shown = experiment.run.folder / TUNED, {arm.title for arm in arms}
    found = read_json(path)["arms"].values() if path.is_file() else []
    return [
        f"{tuned(each['title'])}: the best of {each['tried']} settings on validation images."
        for each in found
        if tuned(each["title"]) in shown
    ]


def _models(
    experiment: Experiment, stages: Stages, arms: Sequence[ArmResult], headline_arm: str | None
) -> list[ModelFacts]:
    """The teacher, and one student of the headline's arm."""
    splits, recipe = experiment.splits, experiment.recipe
    shape, models = splits.train.shape, []

    def facts(role: Any, name: str, model: ImageModel, used: AbstractContextManager[None]) -> ModelFacts:
        with used:
            val, test = (predict(model, part.images, experiment.engine).cpu() for part in (splits.val, splits.test))
        return ModelFacts(
            role=role,
            card=model_card(model, shape, name),
            metrics={
                "validation": measured(splits.task, val, splits.val.labels.cpu()),
                "test": measured(splits.task, test, splits.test.labels.cpu()),
            },
            answers=answers_of(test, splits.test, val, splits.val),
        )

    if stages.teacher.done:
        config = recipe.teacher
        name = config.model if config.members == 1 else f"{config.members} x {config.model}"
        models.append(facts("teacher", name, make_teacher(experiment, config, stages.teacher), nullcontext()))
    shown = next((arm for arm in arms if arm.name == headline_arm), arms[-1] if arms else None)
    if shown is not None:
        seed, config_ = shown.seeds[0], shown.arm.recipe(recipe).student
        student = student_of(experiment, shown.arm, seed, stages)
        name = f"{config_.model} ({shown.title}, seed {seed})"
        models.append(facts("student", name, student, as_used(student, shown.arm)))
    return models


def _exports(folder: Path) -> list[ExportFacts]:
    path = folder / EXPORTS
    return [ExportFacts(**row) for row in read_json(path)["files"]] if path.is_file() else []


def _mistakes(experiment: Experiment, models: Sequence[ModelFacts]) -> Mistakes | None:
    """Images on which the student is most wrong; None without both networks."""
    found, task = {model.role: model.answers for model in models}, experiment.splits.task
    teacher, student = found.get("teacher"), found.get("student")
    if teacher is None or student is None:
        return None
    doubt = task.doubt(student.answers, student.labels)
    index = doubt.topk(min(MISTAKES, int((doubt > 0).sum()))).indices

    def said(answers: Tensor) -> list[str]:
        names = [task.caption(label) for label in task.predict(answers)]
        sure = task.confidence(answers)
        if sure is None:
            return names
        return [f"{name} ({share:.0%})".replace("%", " %") for name, share in zip(names, sure.tolist(), strict=True)]

    return Mistakes(
        images=experiment.splits.test.images[index.to(experiment.splits.test.images.device)].cpu(),
        labels=[task.caption(label) for label in student.labels[index]],
        student=said(student.answers[index]),
        teacher=said(teacher.answers[index]),
    )


def _curves(experiment: Experiment, stages: Stages, arms: Sequence[Arm]) -> list[Curve]:
    curves = []
    if stages.teacher.done:
        history = stages.teacher.history
        if not history and experiment.recipe.teacher.members > 1:
            history = stages.teacher.part("member-0").stored_history()
        curves.append(Curve(role="teacher", title="teacher", history=history))
    for arm in arms:
        stage = stages.students[arm.name, 0]
        if stage.done:
            curves.append(Curve(role="student", title=f"student, {arm.title}", history=stage.history, arm=arm.name))
    return curves


def _generated(experiment: Experiment, stages: Stages, groups: Sequence[str]) -> dict[str, Any]:
    """Real and generated images per label group; for values also a sweep over labels."""
    splits, task, recipe = experiment.splits, experiment.splits.task, experiment.recipe
    teacher = make_teacher(experiment, recipe.teacher, stages.teacher)
    generator = make_generator(experiment, teacher, recipe.gan, stages.gan)
    labels = task.sample_labels(4096, splits.train.labels.cpu(), "balanced", rng(0, "report labels"))
    chosen, real_chosen = task.groups(labels), task.groups(splits.train.labels).cpu()
    shown = []
    for group, name in enumerate(groups):
        real = splits.train.images[(real_chosen == group).nonzero()[:IMAGES_PER_GROUP, 0]].cpu()
        wanted = labels[chosen == group][:IMAGES_PER_GROUP]
        if len(real) and len(wanted):
            fake = sample_images(generator, wanted, recipe.seed, f"report {group}")
            shown.append(GroupImages(name=name, real=real, fake=fake))
    parts: dict[str, Any] = {"groups": shown}
    values = task.sweep(SWEEP_COLUMNS)
    if values is not None:
        known = task.on_unit_scale(splits.train.labels.cpu())
        nearest = (known - task.on_unit_scale(values)[:, None]).abs().argmin(1)
        parts["sweep"] = LabelSweep(
            labels=[f"{value:.3g}" for value in values.tolist()],
            real=splits.train.images[nearest.to(splits.train.images.device)].cpu(),
            images=generator.sweep(values, SWEEP_ROWS, generator=rng(recipe.seed, "sweep")).cpu(),
        )
    return parts


def _processed(experiment: Experiment, stages: Stages, arm: Arm, groups: Sequence[str]) -> dict[str, Any]:
    """Effect of subsampling, filter and adjustment."""
    recipe, task, val = experiment.recipe, experiment.splits.task, experiment.splits.val
    teacher, pool = make_teacher(experiment, recipe.teacher, stages.teacher), open_pool(experiment, stages.synth)
    generator = make_generator(experiment, teacher, recipe.gan, stages.gan)
    features = make_ratio_features(experiment, teacher, recipe.ratio, recipe.teacher, stages.ratio)
    ratio = make_ratio(experiment, features, generator, recipe.ratio, stages.ratio)
    selection, facts = arm_images(experiment, arm, stages), stages.ratio.result or {}
    thresholds = [t for t in selection.report["thresholds"] if t is not None and t == t]
    labels = pool.labels

    def histogram(mask: Tensor) -> list[int]:
        counted: list[int] = task.groups(labels[mask]).bincount(minlength=task.num_groups).tolist()
        return counted

    return {
        "scored": _scored(selection),
        "ratio": RatioFacts(
            log_ratio_real=ratio.log_ratio(features(val.images), val.labels.to(experiment.engine.device)).cpu(),
            log_ratio_fake=pool.log_ratio,
            auc=facts.get("auc"),
            mean_ratio_fake=facts.get("mean_ratio_fake"),
            mean_ratio_real=facts.get("mean_ratio_real"),
            advice=facts.get("advice", ""),
        ),
        "disagreement": DisagreementFacts(
            real=real_scores(experiment, teacher)[0], fake=pool.disagreement, cutoffs=sorted(set(thresholds))
        ),
        "labels": LabelFacts(
            groups=groups,
            counts={
                "pool": histogram(torch.ones(len(pool), dtype=torch.bool)),
                "subsampled": histogram(selection.accepted),
                "filtered": histogram(selection.consistent),
                "adjusted": [round(count) for count in selection.report["labels_adjusted"]],
            },
            left=selection.report["counts"],
            acceptance=[share or 0.0 for share in selection.report["acceptance"]],
            teacher_stddev=selection.report["teacher_stddev"],
        ),
        "copies": CopyFacts(*copies(experiment, pool)),
    }


def _scored(selection: Selection) -> list[ScoredImages]:
    """Some images that were kept, and some that each step dropped, with the scores that decided."""
    pool = selection.source
    groups, thresholds = pool.task.groups(pool.labels).tolist(), selection.report["thresholds"]

    def some(mask: Tensor) -> Tensor:
        index = mask.nonzero()[:, 0]
        return index[torch.randperm(len(index), generator=rng(0, "report dropped"))[:SCORED_IMAGES]]

    found = []
    for title, kept, index, subsampled, filtered in (
        ("Kept", True, selection.index[:SCORED_IMAGES], True, True),
        ("Dropped by subsampling", False, some(~selection.accepted), True, False),
        ("Dropped by the filter", False, some(selection.accepted & ~selection.consistent), False, True),
    ):
        ratio = index if subsampled else index[:0]
        own = index if filtered else index[:0]
        found.append(
            ScoredImages(
                title=title,
                kept=kept,
                images=pool.images(index),
                labels=[pool.task.caption(label) for label in pool.labels[index]],
                log_ratio=pool.log_ratio[ratio].tolist(),
                chance=selection.chance[ratio].tolist(),
                disagreement=pool.disagreement[own].tolist(),
                cutoff=[thresholds[groups[place]] for place in own.tolist()],
            )
        )
    return found
