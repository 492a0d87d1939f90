"""Generators of a student's own outputs: ramps, right rows, trust, half-life of the average."""

import math

import pytest
import torch

from gankd.losses.distillation.kd import kd_loss
from gankd.seeds import rng
from gankd.tasks import Classification
from gankd.virtual.losses.own_knowledge import (
    OwnKnowledge,
    learn_from,
    linear_ramp,
    repeated,
    sigmoid_ramp,
    trust,
)

CLASSES = Classification(num_classes=4)


def test_ramps_begin_and_end_where_they_say() -> None:
    assert [linear_ramp(p, 0.1) for p in (0.0, 0.1, 0.55, 1.0)] == pytest.approx([0, 0, 0.5, 1])
    assert linear_ramp(0.0, 0.0) == 0
    assert [sigmoid_ramp(p) for p in (0.0, 0.125, 0.25, 0.9)] == pytest.approx(
        [math.exp(-5), math.exp(-1.25), 1, 1]
    )  # flipping the sign in the exponent turns this red


def test_right_rows_come_in_order_and_over_again() -> None:
    right = torch.tensor([False, True, False, False, True, True, False])
    assert repeated(right).tolist() == [1, 4, 5, 1, 4, 5, 1]
    assert repeated(torch.ones(3, dtype=torch.bool)).tolist() == [0, 1, 2]
    assert repeated(torch.zeros(3, dtype=torch.bool)).tolist() == [0, 1, 2]  # none is right: all of them


def test_trust_is_for_peers_within_two_points() -> None:
    peers = torch.tensor([0.9, 0.79, 0.77])
    assert trust(peers, torch.tensor(0.8), True).tolist() == [1, 1, 0]  # a plus before the margin turns this red
    assert trust(peers, torch.tensor(0.8), False).tolist() == [1, 1, 1]


def test_the_mean_runs_over_trusted_peers() -> None:
    learner, *draws = torch.randn(4, 5, 4, generator=rng(0, "logits"))
    found = learn_from(draws, torch.tensor([1.0, 0.0, 1.0]), learner, 2.0)
    expected = (kd_loss(learner, draws[0], 2.0) + kd_loss(learner, draws[2], 2.0)) / 2
    torch.testing.assert_close(found, expected)
    assert learn_from(draws, torch.zeros(3), learner, 2.0).eq(0).all()


def test_what_is_learnt_are_right_outputs_and_accuracy_is_a_running_mean() -> None:
    torch.manual_seed(0)
    own = OwnKnowledge(CLASSES, 2.0, 1000)
    assert own.accuracy == 0
    labels = torch.tensor([0, 0, 1, 1])
    logits = torch.tensor([[5.0, 0, 0, 0], [0, 5.0, 0, 0], [0, 5.0, 0, 0], [0, 7.0, 0, 0]])
    own.observe(logits, labels)
    assert own.accuracy.item() == pytest.approx(0.75)
    own.gan._learn()  # what waits for the updates to come
    means = own.gan.means()
    torch.testing.assert_close(means[0], (logits[0] / 2).softmax(0))  # the wrong row of class 0 is left out
    torch.testing.assert_close(means[3], torch.full((4,), 0.25))
    own.observe(logits, torch.tensor([0, 1, 1, 1]))
    assert own.accuracy.item() == pytest.approx((0.75 * 0.99 + 1) / 1.99)
    # until the generator has begun, a draw is the class mean; at temperature 1, as a teacher's logits are
    drawn = own.draw(torch.tensor([0]), rng(0, "draw"))
    torch.testing.assert_close((drawn / 2).softmax(1), own.gan.means()[:1])


def test_the_average_has_a_half_life_of_a_quarter_of_a_pass() -> None:
    for images, steps in ((64_000, 125), (100, 20)):  # in steps of the generator: 64,000 / (4 x 32 x 4); at least 20
        own = OwnKnowledge(CLASSES, 4.0, images)
        own.observe(torch.zeros(32, 4), torch.zeros(32, dtype=torch.int64))
        assert own.gan.config.ema**steps == pytest.approx(0.5)


def test_draws_are_of_the_generator_once_it_has_begun() -> None:
    """Outputs differ in shape by class, and so do samples. Red if T is applied wrongly."""
    torch.manual_seed(0)
    own = OwnKnowledge(CLASSES, 4.0, 1000)
    centres = 6 * torch.eye(4) + 3 * torch.eye(4).roll(1, 0)
    for step in range(400):
        labels = torch.randint(4, (32,), generator=rng(step, "labels"))
        own.observe(centres[labels] + 0.5 * torch.randn(32, 4, generator=rng(step, "noise")), labels)
    assert own.gan.ready
    labels = torch.arange(4).repeat(200)
    drawn = (own.draw(labels, rng(0, "draw")) / 4).softmax(1).view(200, 4, 4)
    assert drawn.std(0).max() > 1e-3
    torch.testing.assert_close(drawn.mean(0), (centres / 4).softmax(1), atol=0.03, rtol=0)
