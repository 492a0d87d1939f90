"""`gankd bound`: what the error bound says of a run's generated images, and what students say of the bound."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gankd.bench.bound import (
    Bound,
    Estimate,
    deviation_rate,
    fit_rate,
    fit_tv,
    group_log_ratio,
    label_distance,
    rank_correlation,
    tv_from_ratio,
    tv_from_threshold,
)
from gankd.bench.compare import Cell, train_side_by_side
from gankd.bench.rows import Split
from gankd.bench.stats import mean_stderr, paired_interval
from gankd.commands.stages import opened
from gankd.config import require
from gankd.console import Console
from gankd.data.images import LabelledImages
from gankd.data.scarce import scarce
from gankd.errors import DataError
from gankd.models.contract import predict
from gankd.recipes.arms import ARMS, selection_of
from gankd.recipes.cgan_kd import CganKd
from gankd.recipes.config import Recipe
from gankd.seeds import derive_seed, rng
from gankd.storage import write_json
from gankd.synthetic import SelectConfig, Selection
from gankd.training.ratio import RatioConfig, train_ratio

Mix = Literal["pooled", "share"]
RHOS = (0.5, 0.7, 0.9, 1.0)
ACCEPT_SHARES = (0.25, 0.5, 1.0)
SAMPLE = 4096
"""Fakes of a selection that its distance is estimated on, at most: half of them to fit, half held out;
and real images to fit on, at most."""
FITS = 2
"""Classifiers whose mean log-ratio is judged: one alone depends too much on when its training ended."""
FEWEST = 64
"""Fakes to fit without which a distance is not estimated."""
SUBSETS = (4, 2, 1)
"""The learning curve has students on N / 4, N / 2 and N real images."""
PROCESSINGS = ("raw", "subsampled", "filtered", "adjusted")


@dataclass(frozen=True)
class Distance:
    """How far one selection of generated pairs is from real ones, on held-out samples of both."""

    title: str
    available: int
    """Fakes of the pool that this selection leaves."""
    tv: Estimate
    """At least so much; the classifier's features see no more than the images."""
    plug_in: float
    labels: float
    """Mean distance in [0, 1] of the labels that students get from the teacher's."""


@dataclass(frozen=True)
class Measured:
    """Students with M generated images: error in [0, 1] of each seed."""

    count: int
    errors: tuple[float, ...]


@dataclass(frozen=True)
class LearningCurve:
    """Errors in [0, 1] of students on real images alone, per size and seed, and floor + rate / sqrt(size)."""

    sizes: tuple[int, ...]
    errors: tuple[tuple[float, ...], ...]
    floor: float
    rate: float
    rate_error: float
    """Standard error of the rate over seeds; nan for one."""


