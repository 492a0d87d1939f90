import pytest
import torch
from torch import Tensor

from gankd.data.images import LabelledImages
from gankd.data.scarce import scarce
from gankd.errors import ConfigError
from gankd.tasks import Classification, Regression


def labelled(labels: Tensor, task: Classification | Regression) -> LabelledImages:
    """Images that bear their own number in their first three pixels."""
    number = torch.arange(len(labels))
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1], images[:, 0, 1, 0] = (
        number % 256,
        number // 256 % 256,
        number // 65536,
    )
    return LabelledImages(images, labels, task)


def classes(*counts: int) -> LabelledImages:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labelled(labels, Classification(num_classes=len(counts)))


def values(labels: Tensor, low: float = 0.0, high: float = 60.0) -> LabelledImages:
    return labelled(labels.float(), Regression(low=low, high=high))


def numbers(data: LabelledImages) -> list[int]:
    """Which images these are."""
    first, second, third, _ = data.images.flatten(1).int().unbind(1)
    return (first + 256 * second + 65536 * third).tolist()


def test_nothing_asked_nothing_changed() -> None:
    train = classes(5, 7, 9)
    assert scarce(train).fingerprint() == train.fingerprint()


@pytest.mark.parametrize("kept", [4, 12, 40, 80])
def test_equal_classes_stay_equal(kept: int) -> None:
    few = scarce(classes(20, 20, 20, 20), num_train=kept)
    assert few.labels.bincount().tolist() == [kept // 4] * 4


def test_any_number_is_stratified() -> None:
    counts = torch.tensor([50, 30, 5, 1])
    train = classes(*counts.tolist())
    for kept in range(1, 87):
        found = scarce(train, num_train=kept).labels.bincount(minlength=4)
        assert found.sum() == kept
        # No class took its last image while another had a smaller share.
        before, now = (found - 1) / counts, found / counts
        assert before.max() <= now.min() + 1e-6


@pytest.mark.parametrize("task", ["classes", "values"])
def test_nested(task: str) -> None:
    train = classes(40, 25, 10) if task == "classes" else values(60 * torch.rand(75))
    kept = [set(numbers(scarce(train, num_train=n, seed=3))) for n in (5, 20, 50, 75)]
    assert [len(part) for part in kept] == [5, 20, 50, 75]
    assert kept[0] < kept[1] < kept[2] < kept[3]
    assert set(numbers(scarce(train, num_train=20, seed=4))) != kept[1]


def test_images_keep_pixels_labels_and_order() -> None:
    train = values(60 * torch.rand(300, generator=torch.Generator().manual_seed(0)))
    few = scarce(train, num_train=40)
    which = numbers(few)
    assert which == sorted(which)
    assert torch.equal(few.images, train.images[which])
    assert torch.equal(few.labels, train.labels[which])
    assert few.task == train.task


def test_per_label_of_classes() -> None:
    train = classes(20, 3, 8)
    assert scarce(train, per_label=5).labels.bincount().tolist() == [5, 3, 5]
    assert set(numbers(scarce(train, per_label=2))) < set(numbers(scarce(train, per_label=5)))


@pytest.mark.parametrize(("images", "kept"), [(10, 4), (2, 1)])
def test_per_label_of_repeated_values_counts_each_value(images: int, kept: int) -> None:
    angles = torch.tensor([0.1, 0.3, 0.3001, 59.0]).repeat_interleave(images)  # three in one group of the task
    few = scarce(values(angles), per_label=kept)
    assert few.labels.unique(return_counts=True)[1].tolist() == [kept] * 4


def test_per_label_of_continuous_values_counts_groups() -> None:
    train = values(torch.linspace(0, 60, 240))
    assert train.task.groups(scarce(train, per_label=4).labels).bincount().tolist() == [4] * 12


def test_per_label_comes_before_num_train() -> None:
    few = scarce(classes(100, 10, 10), per_label=10, num_train=15)
    assert few.labels.bincount().tolist() == [5, 5, 5]


@pytest.mark.parametrize(("share", "kept", "wrong"), [(0.0, 300, 0), (0.1, 300, 30), (0.25, 50, 13), (1.0, 90, 90)])
def test_share_of_wrong_classes(share: float, kept: int, wrong: int) -> None:
    train = classes(100, 150, 50)
    noisy = scarce(train, num_train=kept, label_noise=share)
    which = numbers(noisy)
    assert len(which) == kept
    assert torch.equal(noisy.images, train.images[which])
    assert int((noisy.labels != train.labels[which]).sum()) == wrong
    assert which == numbers(scarce(train, num_train=kept))  # noise does not choose the images


def test_wrong_classes_are_uniform_over_the_others() -> None:
    train = classes(*[4000] * 5)
    noisy = scarce(train, label_noise=0.5)
    moves = torch.zeros(5, 5)
    moves.index_put_((train.labels, noisy.labels), torch.ones(20_000), accumulate=True)
    assert (moves.diagonal() / 4000 - 0.5).abs().max() < 5 * (0.25 / 4000) ** 0.5
    others = moves[~torch.eye(5, dtype=torch.bool)] / 4000
    assert (others - 0.125).abs().max() < 5 * (0.125 * 0.875 / 4000) ** 0.5


def test_a_wrong_label_stays_the_same_wrong_label() -> None:
    train = classes(200, 200, 200)
    small, large = (scarce(train, num_train=n, label_noise=0.3) for n in (300, 600))
    of_large = dict(zip(numbers(large), large.labels.tolist(), strict=True))
    same = [of_large[n] == label for n, label in zip(numbers(small), small.labels.tolist(), strict=True)]
    assert sum(same) / 300 > 0.9  # independent noise: 0.7 * 0.7 + 0.3 * 0.3 / 2 = 0.54


def test_noise_of_values() -> None:
    train = values(torch.full((20_000,), 30.0).index_fill(0, torch.tensor([0]), 60.0))
    noisy = scarce(train, label_noise=0.05)  # 5 % of 60 is a standard deviation of 3
    error = (noisy.labels - train.labels)[1:]
    assert abs(error.mean().item()) < 5 * 3 / 20_000**0.5
    assert error.std().item() == pytest.approx(3, abs=5 * 3 / 40_000**0.5)
    assert error.abs().max() < 30  # so nothing was clipped here
    assert torch.equal(noisy.images, train.images)
    small = scarce(train, num_train=100, label_noise=0.05)
    assert torch.equal(small.labels, noisy.labels[numbers(small)])


def test_noise_of_values_is_clipped_to_the_range() -> None:
    train = values(torch.tensor([-10.0, 60.0]).repeat(500), low=-10)
    noisy = scarce(train, label_noise=0.2)
    assert noisy.labels.min() == -10
    assert noisy.labels.max() == 60
    inside = (noisy.labels > -10) & (noisy.labels < 60)
    assert 400 < int(inside.sum()) < 600  # half of the noise points inwards


def test_seed() -> None:
    train = classes(50, 50)
    first, again, other = (scarce(train, num_train=30, label_noise=0.2, seed=seed) for seed in (1, 1, 2))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    noisy = [scarce(train, label_noise=0.2, seed=seed).labels for seed in (1, 2)]
    assert not torch.equal(*noisy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": 0}, "at least 1, got 0"),
        ({"num_train": -3}, "at least 1, got -3"),
        ({"num_train": 31}, "num_train is 31, but there are 30 training images"),
        (
            {"num_train": 20, "per_label": 5},
            "num_train is 20, but there are 10 training images with per_label 5",
        ),
        ({"per_label": 0}, "at least 1, got 0"),
        ({"per_label": 21}, "per_label is 21, but no label has more than 20 training images"),
        ({"label_noise": -0.1}, r"must lie in \[0, 1\], got -0.1"),
        ({"label_noise": 1.5}, r"must lie in \[0, 1\], got 1.5"),
        ({"label_noise": float("nan")}, "got nan"),
    ],
)
def test_more_than_there_is(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scarce(classes(20, 10), **options)  # type: ignore[arg-type]


def test_tail_falls_exponentially_from_first_to_last_class() -> None:
    few = scarce(classes(100, 100, 100, 100, 100), tail=16.0)
    assert few.labels.bincount().tolist() == [100, 50, 25, 12, 6]  # 100 * 16^(-k/4), 12.5 and 6.25 rounded


def test_tail_keeps_one_image_of_every_class_and_is_nested() -> None:
    train = classes(9, 4, 2)
    kept = [set(numbers(scarce(train, tail=tail, seed=1))) for tail in (1e6, 50.0, 3.0, 1.0)]
    assert all(set(train.labels[list(part)].tolist()) == {0, 1, 2} for part in kept)
    assert kept[0] <= kept[1] <= kept[2] <= kept[3]
    assert len(kept[3]) == 15


def test_gap_leaves_out_the_labels_between() -> None:
    years = torch.arange(1, 61).repeat_interleave(3)
    assert scarce(values(years), gap=4).labels.unique().tolist() == list(range(1, 61, 4))
    assert len(scarce(values(years), gap=4)) == 3 * 15


def test_gap_of_values_that_hardly_repeat_cuts_the_range() -> None:
    angles = torch.linspace(0, 60, 481)
    kept = scarce(values(angles), gap=2).labels
    part = (kept / 60 * 48).long().clamp_max(47)  # 48 parts, each of 10 labels
    assert set(part.tolist()) == set(range(0, 48, 2))
    assert scarce(values(angles), gap=8, num_train=12).labels.shape == (12,)


@pytest.mark.parametrize(("settings", "said"), [({"tail": 0.5}, "tail"), ({"gap": 0}, "gap"), ({"gap": 2}, "classes")])
def test_tail_and_gap_out_of_range(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        scarce(classes(5, 5), **settings)  # type: ignore[arg-type]
