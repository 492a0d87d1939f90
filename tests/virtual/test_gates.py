"""Distances against slow references and closed forms, floors in expectation, failures that trip their detector."""

import json
import math
from collections.abc import Callable

import pytest
import scipy.stats
import torch
from torch import Tensor

from gankd.errors import DataError
from gankd.seeds import rng
from gankd.tasks import Classification
from gankd.virtual import gates
from gankd.virtual.gan import KnowledgeGan, VirtualConfig, label_means
from gankd.virtual.gates import Gate, Gates, entropy_drift, measure

NAMES = ("mean", "spread", "covariance", "rank", "wrong", "energy", "label", "peak", "c2st")
VALUE_NAMES = ("mean", "value", "spread", "pit", "crps", "energy", "label", "c2st")


def teacher(labels: Tensor, seed: int, classes: int = 8, spread: float = 1.0) -> Tensor:
    """Softened outputs (N, C): a mean logit for each class and correlated noise about it."""
    random = rng(0, "classes")
    means = 1.5 * torch.randn(classes, classes, generator=random) + 4 * torch.eye(classes)
    mixing = torch.randn(classes, 3, generator=random)
    noise = torch.randn(len(labels), 3, generator=rng(seed, "images")) @ mixing.T
    return (means[labels] + spread * noise).softmax(1)


def histograms(labels: Tensor, seed: int, spread: float = 1.0, bias: float = 0.0, bins: int = 20) -> Tensor:
    """Distributions (N, K) over values, whose means scatter about the label."""
    random = rng(seed, "images")
    centre = labels + bias + spread * 0.06 * torch.randn(len(labels), generator=random)
    width = 0.05 + 0.05 * torch.rand(len(labels), generator=random)
    centres = (torch.arange(bins) + 0.5) / bins
    return (-0.5 * ((centres - centre[:, None]) / width[:, None]).square()).softmax(1)


def classes_of(count: int, classes: int = 8) -> Tensor:
    return torch.arange(classes).repeat_interleave(count)


def values_of(count: int) -> Tensor:
    return torch.rand(count, generator=rng(0, "values"))


def gate(found: Gates, name: str) -> Gate:
    return next(one for one in found.gates if one.name == name)


def codes(found: Gates) -> set[str]:
    return {one.code for one in found.warnings}


# --- distances of samples -----------------------------------------------------------------------------------


def samples() -> tuple[Tensor, Tensor, Tensor]:
    """Two groups, of five and of three samples on each side; padded, with weights."""
    a, b = (torch.rand(2, 5, 4, generator=rng(n, "x"), dtype=torch.float64) for n in (0, 1))
    weight = torch.tensor([[0.2] * 5, [1 / 3] * 3 + [0.0] * 2], dtype=torch.float64)
    return a, b, weight


def test_energy_distance_against_loops() -> None:
    a, b, weight = samples()

    def mean_distance(x: Tensor, y: Tensor) -> float:
        return sum(math.dist(s, t) for s in x.tolist() for t in y.tolist()) / len(x) / len(y)

    for group, size in enumerate((5, 3)):
        x, y = a[group, :size], b[group, :size]
        expected = 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)
        assert gates._energy_distance(a, b, weight)[group].item() == pytest.approx(expected)
    torch.testing.assert_close(gates._energy_distance(a, a, weight), torch.zeros(2).double(), atol=1e-7, rtol=0)


def test_spread_is_compared_as_covariances_are() -> None:
    a, b, weight = samples()
    gap, size, log_ratio = gates._compare_spread(a, b, weight)
    for group, count in enumerate((5, 3)):
        x, y = torch.cov(a[group, :count].T), torch.cov(b[group, :count].T)
        torch.testing.assert_close(gap[group], (x - y).norm())
        torch.testing.assert_close(size[group], x.norm())
        torch.testing.assert_close(log_ratio[group], (y.trace() / x.trace()).sqrt().log(), rtol=1e-6, atol=1e-7)


def test_rank_correlation_is_spearmans_with_ties() -> None:
    a = torch.tensor([[0.1, 0.4, 0.4, 0.05, 0.05], [0.5, 0.1, 0.2, 0.15, 0.05]])
    b = torch.tensor([[0.2, 0.3, 0.1, 0.2, 0.2], [0.6, 0.1, 0.2, 0.06, 0.04]])
    found = gates._rank_correlation(a, b)
    for group in range(2):
        assert found[group].item() == pytest.approx(scipy.stats.spearmanr(a[group], b[group]).statistic)
    flat = torch.full((2, 5), 0.2)
    assert gates._rank_correlation(flat, flat).tolist() == [1, 1]  # no order to lose
    assert gates._rank_correlation(a, flat).tolist() == [0, 0]


