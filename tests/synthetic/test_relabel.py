import numpy as np
import pytest
import torch
from torch import Tensor

from gankd.errors import ConfigError, DataError
from gankd.synthetic.relabel import SMALL_REAL_GROUP, FilterRule, group_quantile, keep_most_consistent
from gankd.tasks import Classification, Regression


def scores(count: int, num_groups: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(num_groups, (count,), generator=generator)
    return torch.rand(count, generator=generator) * (1 + groups), groups


@pytest.mark.parametrize("level", [0.1, 0.35, 0.5, 0.7, 0.77, 0.9, 1.0])
def test_quantiles_are_those_of_numpy(level: float) -> None:
    values, groups = scores(300, 5)
    groups[groups == 2] = 4  # empty
    groups[0], groups[1:][groups[1:] == 3] = 3, 1  # a single sample
    quantiles = group_quantile(values.double(), groups, 5, level)
    for group in (0, 1, 3, 4):
        expected = np.quantile(values[groups == group].double().numpy(), level)
        assert quantiles[group].item() == expected
    assert quantiles[2].isnan()


@pytest.mark.parametrize("rho", [0.5, 0.7, 0.9])
def test_published_rule_keeps_rho_of_each_class_or_of_all(rho: float) -> None:
    values, groups = scores(6000, 3)
    per_class, _ = keep_most_consistent(values, groups, "published", rho, num_groups=3, per_class=True)
    for group in range(3):
        mine = groups == group
        assert abs(per_class[mine].sum().item() - rho * mine.sum().item()) <= 1
    overall, thresholds = keep_most_consistent(values, groups, "published", rho, num_groups=3, per_class=False)
    assert abs(overall.sum().item() - rho * 6000) <= 1
    assert (thresholds == thresholds[0]).all()
    # Scores grow with the group, so one threshold for all keeps more of the first and fewer of the last.
    shares = [overall[groups == group].double().mean().item() for group in range(3)]
    assert shares[0] > rho > shares[2]


def test_per_group_ignores_the_tasks_choice() -> None:
    values, groups = scores(1000, 4)
    mine, _ = keep_most_consistent(values, groups, "per_group", 0.6, num_groups=4, per_class=False)
    published, _ = keep_most_consistent(values, groups, "published", 0.6, num_groups=4, per_class=True)
    assert torch.equal(mine, published)


def test_global_ignores_it_too() -> None:
    """One threshold for all, whatever the task: an odd class loses more than its share."""
    values, groups = torch.arange(100.0), torch.arange(100) // 25
    mask, thresholds = keep_most_consistent(values, groups, "global", 0.6, num_groups=4, per_class=True)
    assert mask.tolist() == [value <= 59.4 for value in range(100)]  # numpy.quantile(0 .. 99, 0.6)
    assert thresholds.tolist() == pytest.approx([59.4] * 4)


def test_ties_with_the_threshold_are_kept() -> None:
    values = torch.tensor([0.0, 1, 1, 1, 1, 1, 1, 1, 1, 5])  # whole numbers, as floored ages give
    groups = torch.zeros(10, dtype=torch.int64)
    mask, thresholds = keep_most_consistent(values, groups, "published", 0.7, num_groups=1, per_class=False)
    assert thresholds.tolist() == [1.0]
    assert mask.sum() == 9
    third = torch.full((7,), 0.1)  # a value without exact binary form, interpolated with itself
    assert keep_most_consistent(third, groups[:7], "per_group", 0.9, num_groups=1, per_class=True)[0].all()


def test_real_calibrated_thresholds_come_from_real_data_alone() -> None:
    real, real_groups = scores(3000, 3, seed=1)
    generator = torch.Generator().manual_seed(2)
    groups = torch.arange(3000) % 3
    fake = torch.rand(3000, generator=generator) * (1 + groups)
    fake[groups == 2] *= 10  # a hopeless class
    mask, thresholds = keep_most_consistent(
        fake,
        groups,
        "real_calibrated",
        0.9,
        num_groups=3,
        per_class=True,
        real_disagreement=real,
        real_groups=real_groups,
    )
    for group in range(3):
        expected = np.quantile(real[real_groups == group].double().numpy(), 0.9)
        assert thresholds[group].item() == pytest.approx(expected)
    shares = [mask[groups == group].double().mean().item() for group in range(3)]
    assert shares == pytest.approx([0.9, 0.9, 0.09], abs=0.04)


def test_groups_with_few_real_samples_take_the_overall_threshold() -> None:
    real, real_groups = torch.arange(100.0), torch.zeros(100, dtype=torch.int64)
    real_groups[: SMALL_REAL_GROUP - 1] = 1
    values, groups = torch.zeros(3), torch.arange(3)
    _, thresholds = keep_most_consistent(
        values,
        groups,
        "real_calibrated",
        0.5,
        num_groups=3,
        per_class=True,
        real_disagreement=real,
        real_groups=real_groups,
    )
    assert thresholds[1] == thresholds[2] == 49.5
    assert thresholds[0] == (SMALL_REAL_GROUP - 1 + 99) / 2


def test_none_keeps_all() -> None:
    values, groups = scores(50, 2)
    values[3] = torch.inf
    mask, thresholds = keep_most_consistent(values, groups, "none", 0.5, num_groups=2, per_class=True)
    assert mask.all()
    assert thresholds.isposinf().all()


@pytest.mark.parametrize("rule", ["none", "published", "per_group"])
def test_no_fakes_are_no_trouble(rule: FilterRule) -> None:
    nothing, groups = torch.empty(0), torch.empty(0, dtype=torch.int64)
    mask, thresholds = keep_most_consistent(nothing, groups, rule, 0.5, num_groups=3, per_class=True)
    assert len(mask) == 0
    assert len(thresholds) == 3


def test_what_cannot_be_used_is_refused_in_one_line() -> None:
    values, groups = scores(10, 2)
    with pytest.raises(ConfigError, match="rho"):
        keep_most_consistent(values, groups, "published", 1.5, num_groups=2, per_class=True)
    with pytest.raises(ConfigError, match="held-out real"):
        keep_most_consistent(values, groups, "real_calibrated", 0.9, num_groups=2, per_class=True)
    with pytest.raises(ConfigError, match="filter must be"):
        keep_most_consistent(values, groups, "best", 0.9, num_groups=2, per_class=True)  # type: ignore[arg-type]
    values[0] = torch.nan
    with pytest.raises(DataError, match="1 of 10 generated images"):
        keep_most_consistent(values, groups, "published", 0.9, num_groups=2, per_class=True)


def test_histograms_count_classes_bins_and_probabilities() -> None:
    classes = Classification(num_classes=3)
    assert classes.counts(torch.tensor([0, 2, 2])) == [1, 0, 2]
    soft = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]])
    assert classes.counts(soft) == [0.5, 0.75, 0.75]
    angles = Regression(low=0, high=12)
    assert angles.counts(torch.tensor([0.5, 11.9, 12.0, -3.0])) == [2, *[0] * 10, 2]
