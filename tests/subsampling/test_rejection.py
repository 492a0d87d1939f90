import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from gankd.errors import ConfigError, DataError
from gankd.seeds import rng
from gankd.subsampling.rejection import SMALL_GROUP, accept, budgeted_acceptance, running_max_acceptance

P_REAL = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
P_FAKE = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)


def fakes(count: int) -> tuple[Tensor, Tensor]:
    """Points 0..3 as often as p_fake says, shuffled, with their true log-ratios."""
    points = torch.repeat_interleave(torch.arange(4), (P_FAKE * count).round().long())
    points = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))]
    return points, (P_REAL / P_FAKE).log()[points]


def one_group(values: Tensor) -> Tensor:
    return torch.zeros(len(values), dtype=torch.int64)


def random_pool(count: int, num_groups: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        3 * torch.randn(count, generator=generator),
        torch.randint(num_groups, (count,), generator=generator),
    )


@pytest.mark.parametrize("share", [0.05, 0.2, 0.25])
def test_below_one_over_the_largest_ratio_the_accepted_law_is_the_real_one(share: float) -> None:
    points, log_ratio = fakes(1000)
    chances = budgeted_acceptance(log_ratio, one_group(points), share)  # the largest ratio is 4
    law = torch.zeros(4, dtype=torch.float64).scatter_add(0, points, chances) / chances.sum()
    torch.testing.assert_close(law, P_REAL)


def test_accepted_samples_follow_the_real_law() -> None:
    points, log_ratio = fakes(40_000)
    kept = points[accept(budgeted_acceptance(log_ratio, one_group(points), 0.25), seed=3)]
    observed = kept.bincount(minlength=4).numpy()
    assert chisquare(observed, P_REAL.numpy() * observed.sum()).pvalue > 0.01
    assert chisquare(observed, P_FAKE.numpy() * observed.sum()).pvalue < 1e-6


def test_no_other_acceptance_of_the_same_share_comes_closer_to_the_real_law() -> None:
    real, fake = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5])
    points = torch.repeat_interleave(torch.arange(3), torch.tensor([200, 300, 500]))
    log_ratio = torch.tensor(np.log(real / fake))[points]
    grid = np.linspace(0, 1, 201)
    for share in (0.2, 0.4, 0.6, 0.8):
        chances = budgeted_acceptance(log_ratio, one_group(points), share).numpy()
        ours = np.array([chances[:200].mean(), chances[200:500].mean(), chances[500:].mean()])
        law = fake * ours / share
        best_tv, best_kl = np.inf, np.inf
        for first, second in itertools.product(grid, grid):
            third = (share - fake[0] * first - fake[1] * second) / fake[2]
            if 0 <= third <= 1:
                other = fake * np.array([first, second, third]) / share
                best_tv = min(best_tv, float(abs(other - real).sum() / 2))
                if (other > 0).all():
                    best_kl = min(best_kl, float((real * np.log(real / other)).sum()))
        assert abs(law - real).sum() / 2 <= best_tv + 1e-12
        assert (real * np.log(real / law)).sum() <= best_kl + 1e-12


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.97, 1.0])
def test_each_group_spends_exactly_its_budget_and_larger_ratios_are_kept_more_often(share: float) -> None:
    log_ratio, groups = random_pool(5000, 7)
    log_ratio[:50] = -torch.inf
    chances = budgeted_acceptance(log_ratio, groups, share)
    assert ((chances >= 0) & (chances <= 1)).all()
    for group in range(7):
        mine = groups == group
        assert chances[mine].mean().item() == pytest.approx(share, rel=1e-12)
        by_ratio = chances[mine][log_ratio[mine].argsort()]
        assert (by_ratio.diff() >= 0).all()


def test_share_one_keeps_all_and_equal_ratios_are_thinned_evenly() -> None:
    log_ratio, groups = random_pool(500, 3)
    assert (budgeted_acceptance(log_ratio, groups, 1.0) == 1).all()
    even = budgeted_acceptance(torch.full((500,), -2.5), groups, 0.3)
    torch.testing.assert_close(even, torch.full_like(even, 0.3))


def test_zero_ratios_are_used_last_and_evenly() -> None:
    nothing = budgeted_acceptance(torch.full((40,), -torch.inf), torch.zeros(40, dtype=torch.int64), 0.25)
    torch.testing.assert_close(nothing, torch.full_like(nothing, 0.25))
    some = torch.full((40,), -torch.inf)
    some[:10] = torch.linspace(-3, 3, 10)
    chances = budgeted_acceptance(some, one_group(some), 0.5)  # 20 wanted, 10 have a ratio above 0
    assert (chances[:10] == 1).all()
    torch.testing.assert_close(chances[10:], torch.full((30,), 1 / 3, dtype=torch.float64))


def test_a_groups_scale_does_not_matter() -> None:
    log_ratio, groups = random_pool(2000, 4)
    shifted = log_ratio + torch.tensor([0.0, 700.0, -700.0, 5.0], dtype=torch.float64)[groups]
    torch.testing.assert_close(budgeted_acceptance(shifted, groups, 0.4), budgeted_acceptance(log_ratio, groups, 0.4))