def test_wasserstein_against_scipy() -> None:
    a, b, weight = samples()
    found = gates._wasserstein(a[..., 0], b[..., 0], weight)
    for group, size in enumerate((5, 3)):
        expected = scipy.stats.wasserstein_distance(a[group, :size, 0], b[group, :size, 0])
        assert found[group].item() == pytest.approx(expected)


def test_likeliest_wrong_classes_by_hand() -> None:
    probs = torch.tensor([[[0.6, 0.1, 0.25, 0.05], [0.2, 0.5, 0.2, 0.1]]]).repeat(2, 1, 1)
    wrong = gates._wrong(probs, torch.tensor([0, 2]))  # columns 1 2 3, and 3 0 1
    torch.testing.assert_close(wrong[0], torch.tensor([[0.1, 0.25, 0.05], [0.5, 0.2, 0.1]]))
    torch.testing.assert_close(wrong[1], torch.tensor([[0.05, 0.6, 0.1], [0.1, 0.2, 0.5]]))
    share = gates._likeliest(wrong, torch.full((2, 2), 0.5))
    torch.testing.assert_close(share, torch.tensor([[0.5, 0.5, 0], [0, 0.5, 0.5]]))


def test_place_among_draws_by_hand() -> None:
    draws = torch.arange(20, dtype=torch.float64)[None]
    weight = torch.full((1, 20), 0.05, dtype=torch.float64)
    even = gates._cells(draws, draws, weight)  # each falls in the middle of its own step
    torch.testing.assert_close(even, torch.full((1, 10), 0.1).double())
    above = gates._cells(draws + 100, draws, weight)
    torch.testing.assert_close(above, torch.tensor([[0.0] * 9 + [1.0]]).double())


def test_crps_of_normal_draws_is_the_closed_form() -> None:
    """sigma / sqrt(pi) for draws of the teacher's law, sigma sqrt(2 / pi) for its mean alone."""
    labels, bins = torch.full((1, 1500), 0.5, dtype=torch.float64), 200
    centres = (torch.arange(bins).double() + 0.5) / bins

    def normal(seed: int) -> Tensor:
        value = 0.5 + 0.1 * torch.randn(1, 1500, generator=rng(seed), dtype=torch.float64)
        low = ((value - centres[0]) * bins).floor()
        share = (value - centres[0]) * bins - low
        near = torch.arange(bins) - low[..., None]
        probs = torch.where(near == 0, 1 - share[..., None], torch.where(near == 1, share[..., None], 0.0))
        return torch.cat([probs, labels[..., None]], 2)

    weight = torch.full((1, 1500), 1 / 1500, dtype=torch.float64)
    found = gates._value_distances(normal(1), normal(2), weight, torch.zeros(1))
    assert found["crps"].item() == pytest.approx(0.1 / math.sqrt(math.pi), rel=0.05)
    assert found["table"].item() == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.05)


def test_share_that_the_label_explains() -> None:
    labels = classes_of(4, 500)
    noise = torch.randn(2000, 3, generator=rng(0, "x"), dtype=torch.float64)
    groups = gates._Groups(labels, 500, 3)
    assert groups.label_share(noise)[1] == pytest.approx(0, abs=0.03)  # the plain ratio would be 1/4
    means = torch.randn(500, 3, generator=rng(0, "m"), dtype=torch.float64)[labels]
    between, share = groups.label_share(noise + means)
    assert between == pytest.approx(3, rel=0.1)
    assert share == pytest.approx(0.5, abs=0.03)
    assert groups.label_share(means)[1] == pytest.approx(1)


# --- halves -------------------------------------------------------------------------------------------------


def test_halves_are_disjoint_of_one_size_and_of_the_right_group() -> None:
    labels = torch.tensor([3, 0, 0, 1, 1, 1, 1, 1, 3, 3, 0, 0, 0, 3, 3])  # five, five, none and five; class 4 of none
    labels = torch.cat([labels, torch.tensor([2, 2, 2]), torch.full((600,), 4)])
    groups = gates._Groups(labels, 6, 7)
    assert groups.kept.tolist() == [True, True, False, True, True, False]
    a, b, weight = groups.split(0, 0)
    assert a.shape == b.shape == weight.shape == (4, 128)
    for row, label in enumerate((0, 1, 3, 4)):
        there = weight[row] > 0
        size = 128 if label == 4 else 2
        assert there.sum() == size
        torch.testing.assert_close(weight[row][there], torch.full((size,), 1 / size, dtype=torch.float64))
        rows = torch.cat([a[row][there], b[row][there]])
        assert len(rows.unique()) == 2 * size
        assert (labels[rows] == label).all()
    assert not torch.equal(a, groups.split(1, 0)[0])


