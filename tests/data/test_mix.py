"""Mixing: identity, closed forms of images and labels, areas of boxes, and the laws of shares and partners."""

import pytest
import torch
from torch import Tensor

from gankd.config import override
from gankd.data.mix import check_mix, draw_partners, draw_shares, mix, mixed, pixel_weights
from gankd.errors import ConfigError
from gankd.seeds import rng
from gankd.tasks import Classification, Regression, Task
from gankd.training.supervised import SupervisedConfig

CLASSES = Classification(num_classes=3)
AGES = Regression(low=20.0, high=60.0)
TASKS: list[Task] = [CLASSES, AGES]
COUNT = 64
IMAGES = torch.rand((COUNT, 3, 16, 16), generator=rng(0, "images"))
PARTNER = torch.arange(COUNT).roll(1)


def labels_of(task: Task) -> Tensor:
    share = torch.rand(COUNT, generator=rng(0, "labels"))
    return task.mixable(task.denormalise(share) if isinstance(task, Regression) else (share * 3).long())


def weights_of(share: Tensor, *, cut: bool, size: tuple[int, int] = (16, 16)) -> Tensor:
    x, y = torch.rand((2, len(share)), generator=rng(0, "places"))
    return pixel_weights(share, torch.full((len(share),), cut), size, x, y)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_all_of_the_share_is_the_identity_and_none_is_the_partner(task: Task, cut: bool) -> None:
    labels = labels_of(task)
    for share, rows in ((1.0, torch.arange(COUNT)), (0.0, PARTNER)):
        weights = weights_of(torch.full((COUNT,), share), cut=cut)
        found = mixed(IMAGES, labels, PARTNER, weights)
        assert torch.equal(found[0], IMAGES[rows])
        assert torch.equal(found[1], labels[rows])


@pytest.mark.parametrize("task", TASKS)
def test_mixup_by_formula(task: Task) -> None:
    labels, share = labels_of(task), torch.rand(COUNT, generator=rng(0, "share"))
    stored = (IMAGES * 255).to(torch.uint8)
    images, found = mixed(stored, labels, PARTNER, weights_of(share, cut=False))
    for row in range(COUNT):
        a, b = share[row], 1 - share[row]
        expected = (a * stored[row].float() + b * stored[row - 1].float()) / 255
        torch.testing.assert_close(images[row], expected)
        torch.testing.assert_close(found[row], a * labels[row] + b * labels[row - 1])


def test_the_loss_of_mixed_labels() -> None:
    # classes: the weighted sum of both losses; values: the same up to what does not depend on the outputs
    share = torch.rand(COUNT, generator=rng(0, "share"))
    for task in TASKS:
        labels = labels_of(task)
        outputs = torch.randn(labels.shape, generator=rng(0, "outputs")) * 5 + (0 if task is CLASSES else 40)
        _, found = mixed(IMAGES, labels, PARTNER, weights_of(share, cut=False))
        both = share * task.loss(outputs, labels) + (1 - share) * task.loss(outputs, labels[PARTNER])
        if task is AGES:
            both = both - share * (1 - share) * ((labels - labels[PARTNER]) / 40) ** 2
        torch.testing.assert_close(task.loss(outputs, found), both, rtol=1e-4, atol=1e-5)


