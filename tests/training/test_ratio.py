import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import spearmanr
from torch import Tensor

from gankd.errors import ConfigError, DataError, ModelError
from gankd.runs import Stage
from gankd.subsampling.ratio_net import DensityRatio
from gankd.tasks import Classification, Regression
from gankd.training.ratio import RatioConfig, published_ratio, train_ratio
from gankd.training.ratio_calibration import area_under_curve, platt
from gankd.training.ratio_pairs import ByLabel, Pairs, held_out

CLASSES = Classification(num_classes=3)
ANGLES = Regression(low=0, high=10)
FAST = RatioConfig(hidden=(64, 32), lr=5e-3, epochs=30, patience=10, batch_size=128, dropout=(0.0, 0.2))
CENTRES = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
SHIFT = torch.tensor([1.0, -0.5])


def normal(count: int, seed: int) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))


def gaussians(count: int, seed: int, shift: float) -> tuple[Tensor, Tensor]:
    """Class c is N(centre_c + shift SHIFT, 1)."""
    labels = torch.arange(count) % 3
    return CENTRES[labels] + shift * SHIFT + normal(count, seed), labels


def true_log_ratio(features: Tensor, labels: Tensor) -> Tensor:
    """log N(x; m, 1) / N(x; m + SHIFT, 1) by hand: -SHIFT (x - m) + |SHIFT|^2 / 2."""
    return -((features - CENTRES[labels]) @ SHIFT) + SHIFT.square().sum() / 2


@pytest.mark.parametrize(
    "config",
    [
        FAST,
        replace(FAST, loss="softplus"),
        replace(FAST, loss="softplus", head="softplus"),
        replace(FAST, loss="ulsif"),
    ],
    ids=["logistic", "softplus", "softplus-head", "ulsif"],
)
def test_ratio_of_known_gaussians_is_found(config: RatioConfig) -> None:
    ratio = train_ratio(*gaussians(1800, 1, 0), *gaussians(1800, 2, 1), CLASSES, config, seed=0)
    features, labels = gaussians(3000, 3, 1)
    scores, truth = ratio.log_ratio(features, labels), true_log_ratio(features, labels)
    assert spearmanr(scores, truth).statistic > 0.9
    assert scores.exp().mean().item() == pytest.approx(1, abs=0.2)  # 600 fakes centre it: s.e. 0.065
    assert (scores - truth).abs().mean() < 0.45  # of ratio 1 for all: 1.03
    facts = ratio.facts
    # Two unit normals whose means lie d = |SHIFT| apart: AUC = Phi(d / sqrt 2), here Phi(0.79) = 0.785.
    assert facts["auc"] == pytest.approx(0.785, abs=0.03)
    assert facts["mean_ratio_fake"] == pytest.approx(1, abs=0.15)
    assert facts["mean_inverse_ratio_real"] == pytest.approx(1, abs=0.6)  # of r instead of 1 / r: 3.5
    assert facts["slope"] == pytest.approx(1, abs=0.6)
    assert facts["advice"] == ""
    assert not ratio.training


def test_alike_sets_give_ratio_one_and_the_advice_to_skip_subsampling() -> None:
    # Labels are unlike on purpose (200 to 1600 fakes of a class): p(x given y) is alike, so nothing may show.
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([200, 600, 1600]))
    fake = CENTRES[labels] + normal(2400, 2)
    ratio = train_ratio(*gaussians(2400, 1, 0), fake, labels, CLASSES, FAST, seed=0)
    assert float(ratio.facts["auc"]) < 0.53
    assert "nothing to gain" in str(ratio.facts["advice"])
    assert ratio.log_ratio(*gaussians(1000, 3, 0)).abs().mean() < 0.15


def test_scalar_labels_alone_tell_nothing() -> None:
    # Real labels are whole numbers, mostly small, fakes' are spread evenly; features depend on labels in one way.
    real_labels = (10 * torch.rand(1200, generator=torch.Generator().manual_seed(4)) ** 2).round()
    fake_labels = 10 * torch.rand(1200, generator=torch.Generator().manual_seed(5))

    def features(labels: Tensor, seed: int, shift: float = 0.0) -> Tensor:
        return torch.stack([labels.sin(), labels.cos()], 1) + 0.5 * normal(len(labels), seed) + shift * SHIFT / 2

    alike = train_ratio(
        features(real_labels, 6), real_labels, features(fake_labels, 7), fake_labels, ANGLES, FAST, seed=0
    )
    assert float(alike.facts["auc"]) < 0.55
    shifted = features(fake_labels, 7, shift=1.0)
    unlike = train_ratio(features(real_labels, 6), real_labels, shifted, fake_labels, ANGLES, FAST, seed=0)
    assert unlike.facts["auc"] == pytest.approx(0.785, abs=0.04)
    truth = -(shifted - torch.stack([fake_labels.sin(), fake_labels.cos()], 1)) @ SHIFT * 2
    assert spearmanr(unlike.log_ratio(shifted, fake_labels), truth).statistic > 0.85