@pytest.mark.parametrize(("count", "tolerance"), [(6, 0.2), (40, 0.1)])
def test_draws_of_the_teachers_law_have_their_floor_as_expectation(count: int, tolerance: float) -> None:
    """Each at half the sample size: against all outputs the draws would come out up to twice too good."""
    labels = classes_of(count)
    sums = {name: [0.0, 0.0] for name in ("mean", "cov", "wrong", "energy", "peak")}
    groups = gates._Groups(labels, 8, 8)
    for seed in range(12):
        p, q = (teacher(labels, 2 * seed + side).double() for side in (0, 1))
        found = gates._over_splits(groups, p, q, None, None, distances=gates._class_distances, seed=seed)
        for name, (draws, floor) in sums.items():
            sums[name] = [draws + found["draws"][name], floor + found["floor"][name]]
    for name, (draws, floor) in sums.items():
        assert draws / floor == pytest.approx(1, abs=tolerance), name


# --- gates --------------------------------------------------------------------------------------------------


def test_draws_of_the_teachers_law_pass_for_classes() -> None:
    labels = classes_of(60)
    found = measure(teacher(labels, 1), teacher(labels, 3), labels)
    assert tuple(one.name for one in found.gates) == NAMES
    assert found.passed, found.table
    assert found.warnings == ()


def test_draws_of_the_teachers_law_pass_for_values() -> None:
    labels = values_of(800)
    found = measure(histograms(labels, 1), histograms(labels, 2), labels)
    assert tuple(one.name for one in found.gates) == VALUE_NAMES
    assert found.passed, found.table
    assert found.warnings == ()


BROKEN: dict[str, tuple[Callable[[Tensor], Tensor], set[str]]] = {
    "mean": (lambda y: 0.8 * teacher(y, 2) + 0.2 / 8, {"mean", "peak"}),
    "too narrow": (lambda y: teacher(y, 2, spread=0.5), {"spread", "covariance", "energy", "peak"}),
    "too wide": (lambda y: teacher(y, 2, spread=2.0), {"spread", "covariance", "label", "energy", "peak"}),
    "other order": (lambda y: _turned(teacher(y, 2), y), {"mean", "rank", "wrong", "energy"}),
}


def _turned(probs: Tensor, labels: Tensor) -> Tensor:
    """Probabilities of wrong classes handed on to the next wrong class."""
    place = torch.arange(8).expand(len(labels), -1)
    others = (labels[:, None] + 1 + torch.arange(7)) % 8
    return probs.scatter(1, others, probs.gather(1, others.roll(1, 1))).where(place != labels[:, None], probs)


@pytest.mark.parametrize("case", BROKEN)
def test_each_error_misses_its_gates(case: str) -> None:
    labels = classes_of(60)
    draw, missed = BROKEN[case]
    found = measure(teacher(labels, 1), draw(labels), labels)
    assert missed <= {one.name for one in found.gates if not one.passed}, found.table
    assert gate(found, "c2st").value > 0.6


def test_a_constant_for_each_label_is_what_a_table_draws() -> None:
    labels = classes_of(60)
    p = teacher(labels, 1)
    found = measure(p, label_means(p, labels, 8)[0][labels], labels)
    assert {"F1", "F4"} <= codes(found)
    assert "F3" not in codes(found)
    assert gate(found, "mean").passed
    assert gate(found, "spread").value < 0.01
    values = values_of(800)
    p = histograms(values, 1)
    centres = (torch.arange(20) + 0.5) / 20
    table = (-0.5 * ((centres - values[:, None]) / 0.1).square()).softmax(1)
    found = measure(p, table, values)
    assert {"spread", "pit", "crps", "energy", "c2st"} <= {one.name for one in found.gates if not one.passed}
    assert "F1" in codes(found)


def test_values_off_and_wide_miss_their_gates() -> None:
    labels = values_of(800)
    p = histograms(labels, 1)
    off = measure(p, histograms(labels, 2, bias=0.05), labels)
    assert {"value", "pit", "energy"} <= {one.name for one in off.gates if not one.passed}, off.table
    assert gate(off, "spread").passed
    wide = measure(p, histograms(labels, 2, spread=2), labels)
    assert gate(wide, "spread").value == pytest.approx(2, rel=0.15)
    assert codes(wide) == {"F9b"}


