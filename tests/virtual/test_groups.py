"""Groups of rows: the share that the label explains, and random halves."""

import pytest
import torch

from gankd.seeds import rng
from gankd.virtual.groups import Groups


def test_share_that_the_label_explains() -> None:
    labels = torch.arange(500).repeat_interleave(4)
    noise = torch.randn(2000, 3, generator=rng(0, "x"), dtype=torch.float64)
    groups = Groups(labels, 500, 3)
    assert groups.label_share(noise)[1] == pytest.approx(0, abs=0.03)  # the plain ratio would be 1/4
    means = torch.randn(500, 3, generator=rng(0, "m"), dtype=torch.float64)[labels]
    between, share = groups.label_share(noise + means)
    assert between == pytest.approx(3, rel=0.1)
    assert share == pytest.approx(0.5, abs=0.03)
    assert groups.label_share(means)[1] == pytest.approx(1)


def test_halves_are_disjoint_of_one_size_and_of_the_right_group() -> None:
    labels = torch.tensor([3, 0, 0, 1, 1, 1, 1, 1, 3, 3, 0, 0, 0, 3, 3])  # five, five, none and five; class 4 of none
    labels = torch.cat([labels, torch.tensor([2, 2, 2]), torch.full((600,), 4)])
    groups = Groups(labels, 6, 7)
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
