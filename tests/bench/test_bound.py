"""The terms of the bound where they are known: Gaussians, discrete laws, closed forms against plain searches."""

import math
from collections.abc import Callable

import pytest
import torch

from gankd.bench.bound import (
    Bound,
    deviation_rate,
    fit_rate,
    fit_tv,
    group_log_ratio,
    label_distance,
    rank_correlation,
    tv_from_ratio,
    tv_from_threshold,
)
from gankd.errors import ConfigError, DataError
from gankd.seeds import rng
from gankd.tasks import Classification, Regression

CLASSES = Classification(num_classes=3)
ANGLES = Regression(low=-10.0, high=30.0)


def normal(count: int, mean: float, name: str) -> torch.Tensor:
    return torch.randn(count, generator=rng(0, name), dtype=torch.float64) + mean


def test_plug_in_with_the_true_ratio_is_total_variation() -> None:
    real, fake = torch.tensor([0.1, 0.2, 0.7, 0.0]), torch.tensor([0.4, 0.2, 0.3, 0.1])
    samples = torch.tensor([0] * 4 + [1] * 2 + [2] * 3 + [3])  # as often as `fake` says
    known = (real - fake).abs().sum().item() / 2
    assert tv_from_ratio((real / fake).log()[samples]) == pytest.approx(known)
    assert tv_from_ratio(torch.zeros(5)) == 0
    assert tv_from_ratio(torch.full((5,), -torch.inf)) == 1  # disjoint


def test_two_gaussians_have_the_known_distance() -> None:
    known = math.erf(0.5 / math.sqrt(2))  # 2 Phi(1/2) - 1, means 1 apart
    real, fake = normal(4000, 1.0, "real"), normal(4000, 0.0, "fake")
    assert tv_from_ratio(fake - 0.5) == pytest.approx(known, abs=0.02)  # log r(x) = x - 1/2
    found = tv_from_threshold(real, fake, 0)
    assert found.value == pytest.approx(known, abs=0.03)
    assert found.low < known < found.high
    assert 0.02 < found.high - found.low < 0.08  # two proportions of 4000 each: +-1.96 sqrt(2 * .21 / 4000) = +-.02


def test_a_threshold_finds_nothing_between_equal_laws_and_all_between_disjoint_ones() -> None:
    same = [tv_from_threshold(normal(60, 0, f"a{n}"), normal(60, 0, f"b{n}"), n, 8).value for n in range(40)]
    # Found and measured on the same samples it would be near 0.16, the mean of Kolmogorov's statistic.
    assert sum(same) / len(same) < 0.07
    apart = tv_from_threshold(torch.arange(20.0) + 100, torch.arange(20.0), 0)
    assert (apart.value, apart.high) == pytest.approx((1, 1))
    assert apart.low > 0.99
    assert tv_from_threshold(torch.arange(20.0), torch.arange(20.0) + 100, 0).value == 0  # scores the wrong way round


def test_ties_fall_on_one_side_of_a_threshold() -> None:
    real, fake = torch.tensor([0.0, 1.0]).repeat(40), torch.zeros(80)
    assert tv_from_threshold(real, fake, 0).value == pytest.approx(0.5, abs=0.05)
    assert tv_from_threshold(torch.ones(40), torch.ones(40), 0).value == 0


def test_too_few_scores_or_a_nan_is_refused() -> None:
    with pytest.raises(DataError, match="at least 8 real and 8 generated .* got 7 and 9"):
        tv_from_threshold(torch.zeros(7), torch.zeros(9), 0)
    with pytest.raises(DataError, match="none of them NaN"):
        tv_from_threshold(torch.full((9,), torch.nan), torch.zeros(9), 0)


def test_a_perfect_teacher_never_disagrees() -> None:
    classes, values = torch.tensor([0, 1, 2, 1]), torch.tensor([-10.0, 0.0, 30.0])
    logits = 20 * torch.nn.functional.one_hot(classes, 3).float()
    assert label_distance(classes, CLASSES.predict(logits), CLASSES).tolist() == [0, 0, 0, 0]
    assert label_distance(logits.softmax(1), classes, CLASSES).max() < 1e-6
    assert label_distance(values, values, ANGLES).tolist() == [0, 0, 0]


def test_label_distance_is_total_variation_or_a_share_of_the_range() -> None:
    labels, soft = torch.tensor([0, 1]), torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]])
    assert label_distance(labels, torch.tensor([0, 2]), CLASSES).tolist() == [0, 1]
    assert label_distance(labels, soft, CLASSES).tolist() == pytest.approx([0.3, 0.5])
    assert label_distance(soft, labels, CLASSES).tolist() == pytest.approx([0.3, 0.5])
    far = label_distance(torch.tensor([-10.0, 0.0]), torch.tensor([10.0, 900.0]), ANGLES)
    assert far.tolist() == pytest.approx([0.5, 0.75])  # 900 is clipped to 30


def test_group_log_ratio_counts_and_stays_finite() -> None:
    real, fake = torch.tensor([0] * 19 + [1] * 9), torch.tensor([0] * 9 + [1] * 19)
    expected = [math.log(2), -math.log(2), 0.0]
    assert group_log_ratio(real, fake, 3).tolist() == pytest.approx(expected)


