"""A forecast of what generated images add, learned from the finished cells of the map."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gankd.bench.map_results import MapResult
from gankd.bench.stats import prediction_interval
from gankd.recipes.map_grid import REAL

FEWEST = 10
"""Finished cells from which on a model is fitted."""
ENOUGH = 100
"""Images per label from which on the rule of thumb expects nothing."""
NOTHING_KNOWN = 0.5
"""Half of the interval of a forecast from less than two cells, as a share of the error."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Measurements of a set on training and validation images, before generated images are made.

    An error is what is missing to 100 %, or the metric itself for values.
    """

    set: str
    """Name of the recipe."""
    error: float
    """Error of students on labels only, on validation images."""
    on_train: float
    """Error of the same students, on their training images."""
    longer: float
    """Error of students on labels only with `length` times the updates."""
    length: float
    kd: float
    """Error of students with KD."""
    teacher: float
    generated: float
    """Error of the teacher on images of the generator's first check, against the labels they were made for."""
    variety: float
    """Spread of these images within a label, in units of the real one."""
    per_label: float
    """Training images per label."""
    distance: float
    """Distance of a validation label to the nearest training label, in units of the label; 0 for classes."""
    imbalance: float
    """Images of the largest label group, in units of the mean group."""

    @property
    def features(self) -> dict[str, float]:
        """Numbers without a unit, by the words that explain them."""
        error = max(self.error, 1e-9)
        return {
            "images per label": math.log2(self.per_label),
            "error on training images": min(self.on_train / error, 2.0),
            "fall of the error with every doubling of the updates": self.slope,
            "gain of KD": 1 - self.kd / error,
            "lead of the teacher": 1 - self.teacher / error,
            "distance to the nearest label": math.log2(1 + self.distance / error),
            "imbalance of the labels": math.log2(self.imbalance),
            "faults of the generator at its first check": math.log2(1 + self.generated / error),
            "variety of the generator at its first check": min(self.variety, 2.0),
        }

    @property
    def slope(self) -> float:
        """Relative fall of the error with every doubling of the updates."""
        return (1 - self.longer / max(self.error, 1e-9)) / math.log2(self.length) if self.length > 1 else 0.0


def as_error(value: float, *, higher_is_better: bool) -> float:
    """An accuracy in per cent as what is missing to 100; an error as it is."""
    return 100 - value if higher_is_better else value


def probe_of(result: MapResult) -> Probe:
    """The probe of a finished cell, as means over its pipelines."""

    def mean(values: Sequence[float]) -> float:
        return as_error(sum(values) / len(values), higher_is_better=result.higher_is_better)

    def fact(find: Callable[[dict[str, Any]], float]) -> list[float]:
        return [find(facts) for facts in result.facts]

    first, longer = result.facts[0], result.arms.get("real_time", result.arms["real_matched"])
    varieties = fact(
        lambda facts: 1.0 if facts["first"]["variance_ratio"] is None else facts["first"]["variance_ratio"]
    )
    return Probe(
        set=result.recipe,
        error=mean(result.arms["real_matched"].val),
        on_train=mean(fact(lambda facts: facts["on_train"])),
        longer=mean(longer.val),
        length=longer.updates / result.arms["real_matched"].updates,
        kd=mean(result.arms["kd_matched"].val),
        teacher=mean(fact(lambda facts: facts["teacher"])),
        generated=mean(fact(lambda facts: facts["first"]["teacher"])),
        variety=sum(varieties) / len(varieties),
        per_label=result.images / result.labels,
        distance=first["distance"],
        imbalance=first["imbalance"],
    )


@dataclass(frozen=True)
class Forecast:
    """Gain over the strongest control, as a share of the error of students on labels only."""

    gain: float
    low: float
    high: float
    reasons: tuple[str, ...] = ()
    """Features that speak for it or against it most, in words."""