def test_area_of_the_cut_is_the_partners_share_up_to_whole_pixels() -> None:
    share = torch.rand(2000, generator=rng(0, "share"))
    weights = weights_of(share, cut=True, size=(32, 16))[:, 0]
    assert set(weights.unique().tolist()) == {0.0, 1.0}
    inside = weights == 0
    side = (1 - share).sqrt()
    area = (32 * side).round() * (16 * side).round()
    assert torch.equal(inside.sum((1, 2)), area.long())
    rows, columns = inside.any(2), inside.any(1)  # one full box
    assert torch.equal(rows.sum(1) * columns.sum(1), area.long())
    torch.testing.assert_close(area / 512, 1 - share, atol=0.05, rtol=0)
    # the label has the share that is left, not the one that was drawn
    one = Classification(num_classes=2).mixable(torch.arange(2000) % 2)
    _, labels = mixed(torch.zeros(2000, 1, 32, 16), one, torch.arange(2000).roll(1), weights[:, None])
    torch.testing.assert_close(labels.gather(1, (torch.arange(2000) % 2)[:, None])[:, 0], 1 - area / 512)
    # boxes reach every border
    assert rows[:, 0].any()
    assert rows[:, -1].any()
    assert columns[:, 0].any()
    assert columns[:, -1].any()


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 3.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    share = draw_shares(20000, alpha, rng(0, "beta")).double()
    assert share.isfinite().all()
    assert share.mean().item() == pytest.approx(0.5, abs=0.012)
    assert share.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_partners_of_classes_are_any_other_image() -> None:
    closeness = CLASSES.closeness(torch.zeros(4, 3))
    found = torch.stack([draw_partners(closeness, rng(0, "partner", step)) for step in range(3000)])  # (3000, 4)
    for row in range(4):
        counts = found[:, row].bincount(minlength=4)
        assert counts[row] == 0
        assert all(900 < counts[other] < 1100 for other in range(4) if other != row)


def test_partners_of_values_are_drawn_by_the_kernel_of_c_mixup() -> None:
    labels = torch.tensor([20.0, 22.0, 30.0, 60.0])
    found = torch.stack([draw_partners(AGES.closeness(labels), rng(0, "partner", step)) for step in range(6000)])
    bandwidth = 1.06 * labels.std(correction=0) * 4**-0.2
    for row in range(4):
        kernel = torch.exp(-((labels - labels[row]) ** 2) / (2 * bandwidth**2))
        kernel[row] = 0
        shares = found[:, row].bincount(minlength=4) / 6000
        torch.testing.assert_close(shares, kernel / kernel.sum(), atol=0.025, rtol=0)
    same = torch.full((5,), 30.0)
    assert torch.equal(AGES.closeness(same), torch.zeros(5, 5))
    far = torch.tensor([20.0] * 500 + [60.0])  # a partner even where all others are far away
    assert draw_partners(AGES.closeness(far), rng(0, "far"))[-1] < 500


@pytest.mark.parametrize(("task", "how"), [(CLASSES, "mixup"), (CLASSES, "cutmix"), (CLASSES, "both"), (AGES, "mixup")])
def test_mixing_depends_on_the_generator_only(task: Task, how: str) -> None:
    images, labels = IMAGES.clone(), labels_of(task)
    found = mix(images, labels, task, how, 1.0, rng(0, "mix", 3))  # type: ignore[arg-type]
    again = mix(images, labels, task, how, 1.0, rng(0, "mix", 3))  # type: ignore[arg-type]
    other = mix(images, labels, task, how, 1.0, rng(0, "mix", 4))  # type: ignore[arg-type]
    assert all(torch.equal(x, y) for x, y in zip(found, again, strict=True))
    assert not torch.equal(found[0], other[0])
    assert torch.equal(images, IMAGES)
    assert found[0].min() >= 0
    assert found[0].max() <= 1
    if task is CLASSES:
        torch.testing.assert_close(found[1].sum(1), torch.ones(COUNT))
    # pixels of a cut are those of one of the two images; those of mixup are of neither
    kept = (found[0][:, None] == IMAGES).any(1).all(1).flatten(1).all(1)  # (N,)
    assert {"mixup": kept.sum() == 0, "cutmix": kept.all(), "both": 16 < kept.sum() < 48}[how]


def test_values_are_not_cut() -> None:
    with pytest.raises(ConfigError, match=r"student\.mix=cutmix is not for regression; choose one of none, mixup$"):
        check_mix("cutmix", AGES, "student.")
    check_mix("none", AGES)
    check_mix("both", CLASSES)
    with pytest.raises(ConfigError, match="mix"):
        override(SupervisedConfig(), ["mix=cutout"])
    with pytest.raises(ConfigError, match="mix_alpha must be positive|mix_alpha must lie in"):
        override(SupervisedConfig(), ["mix_alpha=0"])
