"""`gankd bound`: the error bound for a run's generated images, compared with students."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gankd.bench.bound import (
    Bound,
    deviation_rate,
    fit_rate,
    grid,
    group_log_ratio,
    label_distance,
    tv_from_ratio,
    tv_from_threshold,
)
from gankd.bench.compare import student_of
from gankd.bench.results import Split
from gankd.bench.stats import mean_stderr
from gankd.commands.stages import opened
from gankd.config import require
from gankd.console import Console
from gankd.data.images import LabelledImages
from gankd.data.scarce import scarce
from gankd.errors import DataError
from gankd.models.contract import predict
from gankd.recipes.arms import Arm, arm_named
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.config import Recipe
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import make_ratio_features, open_pool, real_scores
from gankd.recipes.stages import Stages, declare
from gankd.recipes.teacher import make_teacher
from gankd.report.bound import BoundReport, Distance, LearningCurve, Measured, Mix
from gankd.seeds import derive_seed, rng
from gankd.storage import write_hashed_json
from gankd.synthetic import SelectConfig, Selection, select
from gankd.training.ratio import RatioConfig, train_ratio

RHOS = (0.5, 0.7, 0.9, 1.0)
ACCEPT_SHARES = (0.25, 0.5, 1.0)
SAMPLE = 4096
"""Most images of a selection for the estimate of its distance, half to fit and half held out; and most real images
to fit on."""
FITS = 2
"""Classifiers whose mean log-ratio is judged: a single one depends too much on when its training ended."""
FEWEST = 64
"""Fewest generated images to fit on; with fewer, a distance is not estimated."""
SUBSETS = (4, 2, 1)
"""Divisors of N: the learning curve has students on N / 4, N / 2 and N real images."""
PROCESSINGS = ("raw", "subsampled", "filtered", "adjusted")


def bound(
    recipe: Recipe,
    folder: Path | str,
    *,
    measure: bool = False,
    counts: Sequence[int] | None = None,
    seeds: int | None = None,
    rhos: Sequence[float] = RHOS,
    accept_shares: Sequence[float] = ACCEPT_SHARES,
    mix: Mix = "pooled",
    delta: float = 0.05,
    split: Split = "val",
    workers: int = 1,
    console: Console | None = None,
) -> BoundReport:
    """Estimate the terms of the error bound for a run with a finished pool; the report is kept as bound.json there.

    Args:
        recipe: the run's settings.
        folder: the run.
        measure: train missing students: on parts of the real images, and with each M of `counts`, all from scratch
            and with the run's number of updates. Finished students are always read.
        counts: M^g; default: N / 2 times powers of two, the run's own, and all that are left.
        seeds: students per size and per M; default: as many as the run has.
        rhos: levels of the filter for which the distance is estimated, from stored scores.
        accept_shares: acceptance budgets, likewise.
        mix: share of generated images in a batch. pooled, as in the paper: M / (N + M); share: the run's
            student.fake_share, whatever M.
        delta: probability with which the bound may fail.
        split: held-out images on which distances and errors are measured.
        workers: students trained side by side.
        console: shows progress.

    Raises:
        ConfigError: the pool is not finished, or a value is out of range. DataError: too few images.
    """
    rate = deviation_rate(delta)
    seeds = recipe.seeds if seeds is None else seeds
    require(seeds >= 1, f"--seeds must be at least 1, got {seeds}")
    for count in counts or ():
        require(count >= 1, f"--counts must be at least 1, got {count}; M = 0 is always there")
    with opened(recipe, Path(folder), console) as experiment:
        stages = declare(experiment, [arm_named(recipe, "adjusted")])
        require(
            stages.synth.done,
            f"{folder} has no finished pool of generated images; make it with: gankd synth {folder}",
        )
        held = experiment.splits.val if split == "val" else experiment.splits.test
        judge = _Judge(experiment, stages, held)

        # --- distances: of the four steps of processing, and of both sweeps
        wanted, notes = _selections(recipe, rhos, accept_shares)
        judged = {name: judge(group) for name, group in wanted.items()}  # apart: each on as many images as it has
        found = {one.title: one for distances, _ in judged.values() for one in distances}
        if "adjusted" not in found:
            raise DataError(f"{folder}: too few generated images are left after selection; enlarge synth.pool")
        missing = [title for group in wanted.values() for title in group if title not in found]
        if missing:
            notes.append(f"Too few generated images are left to judge: {', '.join(missing)}.")
        by = {name: tuple(found[title] for title in group if title in found) for name, group in wanted.items()}
        adjusted = found["adjusted"]

        # --- the bound, and students with several M
        num_real, most = len(experiment.splits.train), adjusted.available
        share = recipe.student.fake_share if mix == "share" else None
        base = Bound(num_real=num_real, tv=adjusted.tv.value, rate=rate, share=share)
        own = min(recipe.select.count or most, most)
        if counts:
            too_many = [count for count in counts if count > most]
            require(not too_many, f"--counts {too_many[:1]}: only {most} generated images are left; enlarge synth.pool")
        each = sorted(set(counts) if counts else {*grid(num_real, most), own, most})
        curve, measured = _students(experiment, base, each, seeds, held, workers if measure else 0)
        report = BoundReport(
            folder=str(folder),
            loss=held.task.error_name,
            num_real=num_real,
            count=own,
            mix=mix,
            delta=delta,
            split=split,
            held_out=len(held),
            fitted=judged[""][1],
            teacher_error=judge.teacher_error,
            distances=by[""],
            by_rho=by.get("rho", ()),
            by_share=by.get("accept_share", ()),
            bound=base,
            curve=curve,
            measured=measured,
            notes=tuple(notes),
        )
        write_hashed_json(experiment.run.folder / "bound.json", report.to_dict())
        return report


# --- distances ----------------------------------------------------------------------------------------------


def _selections(
    recipe: Recipe, rhos: Sequence[float], accept_shares: Sequence[float]
) -> tuple[dict[str, dict[str, SelectConfig]], list[str]]:
    """Settings of the selections to judge, by title, in groups: "" for the steps of processing, and one per sweep.

    Returns:
        Groups; notes on sweeps that have no effect.
    """
    select, notes = replace(recipe.select, count=None), []
    steps = {name: arm_named(recipe, name).selection(select) for name in PROCESSINGS}
    groups = {"": {name: config for name, config in steps.items() if config is not None}}
    if select.filter == "none":
        notes.append("filter=none: rho has no effect.")
    else:
        groups["rho"] = {f"rho {rho:g}": replace(select, rho=rho) for rho in rhos}
    if select.subsample != "budget":
        notes.append(f"subsample={select.subsample}: accept_share has no effect.")
    else:
        groups["accept_share"] = {f"accept_share {x:g}": replace(select, accept_share=x) for x in accept_shares}
    return groups, notes


class _Judge:
    """Classifiers of real against generated pairs, each newly fitted and judged on samples that it has not seen."""

    def __init__(self, experiment: Experiment, stages: Stages, held: LabelledImages) -> None:
        self.experiment, self.held, recipe = experiment, held, experiment.recipe
        teacher = make_teacher(experiment, recipe.teacher, stages.teacher)
        self.pool, self.real_scores = open_pool(experiment, stages.synth), real_scores(experiment, teacher)
        self.features = make_ratio_features(experiment, teacher, recipe.ratio, recipe.teacher, stages.ratio)
        outputs = predict(teacher, held.images, experiment.engine).cpu()
        labels = held.labels.cpu()
        self.teacher_error = label_distance(held.task.predict(outputs), labels, held.task).mean().item()

    def __call__(self, configs: Mapping[str, SelectConfig]) -> tuple[list[Distance], int]:
        """Distances of the selections that leave enough images, and how many images each classifier is fitted on."""
        experiment, pool, seed = self.experiment, self.pool, self.experiment.recipe.seed
        chosen: dict[SelectConfig, Selection] = {}
        for config in configs.values():
            try:
                chosen[config] = select(pool, replace(config, count=SAMPLE), seed, *self.real_scores)
            except DataError:  # nothing left
                continue
        fits = torch.rand(len(pool), generator=rng(seed, "bound", "halves")) < 0.5
        sizes = {config: int(fits[selection.index].sum()) for config, selection in chosen.items()}
        chosen = {config: selection for config, selection in chosen.items() if sizes[config] >= FEWEST}
        if not chosen:
            return [], 0
        fitted = min(sizes[config] for config in chosen)  # as many for each

        needed = torch.cat([selection.index for selection in chosen.values()]).unique()
        features = self.features(pool.images(needed))
        train = experiment.splits.train
        some = torch.randperm(len(train), generator=rng(seed, "bound", "real"))[:SAMPLE]
        real = train.subset(some.to(train.images.device))
        features_real = self.features(real.images)
        held = self.features(self.held.images)
        distances = {}
        known = features_real, real.labels
        for number, (config, selection) in enumerate(chosen.items(), 1):
            experiment.say("distance", f"{number} of {len(chosen)}")
            mine = features[torch.searchsorted(needed, selection.index).to(features.device)]
            distances[config] = self._distance(selection, mine, fits[selection.index], fitted, known, held)
        found = [replace(distances[config], title=title) for title, config in configs.items() if config in distances]
        return found, fitted

    def _distance(
        self,
        selection: Selection,
        features: Tensor,
        fits: Tensor,
        fitted: int,
        real: tuple[Tensor, Tensor],
        held: Tensor,
    ) -> Distance:
        recipe, task = self.experiment.recipe, self.experiment.splits.task
        seed = recipe.seed
        labels = selection.labels.cpu()
        soft = labels.ndim > 1 + len(task.label_shape)
        if soft:  # to a loss that is linear in the label, soft labels are labels sampled from them
            labels = torch.multinomial(labels.float(), 1, generator=rng(seed, "bound", "labels"))[:, 0]
        first, rest = fits.nonzero()[:fitted, 0], (~fits).nonzero()[:, 0]
        # The published schedule keeps an over-fitted last epoch, which would see less of the distance.
        fresh = RatioConfig(hidden=recipe.ratio.hidden, batch_size=recipe.ratio.batch_size)
        fakes = features[first.to(features.device)], labels[first]
        ratios = [train_ratio(*real, *fakes, task, fresh, derive_seed(seed, "bound", fit)) for fit in range(FITS)]
        # The classifiers compare images of like labels; how often each label occurs is the other half of the pair.
        of_groups = group_log_ratio(task.groups(real[1]), task.groups(labels[first]), task.num_groups)

        def score(some: Tensor, theirs: Tensor) -> Tensor:
            found = [ratio.log_ratio(some, theirs.to(some.device)).cpu().double() for ratio in ratios]
            return torch.stack(found).mean(0) + of_groups[task.groups(theirs.cpu())]

        fake_scores = score(features[rest.to(features.device)], labels[rest])
        outputs = selection.teacher_outputs.cpu()
        teacher = task.adjust(outputs, selection.labels, "soft" if soft else "prediction")
        return Distance(
            "",
            int(selection.consistent.sum()),
            tv_from_threshold(score(held, self.held.labels), fake_scores, seed),
            tv_from_ratio(fake_scores),
            label_distance(selection.labels, teacher, task).mean().item(),
        )


# --- students -----------------------------------------------------------------------------------------------


def _students(
    experiment: Experiment, bound: Bound, counts: Sequence[int], seeds: int, held: LabelledImages, workers: int
) -> tuple[LearningCurve | None, tuple[Measured, ...]]:
    """The learning curve and the errors for each M; with `workers` of 0 only of students that are finished."""
    recipe, splits = experiment.recipe, experiment.splits
    recipe = replace(recipe, student=recipe.student.from_scratch)
    scratch = experiment.with_recipe(recipe)
    control = arm_named(recipe, "real_matched")

    by_size: dict[int, Experiment] = {}
    for part in SUBSETS:
        size = len(splits.train) // part
        if part == 1:
            by_size[size] = scratch
        elif size >= 2:
            fewer = scarce(splits.train, num_train=size, seed=recipe.data.seed)
            by_size[size] = Experiment.open(recipe, experiment.run, replace(splits, train=fewer))
    by_count: dict[int, Arm] = {0: control}
    for count in counts:
        share = max(bound.share_of(count), 1 / recipe.student.batch_size)  # one image of a batch at least
        settings = (f"select.count={count}", f"student.fake_share={share!r}")
        by_count[count] = Arm(name=f"M = {count}", images="adjusted", settings=settings)

    if workers:
        for each in by_size.values():
            cgan_kd(each, [control], range(seeds), workers=workers)
        cgan_kd(scratch, list(by_count.values()), range(seeds), workers=workers)

    curves = {size: errors for size, each in by_size.items() if (errors := _errors(each, control, seeds, held))}
    measured = [
        Measured(count, errors) for count, arm in by_count.items() if (errors := _errors(scratch, arm, seeds, held))
    ]
    return _learning_curve(curves), tuple(measured)


def _errors(experiment: Experiment, arm: Arm, seeds: int, held: LabelledImages) -> tuple[float, ...] | None:
    """Errors in [0, 1] of the students of an arm; None unless all of them are finished."""
    task, stages = held.task, declare(experiment, [arm], range(seeds))
    if stages.unfinished([arm]):
        return None
    labels = held.labels.cpu()
    students = (student_of(experiment, arm, seed, stages) for seed in range(seeds))
    outputs = (predict(student, held.images, experiment.engine).cpu() for student in students)
    return tuple(label_distance(task.predict(some), labels, task).mean().item() for some in outputs)


def _learning_curve(errors: Mapping[int, tuple[float, ...]]) -> LearningCurve | None:
    if len(errors) < 2:
        return None
    sizes = list(errors)
    floor, rate = fit_rate(sizes, [mean_stderr(errors[size])[0] for size in sizes])
    by_seed = [fit_rate(sizes, own)[1] for own in zip(*errors.values(), strict=True)]
    return LearningCurve(tuple(sizes), tuple(errors.values()), floor, rate, mean_stderr(by_seed)[1])