def test_sets_apart_give_the_advice_that_ratios_are_unreliable() -> None:
    ratio = train_ratio(*gaussians(300, 1, 0), *gaussians(300, 2, 20), CLASSES, replace(FAST, epochs=5), seed=0)
    assert float(ratio.facts["auc"]) > 0.98
    assert "too weak" in str(ratio.facts["advice"])


def test_each_groups_fakes_have_mean_ratio_one() -> None:
    # Fakes of class 2 are another, wider law, whose ratios a single constant would not centre.
    labels = torch.arange(6000) % 3
    fake = CENTRES[labels] + normal(6000, 2) * torch.tensor([1.0, 1.2, 2.0])[labels, None]
    ratio = train_ratio(*gaussians(1200, 1, 0), fake, labels, CLASSES, replace(FAST, epochs=10), seed=0)
    late = held_out(labels, FAST.held_out, 0, "fake")
    scores = ratio.log_ratio(fake[late], labels[late]).exp()
    for label in range(3):
        assert scores[labels[late] == label].mean().item() == pytest.approx(1, abs=0.02)  # shrinkage: 20 of 500


def test_an_uncalibrated_ratio_is_what_the_network_gives() -> None:
    config = replace(FAST, epochs=3, calibrated=False, loss="softplus")
    ratio = train_ratio(*gaussians(600, 1, 0), *gaussians(600, 2, 2), CLASSES, config, seed=0)
    features, labels = gaussians(90, 3, 1)
    with torch.no_grad():
        expected = ratio.net(ratio.standardise(features), labels).clamp(math.exp(-8), math.exp(8))
    torch.testing.assert_close(ratio.log_ratio(features, labels).exp(), expected)
    usual = train_ratio(*gaussians(600, 1, 0), *gaussians(600, 2, 2), CLASSES, replace(config, calibrated=True), seed=0)
    assert (usual.log_ratio(features, labels).exp() - expected).abs().max() > 0.01


def test_same_seed_same_ratio_and_the_global_generator_is_left_alone() -> None:
    data = (*gaussians(300, 1, 0), *gaussians(300, 2, 1), CLASSES, replace(FAST, epochs=3))
    before = torch.random.get_rng_state()
    first = train_ratio(*data, 7).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(123)
    again, other = train_ratio(*data, 7).state_dict(), train_ratio(*data, 8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["net.out.weight"], other["net.out.weight"])


@pytest.mark.parametrize("stop", [1, 7, 13])
def test_interrupted_training_ends_as_the_uninterrupted_one(tmp_path: Path, stop: int) -> None:
    class Killed(Exception):
        pass

    class Mortal(Stage):
        def report(self, images: int, **terms: Tensor) -> None:
            super().report(images, **terms)
            if self._step == stop:
                raise Killed

    data = (*gaussians(300, 1, 0), *gaussians(300, 2, 1), CLASSES, replace(FAST, epochs=9, patience=2))
    whole = train_ratio(*data, 7)
    with pytest.raises(Killed):
        train_ratio(*data, 7, Mortal("ratio", tmp_path, checkpoint_seconds=0))
    resumed = train_ratio(*data, 7, Stage("ratio", tmp_path))
    assert whole.facts == resumed.facts
    state: dict[str, Any] = whole.state_dict()
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in state.items())


def test_pairs_share_labels_and_groups_come_evenly() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randint(3, (500,), generator=generator), torch.randint(1, 4, (700,), generator=generator)
    four = Classification(num_classes=4)
    use = torch.rand(500, generator=generator) < 0.8
    pairs = Pairs(four, real, fake, use, torch.ones(700, dtype=torch.bool))
    r, f = pairs.draw(1000, generator)
    assert torch.equal(real[r], fake[f])
    assert use[r].all()
    assert real[r].bincount(minlength=4).tolist() == [0, 500, 500, 0]  # the classes that both have
    assert len(r.unique()) > 0.9 * (use & (real > 0)).sum()


