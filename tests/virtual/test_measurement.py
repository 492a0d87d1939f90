"""Gates: floors in expectation, passes, the gates that each error misses, and failures that trip their rule."""

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
from gankd.virtual.distances import class_distances, over_splits
from gankd.virtual.gan import KnowledgeGan, VirtualConfig, label_means
from gankd.virtual.gates import Gate, Gates
from gankd.virtual.groups import Groups
from gankd.virtual.measurement import measure, rank_bound

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


# --- halves -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "tolerance"), [(6, 0.2), (40, 0.1)])
def test_draws_of_the_teachers_law_have_their_floor_as_expectation(count: int, tolerance: float) -> None:
    """Both use half the sample size; compared with all outputs, samples would look up to twice too good."""
    labels = classes_of(count)
    sums = {name: [0.0, 0.0] for name in ("mean", "cov", "wrong", "energy", "peak")}
    groups = Groups(labels, 8, 8)
    for seed in range(12):
        p, q = (teacher(labels, 2 * seed + side).double() for side in (0, 1))
        found = over_splits(groups, p, q, None, None, distances=class_distances, seed=seed)
        for name, (draws, floor) in sums.items():
            sums[name] = [draws + found["samples"][name], floor + found["floor"][name]]
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
    """Probabilities of wrong classes, each moved to the next wrong class."""
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
    assert rank_bound(floor) == pytest.approx(bound)


# --- failures -----------------------------------------------------------------------------------------------


def broken_generator(blind_to: str) -> Tensor:
    """T9: samples of a generator that begins at the teacher's means and ignores the label, or the noise."""
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


def test_a_discriminator_that_may_have_memorised_few_outputs_trips_f8() -> None:
    labels = classes_of(20)
    p, q = teacher(labels, 1), teacher(labels, 2)
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