def test_order_of_rows_does_not_matter() -> None:
    labels = classes_of(30)
    p, q = teacher(labels, 1), teacher(labels, 2)
    order = torch.randperm(len(labels), generator=rng(5))
    one, other = measure(p, q, labels), measure(p[order], q[order], labels[order])
    assert gate(one, "spread").value == pytest.approx(gate(other, "spread").value, rel=1e-6)
    assert gate(one, "energy").value == pytest.approx(gate(other, "energy").value, rel=0.1)
    assert measure(p, q, labels).table == one.table  # and one seed gives one result


def test_few_outputs_give_numbers() -> None:
    labels = torch.cat([classes_of(2), torch.tensor([0, 0, 1, 1, 1])])[2:]  # two to five each
    found = measure(teacher(labels, 1), teacher(labels, 2), labels)
    for one in found.gates:
        assert math.isfinite(one.value), one.name
        assert math.isfinite(one.floor), one.name
    assert all(fact.isfinite().all() for fact in found.facts.values())
    with pytest.raises(DataError, match="no label has 4 outputs"):
        measure(teacher(classes_of(3), 1), teacher(classes_of(3), 2), classes_of(3))


def test_two_classes_and_outputs_without_spread() -> None:
    labels = classes_of(20, 2)
    sharp = torch.tensor([[0.9, 0.1], [0.2, 0.8]])[labels]
    found = measure(sharp, sharp, labels)
    assert found.passed, found.table
    assert gate(found, "rank").value == 1


def test_many_classes_are_few_seconds_of_work() -> None:
    labels = classes_of(6, 200)
    found = measure(teacher(labels, 1, 200), teacher(labels, 2, 200), labels)
    assert gate(found, "spread").passed
    assert found.facts["mean_p"].shape == (200, 200)


def test_facts_for_the_picture() -> None:
    labels = classes_of(20)
    p, q = teacher(labels, 1), teacher(labels, 2, spread=0.5)
    facts = measure(p, q, labels).facts
    torch.testing.assert_close(facts["mean_q"][3].float(), q[labels == 3].mean(0))
    torch.testing.assert_close(facts["sd_p"][3].float(), p[labels == 3].var(0).sum().sqrt())
    others = [0, 1, 2, 4, 5, 6, 7]
    rank = scipy.stats.spearmanr(facts["mean_p"][3][others], facts["mean_q"][3][others]).statistic
    assert facts["rank"][3].item() == pytest.approx(rank)
    labels = values_of(800)
    facts = measure(histograms(labels, 1), histograms(labels, 2), labels).facts
    assert facts["mean_p"].shape == (12, 20)
    torch.testing.assert_close(facts["value_q"][1:-1], (torch.arange(1, 11).double() + 0.5) / 12, atol=0.03, rtol=0)
    torch.testing.assert_close(facts["pit"], torch.full((10,), 0.1).double(), atol=0.05, rtol=0)


def test_table_and_plain_data() -> None:
    labels = classes_of(60)
    found = measure(teacher(labels, 1), teacher(labels, 2, spread=0.4), labels)
    assert max(map(len, found.table.splitlines())) <= 100
    assert "F1" in found.table
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["passed"] is False
    assert [one["name"] for one in plain["gates"]] == list(NAMES)
    assert plain["warnings"][0]["code"] == "F1"
    assert len(plain["facts"]["mean_p"]) == 8


@pytest.mark.parametrize(("floor", "bound"), [(1.0, 0.97), (0.99, 0.96), (0.97, 0.95), (0.95, 0.94), (0.8, 0.79)])
def test_bound_of_the_rank_correlation(floor: float, bound: float) -> None:
    """At least 0.95 and floor - 0.03, but never more than the teacher's own halves reach."""
    assert gates._rank_bound(floor) == pytest.approx(bound)


# --- failures -----------------------------------------------------------------------------------------------


def broken_generator(blind_to: str) -> Tensor:
    """T9: draws of a generator that begins at the teacher's means and has lost the label, or the noise."""
    labels = classes_of(60)
    p = teacher(labels, 1)
    gan = KnowledgeGan(Classification(num_classes=8), VirtualConfig(), 0)
    gan.set_means(*label_means(p, labels, 8))
    gan.start()
    gan.ema.last.weight.mul_(400)
    assert gan.ema.table is not None
    if blind_to == "label":
        gan.ema.table.rows.copy_(gan.ema.table.rows.mean(0).expand(8, -1))
        gan.ema.get_parameter("code.code.weight").zero_()
    else:
        gan.ema.get_parameter("hidden.0.weight")[:, : gan.ema.z_dim] = 0
    return gan.draw(labels, rng(0)).softmax(1)


