"""Result of `gankd bound`, as plain data and as text."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from gankd.bench.bound import Bound, Estimate, deviation_rate, fit_tv, grid, rank_correlation
from gankd.bench.results import Split
from gankd.bench.stats import mean_stderr, paired_interval
from gankd.text import Table, columns, fixed, interval, plus_minus, signed, wrap

Mix = Literal["pooled", "share"]


@dataclass(frozen=True)
class Distance:
    """Distance of one selection of generated pairs from real ones, on held-out samples of both."""

    title: str
    available: int
    """Images of the pool that this selection leaves."""
    tv: Estimate
    """A lower bound: the classifier's features hold no more than the images."""
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
    """Errors in [0, 1] of students on real images only, per size and seed, and floor + rate / sqrt(size)."""

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
    """Generated images on which each classifier was fitted."""
    teacher_error: float
    """Error of the teacher on held-out real images, in [0, 1]: the noise floor of its labels."""
    distances: tuple[Distance, ...]
    by_rho: tuple[Distance, ...]
    by_share: tuple[Distance, ...]
    bound: Bound
    """Distance of the adjusted images and deviation only: the least that the bound can be."""
    curve: LearningCurve | None
    measured: tuple[Measured, ...]
    notes: tuple[str, ...] = ()

    @property
    def calibrated(self) -> Bound | None:
        """The bound with floor and rate of the learning curve instead of worst cases; only its shape means anything."""
        if self.curve is None:
            return None
        return replace(self.bound, floor=self.curve.floor, rate=self.curve.rate)

    def _curves(self) -> dict[str, Bound]:
        """The bound, and the calibrated curve if there is one."""
        return {"bound": self.bound} | ({"calibrated": self.calibrated} if self.calibrated else {})

    @property
    def counts(self) -> list[int]:
        """M of the table: 0, powers of two times N / 2, the run's own, those measured, and all that are left."""
        most = self.most
        found = {0, most, self.count, *grid(self.num_real, most), *(one.count for one in self.measured)}
        return sorted(count for count in found if count <= most)

    @property
    def most(self) -> int:
        """Images of the pool that are left after the whole processing."""
        return self.distances[-1].available

    @property
    def implied_tv(self) -> tuple[float, float] | None:
        """TV at which the calibrated curve fits the students, and its standard error; None without students."""
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
        """Plain text, as wide as the terminal."""
        width = columns()
        blocks = [self._head(), self._short(width), self._distances(width), self._prediction(width)]
        blocks += [self._optima(width), self._students(width), self._caveats(width)]
        return "\n\n".join(blocks)

    def _head(self) -> str:
        mixed = (
            "s = M / (N + M), n = N + M: real and generated images in one pool"
            if self.mix == "pooled"
            else f"s = {self.bound.share:g}, the share of each batch; 1/n = (1-s)^2/N + s^2/M"
        )
        return "\n".join(
            [
                f"error bound of cGAN-KD for {self.folder}   (statement, estimates and assumptions: docs/bound.md)",
                "",
                "  excess error  <=  approximation  +  2 s TV  +  4 Rad  +  deviation",
                "",
                f"  loss        {self.loss}, in [0, 1], so B = 1",
                f"  N, M        {self.num_real} real images; {self.count} generated in this run, {self.most} at most",
                f"  mixture     {mixed}",
                f"  deviation   {deviation_rate(self.delta):.2f} / sqrt(n), at confidence {1 - self.delta:g}",
                f"  4 Rad       left out: {'see the calibrated curve' if self.curve else 'it needs students'}",
                "  approximation: left out; it is equal for every M",
            ]
        )

    def _short(self, width: int) -> str:
        tv = self.distances[-1].tv
        found = "differ" if tv.low > 0 else "are not told apart"
        points = [
            f"real and adjusted generated pairs {found}: TV at least {_interval(tv)}; 0 is not at all, 1 entirely"
        ]
        if len(self.by_rho) > 1:
            near, far = (choose(self.by_rho, key=lambda one: one.tv.value) for choose in (min, max))
            if far.tv.low <= near.tv.high:
                points.append("rho makes no measurable difference to TV")
            else:
                why = ": unusual but correct images are dropped too" if far is self.by_rho[0] else ""
                points.append(f"by rho they are nearest at {near.title[4:]} and farthest at {far.title[4:]}{why}")
        if len(self.measured) < 2:
            points.append("whether students agree is not known yet: --measure")
        else:
            best, others = self._best_measured()
            least = [str(count) for _, count in list(self._agreement().values())[-2:]]
            at = least[0] if least[0] == least[1] else f"{least[0]}, or at {least[1]} with TV {tv.high:.2f}"
            told = f", not told from {', '.join(map(str, others))}" if others else ""
            points.append(f"the {'calibrated curve' if self.calibrated else 'bound'} is least at M = {at}")
            points.append(f"students are best with M = {best}{told}")
        return _lines(["In short", *(f"- {point}" for point in points)], width)

    def _distances(self, width: int) -> str:
        rows = []
        for title, group in (("", self.distances), ("rho", self.by_rho), ("accept_share", self.by_share)):
            for one in group:
                name = f"adjusted, {one.title}" if title else one.title
                rows.append([name, str(one.available), _interval(one.tv), fixed(one.plug_in, 3), _percent(one.labels)])
        return Table(
            ["selection", "left", "TV at least [95 %]", "plug-in", "labels that differ from the teacher's"],
            rows,
            caption="1. Are generated pairs (image, label) like real ones?   "
            f"{self.held_out} {_SPLITS[self.split]} images",
            notes=[
                f"the teacher itself is wrong by {_percent(self.teacher_error)} on held-out real images: where labels "
                "are its own, that is their error, at best, though the last column says 0",
            ],
        ).plain(width)

    def _prediction(self, width: int) -> str:
        calibrated, measured = self.calibrated, {one.count: one for one in self.measured}
        high = self.distances[-1].tv.high
        head = ["M", "s", "2 s TV", "deviation", "bound at least"]
        head += ["calibrated", f"with TV {high:.2f}"] if calibrated else []
        head += ["measured error"] if measured else []
        rows = []
        for count in self.counts:
            bound = self.bound
            row = [str(count), fixed(bound.share_of(count))]
            row += [fixed(value, 3) for value in (bound.distance(count), bound.estimation(count), bound.at(count))]
            if calibrated:
                row += [fixed(curve.at(count), 3) for curve in (calibrated, replace(calibrated, tv=high))]
            if count in measured:
                row.append(plus_minus(*mean_stderr(measured[count].errors), 3))
            rows.append(row)
        notes = []
        least = min(self.bound.at(count) for count in self.counts)
        if least > 1:
            notes.append("every bound is above 1, the largest possible error: vacuous. It says nothing about size.")
        elif max(self.bound.at(count) for count in self.counts) > 1:
            notes.append("a bound above 1, the largest possible error, is vacuous: it says nothing about size")
        notes.append("at least: 4 Rad and the approximation come on top, and TV may be larger: it promises nothing")
        if calibrated and self.curve:
            c = self.curve
            notes.append(
                f"calibrated: {c.floor:.3f} + 2 s TV + ({plus_minus(c.rate, c.rate_error)}) / sqrt(n), fitted to real "
                f"images only ({', '.join(map(str, c.sizes))}); not a bound, read its shape"
            )
        return Table(head, rows, align="r" * len(head), caption="2. The bound against M", notes=notes).plain(width)

    def _optima(self, width: int) -> str:
        sizes = [max(2, self.num_real // 4), self.num_real, 4 * self.num_real]
        rows = []
        for one in (self.distances[-1], *self.by_rho):
            for name, bound in self._curves().items():
                low, own, high = (replace(bound, tv=tv) for tv in (one.tv.low, one.tv.value, one.tv.high))
                range_ = " to ".join(dict.fromkeys(_count(end.pays_below) for end in (high, low)))
                cells = []
                for size in sizes:
                    best, *ends = (replace(at, num_real=size).best_count(one.available) for at in (own, low, high))
                    cells.append(("all" if best else "none") + ("?" if len(set(ends)) > 1 else ""))
                rows.append(["this run" if one is self.distances[-1] else one.title, name, range_, *cells])
        notes = [
            "?: the ends of the interval of TV disagree",
            "pays below N: with fewer real images than this, generated ones lower the curve, over the interval of TV",
        ]
        if self.calibrated:
            best_share = self.calibrated.best_share(self.most)
            notes.append(f"share of generated images in a batch that makes calibrated least: {best_share:.2f}")
        return Table(
            ["selection", "curve", "pays below N", *(f"best M at N = {size}" for size in sizes)],
            rows,
            align="lllrrr",
            caption="3. Which M is best: all or none, as a distance that does not depend on M leaves nothing between",
            notes=notes,
        ).plain(width)

    def _students(self, width: int) -> str:
        title = "4. What students say"
        if len(self.measured) < 2:
            remedy = f"nothing measured yet: gankd bound {self.folder} --measure trains students at several M"
            return _lines([title, remedy], width)
        best, others = self._best_measured()
        rows = [[name, str(least), signed(rank)] for name, (rank, least) in self._agreement().items()]
        rows.append(["measured", str(best)])
        notes = [f"rank correlation with the measured errors, over {len(self.measured)} values of M; -: too few M"]
        if others:
            seeds = len(self.measured[0].errors)
            notes.append(f"not told from the measured best by {seeds} seeds: M = {', '.join(map(str, others))}")
        if self.implied_tv is not None:
            mean, error = self.implied_tv
            notes.append(
                f"TV with which calibrated fits these students, looking at them: {plus_minus(mean, error, 3)}; "
                f"estimated in 1: {_interval(self.distances[-1].tv)}"
            )
            if mean <= 0:
                notes.append("below 0: generated images helped even more than as many real ones are expected to")
        return Table(["curve", "least at M", "rank correlation"], rows, caption=title, notes=notes).plain(width)

    def _best_measured(self) -> tuple[int, list[int]]:
        """The M of the smallest mean error, and those that paired intervals do not tell from it."""
        by_count = {one.count: one.errors for one in self.measured}
        best = min(by_count, key=lambda count: mean_stderr(by_count[count])[0])
        others = []
        for count, errors in by_count.items():
            gain = paired_interval(errors, by_count[best], higher_is_better=False)
            if count != best and gain.verdict != "worse":
                others.append(count)
        return best, others

    def _agreement(self) -> dict[str, tuple[float, int]]:
        """Rank correlation of each curve with the students' mean errors, and the M of theirs at which it is least; with
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

    def _caveats(self, width: int) -> str:
        lines = [
            f"Estimated: TV, by classifiers of features and labels, fitted on real images and {self.fitted} generated "
            "ones, and judged on others. They see less than there is: a lower bound, up to the interval, which holds "
            "only for these classifiers.",
            "Assumed: generator, ratio and teacher independent of the real pairs. They were fitted on them, so even "
            "the whole bound is a guide, not a guarantee; and students minimise another loss than the one it is for.",
            "The full text of the paper's theorem was not at hand: this is a stand-in.",
        ]
        return _lines([*lines, *self.notes], width)


_SPLITS = {"val": "validation", "test": "test"}


# --- words --------------------------------------------------------------------------------------------------


def _lines(texts: Sequence[str], width: int) -> str:
    """Wrapped texts, one below the other."""
    return "\n".join(line for text in texts for line in wrap(text, width, "  " * text.startswith("- ")))


def _interval(estimate: Estimate) -> str:
    return interval(estimate.value, estimate.low, estimate.high, 3, sign=False)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _count(number: float) -> str:
    return "any" if math.isinf(number) else f"{number:.3g}" if number < 1e5 else f"{number:.1e}"


def _plain(values: Any) -> Any:
    """Plain data without nan and infinity, which JSON does not know."""
    if isinstance(values, dict):
        return {name: _plain(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
