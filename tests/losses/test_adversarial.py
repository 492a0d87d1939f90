"""GAN losses against values by hand, their known optimum and symmetries; penalties against closed forms."""

import math
from typing import get_args

import pytest
import torch

from gankd.losses.adversarial import (
    GanLoss,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
)
from gankd.seeds import rng

KINDS: tuple[GanLoss, ...] = get_args(GanLoss)
LN3 = math.log(3.0)


def test_hinge_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.0, 3.0])
    # relu(1 - real) = 0, 1/2, 2 and relu(1 + fake) = 0, 1, 4
    assert discriminator_loss("hinge", real, fake).item() == pytest.approx(2.5 / 3 + 5 / 3)
    weights = torch.tensor([7.0, 0.5, 0.25]), torch.tensor([9.0, 0.5, 0.1])
    assert discriminator_loss("hinge", real, fake, *weights).item() == pytest.approx(0.75 / 3 + 0.9 / 3)
    assert generator_loss("hinge", fake).item() == pytest.approx(-1 / 3)


def test_logistic_by_hand() -> None:
    real, fake = torch.tensor([LN3, 0.0]), torch.tensor([LN3])
    # softplus(-ln 3) = ln 4/3, softplus(0) = ln 2, softplus(ln 3) = ln 4
    expected = (math.log(4 / 3) + math.log(2)) / 2 + math.log(4)
    assert discriminator_loss("logistic", real, fake).item() == pytest.approx(expected)
    assert generator_loss("logistic", fake).item() == pytest.approx(math.log(4 / 3))


def test_relativistic_by_hand() -> None:
    real, fake = torch.tensor([LN3, 5.0]), torch.tensor([0.0, 5.0 + LN3])
    expected = (math.log(4 / 3) + math.log(4)) / 2
    assert discriminator_loss("relativistic", real, fake).item() == pytest.approx(expected)
    weights = torch.tensor([0.5, 0.25]), torch.tensor([0.5, 1.0])
    expected = (0.25 * math.log(4 / 3) + 0.25 * math.log(4)) / 2
    assert discriminator_loss("relativistic", real, fake, *weights).item() == pytest.approx(expected)


def test_best_logistic_discriminator_is_the_log_density_ratio() -> None:
    real = torch.tensor([0, 1, 1, 2, 2, 2, 3, 3, 3, 3])  # four points: p_real = .1 .2 .3 .4
    fake = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])  # and p_fake = .4 .3 .2 .1
    p_real, p_fake = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.4, 0.3, 0.2, 0.1])
    score = (p_real / p_fake).log().requires_grad_()
    least = discriminator_loss("logistic", score[real], score[fake])
    (gradient,) = torch.autograd.grad(least, score)
    torch.testing.assert_close(gradient, torch.zeros(4), atol=1e-6, rtol=0)
    middle = (p_real + p_fake) / 2
    jensen_shannon = (p_real * (p_real / middle).log() + p_fake * (p_fake / middle).log()).sum() / 2
    # Goodfellow et al. 2014, theorem 1
    torch.testing.assert_close(least, 2 * math.log(2) - 2 * jensen_shannon)
    for nudge in 0.2 * torch.cat([torch.eye(4), -torch.eye(4)]):
        assert discriminator_loss("logistic", (score + nudge)[real], (score + nudge)[fake]) > least


def test_relativistic_loss_sees_differences_only_and_is_a_symmetric_game() -> None:
    real, fake = torch.randn(2, 50, generator=rng(0, "scores"))
    loss = discriminator_loss("relativistic", real, fake)
    torch.testing.assert_close(discriminator_loss("relativistic", real + 3, fake + 3), loss)
    torch.testing.assert_close(generator_loss("relativistic", real, fake), loss)  # the roles swapped
    same = discriminator_loss("relativistic", real, real)
    torch.testing.assert_close(same, torch.tensor(math.log(2)))


@pytest.mark.parametrize("kind", KINDS)
def test_each_player_pulls_its_way(kind: GanLoss) -> None:
    scores = torch.randn(2, 40, generator=rng(1, "scores")) / 4  # inside the hinge's margin
    real, fake = scores.requires_grad_().unbind()
    (by_discriminator,) = torch.autograd.grad(discriminator_loss(kind, real, fake), scores)
    (by_generator,) = torch.autograd.grad(generator_loss(kind, fake, real), scores)
    assert (by_discriminator[0] < 0).all()  # descent raises real scores ...
    assert (by_discriminator[1] > 0).all()  # ... and lowers fake ones
    assert (by_generator[1] < 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_scale_their_terms_and_ones_change_nothing(kind: GanLoss) -> None:
    real, fake = torch.randn(2, 30, generator=rng(2, "scores"))
    ones = torch.ones(30)
    plain = discriminator_loss(kind, real, fake)
    torch.testing.assert_close(discriminator_loss(kind, real, fake, ones, ones), plain)
    factor = 0.25 if kind == "relativistic" else 0.5  # a pair's weight is a product
    torch.testing.assert_close(discriminator_loss(kind, real, fake, ones / 2, ones / 2), factor * plain)
    # a sample of weight zero pulls on nothing
    real.requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator_loss(kind, real, fake, (real > 0).float(), ones), real)
    assert gradient[real <= 0].abs().max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_half_precision_scores_are_float32(kind: GanLoss) -> None:
    real, fake = torch.randn(2, 64, generator=rng(3, "scores")).bfloat16()
    loss = discriminator_loss(kind, real, fake, torch.ones(64).bfloat16(), None)
    torch.testing.assert_close(loss, discriminator_loss(kind, real.float(), fake.float()))
    torch.testing.assert_close(generator_loss(kind, fake, real), generator_loss(kind, fake.float(), real.float()))


def test_gradient_penalty_of_a_linear_discriminator() -> None:
    weight = torch.tensor([[[1.0, -2.0], [0.5, 3.0]]])
    images = torch.randn(6, 1, 2, 2, generator=rng(0, "images")).requires_grad_()
    penalty = gradient_penalty((images * weight).sum((1, 2, 3)) + 7, images)
    assert penalty.item() == pytest.approx((1 + 4 + 0.25 + 9) / 2)


def test_gradient_penalty_of_a_quadratic_discriminator_trains_it() -> None:
    images = torch.randn(8, 3, 4, 4, generator=rng(1, "images")).requires_grad_()
    curvature = torch.tensor(1.5, requires_grad=True)
    scores = curvature * images.flatten(1).square().sum(1) / 2  # gradient: curvature * image
    penalty = gradient_penalty(scores, images)
    size = images.detach().flatten(1).square().sum(1).mean()
    torch.testing.assert_close(penalty, 1.5**2 * size / 2)
    (pull,) = torch.autograd.grad(penalty, curvature)
    torch.testing.assert_close(pull, 1.5 * size)