def test_without_generated_images_it_is_the_plain_generalisation_bound() -> None:
    rate, delta = 4 * 0.7 + deviation_rate(0.05), 0.05  # Rad = 0.7 / sqrt(n), B = 1
    plain = 4 * 0.7 / math.sqrt(200) + 2 * math.sqrt(math.log(2 / delta) / (2 * 200))
    for share in (None, 0.5):
        assert Bound(num_real=200, tv=0.9, rate=rate, share=share).at(0) == pytest.approx(plain)
    with_fakes = Bound(num_real=200, tv=0.3, rate=rate).at(600)
    assert with_fakes == pytest.approx(2 * 0.75 * 0.3 + rate / math.sqrt(800))
    with pytest.raises(ConfigError, match="delta must lie in"):
        deviation_rate(1.0)


def test_the_pooled_share_makes_the_sample_count_most() -> None:
    pooled, given = Bound(num_real=100, tv=0.2, rate=3.0), Bound(num_real=100, tv=0.2, rate=3.0, share=0.75)
    assert given.at(300) == pytest.approx(pooled.at(300))  # 300 / 400
    assert all(given.estimation(count) > pooled.estimation(count) for count in (50, 200, 400, 2000))


def test_monotone_in_distance_in_images_and_in_rate() -> None:
    base: Callable[..., Bound] = lambda **changes: Bound(**{"num_real": 300, "tv": 0.2, "rate": 2.0, **changes})  # noqa: E731
    for count in (10, 300, 5000):
        assert base().at(count) < base(tv=0.3).at(count)
        assert base().at(count) < base(rate=3.0).at(count)
        assert base().at(count) > base(num_real=600).at(count)
    falling = [base(share=0.5).at(count) for count in (1, 10, 100, 1000, 10**6)]
    assert falling == sorted(falling, reverse=True)  # a share that stays: more images can only help
    free = [base(tv=0.0).at(count) for count in (0, 1, 10, 100, 1000)]
    assert free == sorted(free, reverse=True)  # and so they do where they are real


@pytest.mark.parametrize(("tv", "rate"), [(0.05, 2.0), (0.11, 2.0), (0.04, 1.0), (0.3, 2.0), (0.029, 1.0)])
def test_the_pooled_bound_has_a_hump_and_its_optimum_at_an_end(tv: float, rate: float) -> None:
    bound = Bound(num_real=300, tv=tv, rate=rate)
    counts = [0, *range(1, 400_000, 7)]
    values = [bound.at(count) for count in counts]
    top = counts[values.index(max(values))]
    assert top == pytest.approx(bound.worst_count, abs=8)
    least = counts[values.index(min(values))]
    assert least in (0, counts[-1])
    assert bound.best_count(counts[-1]) == least
    below = next((count for count, value in zip(counts, values, strict=True) if count and value < values[0]), math.inf)
    assert below == pytest.approx(bound.break_even, abs=8)
    # Far out only the distance is left, so that M -> inf pays exactly where N is below `pays_below`.
    assert (bound.at(1e14) < bound.at(0)) == (bound.num_real < bound.pays_below)


def test_no_distance_always_pays_and_no_rate_never() -> None:
    free, exact = Bound(num_real=300, tv=0.0, rate=2.0), Bound(num_real=300, tv=0.1, rate=0.0)
    assert (free.worst_count, free.break_even, free.pays_below, free.best_count(50)) == (0, 0, math.inf, 50)
    assert (exact.worst_count, exact.break_even, exact.pays_below, exact.best_count(50)) == (math.inf, math.inf, 0, 0)
    assert free.best_share(900) == pytest.approx(0.75)  # all pairs alike
    assert exact.best_share(900) == 0


@pytest.mark.parametrize(("num_real", "count"), [(50, 20), (50, 100), (50, 5000), (600, 5000)])
def test_best_share_is_that_of_a_search(num_real: int, count: int) -> None:
    bound = Bound(num_real=num_real, tv=0.05, rate=2.0)  # pays below 400
    shares = [step / 20_000 for step in range(20_001)]
    values = [Bound(num_real=num_real, tv=0.05, rate=2.0, share=share).at(count) for share in shares]
    assert bound.best_share(count) == pytest.approx(shares[values.index(min(values))], abs=1e-3)
    assert (bound.best_share(count) == 0) == (num_real > bound.pays_below)


def test_fit_rate_recovers_a_curve_and_stays_non_negative() -> None:
    sizes = [75, 150, 300]
    assert fit_rate(sizes, [0.04 + 1.5 / math.sqrt(size) for size in sizes]) == pytest.approx((0.04, 1.5))
    floor, rate = fit_rate(sizes, [2 / math.sqrt(size) - 0.05 for size in sizes])
    assert floor == 0
    assert rate > 0
    assert fit_rate(sizes, [0.1, 0.2, 0.3]) == pytest.approx((0.2, 0.0))  # more images, more errors: no rate
    with pytest.raises(ConfigError, match="at least two sizes"):
        fit_rate([75, 75], [0.1, 0.2])


@pytest.mark.parametrize("share", [None, 0.5])
def test_fit_tv_recovers_the_distance(share: float | None) -> None:
    bound = Bound(num_real=300, tv=0.07, rate=1.5, floor=0.04, share=share)
    counts = [0, 100, 1000, 3000]
    other = Bound(num_real=300, tv=0.5, rate=1.5, floor=0.04, share=share)
    assert fit_tv(other, counts, [bound.at(count) for count in counts]) == pytest.approx(0.07)
    with pytest.raises(ConfigError, match="M > 0, got none"):
        fit_tv(bound, [0], [0.1])


def test_rank_correlation_of_few_or_constant_values_is_none() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 90]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert math.isnan(rank_correlation([1, 2], [1, 2]))
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))