def test_scalar_pairs_are_neighbours_within_their_bin() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = 10 * torch.rand(400, generator=generator), 10 * torch.rand(4000, generator=generator)
    everything = torch.ones(4000, dtype=torch.bool)
    pairs = Pairs(ANGLES, real, fake, everything[:400], everything)
    r, f = pairs.draw(4096, generator)
    assert torch.equal(ANGLES.groups(real[r]), ANGLES.groups(fake[f]))
    assert (real[r] - fake[f]).abs().max() < 0.1  # 16 of 4000 on a range of 10 is 0.04
    assert (real[r] - fake[f]).mean().abs() < 0.002
    ages = torch.tensor([1.0, 1, 5, 5, 5, 9])
    r, f = Pairs(ANGLES, ages, ages.repeat(40), everything[:6], everything[:240]).draw(600, generator)
    assert torch.equal(ages[r], ages.repeat(40)[f])  # enough fakes of equal label: no neighbours needed


def test_held_out_takes_its_share_of_each_group() -> None:
    groups = torch.repeat_interleave(torch.arange(4), torch.tensor([1, 2, 10, 1000]))
    late = held_out(groups, 0.25, 0, "real")
    assert [int(late[groups == group].sum()) for group in range(4)] == [0, 1, 2, 250]
    assert not torch.equal(late, held_out(groups, 0.25, 1, "real"))


def test_platt_undoes_a_linear_distortion() -> None:
    generator = torch.Generator().manual_seed(0)
    fake, real = torch.randn(2, 100_000, generator=generator, dtype=torch.float64)
    # N(0.8, 1) against N(0, 1): the log-ratio is 0.8 x - 0.32.
    scores = [3 * (0.8 * x - 0.32) + 1 for x in (fake, real + 0.8)]
    slope, offset = platt(*scores)
    assert slope == pytest.approx(1 / 3, abs=0.01)
    assert offset == pytest.approx(-1 / 3, abs=0.02)


@pytest.mark.parametrize("prior", [0.0, 0.3])
def test_platt_finds_the_minimum_of_its_loss(prior: float) -> None:
    generator = torch.Generator().manual_seed(0)
    fake, real = (torch.randn(n, generator=generator, dtype=torch.float64) * 2 for n in (300, 50))
    real += 1

    def loss(at: Any) -> float:
        slope, offset = map(float, at)
        data = torch.log1p((slope * fake + offset).exp()).mean() + torch.log1p((-slope * real - offset).exp()).mean()
        return data.item() / 2 + prior / 2 * ((slope - 1) ** 2 + offset**2)

    expected = minimize(loss, [1, 0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-14}).x
    assert platt(fake, real, prior) == pytest.approx(tuple(expected), abs=1e-5)


def test_platt_of_useless_scores_is_ratio_one_and_of_separable_scores_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    fake, real = torch.randn(2, 1000, generator=generator)
    assert platt(fake + 1, real - 1) == (0.0, 0.0)
    slope, offset = platt(fake.clamp_max(2) - 3, real.clamp_min(-2) + 3, prior=0.01)
    assert 1 < slope < 20
    assert abs(offset) < 5


def test_area_under_the_curve_counts_pairs() -> None:
    fake, real = torch.tensor([0.0, 1.0, 1.0, 2.0]), torch.tensor([1.0, 3.0, 0.0])
    pairs = [(r > f) + 0.5 * (r == f) for r in real.tolist() for f in fake.tolist()]
    assert area_under_curve(fake, real) == pytest.approx(sum(pairs) / len(pairs))


def test_published_settings() -> None:
    config = published_ratio()
    assert (config.output, config.penalty, config.batch_size, config.epochs) == ("relu", 0.01, 256, 200)
    net = DensityRatio(CLASSES, 12, config.hidden, config.output).net
    assert [layer.out_features for layer in net.layers] == [2048, 1024, 512, 256, 128]


