"""`gankd bound` as a function, on tiny finished runs of both tasks."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gankd.bench.bound import Bound, Estimate, grid
from gankd.commands.bound import _Judge, bound
from gankd.config import override
from gankd.errors import ConfigError
from gankd.recipes import Recipe
from gankd.recipes.arms import arm_named
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import declare
from gankd.report.bound import BoundReport, Distance, LearningCurve, Measured
from gankd.runs import Run
from gankd.storage import read_json


def test_a_run_with_classes_is_judged_measured_and_read_again(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, finished = digits_run
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    found = bound(recipe, folder, measure=True, rhos=(1.0,), accept_shares=(1.0,), counts=(20, 40))
    assert [one.title for one in found.distances] == ["raw", "subsampled", "filtered", "adjusted"]
    raw, subsampled, filtered, adjusted = found.distances
    assert raw.available == 768 > subsampled.available > filtered.available == adjusted.available
    assert raw.labels > filtered.labels  # the filter drops what the teacher disagrees with
    assert adjusted.labels < 1e-3  # soft labels are the teacher's own, in half precision
    for one in (*found.distances, *found.by_rho, *found.by_share):
        assert 0 <= one.tv.low <= one.tv.high <= 1
        assert 0 <= one.plug_in <= 1
    assert found.by_rho[0].available == subsampled.available  # rho = 1 drops nobody
    assert found.by_share[0].available > adjusted.available
    assert [one.count for one in found.measured] == [0, 20, 40]
    assert found.curve is not None
    assert found.curve.sizes == (20, 40, 80)
    assert found.measured[0].errors == found.curve.errors[-1]  # real images alone
    stages = declare(Experiment.open(recipe, Run(folder)), [arm_named(recipe, "real_matched")], [0])
    top1 = (stages.students["real_matched", 0].result or {})["val"]["top1"]
    assert found.measured[0].errors[0] == pytest.approx(1 - top1 / 100)
    written = read_json(folder / "bound.json")
    assert written == json.loads(json.dumps(found.to_dict()))
    assert [row["count"] for row in written["prediction"]] == [0, 20, 40, 80, 100, 160, 320, adjusted.available]
    students = sorted(folder.glob("student-*"))
    again = bound(recipe, folder, rhos=(1.0,), accept_shares=(1.0,), counts=(20, 40))  # reads what is there
    assert again == found
    assert sorted(folder.glob("student-*")) == students


def test_a_run_with_values_says_what_is_not_measured(angles_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, finished = angles_run
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    recipe = override(recipe, ["select.subsample=none"])
    found = bound(recipe, folder, rhos=(0.7, 0.02), mix="share")
    assert found.by_share == ()
    assert [one.title for one in found.by_rho] == ["rho 0.7"]  # of the other 15 are left
    assert found.notes == (
        "subsample=none: accept_share has no effect.",
        "Too few generated images are left to judge: rho 0.02.",
    )
    assert found.distances[2].labels > found.distances[3].labels == 0
    assert [one.count for one in found.measured] == [
        0
    ]  # students of the run that are there: M = 100 has subsample=budget
    assert "loss        |error| / label range, in [0, 1]" in found.text
    assert "nothing measured yet: gankd bound" in found.text
    assert "--measure" in found.text


@pytest.mark.parametrize(("case", "least", "most"), [("alike", 0.0, 0.25), ("apart", 0.9, 1.0), ("labels", 0.4, 0.7)])
def test_distances_of_known_pairs(digits_run: tuple[Recipe, Path], case: str, least: float, most: float) -> None:
    """Normal features: TV is 0 where they are alike, about 1 far apart, 1/2 where half of the labels are missing."""
    recipe, folder = digits_run
    experiment = Experiment.open(recipe, Run(folder))
    stages = declare(experiment, [arm_named(recipe, "adjusted")])
    held, count = experiment.splits.val, 1000
    noise = torch.Generator().manual_seed(0)
    real, fake, judged = (torch.randn(n, 8, generator=noise) for n in (count, count, len(held)))
    fake_labels = torch.arange(count) % (5 if case == "labels" else 10)
    selection = SimpleNamespace(
        labels=fake_labels,
        teacher_outputs=torch.eye(10)[fake_labels],
        consistent=torch.ones(count, dtype=torch.bool),
    )
    fits = torch.arange(count) % 2 == 0
    fits = fits[torch.randperm(count, generator=noise)]
    distance = _Judge(experiment, stages, held)._distance(
        selection,  # type: ignore[arg-type]
        fake + 6 * (case == "apart"),
        fits,
        int(fits.sum()),
        (real, torch.arange(count) % 10),
        judged,
    )
    assert least <= distance.tv.value <= most
    assert distance.labels == pytest.approx(0, abs=1e-3)


def test_wrong_values_and_a_run_without_pool_are_refused(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, finished = digits_run
    with pytest.raises(ConfigError, match="has no finished pool of generated images; make it with: gankd synth"):
        bound(recipe, tmp_path / "none")
    with pytest.raises(ConfigError, match="delta must lie in"):
        bound(recipe, finished, delta=0)
    with pytest.raises(ConfigError, match="--counts must be at least 1, got 0"):
        bound(recipe, finished, counts=[5, 0])
    with pytest.raises(ConfigError, match="--seeds must be at least 1"):
        bound(recipe, finished, seeds=0)


def test_counts_of_the_grid_double_from_half_the_real_images() -> None:
    assert grid(300, 1200) == [150, 300, 600]
    assert grid(1, 3) == [1, 2]
    assert grid(300, 100) == []


def report(tv: float, rate: float = 2.72, errors: tuple[float, ...] = ()) -> BoundReport:
    """A report as `bound` makes it, with students whose mean errors are given for M = 0, 400, 1600."""
    distances = tuple(
        Distance(name, 1600, Estimate(tv, max(0.0, tv - 0.03), tv + 0.03), tv, 0.0) for name in ("raw", "adjusted")
    )
    curve = LearningCurve((25, 50, 100), ((0.3, 0.3), (0.24, 0.24), (0.2, 0.2)), 0.1, 1.0, 0.0) if errors else None
    measured = tuple(
        Measured(count, (error - 0.01, error + 0.01)) for count, error in zip((0, 400, 1600), errors, strict=False)
    )
    return BoundReport(
        folder="runs/x",
        loss="0-1 error",
        num_real=100,
        count=400,
        mix="pooled",
        delta=0.05,
        split="val",
        held_out=50,
        fitted=80,
        teacher_error=0.1,
        distances=distances,
        by_rho=(),
        by_share=(),
        bound=Bound(num_real=100, tv=tv, rate=rate),
        curve=curve,
        measured=measured,
    )


def test_a_bound_above_1_is_called_vacuous() -> None:
    assert "every bound is above 1, the largest possible error: vacuous" in report(0.9, rate=12.0).text
    assert "a bound above 1, the largest possible error, is vacuous" in report(0.9).text
    assert "vacuous" not in report(0.05).text


def test_students_are_held_against_the_curves() -> None:
    calibrated = Bound(num_real=100, tv=0.04, rate=1.0, floor=0.1)
    errors = tuple(calibrated.at(count) for count in (0, 400, 1600))
    found = report(0.04, errors=errors)
    assert found.implied_tv is not None
    assert found.implied_tv[0] == pytest.approx(0.04)
    rank, least = found._agreement()["calibrated, TV 0.04"]
    assert rank == pytest.approx(1)
    assert least == (1600 if errors[2] < errors[0] else 0)
    last = replace(found.distances[-1], tv=Estimate(0.04, 0.04, 0.044))  # both ends read alike
    assert len(replace(found, distances=(last,))._agreement()) == len(found._agreement()) == 4
    assert "TV with which calibrated fits these students, looking at them: 0.040" in found.text
    assert max(map(len, found.text.splitlines())) <= 120


def test_numbers_that_json_has_no_name_for_are_left_open() -> None:
    values = report(0.0).to_dict()
    assert values["pays_below"] is None  # infinity
    assert not any(math.isinf(row["bound"]) for row in values["prediction"])
    json.dumps(values, allow_nan=False)
