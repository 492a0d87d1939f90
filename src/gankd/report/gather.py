"""Collect what a run folder holds into the data of a report; a stage that is missing leaves its part out."""

import os
import platform
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gankd.bench.compare import cells
from gankd.bench.model_card import model_card
from gankd.bench.results import ArmResult
from gankd.config import to_dict
from gankd.errors import ConfigError, GankdError
from gankd.models.contract import ImageModel, evaluate
from gankd.recipes.arms import ARMS
from gankd.recipes.cgan_kd import CganKd, sample_images
from gankd.report import facts as page
from gankd.runs import Stage
from gankd.seeds import rng
from gankd.version import __version__
from gankd.virtual import Inspection


def machine_facts() -> dict[str, Any]:
    """What the numbers of a run depend on besides its settings."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
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
    method: CganKd, arms: Sequence[ArmResult], headline_arm: str | None, inspected: Inspection | None = None
) -> page.ReportData:
    """Everything a report can show of this run, whose virtual teacher may have been inspected already."""
    recipe, splits = method.recipe, method.splits
    virtual, notes = _virtual_stage(method), _notes(method)
    if virtual is not None and inspected is None:
        try:
            inspected = method.inspection()
        except GankdError as error:
            notes.append(f"Virtual teacher: {str(error).rstrip('.')}.")
    stages = [method.teacher_stage, *filter(None, [virtual]), method.gan_stage, method.ratio_stage, method.synth_stage]
    students = [method.student_stage(*cell) for cell in cells(recipe)]
    done = [stage for stage in [*stages, *students] if stage.done]
    groups = [splits.task.group_name(group) for group in range(splits.task.num_groups)]
    counts = splits.task.groups(splits.train.labels).bincount(minlength=splits.task.num_groups)
    return page.ReportData(
        recipe=recipe.name,
        task=splits.task,
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=__version__,
        commands=_commands(method, "vkd inspect" if inspected and not arms else "run"),
        seconds=sum(stage.seconds for stage in done),
        machine=machine_facts(),
        config=to_dict(recipe),
        notes=notes,
        stages=[
            page.StageFacts(name=stage.name, folder=stage.folder.name, seconds=stage.seconds)
            for stage in done
            if stage.folder is not None
        ],
        arms=arms,
        headline_arm=headline_arm,
        data=page.DataFacts(
            name=splits.name,
            counts={"train": len(splits.train), "validation": len(splits.val), "test": len(splits.test)},
            shape=splits.train.shape,
            card=splits.card,
            groups=groups,
            train_counts=counts.tolist(),
        ),
        models=_models(method, arms, headline_arm),
        generator_history=method.gan_stage.history if method.gan_stage.done else (),
        generator_seconds=method.gan_stage.seconds if method.gan_stage.done else None,
        virtual=inspected,
        curves=_curves(method, students),
        **(_generated(method, groups) if method.gan_stage.done else {}),
        **(_processed(method, groups) if method.synth_stage.done else {}),
    )


def _virtual_stage(method: CganKd) -> Stage | None:
    """The virtual teacher of this run if it is there: nothing is trained for a report."""
    if method.recipe.student.virtual is not None or not method.teacher_stage.done:
        return None
    try:
        stage = method.virtual_stage
    except ConfigError:  # settings that no virtual teacher can have
        return None
    return stage if stage.done else None


def _commands(method: CganKd, action: str) -> list[str]:
    folder = method.run.folder
    return [f"gankd {action} {folder} --out {folder}-again", f"gankd report {folder}"]


def _notes(method: CganKd) -> list[str]:
    notes = []
    teacher, student = method.recipe.teacher, method.recipe.student
    if teacher.augment and not student.augment:
        notes.append(
            f"The teacher learned from augmented images ({', '.join(teacher.augment)}), all students from plain ones: "
            "augmenting the students (student.augment) may give them a part of the same gain."
        )
    advice = (method.ratio_stage.result or {}).get("advice")
    if advice:
        notes.append(f"Density ratio: {advice}.")
    if method.synth_stage.done:
        for name in ("adjusted", "raw"):
            selection = method.selection(ARMS[name])
            if selection is not None and selection.report["missing"]:
                notes.append(
                    f"Arm {name}: {selection.report['missing']} generated images fewer than select.count asks for; "
                    "a larger synth.pool would fill it."
                )
    return notes


def _models(method: CganKd, arms: Sequence[ArmResult], headline_arm: str | None) -> list[page.ModelFacts]:
    shape, splits, models = method.splits.train.shape, method.splits, []

    def facts(role: Any, name: str, model: ImageModel) -> page.ModelFacts:
        metrics = {
            "validation": evaluate(model, splits.val, method.engine),
            "test": evaluate(model, splits.test, method.engine),
        }
        return page.ModelFacts(role=role, card=model_card(model, shape, name), metrics=metrics)

    if method.teacher_stage.done:
        config = method.recipe.teacher
        name = config.model if config.members == 1 else f"{config.members} x {config.model}"
        models.append(facts("teacher", name, method.teacher))
    shown = next((arm for arm in arms if arm.arm == headline_arm), arms[-1] if arms else None)
    if shown is not None:
        student = method.student(shown.arm, shown.seeds[0])
        models.append(facts("student", f"{method.recipe.student.model} ({shown.arm}, seed {shown.seeds[0]})", student))
    return models


def _curves(method: CganKd, students: Sequence[Stage]) -> list[page.Curve]:
    curves = []
    if method.teacher_stage.done:
        history = method.teacher_stage.history
        if not history and method.recipe.teacher.members > 1:
            history = method.teacher_stage.part("member-0").stored_history()
        curves.append(page.Curve(role="teacher", title="teacher", history=history))
    for arm in ARMS:
        stage = method.student_stage(arm, 0)
        if stage.done:
            curves.append(
                page.Curve(role="student", title=f"student, {ARMS[arm].title}", history=stage.history, arm=arm)
            )
    return curves


def _generated(method: CganKd, groups: Sequence[str]) -> dict[str, Any]:
    """Real and generated images per label group; for values also a sweep over labels."""
    splits, task = method.splits, method.splits.task
    generator = method.generator
    labels = task.sample_labels(4096, splits.train.labels.cpu(), "balanced", rng(0, "report labels"))
    chosen, real_chosen = task.groups(labels), task.groups(splits.train.labels).cpu()
    shown = []
    for group, name in enumerate(groups):
        real = splits.train.images[(real_chosen == group).nonzero()[: page.IMAGES_PER_GROUP, 0]].cpu()
        wanted = labels[chosen == group][: page.IMAGES_PER_GROUP]
        if len(real) and len(wanted):
            fake = sample_images(generator, wanted, method.recipe.seed, f"report {group}")
            shown.append(page.GroupImages(name=name, real=real, fake=fake))
    parts: dict[str, Any] = {"groups": shown}
    values = task.sweep(page.SWEEP_COLUMNS)
    if values is not None:
        parts["sweep"] = page.LabelSweep(
            labels=[f"{value:.3g}" for value in values.tolist()],
            images=generator.sweep(values, page.SWEEP_ROWS, generator=rng(method.recipe.seed, "sweep")).cpu(),
        )
    return parts


def _processed(method: CganKd, groups: Sequence[str]) -> dict[str, Any]:
    """What subsampling, filter and adjustment did."""
    task, pool = method.splits.task, method.synthetic
    selection = method.selection(ARMS["adjusted"])
    assert selection is not None
    real_disagreement, _ = method.real_scores
    facts = method.ratio_stage.result or {}
    kept = selection.index[: page.SCORED_IMAGES]
    away = (~selection.consistent).nonzero()[:, 0]
    dropped = away[torch.randperm(len(away), generator=rng(0, "report dropped"))[: page.SCORED_IMAGES]]
    thresholds = [t for t in selection.report["thresholds"] if t is not None and t == t]
    labels = pool.labels

    def histogram(mask: Tensor) -> list[int]:
        counted: list[int] = task.groups(labels[mask]).bincount(minlength=task.num_groups).tolist()
        return counted

    return {
        "kept": _scored(method, kept),
        "dropped": _scored(method, dropped),
        "ratio": page.RatioFacts(
            log_ratio_real=method.density_ratio.log_ratio(
                method.features(method.splits.val.images), method.splits.val.labels.to(method.engine.device)
            ).cpu(),
            log_ratio_fake=pool.log_ratio,
            auc=facts.get("auc"),
            mean_ratio_fake=facts.get("mean_ratio_fake"),
            mean_ratio_real=facts.get("mean_ratio_real"),
            advice=facts.get("advice", ""),
        ),
        "disagreement": page.DisagreementFacts(
            real=real_disagreement, fake=pool.disagreement, cutoffs=sorted(set(thresholds))
        ),
        "labels": page.LabelFacts(
            groups=groups,
            counts={
                "pool": histogram(torch.ones(len(pool), dtype=torch.bool)),
                "subsampled": histogram(selection.accepted),
                "filtered": histogram(selection.consistent),
                "adjusted": [round(count) for count in selection.report["labels_adjusted"]],
            },
            acceptance=[share or 0.0 for share in selection.report["acceptance"]],
        ),
    }


def _scored(method: CganKd, index: Tensor) -> page.ScoredImages:
    pool = method.synthetic
    return page.ScoredImages(
        images=pool.images(index),
        labels=[method.splits.task.label_name(label) for label in pool.labels[index]],
        log_ratio=pool.log_ratio[index].tolist(),
        disagreement=pool.disagreement[index].tolist(),
    )
