"""Vicinal draws against a plain per-sample reference, the vicinal losses against CcGAN's formulas."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import chisquare, kstest
from torch import Tensor

from gankd.errors import ConfigError, DataError
from gankd.losses.adversarial import discriminator_loss
from gankd.losses.vicinal import VicinalDraw, Vicinity, VicinityKind, kappa_base, sigma_rule_of_thumb
from gankd.seeds import rng

AGES = torch.arange(1, 61).repeat(3) / 60
KINDS: tuple[VicinityKind, ...] = ("hard", "soft")
LABELS = torch.tensor([0.30, 0.05, 0.90, 0.05, 0.62, 0.33, 0.05, 0.95, 0.70, 0.31])  # unsorted, with repeats


def test_rules_of_thumb_by_hand() -> None:
    labels = torch.tensor([0.3, 0.0, 0.1, 0.1], dtype=torch.float64)  # distinct {0, .1, .3}: largest gap .2
    assert kappa_base(labels) == pytest.approx(0.2)
    assert Vicinity.fit(labels, "hard", m=2.0).kappa == pytest.approx(0.4)
    assert Vicinity.fit(labels, "hard", m=2.0).radius == pytest.approx(0.4)
    assert Vicinity.fit(labels, "soft", m=2.0).nu == pytest.approx(6.25)
    # mean .125, mean square .0275, so variance .0275 - .015625
    assert sigma_rule_of_thumb(labels) == pytest.approx(1.06 * math.sqrt(0.011875) * 4**-0.2)


def test_rules_of_thumb_on_integer_ages_give_the_published_values() -> None:
    soft = Vicinity.fit(AGES, "soft", m=2.0)
    assert soft.nu == pytest.approx(900, rel=1e-5)  # UTKFace, Ding et al. 2023
    assert soft.radius == pytest.approx(0.08761, abs=1e-5)  # sqrt(ln(1000) / 900)
    assert Vicinity.fit(AGES, "soft", m=1.0).nu == pytest.approx(3600, rel=1e-5)
    assert Vicinity.fit(AGES, "soft", kappa=1 / 30).nu == pytest.approx(900)


def plain_check(labels: Tensor, vicinity: Vicinity, draw: VicinalDraw) -> None:
    """Section by section as in the paper, one sample at a time, from the unsorted labels."""
    slack = 1e-6  # the draw is float64 inside and float32 outside
    for target, index, real_weight, fake_label, fake_weight in zip(*(x.tolist() for x in draw), strict=True):
        distance = abs(labels[index].item() - target)
        if vicinity.kind == "hard":
            assert distance <= vicinity.kappa + slack
            assert abs(fake_label - target) <= vicinity.kappa + slack
            assert real_weight == fake_weight == 1
        else:
            nu = 1 / vicinity.kappa**2
            assert real_weight == pytest.approx(math.exp(-nu * distance**2), abs=1e-4)
            assert fake_weight == pytest.approx(math.exp(-nu * (fake_label - target) ** 2), abs=1e-4)
            assert min(real_weight, fake_weight) >= 1e-3 * (1 - 1e-3)
        assert 0 <= fake_label <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kappa", [0.05, 0.3])
def test_every_draw_lies_in_its_vicinity_and_carries_its_weight(kind: VicinityKind, kappa: float) -> None:
    vicinity = Vicinity.fit(LABELS, kind, sigma=0.1, kappa=kappa)
    draw = vicinity.draw(2000, rng(0, "draw"))
    plain_check(LABELS, vicinity, draw)
    assert [x.dtype for x in draw] == [torch.float32, torch.int64, *[torch.float32] * 3]


@pytest.mark.parametrize("kind", KINDS)
def test_windows_hold_exactly_the_labels_within_reach(kind: VicinityKind) -> None:
    labels = torch.rand(300, generator=rng(0, "labels"))
    vicinity = Vicinity.fit(labels, kind)
    targets = torch.linspace(-0.3, 1.3, 400, dtype=torch.float64)
    first, last = vicinity.window(targets)
    for target, start, stop in zip(targets.tolist(), first.tolist(), last.tolist(), strict=True):
        near = {i for i, y in enumerate(labels.tolist()) if abs(y - target) <= vicinity.radius}
        assert set(vicinity.order[start:stop].tolist()) == near


def test_a_hard_window_includes_its_edges() -> None:
    labels = torch.tensor([0.25, 0.5, 0.75])  # exact in binary
    first, last = Vicinity.fit(labels, "hard", m=1.0).window(torch.tensor([0.5], dtype=torch.float64))
    assert (first.item(), last.item()) == (0, 3)


def test_real_images_are_uniform_over_the_window() -> None:
    vicinity = Vicinity.fit(LABELS, "hard", sigma=0.0, kappa=0.29)
    draw = vicinity.draw(60_000, rng(1, "draw"))
    for target in vicinity.distinct.float():
        near = (LABELS - target).abs() <= 0.29 + 1e-7
        count = draw.real_index[draw.target == target].bincount(minlength=len(LABELS))
        assert (count[~near] == 0).all()
        assert chisquare(count[near].numpy()).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_fake_labels_are_uniform_over_the_window_within_the_label_range(kind: VicinityKind) -> None:
    vicinity = Vicinity.fit(LABELS, kind, sigma=0.0, kappa=0.2)
    draw = vicinity.draw(20_000, rng(2, "draw"))
    for target in vicinity.distinct.tolist():
        low, high = max(0.0, target - vicinity.radius), min(1.0, target + vicinity.radius)
        drawn = draw.fake_label[(draw.target - target).abs() < 1e-6]
        assert kstest(drawn.double().numpy(), "uniform", (low, high - low)).pvalue > 1e-3


def test_real_image_and_fake_label_are_drawn_independently() -> None:
    vicinity = Vicinity.fit(torch.linspace(0, 1, 101), "hard", sigma=0.05, kappa=0.2)
    draw = vicinity.draw(10_000, rng(10, "draw"))
    offsets = torch.stack([torch.linspace(0, 1, 101)[draw.real_index], draw.fake_label]) - draw.target
    inside = (draw.target > 0.2) & (draw.target < 0.8)
    assert abs(offsets[:, inside].corrcoef()[0, 1].item()) < 0.05


def test_targets_are_balanced_over_distinct_labels() -> None:
    labels = torch.cat([torch.full((900,), 0.2), torch.full((50,), 0.5), torch.full((50,), 0.8)])
    vicinity = Vicinity.fit(labels, "soft", sigma=0.0)
    of_discriminator = vicinity.draw(9000, rng(3, "draw")).target
    of_generator = vicinity.draw_targets(9000, rng(3, "targets"))
    for targets in (of_discriminator, of_generator):
        values, count = targets.unique(return_counts=True)
        torch.testing.assert_close(values, torch.tensor([0.2, 0.5, 0.8]))
        assert chisquare(count.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("draw_targets", [False, True])
def test_noise_on_targets_is_normal_with_sigma(draw_targets: bool) -> None:
    labels = torch.tensor([0.25, 0.75]).repeat(5)
    vicinity = Vicinity.fit(labels, "hard", sigma=0.05, kappa=1.0)  # no window is empty
    generator = rng(4, "draw")
    if draw_targets:
        targets = vicinity.draw_targets(5000, generator)
    else:
        targets = vicinity.draw(5000, generator).target
    noise = targets - labels[(targets[:, None] - labels).abs().argmin(1)]
    assert kstest(noise.double().numpy(), "norm", (0, 0.05)).pvalue > 1e-3


def test_targets_with_an_empty_window_get_new_noise_and_keep_their_label() -> None:
    labels = torch.tensor([0.1, 0.9])
    vicinity = Vicinity.fit(labels, "hard", sigma=0.1, kappa=0.02)  # 16 % of the noise falls within kappa
    draw = vicinity.draw(8000, rng(5, "draw"))
    plain_check(labels, vicinity, draw)
    assert chisquare(draw.real_index.bincount().numpy()).pvalue > 1e-3
    noise = (draw.target - labels[draw.real_index]).double().numpy()
    accepted = noise[noise != 0]  # 0.84^17 = 5 % end without noise
    assert 0.94 < len(accepted) / len(noise) < 0.96
    assert kstest(accepted, "uniform", (-0.02, 0.04)).statistic < 0.03  # near 0 the normal density is flat


def test_a_vicinity_too_narrow_for_the_noise_falls_back_to_the_labels_themselves() -> None:
    vicinity = Vicinity.fit(LABELS, "hard", sigma=0.3, kappa=1e-12)
    draw = vicinity.draw(4000, rng(6, "draw"))
    torch.testing.assert_close(draw.target, LABELS[draw.real_index], rtol=0, atol=1e-7)
    _, count = draw.target.unique(return_counts=True)
    assert len(count) == len(LABELS.unique())
    assert chisquare(count.numpy()).pvalue > 1e-3


def test_equal_generators_draw_alike() -> None:
    vicinity = Vicinity.fit(LABELS, "soft", sigma=0.3, kappa=0.01)
    for one, other in zip(vicinity.draw(99, rng(7, "d")), vicinity.draw(99, rng(7, "d")), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(vicinity.draw(99, rng(7, "d")).target, vicinity.draw(99, rng(8, "d")).target)


@pytest.mark.parametrize("labels", [torch.full((5,), 0.4), torch.tensor([0.4])])
@pytest.mark.parametrize("kappa", [None, 0.1])
def test_equal_labels_are_refused(labels: Tensor, kappa: float | None) -> None:
    with pytest.raises(DataError, match="at least 2 distinct labels"):
        Vicinity.fit(labels, "soft", kappa=kappa)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("kappa", value) for value in (0.0, -2.0, 1.5, math.nan)],
        *[("m", value) for value in (0.0, -1.0, math.inf, math.nan)],
        *[("sigma", value) for value in (-0.1, 1.5, math.nan)],
    ],
)
def test_settings_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must .* got {value}$"):
        Vicinity.fit(LABELS, "hard", **{name: value})


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="hard or soft, got 'Soft'"):
        Vicinity.fit(LABELS, "Soft")  # type: ignore[arg-type]


# The losses themselves. An "image" is its label and the discriminator a fixed function of image and target,
# so that the double sums of CcGAN's eq. 9 and 10 can be written out; their fakes have labels on a fine grid.

DISTINCT = [0.04, 0.11, 0.20, 0.37, 0.41, 0.58, 0.66, 0.83, 0.97]
FAKE_GRID = [(i + 0.5) / 400 for i in range(400)]
KAPPA = 0.2


def score(image: Tensor, target: Tensor) -> Tensor:
    return 3 * torch.sin(5 * image) + 2 * target * image - target


def minus_log(image: float, target: float, real: bool) -> float:
    """-log D for a real image, -log(1 - D) for a fake one, D = sigmoid(score)."""
    value = 3 * math.sin(5 * image) + 2 * target * image - target
    return math.log1p(math.exp(-value if real else value))


def indicator(distance: float) -> float:
    return float(abs(distance) <= KAPPA)


def soft_weight(distance: float) -> float:
    weight = math.exp(-((distance / KAPPA) ** 2))
    return weight if weight >= 1e-3 else 0.0


def plain_loss(weight: Callable[[float], float], noise: list[float], normalised: bool) -> float:
    """Mean over targets and noise of the mean loss in the vicinity, for real and fake images.

    Normalised by the sum of weights: eq. 9 (indicator) and 10 (soft). Otherwise by the number of images in
    the window, as the authors' code does, which for the indicator is the same.
    """
    total = 0.0
    for label in DISTINCT:
        for epsilon in noise:
            target = label + epsilon
            for images, real in ((DISTINCT, True), (FAKE_GRID, False)):
                near = [(weight(image - target), image) for image in images if weight(image - target) > 0]
                loss = sum(w * minus_log(image, target, real) for w, image in near)
                total += loss / (sum(w for w, _ in near) if normalised else len(near))
    return total / len(DISTINCT) / len(noise)


def drawn_terms(kind: VicinityKind, sigma: float) -> tuple[VicinalDraw, Tensor, Tensor]:
    vicinity = Vicinity.fit(torch.tensor(DISTINCT), kind, sigma=sigma, kappa=KAPPA)
    draw = vicinity.draw(400_000, rng(9, kind))
    real = score(torch.tensor(DISTINCT)[draw.real_index], draw.target)
    return draw, real, score(draw.fake_label, draw.target)


def loss_of(draw: VicinalDraw, real: Tensor, fake: Tensor) -> float:
    return discriminator_loss("logistic", real, fake, draw.real_weight, draw.fake_weight).item()


@pytest.mark.parametrize(("kind", "weight"), [("hard", indicator), ("soft", soft_weight)])
def test_drawn_loss_expects_the_double_sum_of_the_paper(kind: VicinityKind, weight: Callable[[float], float]) -> None:
    # standard error of the drawn loss about 0.002
    normal = torch.distributions.Normal(0.0, 0.03)
    noise = normal.icdf((torch.arange(20) + 0.5) / 20).tolist()  # 20 equally likely values of epsilon
    for sigma, values in ((0.0, [0.0]), (0.03, noise)):
        expected = plain_loss(weight, values, normalised=kind == "hard")
        assert loss_of(*drawn_terms(kind, sigma)) == pytest.approx(expected, abs=0.008)


def test_soft_draws_divided_by_their_weights_are_the_normalised_svdl() -> None:
    draw, real, fake = drawn_terms("soft", sigma=0.0)
    parts = []
    for target in DISTINCT:
        here = (draw.target - target).abs() < 1e-6
        for scores, weights, real_side in ((real, draw.real_weight, True), (fake, draw.fake_weight, False)):
            terms = torch.nn.functional.softplus(-scores[here] if real_side else scores[here])
            parts.append((weights[here] * terms).mean() / weights[here].mean())
    expected = plain_loss(soft_weight, [0.0], normalised=True)
    assert 2 * torch.stack(parts).mean().item() == pytest.approx(expected, abs=0.01)
    assert abs(plain_loss(soft_weight, [0.0], normalised=False) - expected) > 0.1  # another loss altogether
