import math
import subprocess
import sys

import pytest
from scipy.stats import t

from gankd.bench.stats import Interval, holm, interval_p, mean_stderr, paired_interval, paired_p, prediction_interval
from gankd.errors import ConfigError

ARM = [95.1, 94.8, 95.9, 95.3, 94.6]
CONTROL = [94.0, 94.1, 94.3, 94.9, 93.6]


def test_mean_and_standard_error_by_hand() -> None:
    mean, error = mean_stderr([2.0, 4.0, 6.0])  # deviations -2 0 2, s^2 = 8 / 2
    assert mean == 4.0
    assert error == pytest.approx(math.sqrt(4 / 3))


def test_one_value_has_a_mean_and_no_error() -> None:
    mean, error = mean_stderr([3.0])
    assert mean == 3.0
    assert math.isnan(error)


def test_paired_interval_by_hand() -> None:
    interval = paired_interval([3.0, 5.0, 7.0], [2.0, 3.0, 4.0], higher_is_better=True)
    half = 4.302652729911275 / math.sqrt(3)  # differences 1 2 3: s = 1; t(0.975, 2 degrees of freedom)
    assert interval.diff == pytest.approx(2.0)
    assert (interval.low, interval.high) == pytest.approx((2 - half, 2 + half))


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_interval_and_test_have_the_closed_form_of_student(level: float) -> None:
    diff, error = mean_stderr([a - c for a, c in zip(ARM, CONTROL, strict=True)])
    half = t.ppf(0.5 + level / 2, len(ARM) - 1) * error
    interval = paired_interval(ARM, CONTROL, higher_is_better=True, level=level)
    assert (interval.low, interval.high) == pytest.approx((diff - half, diff + half))
    assert paired_p(ARM, CONTROL) == pytest.approx(2 * t.sf(diff / error, len(ARM) - 1))


def test_a_value_that_is_nan_leaves_everything_undefined() -> None:
    broken = [*ARM[:-1], math.nan]
    interval = paired_interval(broken, CONTROL, higher_is_better=True)
    assert interval.verdict == "no interval"
    assert math.isnan(interval.diff)
    assert math.isnan(paired_p(broken, CONTROL))


def test_importing_it_does_not_import_scipy() -> None:
    code = "import sys, gankd.bench.stats; sys.exit(any(name.startswith('scipy') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_positive_is_better_whatever_the_direction() -> None:
    """An error that falls by as much as an accuracy rises is as good."""
    up = paired_interval(ARM, CONTROL, higher_is_better=True)
    down = paired_interval([-v for v in ARM], [-v for v in CONTROL], higher_is_better=False)
    assert up == down
    assert up.diff > 0


def test_swapping_the_two_mirrors_the_interval() -> None:
    a = paired_interval(ARM, CONTROL, higher_is_better=False)
    b = paired_interval(CONTROL, ARM, higher_is_better=False)
    assert (a.diff, a.low, a.high) == pytest.approx((-b.diff, -b.high, -b.low))


def test_pairing_removes_what_the_seed_does_to_both() -> None:
    seed_effect = [0.0, 10.0, -7.0, 30.0, 4.0]
    shifted = paired_interval(
        [a + s for a, s in zip(ARM, seed_effect, strict=True)],
        [c + s for c, s in zip(CONTROL, seed_effect, strict=True)],
        higher_is_better=True,
    )
    plain = paired_interval(ARM, CONTROL, higher_is_better=True)
    assert (shifted.low, shifted.high) == pytest.approx((plain.low, plain.high))


def test_one_seed_has_no_interval() -> None:
    interval = paired_interval([2.0], [1.0], higher_is_better=True)
    assert interval.diff == 1.0
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert interval.verdict == "no interval"


def test_equal_differences_say_nothing_of_their_spread() -> None:
    """Two accuracies of a hundred images are the same distance apart by chance now and then."""
    for values, control in (([95.0, 96.0], [94.0, 95.0]), ([0.3, 0.4], [0.1, 0.2])):  # the latter but for rounding
        found = paired_interval(values, control, higher_is_better=True)
        assert (math.isnan(found.low), math.isnan(found.high), found.verdict) == (True, True, "no interval")
        assert found.diff == pytest.approx(values[0] - control[0])
        assert math.isnan(paired_p(values, control))
    assert paired_interval([1.0, 1.0], [1.0, 1.0], higher_is_better=True).verdict == "no difference found"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.1, 0.3, "better"),
        (-0.3, -0.1, "worse"),
        (-0.1, 0.3, "no difference found"),
        (0.0, 0.3, "no difference found"),
        (-0.3, 0.0, "no difference found"),
    ],
)
def test_words_need_an_interval_that_excludes_zero(low: float, high: float, words: str) -> None:
    assert Interval((low + high) / 2, low, high).verdict == words


def test_refuses_what_cannot_be_paired() -> None:
    with pytest.raises(ConfigError, match="3 and 2"):
        paired_interval([1.0, 2.0, 3.0], [1.0, 2.0], higher_is_better=True)
    with pytest.raises(ConfigError, match="at least one value"):
        paired_interval([], [], higher_is_better=True)
    with pytest.raises(ConfigError, match="level"):
        paired_interval([1.0], [1.0], higher_is_better=True, level=95)


def test_the_paired_test_agrees_with_its_interval() -> None:
    p = paired_p(ARM, CONTROL)
    assert paired_p(CONTROL, ARM) == pytest.approx(p)
    edge = paired_interval(ARM, CONTROL, higher_is_better=True, level=1 - p)
    assert edge.low == pytest.approx(0, abs=1e-9)  # the interval of level 1 - p touches zero
    assert interval_p(paired_interval(ARM, CONTROL, higher_is_better=False), len(ARM)) == pytest.approx(p)
    assert interval_p(paired_interval(ARM, CONTROL, higher_is_better=True, level=0.8), len(ARM), 0.8) == pytest.approx(
        p
    )
    assert math.isnan(interval_p(paired_interval([1.0], [2.0], higher_is_better=True), 1))
    assert all(math.isnan(paired_p(*values)) for values in (([1.0], [2.0]), ([1.0, 2.0], [2.0, 3.0])))


def test_holm_by_hand() -> None:
    # sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, and never falling: .02 .03 .06 .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == (1.0, 1.0)
    assert holm([0.02]) == (0.02,)
    assert holm([]) == ()
    first, second = holm([math.nan, 0.02])
    assert math.isnan(first)
    assert second == 0.02  # what has no test does not count


def test_holm_lies_between_no_correction_and_bonferroni() -> None:
    p_values = [0.001, 0.2, 0.013, 0.04, 0.013]
    for p, adjusted in zip(p_values, holm(p_values), strict=True):
        assert p <= adjusted <= min(1, len(p_values) * p)
    assert holm(p_values)[2] == holm(p_values)[4]


def test_the_prediction_interval_by_hand() -> None:
    half = 4.302652729911275 * 2 * math.sqrt(1 + 1 / 3)  # 2 4 6: s = 2; t(0.975, 2 degrees of freedom)
    assert prediction_interval([2.0, 4.0, 6.0]) == pytest.approx((4 - half, 4 + half))
    assert all(math.isnan(bound) for bound in prediction_interval([2.0]))