@dataclass(frozen=True)
class BoundReport:
    """The terms of the bound for one run, its optima, and what students reached."""

    folder: str
    loss: str
    num_real: int
    count: int
    """M of the run's own students."""
    mix: Mix
    delta: float
    split: Split
    held_out: int
    fitted: int
    """Fakes on which each classifier was fitted."""
    teacher_error: float
    """Of the teacher on held-out real images, in [0, 1]: the noise floor of its labels."""
    distances: tuple[Distance, ...]
    by_rho: tuple[Distance, ...]
    by_share: tuple[Distance, ...]
    bound: Bound
    """With the adjusted images' distance and the deviation alone: the least that the bound can be."""
    curve: LearningCurve | None
    measured: tuple[Measured, ...]
    notes: tuple[str, ...] = ()

    @property
    def calibrated(self) -> Bound | None:
        """Floor and rate as the learning curve has them, in place of worst cases: for its shape alone."""
        if self.curve is None:
            return None
        return replace(self.bound, floor=self.curve.floor, rate=self.curve.rate)

    def _curves(self) -> dict[str, Bound]:
        """The bound, and the calibrated curve if there is one."""
        return {"bound": self.bound} | ({"calibrated": self.calibrated} if self.calibrated else {})

    @property
    def counts(self) -> list[int]:
        """M of the table: none, powers of two times N / 2, the run's own, those measured, and all that are left."""
        most = self.most
        found = {0, most, self.count, *grid(self.num_real, most), *(one.count for one in self.measured)}
        return sorted(count for count in found if count <= most)

    @property
    def most(self) -> int:
        """Fakes that the whole processing leaves of the pool."""
        return self.distances[-1].available

    @property
    def implied_tv(self) -> tuple[float, float] | None:
        """TV with which the calibrated curve fits the students, and its standard error; None without students."""
        bound, with_fakes = self.calibrated, [one for one in self.measured if one.count > 0]
        if bound is None or not with_fakes:
            return None
        counts = [one.count for one in with_fakes]
        return mean_stderr(
            [fit_tv(bound, counts, own) for own in zip(*(one.errors for one in with_fakes), strict=True)]
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        values = asdict(self)
        rows = []
        for count in self.counts:
            calibrated = self.calibrated.at(count) if self.calibrated else None
            row = {"count": count, "share": self.bound.share_of(count), "bound": self.bound.at(count)}
            rows.append({**row, "calibrated": calibrated})
        values["prediction"] = rows
        values["pays_below"] = self.bound.pays_below
        values["pays_below_calibrated"] = self.calibrated.pays_below if self.calibrated else None
        values["rank_correlation"] = {name: rank for name, (rank, _) in self._agreement().items()}
        values["implied_tv"] = self.implied_tv
        plain: dict[str, Any] = _plain(values)
        return plain

    # --- text -----------------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """Plain text, at most 120 columns."""
        blocks = [self._head(), self._short(), self._distances(), self._prediction(), self._optima()]
        blocks += [self._students(), self._caveats()]
        return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks)

    def _head(self) -> list[str]:
        mixed = (
            "s = M / (N + M), n = N + M: real and generated images in one pool"
            if self.mix == "pooled"
            else f"s = {self.bound.share:g}, the share of each batch; 1/n = (1-s)^2/N + s^2/M"
        )
        return [
            f"error bound of cGAN-KD for {self.folder}   (statement, estimates and assumptions: docs/bound.md)",
            "",
            "  excess error  <=  approximation  +  2 s TV  +  4 Rad  +  deviation",
            "",
            f"  loss        {self.loss}, in [0, 1], so B = 1",
            f"  N, M        {self.num_real} real images; generated ones: {self.count} in this run, {self.most} at most",
            f"  mixture     {mixed}",
            f"  deviation   {deviation_rate(self.delta):.2f} / sqrt(n), at confidence {1 - self.delta:g}",
            f"  4 Rad       {'left out: see the calibrated curve' if self.curve else 'left out: it needs students'}",
            "  approximation: left out; the same for every M",
        ]

    def _short(self) -> list[str]:
        tv = self.distances[-1].tv
        found = "differ" if tv.low > 0 else "are not told apart"
        lines = [
            "In short",
            f"- real and adjusted generated pairs {found}: TV at least {_interval(tv)}; 0 is not at all, 1 entirely",
        ]
        if len(self.by_rho) > 1:
            near, far = (choose(self.by_rho, key=lambda one: one.tv.value) for choose in (min, max))
            if far.tv.low <= near.tv.high:
                lines.append("- rho makes no difference to it that can be told")
            else:
                why = ": what is unusual but right is dropped too" if far is self.by_rho[0] else ""
                lines.append(f"- by rho they are nearest at {near.title[4:]} and farthest at {far.title[4:]}{why}")
        if len(self.measured) < 2:
            return [*lines, "- whether students agree is not known yet: --measure"]
        best, others = self._best_measured()
        least = [str(count) for _, count in list(self._agreement().values())[-2:]]
        at = least[0] if least[0] == least[1] else f"{least[0]}, or at {least[1]} with TV {tv.high:.2f}"
        told = f", not told from {', '.join(map(str, others))}" if others else ""
        return [
            *lines,
            f"- the {'calibrated curve' if self.calibrated else 'bound'} is least at M = {at}",
            f"- students are best with M = {best}{told}",
        ]

    def _distances(self) -> list[str]:
        lines = [
            f"1. Are generated pairs (image, label) like real ones?   {self.held_out} {_SPLITS[self.split]} images",
            f"{'':24} {'left':>7}   {'TV at least':<22} {'plug-in':>7}   {'label is not':>12}",
            f"{'':24} {'':>7}   {'[95 %]':<22} {'':>7}   {'the teacher' + chr(39) + 's':>12}",
        ]
        for title, group in (("", self.distances), ("rho", self.by_rho), ("accept_share", self.by_share)):
            if title and group:
                lines.append(f"adjusted, by {title}")
            lines += [_distance_line(one, indent=bool(title)) for one in group]
        lines += [
            f"the teacher itself is wrong by {_percent(self.teacher_error)} on held-out real images: where labels are "
            "its own, that is",
            "their error, at best, though the last column says 0",
        ]
        return lines

    def _prediction(self) -> list[str]:
        calibrated, measured = self.calibrated, {one.count: one for one in self.measured}
        high = self.distances[-1].tv.high
        lines = [
            "2. The bound against M",
            f"{'M':>8} {'s':>6} {'2 s TV':>8} {'deviation':>10} {'bound at least':>15}"
            + (f" {'calibrated':>11} {f'TV {high:.2f}':>8}" if calibrated else "")
            + (f"   {'measured error':<16}" if measured else ""),
        ]
        for count in self.counts:
            bound = self.bound
            line = f"{count:>8} {bound.share_of(count):>6.2f} {bound.distance(count):>8.3f}"
            line += f" {bound.estimation(count):>10.3f} {bound.at(count):>15.3f}"
            if calibrated:
                line += f" {calibrated.at(count):>11.3f} {replace(calibrated, tv=high).at(count):>8.3f}"
            if count in measured:
                mean, error = mean_stderr(measured[count].errors)
                line += f"   {mean:.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}")
            lines.append(line)
        least = min(self.bound.at(count) for count in self.counts)
        if least > 1:
            lines.append("every bound is above 1, the largest possible error: vacuous. It says nothing about size.")
        elif max(self.bound.at(count) for count in self.counts) > 1:
            lines.append("a bound above 1, the largest possible error, is vacuous: it says nothing about size")
        lines.append("at least: 4 Rad and the approximation come on top, and TV may be larger: it promises nothing")
        if calibrated and self.curve:
            c = self.curve
            spread = "" if math.isnan(c.rate_error) else f" ± {c.rate_error:.2f}"
            lines.append(
                f"calibrated: {c.floor:.3f} + 2 s TV + {c.rate:.2f}{spread} / sqrt(n), fitted to real images alone "
                f"({', '.join(map(str, c.sizes))}); no bound, read its shape"
            )
        return lines

    def _optima(self) -> list[str]:
        sizes = [max(2, self.num_real // 4), self.num_real, 4 * self.num_real]
        head = "".join(f" {'N = ' + str(size):>10}" for size in sizes)
        lines = [
            "3. Which M is best: all or none, as a distance that does not depend on M leaves nothing between",
            f"{'':16} {'':>10}   {'pays below N':<16}  best M at{head}",
        ]
        for one in (self.distances[-1], *self.by_rho):
            for name, bound in self._curves().items():
                low, own, high = (replace(bound, tv=tv) for tv in (one.tv.low, one.tv.value, one.tv.high))
                range_ = " to ".join(dict.fromkeys(_count(end.pays_below) for end in (high, low)))
                cells = ""
                for size in sizes:
                    best, *ends = (replace(at, num_real=size).best_count(one.available) for at in (own, low, high))
                    cells += f" {('all' if best else 'none') + ('?' if len(set(ends)) > 1 else ''):>10}"
                title = "this run" if one is self.distances[-1] else one.title
                lines.append(f"{title:16} {name:>10}   {range_:<16}  {'':9}{cells}")
        lines += [
            "?: the ends of the interval of TV disagree",
            "pays below N: generated images lower it where real ones are fewer, over the interval of TV, held as it is",
        ]
        if self.calibrated:
            best_share = self.calibrated.best_share(self.most)
            lines.append(f"share of generated images in a batch that makes calibrated least: {best_share:.2f}")
        return lines

    def _students(self) -> list[str]:
        title = "4. What students say"
        if len(self.measured) < 2:
            return [title, f"nothing measured yet: gankd bound {self.folder} --measure trains students at several M"]
        best, others = self._best_measured()
        lines = [title]
        for name, (rank, predicted) in self._agreement().items():
            ranks = "too few M for a rank correlation" if math.isnan(rank) else f"rank correlation {rank:+.2f}"
            lines.append(f"{name:<20} least at M = {predicted:<7} {ranks}, over {len(self.measured)} values of M")
        seeds = len(self.measured[0].errors)
        told = f"; not told from it by {seeds} seeds: M = {', '.join(map(str, others))}" if others else ""
        lines.append(f"{'measured':<20} least at M = {best}{told}")
        if self.implied_tv is not None:
            (mean, error), tv = self.implied_tv, self.distances[-1].tv
            spread = "" if math.isnan(error) else f" ± {error:.3f}"
            lines.append(
                f"TV with which calibrated fits these students, looking at them: {mean:.3f}{spread}; estimated in 1: "
                f"{_interval(tv)}"
            )
            if mean <= 0:
                lines.append("below 0: generated images helped even more than as many real ones are expected to")
        return lines

    def _best_measured(self) -> tuple[int, list[int]]:
        """The M of the least mean error, and those that paired intervals do not tell from it."""
        by_count = {one.count: one.errors for one in self.measured}
        best = min(by_count, key=lambda count: mean_stderr(by_count[count])[0])
        others = []
        for count, errors in by_count.items():
            interval = paired_interval(errors, by_count[best], higher_is_better=False)
            if count != best and interval.verdict != "worse":
                others.append(count)
        return best, others

    def _agreement(self) -> dict[str, tuple[float, int]]:
        """Of each curve its rank correlation with the students' mean errors, and where it is least among their M; with
        TV as estimated, and at the upper end of its interval.
        """
        counts = [one.count for one in self.measured]
        if len(counts) < 2:
            return {}
        errors = [mean_stderr(one.errors)[0] for one in self.measured]
        found = {}
        for name, bound in self._curves().items():
            estimate = self.distances[-1].tv
            for title, tv in (
                (f"TV {estimate.value:.2f}", estimate.value),
                (f"up to {estimate.high:.2f}", estimate.high),
            ):
                values = [replace(bound, tv=tv).at(count) for count in counts]
                rank = rank_correlation(values, errors)
                found[f"{name}, {title}"] = rank, counts[values.index(min(values))]
        return found

    def _caveats(self) -> list[str]:
        lines = [
            f"Estimated: TV, by classifiers of features and labels, fitted on real images and {self.fitted} generated",
            "ones, and judged on others. They see less than there is: a lower bound, up to the interval, which holds",
            "for these classifiers alone.",
            "Assumed: generator, ratio and teacher independent of the real pairs. They were fitted on them, so even",
            "the whole bound is a guide and no guarantee; and students minimise another loss than the one it is for.",
            "The full text of the paper's theorem was not at hand: this is a stand-in.",
        ]
        return [*lines, *self.notes]


_SPLITS = {"val": "validation", "test": "test"}


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
        measure: train the students that are missing: on parts of the real images, and with each M of `counts`, all
            with the run's number of updates and from scratch. Students that are there are read in any case.
        counts: M^g; N / 2 times powers of two, the run's own and all that are left, if not given.
        seeds: students per size and per M; as many as the run has, if not given.
        rhos: levels of the filter at which the distance is estimated anew, from stored scores.
        accept_shares: acceptance budgets, likewise.
        mix: pooled, as in the paper: batches hold as many generated images as the pool of both does; share: as many
            as the run's student.fake_share says, whatever M.
        delta: the bound may fail with this probability.
        split: held-out images on which distances and errors are measured.
        workers: students trained side by side.
        console: where progress is shown.

    Raises:
        ConfigError: the pool is not finished, or a value is out of range. DataError: too few images.
    """
    rate = deviation_rate(delta)
    seeds = recipe.seeds if seeds is None else seeds
    require(seeds >= 1, f"--seeds must be at least 1, got {seeds}")
    for count in counts or ():
        require(count >= 1, f"--counts must be at least 1, got {count}; M = 0 is always there")
    with opened(recipe, Path(folder), console) as method:
        require(
            method.synth_stage.done,
            f"{folder} has no finished pool of generated images; make it with: gankd synth {folder}",
        )
        held = method.splits.val if split == "val" else method.splits.test
        judge = _Judge(method, held)
        select = replace(recipe.select, count=None)
        notes = []
        wanted: dict[str, dict[str, SelectConfig | None]] = {
            "": {name: selection_of(ARMS[name], select) for name in PROCESSINGS},
            "rho": {f"rho {rho:g}": replace(select, rho=rho) for rho in rhos},
            "accept_share": {f"accept_share {share:g}": replace(select, accept_share=share) for share in accept_shares},
        }
        if select.filter == "none":
            del wanted["rho"]
            notes.append("filter=none: rho has no effect.")
        if select.subsample != "budget":
            del wanted["accept_share"]
            notes.append(f"subsample={select.subsample}: accept_share has no effect.")
        # The four steps are judged alike whatever is swept beside them; fewer fakes would make a worse classifier.
        judged = {name: judge({title: one for title, one in group.items() if one}) for name, group in wanted.items()}
        fitted = judged[""][1]
        found = {one.title: one for distances, _ in judged.values() for one in distances}
        if "adjusted" not in found:
            raise DataError(f"{folder}: too few generated images are left after selection; enlarge synth.pool")
        missing = [title for group in wanted.values() for title in group if title not in found]
        if missing:
            notes.append(f"Too few generated images are left to judge: {', '.join(missing)}.")
        by = {name: tuple(found[title] for title in group if title in found) for name, group in wanted.items()}
        adjusted = found["adjusted"]

        num_real, most = len(method.splits.train), adjusted.available
        share = recipe.student.fake_share if mix == "share" else None
        base = Bound(num_real=num_real, tv=adjusted.tv.value, rate=rate, share=share)
        own = min(recipe.select.count or most, most)
        if counts:
            too_many = [count for count in counts if count > most]
            require(not too_many, f"--counts {too_many[:1]}: only {most} generated images are left; enlarge synth.pool")
        each = sorted(set(counts) if counts else {*grid(num_real, most), own, most})
        curve, measured = _students(method, base, each, seeds, held, workers if measure else 0)
        report = BoundReport(
            folder=str(folder),
            loss="0-1 error" if held.task.kind == "classification" else "|error| / label range",
            num_real=num_real,
            count=own,
            mix=mix,
            delta=delta,
            split=split,
            held_out=len(held),
            fitted=fitted,
            teacher_error=judge.teacher_error,
            distances=by[""],
            by_rho=by.get("rho", ()),
            by_share=by.get("accept_share", ()),
            bound=base,
            curve=curve,
            measured=measured,
            notes=tuple(notes),
        )
        write_json(method.run.folder / "bound.json", report.to_dict())
        return report


def grid(num_real: int, most: int) -> list[int]:
    """M = N / 2, N, 2 N, 4 N ... below `most`."""
    start = max(1, num_real // 2)
    return [start << power for power in range(64) if start << power < most] if most > 0 else []


# --- distances ----------------------------------------------------------------------------------------------


class _Judge:
    """Classifiers of real against generated pairs, each fitted anew and judged on samples that it has not seen."""

    def __init__(self, method: CganKd, held: LabelledImages) -> None:
        self.method, self.held = method, held
        outputs = predict(method.teacher, held.images, method.engine).cpu()
        labels = held.labels.cpu()
        self.teacher_error = label_distance(held.task.predict(outputs), labels, held.task).mean().item()

    def __call__(self, configs: Mapping[str, SelectConfig]) -> tuple[list[Distance], int]:
        """The distance of each selection that leaves enough, and on how many fakes each classifier was fitted."""
        method, pool = self.method, self.method.synthetic
        seed, real_scores = method.recipe.seed, method.real_scores
        chosen: dict[SelectConfig, Selection] = {}
        for config in configs.values():
            try:
                chosen[config] = pool.select(replace(config, count=SAMPLE), seed, *real_scores)
            except DataError:  # nothing left
                continue
        fits = torch.rand(len(pool), generator=rng(seed, "bound", "halves")) < 0.5
        sizes = {config: int(fits[selection.index].sum()) for config, selection in chosen.items()}
        chosen = {config: selection for config, selection in chosen.items() if sizes[config] >= FEWEST}
        if not chosen:
            return [], 0
        fitted = min(sizes[config] for config in chosen)  # as many for each

        needed = torch.cat([selection.index for selection in chosen.values()]).unique()
        features = method.features(pool.images(needed))
        train = method.splits.train
        some = torch.randperm(len(train), generator=rng(seed, "bound", "real"))[:SAMPLE]
        real = train.subset(some.to(train.images.device))
        features_real = method.features(real.images)
        held = method.features(self.held.images)
        distances = {}
        known = features_real, real.labels
        for number, (config, selection) in enumerate(chosen.items(), 1):
            method.run.console.say(f"distance           {number} of {len(chosen)}")
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
        method, task = self.method, self.method.splits.task
        seed = method.recipe.seed
        labels = selection.labels.cpu()
        if labels.ndim == 2:  # a loss that is linear in the label sees soft labels as labels drawn from them
            labels = torch.multinomial(labels.float(), 1, generator=rng(seed, "bound", "labels"))[:, 0]
        first, rest = fits.nonzero()[:fitted, 0], (~fits).nonzero()[:, 0]
        # The published schedule keeps an over-fitted last epoch, which would see less of the distance.
        fresh = RatioConfig(hidden=method.recipe.ratio.hidden, batch_size=method.recipe.ratio.batch_size)
        fakes = features[first.to(features.device)], labels[first]
        ratios = [train_ratio(*real, *fakes, task, fresh, derive_seed(seed, "bound", fit)) for fit in range(FITS)]
        # The classifiers compare images of like labels; how often each label occurs is the other half of the pair.
        of_groups = group_log_ratio(task.groups(real[1]), task.groups(labels[first]), task.num_groups)

        def score(some: Tensor, theirs: Tensor) -> Tensor:
            found = [ratio.log_ratio(some, theirs.to(some.device)).cpu().double() for ratio in ratios]
            return torch.stack(found).mean(0) + of_groups[task.groups(theirs.cpu())]

        fake_scores = score(features[rest.to(features.device)], labels[rest])
        outputs = selection.teacher_outputs.cpu()
        teacher = task.adjust(outputs, selection.labels, "soft" if selection.labels.ndim == 2 else "prediction")
        return Distance(
            "",
            int(selection.consistent.sum()),
            tv_from_threshold(score(held, self.held.labels), fake_scores, seed),
            tv_from_ratio(fake_scores),
            label_distance(selection.labels, teacher, task).mean().item(),
        )


# --- students -----------------------------------------------------------------------------------------------


def _students(
    method: CganKd, bound: Bound, counts: Sequence[int], seeds: int, held: LabelledImages, workers: int
) -> tuple[LearningCurve | None, tuple[Measured, ...]]:
    """The learning curve and the errors for each M; `workers` of 0 train nothing and read what there is."""
    recipe, splits = method.recipe, method.splits
    recipe = replace(recipe, student=recipe.student.from_scratch)
    plain = CganKd(recipe, method.run, splits) if recipe != method.recipe else method
    cells: list[Cell] = [("real_matched", seed) for seed in range(seeds)]

    by_size: dict[int, CganKd] = {}
    for part in SUBSETS:
        size = len(splits.train) // part
        if part == 1:
            by_size[size] = plain
        elif size >= 2:
            fewer = scarce(splits.train, num_train=size, seed=recipe.data.seed)
            by_size[size] = CganKd(recipe, method.run, replace(splits, train=fewer))
    by_count: dict[int, CganKd] = {0: plain}
    for count in counts:
        share = max(bound.share_of(count), 1 / recipe.student.batch_size)  # one image of a batch at least
        own = replace(
            recipe,
            select=replace(recipe.select, count=count),
            student=replace(recipe.student, fake_share=share),
        )
        by_count[count] = method if own == method.recipe else CganKd(own, method.run, splits)

    with_fakes: list[Cell] = [("adjusted", seed) for seed in range(seeds)]
    if workers:
        for each in by_size.values():  # one after the other: workers are given the images of one size
            train_side_by_side([(each, cells)], workers)
        train_side_by_side([(each, with_fakes) for count, each in by_count.items() if count], workers)

    curves = {size: errors for size, each in by_size.items() if (errors := _errors(each, cells, held))}
    measured = [
        Measured(count, errors)
        for count, each in by_count.items()
        if (errors := _errors(each, with_fakes if count else cells, held))
    ]
    return _learning_curve(curves), tuple(measured)


def _errors(method: CganKd, cells: Iterable[Cell], held: LabelledImages) -> tuple[float, ...] | None:
    """The error in [0, 1] of each student; None unless all of them are finished."""
    task, cells = held.task, list(cells)
    if not all(method.student_stage(*cell).done for cell in cells):
        return None
    labels = held.labels.cpu()
    outputs = (predict(method.student(*cell), held.images, method.engine).cpu() for cell in cells)
    return tuple(label_distance(task.predict(some), labels, task).mean().item() for some in outputs)


def _learning_curve(errors: Mapping[int, tuple[float, ...]]) -> LearningCurve | None:
    if len(errors) < 2:
        return None
    sizes = list(errors)
    floor, rate = fit_rate(sizes, [mean_stderr(errors[size])[0] for size in sizes])
    by_seed = [fit_rate(sizes, own)[1] for own in zip(*errors.values(), strict=True)]
    return LearningCurve(tuple(sizes), tuple(errors.values()), floor, rate, mean_stderr(by_seed)[1])


# --- words --------------------------------------------------------------------------------------------------


def _distance_line(one: Distance, *, indent: bool) -> str:
    title = "  " * indent + one.title
    return f"{title:24} {one.available:>7}   {_interval(one.tv):<22} {one.plug_in:>7.3f}   {_percent(one.labels):>12}"


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _count(number: float) -> str:
    return "any" if math.isinf(number) else f"{number:.3g}" if number < 1e5 else f"{number:.1e}"


def _plain(values: Any) -> Any:
    """For JSON, which knows neither nan nor infinity."""
    if isinstance(values, dict):
        return {name: _plain(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