def test_the_learning_rate_falls_after_the_named_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    def step(optimizer: torch.optim.Adam, *args: Any) -> None:
        rates.append(optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    config = replace(FAST, epochs=10, lr=0.01, decay_at=(0.4, 0.8), patience=10, batch_size=256)
    train_ratio(*gaussians(600, 1, 0), *gaussians(600, 2, 1), CLASSES, config, 0)
    drops = [round(share * 10) for share in (0.4, 0.8)]  # two batches of the 450 that train make an epoch
    assert rates == [0.01 * 0.1 ** sum(step // 2 >= drop for drop in drops) for step in range(20)]  # bit for bit
    assert rates == pytest.approx([0.01] * 8 + [0.001] * 8 + [0.0001] * 4)


def test_the_last_epoch_is_kept_where_that_is_asked_for() -> None:
    few = (*gaussians(60, 1, 0), *gaussians(60, 2, 0.3))
    config = replace(FAST, epochs=40, patience=3)
    best, last = (train_ratio(*few, CLASSES, replace(config, keep=keep), 0).facts for keep in ("best", "last"))
    assert float(best["epoch"]) < 40 == last["epoch"]
    assert float(best["held_out_loss"]) < float(last["held_out_loss"])


def test_what_cannot_be_used_is_refused_in_one_line() -> None:
    real, fake = gaussians(30, 1, 0), gaussians(30, 2, 1)
    with pytest.raises(ConfigError, match="needs head=log"):
        RatioConfig(loss="logistic", head="relu")
    with pytest.raises(ConfigError, match="ratio.decay_at must be rising"):
        RatioConfig(decay_at=(0.5, 0.2))
    with pytest.raises(ConfigError, match="held_out"):
        RatioConfig(held_out=0.0)
    with pytest.raises(ModelError, match="same width"):
        train_ratio(*real, fake[0][:, :1], fake[1], CLASSES, FAST, 0)
    with pytest.raises(ModelError, match="with N labels"):
        train_ratio(real[0], real[1][:5], *fake, CLASSES, FAST, 0)
    broken = fake[0].clone()
    broken[3, 1] = torch.nan
    with pytest.raises(DataError, match="1 of 30 fake"):
        train_ratio(*real, broken, fake[1], CLASSES, FAST, 0)
    with pytest.raises(DataError, match="at least 2 real and 2 fake"):
        train_ratio(real[0][::3], real[1][::3], fake[0][1::3], fake[1][1::3], CLASSES, FAST, 0)


def test_a_penalty_is_applied_or_refused() -> None:
    with pytest.raises(ConfigError, match="penalty is for loss=softplus and ulsif, got 0.1 with logistic"):
        RatioConfig(penalty=0.1)
    assert RatioConfig(loss="ulsif").identity["penalised"]  # earlier results ignored it
    assert "penalised" not in RatioConfig().identity


def test_each_label_is_drawn_as_often_whatever_its_samples() -> None:
    labels = torch.tensor([5.0, 1.0, 5.0, 5.0, 9.0, 1.0, 2.0])
    use = torch.tensor([True, True, True, True, True, False, False])  # label 2 is left out
    drawn = ByLabel(labels, use).draw(3000, torch.Generator().manual_seed(0))
    assert {int(index): int(count) for index, count in zip(*drawn.unique(return_counts=True), strict=True)}.keys() == {
        0,
        1,
        2,
        3,
        4,
    }
    assert labels[drawn].unique(return_counts=True)[1].tolist() == [1000, 1000, 1000]
    assert drawn[labels[drawn] == 5].unique(return_counts=True)[1].min() > 250  # of 1000 for three samples


def test_labels_of_two_values_are_drawn_evenly() -> None:
    labels = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 1.0], [3.0, 1.0]])
    drawn = ByLabel(labels, torch.ones(4, dtype=torch.bool)).draw(300, torch.Generator().manual_seed(0))
    assert [int((drawn == index).sum()) for index in (1, 3)] == [100, 100]


@pytest.mark.parametrize("loss", ["logistic", "softplus"])
def test_new_samples_at_every_step_find_the_ratio_too(loss: Any) -> None:
    seen = []

    def fresh(labels: Tensor, step: int) -> Tensor:
        seen.append(step)
        return CENTRES[labels] + SHIFT + normal(len(labels), 1000 + step)

    config = replace(FAST, loss=loss, fresh=True)
    ratio = train_ratio(*gaussians(1800, 1, 0), *gaussians(1800, 2, 1), CLASSES, config, seed=0, fresh=fresh)
    features, labels = gaussians(3000, 3, 1)
    scores, truth = ratio.log_ratio(features, labels), true_log_ratio(features, labels)
    assert spearmanr(scores, truth).statistic > 0.9
    assert seen == list(range(len(seen)))
    assert len(seen) > 100


def test_drawn_once_the_fitted_samples_are_the_given_ones_alone() -> None:
    assert "fresh" not in RatioConfig().identity  # of stages from before there was a choice
    assert RatioConfig(fresh=True).identity["fresh"] is True
    with pytest.raises(ConfigError, match="fresh"):
        train_ratio(*gaussians(90, 1, 0), *gaussians(90, 2, 1), CLASSES, replace(FAST, fresh=True), seed=0)
