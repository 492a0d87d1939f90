"""Labels of several values: with one output they are what one value is, and the order of outputs does not matter."""

import json

import pytest
import torch
from torch import Tensor

from gankd.errors import ConfigError, DataError, ModelError
from gankd.seeds import rng
from gankd.tasks import Regression, VectorRegression, task_from_dict, task_to_dict

AGES = Regression(low=20.0, high=60.0, unit="years")
ONE = VectorRegression(names=("age",), outputs=(AGES,))
POSE = VectorRegression(
    names=("x", "y", "turn"),
    outputs=(
        Regression(low=0.0, high=32.0, unit="px"),
        Regression(low=-1.0, high=1.0),
        Regression(low=-90.0, high=90.0, unit="degrees"),
    ),
)


def poses(seed: int, count: int = 200) -> Tensor:
    return POSE.denormalise(torch.rand(count, 3, generator=rng(seed, "poses")))


def permuted(order: list[int]) -> VectorRegression:
    return VectorRegression(
        names=tuple(POSE.names[place] for place in order), outputs=tuple(POSE.outputs[place] for place in order)
    )


def test_one_output_is_the_task_of_one_value() -> None:
    labels = 20 + 40 * torch.rand(300, generator=rng(0, "ages"))
    outputs = labels + torch.randn(300, generator=rng(1, "ages"))
    column = outputs[:, None]
    share = 100 / 40  # per cent of range for a year
    found, expected = ONE.metrics(column, labels[:, None]), AGES.metrics(outputs, labels)
    assert found["mae"] == pytest.approx(share * expected["mae"])
    assert found["rmse"] == pytest.approx(share * expected["rmse"])
    assert found["mae_age"] == pytest.approx(expected["mae"])
    assert ONE.chance(labels[:, None]) == pytest.approx(share * AGES.chance(labels))
    assert ONE.beats_chance(column, labels[:, None])
    assert not ONE.beats_chance(column.flip(0), labels[:, None])
    torch.testing.assert_close(ONE.loss(column, labels[:, None]), AGES.loss(outputs, labels))
    torch.testing.assert_close(ONE.errors(column, labels[:, None]), share * AGES.errors(outputs, labels))
    disagreement = ONE.disagreement(column, labels[:, None])
    torch.testing.assert_close(disagreement, share * AGES.disagreement(outputs, labels))
    torch.testing.assert_close(ONE.adjust(column, labels[:, None], "prediction")[:, 0], AGES.clipped(outputs))
    torch.testing.assert_close(ONE.closeness(labels[:, None]), AGES.closeness(labels), rtol=1e-4, atol=1e-4)
    assert ONE.groups(labels[:, None]).equal(AGES.groups(labels))
    assert (ONE.num_groups, ONE.head_size) == (AGES.num_groups, AGES.head_size)
    assert ONE.labels_from(["20:60:10"], 10).flatten().equal(AGES.labels_from(["20:60:10"], 10))


@pytest.mark.parametrize("order", [[1, 2, 0], [2, 1, 0]])
def test_the_order_of_the_outputs_does_not_matter(order: list[int]) -> None:
    labels, outputs, other = poses(0), poses(1), permuted(order)
    found, expected = other.metrics(outputs[:, order], labels[:, order]), POSE.metrics(outputs, labels)
    assert found == pytest.approx(expected)
    assert other.chance(labels[:, order]) == pytest.approx(POSE.chance(labels))
    for one, two in (
        (other.loss(outputs[:, order], labels[:, order]), POSE.loss(outputs, labels)),
        (other.disagreement(outputs[:, order], labels[:, order]), POSE.disagreement(outputs, labels)),
        (other.closeness(labels[:, order]), POSE.closeness(labels)),
        (other.normalise(labels[:, order]), POSE.normalise(labels)[:, order]),
    ):
        torch.testing.assert_close(one, two)


def test_errors_are_means_over_outputs_in_per_cent_of_their_ranges() -> None:
    labels = torch.zeros(2, 3)
    outputs = torch.tensor([[8.0, 0.0, 18.0], [0.0, -0.5, 0.0]])  # a quarter, a tenth; a quarter
    assert POSE.errors(outputs, labels).tolist() == pytest.approx([(25 + 10) / 3, 25 / 3])
    assert POSE.metrics(outputs, labels) == pytest.approx(
        {
            "mae": (25 + 25 + 10) / 6,
            "rmse": (25 + 25 + 10) / 2**0.5 / 3,
            "mae_x": 4.0,
            "mae_y": 0.25,
            "mae_turn": 9.0,
        }
    )
    assert POSE.loss(outputs, labels).tolist() == pytest.approx([(0.25**2 + 0.1**2) / 3, 0.25**2 / 3])


