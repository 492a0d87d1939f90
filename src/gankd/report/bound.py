"""What `gankd bound` found, as plain data and as text."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from gankd.bench.bound import Bound, Estimate, deviation_rate, fit_tv, grid, rank_correlation
from gankd.bench.rows import Split
from gankd.bench.stats import mean_stderr, paired_interval

Mix = Literal["pooled", "share"]


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