@dataclass(frozen=True)
class Score:
    """Agreement of forecasts with the gains that were found."""

    what: str
    signs: float
    """Share of the cells whose gain has the sign of the forecast."""
    rank: float
    """Spearman's rank correlation; nan if all forecasts are equal."""


class Forecaster:
    """Ridge regression from probes to gains. Cells without real images are left out: they answer another question.

    Args:
        results: finished cells.
    """

    def __init__(self, results: Sequence[MapResult]) -> None:
        self.results = [result for result in results if result.factor != REAL]
        self._probes = [probe_of(result) for result in self.results]
        self.features = np.array([list(probe.features.values()) for probe in self._probes])
        self.gains = np.array([result.gain.diff / max(result.error, 1e-9) for result in self.results])
        self.sets = [result.recipe for result in self.results]

    @property
    def knows(self) -> bool:
        """True if there are enough cells for a model."""
        return len(self.results) >= FEWEST

    def __call__(self, probe: Probe) -> Forecast:
        """The forecast for a set, with a 95 % interval of forecasts for cells (of sets, if there are several) that were
        left out. From few cells it is their mean gain.
        """
        if not self.knows:
            mean = float(self.gains.mean()) if len(self.gains) else 0.0
            low, high = prediction_interval(list(self.gains)) if len(self.gains) > 1 else (math.nan, math.nan)
            wide = NOTHING_KNOWN if math.isnan(low) else max(high - mean, NOTHING_KNOWN)
            return Forecast(mean, mean - wide, mean + wide)
        model, own = self._model(), np.array([list(probe.features.values())])
        model.fit(self.features, self.gains)
        gain = float(model.predict(own)[0])
        low, high = prediction_interval(list(self.gains - self._left_out(by_set=len(set(self.sets)) > 1)))
        parts = model[0].transform(own)[0] * model[1].coef_
        order = np.argsort(-np.abs(parts))[:3]
        names = list(probe.features)
        reasons = tuple(f"{names[place]} ({'for' if parts[place] > 0 else 'against'})" for place in order)
        return Forecast(gain, gain + low, gain + high, reasons)

    def nearest(self, probe: Probe) -> MapResult | None:
        """The finished cell whose probe is most like this one."""
        if not self.results:
            return None
        spread = self.features.std(0)
        own = np.array(list(probe.features.values()))
        distances = np.square((self.features - own) / np.where(spread > 0, spread, 1)).sum(1)
        return self.results[int(distances.argmin())]

    @property
    def scores(self) -> list[Score]:
        """Scores of forecasts for cells and for sets that were left out, and of the rule of thumb; empty if there are
        too few cells.
        """
        if not self.knows:
            return []
        counts = np.array([probe.per_label for probe in self._probes])
        found = [_score("model, cell left out", self._left_out(by_set=False), self.gains)]
        if len(set(self.sets)) > 1:
            found.append(_score("model, set left out", self._left_out(by_set=True), self.gains))
        rule = np.where(counts < ENOUGH, 1.0, -1.0)
        return [*found, _score(f"rule: images per label below {ENOUGH}", rule, self.gains, -counts)]

    def _model(self) -> Any:
        from sklearn.linear_model import RidgeCV  # a second to import
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(0, 3, 7)))

    def _left_out(self, *, by_set: bool) -> Any:
        """Forecasts for each cell by models that have not seen it, or have not seen its set."""
        from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

        groups = self.sets if by_set else list(range(len(self.gains)))
        return cross_val_predict(self._model(), self.features, self.gains, groups=groups, cv=LeaveOneGroupOut())


def _score(what: str, forecasts: Any, gains: Any, order: Any = None) -> Score:
    from scipy.stats import spearmanr

    order = forecasts if order is None else order
    rank = math.nan if np.ptp(order) == 0 or np.ptp(gains) == 0 else float(spearmanr(order, gains).statistic)
    return Score(what, float((np.sign(forecasts) == np.sign(gains)).mean()), rank)
