"""The vicinity of labels of several values: the nearest ones, as a slow search finds them."""

import pytest
import torch
from torch import Tensor

from gankd.errors import DataError
from gankd.losses.nearest import NearestVicinity
from gankd.losses.vicinal import Vicinity, VicinityKind, kappa_base, sigma_rule_of_thumb
from gankd.seeds import rng
from gankd.tasks.kernel import kernel_root


def labels(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(count, width, generator=rng(seed, "labels"), dtype=torch.float64)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_nearest_labels_equal_a_slow_search(width: int) -> None:
    known, targets = labels(300, width), labels(20, width, 1)
    vicinity = NearestVicinity.fit(known, "soft", m=1.0)
    distance, number = vicinity.nearest(targets)
    for row, target in enumerate(targets):
        far = ((vicinity.distinct - target) ** 2).sum(1).sqrt()
        slow = sorted(range(len(far)), key=lambda place: far[place].item())[:8]
        assert sorted(number[row].tolist()) == sorted(slow)
        torch.testing.assert_close(distance[row], far[slow])


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_weights_and_images_are_those_of_the_vicinity(kind: VicinityKind) -> None:
    """Counts of images: an image is as likely as any other of the k nearest labels, however often each occurs."""
    distinct = labels(40, 2)
    known = distinct.repeat_interleave(torch.arange(40) % 3 + 1, 0)
    vicinity = NearestVicinity.fit(known, kind, sigma=0.05, m=0.5)
    draw = vicinity.draw(4000, rng(2, "draw"))
    target = draw.target.double()
    far = (target[:, None] - distinct).norm(dim=2)  # (B, D)
    kappa = far.sort(1).values[:, 3:4]
    for label, weight in ((known[draw.real_index], draw.real_weight), (draw.fake_label.double(), draw.fake_weight)):
        own = (target - label).norm(dim=1, keepdim=True)
        assert (own <= kappa + 1e-6).all()
        expected = torch.ones_like(own) if kind == "hard" else (-((own / kappa) ** 2)).exp()
        torch.testing.assert_close(weight, expected[:, 0].float(), rtol=1e-4, atol=1e-4)
    share = torch.zeros(len(known), dtype=torch.float64)  # expected number of draws of each image
    near = (known[None] - target[:, None]).norm(dim=2) <= kappa + 1e-9
    share += (near / near.sum(1, keepdim=True)).sum(0)
    counts = draw.real_index.bincount(minlength=len(known))
    assert ((counts - share).abs() < 5 * share.sqrt() + 1).all()


def test_one_value_has_the_window_and_weights_of_the_scalar_vicinity() -> None:
    known = labels(200, 1)
    near = NearestVicinity.fit(known, "soft", sigma=0.0, m=1.0)
    for target in labels(10, 1, 3):
        distance, number = near.nearest(target[None])
        kappa = distance[0, -1].item()
        scalar = Vicinity.fit(known[:, 0], "hard", sigma=0.0, kappa=kappa)
        first, last = scalar.window(target)
        assert sorted(near.distinct[number[0], 0].tolist()) == scalar.labels[first:last].tolist()
        soft = Vicinity.fit(known[:, 0], "soft", sigma=0.0, kappa=kappa)
        torch.testing.assert_close(near._weight(distance.T, torch.tensor([[kappa]])), soft._weight(distance[0]))


def test_noise_of_one_value_has_the_width_of_the_scalar_rule() -> None:
    known = labels(100, 1)
    assert kernel_root(known).item() == pytest.approx(sigma_rule_of_thumb(known[:, 0]))


def test_noise_turns_with_the_labels() -> None:
    """Rotated labels get rotated noise, and outputs that are equal get equal noise."""
    known = labels(50, 3) * torch.tensor([1.0, 0.5, 0.1])
    turn = torch.linalg.qr(torch.randn(3, 3, generator=rng(4, "turn"), dtype=torch.float64)).Q
    torch.testing.assert_close(kernel_root(known @ turn.T), turn @ kernel_root(known) @ turn.T)
    equal = known[:, :1].expand(-1, 2)
    noise = torch.randn(1000, 2, generator=rng(5, "noise"), dtype=torch.float64) @ kernel_root(equal)
    torch.testing.assert_close(noise[:, 0], noise[:, 1])
    covariance = kernel_root(known) @ kernel_root(known)
    torch.testing.assert_close(covariance, (1.06 * 50 ** (-1 / 7)) ** 2 * torch.cov(known.T, correction=0))


def test_the_order_of_the_outputs_does_not_matter() -> None:
    known, targets = labels(300, 3), labels(50, 3, 6)
    order = [2, 0, 1]
    one, two = NearestVicinity.fit(known, "soft"), NearestVicinity.fit(known[:, order], "soft")
    distance, number = one.nearest(targets)
    again, other = two.nearest(targets[:, order])
    torch.testing.assert_close(distance, again)
    torch.testing.assert_close(one.distinct[number][..., order], two.distinct[other])


def test_labels_of_fakes_occur_and_targets_are_balanced() -> None:
    distinct = labels(50, 2)
    vicinity = NearestVicinity.fit(torch.cat([distinct[:1].repeat(5000, 1), distinct]), "soft", sigma=0.0)
    draw = vicinity.draw(2000, rng(7, "draw"))
    assert (torch.cdist(draw.fake_label.double(), distinct).min(1).values < 1e-6).all()
    targets = vicinity.draw_targets(2000, rng(8, "draw")).double()
    assert (targets - distinct[0]).norm(dim=1).lt(1e-6).float().mean() < 0.06


def test_equal_labels_have_no_vicinity() -> None:
    with pytest.raises(DataError, match="all 4 training labels are equal"):
        NearestVicinity.fit(torch.zeros(4, 2), "soft")


def test_the_gap_of_several_values_is_the_largest_distance_to_a_neighbour() -> None:
    known = torch.tensor([[0.0, 0.0], [0.0, 0.1], [0.5, 0.1], [0.5, 0.1]])
    assert kappa_base(known) == pytest.approx(0.5)