def test_small_groups_use_the_factor_of_all_samples() -> None:
    log_ratio, groups = random_pool(1000, 2)
    groups[: SMALL_GROUP - 1] = 2
    chances = budgeted_acceptance(log_ratio, groups, 0.4)
    together = budgeted_acceptance(log_ratio, torch.zeros_like(groups), 0.4)
    torch.testing.assert_close(chances[groups == 2], together[groups == 2])
    assert chances[groups == 1].mean().item() == pytest.approx(0.4)


def slow_running_max(ratio: list[float], groups: list[int], burn_in: int) -> list[float]:
    """Sample by sample, as the published algorithm states it."""
    largest: dict[int, float] = {}
    for group in set(groups):
        mine = [r for r, g in zip(ratio, groups, strict=True) if g == group]
        largest[group] = max(mine[:burn_in])
    chances = []
    for r, g in zip(ratio, groups, strict=True):
        largest[g] = max(largest[g], r)
        chances.append(r / largest[g] if largest[g] > 0 else 1.0)
    return chances


@pytest.mark.parametrize("burn_in", [1, 5, 10_000])
def test_running_maximum_equals_the_loop_over_samples(burn_in: int) -> None:
    log_ratio, groups = random_pool(400, 6)
    groups[groups == 4] = 5  # an empty group
    log_ratio[torch.randperm(400, generator=torch.Generator().manual_seed(2))[:60]] = -torch.inf
    log_ratio[groups == 3] = -torch.inf
    expected = slow_running_max(log_ratio.double().exp().tolist(), groups.tolist(), burn_in)
    chances = running_max_acceptance(log_ratio, groups, burn_in)
    torch.testing.assert_close(chances, torch.tensor(expected, dtype=torch.float64))


def test_running_maximum_with_equal_or_zero_ratios_keeps_all() -> None:
    groups = torch.arange(50) % 3
    assert (running_max_acceptance(torch.full((50,), 1.7), groups, 4) == 1).all()
    assert (running_max_acceptance(torch.full((50,), -torch.inf), groups, 4) == 1).all()


def test_cap_takes_the_price_from_one_outlier() -> None:
    log_ratio = torch.zeros(101)
    log_ratio[50] = 8.0
    groups = one_group(log_ratio)
    assert running_max_acceptance(log_ratio, groups, 101).mean() < 0.02
    assert (running_max_acceptance(log_ratio, groups, 101, cap_quantile=0.99) == 1).all()


def test_a_samples_random_number_depends_on_its_position_alone() -> None:
    chances = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    mask = accept(chances, seed=5)
    assert torch.equal(mask[:700], accept(chances[:700], seed=5))
    assert not torch.equal(mask, accept(chances, seed=6))
    assert accept(torch.ones(300), 0).all()
    assert not accept(torch.zeros(300), 0).any()
    assert accept(torch.full((20_000,), 0.3), 1).double().mean().item() == pytest.approx(0.3, abs=0.013)
    assert len(accept(torch.empty(0), 0)) == 0


def test_what_cannot_be_used_is_refused_in_one_line() -> None:
    values, groups = torch.zeros(3), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ConfigError, match="share"):
        budgeted_acceptance(values, groups, 0.0)
    with pytest.raises(DataError, match="1 of 3 log-ratios"):
        budgeted_acceptance(torch.tensor([0.0, float("nan"), 1.0]), groups, 0.5)
    with pytest.raises(DataError, match="1 of 3 log-ratios"):
        running_max_acceptance(torch.tensor([0.0, float("inf"), 1.0]), groups, 5)
    with pytest.raises(ConfigError, match="burn_in"):
        running_max_acceptance(values, groups, 0)
    assert len(budgeted_acceptance(values[:0], groups[:0], 0.5)) == 0


@pytest.mark.parametrize(("judged", "burn_in"), [(1, 3), (4, 3), (5, 2), (100, 1)])
def test_running_maximum_by_batches_against_the_published_loop(judged: int, burn_in: int) -> None:
    """The authors' loop: a maximum from the burn-in, raised by each whole batch before any of it is accepted."""
    generator = rng(0, "ratios")
    ratios = torch.rand(60, generator=generator, dtype=torch.float64).exp() ** 2
    groups = torch.randint(3, (60,), generator=generator)
    expected = torch.zeros(60, dtype=torch.float64)
    for group in range(3):
        rows = (groups == group).nonzero()[:, 0].tolist()
        highest = max(ratios[row].item() for row in rows[:burn_in])
        for start in range(burn_in, len(rows), judged):
            batch = rows[start : start + judged]
            highest = max(highest, *(ratios[row].item() for row in batch))
            for row in batch:
                expected[row] = ratios[row] / highest
    found = running_max_acceptance(ratios.log(), groups, burn_in, judged=judged, keep_burn_in=False)
    torch.testing.assert_close(found, expected)