def test_chance_is_the_constant_guess_of_each_output() -> None:
    labels = poses(2, 301)
    median = labels.median(0).values.expand_as(labels)
    assert POSE.chance(labels) == pytest.approx(POSE.metrics(median, labels)["mae"])
    assert not POSE.beats_chance(median, labels)


def test_groups_are_boxes_that_cover_everything_once() -> None:
    labels = poses(3, 4000)
    groups = POSE.groups(labels)
    assert groups.unique().tolist() == list(range(POSE.num_groups)) == list(range(8))
    assert POSE.group_name(0) == "x 0 to 16, y -1 to 0, turn -90 to 0"
    assert POSE.group_name(5) == "x 16 to 32, y -1 to 0, turn 0 to 90"
    inside = labels[groups == 5]
    assert inside[:, 0].min() >= 16
    assert inside[:, 1].max() <= 0
    assert inside[:, 2].min() >= 0
    assert sum(POSE.counts(labels)) == len(labels)
    five = VectorRegression(names=tuple("abcde"), outputs=(AGES,) * 5)
    assert (five.num_groups, five.group_name(0)) == (1, "all labels")


def test_labels_that_are_neither_in_range_nor_of_the_right_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"^y: label 3 is outside \[-1, 1\]"):
        POSE.check_labels(torch.tensor([[1.0, 3.0, 0.0]]))
    with pytest.raises(DataError, match=r"labels must be \(N, 3\)"):
        POSE.check_labels(torch.zeros(3))
    with pytest.raises(ModelError, match=r"regression of x, y, turn needs \(4, 3\) values"):
        POSE.check_outputs(torch.zeros(4), 4, "the network")
    with pytest.raises(ConfigError, match="one name for each of its 1 outputs"):
        VectorRegression(names=("a", "b"), outputs=(AGES,))


def test_labels_typed_by_a_person() -> None:
    found = POSE.labels_from(["8", "0", "45", "16", "-1:1:1", "0"], 100)
    assert found.tolist() == [[8, 0, 45], [16, -1, 0], [16, 0, 0], [16, 1, 0]]
    with pytest.raises(ConfigError, match=r"3 values \(x, y, turn\), got 2: 8,0"):
        POSE.labels_from(["8", "0"], 100)
    with pytest.raises(ConfigError, match=r"2 is outside \[-1, 1\]"):
        POSE.labels_from(["8", "2", "0"], 100)
    with pytest.raises(ConfigError, match="more than 100 labels"):
        POSE.labels_from(["0:32:1", "-1:1:0.1", "0"], 100)


def test_a_stored_task_is_the_same_and_one_value_is_stored_as_before() -> None:
    for task in (POSE, ONE, AGES):
        assert task_from_dict(json.loads(json.dumps(task_to_dict(task)))) == task
    assert task_to_dict(AGES) == {"kind": "regression", "low": 20.0, "high": 60.0, "unit": "years"}
    assert repr(AGES) == "Regression(low=20.0, high=60.0, unit='years')"  # part of fingerprints


def test_unseen_labels_stay_near_those_that_occur() -> None:
    """Outputs that always agree go on to agree: a draw from the box of both ranges would not."""
    base = torch.rand(500, generator=rng(4, "diagonal"))
    task = VectorRegression(names=("a", "b"), outputs=(Regression(low=0.0, high=1.0), Regression(low=0.0, high=2.0)))
    real = torch.stack([base, 2 * base], 1)
    found = task.sample_labels(1000, real, "uniform", rng(5, "labels"))
    assert not torch.isin(found[:, 0], base).all()
    assert (found[:, 1] - 2 * found[:, 0]).abs().max() < 0.05  # but where the ends of a range cut one of the two off
    for how in ("balanced", "empirical"):
        drawn = task.sample_labels(1000, real, how, rng(6, "labels"))
        torch.testing.assert_close(drawn[:, 1], 2 * drawn[:, 0])
    repeated = torch.cat([real[:1].repeat(5000, 1), real])
    balanced = task.sample_labels(1000, repeated, "balanced", rng(7, "labels"))
    assert (balanced == real[0]).all(1).float().mean() < 0.02


def test_other_units_and_another_order_of_outputs_are_recognised() -> None:
    labels = poses(8)
    wrong = labels[:, [2, 0, 1]] * torch.tensor([torch.pi / 180, 1.0, 100.0])
    errors, cause = POSE.reread(wrong, labels)
    assert errors.max() < 1e-2
    assert "x = 0 + 1 * output 1" in cause
    assert "y = 0 + 0.01 * output 2" in cause
    assert "turn = 0 + 57.2958 * output 0" in cause
    assert POSE.clearly_less(errors, POSE.errors(wrong, labels), labels)


def test_distributions_of_several_values_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"the labels are 3 \(x, y, turn\).*--label x"):
        POSE.distribution_size(50)