def test_a_generator_blind_to_the_label_trips_f3() -> None:
    labels = classes_of(60)
    found = measure(teacher(labels, 1), broken_generator("label"), labels)
    assert {"F3", "F7"} <= codes(found)
    assert not {"F1", "F4"} & codes(found)


def test_a_generator_blind_to_the_noise_trips_f1_and_f4() -> None:
    labels = classes_of(60)
    found = measure(teacher(labels, 1), broken_generator("noise"), labels)
    assert {"F1", "F4"} <= codes(found)
    assert "F3" not in codes(found)
    narrow = codes(measure(teacher(labels, 1), teacher(labels, 2, spread=0.5), labels))
    assert "F1" in narrow
    assert "F4" not in narrow  # little is not nothing


def test_values_blind_to_the_label_trip_f3() -> None:
    labels = values_of(800)
    shuffled = labels[torch.randperm(800, generator=rng(1))]
    found = measure(histograms(labels, 1), histograms(shuffled, 2), labels)
    assert {"F3", "F9b"} == codes(found)


def test_too_sharp_draws_trip_f2_and_a_sharp_teacher_f6() -> None:
    labels = classes_of(60)
    p, q = teacher(labels, 1), teacher(labels, 2)
    assert "F2" in codes(measure(p, (3 * q.log()).softmax(1), labels))
    sharp = (8 * p.log()).softmax(1)
    assert sharp.amax(1).mean() > 0.9
    assert "F6" in codes(measure(sharp, sharp.roll(1, 0), labels))


def test_draws_like_the_teacher_of_earlier_epochs_trip_f5() -> None:
    labels = classes_of(60)
    now, before = teacher(labels, 1), (0.5 * teacher(labels, 1).log()).softmax(1)
    draws = (0.5 * teacher(labels, 2).log()).softmax(1)
    assert "F5" in codes(measure(now, draws, labels, earlier=before))
    assert "F5" not in codes(measure(before, draws, labels, earlier=now))
    assert "F5" not in codes(measure(now, draws, labels))


def test_wrong_labels_trip_f7() -> None:
    labels = classes_of(60)
    p, q = teacher(labels, 1), teacher(labels, 2)
    right = (p.argmax(1) == labels).float().mean().item()
    some = torch.arange(len(labels)) % 4 == 0
    q[some] = q[some].roll(1, 1)
    found = measure(p, q, labels)
    assert "F7" in codes(found)
    assert gate(found, "label").value == pytest.approx((q.argmax(1) == labels).float().mean().item() - right, abs=1e-6)


def test_a_discriminator_that_knows_its_outputs_by_heart_trips_f8() -> None:
    labels = classes_of(20)
    p, q = teacher(labels, 1), teacher(labels, 2)
    assert "F8" in codes(measure(p, q, labels, gap=0.3))
    assert "F8" not in codes(measure(p, q, labels, gap=0.05))
    assert "F8" in codes(measure(p, teacher(labels, 2, spread=0.2), labels))  # few outputs, and told apart
    assert "F8" not in codes(measure(p, q, labels))


def test_too_wide_draws_trip_f9b_and_not_f3() -> None:
    labels = classes_of(60)
    p, q = teacher(labels, 1), teacher(labels, 3)
    mean = label_means(p, labels, 8)[0][labels]
    wide = (mean + 1.5 * (q - mean)).clamp_min(1e-6)
    found = measure(p, wide / wide.sum(1, keepdim=True), labels)
    assert "F9b" in codes(found)
    assert "F3" not in codes(found)  # the label explains a smaller share, but as much as before


def test_an_oscillating_generator_trips_f10() -> None:
    labels = classes_of(60)
    p, q = teacher(labels, 1), teacher(labels, 2)
    assert "F10" in codes(measure(p, q, labels, raw=_turned(teacher(labels, 3), labels)))
    assert "F10" not in codes(measure(p, q, labels, raw=teacher(labels, 3)))


def test_entropy_that_grows_for_three_epochs_is_f9() -> None:
    found = entropy_drift([2.0, 1.0, 1.1, 1.2, 1.3])
    assert found is not None
    assert found.code == "F9"
    assert entropy_drift([1.0, 1.1, 1.2]) is None
    assert entropy_drift([1.0, 1.1, 1.2, 1.2]) is None
    assert entropy_drift([1.0, 1.1, 1.2, 1.3, 1.25]) is None
