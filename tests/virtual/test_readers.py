"""Targets of sources: every choice against a slow reference, and what each source must be on average."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gankd.errors import ConfigError
from gankd.seeds import rng
from gankd.tasks import Classification, Regression
from gankd.virtual.gan import KnowledgeGan, VirtualConfig
from gankd.virtual.readers import SourceReader, Sources
from gankd.virtual.sources import Source
from gankd.virtual.teacher import Bank, Hints, VirtualTeacher

CLASSES = 5
TASK = Classification(num_classes=CLASSES)
VALUES = Regression(low=0, high=10)


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(60) % CLASSES


@pytest.fixture
def virtual(labels: Tensor) -> VirtualTeacher:
    """An untrained generator with some spread, class means, and stored outputs."""
    gan = KnowledgeGan(TASK, VirtualConfig(), seed=1)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(len(labels), CLASSES, generator=generator) * 2
    logits[torch.arange(len(labels)), labels] += 4
    means = torch.stack([(logits / 4).softmax(1)[labels == label].mean(0) for label in range(CLASSES)])
    return replace(VirtualTeacher.of(gan), means=means, bank=Bank(logits, labels))


def reader(
    text: str, virtual: VirtualTeacher | None, labels: Tensor, seed: int = 0, **settings: object
) -> SourceReader:
    return SourceReader(Source(text, tuple(settings.items())), virtual, TASK, labels, seed)


def student(count: int) -> Tensor:
    return torch.randn(count, CLASSES, generator=torch.Generator().manual_seed(5))


# --- noise --------------------------------------------------------------------------------------------------


def test_draws_of_a_step_depend_on_it_alone(virtual: VirtualTeacher, labels: Tensor) -> None:
    """Samples are equal whether made ahead in blocks or asked for after a resumption."""
    order = [torch.randperm(60, generator=rng(0, step))[:8] for step in range(64)]
    ahead = reader("virtual", virtual, labels)
    all_steps = [ahead(step, order[step], student(8), order.__getitem__) for step in range(40)]
    resumed = reader("virtual", virtual, labels)
    for step in (37, 5):
        assert torch.equal(resumed(step, order[step], student(8), order.__getitem__), all_steps[step])
    assert not torch.equal(all_steps[0], all_steps[1])
    other = reader("virtual", virtual, labels, seed=1)(5, order[5], student(8), order.__getitem__)
    assert not torch.equal(other, all_steps[5])


def test_fixed_noise_belongs_to_the_image_and_epoch_noise_to_the_pass(virtual: VirtualTeacher, labels: Tensor) -> None:
    index = torch.arange(30)
    fixed, epoch = (reader("virtual", virtual, labels, policy=name) for name in ("fixed", "epoch"))
    again = fixed(9, index.flip(0), student(30)).flip(0)
    assert torch.allclose(fixed(0, index, student(30)), again)
    assert torch.equal(epoch(0, index, student(30)), epoch(1, index, student(30)))  # 60 images: two steps a pass
    assert not torch.equal(epoch(1, index, student(30)), epoch(2, index, student(30)))


def test_no_noise_is_the_generator_at_zero(virtual: VirtualTeacher, labels: Tensor) -> None:
    index = torch.arange(7)
    zero = reader("virtual", virtual, labels, policy="zero")(3, index, student(7))
    assert torch.equal(zero, virtual.draw(labels[:7], torch.zeros(7, virtual.generator.z_dim)))


# --- means --------------------------------------------------------------------------------------------------


def test_several_draws_are_averaged_as_probabilities_at_the_temperature(
    virtual: VirtualTeacher, labels: Tensor
) -> None:
    index = torch.arange(6)
    several = reader("bank", virtual, labels, draws=3)
    singles = several._fresh(2, index, None)
    assert len(singles) == 3
    expected = (singles / 4).softmax(2).mean(0)
    torch.testing.assert_close((several(2, index, student(6)) / 4).softmax(1), expected)


def test_the_mean_of_the_bank_is_the_table(virtual: VirtualTeacher, labels: Tensor) -> None:
    index = torch.arange(CLASSES).repeat(4000)
    drawn = (reader("bank", virtual, labels)(0, index, torch.empty(0)) / 4).softmax(1)
    table = (reader("table", virtual, labels)(0, torch.arange(CLASSES), torch.empty(0)) / 4).softmax(1)
    torch.testing.assert_close(table, virtual.means)
    mean = drawn.view(4000, CLASSES, CLASSES).mean(0)
    assert (mean - table).abs().max() < 0.01  # five standard errors


def test_the_gaussian_has_the_moments_of_the_logits(virtual: VirtualTeacher, labels: Tensor) -> None:
    """Equal in mean and covariance at full rank, and in every variance at rank 1."""
    assert virtual.bank is not None
    centred = virtual.bank.logits - virtual.bank.logits.mean(1, keepdim=True)
    index = torch.full((40_000,), 2)  # an image of class 2
    for rank in (CLASSES, 1):
        drawn = reader("gauss", virtual, labels, rank=rank)(0, index, torch.empty(0))
        own = centred[labels == 2]
        torch.testing.assert_close(drawn.mean(0), own.mean(0), atol=0.06, rtol=0)
        cov, expected = torch.cov(drawn.T), torch.cov(own.T)
        if rank == 1:
            cov, expected = cov.diag(), expected.diag()
        torch.testing.assert_close(cov, expected, atol=0.2, rtol=0)


# --- choices ------------------------------------------------------------------------------------------------


def test_best_is_the_draw_nearest_to_the_student(virtual: VirtualTeacher, labels: Tensor) -> None:
    """Reference in loops; with the two sides of the divergence exchanged it chooses others."""
    index, outputs = torch.arange(40), student(40) * 3
    source = reader("bank", virtual, labels, draws=6, policy="best")
    draws, chosen = source._fresh(1, index, None), source(1, index, outputs)
    other = 0
    for row in range(40):
        p = (outputs[row] / 4).softmax(0)
        distances, reverse = [], []
        for draw in draws[:, row]:
            q = (draw / 4).softmax(0)
            distances.append(sum(float(a * math.log(a / b)) for a, b in zip(q, p, strict=True)))
            reverse.append(sum(float(b * math.log(b / a)) for a, b in zip(q, p, strict=True)))
        assert torch.equal(chosen[row], draws[distances.index(min(distances)), row])
        other += distances.index(min(distances)) != reverse.index(min(reverse))
    assert other > 0


def test_rank_pairs_confident_draws_with_confident_images(virtual: VirtualTeacher, labels: Tensor) -> None:
    source = reader("bank", virtual, labels, draws=10, policy="rank")
    index = torch.arange(60)
    before = source(0, index, torch.zeros(60, CLASSES))  # nothing is known yet: the middle for all
    assert before.shape == (60, CLASSES)
    certainty = torch.linspace(-2, 6, 60)  # images in order, whatever their class
    outputs = torch.zeros(60, CLASSES)
    outputs[index, labels] = certainty
    for step in range(1, 8):
        source(step, index, outputs)
    draws, chosen = source._fresh(9, index, None), source(9, index, outputs)
    probability = (draws / 4).softmax(2)[:, index, labels]
    got = (chosen / 4).softmax(1)[index, labels]
    for row in range(60):
        place = 12 * (labels[row] == labels).nonzero()[:, 0].tolist().index(row) / 12  # 0 .. 11 within its class
        expected = probability[:, row].sort().values[int((place + 0.5) / 12 * 10)]
        assert got[row] == expected


def test_hints_choose_the_draw_most_like_the_teachers_output(virtual: VirtualTeacher, labels: Tensor) -> None:
    """Reference in loops; an image without a hint takes the first sample."""
    outputs = torch.randn(50, CLASSES, generator=rng(8)).softmax(1)
    hinted = replace(virtual, hints=Hints.of(outputs, labels[:50]))
    source = reader("virtual", hinted, labels, draws=7, policy="hint")
    draws, chosen = source._fresh(3, torch.arange(60), None), source(3, torch.arange(60), student(60))
    agreed = 0
    for row in range(50):
        label = int(labels[row])
        of_class = [float(outputs[other, label]) for other in range(50) if labels[other] == label]
        quantile = (sorted(of_class).index(float(outputs[row, label])) + 0.5) / len(of_class)
        runner_up = max((k for k in range(CLASSES) if k != label), key=lambda k: float(outputs[row, k]))
        own = [float((draw / 4).softmax(0)[label]) for draw in draws[:, row]]
        best = None
        for number, draw in enumerate(draws[:, row]):
            second = max((k for k in range(CLASSES) if k != label), key=lambda k: float(draw[k]))
            place = (sum(other < own[number] for other in own) + 0.5) / 7
            cost = abs(place - quantile) + (second != runner_up)
            if best is None or cost < best[0] - 0.005:  # ranks are kept in steps of 1/255
                best = cost, number
        assert best is not None
        agreed += torch.equal(chosen[row], draws[best[1], row])
    assert agreed >= 48  # but for draws that lie equally near
    assert torch.equal(chosen[50:], draws[0, 50:])
    with pytest.raises(ConfigError, match="only the teacher's own run keeps hints of the training images"):
        reader("virtual", virtual, labels, draws=7, policy="hint")


def test_what_rank_remembers_is_in_the_checkpoint(virtual: VirtualTeacher, labels: Tensor) -> None:
    source, restored = (reader("virtual", virtual, labels, draws=4, policy="rank") for _ in range(2))
    for step in range(5):
        source(step, torch.arange(60), student(60))
    restored.load_state_dict(source.state_dict())
    assert torch.equal(source(5, torch.arange(60), student(60)), restored(5, torch.arange(60), student(60)))
    assert reader("virtual", virtual, labels).state_dict() == {}


def test_draws_that_disagree_with_the_label(virtual: VirtualTeacher, labels: Tensor) -> None:
    index = torch.arange(60)
    noisy = replace(virtual, bank=Bank(torch.randn(60, CLASSES, generator=rng(3)), labels))
    kept = reader("bank", noisy, labels)
    swapped = reader("bank", noisy, labels, agree="swap")(0, index, student(60))
    plain = kept(0, index, student(60))
    assert torch.equal(swapped.argmax(1), labels)
    assert torch.equal(swapped.sort(1).values, plain.sort(1).values)
    right = plain.argmax(1) == labels
    assert right.any()
    assert torch.equal(swapped[right], plain[right])
    rejecting = reader("bank", noisy, labels, agree="reject")
    draws, chosen = rejecting._fresh(0, index, None), rejecting(0, index, student(60))
    fell_back = 0
    for row in range(60):
        agreeing = [draw for draw in draws[:, row] if draw.argmax() == labels[row]]
        table = 4 * noisy.means[labels[row]].log()
        fell_back += not agreeing
        torch.testing.assert_close(chosen[row], agreeing[0] if agreeing else table)
    assert fell_back > 0


def test_shuffled_classes_keep_the_label_and_move_all_others_alike(virtual: VirtualTeacher, labels: Tensor) -> None:
    index = torch.arange(60)
    plain = reader("table", virtual, labels)(0, index, student(60))
    moved = reader("table", virtual, labels, shuffle=True)(0, index, student(60))
    assert torch.equal(moved[index, labels], plain[index, labels])
    assert torch.equal(moved.sort(1).values, plain.sort(1).values)
    assert not torch.equal(moved, plain)
    for label in range(CLASSES):
        rows = moved[labels == label]
        assert torch.equal(rows, rows[:1].expand_as(rows))


# --- made by hand -------------------------------------------------------------------------------------------


def test_label_smoothing_as_soft_as_the_table(virtual: VirtualTeacher, labels: Tensor) -> None:
    probs = (reader("smooth", virtual, labels)(0, torch.arange(CLASSES), torch.empty(0)) / 4).softmax(1)
    entropy = torch.special.entr(probs).sum(1)
    torch.testing.assert_close(entropy.mean(), torch.special.entr(virtual.means).sum(1).mean())
    others = probs[0, 1:]
    torch.testing.assert_close(others, others[:1].expand_as(others))


def test_hand_made_teachers_need_no_virtual_one(labels: Tensor) -> None:
    tf = reader("tf", None, labels, a=0.9)(0, torch.arange(CLASSES), torch.empty(0)).softmax(1)
    torch.testing.assert_close(tf.diag(), torch.full((CLASSES,), 0.9))
    torch.testing.assert_close(tf[0, 1], torch.tensor(0.1 / 4))
    smooth = reader("smooth", None, labels, epsilon=0.2)(0, torch.arange(CLASSES), torch.empty(0)).softmax(1)
    torch.testing.assert_close(smooth[0], torch.tensor([0.84, 0.04, 0.04, 0.04, 0.04]))


# --- values -------------------------------------------------------------------------------------------------


def test_stored_outputs_of_values_come_from_the_vicinity() -> None:
    gan = KnowledgeGan(VALUES, VirtualConfig(bins=6), seed=0)
    stored = torch.tensor([0.0, 0.5, 0.505, 0.9])
    bank = Bank(torch.eye(4, 6) * 9, stored)
    virtual = replace(VirtualTeacher.of(gan), bank=bank)
    labels = torch.tensor([0.5, 0.7, 0.01, 1.0])
    source = SourceReader(Source("bank"), virtual, VALUES, labels, 0)
    seen = [set[int]() for _ in labels]
    for step in range(50):
        for row, which in enumerate(source(step, torch.arange(4), torch.empty(0)).argmax(1).tolist()):
            seen[row].add(which)
    assert seen == [{1, 2}, {3}, {0}, {3}]  # two near 0.5; none near 0.7 or 1: the next above, or the last


def test_distributions_are_log_probabilities() -> None:
    virtual = VirtualTeacher.of(KnowledgeGan(VALUES, VirtualConfig(bins=6), seed=0))
    source = Source("virtual")
    labels = torch.rand(8, generator=rng(0))
    sources = Sources({source: {"teacher_distribution@virtual"}}, virtual, VALUES, labels, 0)
    found = sources(0, torch.arange(8), torch.rand(8))["teacher_distribution@virtual"]
    assert found.shape == (8, 6)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(8))


def test_the_teachers_own_outputs_are_taken_where_they_are_stored(virtual: VirtualTeacher, labels: Tensor) -> None:
    taking, not_taking = Source("table", (("stored", True),)), Source("table")
    wanted = {source: {f"teacher_logits@{source}"} for source in (taking, not_taking)}
    own = torch.full((2, CLASSES), 7.0, dtype=torch.float16)
    found = Sources(wanted, virtual, TASK, labels, 0)(0, torch.arange(4), student(4), None, (slice(2, None), own))
    with_stored, without = (found[f"teacher_logits@{source}"] for source in (taking, not_taking))
    assert torch.equal(with_stored[:2], without[:2])
    assert torch.equal(with_stored[2:], own.float())
    assert not torch.equal(without[2:], own.float())


# --- refusals -----------------------------------------------------------------------------------------------


def test_what_a_source_needs(virtual: VirtualTeacher, labels: Tensor) -> None:
    with pytest.raises(ConfigError, match="@virtual needs a virtual teacher"):
        reader("virtual", None, labels)
    with pytest.raises(ConfigError, match="@bank needs stored outputs"):
        reader("bank", replace(virtual, bank=None), labels)
    values = VirtualTeacher.of(KnowledgeGan(VALUES, VirtualConfig(bins=6), seed=0))
    for name, settings in (("gauss", {}), ("tf", {}), ("virtual", {"draws": 4, "policy": "rank"})):
        with pytest.raises(ConfigError, match="is for classes, the labels are values"):
            SourceReader(
                Source(name, tuple(settings.items())),
                replace(values, bank=Bank(torch.zeros(2, 6), torch.tensor([0.0, 1.0]))),
                VALUES,
                torch.rand(4),
                0,
            )
